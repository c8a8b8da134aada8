"""Signals to the processes of a task: SIGKILL, SIGTERM and SIGSTOP of its programs, session and inv.

The moment is a named stage, at which the task waits in a call of a program until the signal is sent; or a random moment
of the time that the target usually runs. A stopped process continues, or is killed, when the task has ended, or when
all other processes wait.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from dataclasses import dataclass

from .framework import Injection, Strike, nothing_to_undo
from .gate import Stage
from .machine import LONGEST_TASK, TASKS, Machine, RunningTask, wait_for
from .stages import FILE_STAGES, PROGRAM_STAGES, STAGES, SWAP_STAGES, FileStage
from .targets import TARGETS, send, wait_while_stopped

LONGEST_STOP = 1.5  # seconds
PROGRAM_TIME = 0.06  # seconds that a call of sqlite3 or restic takes
PROGRAM_TARGETS = ("sqlite3", "restic")
# The share of a task in which its job runs; the session and the task itself are struck at any moment of the task.
JOB_SHARE = {"run": 0.1, "verify": 0.1, "fetch": 0.08, "restore": 0.5}


@dataclass(frozen=True)
class Kill:
    """A signal to a target of TARGETS."""

    signal: signal.Signals
    target: str
    tasks: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the fault."""
        return f"{self.signal.name} of {self.target}"

    def missing(self) -> str | None:
        """Return why it cannot be used on this machine; None if it can."""
        return None

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
        """Start the task; if it is struck at a stage, let it wait at that."""
        self._stage = self._choose_stage()
        self._share = self.rng.random()
        self._continues = self.rng.random() < 0.5
        if isinstance(self._stage, Stage):
            self.machine.gate.arm(self._stage)
        return self.machine.start_task(self.task)

    def strike(self, task: RunningTask) -> Strike:
        """Wait for the moment, and send the signal."""
        strike = Strike(self._wait_for_moment(task), self.kill.target)
        pids = self._find(task)
        if not pids:
            self.machine.gate.disarm()  # the target is started later, or not at all
            wait_for(lambda: self._find(task) or task.has_ended, LONGEST_TASK)
            pids = self._find(task)
        strike.hit = not task.has_ended and send(pids, self.kill.signal)
        self.machine.gate.disarm()
        if self.kill.signal is signal.SIGSTOP:
            self._end_stop(task, pids, strike)
        return strike

    def repair(self) -> None:
        """Do nothing: the processes have ended."""

    def _choose_stage(self) -> Stage | FileStage | None:
        if self.kill.target in PROGRAM_TARGETS:
            return self.rng.choice(PROGRAM_STAGES[self.task])
        stages: tuple[Stage | FileStage, ...] = STAGES[self.task]
        if self.kill.target in ("inv", "session"):
            stages = (*stages, *FILE_STAGES.get(self.task, ()))
        if "--swap" in self.machine.flags:
            stages = (*stages, *SWAP_STAGES)
        return self.rng.choice([None, self.rng.choice(stages)])

    def _find(self, task: RunningTask) -> list[int]:
        return TARGETS[self.kill.target](self.machine, task)

    def _wait_for_moment(self, task: RunningTask) -> str:
        if isinstance(self._stage, FileStage):
            is_visible = self._stage.is_visible
            wait_for(lambda: is_visible(self.machine) or task.has_ended, LONGEST_TASK)
            return f"stage: {self._stage.name}"
        if self._stage:
            is_reached = wait_for(lambda: self.machine.gate.waiting or task.has_ended, LONGEST_TASK)
            moment = f"stage: {self._stage.name}"
            if self.kill.target not in PROGRAM_TARGETS or not is_reached:
                return moment
            self.machine.gate.disarm()
            return f"{moment}, {self._wait(PROGRAM_TIME)}"
        if self.kill.target in ("inv", "session"):
            return self._wait(self.machine.duration(self.task))
        wait_for(lambda: self._find(task) or task.has_ended, LONGEST_TASK)
        return self._wait(JOB_SHARE.get(self.task, 0.05) * self.machine.duration(self.task))

    def _wait(self, usual: float) -> str:
        """Wait for a share of the time that the target usually runs."""
        delay = self._share * usual
        time.sleep(delay)
        return f"random: after {delay:.3f} s of {usual:.3f} s"

    def _end_stop(self, task: RunningTask, pids: list[int], strike: Strike) -> None:
        waited = wait_while_stopped(self.machine, task, pids, LONGEST_STOP)
        if self._continues:
            send(pids, signal.SIGCONT)
            strike.exit_codes = (0,)
        else:
            send(pids, signal.SIGKILL)
        strike.moment += f"; stopped {waited}, then {'SIGCONT' if self._continues else 'SIGKILL'}"


ON_SERVER = tuple(task for task in TASKS if task != "offsite")
TARGET_TASKS = {
    "inv": TASKS,
    "session": ON_SERVER,
    "script": ON_SERVER,
    "supervisor": ("run", "verify", "fetch", "restore"),
    "sqlite3": ("run", "verify", "restore"),
    "restic": ("offsite",),
}
KILLS = tuple(
    Kill(number, target, tasks)
    for target, tasks in TARGET_TASKS.items()
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
)
