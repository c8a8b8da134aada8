"""What the tests share: a throwaway server, its live writer, and the tasks as a user calls them."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import pytest

from demo_backups.hosts import Host, Result, open_host
from demo_backups.project import ROOT, read_project_file
from demo_backups.rehearsal.database import make_index, make_tracker
from demo_backups.rehearsal.rehearse import settings_of
from demo_backups.rehearsal.server import Server, serve
from demo_backups.settings import Database, Settings, load

INV = Path(sys.executable).with_name("inv")
SCRIPT = ROOT / "share/bin/index-db-backup.sh"


# File names that a careless quotation breaks. In settings all but the newline are allowed.
ODD_NAMES = {
    "blanks": " two  words ",
    "single quote": "it's",
    "double quote": 'say "no"',
    "backslashes": r"a\tb\\c\0",
    "percent": "100%25 %s",
    "question mark": "what?mode=rw",
    "hash": "a#b",
    "dash": "-x",
    "shell": "$HOME `id` $(id) ; & | > !x *",
    "accents": "ünï…",
    "newline": "two\nlines",
}


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Wait for a condition, and fail with what was waited for if it does not come about."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain for {what}")
        time.sleep(0.01)
    return value


def stop_midway(copies: Iterable[int], part: Path, source: Path) -> int | None:
    """Stop the copy among some processes; returns it, None where all of the source is copied already."""
    for pid in copies:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it was faster than this test
            os.kill(pid, signal.SIGSTOP)
            if part.stat().st_size < source.stat().st_size:
                return pid
            os.kill(pid, signal.SIGCONT)
    return None


def begin(*words: str | PurePath, env: Mapping[str, str], cwd: str | Path | None = None) -> subprocess.Popen[str]:
    """Start a program in a process group of its own, as a shell does, with nothing on its standard input."""
    return subprocess.Popen(
        words,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for the end of a program."""
    stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@contextlib.contextmanager
def held_midway(
    start: Callable[[], subprocess.Popen[str]], stop: Callable[[], int | None], undo: Callable[[], None]
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a backup and stop its copy in the middle; yields what was started, and the process of the copy.

    Where it was faster than this test, what it made is undone, and another one is started.
    """
    for _ in range(20):
        task = start()
        if pid := stop():
            try:
                yield task, pid
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                task.kill()
                task.communicate()
            return
        ended(task)
        undo()
    pytest.fail("could not stop the copy in the middle")


def clean_environment(home: Path) -> dict[str, str]:
    """This environment without what a user may have set for other purposes, and with a home of the test's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("INVOKE_", "SSH_", "PYTEST_"))}
    return kept | {"HOME": str(home), "INVOKE_EVIDENCE_DIR": str(home / "evidence")}


@dataclass
class Inv:
    """Call the tasks as a user does."""

    environment: dict[str, str]

    def __call__(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run `./inv ARGUMENTS`, with changes to the environment; nothing is raised for a failure."""
        return subprocess.run(
            [INV, "--search-root", ROOT, "--no-dedupe", *arguments],
            env=self.environment | changes,
            cwd=self.environment["HOME"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory of the test's own."""
    folder = tmp_path / "home of the test"
    folder.mkdir()
    return folder


@pytest.fixture
def here(project_settings: Settings, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """This machine as a Host, without sudo, with a home directory of the test's own."""
    monkeypatch.setenv("HOME", str(home))
    with open_host(project_settings.model_copy(update={"use_sudo": False}), "local") as opened:
        yield opened


NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, and give files to one")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that any user can come to, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


@pytest.fixture
def as_nobody(public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands be run as nobody, whose home is the public folder."""
    run = Host.run

    def run_as_nobody(self: Host, what: str, command: str, **options: Any) -> Result:
        words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "sh", "-c", command]
        return run(self, what, f"HOME={shlex.quote(str(public))} {shlex.join(words)}", **options)

    monkeypatch.setattr(Host, "run", run_as_nobody)


@pytest.fixture
def inv(home: Path) -> Inv:
    """The tasks, with a home of the test's own."""
    return Inv(clean_environment(home))


@pytest.fixture(scope="session")
def project_settings() -> Settings:
    """The settings as shipped."""
    project = read_project_file()
    return load(project, project, environ={})


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


@pytest.fixture
def demo(tmp_path: Path, home: Path, project_settings: Settings) -> Iterator[Demo]:
    """A throwaway demo server."""
    folder = tmp_path / "server"
    folder.mkdir()
    with serve(folder) as server:
        settings = settings_of(server, project_settings)
        names = ("host", "ssh_config", "app_dir", "backup_dir", "cron_log")
        variables = {f"INVOKE_{name.upper()}": str(getattr(settings, name)) for name in names}
        environment = clean_environment(home) | variables | {"INVOKE_USE_SUDO": "0"}
        there = Demo(server, settings, environment)
        there.source.parent.mkdir(parents=True)
        Path(there.database.script).parent.mkdir(parents=True)
        there.backups.mkdir()
        make_index(there.source, torrents=50)
        yield there


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracker's database in WAL mode that takes long enough to copy that the copy can be met in the middle."""
    path = tmp_path_factory.mktemp("tracker") / "large.db"
    make_tracker(path, "wal", rows=600_000)
    return path


@pytest.fixture
def host(demo: Demo) -> Iterator[Host]:
    """An open connection to the throwaway server."""
    with open_host(demo.settings) as opened:
        yield opened


def is_consistent(path: Path) -> bool:
    """Ask SQLite whether a finished copy is whole, leaving nothing beside it."""
    database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        return database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        database.close()


@pytest.fixture(scope="session")
def private_mounts() -> list[str]:
    """The start of a command that, as root, may mount what it likes, seen by nobody else.

    Skipped where that cannot be had, which under CI is a failure.
    """
    start = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--"]
    mount = ["mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    tried = subprocess.run([*start, *mount], capture_output=True, text=True, check=False)
    if tried.returncode:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no private mounts here: {tried.stderr}")
    return start


@pytest.fixture
def private_home(private_mounts: list[str], tmp_path: Path) -> Callable[[Path], list[str]]:
    """Give a command's user a home: sqlite3 looks for its start-up file where passwd(5) says, not where HOME does."""

    def start(home: Path) -> list[str]:
        users = tmp_path / "passwd"
        users.write_text(f"root:x:0:0:root:{home}:/bin/sh\n")
        return [*private_mounts, "sh", "-euc", 'mount --bind -- "$0" /etc/passwd; exec "$@"', str(users)]

    return start
