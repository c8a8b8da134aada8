"""How an outcome is described, and its colour."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from ..errors import COULD_NOT_LOOK, INTERRUPTED

if TYPE_CHECKING:
    from ..records.record import Record

MARK_STYLES = {
    "done": "green",
    "to do": "bold cyan",
    "blocked": "dim",
    "unknown": "yellow",
    "out of order": "bold red",
}


class Tone(enum.Enum):
    """How something went, as the classes of the page and STYLES have it."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    PLAIN = "plain"


RESULTS = {  # of a check: a symbol, words, and a tone
    True: ("✓", "passed", Tone.GOOD),
    False: ("✗", "failed", Tone.BAD),
    None: ("?", "could not be made", Tone.WARNING),
}
STYLES = {Tone.GOOD: "green", Tone.WARNING: "yellow", Tone.BAD: "bold red", Tone.PLAIN: ""}  # on a terminal


def describe_outcome(record: Record) -> tuple[str, Tone]:
    """Say in a few words how what a record tells of ended."""
    count = len(record.checks)
    for outcome in (False, None):
        names = [check["name"] for check in record.checks if check["passed"] is outcome]
        if names:
            _, words, tone = RESULTS[outcome]
            return f"{len(names)} of {count} checks {words}: {', '.join(names)}", tone
    match record.exit_status:
        case 0:
            return (f"all {count} checks passed" if count else "done"), Tone.GOOD
        case None:
            return "its end is not known", Tone.WARNING
        case status if status == COULD_NOT_LOOK:
            return "could not look", Tone.WARNING
        case status if status == INTERRUPTED:
            return "interrupted", Tone.WARNING
        case status:
            return f"failed, exit status {status}", Tone.BAD
