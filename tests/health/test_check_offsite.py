"""What `check` says after `offsite` has worked on a real repository."""

from __future__ import annotations

import io
import shutil
from datetime import datetime, timezone
from pathlib import Path

import pytest

from demo_backups.errors import RepositoryDamagedError
from demo_backups.health.judge_records import judge_local
from demo_backups.health.local_facts import observe_local
from demo_backups.health.state import Health, State
from demo_backups.settings.model import Settings
from demo_backups.ui.console import make_console
from demo_backups.workflows.offsite import check_repository, restore_stored

from ..helpers.constants import IS_CI
from ..helpers.offsite import FIRST, OffsiteSetup, make_setup
from ..helpers.tasks import clean_environment
from .conftest import worst_finding

OK, WARNING, CRITICAL = State.OK, State.WARNING, State.CRITICAL


@pytest.fixture
def offsite(tmp_path: Path, home: Path, project_settings: Settings) -> OffsiteSetup:
    """A machine with a copy and an empty repository."""
    if not shutil.which("restic") and not IS_CI:
        pytest.skip("restic is not installed")
    setup = make_setup(tmp_path, project_settings, clean_environment(home))
    setup.add_copy()
    return setup


def find(setup: OffsiteSetup, name: str) -> State:
    """Judge the records on this machine, and return the worst state of a name."""
    now = datetime.now(timezone.utc)
    facts = observe_local(setup.settings, "demo", setup.settings.database("index"), now)
    findings = judge_local(facts, setup.settings, "demo", "index", now)
    return worst_finding(Health("demo", "index", tuple(findings)), name)[0]


def check_all(setup: OffsiteSetup) -> None:
    """Read both parts of the repository."""
    for _ in range(2):
        check_repository(setup.settings, make_console(io.StringIO()))


def test_records_of_offsite_are_judged(offsite: OffsiteSetup) -> None:
    out = make_console(io.StringIO())
    assert (find(offsite, "offsite"), find(offsite, "repository")) == (WARNING, WARNING)
    offsite.store()
    assert (find(offsite, "offsite"), find(offsite, "repository")) == (OK, WARNING)
    offsite.store()  # it is stored already
    check_repository(offsite.settings, out)
    assert (find(offsite, "offsite"), find(offsite, "repository")) == (OK, OK)

    # Damage in one of the two parts, and then its repair.
    good = offsite.folder / "good"
    shutil.copytree(offsite.repository, good)
    offsite.damage_data()
    with pytest.raises(RepositoryDamagedError):
        check_all(offsite)
    assert (find(offsite, "offsite"), find(offsite, "repository")) == (OK, CRITICAL)
    shutil.rmtree(offsite.repository)
    shutil.copytree(good, offsite.repository)
    check_repository(offsite.settings, out)
    assert find(offsite, "repository") is OK

    # What is restored from there is a copy like a fetched one.
    (offsite.copies / FIRST).unlink()
    restore_stored(offsite.settings, FIRST, out)
    assert (find(offsite, "offsite"), find(offsite, "copy")) == (OK, OK)
