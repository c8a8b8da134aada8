"""`inv prune-copies` deletes the fetched backups that the settings do not keep, and says why for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from demo_backups.errors import COULD_NOT_LOOK, FAILED, WRONG_INPUT
from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import FetchDetails
from demo_backups.records.store import write_record

from .helpers.constants import NOBODY, root_only
from .helpers.records import make_record
from .helpers.tasks import CompletedTask, InvRunner, assert_exit, assert_success, read_json, read_records

Add = Callable[..., Path]
Inv = Callable[..., CompletedTask]
KEEP_TWO_DAYS = {"INVOKE_COPIES_DAILY": "2", "INVOKE_COPIES_WEEKLY": "0", "INVOKE_COPIES_MONTHLY": "0"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The directory of all copies."""
    return tmp_path / "copies"


@pytest.fixture
def evidence(home: Path) -> Path:
    """The directory of the records."""
    return home / "evidence"


@pytest.fixture
def add(folder: Path) -> Add:
    """Create a copy that is some days old; return its path."""

    def add_copy(days: float, host: str = "demo", prefix: str = "backup_", shift: float = 0) -> Path:
        time = datetime.now(timezone.utc).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=days)
        path = folder / host / time.strftime(f"{prefix}%Y-%m-%d_%H-%M-%S.db")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
        end = time.timestamp() + shift * 3600
        os.utime(path, (end, end))
        return path

    return add_copy


@pytest.fixture
def inv(run_inv: InvRunner, folder: Path) -> Inv:
    """Run the task, which keeps two days."""

    def prune(*flags: str, **variables: str) -> CompletedTask:
        return run_inv("prune-copies", *flags, **KEEP_TWO_DAYS | {"INVOKE_FETCH_DIR": str(folder)} | variables)

    return prune


def exists(paths: Sequence[Path]) -> list[bool]:
    return [path.exists() for path in paths]


def test_expired_copies_of_all_hosts_are_deleted(inv: Inv, add: Add, evidence: Path) -> None:
    demo = [add(days) for days in (1, 2, 3, 4)]
    tracker = [add(days, prefix="tracker_backup_") for days in (5, 6, 7)]
    other = [add(days, host="user@other") for days in (8, 9, 10)]
    output = assert_success(inv())
    assert "deleted 4 copies, 28 bytes" in output
    assert exists(demo) == [True, True, False, False]
    assert exists(tracker) == exists(other) == [True, True, False]
    assert [(record["host"], record["database"], record["details"]) for record in read_records(evidence)] == [
        ("demo", "index", {"deleted": [demo[3].name, demo[2].name]}),
        ("demo", "tracker", {"deleted": [tracker[2].name]}),
        ("user@other", "index", {"deleted": [other[2].name]}),
    ]
    assert "deleted 0 copies" in assert_success(inv())
    assert len(read_records(evidence)) == 3


def test_one_database_is_pruned(inv: Inv, add: Add) -> None:
    index = [add(days) for days in (1, 2, 3)]
    tracker = [add(days, prefix="tracker_backup_") for days in (1, 2, 3)]
    assert_success(inv("--database", "tracker"))
    assert exists(index) == [True, True, True]
    assert exists(tracker) == [True, True, False]
    assert_exit(inv("--database", "nothing"), WRONG_INPUT, "nothing")


def test_dry_run_deletes_nothing(inv: Inv, add: Add, evidence: Path) -> None:
    copies = [add(days) for days in (1, 2, 3)]
    output = assert_success(inv("--dry-run"))
    assert "would delete 1 copies" in output
    assert exists(copies) == [True, True, True]
    assert read_records(evidence) == []
    planned = read_json(inv("--dry-run", "--json"))
    assert planned["dry_run"] is True
    assert [(copy["decision"], copy["deleted"]) for copy in planned["copies"]] == [
        ("keep", False),
        ("keep", False),
        ("delete", False),
    ]


def test_json_has_every_copy_and_reason(inv: Inv, add: Add, folder: Path) -> None:
    copies = [add(days) for days in (1, 2, 3)]
    future = add(-40)
    (folder / "demo/notes.txt").touch()
    result = read_json(inv("--json"))
    assert result["policy"] == {"daily": 2, "weekly": 0, "monthly": 0}
    assert result["others"] == [{"file": str(folder / "demo/notes.txt"), "why": "not the name of a backup"}]
    assert {Path(copy["file"]): (copy["decision"], copy["why"], copy["deleted"]) for copy in result["copies"]} == {
        future: ("leave", ["in the future"], False),
        copies[0]: ("keep", [f"daily {copies[0].name[7:17]}"], False),
        copies[1]: ("keep", [f"daily {copies[1].name[7:17]}"], False),
        copies[2]: ("delete", ["not kept by the policy"], True),
    }
    assert {copy["bytes"] for copy in result["copies"]} == {7}


