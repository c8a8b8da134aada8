"""A git repository that is being released: what it was is committed and on a bare remote, what it shall be is not."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from demo_backups.project import ROOT
from demo_backups.release.repository import Checkout
from demo_backups.settings import ReleaseSettings, Settings

BRANCH = "85-use-sqlite-backup-command-instead-of-cp-for-database-backups"
SCRIPTS = INDEX, TRACKER = "share/bin/index-db-backup.sh", "share/bin/tracker-db-backup.sh"
DOCS = ("AGENTS.md", "docs/backups.md")
OLD_SCRIPT = """#!/bin/bash
DATABASE_FILE="/srv/{name}.db"
BACKUP_FILE="/srv/backups/{name}_$(date +%Y-%m-%d_%H-%M-%S).db"
cp $DATABASE_FILE "$BACKUP_FILE"
"""
OLD_DOC = "# Backups\n\nEvery hour the database is copied with `cp`.\n"
NEW_DOC = "# Backups\n\nEvery hour the database is copied with SQLite's `.backup`.\n"
# Nothing of what is configured on this machine plays a part.
GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_CONFIG_COUNT": "0",
    "GIT_SSH_COMMAND": "ssh -F /dev/null -o BatchMode=yes",
    "GIT_AUTHOR_NAME": "Maintainer",
    "GIT_AUTHOR_EMAIL": "maintainer@example.org",
    "GIT_COMMITTER_NAME": "Maintainer",
    "GIT_COMMITTER_EMAIL": "maintainer@example.org",
}


@dataclass(frozen=True)
class ReleaseRepository:
    """A checkout with its remote, and the variables with which git and the tasks work on it."""

    path: Path
    remote: Path
    variables: dict[str, str] = field(repr=False)
    release: ReleaseSettings

    def git(self, *words: str, at: Path | None = None) -> str:
        """Run git in the checkout, or elsewhere; return what it prints. It must go well."""
        return subprocess.run(
            ["git", *words],
            cwd=at or self.path,
            env=os.environ | self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.rstrip("\n")

    def checkout(self, **changes: Any) -> Checkout:
        """The checkout, for what is asked without a task."""
        return Checkout(self.path, self.release.model_copy(update=changes))

    def write(self, file: str, text: str, at: Path | None = None) -> None:
        path = (at or self.path) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commit(self, file: str, text: str, message: str, at: Path | None = None) -> str:
        """Commit a file, as somebody would by hand; returns the commit."""
        self.write(file, text, at)
        self.git("add", "--", file, at=at)
        self.git("commit", "-q", "-m", message, "--", file, at=at)
        return self.git("rev-parse", "HEAD", at=at)

    def by_somebody_else(self, file: str, text: str, branch: str = BRANCH) -> str:
        """Push a commit to a branch of the remote from another clone; returns it."""
        other = self.path.with_name("another clone")
        self.git("clone", "-q", str(self.remote), str(other), at=self.path.parent)
        exists = self.git("branch", "--remotes", "--list", f"origin/{branch}", at=other)
        self.git("switch", "-q", *([] if exists else ["-c"]), branch, at=other)
        commit = self.commit(file, text, "fix: of somebody else", at=other)
        self.git("push", "-q", "origin", branch, at=other)
        shutil.rmtree(other)
        return commit

    @property
    def state(self) -> tuple[str, ...]:
        """All that a step could change: references, what is checked out, staged and changed."""
        return (
            self.git("for-each-ref"),
            self.git("rev-parse", "--symbolic-full-name", "HEAD"),
            self.git("status", "--porcelain=v2", "--untracked-files=all"),
            self.git("diff", "HEAD"),
            self.git("for-each-ref", at=self.remote),
        )

    def files_of(self, commit: str = "HEAD") -> list[str]:
        return self.git("show", "--format=", "--name-only", "-z", commit).split("\0")[:-1]

    def subject(self, commit: str = "HEAD") -> str:
        return self.git("show", "--no-patch", "--format=%s", commit)

    def hook(self, name: str, text: str, at: Path | None = None) -> None:
        hooks = at / "hooks" if at else self.path / ".git/hooks"
        hooks.mkdir(exist_ok=True)
        (hooks / name).write_text(f"#!/bin/sh\n{text}\n")
        (hooks / name).chmod(0o755)


@pytest.fixture
def empty_repository(
    tmp_path: Path, home: Path, project_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> ReleaseRepository:
    """A repository in which nothing is committed, without a remote."""
    path = tmp_path / "it's a checkout"
    path.mkdir()
    for name in [name for name in os.environ if name.startswith(("GIT_", "GH_", "INVOKE_"))]:
        monkeypatch.delenv(name)
    variables = GIT | {"HOME": str(home), "INVOKE_RELEASE_REPOSITORY": str(path)}
    made = ReleaseRepository(path, tmp_path / "remote of it.git", variables, project_settings.release)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    made.git("init", "-q", "-b", "main")
    return made


@pytest.fixture
def release_repository(empty_repository: ReleaseRepository) -> ReleaseRepository:
    """A repository whose base, which is on the remote, holds the old scripts, and whose work tree holds ours."""
    made = empty_repository
    for script, name in ((INDEX, "index"), (TRACKER, "tracker")):
        made.write(script, OLD_SCRIPT.format(name=name))
        (made.path / script).chmod(0o755)
    made.write("AGENTS.md", OLD_DOC)
    made.git("add", "-A")
    made.git("commit", "-q", "-m", "feat: back up by cp")
    made.git("init", "-q", "--bare", "-b", "main", str(made.remote))
    made.git("remote", "add", "origin", str(made.remote))
    made.git("push", "-q", "-u", "origin", "main")
    for script in SCRIPTS:
        shutil.copy(ROOT / script, made.path / script)
    for doc in DOCS:
        made.write(doc, NEW_DOC)
    return made
