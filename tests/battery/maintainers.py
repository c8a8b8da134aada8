"""Two maintainers at once: another one, with records and copies of their own or of the same, starts a task too."""

from __future__ import annotations

import contextlib
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from ..helpers.tasks import InvRunner
from .framework import Fault, Injection, Strike
from .machine import COMMANDS, TASKS, Machine, RunningTask
from .moments import Moment, choose_moment


@dataclass(frozen=True)
class SecondMaintainer:
    """A task of another maintainer at the same time: from another machine, or from another terminal of this one."""

    is_same_machine: bool
    tasks: tuple[str, ...] = TASKS

    @property
    def name(self) -> str:
        """The name of the fault."""
        return "a second task on one machine" if self.is_same_machine else "two maintainers at once"

    def missing(self) -> str | None:
        """Say why it cannot be used on this machine."""
        return None

    @contextlib.contextmanager
    def arrange(self, machine: Machine, task: str, rng: random.Random) -> Iterator[Injection]:
        """Choose the task of the other maintainer; one half of them the same."""
        other = task if rng.random() < 0.5 else rng.choice(TASKS)
        environment = dict(machine.environment)
        if not self.is_same_machine:
            home = machine.live / "other maintainer"
            subprocess.run(["cp", "--archive", str(machine.copies.parent.parent), str(home)], check=True)
            places = {"HOME": home, "INVOKE_EVIDENCE_DIR": home / "evidence", "INVOKE_FETCH_DIR": home / "copies"}
            environment |= {name: str(path) for name, path in places.items()}
        machine.other_tasks = (other,)
        yield SecondInjection(machine, task, other, environment, choose_moment(machine, task, rng, before=0.3))


@dataclass
class SecondInjection:
    """Another task in one try."""

    machine: Machine
    task: str
    other: str
    environment: dict[str, str]
    moment: Moment
    _second: RunningTask | None = None

    def start(self) -> RunningTask:
        """Start the task, after that of the other one if the moment is before."""
        self.moment.arm(self.machine)
        if self.moment.is_before:
            self._start_second()
        return self.machine.start_task(self.task)

    def strike(self, task: RunningTask) -> Strike:
        """Start the other task, and wait for its end."""
        hit = self.moment.reach(self.machine, task)
        if not self.moment.is_before:
            self._start_second()
        self.machine.gate.disarm()
        return Strike(self.moment.name, f"{self.other} by the other", hit)

    def repair(self) -> None:
        """Wait for the other task; a crash of it is an error."""
        if self._second:
            second, self._second = self._second, None
            second.wait()
            if "Traceback" in second.output:
                raise RuntimeError(second.output)

    def _start_second(self) -> None:
        self._second = RunningTask(self.other, InvRunner(self.environment).start(*COMMANDS[self.other]))


FAULTS: tuple[Fault, ...] = (SecondMaintainer(False), SecondMaintainer(True))
