"""Fixtures for the tests of the backup scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..helpers.backup_script import ScriptSetup, make_database
from ..helpers.tasks import clean_environment


@pytest.fixture(scope="session")
def counter_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest database with counters, to be copied."""
    path = tmp_path_factory.mktemp("counters") / "small.db"
    make_database(path)
    return path


@pytest.fixture(scope="session")
def large_counter_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database whose backup can be stopped in the middle, to be copied."""
    path = tmp_path_factory.mktemp("counters") / "large.db"
    make_database(path, megabytes=40)
    return path


@pytest.fixture
def setup(tmp_path: Path, home: Path, counter_file: Path) -> ScriptSetup:
    """A small database, and an empty folder for its backups."""
    setup = ScriptSetup(tmp_path / "database" / "sqlite3.db", tmp_path / "backups", clean_environment(home))
    setup.folder.mkdir()
    setup.source.parent.mkdir()
    setup.source.write_bytes(counter_file.read_bytes())
    return setup
