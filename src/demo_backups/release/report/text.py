"""Text from elsewhere in the report: bounded in length, and escaped for GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...units import escape_controls

MOST_LINES = 200  # of collected output
MOST_CHARACTERS = 2000  # of one text


def truncate(text: str, characters: int = MOST_CHARACTERS) -> str:
    """Return the beginning of a text with control characters escaped, and how much was left out."""
    escaped = escape_controls(text[:characters])
    omitted = max(len(text), len(escaped)) - characters
    return f"{escaped[:characters]} … and {omitted:,} more characters" if omitted > 0 else escaped


def join_lines(lines: Sequence[str], most: int = MOST_LINES, characters: int = MOST_CHARACTERS) -> str:
    """Join the first lines of an output, each truncated, and say how many were left out."""
    omitted = len(lines) - most
    note = [f"… and {omitted:,} more lines"] if omitted > 0 else []
    return "\n".join([*(truncate(line, characters) for line in lines[:most]), *note])


def mask_users(text: str) -> str:
    """Replace each user@machine: a pull request is public, and says nothing about the machines of maintainers."""
    return re.sub(r"[\w.+-]+@[\w.-]+", "(user)", text)


def without_login(host: str) -> str:
    """Return a host without the name of its login."""
    return host.rpartition("@")[2]


def escape_markdown(text: str) -> str:
    """Write a text on one line without markup, links, mentions, issue references or formulas."""
    escaped = re.sub(r"([\\`*_{}\[\]<>&|~#$])", r"\\\1", " ".join(escape_controls(text).split()))
    return re.sub(r"[@#](?=\w)|(?i:https?|ftp)(?=://)|(?i:www)(?=\.)|GH(?=-\d)", r"\g<0>&#8203;", escaped)


def code_span(text: str) -> str:
    """Write a code span that its content cannot close. Not for table cells, which a '|' ends even in code."""
    text = " ".join(escape_controls(text).split())
    if not text:
        return ""
    fence = "`" * (_longest_backtick_run(text) + 1)
    padding = " " if "`" in (text[0], text[-1]) else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def code_block(text: str) -> str:
    """Write a fenced code block that its content cannot close."""
    text = escape_controls(text)
    fence = "`" * max(3, _longest_backtick_run(text) + 1)
    return f"{fence}text\n{text}\n{fence}"


def _longest_backtick_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
