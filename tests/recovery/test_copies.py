"""The fetched backups on this machine are listed and checked."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

import pytest

from demo_backups.errors import CouldNotLookError, UnsafePathError
from demo_backups.project import ROOT
from demo_backups.records.check import Outcome
from demo_backups.recovery.copies import copies_dir, hash_file, list_copies, read_copy
from demo_backups.recovery.copy_checks import check_copy
from demo_backups.rehearsal.database import make_index
from demo_backups.remote.host import Host
from demo_backups.settings.model import Settings

from ..helpers.constants import NOBODY, root_only
from ..helpers.databases import damage_pages

NAMES = ["backup_2026-01-01_00-00-00.db", "backup_2026-01-02_00-00-00.db"]


@pytest.fixture
def settings(project_settings: Settings, tmp_path: Path) -> Settings:
    return project_settings.model_copy(update={"fetch_dir": str(tmp_path / "copies")})


@pytest.fixture
def folder(settings: Settings) -> Path:
    folder = copies_dir(settings, "demo")
    folder.mkdir(parents=True)
    return folder


def names(settings: Settings, database: str = "index") -> list[str]:
    return [copy.name for copy in list_copies(settings, "demo", settings.database(database))]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("demo", "demo"),
        ("user@demo.example", "user@demo.example"),
        ("..", "%2E."),
        (".", "%2E"),
        ("a/../b", "a%2F..%2Fb"),
        ("ssh://u@h:22", "ssh%3A%2F%2Fu@h%3A22"),
        ("ü", "%C3%BC"),
    ],
)
def test_directory_of_a_host_stays_inside(project_settings: Settings, host: str, name: str) -> None:
    assert copies_dir(project_settings, host) == ROOT / ".backups" / name


def test_only_backups_of_the_database_are_listed(settings: Settings, folder: Path) -> None:
    for name in [*NAMES, "tracker_backup_2026-01-03_00-00-00.db", f".{NAMES[0]}.part", "backup_other.db", "notes"]:
        (folder / name).write_bytes(b"content")
    (folder / "backup_2026-01-04_00-00-00.db").mkdir()
    (folder / "backup_2026-01-05_00-00-00.db").symlink_to(NAMES[0])
    assert names(settings) == NAMES[::-1]
    assert names(settings, "tracker") == ["tracker_backup_2026-01-03_00-00-00.db"]


def test_copy_has_size_and_time(settings: Settings, folder: Path) -> None:
    path = folder / NAMES[0]
    path.write_bytes(b"content")
    os.utime(path, (1_700_000_000.5, 1_700_000_000.5))
    (copy,) = list_copies(settings, "demo", settings.database("index"))
    assert (copy.path, copy.bytes) == (path, 7)
    assert copy.modified == datetime.fromtimestamp(1_700_000_000.5, timezone.utc)
    assert read_copy(folder / "missing") is None


def test_missing_directory_has_no_copies(settings: Settings) -> None:
    assert names(settings) == []


def test_unreadable_directory_is_not_empty(settings: Settings, folder: Path) -> None:
    folder.rmdir()
    folder.symlink_to("nowhere")
    with pytest.raises(CouldNotLookError):
        names(settings)
    folder.unlink()
    folder.touch()
    with pytest.raises(CouldNotLookError):
        names(settings)


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_directory_writable_by_others_is_refused(settings: Settings, folder: Path, mode: int) -> None:
    folder.chmod(mode)
    with pytest.raises(UnsafePathError):
        names(settings)


@root_only
def test_directory_of_another_user_is_refused(settings: Settings, folder: Path) -> None:
    os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(UnsafePathError):
        names(settings)


def test_good_copy_passes_its_checks(settings: Settings, folder: Path, local_host: Host) -> None:
    path = folder / NAMES[0]
    make_index(path, torrents=5)
    checks = check_copy(local_host, settings.database("index"), path)
    assert [(check.name, check.outcome) for check in checks] == [
        ("size", Outcome.PASSED),
        ("integrity", Outcome.PASSED),
        ("query", Outcome.PASSED),
    ]
    assert [path.name for path in folder.iterdir()] == [NAMES[0]]


def test_damaged_copy_fails_integrity(settings: Settings, folder: Path, local_host: Host) -> None:
    path = folder / NAMES[0]
    make_index(path, torrents=500)
    damage_pages(path)
    outcomes = {check.name: check.outcome for check in check_copy(local_host, settings.database("index"), path)}
    assert outcomes["integrity"] is Outcome.FAILED


def test_empty_and_missing_copies_do_not_pass(settings: Settings, folder: Path, local_host: Host) -> None:
    database = settings.database("index")
    (folder / NAMES[0]).touch()
    empty = {check.name: check.outcome for check in check_copy(local_host, database, folder / NAMES[0])}
    assert (empty["size"], empty["query"]) == (Outcome.FAILED, Outcome.FAILED)
    missing = [check.outcome for check in check_copy(local_host, database, folder / NAMES[1])]
    assert missing == [Outcome.FAILED, Outcome.UNKNOWN, Outcome.UNKNOWN]


def test_query_without_row_fails(settings: Settings, folder: Path, local_host: Host) -> None:
    path = folder / NAMES[0]
    make_index(path, torrents=0)
    outcomes = {check.name: check.outcome for check in check_copy(local_host, settings.database("index"), path)}
    assert outcomes == {"size": Outcome.PASSED, "integrity": Outcome.PASSED, "query": Outcome.FAILED}


def test_hash_reports_progress(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    sizes: list[int] = []
    assert hash_file(tmp_path / "file", sizes.append).startswith("ba7816bf8f01cfea")
    assert sizes == [3]


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_impossible_path_in_record_is_unknown(tmp_path: Path, name: str) -> None:
    with pytest.raises(CouldNotLookError):
        read_copy(tmp_path / name)
