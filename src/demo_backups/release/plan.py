"""The release plan: its phases and steps, and the mark of each step. Pure: no I/O, no clock."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import COULD_NOT_LOOK, FAILED
from ..records.record import Record
from ..settings.model import ReleaseSettings
from .facts import ReleaseFacts
from .pull_request import PullRequest
from .steps import (
    Observation,
    State,
    Step,
    evaluate_branch,
    evaluate_commit,
    evaluate_cron,
    evaluate_deployment,
    evaluate_docs,
    evaluate_merge,
    evaluate_opened,
    evaluate_push,
    evaluate_review,
    evaluate_run,
    evaluate_script,
    evaluate_test,
    evaluate_verification,
    find_relied_verification,
)

PHASES = {
    "Index database": [
        Step("branch", "Create the branch", evaluate_branch),
        Step("index-script", "Replace cp in the index script", evaluate_script("index")),
        Step("index-test", "Test it locally", evaluate_test("index"), ("index-script",)),
        Step("index-deploy", "Deploy it to the server", evaluate_deployment("index"), ("index-test",)),
        Step("index-run", "Run it on the server", evaluate_run("index"), ("index-deploy",)),
        Step("index-verify", "Verify the backup", evaluate_verification("index"), ("index-run",)),
        Step("index-enable", "Enable it in the crontab", evaluate_cron("index"), ("index-verify",)),
        Step("index-commit", "Commit it", evaluate_commit("index"), ("branch", "index-enable")),
    ],
    "Tracker database": [
        Step("tracker-script", "Replace cp in the tracker script", evaluate_script("tracker")),
        Step(
            "tracker-deploy",
            "Deploy it to the server",
            evaluate_deployment("tracker"),
            ("tracker-script", "index-verify"),
            optional=True,
        ),
        Step(
            "tracker-test",
            "Run it on the server and verify the backup",
            evaluate_verification("tracker"),
            ("tracker-deploy",),
            optional=True,
        ),
        Step("tracker-commit", "Commit it", evaluate_commit("tracker"), ("tracker-script", "index-commit")),
    ],
    "Documentation": [
        Step("docs", "Update the documentation", evaluate_docs),
        Step("docs-commit", "Commit it", evaluate_commit("docs"), ("docs", "tracker-commit")),
    ],
    "Pull request": [
        Step("push", "Push the branch", evaluate_push, ("docs-commit",)),
        Step("open-pr", "Open the pull request", evaluate_opened, ("push",)),
        Step("review", "Address the review", evaluate_review, ("open-pr",)),
        Step("merge", "Merge it", evaluate_merge, ("review",)),
    ],
}


class Mark(enum.Enum):
    """What the plan says about a step."""

    DONE = "done"
    TO_DO = "to do"
    BLOCKED = "blocked"  # a step that it needs is not done, or somebody else has to act
    UNKNOWN = "unknown"  # a fact is unavailable
    OUT_OF_ORDER = "out of order"  # done before a step that it needs


@dataclass(frozen=True)
class MarkedStep:
    """A step with its mark, and the details that the mark is based on."""

    name: str
    title: str
    mark: Mark
    optional: bool
    details: str


@dataclass(frozen=True)
class Phase:
    """A phase with its marked steps."""

    name: str
    steps: list[MarkedStep]


@dataclass(frozen=True)
class Plan:
    """The plan for a host. `notes` are the full errors on unavailable facts and on invalid records.

    `checkout` is the directory that it describes. `host_notes` are the notes on the host alone. `verifications` has,
    for each database, the record that the plan relies on.
    """

    host: str
    phases: list[Phase]
    notes: list[str]
    checkout: str = ""
    release: ReleaseSettings | None = None
    pull_request: str | None = None  # its URL
    host_notes: tuple[str, ...] = ()
    deployed: tuple[str, ...] = ()  # the scripts that the host has as they are in the checkout or the merged release
    verifications: Mapping[str, Record] = field(default_factory=dict)

    @property
    def steps(self) -> list[MarkedStep]:
        """All steps, in order."""
        return [step for phase in self.phases for step in phase.steps]

    @property
    def next(self) -> MarkedStep | None:
        """The first step with the mark `to do` that is not optional."""
        return next((step for step in self.steps if step.mark is Mark.TO_DO and not step.optional), None)

    @property
    def skipped(self) -> list[MarkedStep]:
        """The optional steps with the mark `to do` before the next one."""
        previous = itertools.takewhile(lambda step: step is not self.next, self.steps)
        return [step for step in previous if step.optional and step.mark is Mark.TO_DO]

    @property
    def exit_code(self) -> int:
        """1 if a step has the mark `to do`, else 3 if one is `unknown`, else 0; optional steps do not count."""
        marks = {step.mark for step in self.steps if not step.optional}
        if Mark.TO_DO in marks:
            return FAILED
        return COULD_NOT_LOOK if Mark.UNKNOWN in marks else 0

    def step(self, name: str) -> MarkedStep:
        """Return a step by its name."""
        return next(step for step in self.steps if step.name == name)

    def as_json(self) -> dict[str, Any]:
        """Return the object that `inv plan --json` prints."""
        return {
            "host": self.host,
            "checkout": self.checkout,
            "phases": [{"name": phase.name, "steps": _as_json(phase)} for phase in self.phases],
        }


def _as_json(phase: Phase) -> list[dict[str, Any]]:
    return [
        {"name": step.name, "mark": step.mark.value, "optional": step.optional, "observed": step.details}
        for step in phase.steps
    ]


def make_plan(facts: ReleaseFacts, invalid_records: Iterable[str] = ()) -> Plan:
    """Mark all steps; `invalid_records` has one message for each record that could not be read."""
    marked = mark_steps([step for steps in PHASES.values() for step in steps], facts)
    phases = [Phase(name, [marked[step.name] for step in steps]) for name, steps in PHASES.items()]
    request = facts.pull_request
    return Plan(
        host=facts.host,
        phases=phases,
        notes=[*facts.unavailable(), *invalid_records],
        checkout=str(facts.checkout),
        release=facts.release,
        pull_request=request.url if isinstance(request, PullRequest) else None,
        host_notes=facts.host_errors(),
        deployed=tuple(script for name, script in facts.scripts.items() if facts.is_deployed(name)),
        verifications={
            name: record for name in facts.databases if (record := find_relied_verification(facts, name)) is not None
        },
    )


def mark_steps(steps: Sequence[Step], facts: ReleaseFacts) -> dict[str, MarkedStep]:
    """Mark every step; a step comes after those that it needs."""
    marked: dict[str, MarkedStep] = {}
    for step in steps:
        observation = step.evaluate(facts)
        missing = [name for name in step.needs if marked[name].mark is not Mark.DONE]
        mark = _mark(observation, [marked[name].mark for name in missing])
        details = observation.details
        if mark is Mark.BLOCKED and missing:
            details = f"{details}; blocked by {', '.join(missing)}"
        marked[step.name] = MarkedStep(step.name, step.title, mark, step.optional, details)
    return marked


def _mark(observation: Observation, needs: Iterable[Mark]) -> Mark:
    """Decide the mark of a step from its own state and from the marks of the steps that it needs.

    A step that is done while a step that it needs is not done is out of order; an unknown one does not count. A step
    with nothing to do is not out of order: it is blocked until the steps that it needs are done.
    """
    missing = set(needs) - {Mark.DONE}
    match observation.state:
        case State.UNKNOWN:
            return Mark.UNKNOWN
        case State.DONE:
            return Mark.OUT_OF_ORDER if missing - {Mark.UNKNOWN} else Mark.DONE
        case State.BLOCKED:
            return Mark.BLOCKED
        case State.NOT_NEEDED:
            return Mark.BLOCKED if missing else Mark.DONE
        case State.TO_DO:
            return Mark.BLOCKED if missing else Mark.TO_DO
