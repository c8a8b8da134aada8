"""A server like the demo, with OpenSSH, cron and sudo, on a private machine; skipped where that is not possible."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from demo_backups.project import ROOT
from demo_backups.rehearsal.writer import live_writer
from demo_backups.settings.model import Database, Settings

from ..helpers.tasks import INV, InvRunner, clean_environment
from ..helpers.terminal import Terminal, terminal
from .machine import Machine, Sshd, missing_requirement


@pytest.fixture(scope="session")
def private_machines() -> None:
    """Skip if no private machine can be created; fail under CI."""
    if reason := missing_requirement():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@pytest.fixture
def machine(private_machines: None, tmp_path: Path, home: Path) -> Iterator[Machine]:
    """A private machine with the user and directories of the demo; no sshd runs yet."""
    folder = tmp_path / "machine"
    folder.mkdir()
    private = Machine(folder, home)
    try:
        private.boot()
        yield private
    finally:
        private.close()


@dataclass
class Server:
    """The demo server, reached by the alias `demo` with the shipped settings."""

    machine: Machine
    sshd: Sshd
    settings: Settings
    environment: dict[str, str]

    @property
    def database(self) -> Database:
        return self.settings.database("index")

    @property
    def source(self) -> Path:
        return self.machine.outside(self.database.source)

    @property
    def backups(self) -> Path:
        return self.machine.outside(self.database.backup_dir)

    def deploy(self, database: str = "index") -> None:
        """Put the script of a database in place, as `inv deploy` does, without the time that a task takes."""
        selected = self.settings.database(database)
        script = self.machine.outside(selected.script)
        shutil.copyfile(selected.local_script, script)
        script.chmod(0o755)
        self.machine.own(script)

    def inv(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run a task, with changes to the environment."""
        return InvRunner(self.environment)(*arguments, **changes)

    def inv_on_terminal(self, *arguments: str, **changes: str) -> AbstractContextManager[Terminal]:
        """Run a task on a terminal."""
        return terminal([INV, "--search-root", ROOT, *arguments], self.environment | changes)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Write to the database 200 times per second; fails if a write fails."""
        with live_writer(Path(self.source)) as service:
            yield
        assert service.failed == 0

    def add_backup(self, days: float, content: bytes = b"an old backup") -> str:
        """Create a backup with an age in days; return its name."""
        when = datetime.now() - timedelta(days=days)
        path = self.backups / when.strftime("backup_%Y-%m-%d_%H-%M-%S.db")
        path.write_bytes(content)
        os.utime(path, (when.timestamp(), when.timestamp()))
        return path.name

    def names(self) -> list[str]:
        """The names of the files in the backup directory that are not hidden."""
        return sorted(path.name for path in self.backups.iterdir() if not path.name.startswith("."))

    def evidence(self) -> str:
        """The text of all records."""
        folder = Path(self.environment["INVOKE_EVIDENCE_DIR"])
        return "\n".join(file.read_text() for file in sorted(folder.glob("*.json")))


@pytest.fixture
def server(machine: Machine, home: Path, project_settings: Settings) -> Server:
    """The demo server; its host key is known, and sudo asks for no password."""
    machine.make_demo(project_settings)
    sshd = machine.sshd()
    machine.known_hosts.write_text(sshd.known)
    machine.configure(machine.alias("demo", sshd))
    settings = project_settings.model_copy(update={"ssh_config": str(machine.ssh_config)})
    environment = clean_environment(home) | {"INVOKE_SSH_CONFIG": str(machine.ssh_config), "COLUMNS": "200"}
    return Server(machine, sshd, settings, environment)
