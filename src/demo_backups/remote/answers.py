"""Parse the answers of a host. Every unexpected answer, including an empty one, raises ValueError.

A list ends with END, and a yes or no is a word: otherwise an answer that is missing would mean "none" or "no".
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone

END = "end"  # the end of a list
LARGEST = 2**63 - 1  # of the counts that file systems and SQLite report
LATEST = 1e11  # seconds since 1970: datetime has no later years


def parse_yes_no(output: str) -> bool:
    """Parse `yes` or `no` on a line of its own."""
    answers = {"yes\n": True, "no\n": False}
    if output not in answers:
        raise ValueError("neither yes nor no")
    return answers[output]


def parse_list(output: str, separator: str = "\n") -> list[str]:
    """Parse a list whose entries are each followed by the separator, and then END."""
    if separator == "\n":
        output = output.removesuffix("\n")
    *entries, end = output.split(separator)
    if end != END:
        raise ValueError(f"the list ends in {end[:100]!r}")
    return entries


def parse_count(text: str, largest: int = LARGEST) -> int:
    """Parse a number from 0 to `largest`, in decimal digits."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= largest):
        raise ValueError(f"{text[:50]!r} is not a number from 0 to {largest}")
    return int(text)


def parse_line(output: str) -> str:
    """Parse one line of printable text that is not empty."""
    line, end, rest = output.partition("\n")
    if not (line and line.isprintable() and end) or rest:
        raise ValueError(f"{output[:100]!r} is not one line")
    return line


def parse_seconds(output: str) -> float:
    """Parse a number of seconds, not negative, such as a time since 1970."""
    seconds = float(output)
    if not (math.isfinite(seconds) and 0 <= seconds < LATEST):
        raise ValueError(f"{output.strip()[:50]} is not a number of seconds")
    return seconds


def parse_time(seconds: str, offset: str) -> datetime:
    """Parse seconds since 1970 and an offset such as +0130, as `find` prints them."""
    zone = timezone(timedelta(hours=int(offset[:3]), minutes=int(offset[0] + offset[3:5])))
    try:
        return datetime.fromtimestamp(float(seconds), zone)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{seconds} s is not a time: {error}") from error
