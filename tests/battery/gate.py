"""Stop a task at a named stage: a program that it calls waits until it is released.

Shell scripts stand before the real programs in PATH. Each looks whether its call is the one to stop at. If it is, it
writes its process ID, waits for a lock, and then becomes the real program, so that this has the same process ID.
"""

from __future__ import annotations

import fcntl
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..helpers.programs import write_program

PROGRAMS = ("sqlite3", "sync", "ln", "mv", "rm", "cat", "find", "chmod", "crontab", "sha256sum", "flock", "mkdir", "cp")
WRAPPER = """#!/bin/sh
if read -r program number pattern 2>/dev/null < {gate}/armed && [ "$program" = {name} ]; then
  case "$*" in
    $pattern)
      set -C
      n=1
      until echo "$$" > {gate}/call.$n; do n=$((n + 1)); done 2>/dev/null
      set +C
      if [ "$n" = "$number" ]; then
        echo "$$" > {gate}/waiting
        {mv} -- {gate}/waiting {gate}/reached
        {flock} --shared {gate}/lock true
      fi
      ;;
  esac
fi
exec {program} "$@"
"""


@dataclass(frozen=True)
class Stage:
    """A named stage of a task: the call of a program, with arguments like a pattern of the shell, at which it waits."""

    name: str
    program: str
    pattern: str = "*"
    number: int = 1


class Gate:
    """The gate of a machine: `folder` has its files, `programs` is the directory to put first in PATH."""

    def __init__(self, folder: Path, programs: Path, search_path: str, names: tuple[str, ...] = PROGRAMS) -> None:
        self.folder = folder
        for name in names:
            program = programs / name
            real = program.rename(folder / f"real-{name}") if program.exists() else shutil.which(name, path=search_path)
            if real:
                values = {"gate": folder, "name": name, "program": real}
                quoted = {key: shlex.quote(str(value)) for key, value in values.items()}
                # The wrapper's own programs are the real ones.
                own = {name: shlex.quote(str(shutil.which(name, path=search_path))) for name in ("mv", "flock")}
                write_program(program, WRAPPER.format(**quoted, **own))
        self._lock: IO[bytes] | None = None

    def arm(self, stage: Stage) -> None:
        """Let the next call of this stage wait."""
        self.disarm()
        self._lock = (self.folder / "lock").open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        staged = self.folder / "armed.new"
        staged.write_text(f"{stage.program} {stage.number} {stage.pattern}\n")
        staged.rename(self.folder / "armed")

    def disarm(self) -> None:
        """Let no further call wait, and release the one that waits."""
        for path in self.folder.glob("armed*"):
            path.unlink()
        self.release()
        for path in (self.folder / "reached", *self.folder.glob("call.*")):
            path.unlink(missing_ok=True)

    @property
    def waiting(self) -> int | None:
        """The process that waits; None if none does."""
        try:
            return int((self.folder / "reached").read_text())
        except FileNotFoundError:
            return None

    def release(self) -> None:
        """Release the call that waits, also one that has just decided to wait."""
        if self._lock:
            self._lock.close()
            self._lock = None
