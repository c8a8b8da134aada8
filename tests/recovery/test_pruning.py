"""What is below the directory of fetched backups, what the records say about it, and the deletion of a copy."""

from __future__ import annotations

import fcntl
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import CouldNotLookError, LocalDiskError, UnsafePathError
from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import FetchDetails, OffsiteDetails
from demo_backups.recovery.copies import Copy, copies_dir, list_copies, read_copy
from demo_backups.recovery.pruning import delete_copy, find_drilled, find_verified, list_hosts, list_strays
from demo_backups.remote.upload_source import open_source
from demo_backups.settings.model import Settings

from ..helpers.records import make_record

NAME = "backup_2026-01-01_00-00-00.db"
CREATED = datetime(2026, 1, 1, 0, 5, 7, 250_000, tzinfo=timezone.utc)
PASSED = [Check("size", Outcome.PASSED, "")]


@pytest.fixture
def settings(project_settings: Settings, tmp_path: Path) -> Settings:
    return project_settings.model_copy(update={"fetch_dir": str(tmp_path / "copies")})


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    path = tmp_path / NAME
    path.write_bytes(b"content")
    os.utime(path, (CREATED.timestamp(), CREATED.timestamp()))
    found = read_copy(path)
    assert found
    return found


def test_directories_of_hosts_are_listed(settings: Settings, tmp_path: Path) -> None:
    assert list_hosts(settings) == ([], [])
    for host in ("demo", "ssh://u@h:22", ".."):
        copies_dir(settings, host).mkdir(parents=True)
    root = tmp_path / "copies"
    (root / "%2e%2e").mkdir()
    (root / "notes").touch()
    (root / ".hidden").touch()
    (root / "link").symlink_to("demo")
    hosts, strays = list_hosts(settings)
    assert sorted(hosts) == ["..", "demo", "ssh://u@h:22"]
    assert [stray.path.name for stray in strays] == ["%2e%2e", "link", "notes"]


def test_other_files_of_a_host_are_listed(settings: Settings, tmp_path: Path) -> None:
    folder = copies_dir(settings, "demo")
    folder.mkdir(parents=True)
    for name in (NAME, f"tracker_{NAME}", f".{NAME}.part", f"{NAME}-wal", "backup_other.db"):
        (folder / name).touch()
    (folder / "backup_2026-01-02_00-00-00.db").symlink_to(NAME)
    (folder / "backup_2026-01-03_00-00-00.db").mkdir()
    databases = [settings.database(name) for name in settings.databases]
    assert {stray.path.name: stray.reason for stray in list_strays(settings, "demo", databases)} == {
        f"{NAME}-wal": "not the name of a backup",
        "backup_other.db": "not the name of a backup",
        "backup_2026-01-02_00-00-00.db": "not a regular file",
        "backup_2026-01-03_00-00-00.db": "not a regular file",
    }


def test_directory_that_others_can_write_is_refused(settings: Settings) -> None:
    folder = copies_dir(settings, "demo")
    folder.mkdir(parents=True)
    folder.parent.chmod(0o777)
    with pytest.raises(UnsafePathError):
        list_hosts(settings)


def test_file_in_place_of_directory_is_an_error(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "copies").touch()
    with pytest.raises(CouldNotLookError):
        list_hosts(settings)


def test_time_beyond_datetime_is_in_the_future(settings: Settings, tmp_path: Path) -> None:
    folder = copies_dir(settings, "demo")
    folder.mkdir(parents=True)
    (folder / NAME).touch()
    os.utime(folder / NAME, (2**50, 2**50))
    (copy,) = list_copies(settings, "demo", settings.database("index"))
    assert copy.modified.year > 2400  # some file systems store a smaller time


# --- records --------------------------------------------------------------------------------------------------------


def fetch_record(**values: object) -> object:
    defaults: dict[str, Any] = {
        "kind": "fetch",
        "backup": f"/backups/{NAME}",
        "bytes": 7,
        "created": CREATED.isoformat(),
        "exit_status": 0,
        "checks": PASSED,
        "details": FetchDetails(sha256="ab" * 32),
    }
    return make_record(**defaults | values)