def test_contradicting_times_are_refused(inv: Inv, add: Add) -> None:
    copies = [add(days) for days in (1, 2, 3)]
    wrong = add(4, shift=30)
    done = inv()
    assert done.returncode == FAILED
    assert "times differ" in done.stdout
    assert exists([*copies, wrong]) == [True, True, False, True]


def test_empty_policy_deletes_nothing(inv: Inv, add: Add, evidence: Path) -> None:
    copies = [add(days) for days in (1, 2, 3)]
    assert "empty policy" in assert_success(inv(INVOKE_COPIES_DAILY="0"))
    assert exists(copies) == [True, True, True]
    assert read_records(evidence) == []


def test_verified_and_drilled_copies_are_kept(inv: Inv, add: Add, evidence: Path) -> None:
    copies = [add(days) for days in (1, 2, 3, 4, 5)]
    evidence.mkdir(mode=0o700)
    drilled, verified = copies[4], copies[3]
    created = datetime.fromtimestamp(verified.stat().st_mtime, timezone.utc).isoformat()
    write_record(evidence, make_record("drill", backup=f"/b/{drilled.name}", exit_status=0))
    write_record(
        evidence,
        make_record(
            "fetch",
            backup=f"/b/{verified.name}",
            bytes=7,
            created=created,
            exit_status=0,
            checks=[Check("size", Outcome.PASSED, "")],
            details=FetchDetails(sha256="ab" * 32),
        ),
    )
    output = assert_success(inv())
    assert "newest verified" in output
    assert "last drill" in output
    assert exists(copies) == [True, True, False, True, True]


def test_unreadable_records_prevent_deletion(inv: Inv, add: Add, evidence: Path) -> None:
    copies = [add(days) for days in (1, 2, 3)]
    evidence.touch()
    assert_exit(inv(), COULD_NOT_LOOK, "records")
    assert exists(copies) == [True, True, True]


@pytest.mark.parametrize(("kind", "code"), [("fetch", COULD_NOT_LOOK), ("drill", COULD_NOT_LOOK), ("run", 0)])
def test_invalid_record_prevents_deletion(inv: Inv, add: Add, evidence: Path, kind: str, code: int) -> None:
    copies = [add(days) for days in (1, 2, 3)]
    evidence.mkdir(mode=0o700)
    write_record(evidence, make_record(kind, backup=f"/b/{copies[2].name}", exit_status=0)).write_text("{")
    assert_success(inv("--dry-run"))
    assert inv().returncode == code
    assert exists(copies) == [True, True, code != 0]


def test_links_are_not_followed(inv: Inv, add: Add, folder: Path, tmp_path: Path) -> None:
    copies = [add(days) for days in (1, 2, 3)]
    elsewhere = tmp_path / "elsewhere"
    (folder / "demo").rename(elsewhere)
    (folder / "demo").symlink_to(elsewhere)
    assert "left alone" in assert_success(inv())
    assert exists([elsewhere / copy.name for copy in copies]) == [True, True, True]


def test_running_fetch_is_not_disturbed(inv: Inv, add: Add) -> None:
    copies = [add(days) for days in (1, 2, 3)]
    partial = copies[2].with_name(f".{copies[2].name}.part")
    for path in (partial, partial.with_name(f"{partial.name}.json")):
        path.write_bytes(b"part")
        os.utime(path, (1, 1))
    output = assert_success(inv())
    assert partial.read_bytes() == b"part"
    assert ".part" not in output


@root_only
def test_copy_that_cannot_be_deleted_is_a_failure(inv: Inv, add: Add, evidence: Path) -> None:
    import subprocess

    copies = [add(days) for days in (1, 2, 3, 4)]
    if subprocess.run(["chattr", "+i", copies[3]], check=False, capture_output=True).returncode:
        pytest.skip("the file system has no immutable files")
    try:
        result = read_json(inv("--json"), FAILED)
    finally:
        subprocess.run(["chattr", "-i", copies[3]], check=True)
    assert exists(copies) == [True, True, False, True]
    assert [copy["deleted"] for copy in result["copies"]] == [False, False, True, False]
    assert "Operation not permitted" in result["copies"][3]["error"]
    (record,) = read_records(evidence)
    assert (record["exit_status"], record["details"]) == (FAILED, {"deleted": [copies[2].name]})
    assert copies[3].name in record["error"]


@root_only
def test_directory_of_another_user_is_refused(inv: Inv, add: Add, folder: Path) -> None:
    copies = [add(days) for days in (1, 2, 3)]
    os.chown(folder / "demo", NOBODY, NOBODY)
    assert_exit(inv(), FAILED, "another user")
    assert exists(copies) == [True, True, True]


def test_missing_directory_has_no_copies(inv: Inv) -> None:
    assert "deleted 0 copies" in assert_success(inv())
