"""Which fetched backups to keep: the newest of each of the last days, weeks and months that have one.

A copy has two times: that in its name, at which the backup started, in the local time of the server; and its
modification time, at which the backup ended. The first decides the day, week and month that it belongs to, the second
which of two copies is newer. A copy whose times cannot both be right is not judged.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from ..backup.names import LARGEST_DIFFERENCE, parse_start_time
from ..settings.model import CopiesSettings
from .copies import Copy

LARGEST_OFFSET = timedelta(hours=14)  # of the local time of a server from UTC
CLOCK_TOLERANCE = timedelta(hours=1)  # by which the clock of a server may be fast

DAILY, WEEKLY, MONTHLY = "daily", "weekly", "monthly"  # reasons to keep a copy, followed by the day, week or month
NEWEST_VERIFIED, LAST_DRILL = "newest verified", "last drill"
EXPIRED = "not kept by the policy"  # the reason to delete one
EMPTY_POLICY, FUTURE, TIMES_DIFFER, NO_TIME = "empty policy", "in the future", "times differ", "no time in its name"


class Decision(enum.Enum):
    """What to do with a copy: LEFT is not judged, and not deleted."""

    KEPT = "keep"
    DELETED = "delete"
    LEFT = "leave"


@dataclass(frozen=True)
class Judgement:
    """What to do with a copy, and why."""

    copy: Copy
    decision: Decision
    reasons: tuple[str, ...]

    @property
    def is_refused(self) -> bool:
        """Tell whether the copy was not judged because its times contradict each other."""
        return TIMES_DIFFER in self.reasons


def judge_copies(
    copies: Iterable[Copy],
    policy: CopiesSettings,
    now: datetime,
    verified: Iterable[str] = (),
    drilled: Iterable[str] = (),
) -> list[Judgement]:
    """Decide for each copy of a database whether to keep it; the newest first.

    `verified` are the names of the copies that passed their checks; the newest of them is kept. `drilled` are the names
    of those that a drill restored, the last one first; the first that is among the copies is kept.
    """
    newest_first = sorted(copies, key=lambda copy: (copy.modified, copy.name), reverse=True)
    problems = {copy: _find_problem(copy, policy, now) for copy in newest_first}
    judged = [copy for copy in newest_first if problems[copy] is None]
    reasons = _apply_policy(judged, policy)
    names = {copy.name: copy for copy in judged}
    verified_names = set(verified)
    for name in [copy.name for copy in judged if copy.name in verified_names][:1]:
        reasons[names[name]].append(NEWEST_VERIFIED)
    for name in [name for name in drilled if name in names][:1]:
        reasons[names[name]].append(LAST_DRILL)
    return [_judge(copy, problems[copy], reasons.get(copy, [])) for copy in newest_first]


def _judge(copy: Copy, problem: str | None, reasons: Sequence[str]) -> Judgement:
    if problem:
        return Judgement(copy, Decision.LEFT, (problem,))
    if reasons:
        return Judgement(copy, Decision.KEPT, tuple(reasons))
    return Judgement(copy, Decision.DELETED, (EXPIRED,))


def _apply_policy(newest_first: Sequence[Copy], policy: CopiesSettings) -> dict[Copy, list[str]]:
    """Find the reasons to keep each copy: the newest one of each of the last days, weeks and months."""
    periods: list[tuple[str, int, Callable[[datetime], str]]] = [
        (DAILY, policy.daily, lambda time: time.date().isoformat()),
        (WEEKLY, policy.weekly, _name_week),
        (MONTHLY, policy.monthly, lambda time: time.date().isoformat()[:7]),
    ]
    reasons: dict[Copy, list[str]] = {copy: [] for copy in newest_first}
    for word, count, name_period in periods:
        newest: dict[str, Copy] = {}
        for copy in newest_first:
            newest.setdefault(name_period(parse_start_time(copy.name)), copy)
        for period in sorted(newest, reverse=True)[:count]:
            reasons[newest[period]].append(f"{word} {period}")
    return reasons


def _name_week(time: datetime) -> str:
    year, week, _ = time.isocalendar()
    return f"{year:04}-W{week:02}"


def _find_problem(copy: Copy, policy: CopiesSettings, now: datetime) -> str | None:
    """Say why a copy cannot be judged; None if it can."""
    if policy.is_empty:
        return EMPTY_POLICY
    try:
        start = parse_start_time(copy.name).replace(tzinfo=timezone.utc)
    except ValueError:
        return NO_TIME
    # As numbers: a time far in the future cannot be added to.
    seconds = start.timestamp(), copy.modified.timestamp()
    latest = (now + LARGEST_OFFSET).timestamp(), (now + CLOCK_TOLERANCE).timestamp()
    if seconds[0] > latest[0] or seconds[1] > latest[1]:
        return FUTURE
    return TIMES_DIFFER if abs(seconds[0] - seconds[1]) > LARGEST_DIFFERENCE.total_seconds() else None
