"""A clock of the server that jumps by one day, in the middle of a task.

The maintainer's machine keeps its clock: under libfaketime, time.sleep of Python fails. The kernel keeps the real time
for the files that the server writes: their times are corrected when the task has ended.
"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..integration.clock import LIBRARIES
from .framework import Fault, Injection, Strike
from .machine import DAY, TASKS, Machine, RunningTask
from .moments import Moment, choose_moment
from .mounts import missing_for_mounts

START = "INVOKE_DATABASES_INDEX_START"


def find_library() -> str | None:
    """Return the path of libfaketime; None if it is not installed."""
    return next((str(path) for pattern in LIBRARIES for path in Path("/").glob(pattern.removeprefix("/"))), None)


@dataclass(frozen=True)
class ClockJump:
    """A clock that jumps, and is right again when the task has ended."""

    days: int
    tasks: tuple[str, ...] = TASKS

    @property
    def name(self) -> str:
        """The name of the fault."""
        return f"clock of the server, {self.days:+d} day"

    def missing(self) -> str | None:
        """Say why it cannot be used on this machine."""
        return missing_for_mounts() if find_library() else "not installed: libfaketime"

    @contextlib.contextmanager
    def arrange(self, machine: Machine, task: str, rng: random.Random) -> Iterator[Injection]:
        """Let the processes of the machine read their clock through the library."""
        offset = machine.folder / "clock-offset"
        set_offset(offset, 0)
        variables = {
            "LD_PRELOAD": str(find_library()),
            "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",  # else the times of all files move with the clock
        }
        server_environment = machine.server.folder / "environment"
        injection = ClockInjection(machine, task, self, offset, choose_moment(machine, task, rng))
        server_environment.write_text("".join(f"export {k}={shlex.quote(v)}\n" for k, v in variables.items()))
        if machine.environment[START]:  # the service keeps its clock
            machine.environment[START] = f"unset LD_PRELOAD; {machine.environment[START]}"
        try:
            yield injection
        finally:
            server_environment.unlink(missing_ok=True)
            for path in Path("/dev/shm").glob("*faketime*"):
                path.unlink()


def set_offset(path: Path, days: int) -> None:
    """Set the clock."""
    staged = path.with_suffix(".new")
    staged.write_text(f"{days * DAY:+d}\n")
    staged.rename(path)


@dataclass
class ClockInjection:
    """A clock that jumps in one try."""

    machine: Machine
    task: str
    jump: ClockJump
    offset: Path
    moment: Moment
    _time: float = field(default_factory=time.time)

    def start(self) -> RunningTask:
        """Start the task."""
        self.moment.arm(self.machine)
        if self.moment.is_before:
            self._jump()
        return self.machine.start_task(self.task)

    def strike(self, task: RunningTask) -> Strike:
        """Let the clock jump."""
        hit = self.moment.reach(self.machine, task)
        if not self.moment.is_before:
            self._jump()
        self.machine.gate.disarm()
        return Strike(self.moment.name, hit=hit)

    def repair(self) -> None:
        """Set the clock right, and the times of the files that were written meanwhile to what that clock has shown."""
        set_offset(self.offset, 0)
        for folder in (self.machine.backups, self.machine.server.home):
            for path in folder.rglob("*"):
                self._correct(path)

    def _jump(self) -> None:
        self._time = time.time()
        set_offset(self.offset, self.jump.days)

    def _correct(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            modified = path.lstat().st_mtime
            if modified >= self._time:
                shifted = modified + self.jump.days * DAY
                os.utime(path, (shifted, shifted), follow_symlinks=False)


FAULTS: tuple[Fault, ...] = (ClockJump(1), ClockJump(-1))
