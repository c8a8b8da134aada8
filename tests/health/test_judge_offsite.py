"""What follows from the records of off-site copies and of checks of their repository."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from demo_backups.health.judge_records import judge_coverage, judge_local
from demo_backups.health.local_facts import LocalFacts
from demo_backups.health.record_judge import Records
from demo_backups.health.state import Health, State
from demo_backups.records.check import Check
from demo_backups.records.record import OffsiteDetails, Record
from demo_backups.records.store import InvalidRecord
from demo_backups.remote.fact import Unavailable
from demo_backups.settings.load import validate_settings
from demo_backups.settings.model import Settings

from ..helpers.dated_records import DENIED, FAILED, NOW, PASSED, UNDECIDED, backup, copy, invalid, record
from .conftest import worst_finding

OK, WARNING, CRITICAL, UNKNOWN = State.OK, State.WARNING, State.CRITICAL, State.UNKNOWN
DAYS = 24.0


@pytest.fixture
def settings(project_settings: Settings) -> Settings:
    """Return settings with an off-site repository, to which a copy is stored every seven days."""
    return set_up(project_settings)


def set_up(settings: Settings) -> Settings:
    """Add an off-site repository to settings."""
    values = settings.model_dump(mode="json")
    return validate_settings(values | {"offsite": values["offsite"] | {"repository": "/srv/repository"}})


def store(age: float, check: Check | None = PASSED, action: str = "store", **values: Any) -> Record:
    """Make the record of an off-site copy of some hours ago."""
    details = OffsiteDetails(action=action, repository=values.pop("repository", "a"))
    return record(age, "offsite", check, details=details, **values)


def reading(age: float, check: Check | None = PASSED, part: int | None = 1, **values: Any) -> Record:
    """Make the record of a check of the repository some hours ago, which read a part of its data."""
    parts = values.pop("parts", 3)
    details = OffsiteDetails(action="check", repository=values.pop("repository", "a"), part=part, parts=parts)
    places = {"database": "", "backup": None, "created": None, "bytes": None}
    return record(age, "offsite", check, details=details, **places | values)


def judge(
    settings: Settings, name: str, records: list[Record], damaged: list[InvalidRecord] | None = None
) -> tuple[State, str]:
    """Judge records, and return the worst state and the texts of a name."""
    facts = LocalFacts(Records(tuple(records), tuple(damaged or [])), ())
    findings = judge_local(facts, settings, "demo", "index", NOW)
    assert all(finding.text.isprintable() for finding in findings)
    return worst_finding(Health("demo", "index", tuple(findings)), name)


@pytest.mark.parametrize(
    ("records", "state", "text"),
    [
        ([], WARNING, "no off-site copy yet"),
        ([store(2 * DAYS)], OK, "off-site 2 d ago"),
        ([store(10.5 * DAYS)], OK, "off-site 10 d ago"),
        ([store(10.6 * DAYS)], WARNING, "off-site 10 d ago (limit 10 d)"),
        ([store(3, database="tracker"), store(3, host="other"), reading(3)], WARNING, "no off-site copy yet"),
        ([store(3, check=None, error="full", exit_status=1)], WARNING, "no off-site copy yet"),
        ([store(3, action="restore")], WARNING, "no off-site copy yet"),
        ([store(3, check=UNDECIDED)], WARNING, "no off-site copy yet completely"),
        ([store(-1)], WARNING, "no off-site copy yet"),  # from before this machine's clock was set back
        # A failure counts until a later copy of the same or a newer backup is good.
        ([store(5), store(3, check=FAILED)], CRITICAL, "off-site copy of backup_09.db failed 3 h ago: integrity: x"),
        ([store(5), store(3, check=FAILED, action="restore")], CRITICAL, "off-site copy of backup_09.db failed"),
        ([store(5), store(3, check=FAILED), store(2, check=None)], CRITICAL, "failed 3 h ago"),
        ([store(3, check=FAILED), store(2, older=5)], CRITICAL, "failed 3 h ago"),
        ([store(3, check=FAILED), store(2, action="restore")], CRITICAL, "failed 3 h ago"),
        ([store(3, check=FAILED), store(2)], OK, "off-site 2 h ago"),
        ([store(5), reading(3, check=FAILED)], OK, "off-site 5 h ago"),  # which is another finding
        # Another repository took the place of the one with the fault.
        ([store(5), store(3, check=FAILED), store(1, repository="b")], OK, "off-site 60 min ago"),
        ([store(5), store(1, action="restore", repository="b"), reading(1, repository="b")], OK, "off-site 5 h ago"),
        ([store(5), store(1, check=None, repository="b")], WARNING, "no off-site copy yet"),
        ([store(5), reading(-1, repository="b")], OK, "off-site 5 h ago"),
        ([store(5), store(3, check=FAILED, repository=None)], CRITICAL, "failed 3 h ago"),
    ],
)
def test_offsite_copies_are_judged(settings: Settings, records: Any, state: State, text: str) -> None:
    found, texts = judge(settings, "offsite", records)
    assert (found, text in texts) == (state, True), texts


@pytest.mark.parametrize(
    ("records", "state", "text"),
    [
        ([], WARNING, "off-site repository never checked"),
        ([reading(2 * DAYS)], OK, "off-site repository checked 2 d ago"),
        ([reading(10.6 * DAYS)], WARNING, "off-site repository checked 10 d ago (limit 10 d)"),
        ([reading(3, host="other")], OK, "off-site repository checked 3 h ago"),  # the copies of all hosts are there
        ([store(3)], WARNING, "never checked"),
        ([reading(3, check=None, error="locked")], WARNING, "never checked"),
        ([reading(3, check=UNDECIDED)], WARNING, "never checked completely"),
        # What failed must be read again without a fault.
        ([reading(5), reading(3, check=FAILED)], CRITICAL, "check of the off-site repository failed 3 h ago"),
        ([reading(5, part=2, check=FAILED), reading(4, part=1)], CRITICAL, "failed 5 h ago"),
        ([reading(5, part=2, check=FAILED), reading(4, part=2)], OK, "checked 4 h ago"),
        ([reading(5, part=2), reading(4, part=2, check=FAILED)], CRITICAL, "failed 4 h ago"),
        ([reading(5, part=1, check=FAILED), reading(4, part=1, parts=2)], CRITICAL, "failed 5 h ago"),
        (
            [reading(5, part=3, check=FAILED), reading(4, part=1, parts=2), reading(3, part=2, parts=2)],
            OK,
            "checked 3 h ago",
        ),
        ([reading(5, part=None, parts=None, check=FAILED), reading(4, part=2)], OK, "checked 4 h ago"),
        ([reading(5, part=2, check=FAILED), reading(4, part=2, check=UNDECIDED)], CRITICAL, "failed 5 h ago"),
        ([reading(5, part=2, check=FAILED), reading(-1, part=2)], CRITICAL, "failed 5 h ago"),
        # Another repository.
        ([reading(5, check=FAILED), reading(4, repository="b", part=2)], OK, "checked 4 h ago"),
        ([reading(5, check=FAILED), store(4, repository="b")], WARNING, "never checked"),
        ([reading(5, check=FAILED), store(4), reading(3, repository="b")], CRITICAL, "failed 5 h ago"),
    ],
)
def test_checks_of_repository_are_judged(settings: Settings, records: Any, state: State, text: str) -> None:
    found, texts = judge(settings, "repository", records)
    assert (found, text in texts) == (state, True), texts


def invalid_reading(age: float) -> InvalidRecord:
    """Make the file of a damaged record of a check of the repository."""
    damaged = invalid(age, "offsite", "other")
    return InvalidRecord(damaged.path.with_name(damaged.path.name.replace("index", "")), damaged.reason)


@pytest.mark.parametrize(
    ("damaged", "states"),
    [
        (invalid(2, "offsite"), (UNKNOWN, OK)),
        (invalid(4, "offsite"), (OK, OK)),
        (invalid(2, "offsite", "other"), (OK, OK)),
        (invalid_reading(2), (OK, UNKNOWN)),
        (invalid_reading(4), (OK, OK)),
    ],
)
def test_damaged_record_is_unknown(settings: Settings, damaged: InvalidRecord, states: tuple[State, State]) -> None:
    records = [store(3), reading(3)]
    found = (judge(settings, "offsite", records, [damaged])[0], judge(settings, "repository", records, [damaged])[0])
    assert found == states


def test_unreadable_records_are_unknown(settings: Settings) -> None:
    findings = judge_local(LocalFacts(DENIED, ()), settings, "demo", "index", NOW)
    assert {(finding.name, finding.state) for finding in findings} >= {("offsite", UNKNOWN)}


def test_offsite_without_repository_is_not_judged(project_settings: Settings) -> None:
    for records in (Records(), Records((store(3, check=FAILED), reading(3, check=FAILED))), DENIED):
        assert isinstance(records, (Records, Unavailable))
        findings = judge_local(LocalFacts(records, ()), project_settings, "demo", "index", NOW)
        assert not {finding.name for finding in findings} & {"offsite", "repository"}


@pytest.mark.parametrize(
    ("backups", "copies", "records", "state"),
    [
        ([backup(1)], [], [], OK),  # which is another finding
        ([backup(1)], [], [store(3, older=20 * DAYS)], OK),
        ([backup(11 * DAYS)], [], [store(3, older=20 * DAYS)], WARNING),
        ([backup(1)], [copy(11 * DAYS)], [store(3, older=20 * DAYS)], WARNING),  # the rotation has deleted it
        ([backup(1)], [copy(11 * DAYS)], [store(3, older=20 * DAYS), store(9)], OK),
        ([backup(1)], [copy(11 * DAYS)], [store(3, older=20 * DAYS), store(9, check=FAILED)], WARNING),
        ([backup(1)], [copy(11 * DAYS, seconds=-1)], [store(3, older=11 * DAYS - 3)], OK),  # the same backup
        ([backup(1)], [copy(-50)], [store(3, older=11 * DAYS)], OK),
    ],
)
def test_copy_that_is_not_offsite_is_found(
    settings: Settings, backups: Any, copies: Any, records: Any, state: State
) -> None:
    findings = judge_coverage(backups, copies, records, settings, "demo", "index", NOW.timestamp())
    assert [(finding.name, finding.state) for finding in findings] == ([] if state is OK else [("offsite", state)])
    assert timedelta(hours=10.5 * DAYS).total_seconds() == settings.offsite.every * 1.5


def test_coverage_without_repository_is_not_judged(project_settings: Settings) -> None:
    records = [store(3, older=20 * DAYS)]
    assert not judge_coverage([backup(11 * DAYS)], [], records, project_settings, "demo", "index", NOW.timestamp())
