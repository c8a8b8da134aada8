"""Signals to the processes of a task: SIGKILL, SIGTERM and SIGSTOP of script, sqlite3, supervisor, session and inv."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from dataclasses import dataclass

from .framework import Injection, Strike, nothing_to_undo
from .machine import Machine, RunningTask, wait_for


@dataclass(frozen=True)
class Kill:
    """A signal to a target; the name of the target is that of a kind of process."""

    signal: signal.Signals
    target: str
    tasks: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the fault."""
        return f"{self.signal.name} of {self.target}"

    def arrange(self, machine: Machine, task: str, rng: random.Random) -> contextlib.AbstractContextManager[Injection]:
        """Prepare a try."""
        return nothing_to_undo(KillInjection(self, machine, task, rng))


@dataclass
class KillInjection:
    """A signal in one try."""

    kill: Kill
    machine: Machine
    task: str
    rng: random.Random

    def start(self) -> RunningTask:
        """Start the task."""
        return self.machine.start_task(self.task)

    def strike(self, task: RunningTask) -> Strike:
        """Wait for the moment, and send the signal."""
        share = self.rng.random()
        delay = share * self.machine.duration(self.task)
        wait_for(lambda: task.has_ended or time.monotonic() > task.started + delay, delay + 1)
        strike = Strike(f"{share:.0%} of the usual duration, after {delay:.3f} s", self.kill.target)
        strike.hit = not task.has_ended
        with contextlib.suppress(ProcessLookupError):
            os.kill(task.process.pid, self.kill.signal)
        return strike

    def repair(self) -> None:
        """Do nothing: the processes have ended."""


ALL = ("deploy", "run", "verify", "enable", "fetch", "restore")
KILLS = (Kill(signal.SIGKILL, "inv", ALL),)
