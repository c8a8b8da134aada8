"""Parse short answers of a host. Every unexpected answer, including an empty one, raises ValueError."""

from __future__ import annotations

import math


def parse_yes_no(output: str) -> bool:
    """Parse `yes` or `no` on a line of its own."""
    answers = {"yes\n": True, "no\n": False}
    if output not in answers:
        raise ValueError("neither yes nor no")
    return answers[output]


def parse_seconds(output: str) -> float:
    """Parse a number of seconds, not negative, such as a time since 1970."""
    seconds = float(output)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{output.strip()} is not a number of seconds")
    return seconds
