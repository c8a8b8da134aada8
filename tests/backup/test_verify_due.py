"""When a verification is due: which records count, and what the task does if none is due."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import COULD_NOT_LOOK, FAILED, WRONG_INPUT
from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import VerificationDetails, VerificationRecord
from demo_backups.records.store import write_record
from demo_backups.settings.model import Settings
from demo_backups.workflows.due_tasks import find_recent_verification

from ..helpers.backups import make_backup
from ..helpers.databases import damage_index
from ..helpers.tasks import DemoServer, assert_exit, assert_success, read_json

PASSED = Check("integrity", Outcome.PASSED, "integrity_check: ok")
FAILURE = Check("integrity", Outcome.FAILED, "integrity_check: not ok")
UNKNOWN = Check("source", Outcome.UNKNOWN, "")


def write_verification(settings: Settings, hours: float, *checks: Check, **details: Any) -> VerificationRecord:
    """Write the record of a verification, so many hours ago."""
    record = VerificationRecord(
        host=settings.host,
        database="index",
        when=(datetime.now(timezone.utc) - timedelta(hours=hours)).isoformat(),
        checks=list(checks),
        details=VerificationDetails(**{"newest": True} | details),
    )
    write_record(Path(settings.evidence_dir), record)
    return record


@pytest.fixture
def settings(project_settings: Settings, tmp_path: Path) -> Settings:
    """Settings with a directory of records of the test's own; a verification is due after 20 hours."""
    return project_settings.model_copy(update={"evidence_dir": str(tmp_path / "evidence")})


@pytest.mark.parametrize(
    ("hours", "checks", "details", "is_recent"),
    [
        pytest.param(19, [PASSED], {}, True, id="good"),
        pytest.param(21, [PASSED], {}, False, id="too old"),
        pytest.param(-1, [PASSED], {}, False, id="clock was set back"),
        pytest.param(1, [], {}, False, id="ended before its checks"),
        pytest.param(1, [PASSED, UNKNOWN], {}, False, id="not all checks"),
        pytest.param(1, [FAILURE], {}, False, id="failed"),
        pytest.param(1, [PASSED], {"quick": True}, False, id="quick"),
        pytest.param(1, [PASSED], {"newest": False}, False, id="selected backup"),
        pytest.param(1, [PASSED], {"compared": False}, False, id="not compared"),
    ],
)
def test_good_verification_counts(
    settings: Settings, hours: float, checks: list[Check], details: dict[str, bool], is_recent: bool
) -> None:
    write_verification(settings, 30, PASSED)
    record = write_verification(settings, hours, *checks, **details)
    found = find_recent_verification(settings, "index", compare=True)
    assert found == (record if is_recent else None)


def test_uncompared_counts_without_comparison(settings: Settings) -> None:
    record = write_verification(settings, 1, PASSED, compared=False)
    assert find_recent_verification(settings, "index", compare=False) == record


def test_failure_since_makes_it_due(settings: Settings) -> None:
    write_verification(settings, 3, PASSED)
    write_verification(settings, 2, FAILURE)
    write_verification(settings, 1)  # could not connect
    assert find_recent_verification(settings, "index", compare=True) is None


def test_damaged_record_does_not_count(settings: Settings) -> None:
    write_verification(settings, 1, PASSED)
    (path,) = Path(settings.evidence_dir).iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    assert find_recent_verification(settings, "index", compare=True) is None


def test_due_verification_runs_once(demo_server: DemoServer) -> None:
    backup = make_backup(demo_server.source, demo_server.backups)
    assert "due" not in read_json(demo_server.inv("verify", "--due", "--json"))
    again = read_json(demo_server.inv("verify", "--due", "--json", INVOKE_SSH_CONFIG="/dev/null"))
    assert list(again) == ["host", "database", "due", "backup", "source", "checks", "passed"]
    assert (again["due"], again["passed"], again["backup"]["path"]) == (False, True, str(backup))
    assert len(demo_server.records()) == 1
    assert "the last good one was at" in assert_success(demo_server.inv("verify", "--due"))
    damage_index(backup)
    assert_exit(demo_server.inv("verify", "--due", INVOKE_VERIFY_EVERY="0"), FAILED)
    assert_exit(demo_server.inv("verify", "--due"), FAILED)  # since the last one failed


@pytest.mark.parametrize("flags", [["--quick"], ["--backup", "backup_2026-01-31_12-00-00.db"]])
def test_due_takes_newest_backup_only(demo_server: DemoServer, flags: list[str]) -> None:
    assert_exit(demo_server.inv("verify", "--due", *flags), WRONG_INPUT, "--due verifies the newest backup")


def test_missing_source_matters_if_compared(demo_server: DemoServer) -> None:
    make_backup(demo_server.source, demo_server.backups)
    demo_server.source.unlink()
    assert_exit(demo_server.inv("verify"), COULD_NOT_LOOK)
    result = read_json(demo_server.inv("verify", "--no-compare", "--json"))
    assert [check["name"] for check in result["checks"]] == ["created", "size", "integrity", "query"]
    assert demo_server.records()[-1]["details"]["compared"] is False
