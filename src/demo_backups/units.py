"""Sizes, durations and times as text, and text from elsewhere made harmless for a terminal."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone


def format_size(count: int) -> str:
    """Write a number of bytes exactly, with thousands separators."""
    return f"{count:,} bytes"


def format_short_size(count: float) -> str:
    """Write a number of bytes with three significant digits and a decimal prefix, as in 2.31 MB."""
    import humanize

    return humanize.naturalsize(count, format="%.3g")


def format_duration(seconds: float) -> str:
    """Write a duration in words: whole seconds from one minute on, milliseconds below one second."""
    import humanize

    if 0 < abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    try:
        return humanize.precisedelta(round(seconds) if abs(seconds) >= 60 else seconds, format="%.3g")
    except OverflowError:  # humanize counts back from today, and some recorded durations are longer than that
        return f"{seconds:,.0f} seconds"


def format_age(seconds: float) -> str:
    """Write how long ago something was, in its largest unit: 3 days ago. A time in the future is named as such."""
    import humanize

    if seconds < 0:
        return "in the future"
    try:
        return humanize.naturaltime(timedelta(seconds=int(seconds)))
    except OverflowError:
        return f"{seconds:,.0f} seconds ago"


def format_brief(seconds: float) -> str:
    """Write a duration with one whole number and the unit of a setting, rounded down: 45 s, 59 min, 3 h, 12 d."""
    seconds = abs(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds // 1:.0f} s"


def format_time(time: datetime) -> str:
    """Write a time in UTC, to the minute."""
    return f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def shorten(text: str, longest: int) -> str:
    """Write a text on one line of at most `longest` characters, without control characters."""
    line = escape_controls(" ".join(text.split()))
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def escape_controls(text: str) -> str:
    """Escape control characters and undecodable bytes: text from a server must not control the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