def test_fetched_and_checked_copy_is_verified(copy: Copy) -> None:
    assert find_verified([fetch_record()], [copy]) == {NAME}  # type: ignore[list-item]


def test_copy_from_repository_is_verified(copy: Copy) -> None:
    restored = fetch_record(kind="offsite", backup=NAME, details=OffsiteDetails(action="restore", sha256="ab" * 32))
    stored = fetch_record(kind="offsite", backup=NAME, details=OffsiteDetails(action="store", sha256="ab" * 32))
    assert find_verified([restored], [copy]) == {NAME}  # type: ignore[list-item]
    assert find_verified([stored], [copy]) == set()  # type: ignore[list-item]


@pytest.mark.parametrize(
    "values",
    [
        {"checks": []},
        {"checks": [*PASSED, Check("query", Outcome.UNKNOWN, "")]},
        {"checks": [*PASSED, Check("query", Outcome.FAILED, "")]},
        {"exit_status": 3},
        {"exit_status": None},
        {"bytes": 8},
        {"bytes": None},
        {"created": "2026-01-01T00:05:09+00:00"},
        {"created": None},
        {"backup": "/backups/backup_2026-01-02_00-00-00.db"},
        {"backup": None},
        {"details": FetchDetails()},
    ],
)
def test_other_record_verifies_nothing(copy: Copy, values: dict[str, object]) -> None:
    assert find_verified([fetch_record(**values)], [copy]) == set()  # type: ignore[list-item]


def test_verification_of_server_does_not_verify_copy(copy: Copy) -> None:
    record = make_record(
        "verification", backup=f"/b/{NAME}", bytes=7, created=CREATED.isoformat(), exit_status=0, checks=PASSED
    )
    assert find_verified([record], [copy]) == set()


def test_changed_copy_is_not_verified(copy: Copy) -> None:
    copy.path.write_bytes(b"edited!")
    changed = read_copy(copy.path)
    assert changed
    assert find_verified([fetch_record()], [changed]) == set()  # type: ignore[list-item]


def test_last_successful_drill_comes_first(copy: Copy) -> None:
    other = Copy(copy.path.with_name("backup_2026-01-02_00-00-00.db"), 7, CREATED)
    drills = [
        make_record("drill", backup=f"/b/{other.name}", exit_status=0),
        make_record("drill", backup=f"/b/{NAME}", exit_status=0, bytes=7),
        make_record("drill", backup=f"/b/{other.name}", exit_status=1),
        make_record("drill", backup=f"/b/{other.name}", exit_status=0, bytes=8),
        make_record("fetch", backup=f"/b/{other.name}", exit_status=0),
        make_record("drill", exit_status=0),
    ]
    assert find_drilled(drills, [copy, other]) == [NAME, other.name]


# --- deletion -------------------------------------------------------------------------------------------------------


def test_copy_is_deleted_once(copy: Copy) -> None:
    delete_copy(copy)
    assert not copy.path.exists()
    delete_copy(copy)


def test_changed_copy_is_not_deleted(copy: Copy) -> None:
    copy.path.write_bytes(b"edited!")
    with pytest.raises(LocalDiskError, match="has changed"):
        delete_copy(copy)
    assert copy.path.read_bytes() == b"edited!"


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_only_regular_file_is_deleted(copy: Copy, tmp_path: Path, kind: str) -> None:
    copy.path.unlink()
    (tmp_path / "victim").write_bytes(b"content")
    if kind == "link":
        copy.path.symlink_to(tmp_path / "victim")
    elif kind == "directory":
        copy.path.mkdir()
    else:
        os.mkfifo(copy.path)
    with pytest.raises(LocalDiskError, match="has changed"):
        delete_copy(copy)
    assert copy.path.is_symlink() or copy.path.exists()
    assert (tmp_path / "victim").exists()


def test_copy_in_use_is_not_deleted(copy: Copy) -> None:
    with copy.path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(LocalDiskError, match="another task is reading it"):
            delete_copy(copy)
    with open_source(copy.path), pytest.raises(LocalDiskError, match="another task is reading it"):
        delete_copy(copy)
    delete_copy(copy)
    assert not copy.path.exists()
