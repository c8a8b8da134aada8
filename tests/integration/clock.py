"""The clock of a private machine, which can differ from this machine's: what runs there reads it through libfaketime.

The kernel, and so the times of files that are written, keep the real time. `Clock.shift_times` corrects them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from .machine import Machine

LIBRARIES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1")
OFFSET = "/etc/clock-offset"


class Clock:
    """The clock of a machine: of the sessions of an sshd with `sshd_line`, of sudo there, and of the jobs of cron.

    cron itself keeps the real time. It decides only in which second a job starts.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.offset = 0
        variables = {
            "LD_PRELOAD": find_library(),
            "FAKETIME_TIMESTAMP_FILE": OFFSET,
            "NO_FAKE_STAT": "1",  # else the times of files move with the clock
        }
        assignments = [f"{name}={value}" for name, value in variables.items()]
        self.sshd_line = f"SetEnv {' '.join(assignments)}"
        # cron reads this file for its jobs (pam_env). sudo passes no LD_PRELOAD on: it reads the file too.
        (machine.folder / "etc/environment").write_text("".join(f"{line}\n" for line in assignments))
        machine.allow_sudo("NOPASSWD: ALL", "env_file=/etc/environment")
        machine.run("mount", "-t", "tmpfs", "tmpfs", "/dev/shm")  # libfaketime leaves files there
        self.advance(0)

    def advance(self, seconds: int) -> None:
        """Let time pass, or set the clock; seen by what starts after this."""
        self.offset += seconds
        (self._machine.folder / OFFSET.removeprefix("/")).write_text(f"{self.offset:+d}\n")

    def shift_times(self, paths: Iterable[Path]) -> None:
        """Give files that have just been written the time of writing by this clock."""
        for path in paths:
            modified = path.stat().st_mtime_ns + self.offset * 10**9
            os.utime(path, ns=(modified, modified))


def find_library() -> str:
    """Return the path of libfaketime; skip the test if it is not installed, or fail it in CI."""
    for pattern in LIBRARIES:
        for path in Path("/").glob(pattern.removeprefix("/")):
            return str(path)
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("not installed: libfaketime")
    raise AssertionError
