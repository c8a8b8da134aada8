"""The release plan: its phases and steps, and the mark of each, decided from facts alone."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

F = TypeVar("F")


class Mark(enum.Enum):
    """What is to be said of a step."""

    DONE = "done"
    TO_DO = "to do"
    WAITING = "waiting"
    NOT_SEEN = "not seen"
    OUT_OF_ORDER = "out of order"


@dataclass(frozen=True)
class Observed:
    """What was seen of a step, in a few words: it is done, or not, or that could not be seen (None).

    `held` says that it is others who have to act.
    """

    done: bool | None
    words: str
    held: bool = False


@dataclass(frozen=True)
class Step(Generic[F]):
    """One step: the names of those that come before it, and how it is seen in the facts."""

    name: str
    title: str
    needs: tuple[str, ...]
    see: Callable[[F], Observed]
    optional: bool = False


@dataclass(frozen=True)
class Marked:
    """A step with its mark, and the observation that it rests on."""

    name: str
    title: str
    mark: Mark
    optional: bool
    observed: str


@dataclass(frozen=True)
class Phase:
    """A phase of the plan as it stands."""

    name: str
    steps: list[Marked]


@dataclass(frozen=True)
class Plan:
    """The plan as it stands for a host; `damaged` names the records that could not be read."""

    host: str
    phases: list[Phase]
    damaged: list[str]

    @property
    def steps(self) -> list[Marked]:
        """All steps, in order."""
        return [step for phase in self.phases for step in phase.steps]

    def as_json(self) -> dict[str, Any]:
        """The object that `inv plan --json` prints."""
        return {
            "host": self.host,
            "phases": [
                {
                    "name": phase.name,
                    "steps": [
                        {
                            "name": step.name,
                            "mark": step.mark.value,
                            "optional": step.optional,
                            "observed": step.observed,
                        }
                        for step in phase.steps
                    ],
                }
                for phase in self.phases
            ],
        }


def decide(steps: Sequence[Step[F]], facts: F) -> list[Marked]:
    """Mark every step from what was observed; steps come in dependency order.

    One that is done before another that it needs is out of order; not where that other could not be seen.
    """
    marks: dict[str, Mark] = {}
    marked = []
    for step in steps:
        seen = step.see(facts)
        marks[step.name] = _mark(seen, [marks[name] for name in step.needs])
        marked.append(Marked(step.name, step.title, marks[step.name], step.optional, seen.words))
    return marked


def _mark(seen: Observed, needs: Iterable[Mark]) -> Mark:
    missing = {mark for mark in needs if mark is not Mark.DONE}
    if seen.done is None:
        return Mark.NOT_SEEN
    if seen.done:
        return Mark.OUT_OF_ORDER if missing - {Mark.NOT_SEEN} else Mark.DONE
    return Mark.WAITING if missing or seen.held else Mark.TO_DO
