"""The backups on a host: their names, their order, and which of them a run made."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.backup.catalog import (
    find_new_backup,
    has_hidden_backup,
    list_backups,
)
from demo_backups.backup.names import is_backup_name, is_verified_name
from demo_backups.errors import CouldNotLookError
from demo_backups.remote.files import File
from demo_backups.remote.host import Host
from demo_backups.settings.model import Database, Settings

NAME = "backup_2024-11-24_20-00-00.db"
NOON = datetime(2024, 1, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def folder(database: Database) -> Path:
    """The backup folder."""
    return Path(database.backup_dir)


def make_file(name: str, minutes: int = 0, size: int = 1) -> File:
    """Make a file that was written so many minutes after noon."""
    return File(PurePosixPath("/b") / name, size, NOON + timedelta(minutes=minutes))


def after_noon(minutes: int) -> float:
    """Return a time in seconds since 1970."""
    return (NOON + timedelta(minutes=minutes)).timestamp()


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "database"),
    [
        (NAME, "index"),
        (f"tracker_{NAME}", "tracker"),
        (f"{NAME}-journal", None),
        (f"{NAME}.part", None),
        (f".{NAME}", None),
        (f"my_{NAME}", None),
        (f"{NAME}\n", None),
        ("backup_2024-11-24.db", None),
        ("backup_2024-11-24_20-00-0x.db", None),
        ("backup_2024-11-24_20-00-00xdb", None),
        ("backup_.db", None),
        ("", None),
    ],
)
def test_backup_is_identified_by_name(project_settings: Settings, name: str, database: str | None) -> None:
    databases = [project_settings.database(owner) for owner in ("index", "tracker")]
    expected = [database] if database else []
    assert [owner.name for owner in databases if is_backup_name(owner, name)] == expected
    verified = f"verified.{name}"
    assert [owner.name for owner in databases if is_verified_name(owner, verified)] == expected
    assert not any(is_backup_name(owner, verified) or is_verified_name(owner, name) for owner in databases)


# --- the list -------------------------------------------------------------------------------------------------------


def test_list_is_sorted_newest_first(local_host: Host, database: Database, folder: Path) -> None:
    for number, day in enumerate(("23", "25", "24")):
        path = folder / f"backup_2024-11-{day}_00-00-00.db"
        path.write_bytes(bytes(number))
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    for other in (f"tracker_{NAME}", f"{NAME}-journal", ".backup.part", "backup_by_hand.db", "notes.txt"):
        (folder / other).touch()
    (folder / "below").mkdir()
    (folder / "below" / NAME).touch()
    backups = list_backups(local_host, database)
    assert [(backup.path.name[15:17], backup.bytes) for backup in backups] == [("24", 2), ("25", 1), ("23", 0)]
    assert {backup.path.parent for backup in backups} == {database.backup_dir}


def test_same_time_is_sorted_by_name(local_host: Host, database: Database, folder: Path) -> None:
    names = [f"backup_2024-11-24_20-00-{second:02}.db" for second in range(20)]
    for name in names:
        (folder / name).touch()
        os.utime(folder / name, (1_700_000_000, 1_700_000_000))
    assert [backup.path.name for backup in list_backups(local_host, database)] == names[::-1]


def test_missing_folder_is_not_an_empty_list(local_host: Host, database: Database, folder: Path) -> None:
    assert list_backups(local_host, database) == []
    folder.rmdir()
    with pytest.raises(CouldNotLookError, match="backups in") as caught:
        list_backups(local_host, database)
    assert "No such file or directory" in caught.value.output


# --- the new one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ([], [], None),
        ([], ["a"], "a"),
        (["a"], ["a"], None),
        (["a"], ["b", "a"], "b"),
        (["a", "b"], ["c"], "c"),  # the rotation deleted two
        (["a", "b"], ["b"], None),
        (["a"], ["c", "b", "a"], "b"),  # cron ran afterwards: the first one
        (["a"], ["a", "b"], "b"),  # whatever the clock says
    ],
)
def test_new_backup_is_first_unknown_name(before: list[str], after: list[str], new: str | None) -> None:
    files = [make_file(name, -number) for number, name in enumerate(after)]
    found = find_new_backup(before, files, after_noon(1))
    assert (found.path.name if found else None) == new


def test_rewritten_backup_is_not_new() -> None:
    assert find_new_backup([NAME], [make_file(NAME, 5, size=9)], after_noon(9)) is None


def test_backup_after_end_belongs_to_other_run() -> None:
    assert find_new_backup([], [make_file("b", 6)], after_noon(5)) is None
    assert find_new_backup([], [make_file("b", 6), make_file("a", 5)], after_noon(5)) == make_file("a", 5)


# --- a running one --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["", "maybe"])
def test_invalid_lock_answer_is_not_a_no(
    local_host: Host, database: Database, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not has_hidden_backup(local_host, database)
    monkeypatch.setattr("demo_backups.backup.catalog.is_locked_command", lambda path: f"echo '{output}'")
    with pytest.raises(CouldNotLookError):
        has_hidden_backup(local_host, database)


def test_new_backup_after_clock_was_set_back() -> None:
    files = [make_file("b", 6), make_file("a", 5), make_file(NAME, 4)]
    assert find_new_backup([NAME], files, after_noon(-60), start=after_noon(3)) == make_file("a", 5)
    assert find_new_backup([NAME, "a", "b"], files, after_noon(-60), start=after_noon(3)) is None
