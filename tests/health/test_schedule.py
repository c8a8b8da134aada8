"""The longest time between two runs of lines of a crontab."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_backups.backup.cron_lines import CronLine
from demo_backups.backup.cron_syntax import parse_schedule
from demo_backups.health.schedule import longest_interval, read_schedule

HOUR, DAY = 3600.0, 86400.0


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        (["* * * * *"], 60),
        (["*/5 * * * *"], 300),
        (["0 * * * *"], HOUR),
        (["@hourly"], HOUR),
        (["@daily"], DAY),
        (["30 2 * * *"], DAY),
        (["0 3,15 * * *"], 12 * HOUR),
        (["0 3 * * *", "0 15 * * *"], 12 * HOUR),
        (["0 3 * * *", "0 4 * * *"], 23 * HOUR),
        (["0 0 * * *", "0 0 * * *"], DAY),
        (["0 9-17 * * mon-fri"], 64 * HOUR),  # from Friday 17:00 to Monday 9:00
        (["0 9-17 * * mon-fri", "0 0 * * sat,sun"], 33 * HOUR),  # from Sunday 0:00 to Monday 9:00
        (["@weekly"], 7 * DAY),
        (["0 0 1 * *"], 31 * DAY),
        (["0 0 1 * mon"], 7 * DAY),  # one of the two fields is enough
        (["0 0 31 * *"], 61 * DAY),  # from March to May
        (["@yearly"], 366 * DAY),
        (["0 0 29 feb *"], 1461 * DAY),
        (["0 0 29 feb *", "@hourly"], HOUR),
        (["0 0 30 feb *"], None),
        ([], None),
    ],
)
def test_longest_interval_between_two_runs(lines: list[str], seconds: float | None) -> None:
    schedules = [parse_schedule(line) for line in lines]
    assert longest_interval([schedule for schedule in schedules if schedule]) == seconds


@settings(derandomize=True, max_examples=10, deadline=None)
@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, 59), min_size=1), st.sets(st.integers(0, 6), min_size=1)),
        min_size=1,
        max_size=3,
    )
)
def test_interval_agrees_with_list_of_runs(lines: list[tuple[set[int], set[int]]]) -> None:
    schedules = []
    runs = set()
    for minutes, weekdays in lines:
        schedules.append(parse_schedule(f"{','.join(map(str, minutes))} 7 * * {','.join(map(str, weekdays))}"))
        runs |= {(day * 24 + 7) * 60 + minute for day in range(28) if day % 7 in weekdays for minute in minutes}
    ordered = sorted(runs)
    cycle = [*ordered, ordered[0] + 28 * 24 * 60]
    expected = max(after - before for before, after in itertools.pairwise(cycle))
    assert longest_interval([schedule for schedule in schedules if schedule]) == 60 * expected


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        (CronLine("/etc/cron.daily/backup", 0, "run by run-parts"), DAY),
        (CronLine("/etc/cron.hourly/backup", 0, "run by run-parts"), HOUR),
        (CronLine("the crontab of root", 3, "", times="@hourly "), HOUR),
        (CronLine("the crontab of root", 3, "", times="@reboot "), None),
        (CronLine("the crontab of root", 3, "", times="0~9 * * * * "), None),
        (CronLine("/etc/anacrontab", 3, "", times="1 5 backup "), None),
    ],
)
def test_schedule_of_a_line_is_read(line: CronLine, seconds: float | None) -> None:
    schedule = read_schedule(line)
    assert (longest_interval([schedule]) if schedule else None) == seconds
