"""The figures of the report: the charts, summaries and tables that records give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import PurePosixPath
from typing import Any

from ...records.check import Outcome
from ...records.record import Record, VerificationDetails
from ...ui.outcome import RESULTS, Tone
from ...units import format_duration, format_size, format_time
from .axes import BYTES, COUNT, SECONDS, Quantity
from .plots import Chart, Marker, Pattern, TimeSeries, line_chart, stacked_chart

MOST_POINTS = 500  # of one series, the latest
MOST_DAYS = 30  # of checks, the latest
PATTERNS = {Tone.GOOD: Pattern.SOLID, Tone.BAD: Pattern.STRIPES, Tone.WARNING: Pattern.LINES}


@dataclass(frozen=True)
class Figure:
    """A chart with its numbers in words and as a table, the latest first; without numbers there is no chart.

    `name` is unique on the page.
    """

    name: str
    title: str
    summary: str
    columns: list[str]
    rows: list[list[str]]
    chart: Chart | None = None


def make_figures(records: Sequence[Record], prefix: str) -> list[Figure]:
    """Make the figures of one database from its records, the oldest first; their names begin with `prefix`."""
    return [
        _figure_over_time(f"{prefix}-size", "Size", _size_series(records), BYTES, format_size),
        _figure_over_time(f"{prefix}-duration", "Duration", _duration_series(records), SECONDS, format_duration),
        _checks_by_day(f"{prefix}-checks", records),
    ]


def parse_time(text: str) -> datetime:
    """Read a record's time."""
    return datetime.fromisoformat(text).astimezone(timezone.utc)


# --- sizes and durations --------------------------------------------------------------------------------------------


def _size_series(records: Sequence[Record]) -> list[TimeSeries]:
    """Return the size of each backup at its creation, and the size of the database whenever it was recorded.

    Several records may be about the same backup: it is one point.
    """
    backups: dict[str, tuple[datetime, float]] = {}
    sources: list[tuple[datetime, float]] = []
    for record in records:
        if record.backup is not None and record.bytes is not None:
            name = PurePosixPath(record.backup).name  # a record of an off-site copy has no path
            backups[name] = (_created(record, backups.get(name)), record.bytes)
        details = record.details
        if isinstance(details, VerificationDetails) and details.source_bytes is not None:
            sources.append((parse_time(record.when), details.source_bytes))
    return _pair("backup", sorted(backups.values()), "database", sources)


def _created(record: Record, known: tuple[datetime, float] | None) -> datetime:
    if record.created:
        return parse_time(record.created)
    return known[0] if known else parse_time(record.when)


def _duration_series(records: Sequence[Record]) -> list[TimeSeries]:
    """Return the durations of the runs that made a backup and of the verifications that made their checks."""
    points: dict[str, list[tuple[datetime, float]]] = {"run": [], "verification": []}
    for record in records:
        is_complete = record.checks or record.bytes is not None
        # A negative duration means that the clock was set back.
        if is_complete and record.kind in points and record.seconds is not None and record.seconds >= 0:
            points[record.kind].append((parse_time(record.when), record.seconds))
    return _pair("backup", points["run"], "verification", points["verification"])


def _pair(
    first: str, first_points: list[tuple[datetime, float]], second: str, second_points: list[tuple[datetime, float]]
) -> list[TimeSeries]:
    return [
        TimeSeries(first, "series-1", first_points),
        TimeSeries(second, "series-2", second_points, Marker.TRIANGLE, dashed=True),
    ]


def _figure_over_time(
    name: str, title: str, lines: list[TimeSeries], quantity: Quantity, format_exactly: Callable[[Any], str]
) -> Figure:
    recorded = [line for line in lines if line.points]
    if not recorded:
        return Figure(name, title, f"No {title.lower()} recorded yet.", [], [])
    summary = "\n".join(_summarize(line, quantity) for line in recorded)
    shown = [replace(line, points=line.points[-MOST_POINTS:]) for line in lines]
    points = sorted(((time, line.name, number) for line in shown for time, number in line.points), reverse=True)
    rows = [[format_time(time), source, format_exactly(number)] for time, source, number in points]
    return Figure(name, title, summary, ["Time", "Series", title], rows, line_chart(shown, quantity))


def _summarize(series: TimeSeries, quantity: Quantity) -> str:
    numbers = [number for _, number in series.points]
    lowest, highest, latest = (quantity.describe(number) for number in (min(numbers), max(numbers), numbers[-1]))
    values = latest if lowest == highest else f"{lowest} to {highest}, latest {latest}"
    count = "1 value" if len(numbers) == 1 else f"{len(numbers):,} values"
    days = _describe_days(series.points[0][0], series.points[-1][0])
    limit = f"; the latest {MOST_POINTS} are shown" if len(numbers) > MOST_POINTS else ""
    return f"{series.name.capitalize()}: {values} ({count} {days}{limit})."


def _describe_days(first: datetime, last: datetime) -> str:
    if first.date() == last.date():
        return f"on {first:%Y-%m-%d}"
    return f"from {first:%Y-%m-%d} to {last:%Y-%m-%d}"


# --- checks ---------------------------------------------------------------------------------------------------------


def _checks_by_day(name: str, records: Sequence[Record]) -> Figure:
    title = "Checks by day"
    days = _count_checks(records)
    if not days:
        return Figure(name, title, "No checks recorded yet.", [], [])
    first = max(days) - timedelta(days=MOST_DAYS - 1)
    shown = {day: days[day] for day in sorted(days) if day >= first}
    stacks = [
        TimeSeries(
            label,
            f"series-{tone.value}",
            [(day, float(counts[outcome])) for day, counts in shown.items() if counts[outcome]],
            pattern=PATTERNS[tone],
        )
        for outcome, (_, label, tone) in RESULTS.items()
    ]
    totals = [f"{sum(number for _, number in stack.points):,.0f} {stack.name}" for stack in stacks]
    limit = f"; the latest {MOST_DAYS} days are shown" if len(shown) < len(days) else ""
    summary = f"{', '.join(totals)}, {_describe_days(min(shown), max(shown))}{limit}."
    rows = [[f"{day:%Y-%m-%d}", *(str(shown[day][outcome]) for outcome in RESULTS)] for day in reversed(shown)]
    columns = ["Day", *(stack.name.capitalize() for stack in stacks)]
    return Figure(name, title, summary, columns, rows, stacked_chart(stacks, COUNT))


def _count_checks(records: Sequence[Record]) -> dict[datetime, Counter[Outcome]]:
    days: dict[datetime, Counter[Outcome]] = {}
    for record in records:
        if record.checks:
            day = parse_time(record.when).replace(hour=0, minute=0, second=0, microsecond=0)
            days.setdefault(day, Counter()).update(check.outcome for check in record.checks)
    return days
