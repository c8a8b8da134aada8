"""Fixtures that most tests share: a home, a throwaway server, and the tasks as a user calls them."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo_backups.project import read_project_file
from demo_backups.rehearsal.database import make_index, make_tracker
from demo_backups.rehearsal.rehearse import server_settings
from demo_backups.rehearsal.server import serve
from demo_backups.remote.connection import open_host
from demo_backups.remote.host import Host, Transfer
from demo_backups.settings import Settings, load_settings

from .helpers.constants import NOBODY
from .helpers.processes import restore_sigint
from .helpers.tasks import Demo, Inv, clean_environment


def pytest_configure() -> None:
    """Let Ctrl-C reach what the tests start, also where this process ignores it."""
    restore_sigint()


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


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that any user can come to, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


@pytest.fixture
def as_nobody(public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run commands as nobody, whose home is the public folder."""
    stream = Host.stream

    def stream_as_nobody(self: Host, action: str, command: str, **options: Any) -> Transfer:
        words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "sh", "-c", command]
        return stream(self, action, f"HOME={shlex.quote(str(public))} {shlex.join(words)}", **options)

    monkeypatch.setattr(Host, "stream", stream_as_nobody)


@pytest.fixture
def inv(home: Path) -> Inv:
    """The tasks, with a home of the test's own."""
    return Inv(clean_environment(home))


@pytest.fixture(scope="session")
def project_settings() -> Settings:
    """The settings as shipped."""
    project = read_project_file()
    return load_settings(project, project, environ={})


@pytest.fixture
def demo(tmp_path: Path, home: Path, project_settings: Settings) -> Iterator[Demo]:
    """A throwaway demo server."""
    folder = tmp_path / "server"
    folder.mkdir()
    with serve(folder) as server:
        settings = server_settings(server, project_settings)
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
