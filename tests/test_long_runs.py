"""Backups and checks that outlive the task that started them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo_backups.errors import COULD_NOT_LOOK, FAILED, INTERRUPTED
from demo_backups.rehearsal.server import processes_at_home

from .helpers.constants import NOBODY, root_only
from .helpers.databases import is_consistent
from .helpers.processes import start_program, stop_midway, stopped_midway, wait_for_end, wait_until
from .helpers.tasks import CompletedTask, DemoServer, assert_exit, assert_success, read_json

OLDER = "tracker_backup_2026-01-01_00-00-00.db"
TRACKER = ("--database", "tracker")


@dataclass
class TrackerServer:
    """A server with a large tracker database, its script, and an older backup."""

    demo_server: DemoServer

    @property
    def source(self) -> Path:
        return Path(self.demo_server.settings.database("tracker").source)

    @property
    def part(self) -> Path:
        return Path(self.demo_server.settings.database("tracker").part)

    @property
    def backups(self) -> Path:
        return self.demo_server.backups

    def inv(self, task: str, *flags: str, **changes: str) -> CompletedTask:
        """Run a task on the tracker database."""
        return self.demo_server.inv(task, *TRACKER, *flags, **changes)

    def start(self, task: str = "run", *flags: str, **changes: str) -> subprocess.Popen[str]:
        """Start a task on the tracker database."""
        return self.demo_server.start(task, *TRACKER, *flags, **changes)

    def start_from_cron(self) -> subprocess.Popen[str]:
        """Start a backup as cron does."""
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.demo_server.server.home),
            "DATABASE_FILE": str(self.source),
            "BACKUP_DIR": str(self.backups),
        }
        return start_program(self.demo_server.settings.database("tracker").script, env=environment)

    def new_backups(self) -> list[str]:
        """Return the names of new backups; the older one must be unchanged, and no other file visible."""
        assert (self.backups / OLDER).read_bytes() == b"older"
        return [name for name in self.demo_server.names() if name != OLDER]

    def sqlite_processes(self) -> list[int]:
        """Return the processes of sqlite3 on this server: a copy or a check."""
        found = []
        for pid in processes_at_home(self.demo_server.server.home):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "sqlite3\n":
                    found.append(pid)
        return found

    def stopped_midway(
        self, start: Callable[[], subprocess.Popen[str]] | None = None
    ) -> contextlib.AbstractContextManager[tuple[subprocess.Popen[str], int]]:
        """Start a backup and stop its copy in the middle; yield the program that started it and the copy."""

        def stop() -> int | None:
            wait_until(lambda: self.part.exists() or self.new_backups(), "the copy")
            return stop_midway(self.sqlite_processes(), self.part, self.source)

        def undo() -> None:
            for name in self.new_backups():
                (self.backups / name).unlink()

        return stopped_midway(start or self.start, stop, undo)

    def assert_nothing_left(self) -> None:
        """Check that a failed run left neither a backup nor a partial file."""
        assert (self.new_backups(), self.part.exists()) == ([], False)

    @property
    def job_state(self) -> Path:
        """The state directory of the only backup job."""
        (folder,) = (self.demo_server.server.home / ".demo-backups").glob("tracker-backup-*/0*")
        return folder


@pytest.fixture
def tracker(demo_server: DemoServer, large: Path) -> TrackerServer:
    """A server with a large tracker database, its script, and an older backup."""
    tracker = TrackerServer(demo_server)
    tracker.source.parent.mkdir(parents=True)
    shutil.copy(large, tracker.source)
    demo_server.deploy("tracker")
    (tracker.backups / OLDER).write_bytes(b"older")
    return tracker


# --- detach and attach ----------------------------------------------------------------------------------------------


def test_ctrl_c_detaches_and_attach_follows(tracker: TrackerServer) -> None:
    with tracker.stopped_midway() as (task, pid):
        os.killpg(task.pid, signal.SIGINT)
        assert_exit(wait_for_end(task), INTERRUPTED, "./inv attach --host rehearsal --database tracker")
        attached = tracker.start("attach")
        os.kill(pid, signal.SIGCONT)
        output = assert_success(wait_for_end(attached))
    (name,) = tracker.new_backups()
    assert str(tracker.backups / name) in output
    assert is_consistent(tracker.backups / name)
    assert not tracker.part.exists()


def test_progress_without_terminal_is_lines(tracker: TrackerServer) -> None:
    with tracker.stopped_midway() as (task, pid):
        assert task.stdout
        total = tracker.source.stat().st_size
        while tracker.part.stat().st_size < total / 5:
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGSTOP)
        for line in task.stdout:
            if " bytes, " in line:
                break
        os.kill(pid, signal.SIGCONT)
        assert re.match(r"[\d,]+ of [\d,]+ bytes, [\d.]+ [kMG]?B(ytes)?/s, ", line)
        assert wait_for_end(task).returncode == 0


def test_run_survives_its_killed_task(tracker: TrackerServer, tmp_path: Path) -> None:
    with tracker.stopped_midway() as (task, pid):
        os.killpg(task.pid, signal.SIGKILL)
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: tracker.new_backups() and not tracker.sqlite_processes(), "the end of the run")
    other = tmp_path / "another maintainer"
    other.mkdir()
    output = assert_success(tracker.inv("attach", HOME=str(other), INVOKE_EVIDENCE_DIR=str(other / "evidence")))
    assert str(tracker.backups / tracker.new_backups()[0]) in output


def test_long_check_detaches_too(tracker: TrackerServer) -> None:
    assert_success(tracker.inv("run"))
    (tracker.backups / OLDER).unlink()
    task, pid = stop_check_midway(tracker)
    os.killpg(task.pid, signal.SIGINT)
    assert_exit(wait_for_end(task), INTERRUPTED, "./inv attach")
    attached = tracker.start("attach")
    os.kill(pid, signal.SIGCONT)
    output = assert_success(wait_for_end(attached))
    assert "all checks passed" in output
    assert tracker.demo_server.names()[0] in output


def test_second_verification_joins_the_check(tracker: TrackerServer) -> None:
    assert_success(tracker.inv("run"))
    (tracker.backups / OLDER).unlink()
    first, pid = stop_check_midway(tracker)
    second = tracker.start("verify")
    wait_for_line(second, "joining the check that ")
    assert tracker.sqlite_processes() == [pid]
    os.kill(pid, signal.SIGCONT)
    for task in (first, second):
        assert "all checks passed" in assert_success(wait_for_end(task))
    records = [record for record in tracker.demo_server.records() if record["kind"] == "verification"]
    assert [record["exit_status"] for record in records] == [0, 0]
    assert len({record["details"]["job_started"] for record in records}) == 1


def test_check_of_other_backup_waits_its_turn(tracker: TrackerServer) -> None:
    assert_success(tracker.inv("run"))
    (name,) = tracker.new_backups()
    other = tracker.backups / "tracker_backup_2020-01-01_00-00-00.db"
    shutil.copy2(tracker.backups / name, other)
    (tracker.backups / OLDER).unlink()
    first, pid = stop_check_midway(tracker)
    second = tracker.start("verify", "--backup", other.name)
    wait_for_line(second, "waiting for the end of the check that ")
    os.kill(pid, signal.SIGCONT)
    for task in (first, second):
        assert "all checks passed" in assert_success(wait_for_end(task))
    backups = [record["backup"] for record in tracker.demo_server.records() if record["kind"] == "verification"]
    assert len(set(backups)) == 2


def wait_for_line(task: subprocess.Popen[str], text: str) -> None:
    """Wait until a task prints a line that starts with a text."""
    assert task.stdout
    for line in task.stdout:
        if line.startswith(text):
            return
    pytest.fail(f"{text!r} was not printed")


def test_simultaneous_runs_leave_first_alone(tracker: TrackerServer) -> None:
    """One of them may also start after the end of the other."""
    for _ in range(3):
        count = len(tracker.new_backups())
        results = [wait_for_end(task) for task in [tracker.start("run"), tracker.start("run")]]
        created = [done for done in results if done.returncode == 0]
        assert len(tracker.new_backups()) - count == len(created) >= 1
        for done in results:
            if done not in created:
                assert_exit(done, FAILED, "running")


def stop_check_midway(tracker: TrackerServer) -> tuple[subprocess.Popen[str], int]:
    """Start a verification and stop its integrity check in the middle; return the task and the check."""
    for _ in range(20):
        task = tracker.start("verify")
        while task.poll() is None:
            for pid in tracker.sqlite_processes():
                with contextlib.suppress(OSError):
                    if b"integrity_check" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGSTOP)
                        return task, pid
        wait_for_end(task)  # it ended before it could be stopped
    pytest.fail("could not stop the check in the middle")


# --- a second run, and stop-backup ----------------------------------------------------------------------------------


def test_second_run_is_refused(tracker: TrackerServer) -> None:
    with tracker.stopped_midway():
        assert_exit(tracker.inv("run"), FAILED, "process ", "./inv attach --host rehearsal")
        assert_exit(tracker.inv("run", "--force"), FAILED, "started by ", "./inv attach --host rehearsal")
        assert read_json(tracker.inv("preflight", "--json"), FAILED)["verdict"] == "no"
        from_cron = wait_for_end(tracker.start_from_cron())
        assert (from_cron.returncode, tracker.new_backups()) == (1, [])
        assert "another run is in progress" in from_cron.stderr


def test_stop_backup_stops_run_of_task(tracker: TrackerServer) -> None:
    with tracker.stopped_midway() as (task, pid):
        assert_success(tracker.inv("stop-backup", "--dry-run"))
        assert tracker.sqlite_processes() == [pid]
        assert_success(tracker.inv("stop-backup"))
        assert_exit(wait_for_end(task), FAILED, "stopped by ")
    tracker.assert_nothing_left()
    assert tracker.sqlite_processes() == []


def test_stop_backup_stops_run_of_cron(tracker: TrackerServer) -> None:
    with tracker.stopped_midway(tracker.start_from_cron) as (script, pid):
        assert_success(tracker.inv("stop-backup"))
        assert wait_for_end(script).returncode != 0
        assert pid not in tracker.sqlite_processes()
    tracker.assert_nothing_left()


def test_missing_job_is_an_error(demo_server: DemoServer) -> None:
    assert_exit(demo_server.inv("attach"), FAILED, "index database")


def test_nothing_to_stop_is_no_error(demo_server: DemoServer) -> None:
    assert "index database" in assert_success(demo_server.inv("stop-backup"))
    preview = assert_success(demo_server.inv("stop-backup", "--dry-run"))
    assert "would run" not in preview


# --- faults ---------------------------------------------------------------------------------------------------------


def test_job_killed_on_server_is_reported(tracker: TrackerServer) -> None:
    with tracker.stopped_midway() as (task, _):
        for pid in processes_at_home(tracker.demo_server.server.home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert wait_for_end(task).returncode in (FAILED, COULD_NOT_LOOK)
    assert_exit(tracker.inv("attach"), FAILED, "exit status")
    assert tracker.new_backups() == []
    assert_success(tracker.inv("run"))
    assert len(tracker.new_backups()) == 1


def test_truncated_source_fails_the_run(tracker: TrackerServer) -> None:
    with tracker.stopped_midway() as (task, pid):
        os.truncate(tracker.source, 1_000_000)
        os.kill(pid, signal.SIGCONT)
        assert_exit(wait_for_end(task), FAILED, "became smaller while it was copied")
    tracker.assert_nothing_left()


def test_too_little_space_stops_the_run(tracker: TrackerServer) -> None:
    disk = os.statvfs(tracker.backups)
    floor = {"INVOKE_FREE_SPACE_FLOOR": str(disk.f_blocks * disk.f_frsize)}
    assert_exit(tracker.inv("run", **floor), FAILED, "space", "--force")
    assert not tracker.part.exists()
    with tracker.stopped_midway(lambda: tracker.start("run", "--force", **floor)) as (task, _):
        done = wait_for_end(task)
        assert_exit(done, FAILED)
        assert "must stay free" in done.stdout + done.stderr
        wait_until(lambda: not tracker.sqlite_processes(), "the end of the copy")
        assert not tracker.part.exists()


def test_damaged_job_state_is_not_trusted(tracker: TrackerServer) -> None:
    assert_success(tracker.inv("run"))
    (tracker.job_state / "about").write_text("{")
    assert_exit(tracker.inv("attach"), COULD_NOT_LOOK, "rm -r ")
    shutil.rmtree(tracker.job_state)
    assert_exit(tracker.inv("attach"), FAILED)


@root_only
def test_foreign_job_state_is_not_trusted(tracker: TrackerServer) -> None:
    assert_success(tracker.inv("run"))
    os.chown(tracker.job_state.parent, NOBODY, NOBODY)
    for task in ("attach", "stop-backup", "run"):
        assert_exit(tracker.inv(task), COULD_NOT_LOOK, "another user")


# --- records --------------------------------------------------------------------------------------------------------


def test_run_is_recorded_with_its_end(tracker: TrackerServer) -> None:
    assert_success(tracker.inv("run"))
    record = tracker.demo_server.records()[-1]
    assert (record["kind"], record["database"], record["exit_status"]) == ("run", "tracker", 0)
    assert record["bytes"] == (tracker.backups / tracker.new_backups()[0]).stat().st_size
    assert 0 <= record["details"]["waited_seconds"] < record["seconds"]
