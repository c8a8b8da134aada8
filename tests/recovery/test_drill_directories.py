"""Where a drill restores to, for a login that can read the backup and cannot link it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.errors import DrillError
from demo_backups.recovery.drill_directories import Scratch, prepare_directory, prepare_scratch, require_space
from demo_backups.remote.host import Host
from demo_backups.settings.model import Database, Settings


@pytest.fixture
def database(project_settings: Settings, tmp_path: Path) -> Database:
    """A database with a directory for its backups."""
    (tmp_path / "backups").mkdir()
    return replace(project_settings.database("index"), backup_dir=PurePosixPath(tmp_path / "backups"))


def prepare(host: Host, database: Database, backup: Path, directory: Path) -> Scratch:
    """Prepare a drill of a backup."""
    login, real = prepare_directory(host, PurePosixPath(directory))
    return prepare_scratch(host, database, login, real, PurePosixPath(backup))


def test_linkable_backup_is_not_copied(local_host: Host, database: Database, tmp_path: Path) -> None:
    backup = Path(database.backup_dir) / "backup_2026-01-31_12-00-00.db"
    backup.touch()
    scratch = prepare(local_host, database, backup, tmp_path / "drill")
    assert (scratch.copies, scratch.link) == (False, scratch.work / ".backup.db")
    assert [path.name for path in (tmp_path / "drill").iterdir()] == []


def test_unlinkable_backup_needs_twice_the_space(local_host: Host, database: Database, tmp_path: Path) -> None:
    # A missing file cannot be linked, as one of another user.
    backup = Path(database.backup_dir) / "backup_2026-01-31_12-00-00.db"
    scratch = prepare(local_host, database, backup, tmp_path / "drill")
    assert (scratch.copies, scratch.link) == (True, scratch.work / ".backup.db")
    size = shutil.disk_usage(tmp_path).free * 2 // 3
    with pytest.raises(DrillError, match="more needed"):
        require_space(scratch, size, 0)
