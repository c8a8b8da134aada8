"""This machine as a host, with backups of an index database that are checked from this process."""

from __future__ import annotations

import io
import os
import shutil
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from demo_backups.health.state import WORST_FIRST, Finding, Health, State
from demo_backups.records.record import Record
from demo_backups.records.store import records_dir, write_record
from demo_backups.rehearsal.database import make_index
from demo_backups.remote.host import Host
from demo_backups.settings.load import validate_settings
from demo_backups.settings.model import Database, Settings
from demo_backups.ui.console import make_console
from demo_backups.workflows.check import check_database
from demo_backups.workflows.session import Session

from ..helpers.backups import make_backup
from ..helpers.crontab import FakeCrontab, install_fake_crontab
from ..helpers.records import make_record

HOUR, DAY = 3600.0, 86400.0


@dataclass
class CheckedHost:
    """A host, the settings of a check, and a good backup to copy."""

    host: Host
    settings: Settings
    original: Path
    crontab: FakeCrontab

    @property
    def database(self) -> Database:
        return self.settings.database("index")

    @property
    def folder(self) -> Path:
        """The backup directory."""
        return Path(self.settings.backup_dir)

    def change(self, **values: Any) -> None:
        """Change settings."""
        self.settings = validate_settings(self.settings.model_dump(mode="json") | values)

    def add_backup(self, age: float = HOUR / 2, prefix: str = "") -> Path:
        """Add a good backup that is this many seconds old."""
        end = time.time() - age
        path = self.folder / f"{prefix}backup_{datetime.fromtimestamp(end):%Y-%m-%d_%H-%M-%S}.db"
        shutil.copy(self.original, path)
        os.utime(path, (end, end))
        return path

    def add_record(self, kind: str, backup: Path | None = None, **values: Any) -> Path:
        """Add a record of a task on a backup, by default a good one of now."""
        if backup:
            status = backup.stat()
            created = datetime.fromtimestamp(status.st_mtime).astimezone().isoformat()
            values = {"backup": str(backup), "bytes": status.st_size, "created": created} | values
        return write_record(records_dir(self.settings), make_record(kind, **{"host": self.host.name} | values))

    def check(self) -> Health:
        """Check the index database."""
        record = Record(kind="", host=self.host.name, database="index")
        return check_database(Session(self.host, self.settings, self.database, record, make_console(io.StringIO())))

    def find(self, name: str) -> tuple[State, str]:
        """Check, and return the worst state and the texts of a name; OK and nothing if there is no finding."""
        return worst_finding(self.check(), name)


def worst_finding(health: Health, name: str) -> tuple[State, str]:
    """Return the worst state and the texts of the findings of a name; OK and nothing if there is none."""
    findings: list[Finding] = [finding for finding in health.findings if finding.name == name]
    states = [finding.state for finding in findings] or [State.OK]
    return min(states, key=WORST_FIRST.index), "; ".join(finding.text for finding in findings)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good backup of an index database, made by the script."""
    folder = tmp_path_factory.mktemp("original")
    make_index(folder / "sqlite3.db", torrents=50)
    return make_backup(folder / "sqlite3.db", folder)


@pytest.fixture
def checked(
    local_host: Host, project_settings: Settings, tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> CheckedHost:
    """A host with a database, an hourly line in its crontab, and no backup; its paths need quotes."""
    places = {
        "host": "local",
        "app_dir": str(tmp_path / "app it's"),
        "backup_dir": str(tmp_path / 'back\'ups "100%" #1? \\t'),
        "cron_log": str(tmp_path / "cron's.log"),
        "evidence_dir": str(tmp_path / "evidence"),
        "fetch_dir": str(tmp_path / "copies"),
        "free_space_floor": "0",
        "use_sudo": False,
    }
    settings = validate_settings(project_settings.model_dump(mode="json") | places)
    database = settings.database("index")
    for path in (database.source, database.script):
        Path(path).parent.mkdir(parents=True)
    Path(settings.backup_dir).mkdir(mode=0o755)
    shutil.copy(original, database.source)
    shutil.copy(database.local_script, database.script)
    crontab = install_fake_crontab(tmp_path / "home of root", monkeypatch)
    variables = f'DATABASE_FILE="{database.source}" BACKUP_DIR="$BACKUPS"'
    crontab.set(f'BACKUPS={settings.backup_dir}\n0 * * * * {variables} "{database.script}"\n')
    return CheckedHost(local_host, settings, original, crontab)
