"""When a fault strikes: before the task starts, at a named stage on the server, or at a random moment."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from .gate import Stage
from .machine import Machine, RunningTask, wait_for
from .stages import PROGRAM_STAGES, STAGES, SWAP_STAGES

LONGEST_WAIT = 20  # seconds until a stage is reached


@dataclass(frozen=True)
class Moment:
    """A moment of a task: a stage, or a share of its duration; before it starts without either."""

    stage: Stage | None = None
    share: float | None = None

    @property
    def name(self) -> str:
        """The moment in words."""
        if self.stage:
            return f"stage: {self.stage.name}"
        return "before the start" if self.share is None else f"random: {self.share:.0%} of the usual duration"

    @property
    def is_before(self) -> bool:
        """Whether it is before the task starts."""
        return self.stage is None and self.share is None

    def arm(self, machine: Machine) -> None:
        """Let the task stop at its stage, if it has one."""
        if self.stage:
            machine.gate.arm(self.stage)

    def reach(self, machine: Machine, task: RunningTask) -> bool:
        """Wait for the moment; tell whether the task was still running."""
        if self.stage:
            wait_for(lambda: machine.gate.waiting or task.has_ended, LONGEST_WAIT)
            return machine.gate.waiting is not None
        delay = (self.share or 0) * machine.duration(task.name)
        wait_for(lambda: task.has_ended or time.monotonic() > task.started + delay, delay + 1)
        return not task.has_ended


def choose_moment(machine: Machine, task: str, rng: random.Random, before: float = 0.25) -> Moment:
    """Choose a moment; `before` is the share of those before the start."""
    kind = rng.random()
    if kind < before:
        return Moment()
    if kind < before + (1 - before) / 2:
        stages = (*STAGES[task], *PROGRAM_STAGES.get(task, ()), *(SWAP_STAGES if "--swap" in machine.flags else ()))
        return Moment(rng.choice(stages))
    return Moment(share=rng.random())
