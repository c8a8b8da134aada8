"""What the tests share: a throwaway server, its live writer, and the tasks as a user calls them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from demo_backups.project import ROOT
from demo_backups.rehearsal.server import Server
from demo_backups.settings import Database, Settings

INV = Path(sys.executable).with_name("inv")


# What a user may have set for other purposes: for these tasks, SSH, Python, git, the GitHub CLI and the desktop.
FOREIGN = ("INVOKE_", "SSH_", "PYTEST_", "PYTHON", "GIT_", "GH_", "GITHUB_", "XDG_")


def clean_environment(home: Path) -> dict[str, str]:
    """Return this environment without the user's own settings, and with a home of the test's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | {"HOME": str(home), "INVOKE_EVIDENCE_DIR": str(home / "evidence")}


@dataclass
class Inv:
    """Call the tasks as a user does."""

    environment: dict[str, str]

    def __call__(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run `./inv ARGUMENTS`, with changes to the environment; nothing is raised for a failure."""
        return subprocess.run(
            [INV, "--search-root", ROOT, *arguments],
            env=self.environment | changes,
            cwd=self.environment["HOME"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


@dataclass
class Demo:
    """A throwaway demo server: reached over SSH, with an index database and no writer."""

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
    def backups(self) -> Path:
        return Path(self.settings.backup_dir)

    def inv(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run a task on this server."""
        return Inv(dict(self.environment))(*arguments, **changes)

    def names(self) -> list[str]:
        """The visible names in the backup folder."""
        return sorted(path.name for path in self.backups.iterdir() if not path.name.startswith("."))
