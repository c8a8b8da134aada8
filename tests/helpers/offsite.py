"""Fetched backups, and a repository of the real restic to store them in."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from demo_backups.offsite.result import RepositoryCheck, Restored, Stored
from demo_backups.offsite.snapshots import StoredBackup
from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import FetchDetails, new_record
from demo_backups.records.store import write_record
from demo_backups.rehearsal.database import make_index, make_tracker
from demo_backups.settings.model import CopiesSettings, OffsiteSettings, Settings
from demo_backups.ui.console import make_console
from demo_backups.workflows.offsite import check_repository, list_stored, restore_stored
from demo_backups.workflows.offsite_store import store

from .copies import hash_of
from .restic_repository import make_repository
from .tasks import InvRunner, read_records

PASSWORD = "the password of the test"
RESTIC = shutil.which("restic")
FIRST = "backup_2026-01-01_00-00-00.db"


@dataclass
class OffsiteSetup:
    """This machine with fetched backups, and a repository in a directory."""

    folder: Path
    settings: Settings
    environment: dict[str, str]

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def password_file(self) -> Path:
        return self.folder / "password"

    @property
    def copies(self) -> Path:
        return Path(self.settings.fetch_dir) / self.settings.host

    @property
    def records(self) -> Path:
        return Path(self.settings.evidence_dir)

    def change_offsite(self, **values: Any) -> None:
        """Change values of the section `offsite`."""
        unchanged = {"check_parts": "2", "every": "7 d"}
        section = OffsiteSettings.model_validate(self.settings.offsite.model_dump() | unchanged | values)
        self.settings = self.settings.model_copy(update={"offsite": section})

    def keep(self, daily: int) -> None:
        """Change the policy to keep the last days only."""
        policy = CopiesSettings.model_validate({"daily": daily, "weekly": 0, "monthly": 0})
        self.settings = self.settings.model_copy(update={"copies": policy})

    def select_host(self, host: str) -> None:
        """Change the host."""
        self.settings = self.settings.model_copy(update={"host": host})

    def add_copy(self, name: str = FIRST, database: str = "index", good: bool = True, size: int = 0) -> Path:
        """Put a backup among the fetched ones, with the record of a fetch, and return its path."""
        self.copies.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.copies / name
        make_index(path, torrents=5) if database == "index" else make_tracker(path, rows=5)
        with path.open("ab") as file:
            file.write(os.urandom(size))
        time = datetime.strptime(name[-22:-3], "%Y-%m-%d_%H-%M-%S").replace(tzinfo=timezone.utc).timestamp() + 0.25
        os.utime(path, (time, time))
        outcome = Outcome.PASSED if good else Outcome.UNKNOWN
        record = new_record("fetch", self.settings.host, database, when=datetime.now(timezone.utc).isoformat())
        record.backup, record.bytes, record.exit_status = f"/backups/{name}", path.stat().st_size, 0 if good else 3
        record.created = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).isoformat()
        record.checks = [Check("size", outcome, "")]
        record.details = FetchDetails(file=str(path), sha256=hash_of(path), verified=outcome.value)
        write_record(self.records, record)
        return path

    def store(self, *names: str) -> tuple[Stored, str]:
        """Store backups; return the result and what was printed."""
        output = io.StringIO()
        result = store(self.settings, names or None, make_console(output))
        return result, output.getvalue()

    def restore(self, name: str = FIRST) -> Restored:
        """Restore a backup from the repository."""
        result = restore_stored(self.settings, name, make_console(io.StringIO()))
        assert isinstance(result, Restored)
        return result

    def check(self) -> RepositoryCheck:
        """Check the repository."""
        result = check_repository(self.settings, make_console(io.StringIO()))
        assert isinstance(result, RepositoryCheck)
        return result

    def stored(self) -> list[StoredBackup]:
        """Return the backups in the repository."""
        return list_stored(self.settings).backups

    def stored_names(self) -> list[str]:
        """Return the names of the backups in the repository, the newest first."""
        return [backup.name for backup in self.stored()]

    def restic(self, *arguments: str, **options: Any) -> str:
        """Run restic by hand."""
        done = subprocess.run(
            ["restic", *arguments],
            env=os.environ | self.restic_environment,
            text=True,
            capture_output=True,
            check=True,
            **options,
        )
        return str(done.stdout)

    @property
    def restic_environment(self) -> dict[str, str]:
        return {"RESTIC_REPOSITORY": str(self.repository), "RESTIC_PASSWORD": PASSWORD, "LC_ALL": "C"}

    def offsite_records(self) -> list[dict[str, Any]]:
        """Return the records that were written, but for those of the fetches."""
        return [record for record in read_records(self.records) if record["kind"] == "offsite"]

    def inv(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run `inv offsite`."""
        return InvRunner(self.environment)("offsite", *arguments, **changes)

    def start(self, *arguments: str, **changes: str) -> subprocess.Popen[str]:
        """Start `inv offsite`."""
        return InvRunner(self.environment).start("offsite", *arguments, **changes)

    def locks(self) -> list[str]:
        """Return the names of the locks, without those that are still being written."""
        return [path.name for path in (self.repository / "locks").iterdir() if len(path.name) == 64]

    def damage_data(self) -> None:
        """Flip a byte in the middle of each file with data."""
        for path in (self.repository / "data").rglob("*"):
            if path.is_file():
                flip_byte(path)


def flip_byte(path: Path) -> None:
    """Change one byte in the middle of a file."""
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def make_setup(folder: Path, settings: Settings, environment: dict[str, str]) -> OffsiteSetup:
    """Make a machine with an empty repository and no backups."""
    password = folder / "password"
    password.write_text(f"{PASSWORD}\n")
    password.chmod(0o600)
    make_repository(folder / "repository", PASSWORD)
    variables = {
        "fetch_dir": environment["INVOKE_FETCH_DIR"],
        "evidence_dir": environment["INVOKE_EVIDENCE_DIR"],
        "host": "demo",
    }
    offsite = settings.offsite.model_dump() | {
        "repository": str(folder / "repository"),
        "password_file": str(password),
        "check_parts": "2",
        "every": "7 d",
    }
    section = OffsiteSettings.model_validate(offsite)
    tasks = {
        "INVOKE_OFFSITE_REPOSITORY": str(folder / "repository"),
        "INVOKE_OFFSITE_PASSWORD_FILE": str(password),
        "INVOKE_OFFSITE_CHECK_PARTS": "2",
    }
    return OffsiteSetup(folder, settings.model_copy(update=variables | {"offsite": section}), environment | tasks)
