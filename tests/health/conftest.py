"""A throwaway server whose backups are checked from this process."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo_backups.health.state import Finding, Health, State
from demo_backups.records.record import Record
from demo_backups.remote.host import Host
from demo_backups.settings.model import Settings
from demo_backups.ui.console import make_console
from demo_backups.workflows.check import check_database
from demo_backups.workflows.session import Session

from ..helpers.backups import make_backup
from ..helpers.tasks import DemoServer


@dataclass
class CheckedServer:
    """A throwaway server, and its settings for this process."""

    server: DemoServer
    host: Host
    settings: Settings

    @property
    def evidence(self) -> Path:
        """The directory of the records."""
        return Path(self.settings.evidence_dir)

    def change(self, **check: object) -> None:
        """Change the settings of the check."""
        changed = self.settings.check.model_copy(update=check)
        self.settings = self.settings.model_copy(update={"check": changed})

    def backup(self) -> Path:
        """Make a backup."""
        return make_backup(self.server.source, self.server.backups)

    def check(self) -> Health:
        """Check the index database."""
        database = self.settings.database("index")
        record = Record(kind="", host=self.host.name, database="index")
        return check_database(Session(self.host, self.settings, database, record, make_console(io.StringIO())))

    def find(self, name: str) -> Finding:
        """Check, and return the worst finding of a name; OK without a text if there is none."""
        findings = [finding for finding in self.check().findings if finding.name == name]
        return max(findings, key=lambda finding: finding.state.value % 3, default=Finding(name, State.OK, ""))


@pytest.fixture
def checked(demo_server: DemoServer, host: Host, home: Path) -> Iterator[CheckedServer]:
    """A throwaway server whose crontabs do not matter."""
    places = {"evidence_dir": str(home / "evidence"), "fetch_dir": str(home / "copies"), "use_sudo": False}
    server = CheckedServer(demo_server, host, demo_server.settings.model_copy(update=places))
    server.change(warn_age=7200.0, critical_age=14400.0)
    yield server
