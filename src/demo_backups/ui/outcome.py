"""How an outcome is described and styled, on the terminal and in the report."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from ..errors import COULD_NOT_LOOK, INCOMPLETE, INTERRUPTED
from ..records.check import Outcome

if TYPE_CHECKING:
    from ..records.record import Record


class Tone(enum.Enum):
    """How something is meant to look; the values are the CSS classes of the report."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    ACTIVE = "active"
    PLAIN = "plain"
    TITLE = "title"


STYLES = {  # on a terminal
    Tone.GOOD: "green",
    Tone.WARNING: "yellow",
    Tone.BAD: "bold red",
    Tone.ACTIVE: "bold cyan",
    Tone.PLAIN: "",
    Tone.TITLE: "bold",
}
MARKS = {  # by the value of the mark: a symbol and a tone
    "done": ("✓", Tone.GOOD),
    "to do": ("→", Tone.ACTIVE),
    "blocked": ("…", Tone.PLAIN),
    "unknown": ("?", Tone.WARNING),
    "out of order": ("!", Tone.BAD),
}
VERDICTS = {  # of a preflight, by their values
    "go": Tone.GOOD,
    "warn": Tone.WARNING,
    "no": Tone.BAD,
}
RESULTS = {  # of a check: a symbol, a text and a tone
    Outcome.PASSED: ("✓", "passed", Tone.GOOD),
    Outcome.FAILED: ("✗", "failed", Tone.BAD),
    Outcome.UNKNOWN: ("?", "could not be made", Tone.WARNING),
}
EXITS: dict[int | None, tuple[str, Tone]] = {  # of a task that did not succeed
    None: ("exit status unknown", Tone.WARNING),
    COULD_NOT_LOOK: ("a fact could not be read", Tone.WARNING),
    INCOMPLETE: ("done, but not completely", Tone.WARNING),
    INTERRUPTED: ("interrupted", Tone.WARNING),
}


def describe_kind(record: Record) -> str:
    """Say what was done: the kind of the record, and of `offsite`, which does several things, the action."""
    action = getattr(record.details, "action", None) if record.kind == "offsite" else None
    return f"{record.kind} {action}" if isinstance(action, str) and action else record.kind


def describe_outcome(record: Record) -> tuple[str, Tone]:
    """Describe in a few words how a task ended, from its record."""
    count = len(record.checks)
    for outcome in (Outcome.FAILED, Outcome.UNKNOWN):
        names = [check.name for check in record.checks if check.outcome is outcome]
        if names:
            _, text, tone = RESULTS[outcome]
            return f"{len(names)} of {count} checks {text}: {', '.join(names)}", tone
    if record.exit_status == 0:
        passed = "1 check passed" if count == 1 else f"all {count} checks passed"
        return (passed if count else "done"), Tone.GOOD
    return EXITS.get(record.exit_status) or (f"failed, exit status {record.exit_status}", Tone.BAD)
