"""The decision about each fetched backup: by the policy, the verified ones and the drills, and by its times."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_backups.backup.names import LARGEST_DIFFERENCE
from demo_backups.recovery.copies import Copy
from demo_backups.recovery.retention import (
    CLOCK_TOLERANCE,
    EMPTY_POLICY,
    FUTURE,
    LARGEST_OFFSET,
    NO_TIME,
    TIMES_DIFFER,
    Decision,
    Judgement,
    judge_copies,
)
from demo_backups.settings.model import CopiesSettings, Database

NOW = datetime(2026, 6, 30, 12, tzinfo=timezone.utc)
DATABASE = Database(
    name="index",
    source=Path("/x.db"),  # type: ignore[arg-type]
    script=Path("/x.sh"),  # type: ignore[arg-type]
    local_script=Path("/x.sh"),
    backup_dir=Path("/b"),  # type: ignore[arg-type]
    backup_prefix="backup_",
    query="SELECT 1",
)


def make_policy(daily: int = 0, weekly: int = 0, monthly: int = 0) -> CopiesSettings:
    return CopiesSettings(daily=daily, weekly=weekly, monthly=monthly)


def make_copy(start: datetime, end: datetime | None = None, bytes_: int = 1) -> Copy:
    """A copy that started at a local time, by default that of UTC, and ended then or at another time."""
    name = start.strftime("backup_%Y-%m-%d_%H-%M-%S.db")
    return Copy(Path("/copies") / name, bytes_, end or start.replace(tzinfo=timezone.utc))


def judge(copies: list[Copy], policy: CopiesSettings, **options: list[str]) -> list[Judgement]:
    return judge_copies(copies, policy, NOW, **options)


def kept(judgements: list[Judgement]) -> dict[str, tuple[str, ...]]:
    return {
        judgement.copy.name[7:-3]: judgement.reasons for judgement in judgements if judgement.decision is Decision.KEPT
    }


# --- the policy -----------------------------------------------------------------------------------------------------


def test_newest_of_each_day_is_kept() -> None:
    copies = [make_copy(datetime(2026, 6, day, hour)) for day in (1, 2, 4) for hour in (3, 9, 21)]
    assert kept(judge(copies, make_policy(daily=2))) == {
        "2026-06-04_21-00-00": ("daily 2026-06-04",),
        "2026-06-02_21-00-00": ("daily 2026-06-02",),
    }


def test_iso_week_at_turn_of_year() -> None:
    copies = [make_copy(datetime(2025, 12, 28)), make_copy(datetime(2025, 12, 29)), make_copy(datetime(2026, 1, 4))]
    assert kept(judge(copies, make_policy(weekly=5))) == {
        "2026-01-04_00-00-00": ("weekly 2026-W01",),
        "2025-12-28_00-00-00": ("weekly 2025-W52",),
    }


def test_months_and_several_reasons() -> None:
    copies = [make_copy(datetime(2026, month, day)) for month in (4, 5, 6) for day in (1, 15)]
    assert kept(judge(copies, make_policy(daily=1, monthly=2))) == {
        "2026-06-15_00-00-00": ("daily 2026-06-15", "monthly 2026-06"),
        "2026-05-15_00-00-00": ("monthly 2026-05",),
    }


def test_day_is_that_of_server_and_newest_that_of_clock() -> None:
    """At the end of summer time, the second of two backups has the earlier time in its name."""
    first = make_copy(datetime(2025, 10, 26, 2, 50), datetime(2025, 10, 26, 0, 50, tzinfo=timezone.utc))
    second = make_copy(datetime(2025, 10, 26, 2, 10), datetime(2025, 10, 26, 1, 10, tzinfo=timezone.utc))
    assert list(kept(judge([first, second], make_policy(daily=1)))) == ["2025-10-26_02-10-00"]
    # Its modification time is on the next day by UTC.
    evening = make_copy(datetime(2025, 10, 26, 23), datetime(2025, 10, 27, 4, tzinfo=timezone.utc))
    assert list(kept(judge([second, evening], make_policy(daily=7)))) == ["2025-10-26_23-00-00"]


# --- what is not judged ---------------------------------------------------------------------------------------------


def test_empty_policy_deletes_nothing() -> None:
    judgements = judge([make_copy(datetime(2026, 1, day)) for day in (1, 2)], make_policy())
    assert {judgement.reasons for judgement in judgements} == {(EMPTY_POLICY,)}


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("seconds", "refused"), [(0, False), (1, True)])
def test_copy_whose_times_differ_is_refused(sign: int, seconds: int, refused: bool) -> None:
    start = datetime(2026, 6, 1)
    end = start.replace(tzinfo=timezone.utc) + sign * (LARGEST_DIFFERENCE + timedelta(seconds=seconds))
    others = [make_copy(datetime(2026, 6, 20, hour)) for hour in (1, 2)]
    judgements = {each.copy: each for each in judge([make_copy(start, end), *others], make_policy(daily=1))}
    judgement = judgements[make_copy(start, end)]
    assert judgement.is_refused == refused
    assert (judgement.reasons == (TIMES_DIFFER,)) == refused
    assert (judgement.decision is Decision.LEFT) == refused


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (LARGEST_OFFSET + timedelta(seconds=1), timedelta()),
        (timedelta(), CLOCK_TOLERANCE + timedelta(seconds=1)),
        (timedelta(days=400), timedelta(days=400)),
        (timedelta(), datetime.max.replace(tzinfo=timezone.utc) - NOW),
    ],
)
def test_future_copy_takes_no_place(start: timedelta, end: timedelta) -> None:
    future = make_copy((NOW + start).replace(tzinfo=None), NOW + end)
    old = make_copy(datetime(2026, 6, 1))
    judgements = {each.copy: each for each in judge([future, old], make_policy(daily=1))}
    assert judgements[future].reasons == (FUTURE,)
    assert judgements[old].decision is Decision.KEPT


def test_recent_copy_of_any_zone_is_no_future_one() -> None:
    copy = make_copy((NOW + LARGEST_OFFSET).replace(tzinfo=None), NOW + CLOCK_TOLERANCE)
    assert judge([copy], make_policy(daily=1))[0].decision is Decision.KEPT


def test_impossible_date_in_name_is_not_judged() -> None:
    copy = Copy(Path("/copies/backup_2026-02-30_00-00-00.db"), 1, NOW)
    assert [each.reasons for each in judge([copy], make_policy(daily=1))] == [(NO_TIME,)]


# --- what is kept in any case ---------------------------------------------------------------------------------------


def test_newest_verified_and_last_drill_are_kept() -> None:
    names = [make_copy(datetime(2026, 6, day)).name for day in range(1, 9)]
    copies = [make_copy(datetime(2026, 6, day)) for day in range(1, 9)]
    judgements = judge(
        copies, make_policy(daily=1), verified=[names[0], names[2]], drilled=["gone.db", names[1], names[0]]
    )
    assert kept(judgements) == {
        "2026-06-08_00-00-00": ("daily 2026-06-08",),
        "2026-06-03_00-00-00": ("newest verified",),
        "2026-06-02_00-00-00": ("last drill",),
    }


# --- for all copies and policies ------------------------------------------------------------------------------------

STARTS = st.datetimes(datetime(2023, 12, 25), datetime(2026, 7, 3)).map(lambda time: time.replace(microsecond=0))
COPIES = st.lists(
    st.builds(
        lambda start, shift: make_copy(start, start.replace(tzinfo=timezone.utc) + timedelta(minutes=shift)),
        STARTS,
        st.integers(-30 * 60, 30 * 60),
    ),
    max_size=25,
    unique_by=lambda copy: copy.name,
)
POLICIES = st.builds(make_policy, st.integers(0, 8), st.integers(0, 8), st.integers(0, 8))


def not_deleted(judgements: list[Judgement]) -> list[Copy]:
    return [judgement.copy for judgement in judgements if judgement.decision is not Decision.DELETED]


@given(COPIES, POLICIES, st.data())
def test_verified_and_drilled_copies_are_never_deleted(
    copies: list[Copy], policy: CopiesSettings, data: st.DataObject
) -> None:
    names = [copy.name for copy in copies]
    verified = data.draw(st.sets(st.sampled_from(names))) if names else set()
    drilled = data.draw(st.permutations(names))
    left = not_deleted(judge_copies(copies, policy, NOW, verified, drilled))
    if verified:
        newest = max((copy for copy in copies if copy.name in verified), key=lambda copy: copy.modified)
        assert newest.modified in {copy.modified for copy in left if copy.name in verified}
    if drilled:
        assert drilled[0] in {copy.name for copy in left}


@given(COPIES, POLICIES, st.data())
def test_second_decision_deletes_nothing(copies: list[Copy], policy: CopiesSettings, data: st.DataObject) -> None:
    names = [copy.name for copy in copies]
    verified = data.draw(st.sets(st.sampled_from(names))) if names else set()
    drilled = data.draw(st.permutations(names))
    first = not_deleted(judge_copies(copies, policy, NOW, verified, drilled))
    second = judge_copies(first, policy, NOW, verified, drilled)
    assert not_deleted(second) == first


@given(COPIES, POLICIES, POLICIES)
def test_larger_policy_keeps_more(copies: list[Copy], policy: CopiesSettings, more: CopiesSettings) -> None:
    larger = make_policy(policy.daily + more.daily, policy.weekly + more.weekly, policy.monthly + more.monthly)
    few, many = judge(copies, policy), judge(copies, larger)
    if policy != make_policy():
        assert set(not_deleted(few)) <= set(not_deleted(many))


@given(COPIES, POLICIES)
def test_a_copy_is_always_left(copies: list[Copy], policy: CopiesSettings) -> None:
    judgements = judge(copies, policy)
    judged = [judgement for judgement in judgements if judgement.decision is not Decision.LEFT]
    if judged:
        assert any(judgement.decision is Decision.KEPT for judgement in judged)
    assert len(judgements) == len(copies)
