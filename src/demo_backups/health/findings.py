"""The texts of findings."""

from __future__ import annotations

from .. import units
from ..remote.fact import Unavailable
from .state import Finding, State

CLOCK_TOLERANCE = 5 * 60.0  # seconds by which the clocks of a host and of this machine may differ
LONGEST_TEXT = 160  # characters of a text from elsewhere in a finding


def unavailable(name: str, subject: str, fact: Unavailable) -> Finding:
    """Return the finding for a fact that could not be determined."""
    printed = fact.output.strip().split("\n")[-1]
    reason = f"{fact.reason} ({printed})" if printed else fact.reason
    return Finding(name, State.UNKNOWN, f"{subject} unknown: {shorten(reason)}")


def shorten(text: str) -> str:
    """Make one short line of a text from elsewhere."""
    return units.shorten(text, LONGEST_TEXT)


def with_limit(text: str, limit: float) -> str:
    """Append the limit in seconds that an age has passed: a line may have several ages, and one of them is too high."""
    return f"{text} (limit {units.format_brief(limit)})"
