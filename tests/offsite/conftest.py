"""Fixtures for the tests of the off-site repository."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from demo_backups.settings.model import Settings

from ..helpers.constants import IS_CI
from ..helpers.offsite import PASSWORD, OffsiteSetup, make_setup
from ..helpers.tasks import clean_environment


@pytest.fixture(autouse=True, scope="session")
def _require_restic() -> None:
    if not shutil.which("restic") and not IS_CI:
        pytest.skip("restic is not installed")


@pytest.fixture(scope="session")
def empty_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty repository; to create one takes seconds."""
    path = tmp_path_factory.mktemp("restic") / "repository"
    environment = os.environ | {"RESTIC_PASSWORD": PASSWORD}
    subprocess.run(["restic", "init", "-r", path], env=environment, check=True, capture_output=True)
    return path


@pytest.fixture
def setup(tmp_path: Path, home: Path, empty_repository: Path, project_settings: Settings) -> OffsiteSetup:
    """A machine with an empty repository and no fetched backups."""
    return make_setup(tmp_path, empty_repository, project_settings, clean_environment(home))
