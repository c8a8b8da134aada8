"""Fixtures for the tests of the off-site repository."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from demo_backups.settings.model import Settings

from ..helpers.constants import IS_CI
from ..helpers.offsite import OffsiteSetup, make_setup
from ..helpers.tasks import clean_environment


@pytest.fixture(autouse=True, scope="session")
def _require_restic() -> None:
    if not shutil.which("restic") and not IS_CI:
        pytest.skip("restic is not installed")


@pytest.fixture
def machine(tmp_path: Path, home: Path, project_settings: Settings) -> OffsiteSetup:
    """A machine with an empty repository and no fetched backups."""
    return make_setup(tmp_path, project_settings, clean_environment(home))
