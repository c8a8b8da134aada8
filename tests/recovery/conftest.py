"""Fixtures for the tests of what comes after a backup."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.settings.model import Settings

from ..helpers.restores import NEW, OLD, RestoreSetup, make_content
from ..helpers.tasks import clean_environment


@pytest.fixture
def restore_setup(project_settings: Settings, tmp_path: Path, home: Path) -> RestoreSetup:
    """A database with the old content, and a backup with the new one; no service."""
    (tmp_path / "data").mkdir()
    (tmp_path / "backups").mkdir()
    settings = project_settings.model_copy(update={"backup_dir": PurePosixPath(tmp_path / "backups")})
    database = replace(
        settings.database("tracker"),
        source=PurePosixPath(tmp_path / "data" / "sqlite3.db"),
        stop=None,
        start=None,
        healthy=None,
    )
    setup = RestoreSetup(tmp_path, clean_environment(home), database)
    make_content(setup.target, OLD)
    make_content(setup.backup, NEW)
    return setup
