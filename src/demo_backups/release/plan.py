"""The plan: its phases, and the mark of each step."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import COULD_NOT_LOOK, FAILED
from .facts import ReleaseFacts, Unavailable
from .steps import (
    Observation,
    Step,
    _branch,
    _committed,
    _deployed,
    _docs,
    _enabled,
    _is_merged,
    _opened,
    _pushed,
    _requested,
    _reviewed,
    _run,
    _script,
    _tested,
    _verified,
)


class Mark(enum.Enum):
    """What is to be said of a step."""

    DONE = "done"
    TO_DO = "to do"
    BLOCKED = "blocked"
    UNKNOWN = "unknown"
    OUT_OF_ORDER = "out of order"


PHASES = {
    "Index database": [
        Step("branch", "Make the branch", _branch),
        Step("index-script", "Replace cp in the index script", _script("index")),
        Step("index-test", "Try it here", _tested("index"), ("index-script",)),
        Step("index-deploy", "Put it on the server", _deployed("index"), ("index-test",)),
        Step("index-run", "Run it there", _run("index"), ("index-deploy",)),
        Step("index-verify", "Verify what it made", _verified("index"), ("index-run",)),
        Step("index-enable", "Enable it in the crontab", _enabled("index"), ("index-verify",)),
        Step("index-commit", "Commit it", _committed("index"), ("branch", "index-enable")),
    ],
    "Tracker database": [
        Step("tracker-script", "Replace cp in the tracker script", _script("tracker")),
        Step("tracker-deploy", "Put it on the server", _deployed("tracker"), ("tracker-script", "index-verify"), True),
        Step("tracker-test", "Run it there and verify", _verified("tracker"), ("tracker-deploy",), True),
        Step("tracker-commit", "Commit it", _committed("tracker"), ("tracker-script", "index-commit")),
    ],
    "Documentation": [
        Step("docs", "Update the documentation", _docs),
        Step("docs-commit", "Commit it", _committed("docs"), ("docs", "tracker-commit")),
    ],
    "Pull request": [
        Step("push", "Push the branch", _pushed, ("docs-commit",)),
        Step("open-pr", "Open the pull request", _requested(_opened), ("push",)),
        Step("review", "Address what reviewers say", _requested(_reviewed), ("open-pr",)),
        Step("merge", "Merge it", _is_merged, ("review",)),
    ],
}


@dataclass(frozen=True)
class MarkedStep:
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
    steps: list[MarkedStep]


@dataclass(frozen=True)
class Plan:
    """The plan as it stands for a host; `notes` say in full what could not be seen, and which records are damaged."""

    host: str
    phases: list[Phase]
    notes: list[str]

    @property
    def steps(self) -> list[MarkedStep]:
        """All steps, in order."""
        return [step for phase in self.phases for step in phase.steps]

    @property
    def next(self) -> MarkedStep | None:
        """The first step that is to do and not optional."""
        return next((step for step in self.steps if step.mark is Mark.TO_DO and not step.optional), None)

    @property
    def passed_over(self) -> list[MarkedStep]:
        """The optional steps that are to do before the next one."""
        before = itertools.takewhile(lambda step: step is not self.next, self.steps)
        return [step for step in before if step.optional and step.mark is Mark.TO_DO]

    @property
    def exit_code(self) -> int:
        """1 where something is to do, else 3 where something is not seen, else 0; optional steps do not count."""
        marks = {step.mark for step in self.steps if not step.optional}
        return FAILED if Mark.TO_DO in marks else COULD_NOT_LOOK if Mark.UNKNOWN in marks else 0

    def step(self, name: str) -> MarkedStep:
        """Look a step up by its name."""
        return next(step for step in self.steps if step.name == name)

    def as_json(self) -> dict[str, Any]:
        """The object that `inv plan --json` prints."""
        return {"host": self.host, "phases": [{"name": phase.name, "steps": _as_json(phase)} for phase in self.phases]}


def _as_json(phase: Phase) -> list[dict[str, Any]]:
    return [
        {"name": step.name, "mark": step.mark.value, "optional": step.optional, "observed": step.observed}
        for step in phase.steps
    ]


def make_plan(facts: ReleaseFacts, damaged: Iterable[str] = ()) -> Plan:
    """Mark all steps; `damaged` are words on each record that could not be read."""
    steps = [step for phase in PHASES.values() for step in phase]
    marks = mark_steps(steps, facts)
    phases = [Phase(name, [marks[step.name] for step in of_phase]) for name, of_phase in PHASES.items()]
    return Plan(facts.host, phases, [*dict.fromkeys(_unavailable_facts(facts)), *damaged])


def _unavailable_facts(facts: ReleaseFacts) -> Iterator[str]:
    on_host = (fact for each in facts.databases.values() for fact in vars(each.there).values())
    for fact in (facts.records, *on_host, facts.here, facts.there, facts.pull_request):
        if isinstance(fact, Unavailable):
            yield fact.error


def mark_steps(steps: Sequence[Step], facts: ReleaseFacts) -> dict[str, MarkedStep]:
    """Mark every step from what was observed; steps come in dependency order.

    One that is done before another that it needs is out of order; not where that other could not be seen.
    """
    marked: dict[str, MarkedStep] = {}
    for step in steps:
        seen = step.see(facts)
        mark = _mark(seen, [marked[name].mark for name in step.needs])
        marked[step.name] = MarkedStep(step.name, step.title, mark, step.optional, seen.words)
    return marked


def _mark(seen: Observation, needs: Iterable[Mark]) -> Mark:
    missing = {mark for mark in needs if mark is not Mark.DONE}
    if seen.done is None:
        return Mark.UNKNOWN
    if seen.done:
        return Mark.OUT_OF_ORDER if missing - {Mark.UNKNOWN} else Mark.DONE
    return Mark.BLOCKED if missing or seen.held else Mark.TO_DO
