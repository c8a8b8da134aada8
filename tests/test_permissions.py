"""Tasks refuse directories, locks and state that another user can write to, and follow nothing that one has planted."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from demo_backups.errors import FAILED

from .helpers.backups import make_backup
from .helpers.constants import NOBODY, root_only
from .helpers.faults import snapshot
from .helpers.processes import wait_until
from .helpers.tasks import DemoServer, assert_exit, assert_success, read_json

TASKS = ("deploy", "run", "enable", "verify", "stop-backup")


@pytest.fixture
def deployed(demo_server: DemoServer) -> DemoServer:
    """A server with the script and one backup."""
    demo_server.deploy()
    make_backup(demo_server.source, demo_server.backups)
    return demo_server


def check_refused(server: DemoServer, task: str, *messages: str) -> None:
    """Check that a task is refused, and that it changes nothing on the server."""
    before = snapshot(server.server.folder)
    arguments = [task, "--force"] if task == "run" else [task]
    assert_exit(server.inv(*arguments), FAILED, "refused", *messages)
    assert snapshot(server.server.folder) == before


def test_writable_backup_directory_is_refused(deployed: DemoServer) -> None:
    deployed.backups.chmod(0o757)
    for task in TASKS:
        check_refused(deployed, task, "every user can write", f"chmod go-w -- {deployed.backups}")


@root_only
def test_backup_directory_of_other_user(deployed: DemoServer) -> None:
    os.chown(deployed.backups, NOBODY, -1)
    for task in TASKS:
        check_refused(deployed, task, "belongs to nobody", "chown -h root")


def test_writable_script_directory_is_refused(deployed: DemoServer) -> None:
    for levels, task in enumerate(("deploy", "run", "enable")):
        folder = deployed.script.parents[levels]
        folder.chmod(0o757)
        check_refused(deployed, task, f"every user can write to {folder} ")
        folder.chmod(0o755)


def test_writable_script_is_refused(deployed: DemoServer) -> None:
    deployed.script.chmod(0o757)
    for task in ("run", "enable"):
        check_refused(deployed, task, f"every user can write to {deployed.script} ")


def test_preflight_predicts_refusal(deployed: DemoServer) -> None:
    assert read_json(deployed.inv("preflight", "--json"))["notes"] == []
    deployed.backups.chmod(0o757)
    value = read_json(deployed.inv("preflight", "--json"), FAILED)
    assert value["verdict"] == "no"
    assert any("every user can write" in reason for reason in value["reasons"])


# --- planted locks --------------------------------------------------------------------------------------------------


@pytest.fixture
def service(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that makes no backup, and has a file open."""
    file = tmp_path / "opened by a service"
    file.write_text("content")
    with file.open("rb") as opened, subprocess.Popen(["sleep", "600"], stdin=opened) as process:
        yield process
        process.kill()


@pytest.mark.parametrize(("kind", "tasks"), [("symbolic link", TASKS), ("hard link", ("run", "stop-backup"))])
def test_planted_lock_is_refused(
    deployed: DemoServer, tmp_path: Path, service: subprocess.Popen[bytes], kind: str, tasks: Sequence[str]
) -> None:
    lock = Path(deployed.database.lock)
    lock.unlink()
    (lock.symlink_to if kind == "symbolic link" else lock.hardlink_to)(tmp_path / "opened by a service")
    for task in tasks:
        check_refused(deployed, task, f"{lock} is not a regular file")
        assert service.poll() is None
        assert (tmp_path / "opened by a service").read_text() == "content"


def test_pipe_for_lock_blocks_nothing(deployed: DemoServer) -> None:
    lock = Path(deployed.database.lock)
    lock.unlink()
    os.mkfifo(lock)
    for task in ("run", "stop-backup"):
        assert_exit(deployed.inv(task), FAILED, f"{lock} is not a regular file")


def test_stop_signals_holders_of_lock_only(deployed: DemoServer, service: subprocess.Popen[bytes]) -> None:
    lock = deployed.database.lock
    with subprocess.Popen(["flock", lock, "sleep", "600"], start_new_session=True) as backup:
        wait_until(lambda: "process" in deployed.inv("stop-backup", "--dry-run").stdout, "the lock")
        assert_success(deployed.inv("stop-backup"))
        assert backup.wait() == -signal.SIGTERM
    assert service.poll() is None
