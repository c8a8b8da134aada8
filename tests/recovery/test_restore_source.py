"""What shows that a backup is good, so that a restore does not verify it again."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import (
    FetchDetails,
    FetchRecord,
    OffsiteDetails,
    OffsiteRecord,
    Record,
    VerificationDetails,
)
from demo_backups.recovery.copies import Copy
from demo_backups.recovery.restore_copy import LocalBackup, find_copy_record, is_verified
from demo_backups.recovery.restore_facts import RestoreSource, find_size_problem, parse_saved_name, saved_name
from demo_backups.recovery.restore_source import find_verification
from demo_backups.settings.model import Database, Settings
from demo_backups.sqlite.inspect import Header

from ..helpers.records import make_record

SOURCE = RestoreSource(
    PurePosixPath("/b/backup_2026-01-31_12-00-00.db"),
    8192,
    datetime(2026, 1, 31, 12, tzinfo=timezone.utc),
    Header(8192, False, 4096),
)
CHECKS = ("created", "size", "integrity", "query", "source")


def verification(**changes: Any) -> Record:
    """Make the record of a good verification of the backup, with changes."""
    checks = [Check(name, Outcome.PASSED, "") for name in CHECKS]
    values = {
        "backup": str(SOURCE.path),
        "bytes": SOURCE.bytes,
        "created": SOURCE.modified.isoformat(),
        "checks": checks,
    }
    return make_record("verification", **values | changes)


def with_outcome(name: str, outcome: Outcome) -> Record:
    """Make a record in which one check has another outcome."""
    return verification(checks=[Check(check, outcome if check == name else Outcome.PASSED, "") for check in CHECKS])


def is_good(*records: Record) -> bool:
    return find_verification(records, "demo", "index", SOURCE) is not None


def test_good_verification_counts() -> None:
    assert is_good(verification())


@pytest.mark.parametrize("name", ["query", "source"])
def test_comparison_with_live_database_does_not_matter(name: str) -> None:
    assert is_good(with_outcome(name, Outcome.FAILED))


@pytest.mark.parametrize("name", ["created", "size", "integrity"])
@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.UNKNOWN])
def test_other_checks_must_have_passed(name: str, outcome: Outcome) -> None:
    assert not is_good(with_outcome(name, outcome))


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "other"},
        {"database": "tracker"},
        {"backup": "/b/backup_2026-01-30_12-00-00.db"},
        {"bytes": 4096},
        {"created": "2026-01-31T12:00:01+00:00"},
        {"details": VerificationDetails(quick=True)},
        {"checks": []},
    ],
    ids=str,
)
def test_verification_of_something_else_does_not_count(changes: dict[str, Any]) -> None:
    assert not is_good(verification(**changes))


def test_latest_verification_decides() -> None:
    bad = replace(with_outcome("integrity", Outcome.FAILED), when="2026-02-02T00:00:00+00:00")
    good = replace(verification(), when="2026-02-01T00:00:00+00:00")
    assert not is_good(bad, good)
    assert is_good(replace(bad, when="2026-01-31T13:00:00+00:00"), good)


def test_time_in_another_zone_is_the_same() -> None:
    assert is_good(verification(created="2026-01-31T13:00:00+01:00"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"bytes": 0}, "empty"),
        ({"header": None}, "header of a database"),
        ({"bytes": 4096}, "its header says 8,192"),
    ],
    ids=str,
)
def test_size_must_be_that_of_header(changes: dict[str, Any], problem: str) -> None:
    found = find_size_problem(replace(SOURCE, **changes))
    assert problem in found
    assert bool(found) == bool(problem)


# --- saved states ---------------------------------------------------------------------------------------------------


@pytest.fixture
def index(project_settings: Settings) -> Database:
    """The index database of the settings."""
    return project_settings.database("index")


@pytest.mark.parametrize("raw", [False, True])
def test_name_of_saved_state_is_parsed(index: Database, raw: bool) -> None:
    name = saved_name(index.backup_prefix, "2026-01-31_12-00-00", raw)
    assert parse_saved_name(index, name) is raw


@pytest.mark.parametrize(
    "name",
    [
        "backup_2026-01-31_12-00-00.db",
        "saved.tracker_backup_2026-01-31_12-00-00.db",
        "saved.backup_2026-01-31_12-00-00.db-wal",
        "saved.backup_2026-01-31_12-00-00.raw.db-wal",
        "saved.backup_x.db",
    ],
)
def test_other_name_is_no_saved_state(index: Database, name: str) -> None:
    assert parse_saved_name(index, name) is None


# --- fetched backups ------------------------------------------------------------------------------------------------


def fetch_record(when: str, file: str | None, name: str, sha256: str | None) -> FetchRecord:
    """Make the record of a fetch."""
    record = make_record("fetch", when=when, backup=f"/b/{name}", details=FetchDetails(file=file, sha256=sha256))
    assert isinstance(record, FetchRecord)
    return record


def test_record_of_the_file_comes_before_its_name(index: Database) -> None:
    same_name = fetch_record("2026-02-02T00:00:00+00:00", "/elsewhere/a.db", "a.db", "2")
    same_file = fetch_record("2026-02-01T00:00:00+00:00", "/copies/a.db", "a.db", "1")
    assert find_copy_record([same_name, same_file], index, Path("/copies/a.db")) is same_file
    assert find_copy_record([same_name], index, Path("/copies/a.db")) is same_name


def test_fetch_without_hash_or_of_another_file_is_ignored(index: Database) -> None:
    records = [
        fetch_record("2026-02-02T00:00:00+00:00", "/copies/a.db", "a.db", None),
        fetch_record("2026-02-02T00:00:00+00:00", "/copies/b.db", "b.db", "2"),
    ]
    assert find_copy_record(records, index, Path("/copies/a.db")) is None


def test_copy_from_repository_has_a_record(index: Database) -> None:
    restored, stored = (
        make_record("offsite", backup="a.db", details=OffsiteDetails(action=action, file="/copies/a.db", sha256="1"))
        for action in ("restore", "store")
    )
    assert find_copy_record([stored, restored], index, Path("/copies/a.db")) is restored
    assert find_copy_record([stored], index, Path("/copies/a.db")) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, True),
        ({"checks": []}, False),
        ({"checks": [Check("query", Outcome.UNKNOWN, "")]}, False),
        ({"exit_status": 1}, False),
        ({"kind": "fetch", "details": FetchDetails(sha256="1", verified=True)}, True),
    ],
)
def test_only_passed_checks_verify_a_copy(values: dict[str, Any], expected: bool) -> None:
    defaults: dict[str, Any] = {
        "kind": "offsite",
        "checks": [Check("integrity", Outcome.PASSED, "")],
        "exit_status": 0,
        "details": OffsiteDetails(action="restore", sha256="1"),
    }
    record = make_record(**defaults | values)
    assert isinstance(record, (FetchRecord, OffsiteRecord))
    assert is_verified(LocalBackup(Copy(Path("/copies/a.db"), 1, datetime.now(timezone.utc)), record)) is expected
