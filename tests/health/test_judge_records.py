"""What follows from the records and the fetched copies on this machine: tables of facts and findings."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from demo_backups.health.judge_records import judge_changes, judge_coverage, judge_local
from demo_backups.health.local_facts import LocalFacts
from demo_backups.health.record_judge import Records
from demo_backups.health.state import Health, State
from demo_backups.records.check import Check
from demo_backups.records.record import FetchDetails, Record, VerificationDetails
from demo_backups.records.store import InvalidRecord
from demo_backups.remote.files import File
from demo_backups.settings.load import validate_settings
from demo_backups.settings.model import Settings

from ..helpers.dated_records import DENIED, FAILED, NOW, PASSED, UNDECIDED, backup, copy, invalid, record
from .conftest import HOUR, worst_finding

OK, WARNING, CRITICAL, UNKNOWN = State.OK, State.WARNING, State.CRITICAL, State.UNKNOWN


def judge(settings: Settings, facts: LocalFacts, name: str) -> tuple[State, str]:
    """Judge facts, and return the worst state and the texts of a name."""
    findings = judge_local(facts, settings, "demo", "index", NOW)
    assert all(finding.text.isprintable() for finding in findings)
    return worst_finding(Health("demo", "index", tuple(findings)), name)


QUICK = VerificationDetails(quick=True)


@pytest.mark.parametrize(
    ("records", "state", "text"),
    [
        ([], WARNING, "never verified"),
        ([record(3)], OK, "verified 3 h ago"),
        ([record(30)], OK, "verified 30 h ago"),  # 1.5 times 20 h
        ([record(30.1)], WARNING, "verified 30 h ago (limit 30 h)"),
        ([record(3), record(50)], OK, "verified 3 h ago"),
        # Other records do not count.
        ([record(3, "drill")], WARNING, "never verified"),
        ([record(3, host="other"), record(3, database="tracker")], WARNING, "never verified"),
        ([record(3, details=QUICK)], WARNING, "never verified completely"),
        ([record(3, check=UNDECIDED)], WARNING, "never verified completely"),
        ([record(3, check=None, exit_status=3)], WARNING, "never verified"),
        ([record(-1)], WARNING, "never verified"),  # from before this machine's clock was set back
        ([record(-1), record(2)], OK, "verified 2 h ago"),
        # A failure counts until a later one of the same or a newer backup is good.
        ([record(5), record(3, check=FAILED)], CRITICAL, "verification of backup_09.db failed 3 h ago: integrity: x"),
        ([record(3, check=FAILED, details=QUICK)], CRITICAL, "failed 3 h ago"),
        ([record(3, check=FAILED), record(2, details=QUICK)], CRITICAL, "failed 3 h ago"),
        ([record(3, check=FAILED), record(2, check=UNDECIDED)], CRITICAL, "failed 3 h ago"),
        ([record(3, check=FAILED), record(2, check=None)], CRITICAL, "failed 3 h ago"),
        ([record(3, check=FAILED), record(2, older=5)], CRITICAL, "failed 3 h ago"),
        ([record(3, check=FAILED), record(2)], OK, "verified 2 h ago"),
        ([record(3, check=FAILED), record(2, older=1)], OK, "verified 2 h ago"),
        ([record(3, check=FAILED, created=None, backup=None), record(2)], OK, "verified 2 h ago"),
        ([record(-1, check=FAILED), record(2)], CRITICAL, "failed"),
        # A good one that is dated in the future may be older than the failure.
        ([record(5), record(3, check=FAILED), record(-1)], CRITICAL, "failed 3 h ago"),
        ([record(-1, check=FAILED), record(-2), record(2)], OK, "verified 2 h ago"),
        # The later failure of an older backup, settled, hides no earlier one of a newer backup.
        ([record(5, check=FAILED), record(4, check=FAILED, older=9), record(3, older=10)], CRITICAL, "failed 5 h ago"),
    ],
)
def test_verifications_are_judged(project_settings: Settings, records: Any, state: State, text: str) -> None:
    found, texts = judge(project_settings, LocalFacts(Records(tuple(records)), ()), "verification")
    assert (found, text in texts) == (state, True), texts


@pytest.mark.parametrize(
    ("damaged", "state"),
    [
        ([invalid(2)], UNKNOWN),
        ([invalid(4)], OK),  # older than a good one
        ([invalid(2, host="other")], OK),
        ([invalid(2, kind="run")], OK),
        ([InvalidRecord(Path("/e/x_verification_demo_index.json"), "it is empty")], UNKNOWN),
        ([InvalidRecord(Path("/e/2026-99-99T99-99-99_verification_demo_index.json"), "")], UNKNOWN),
    ],
)
def test_damaged_record_is_unknown(project_settings: Settings, damaged: list[InvalidRecord], state: State) -> None:
    facts = LocalFacts(Records((record(3),), tuple(damaged)), ())
    assert judge(project_settings, facts, "verification")[0] is state


def test_damaged_record_is_not_never(project_settings: Settings) -> None:
    damaged = (invalid(100), invalid(100, "drill"), invalid(100, "fetch"))
    for name in ("verification", "drill", "copy"):
        assert judge(project_settings, LocalFacts(Records((), damaged), ()), name)[0] is UNKNOWN


@pytest.mark.parametrize(
    ("records", "changes", "state", "text"),
    [
        ([], {}, OK, ""),
        ([], {"drill_command": "true"}, WARNING, "no drill yet"),
        ([], {"drill_dir": "/srv/drill"}, WARNING, "no drill yet"),
        ([record(12 * 24, "drill")], {}, OK, "drill 12 d ago"),
        ([record(45 * 24, "drill")], {}, OK, "drill 45 d ago"),
        ([record(45.1 * 24, "drill")], {}, WARNING, "drill 45 d ago (limit 45 d)"),
        ([record(3, "drill", check=FAILED)], {}, CRITICAL, "drill of backup_09.db failed 3 h ago"),
        ([record(3, "drill", check=None)], {}, WARNING, "no drill yet"),
        ([record(3, "drill", exit_status=4)], {}, OK, "drill 3 h ago"),  # it has left files
    ],
)
def test_drills_are_judged_if_set_up(
    project_settings: Settings, records: Any, changes: dict[str, str], state: State, text: str
) -> None:
    settings = validate_settings(project_settings.model_dump(mode="json") | changes)
    found, texts = judge(settings, LocalFacts(Records(tuple(records)), ()), "drill")
    assert (found, text in texts) == (state, True), texts


def fetch(age: float, check: Check | None = PASSED, file: str | None = "/c/backup_09.db", **values: Any) -> Record:
    """Make the record of a fetch of some hours ago."""
    return record(age, "fetch", check, details=FetchDetails(file=file), **values)


@pytest.mark.parametrize(
    ("records", "copies", "fetched", "state", "text"),
    [
        ([], (), None, OK, ""),
        ([fetch(5)], (), copy(5), OK, "copy 5 h old"),
        ([fetch(31)], (), copy(31), WARNING, "copy 31 h old (limit 30 h)"),
        ([fetch(5)], (), copy(5, seconds=1), OK, "copy 5 h old"),
        ([fetch(5)], (), copy(5, size=4), CRITICAL, "was changed"),
        ([fetch(5)], (), copy(4), CRITICAL, "was changed"),
        ([fetch(5)], (), None, WARNING, "is missing"),
        ([fetch(5)], (), DENIED, UNKNOWN, "could not look"),
        ([fetch(5), fetch(3, check=FAILED)], (), copy(5), CRITICAL, "failed 3 h ago"),
        ([fetch(5), fetch(3, check=UNDECIDED)], (), copy(3), OK, "copy 3 h old"),
        ([fetch(5), fetch(3, error="lost")], (), copy(5), OK, "copy 5 h old"),
        ([fetch(3, check=None, file=None)], (), None, WARNING, "no copy yet"),
        ([fetch(5), fetch(-1)], (), copy(5), OK, "copy 5 h old"),  # from before this machine's clock was set back
        ([], (copy(5),), None, OK, "copy of a backup 5 h old"),
        ([], (copy(31),), None, WARNING, "copy of a backup 31 h old (limit 30 h)"),
        ([], (copy(-3),), None, WARNING, "dated in the future"),
        ([], (copy(-3), copy(5)), None, OK, "copy of a backup 5 h old"),
        ([], DENIED, None, UNKNOWN, "could not look"),
    ],
)
def test_copies_are_judged(
    project_settings: Settings, records: Any, copies: Any, fetched: Any, state: State, text: str
) -> None:
    found, texts = judge(project_settings, LocalFacts(Records(tuple(records)), copies, fetched), "copy")
    assert (found, text in texts) == (state, True), texts


@pytest.mark.parametrize(
    ("records", "state"),
    [
        ([], OK),
        ([record(3)], OK),
        ([record(3, bytes=4)], CRITICAL),
        ([record(3, created=NOW.isoformat())], CRITICAL),
        ([record(3, bytes=4), record(2, older=1)], OK),  # it was verified again
        ([record(3, created="2026-01-31T14:30:00+05:30")], OK),  # the same time
        ([record(3, bytes=4, check=FAILED)], OK),
        ([record(3, bytes=4, host="other")], OK),
        ([record(3, bytes=4, database="tracker")], OK),
        ([record(3, bytes=4, kind="drill")], OK),
        ([record(3, bytes=None, created=None)], OK),
    ],
)
def test_change_after_verification_is_found(records: list[Record], state: State) -> None:
    file = File(PurePosixPath("/srv/backup_09.db"), 5, NOW - timedelta(hours=3))
    findings = judge_changes([file], records, "demo", "index")
    assert [finding.state for finding in findings] == ([] if state is OK else [state])


HOURLY = [backup(hours + 0.5) for hours in range(100)]
WEEKLY = [backup(0.5), backup(7 * 24 + 0.5)]


@pytest.mark.parametrize(
    ("backups", "records", "state"),
    [
        (HOURLY, [], OK),  # which is another finding
        (HOURLY, [record(29)], OK),
        (HOURLY, [record(3, older=60)], WARNING),  # verify --backup of an old one
        (HOURLY, [record(3, older=60), record(20)], OK),
        (HOURLY, [record(3, older=60), record(20, check=FAILED)], WARNING),
        (HOURLY, [record(3, older=60), record(20, host="other"), record(20, database="tracker")], WARNING),
        (HOURLY, [record(3, older=60), record(20, details=QUICK)], WARNING),
        (HOURLY, [record(3, older=60), record(20, older=-30)], WARNING),  # of a backup that is dated in the future
        (HOURLY, [record(3, created=None)], OK),
        (WEEKLY, [record(8, older=7 * 24 - 7.5)], OK),  # the next one is due in time
        (WEEKLY, [record(8, older=14 * 24)], WARNING),
        ([], [record(3, older=60)], OK),
    ],
)
def test_old_backup_does_not_count_as_newest(
    project_settings: Settings, backups: list[File], records: list[Record], state: State
) -> None:
    findings = judge_coverage(backups, (), records, project_settings, "demo", "index", NOW.timestamp())
    assert [finding.state for finding in findings] == ([] if state is OK else [state])


@pytest.mark.parametrize(
    ("records", "state"),
    [
        ([fetch(29)], OK),
        ([fetch(3, older=60)], WARNING),
        ([fetch(3, older=60), fetch(20)], OK),
        ([fetch(3, older=60), fetch(20, check=FAILED)], WARNING),
    ],
)
def test_fetch_of_old_backup_is_not_enough(project_settings: Settings, records: list[Record], state: State) -> None:
    findings = judge_coverage(HOURLY, (), records, project_settings, "demo", "index", NOW.timestamp())
    assert [finding.name for finding in findings] == ([] if state is OK else ["copy"])


def test_age_is_of_last_good_record(project_settings: Settings) -> None:
    facts = LocalFacts(Records((record(50), record(3, check=UNDECIDED))), ())
    assert judge(project_settings, facts, "verification") == (WARNING, "verified 2 d ago (limit 30 h)")
    assert project_settings.verify_every < 50 * HOUR
