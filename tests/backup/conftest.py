"""Fixtures for the tests of backups: a database on this machine, and a folder for its backups."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.rehearsal.database import make_index
from demo_backups.settings.model import Database, Settings


@pytest.fixture(scope="session")
def index_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small index database in rollback mode, to be copied."""
    path = tmp_path_factory.mktemp("index") / "sqlite3.db"
    make_index(path, torrents=50)
    return path


@pytest.fixture
def database(project_settings: Settings, tmp_path: Path, index_file: Path) -> Database:
    """A small index database, and an empty folder for its backups; both paths need quotes."""
    folders = {
        "app_dir": PurePosixPath(tmp_path / "data\\base 100% #1? it's"),
        "backup_dir": PurePosixPath(tmp_path / 'back\'ups "100%" #1? \\t'),
    }
    database = project_settings.model_copy(update=folders).database("index")
    Path(database.source).parent.mkdir(parents=True)
    Path(database.backup_dir).mkdir()
    shutil.copy(index_file, database.source)
    return database
