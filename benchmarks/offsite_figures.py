"""The table of the cost of off-site copies, from the raw numbers of `offsite.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

HEADINGS = (
    "size",
    "method",
    "first copy",
    "stored",
    "second copy",
    "added",
    "restore",
    "check",
    "prune",
    "memory",
    "cache",
)

Numbers = Mapping[str, Any]


def summarize(measured: Sequence[Numbers]) -> list[list[str]]:
    """Make one row of medians of all rounds of a method with a size, in the order in which they were measured."""
    groups: dict[tuple[float, str], dict[str, list[Numbers]]] = {}
    for step in measured:
        steps = groups.setdefault((step["size"], step["method"]), {})
        steps.setdefault(step["step"], []).append(step)
    return [_summarize_group(size, method, steps) for (size, method), steps in groups.items()]


def _summarize_group(size: float, method: str, steps: Mapping[str, Sequence[Numbers]]) -> list[str]:
    first, second = (steps.get(name, []) for name in ("first copy", "second copy"))
    checks = [step for name, found in steps.items() if name.startswith("check") for step in found]
    return [
        f"{size / 1e9:g} GB",
        method,
        _format_time(first),
        _format_size([step["stored"] for step in first]),
        _format_time(second),
        _format_size([after["stored"] - before["stored"] for before, after in zip(first, second, strict=False)]),
        _format_time(steps.get("restore", [])),
        _format_time(checks),
        _format_time(steps.get("prune", [])),
        _format_size([max(step["memory"] for found in steps.values() for step in found)]),
        _format_size([max(step["cache"] for found in steps.values() for step in found)]),
    ]


def _format_time(steps: Sequence[Numbers]) -> str:
    """Write the wall time and the time of the CPU of a step; a failure is not hidden by a median."""
    if not steps:
        return ""
    if any(step["status"] != 0 for step in steps):
        return "failed"
    if any(step["intact"] is False for step in steps):
        return "DIFFERS"
    seconds, cpu = (median(step[name] for step in steps) for name in ("seconds", "cpu"))
    return f"{_format_seconds(seconds)} ({_format_seconds(cpu)})"


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _format_size(sizes: Sequence[float]) -> str:
    if not sizes:
        return ""
    size = median(sizes)
    if size >= 1e9:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 10e6 else f"{size / 1e6:.1f} MB"


def format_table(measured: Sequence[Numbers]) -> list[str]:
    """Write the rows as the lines of a table in Markdown."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *summarize(measured)]
    return [f"| {' | '.join(row)} |" for row in rows]
