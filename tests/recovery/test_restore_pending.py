"""While a restore is running, and after it was killed: what other tasks do, and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo_backups.errors import FAILED, INTERRUPTED
from demo_backups.rehearsal.server import processes_at_home

from ..helpers.backups import make_backup
from ..helpers.constants import SCRIPT
from ..helpers.databases import dump, execute
from ..helpers.processes import wait_for_end, wait_until
from ..helpers.task_reference import load_tasks
from ..helpers.tasks import DemoServer, assert_exit, assert_success

TABLE = "torrust_torrent_announce_urls"
# They work meanwhile: on the restore itself, on this machine only, or on another database.
ALLOWED = {
    *("restore", "attach", "history", "plan", "next", "report", "release.open-pr", "check"),
    *("deploy-tracker-backup", "run-tracker-backup", "list-copies", "prune-copies"),
    *("offsite", "backup-config"),  # neither uses the database
}


@dataclass
class WaitingRestore:
    """A restore that waits while it stops the service, and the backup that it restores."""

    demo_server: DemoServer
    backup: Path
    task: subprocess.Popen[str]
    proceed: Path

    @property
    def journal(self) -> Path:
        """The journal of the restore; missing if none is running and none was killed."""
        return Path(self.demo_server.database.restore_journal) / "journal"

    def is_stopping(self) -> bool:
        """Tell whether the restore has reached the stage in which it waits."""
        with contextlib.suppress(FileNotFoundError):
            return "stage=stopping\n" in self.journal.read_text()
        return False

    def kill(self) -> None:
        """Kill the processes of the job on the server, as a power failure does; the task ends too."""
        for pid in processes_at_home(self.demo_server.server.home):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"job.sh" in command or b"restore.sh" in command or b"INVOKE_TEST_WAIT" in command:
                    os.kill(pid, signal.SIGKILL)
        self.proceed.touch()
        assert wait_for_end(self.task).returncode == FAILED


@pytest.fixture
def waiting(demo_server: DemoServer) -> Iterator[WaitingRestore]:
    """A restore of a database that lacks a table, which waits in its stage `stopping`."""
    backup = make_backup(demo_server.source, demo_server.backups)
    execute(demo_server.source, f"DROP TABLE {TABLE}")
    proceed = demo_server.server.home / "proceed"
    service = {
        "INVOKE_DATABASES_INDEX_STOP": f": INVOKE_TEST_WAIT; until [ -e '{proceed}' ]; do sleep 0.1; done",
        "INVOKE_DATABASES_INDEX_START": "true",
    }
    task = demo_server.start("restore", "--backup", backup.name, "--yes", **service)
    restore = WaitingRestore(demo_server, backup, task, proceed)
    try:
        wait_until(lambda: restore.is_stopping() or task.poll() is not None, "the restore")
        assert task.poll() is None, wait_for_end(task)
        yield restore
    finally:
        proceed.touch()
        if task.poll() is None:
            wait_for_end(task)


def refused_tasks() -> list[str]:
    """Return the names of the tasks that work on the index database of a host."""
    contexts = {str(context.name): context for context in load_tasks().to_contexts()}
    return sorted(name for name, context in contexts.items() if "host" in context.args and name not in ALLOWED)


def test_every_other_task_is_refused_during_restore(waiting: WaitingRestore) -> None:
    names = waiting.demo_server.names()
    tasks = refused_tasks()
    assert {"run", "preflight", "verify", "stop-backup", "enable-wal"} <= set(tasks)
    for task in tasks:
        assert_exit(waiting.demo_server.inv(task), FAILED, "a restore of the index database is running")
    assert "a restore is running" in waiting.demo_server.inv("check", "--database", "index").stdout
    again = waiting.demo_server.inv("restore", "--backup", waiting.backup.name, "--yes")
    assert_exit(again, FAILED, "a restore of the index database is running")
    assert waiting.demo_server.names() == names


def test_backup_by_cron_is_refused_during_restore(waiting: WaitingRestore) -> None:
    server = waiting.demo_server
    environment = os.environ | {"DATABASE_FILE": str(server.source), "BACKUP_DIR": str(server.backups)}
    done = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == FAILED
    assert "another run is in progress" in done.stderr


def test_attach_follows_restore_to_its_end(waiting: WaitingRestore) -> None:
    attached = waiting.demo_server.start("attach")
    waiting.proceed.touch()
    done = wait_for_end(attached)
    assert done.returncode == 0, done.stderr
    assert f"restored {waiting.demo_server.source}" in done.stdout
    assert wait_for_end(waiting.task).returncode == 0
    kinds = [record["kind"] for record in waiting.demo_server.records()]
    assert kinds.count("restore") in (1, 2)  # two, if both wrote theirs at the same time


def test_interrupted_task_leaves_restore_running(waiting: WaitingRestore) -> None:
    os.killpg(waiting.task.pid, signal.SIGINT)
    done = wait_for_end(waiting.task)
    assert_exit(done, INTERRUPTED, "attach")
    assert "stop-backup" not in done.stderr
    waiting.proceed.touch()
    assert_success(waiting.demo_server.inv("attach"))
    assert dump(waiting.demo_server.source) == dump(waiting.backup)


def test_killed_restore_is_completed(waiting: WaitingRestore) -> None:
    waiting.kill()
    server = waiting.demo_server
    for task in refused_tasks():
        assert_exit(server.inv(task), FAILED, "--undo")
    assert_exit(server.inv("restore", "--backup", waiting.backup.name, "--yes"), FAILED, "--undo")
    assert "--undo" in server.inv("plan").stdout
    done = server.inv("check", "--database", "index")
    assert (done.returncode, "a restore was killed (stage: stopping)" in done.stdout) == (2, True)
    assert waiting.journal.exists()
    assert_success(server.inv("restore", "--yes"))
    assert dump(server.source) == dump(waiting.backup)
    assert not waiting.journal.exists()
    assert_success(server.inv("list-backups"))


def test_killed_restore_is_reverted(waiting: WaitingRestore) -> None:
    waiting.kill()
    before = dump(waiting.demo_server.source)
    assert_success(waiting.demo_server.inv("restore", "--undo", "--yes"))
    assert dump(waiting.demo_server.source) == before
    assert not waiting.journal.exists()


def test_restore_is_refused_during_backup(demo_server: DemoServer) -> None:
    backup = make_backup(demo_server.source, demo_server.backups)
    lock = Path(demo_server.database.lock)
    with subprocess.Popen(["flock", lock, "cat"], stdin=subprocess.PIPE) as process:
        wait_until(lambda: subprocess.run(["flock", "-n", lock, "true"], check=False).returncode, "the lock")
        assert process.stdin
        done = demo_server.inv("restore", "--backup", backup.name, "--yes")
        process.stdin.close()
    assert_exit(done, FAILED, "a backup of this database is running")
