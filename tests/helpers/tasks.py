"""The tasks as a user calls them, on this machine or on a throwaway server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from demo_backups.project import ROOT
from demo_backups.rehearsal.server import Server
from demo_backups.settings.model import Database, Settings

from .fork_server import START_VARIABLES, ForkServer
from .processes import start_program

INV = Path(sys.executable).with_name("inv")
FLAGS = ("--search-root", str(ROOT), "--write-pyc")  # those of ./inv
FORK_SERVER = ForkServer()
# What a user may have set for these tasks, SSH, Python, git, the GitHub CLI and the desktop.
USER_SETTINGS = ("INVOKE_", "SSH_", "PYTEST_", "PYTHON", "GIT_", "GH_", "GITHUB_", "XDG_")
CompletedTask: TypeAlias = subprocess.CompletedProcess[str]


def clean_environment(home: Path) -> dict[str, str]:
    """Return this environment without the user's own settings, and with a home of the test's own."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(USER_SETTINGS)}
    directories = {"INVOKE_EVIDENCE_DIR": str(home / "evidence"), "INVOKE_FETCH_DIR": str(home / "copies")}
    return others | {"HOME": str(home)} | directories


@dataclass
class InvRunner:
    """Run tasks with an environment."""

    environment: dict[str, str]

    def __call__(self, *arguments: str, **changes: str) -> CompletedTask:
        """Run `./inv ARGUMENTS` with changes to the environment; a failure raises nothing."""
        command = [*FLAGS, *arguments]
        environment = self.environment | changes
        home = environment["HOME"]
        if any(name.startswith(START_VARIABLES) for name in changes):
            return self.run_program(*command, env=environment, cwd=home)
        return FORK_SERVER.run(command, environment, home)

    def run_plugin(self, *arguments: str, **changes: str) -> CompletedTask:
        """Run `demo-backups-check ARGUMENTS` with changes to the environment."""
        return FORK_SERVER.run(arguments, self.environment | changes, "/", "demo-backups-check")

    def run_program(self, *arguments: str, env: Mapping[str, str], cwd: str) -> CompletedTask:
        """Run `inv` in a new process."""
        return subprocess.run(
            [INV, *arguments], env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    def start(self, *arguments: str, **changes: str) -> subprocess.Popen[str]:
        """Start a task in a process group of its own."""
        environment = self.environment | changes
        home = environment["HOME"]
        if any(name.startswith(START_VARIABLES) for name in changes):
            return start_program(INV, *FLAGS, *arguments, env=environment, cwd=home)
        return FORK_SERVER.start([*FLAGS, *arguments], environment, home)


@dataclass
class DemoServer:
    """A throwaway server, reached over SSH, with an index database and no writer."""

    server: Server
    settings: Settings
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def database(self) -> Database:
        return self.settings.database("index")

    @property
    def source(self) -> Path:
        return Path(self.database.source)

    @property
    def script(self) -> Path:
        return Path(self.database.script)

    @property
    def backups(self) -> Path:
        return Path(self.settings.backup_dir)

    @property
    def crontab(self) -> Path:
        """The server's crontab; the file is missing if there is none."""
        return self.server.home / "crontab"

    def deploy(self, database: str = "index") -> None:
        """Put the script of a database in place, as `inv deploy` does, without the time that a task takes."""
        selected = self.settings.database(database)
        shutil.copyfile(selected.local_script, selected.script)
        Path(selected.script).chmod(0o755)

    def inv(self, *arguments: str, **changes: str) -> CompletedTask:
        """Run a task on this server."""
        return InvRunner(dict(self.environment))(*arguments, **changes)

    def start(self, *arguments: str, **changes: str) -> subprocess.Popen[str]:
        """Start a task on this server."""
        return InvRunner(dict(self.environment)).start(*arguments, **changes)

    def names(self) -> list[str]:
        """Return the visible names in the backup directory."""
        return sorted(path.name for path in self.backups.iterdir() if not path.name.startswith("."))

    def records(self) -> list[dict[str, Any]]:
        """Return the records of this test, the oldest first."""
        return read_records(Path(self.environment["INVOKE_EVIDENCE_DIR"]))


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a directory as JSON objects, the oldest first; none if it is missing."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def assert_success(done: CompletedTask) -> str:
    """Check that a task succeeded without a message on standard error; return its output."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def assert_exit(done: CompletedTask, code: int, *messages: str) -> str:
    """Check that a task ended with an exit code and these messages, without a traceback; return standard error."""
    print(done.stdout, done.stderr, sep="")
    assert done.returncode == code
    assert "Traceback" not in done.stdout + done.stderr
    for message in messages:
        assert message in done.stderr
    return done.stderr


def read_json(done: CompletedTask, code: int = 0) -> dict[str, Any]:
    """Return the JSON object that a task printed, alone on standard output; it must end with this exit code."""
    assert done.returncode == code, done.stderr
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value
