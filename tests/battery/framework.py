"""A try of the battery: reset the machine, start a task, strike, and check what must be intact.

Everything is derived from the seed and the number of the try: fault, task, journal mode, target and moment. So a try
can be repeated alone, except that a random moment is a share of the duration of the task, which is measured.
"""

from __future__ import annotations

import contextlib
import random
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any, Protocol

import pytest

from . import invariants
from .machine import VARIANTS, Machine, RunningTask

REVERTS = 0.4  # so many of the interrupted restores are reverted
PASSED, FAILED, MISSED = "passed", "failed", "missed"


@dataclass
class Strike:
    """What a fault has done: at which moment and to what; `hit` is False if the task had ended before.

    `exit_codes` are those with which the task may end; None stands for any.
    """

    moment: str
    target: str = ""
    hit: bool = True
    exit_codes: Sequence[int] | None = None


class Injection(Protocol):
    """A fault that is arranged for one try."""

    def start(self) -> RunningTask:
        """Start the task."""
        raise NotImplementedError

    def strike(self, task: RunningTask) -> Strike:
        """Strike at the moment, while the task is running."""
        raise NotImplementedError

    def repair(self) -> None:
        """End the fault, before the invariants are checked and the task is repeated."""
        raise NotImplementedError


class Fault(Protocol):
    """A kind of fault."""

    @property
    def name(self) -> str:
        """Its name in the results."""
        raise NotImplementedError

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it can strike."""
        raise NotImplementedError

    def missing(self) -> str | None:
        """Return why it cannot be used on this machine; None if it can."""
        raise NotImplementedError

    def arrange(self, machine: Machine, task: str, rng: random.Random) -> contextlib.AbstractContextManager[Injection]:
        """Prepare a try, after the reset and before the service is started; at the end, undo all of it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Attempt:
    """What is tried: all of it is derived from the seed and the number."""

    seed: int
    number: int
    fault: Fault
    task: str

    @property
    def command(self) -> str:
        """The command that repeats it."""
        return f"./inv battery --seed {self.seed} --try {self.number}"


@dataclass
class Result:
    """How a try has ended; it is one line of the results."""

    seed: int
    number: int
    fault: str
    task: str
    outcome: str
    moment: str = ""
    target: str = ""
    journal: str = ""
    variant: str = ""
    exit_code: int | None = None
    seconds: float = 0.0
    date: str = ""
    problems: list[str] = field(default_factory=list)
    command: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def choose(faults: Sequence[Fault], seed: int, number: int) -> Attempt:
    """Choose fault and task of a try: every combination once, in a random order, then all of them again."""
    combinations = [(fault, task) for fault in faults for task in fault.tasks]
    cycle, index = divmod(number, len(combinations))
    random.Random(f"{seed}/{cycle}").shuffle(combinations)
    fault, task = combinations[index]
    return Attempt(seed, number, fault, task)


def perform(machine: Machine, attempt: Attempt) -> Result:
    """Make a try, and judge it."""
    started = time.monotonic()
    rng = random.Random(f"{attempt.seed}/{attempt.number}/{attempt.fault.name}/{attempt.task}")
    result = Result(attempt.seed, attempt.number, attempt.fault.name, attempt.task, FAILED, command=attempt.command)
    result.journal = rng.choice(["delete", "wal"])
    result.variant = rng.choice(VARIANTS.get(attempt.task, ("",)))
    result.date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    try:
        machine.reset(attempt.task, result.journal)
        machine.set_variant(result.variant)
        with attempt.fault.arrange(machine, attempt.task, rng) as injection:
            result.problems = _strike(machine, attempt, injection, result)
        if result.problems:
            result.outcome = FAILED
    except (Exception, pytest.fail.Exception):
        result.outcome = FAILED
        result.problems.append(f"the battery itself failed: {traceback.format_exc()}")
    result.seconds = round(time.monotonic() - started, 2)
    return result


def _strike(machine: Machine, attempt: Attempt, injection: Injection, result: Result) -> list[str]:
    machine.start_service()
    before = invariants.observe(machine, attempt.task)
    task = injection.start()
    try:
        strike = injection.strike(task)
        result.moment, result.target = strike.moment, strike.target
        result.exit_code = task.wait()
    finally:
        task.process.kill()
        machine.gate.disarm()
    left = machine.settle()
    injection.repair()
    if not strike.hit:
        result.outcome = MISSED
        return []
    result.outcome = PASSED
    problems = [f"left running: {process}" for process in left]
    if strike.exit_codes is not None and result.exit_code not in strike.exit_codes:
        problems.append(f"the task ended with {result.exit_code}: {task.output}")
    if "Traceback" in task.output:
        problems.append(f"the task ended with a traceback: {task.output}")
    found = invariants.check(machine, before)
    if result.exit_code == 0:
        found += invariants.check_result(machine, before, before.committed)
    problems += [f"after the fault: {problem}" for problem in found]
    revert = random.Random(attempt.number).random() < REVERTS
    return problems + [f"after the next task: {problem}" for problem in invariants.repeat(machine, before, revert)]


@contextlib.contextmanager
def nothing_to_undo(injection: Injection) -> Iterator[Injection]:
    """Arrange a fault that leaves nothing behind."""
    yield injection
