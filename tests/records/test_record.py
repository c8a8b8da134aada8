"""The record of each kind: its details, its JSON, and records of earlier versions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import (
    KINDS,
    RehearsalDetails,
    RunDetails,
    Traffic,
    VerificationDetails,
    VerificationRecord,
    new_record,
    validate_record,
)

from ..helpers.records import SCHEMA_1, make_full_record, make_record


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_same_fields(kind: str) -> None:
    record = new_record(kind, "demo", "index")
    assert record.kind == kind
    assert list(record.as_json()) == list(make_record().as_json())
    assert record.as_json()["details"] == {}


@pytest.mark.parametrize(
    "record",
    [
        make_record(),
        make_full_record(),
        make_record("verification", details=VerificationDetails(source_bytes=None, quick=True)),
        make_record(
            "rehearsal",
            details=RehearsalDetails(
                waited_seconds=0.0,
                source_bytes=5,
                journal="wal",
                asked_commits_per_second=200.0,
                traffic=Traffic(commits=5, failed=0, slowest=0.5),
            ),
        ),
    ],
    ids=["least", "full", "verification", "rehearsal"],
)
def test_json_is_read_back(record: Any) -> None:
    assert validate_record(json.loads(json.dumps(record.as_json()))) == record


def test_schema_1_is_readable() -> None:
    content = json.loads(SCHEMA_1)
    record = validate_record(content)
    assert isinstance(record, VerificationRecord)
    assert record.checks == [Check("size", Outcome.FAILED, "it is empty")]
    assert record.as_json() == content | {"who": "", "commands": [], "created": None}


@pytest.mark.parametrize(
    ("kind", "details"),
    [
        ("run", {"waited_seconds": 0.25}),
        ("verification", {"source_bytes": 2_301_952}),
        ("verification", {"source_bytes": None}),
        (
            "rehearsal",
            {"waited_seconds": 0.0, "source_bytes": 5, "journal": "delete", "asked_commits_per_second": 200.0},
        ),
        ("rehearsal", {"traffic": {"commits": 2, "failed": 0, "slowest": 0.1}}),
        ("deploy", {}),
        ("deploy", {"later": [1.5, {"version": None}]}),
    ],
)
def test_details_of_schema_2_are_unchanged(kind: str, details: dict[str, Any]) -> None:
    content = make_record(kind).as_json() | {"details": details}
    assert validate_record(content).as_json() == content


@pytest.mark.parametrize(
    ("details", "detail", "quick"),
    [
        ({}, "quick_check: ok", True),
        ({}, "integrity_check: ok", False),
        ({"quick": True}, "ok", True),
        ({"quick": False}, "quick_check: ok", False),
    ],
)
def test_quick_check_of_earlier_version_is_known(details: dict[str, Any], detail: str, quick: bool) -> None:
    check = {"name": "integrity", "passed": True, "detail": detail}
    record = validate_record(make_record("verification").as_json() | {"details": details, "checks": [check]})
    assert isinstance(record, VerificationRecord)
    assert record.details.quick is quick


@pytest.mark.parametrize(
    ("kind", "details"),
    [
        ("run", {"waited_seconds": "long"}),
        ("run", {"waited_seconds": float("nan")}),
        ("run", {"job_started": "9999-12-31T00:00:00+00:00"}),
        ("verification", {"source_bytes": "5"}),
        ("verification", {"source_bytes": True}),
        ("verification", {"source_bytes": -1}),
        ("verification", {"source_bytes": 10**400}),
        ("verification", {"quick": "yes"}),
        ("rehearsal", {"traffic": {"commits": 2}}),
        ("rehearsal", {"traffic": []}),
        ("deploy", []),
    ],
)
def test_invalid_details_are_rejected(kind: str, details: Any) -> None:
    with pytest.raises(ValidationError):
        validate_record(make_record(kind).as_json() | {"details": details})


def test_outcome_without_checks_is_passed() -> None:
    assert make_record().outcome is Outcome.PASSED
    assert make_full_record().outcome is Outcome.UNKNOWN


def test_details_belong_to_their_kind() -> None:
    assert not isinstance(make_record("verification").details, RunDetails)
    assert isinstance(make_record("rehearsal").details, RunDetails | VerificationDetails)
