"""The longest time between two runs of some lines of a crontab."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import PurePosixPath

from ..backup.cron_lines import CronLine
from ..backup.cron_syntax import Schedule, parse_schedule

# Dates and weekdays repeat after 28 years, as long as no century interrupts the leap years.
FIRST_DAY, LAST_DAY = date(2001, 1, 1), date(2028, 12, 31)
CYCLE_DAYS = (LAST_DAY - FIRST_DAY).days + 1
MINUTES_PER_DAY = 24 * 60
RUN_PARTS = {"cron.hourly": "@hourly", "cron.daily": "@daily", "cron.weekly": "@weekly", "cron.monthly": "@monthly"}


def read_schedule(line: CronLine) -> Schedule | None:
    """Return when cron runs a line, or a script of run-parts; None if that is not certain, as for @reboot."""
    if line.number == 0:
        return parse_schedule(RUN_PARTS.get(PurePosixPath(line.table).parent.name, ""))
    return parse_schedule(line.times)


def longest_interval(schedules: Iterable[Schedule]) -> float | None:
    """Return the longest time between two runs of any of some lines, in seconds; None if they never run.

    A change to summer time, which moves runs by an hour, is not considered.
    """
    days = [(day, runs) for day, runs in _list_days(list(schedules)) if runs]
    if not days:
        return None
    longest = max(runs.longest for _, runs in days)
    following = [*days[1:], (days[0][0] + CYCLE_DAYS, days[0][1])]
    for (day, runs), (next_day, next_runs) in zip(days, following, strict=True):
        longest = max(longest, (next_day - day) * MINUTES_PER_DAY + next_runs.first - runs.last)
    return 60.0 * longest


@dataclass(frozen=True)
class _DayRuns:
    """The first and the last run of a day, in minutes, and the longest time between two of its runs."""

    first: int
    last: int
    longest: int


def _list_days(schedules: Sequence[Schedule]) -> Iterator[tuple[int, _DayRuns | None]]:
    """List the days of a cycle by their numbers, with their runs."""
    known: dict[tuple[bool, ...], _DayRuns | None] = {}
    for number, day in enumerate(_list_dates()):
        active = tuple(day in schedule.days for schedule in schedules)
        if active not in known:
            known[active] = _combine([schedule for schedule, runs in zip(schedules, active, strict=True) if runs])
        yield number, known[active]


@functools.cache
def _list_dates() -> list[tuple[int, int, int]]:
    """List the days of a cycle as a Schedule has them: month, day of the month and weekday."""
    dates = (FIRST_DAY + timedelta(days=number) for number in range(CYCLE_DAYS))
    return [(day.month, day.day, day.isoweekday() % 7) for day in dates]


def _combine(schedules: Sequence[Schedule]) -> _DayRuns | None:
    """Combine the runs of some lines on the same day; None if there are none."""
    times = sorted({hour * 60 + minute for item in schedules for hour in item.hours for minute in item.minutes})
    if not times:
        return None
    longest = max((after - before for before, after in itertools.pairwise(times)), default=0)
    return _DayRuns(times[0], times[-1], longest)
