"""The longest time between two runs of some lines of a crontab."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    runs = list(_list_runs(list(schedules)))
    if not runs:
        return None
    following = [*runs[1:], runs[0] + CYCLE_DAYS * MINUTES_PER_DAY]
    return 60.0 * max(after - before for before, after in zip(runs, following, strict=True))


def _list_runs(schedules: Sequence[Schedule]) -> Iterator[int]:
    """List the first and the last run of each day, and those between with the longest time between them.

    The times are in minutes since FIRST_DAY.
    """
    minutes = [_minutes_of_day(schedule) for schedule in schedules]
    known: dict[tuple[bool, ...], list[int]] = {}
    for number in range(CYCLE_DAYS):
        day = FIRST_DAY + timedelta(days=number)
        key = (day.month, day.day, day.isoweekday() % 7)
        active = tuple(key in schedule.days for schedule in schedules)
        if active not in known:
            times = {time for times, runs in zip(minutes, active, strict=True) if runs for time in times}
            known[active] = _shorten(sorted(times))
        yield from (number * MINUTES_PER_DAY + time for time in known[active])


def _minutes_of_day(schedule: Schedule) -> list[int]:
    return [hour * 60 + minute for hour in schedule.hours for minute in schedule.minutes]


def _shorten(times: Sequence[int]) -> list[int]:
    """Return of the times of a day the first, the last, and two that have the longest time between them."""
    if len(times) < 3:
        return list(times)
    longest = max(range(1, len(times)), key=lambda index: times[index] - times[index - 1])
    return sorted({times[0], times[longest - 1], times[longest], times[-1]})
