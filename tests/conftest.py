"""The fixtures that several test files use."""

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
from demo_backups.rehearsal.server import serve
from demo_backups.rehearsal.throwaway import server_settings
from demo_backups.remote.connection import open_host
from demo_backups.remote.host import Host, Transfer
from demo_backups.settings.load import load_settings
from demo_backups.settings.model import Settings

from .helpers.constants import NOBODY
from .helpers.processes import restore_sigint
from .helpers.tasks import DemoServer, InvRunner, clean_environment

# The shipped commands are those of Docker Compose.
NO_SERVICES = {
    f"INVOKE_DATABASES_{database}_{command}": ""
    for database in ("INDEX", "TRACKER")
    for command in ("STOP", "START", "HEALTHY")
}


def pytest_configure() -> None:
    """Let Ctrl-C reach what the tests start, and let no group write to the directories that they create."""
    restore_sigint()
    os.umask(0o022)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory of the test's own."""
    folder = tmp_path / "home of the test"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def project_settings() -> Settings:
    """The settings as shipped."""
    project = read_project_file()
    return load_settings(project, project, environ={})


# --- this machine ---------------------------------------------------------------------------------------------------


@pytest.fixture
def local_host(project_settings: Settings, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """This machine as a Host, without sudo, with a home directory of the test's own."""
    monkeypatch.setenv("HOME", str(home))
    with open_host(project_settings.model_copy(update={"use_sudo": False}), "local") as opened:
        yield opened


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A directory that every user can write to, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


@pytest.fixture
def as_nobody(public_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all commands as nobody, whose home is the public directory."""
    stream = Host.stream

    def stream_as_nobody(self: Host, action: str, command: str, **options: Any) -> Transfer:
        drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        as_nobody = shlex.join([*drop, "sh", "-c", command])
        return stream(self, action, f"HOME={shlex.quote(str(public_folder))} {as_nobody}", **options)

    monkeypatch.setattr(Host, "stream", stream_as_nobody)


@pytest.fixture
def run_inv(home: Path) -> InvRunner:
    """The tasks, with a home directory of the test's own."""
    return InvRunner(clean_environment(home))


# --- the throwaway server -------------------------------------------------------------------------------------------


@pytest.fixture
def demo_server(tmp_path: Path, home: Path, project_settings: Settings) -> Iterator[DemoServer]:
    """A throwaway server with an index database."""
    folder = tmp_path / "server"
    folder.mkdir()
    with serve(folder) as server:
        settings = server_settings(server, project_settings)
        names = ("host", "ssh_config", "app_dir", "backup_dir", "cron_log")
        variables = {f"INVOKE_{name.upper()}": str(getattr(settings, name)) for name in names}
        environment = clean_environment(home) | variables | NO_SERVICES | {"INVOKE_USE_SUDO": "0"}
        demo_server = DemoServer(server, settings, environment)
        demo_server.source.parent.mkdir(parents=True)
        demo_server.script.parent.mkdir(parents=True)
        demo_server.backups.mkdir()
        make_index(demo_server.source, torrents=50)
        yield demo_server


@pytest.fixture
def host(demo_server: DemoServer) -> Iterator[Host]:
    """An open connection to the throwaway server."""
    with open_host(demo_server.settings) as opened:
        yield opened


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracker database in WAL mode whose copy takes long enough to be stopped in the middle."""
    path = tmp_path_factory.mktemp("tracker") / "large.db"
    make_tracker(path, "wal", rows=600_000)
    return path


# --- mounts ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def private_mounts() -> list[str]:
    """The start of a command that may mount file systems, as root, without effect on other processes.

    Tests that need it are skipped where it does not work; in CI they fail.
    """
    start = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--"]
    mount = ["mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    done = subprocess.run([*start, *mount], capture_output=True, text=True, check=False)
    if done.returncode:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"private mounts do not work: {done.stderr}")
    return start


@pytest.fixture
def private_home(private_mounts: list[str], tmp_path: Path) -> Callable[[Path], list[str]]:
    """Return the start of a command whose user has another home in passwd(5), where sqlite3 looks for its settings."""

    def start(home: Path) -> list[str]:
        users = tmp_path / "passwd"
        users.write_text(f"root:x:0:0:root:{home}:/bin/sh\n")
        return [*private_mounts, "sh", "-euc", 'mount --bind -- "$0" /etc/passwd; exec "$@"', str(users)]

    return start
