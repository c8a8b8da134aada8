"""A git repository to release: the old scripts are committed and pushed, the new ones are in the work tree."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from invoke.config import Config

from demo_backups.errors import BackupsError
from demo_backups.project import ROOT, read_project_file
from demo_backups.release.actions import branch, commit, push
from demo_backups.release.repository import Checkout
from demo_backups.settings.load import load_settings
from demo_backups.settings.model import ReleaseSettings, Settings
from demo_backups.ui.console import Console, make_console
from demo_backups.units import escape_controls

BRANCH = "85-use-sqlite-backup-command-instead-of-cp-for-database-backups"
SCRIPTS = INDEX, TRACKER = "share/bin/index-db-backup.sh", "share/bin/tracker-db-backup.sh"
DOCS = ("AGENTS.md", "docs/backups.md")
MESSAGES = {
    "index": "feat: use sqlite .backup for index database backups",
    "tracker": "feat: use sqlite .backup for tracker database backups",
    "docs": "docs: update backup documentation for sqlite .backup command",
}
OLD_SCRIPT = """#!/bin/bash
DATABASE_FILE="/srv/{name}.db"
BACKUP_FILE="/srv/backups/{name}_$(date +%Y-%m-%d_%H-%M-%S).db"
cp $DATABASE_FILE "$BACKUP_FILE"
"""
OLD_DOC = "# Backups\n\nEvery hour the database is copied with `cp`.\n"
NEW_DOC = "# Backups\n\nEvery hour the database is copied with SQLite's `.backup`.\n"
# Without the configuration of this machine and its users, such as commit.gpgSign. git older than 2.32 does not know the
# first two variables.
GIT_VARIABLES = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_COUNT": "0",
    "XDG_CONFIG_HOME": "/dev/null",
    "GIT_SSH_COMMAND": "ssh -F /dev/null -o BatchMode=yes",
    "GIT_AUTHOR_NAME": "Maintainer",
    "GIT_AUTHOR_EMAIL": "maintainer@example.org",
    "GIT_COMMITTER_NAME": "Maintainer",
    "GIT_COMMITTER_EMAIL": "maintainer@example.org",
}
# The git tasks, run in this process: they take a tenth of the time of a new one.
TASKS: dict[str, Callable[[Settings, Console, bool], None]] = {
    "branch": branch,
    "commit-index-backup": lambda settings, out, dry_run: commit(settings, "index", out, dry_run),
    "commit-tracker-backup": lambda settings, out, dry_run: commit(settings, "tracker", out, dry_run),
    "commit-docs": lambda settings, out, dry_run: commit(settings, "docs", out, dry_run),
    "push": push,
}


@dataclass(frozen=True)
class ReleaseRepository:
    """A checkout with its remote, and the variables with which git and the tasks work on it."""

    path: Path
    remote: Path
    variables: dict[str, str] = field(repr=False)
    release: ReleaseSettings

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run git in the checkout or in another folder, and return its output; it must succeed."""
        return subprocess.run(
            ["git", *arguments],
            cwd=cwd or self.path,
            env=os.environ | self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.rstrip("\n")

    def run_task(self, task: str, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a task of TASKS with --dry-run or without, and with variables added to the environment."""
        out = io.StringIO()
        with _environment(os.environ | self.variables | variables):
            try:
                TASKS[task](_load_settings(), make_console(out), "--dry-run" in flags)
                code, error = 0, ""
            except BackupsError as caught:
                code, error = caught.exit_code, escape_controls(str(caught))
        return subprocess.CompletedProcess([task, *flags], code, out.getvalue(), error)

    def checkout(self, **changes: Any) -> Checkout:
        """Return the checkout, with changes to the settings of the release."""
        return Checkout(self.path, self.release.model_copy(update=changes))

    def write_file(self, file: str, text: str, cwd: Path | None = None) -> None:
        """Write a file and create its folders."""
        path = (cwd or self.path) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commit_file(self, file: str, text: str, message: str, cwd: Path | None = None) -> str:
        """Write and commit a file without a task; returns the commit."""
        self.write_file(file, text, cwd)
        self.git("add", "--", file, cwd=cwd)
        self.git("commit", "-q", "-m", message, "--", file, cwd=cwd)
        return self.git("rev-parse", "HEAD", cwd=cwd)

    def push_from_other_clone(self, file: str, text: str, branch: str = BRANCH) -> str:
        """Push a commit of another author to a branch of the remote; returns it."""
        other = self.path.with_name("another clone")
        self.git("clone", "-q", str(self.remote), str(other), cwd=self.path.parent)
        exists = self.git("branch", "--remotes", "--list", f"origin/{branch}", cwd=other)
        self.git("switch", "-q", *([] if exists else ["-c"]), branch, cwd=other)
        commit = self.commit_file(file, text, "fix: another author", cwd=other)
        self.git("push", "-q", "origin", branch, cwd=other)
        shutil.rmtree(other)
        return commit

    @property
    def state(self) -> tuple[str, ...]:
        """Everything that a task could change: references, HEAD, the index, the work tree, the remote."""
        return (
            self.git("for-each-ref"),
            self.git("rev-parse", "--symbolic-full-name", "HEAD"),
            self.git("status", "--porcelain=v2", "--untracked-files=all"),
            self.git("diff", "HEAD"),
            self.git("for-each-ref", cwd=self.remote),
        )

    def committed_files(self, commit: str = "HEAD") -> list[str]:
        """Return the files of a commit."""
        return self.git("show", "--format=", "--name-only", "-z", commit).split("\0")[:-1]

    def subject(self, commit: str = "HEAD") -> str:
        """Return the first line of a commit's message."""
        return self.git("show", "--no-patch", "--format=%s", commit)

    def install_hook(self, name: str, text: str, remote: bool = False) -> None:
        """Install a hook in the checkout or on the remote."""
        hooks = self.remote / "hooks" if remote else self.path / ".git/hooks"
        hooks.mkdir(exist_ok=True)
        (hooks / name).write_text(f"#!/bin/sh\n{text}\n")
        (hooks / name).chmod(0o755)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    saved = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


def _load_settings() -> Settings:
    """Load the settings as the tasks do: the project file, and the environment."""
    config = Config(project_location=ROOT)
    config.load_project()
    config.load_shell_env()
    return load_settings(read_project_file(), config)


def check_result(done: subprocess.CompletedProcess[str], code: int, *texts: str) -> str:
    """Check the exit code of a task, that it has no traceback, and texts in its output; returns the output."""
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    assert "Traceback" not in output
    for text in texts:
        assert text in output
    return output


@pytest.fixture
def empty_repository(
    tmp_path: Path, home: Path, project_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> ReleaseRepository:
    """A repository without a commit and without a remote."""
    path = tmp_path / "it's a checkout"
    path.mkdir()
    for name in [name for name in os.environ if name.startswith(("GIT_", "GH_", "INVOKE_"))]:
        monkeypatch.delenv(name)
    variables = GIT_VARIABLES | {"HOME": str(home), "INVOKE_RELEASE_REPOSITORY": str(path)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    repository = ReleaseRepository(path, tmp_path / "its remote.git", variables, project_settings.release)
    repository.git("init", "-q", "-b", "main")
    return repository


def _copy_repository(source: tuple[Path, Path], target: tuple[Path, Path]) -> None:
    """Copy a checkout and its remote, whose path is in the configuration of the checkout."""
    for old, new in zip(source, target, strict=True):
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(old, new, symlinks=True, ignore=shutil.ignore_patterns("*.sample"))
    config = target[0] / ".git/config"
    config.write_text(config.read_text().replace(str(source[1]), str(target[1])))


def make_once(
    repository: ReleaseRepository, template: Path, make: Callable[[ReleaseRepository], None]
) -> ReleaseRepository:
    """Change a repository by a function, or replace it by a copy of what the first test with this template made."""
    template_paths = (template / "checkout", template / "remote")
    paths = (repository.path, repository.remote)
    if template.exists():
        _copy_repository(template_paths, paths)
    else:
        make(repository)
        _copy_repository(paths, template_paths)
    return repository


@pytest.fixture
def release_repository(
    empty_repository: ReleaseRepository, tmp_path_factory: pytest.TempPathFactory
) -> ReleaseRepository:
    """A repository on its base branch, with the old scripts committed and the new ones in the work tree."""
    return make_once(empty_repository, tmp_path_factory.getbasetemp() / "template of a release", _make_release)


def _make_release(repository: ReleaseRepository) -> None:
    for script, name in ((INDEX, "index"), (TRACKER, "tracker")):
        repository.write_file(script, OLD_SCRIPT.format(name=name))
        (repository.path / script).chmod(0o755)
    repository.write_file("AGENTS.md", OLD_DOC)
    repository.git("add", "-A")
    repository.git("commit", "-q", "-m", "feat: back up by cp")
    repository.git("init", "-q", "--bare", "-b", "main", str(repository.remote))
    repository.git("remote", "add", "origin", str(repository.remote))
    repository.git("push", "-q", "-u", "origin", "main")
    for script in SCRIPTS:
        shutil.copy(ROOT / script, repository.path / script)
    for doc in DOCS:
        repository.write_file(doc, NEW_DOC)


@pytest.fixture
def release_branch(release_repository: ReleaseRepository) -> ReleaseRepository:
    """The same, on the branch of the release."""
    release_repository.git("switch", "-q", "-c", BRANCH)
    return release_repository
