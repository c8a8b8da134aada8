"""A git repository that is being released: what it was is committed and on a bare remote, what it shall be is not."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from demo_backups.project import ROOT

SCRIPTS = ("share/bin/index-db-backup.sh", "share/bin/tracker-db-backup.sh")
DOCS = ("AGENTS.md", "docs/backups.md")
WHO = {"NAME": "A Maintainer", "EMAIL": "maintainer@example.org"}
OLD_SCRIPT = """#!/bin/bash
DATABASE_FILE=/home/torrust/github/torrust/torrust-demo/storage/{name}/lib/database/sqlite3.db
BACKUP_FILE="/home/torrust/backups/{prefix}$(date +%Y-%m-%d_%H-%M-%S).db"
cp $DATABASE_FILE "$BACKUP_FILE"
"""
OLD_DOC = "# Backups\n\nEvery hour the database is copied with `cp`.\n"
NEW_DOC = "# Backups\n\nEvery hour the database is copied with SQLite's `.backup`.\n"


@dataclass(frozen=True)
class ReleaseRepository:
    """A checkout with its remote, and the environment in which git and the tasks work on it."""

    path: Path
    remote: Path
    environment: dict[str, str] = field(repr=False)

    def git(self, *words: str, at: Path | None = None) -> str:
        """Run git in the checkout, or elsewhere; return what it prints. It must go well."""
        done = subprocess.run(
            ["git", *words],
            cwd=at or self.path,
            env={name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def make_release_repository(folder: Path) -> ReleaseRepository:
    """Make both in a folder: the old scripts and docs are committed and pushed, the new ones are in the work tree."""
    path, remote = folder / "the release", folder / "remote.git"
    environment = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in WHO.items()},
        "INVOKE_RELEASE_REPOSITORY": str(path),
    }
    made = ReleaseRepository(path, remote, environment)
    for script, (name, prefix) in zip(SCRIPTS, (("index", "backup_"), ("tracker", "tracker_backup_")), strict=True):
        _write(path / script, OLD_SCRIPT.format(name=name, prefix=prefix), 0o755)
    for doc in DOCS:
        _write(path / doc, OLD_DOC)
    _write(path / "README.md", "# The demo\n")
    made.git("init", "--quiet", "--initial-branch=main")
    made.git("init", "--quiet", "--bare", "--initial-branch=main", str(remote))
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message=chore: as it was")
    made.git("remote", "add", "origin", str(remote))
    made.git("push", "--quiet", "--set-upstream", "origin", "main")
    for script in SCRIPTS:
        shutil.copy(ROOT / script, path / script)
    for doc in DOCS:
        _write(path / doc, NEW_DOC)
    return made


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


@pytest.fixture
def release_repository(tmp_path: Path) -> ReleaseRepository:
    """A git repository that is being released, with a bare remote."""
    return make_release_repository(tmp_path)
