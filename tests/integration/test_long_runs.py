"""Long backups against OpenSSH: cut off, found again, stopped, and with a disk that fills up."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from demo_backups.errors import StepError
from demo_backups.remote.connection import open_host
from demo_backups.settings.model import Database
from demo_backups.sqlite.journal_mode import change_journal_mode, read_journal_mode

from ..helpers.databases import is_consistent
from ..helpers.processes import start_program, stop_midway, stopped_midway, wait_for_end, wait_until
from ..helpers.tasks import InvRunner
from .conftest import Server

MIB = 2**20
Task = subprocess.Popen[str]
Done = subprocess.CompletedProcess[str]


class Tracker:
    """The demo server with a live tracker database, its script, and two older backups."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.machine = server.machine
        self.database: Database = server.settings.database("tracker")
        self.source = self.machine.outside(self.database.source)
        self.backups = self.machine.outside(self.database.backup_dir)
        self.recent, self.expired = self._add(days=1), self._add(days=9)

    def _add(self, days: int) -> str:
        """Create a backup of some days ago; return its name."""
        when = datetime.now() - timedelta(days=days)
        name = when.strftime("tracker_backup_%Y-%m-%d_%H-%M-%S.db")
        (self.backups / name).write_text(name)
        os.utime(self.backups / name, (when.timestamp(), when.timestamp()))
        return name

    @property
    def part(self) -> Path:
        return self.backups / self.database.part.name

    def mount(self, size: int) -> None:
        """Give the backups a disk of their own, of some MiB; the older ones move there."""
        folder = str(self.database.backup_dir)
        self.machine.run("cp", "-a", folder, "/tmp/older")
        self.machine.run("mount", "-t", "tmpfs", "-o", f"size={size}m,mode=750", "tmpfs", folder)
        self.machine.run("cp", "-a", "/tmp/older/.", folder)
        self.backups = self.machine.inside(self.database.backup_dir)

    def inv(self, task: str, *flags: str, **changes: str) -> Done:
        """Run a task on the tracker's database to its end."""
        return self.server.inv(task, *self._select(task), *flags, **changes)

    def start(self, task: str, *flags: str, **changes: str) -> Task:
        """Start a task on the tracker's database."""
        return InvRunner(self.server.environment).start(task, *self._select(task), *flags, **changes)

    def _select(self, task: str) -> list[str]:
        return [] if task == "run-tracker-backup" else ["--database", "tracker"]

    def sqlite_processes(self, text: str) -> list[int]:
        """The processes of sqlite3 whose command line contains a text."""
        found = []
        for pid in self.machine.processes(text):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "sqlite3\n":
                    found.append(pid)
        return found

    def pause_copy(self) -> int | None:
        """Suspend the copy as soon as it runs; return its process, None if it has ended already."""
        wait_until(lambda: self.part.exists() or self.new_backups(), "the copy")
        return stop_midway(self.sqlite_processes(".backup"), self.part, self.source)

    def new_backups(self) -> list[str]:
        """The names of new backups."""
        return sorted({path.name for path in self.backups.glob("tracker_backup_*")} - {self.recent, self.expired})

    def check_folder(self, *, new: int, part: bool = False) -> list[Path]:
        """Check what is in the folder: so many new backups, all consistent, the older ones untouched, and nothing else.

        Only a successful backup removes the expired one. Returns the new ones.
        """
        names = self.new_backups()
        assert len(names) == new
        assert all(is_consistent(self.backups / name) for name in names)
        older = [self.recent] if new else [self.recent, self.expired]
        assert {name: (self.backups / name).read_text() for name in older} == {name: name for name in older}
        hidden = {".tracker_backup.lock"} | ({self.part.name, f"{self.part.name}-journal"} if part else set())
        assert {path.name for path in self.backups.iterdir()} - hidden == {*names, *older}
        return [self.backups / name for name in names]

    def cut_connection(self, task: Task) -> Done:
        """Kill the sessions of sshd, not its listener, until that happens during a command and the task ends."""

        def has_ended() -> bool:
            for pid in self.machine.processes("sshd: torrust@"):  # a session, not a login
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return task.poll() is not None  # between two commands, the task connects again

        wait_until(has_ended, "the end of the task")
        return wait_for_end(task)

    def run_as_cron(self) -> Task:
        """Start what cron would run, as root."""
        bare = ["env", "-i", "HOME=/root", "PATH=/usr/bin:/bin"]
        return start_program(*self.machine.enter, *bare, "/bin/sh", "-c", str(self.database.script), env=os.environ)


@pytest.fixture
def tracker(server: Server, large: Path) -> Tracker:
    """The demo server with the tracker's database and script."""
    with_database = Tracker(server)
    with_database.source.parent.mkdir(parents=True)
    shutil.copy(large, with_database.source)
    server.machine.own(server.machine.home / "github")
    server.deploy("tracker")
    return with_database


def check_end(done: Done, code: int, *texts: str) -> None:
    """Check the exit code of a task and what it printed, and that this is no traceback."""
    print(done.stdout, done.stderr, sep="")
    assert done.returncode == code
    assert "Traceback" not in done.stdout + done.stderr
    for text in texts:
        assert text in (done.stderr if code else done.stdout)


def resume(pid: int) -> None:
    """Resume a suspended process."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def wait_for_term(pid: int) -> None:
    """Wait until a suspended process was sent SIGTERM, which it gets when it is resumed."""

    def is_pending() -> bool:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True  # it got it: the system resumes a process whose group has lost its parent (setpgid(2))
        lines = dict(line.split(":\t") for line in status.splitlines())
        return lines["State"].startswith("Z") or bool(int(lines["ShdPnd"], 16) >> (signal.SIGTERM - 1) & 1)

    wait_until(is_pending, "SIGTERM")


def paused_backup(
    tracker: Tracker, *flags: str, cron: bool = False, **changes: str
) -> contextlib.AbstractContextManager[tuple[Task, int]]:
    """Start a backup and suspend its copy in the middle; yields what was started, and the process of the copy."""

    def start() -> Task:
        return tracker.run_as_cron() if cron else tracker.start("run-tracker-backup", *flags, **changes)

    def undo() -> None:
        for name in tracker.new_backups():
            (tracker.backups / name).unlink()
        (tracker.backups / tracker.expired).unlink(missing_ok=True)
        tracker.expired = tracker._add(days=9)

    return stopped_midway(start, tracker.pause_copy, undo)


# --- the connection, the user and the maintainer's machine ----------------------------------------------------------


def test_cut_connection_leaves_backup_running(tracker: Tracker) -> None:
    with paused_backup(tracker) as (task, pid):
        words = ("the connection was lost", "keeps running without", "./inv attach --host demo --database tracker")
        check_end(tracker.cut_connection(task), 3, *words)
        again = tracker.start("attach")
        resume(pid)
        done = wait_for_end(again)
    (backup,) = tracker.check_folder(new=1)
    check_end(done, 0, f"created {tracker.database.backup_dir}/{backup.name}")


def test_attach_fails_like_the_backup(tracker: Tracker) -> None:
    with paused_backup(tracker) as (task, pid):
        check_end(tracker.cut_connection(task), 3, "the connection was lost")
        os.truncate(tracker.source, MIB)
        again = tracker.start("attach")
        resume(pid)
        check_end(
            wait_for_end(again), 1, "the backup of the tracker database failed", "became smaller while it was copied"
        )
        check_end(tracker.inv("attach"), 1, "became smaller while it was copied")  # also when asked later
    tracker.check_folder(new=0)


def test_other_maintainer_attaches_to_backup(tracker: Tracker, tmp_path: Path) -> None:
    with paused_backup(tracker) as (task, pid):
        os.killpg(task.pid, signal.SIGKILL)
        task.wait()
        resume(pid)
        wait_until(lambda: tracker.new_backups() and not tracker.machine.processes("job.sh"), "the end of the run")
    other = tmp_path / "another maintainer"
    other.mkdir()
    done = tracker.inv("attach", HOME=str(other), INVOKE_EVIDENCE_DIR=str(other / "evidence"))
    (backup,) = tracker.check_folder(new=1)
    check_end(done, 0, "started by ", f"created {tracker.database.backup_dir}/{backup.name}")
    (record,) = (json.loads(path.read_text()) for path in (other / "evidence").iterdir())
    assert (record["kind"], record["exit_status"], record["bytes"]) == ("run", 0, backup.stat().st_size)


def test_ctrl_c_on_terminal_detaches(tracker: Tracker) -> None:
    for _ in range(20):
        with tracker.server.inv_on_terminal("run-tracker-backup") as tty:
            if pid := tracker.pause_copy():
                tty.expect("━")
                tty.expect("left, after")
                tty.type("\x03")
                assert tty.end() == 130
                break
            assert tty.end() == 0
            (tracker.backups / tracker.new_backups()[0]).unlink()
            tracker.expired = tracker._add(days=9)
    assert pid
    assert "assword" not in tty.shown
    assert "detached: the backup, once started, keeps running without this terminal" in tty.shown
    assert "./inv attach --host demo --database tracker" in tty.shown
    assert "./inv stop-backup --host demo --database tracker" in tty.shown
    with tracker.server.inv_on_terminal("attach", "--database", "tracker") as tty:
        tty.expect("━")
        resume(pid)
        assert tty.end() == 0
    (backup,) = tracker.check_folder(new=1)
    assert f"created {tracker.database.backup_dir}/{backup.name}" in tty.shown


def test_long_check_is_attached_to(tracker: Tracker) -> None:
    check_end(tracker.inv("run-tracker-backup"), 0)
    for _ in range(20):
        task = tracker.start("verify")
        wait_until(lambda: tracker.sqlite_processes("integrity_check") or task.poll() is not None, "the check")  # noqa: B023
        if pids := tracker.sqlite_processes("integrity_check"):
            os.kill(pids[0], signal.SIGSTOP)
            break
        wait_for_end(task)
    os.killpg(task.pid, signal.SIGINT)
    check_end(
        wait_for_end(task),
        130,
        "detached: the check, once started, keeps running",
        "./inv attach --host demo --database tracker",
    )
    again = tracker.start("attach")
    resume(pids[0])
    check_end(wait_for_end(again), 0, "all checks passed")
    tracker.check_folder(new=1)


# --- one at a time --------------------------------------------------------------------------------------------------


def test_second_backup_is_refused(tracker: Tracker) -> None:
    with paused_backup(tracker) as (task, pid):
        check_end(tracker.inv("run-tracker-backup"), 1, "a backup of this database is running: process ", " of root")
        check_end(
            tracker.inv("run-tracker-backup", "--force"),
            1,
            "is already running, started by ",
            "./inv attach --host demo",
        )
        check_end(
            wait_for_end(tracker.run_as_cron()), 1, f"another run is in progress in {tracker.database.backup_dir}"
        )
        ahead = tracker.inv("preflight", "--json")
        assert (ahead.returncode, json.loads(ahead.stdout)["verdict"]) == (1, "no")
        tracker.check_folder(new=0, part=True)
        resume(pid)
        check_end(wait_for_end(task), 0, "created ")
    tracker.check_folder(new=1)


def test_backup_is_refused_during_cron_job(tracker: Tracker) -> None:
    with paused_backup(tracker, cron=True) as (cron, pid):
        check_end(tracker.inv("run-tracker-backup"), 1, "a backup of this database is running: process ")
        check_end(tracker.inv("run-tracker-backup", "--force"), 1, "another run is in progress in ")
        tracker.check_folder(new=0, part=True)
        resume(pid)
        assert wait_for_end(cron).returncode == 0
    tracker.check_folder(new=1)


# --- its end from outside -------------------------------------------------------------------------------------------


def test_without_job_nothing_is_found(tracker: Tracker) -> None:
    check_end(tracker.inv("attach"), 1, "there is no job of the tracker database")
    check_end(tracker.inv("stop-backup"), 0, "no backup of the tracker database is running: nothing to do")
    tracker.check_folder(new=0)


def test_stopped_task_says_by_whom(tracker: Tracker) -> None:
    with paused_backup(tracker) as (task, pid):
        stop = tracker.start("stop-backup")
        wait_for_term(pid)
        resume(pid)
        check_end(wait_for_end(stop), 0, "stopped; only the partial file was removed")
        check_end(wait_for_end(task), 1, "the backup of the tracker database failed", "stopped by ")
    tracker.check_folder(new=0)
    assert "stopped by " in tracker.server.evidence()
    check_end(tracker.inv("attach"), 1, "stopped by ")


def test_stop_ends_cron_job(tracker: Tracker) -> None:
    with paused_backup(tracker, cron=True) as (cron, pid):
        stop = tracker.start("stop-backup")
        wait_for_term(pid)
        resume(pid)
        check_end(wait_for_end(stop), 0, "stopped; only the partial file was removed")
        assert wait_for_end(cron).returncode != 0
    tracker.check_folder(new=0)


def test_run_reports_job_killed_on_server(tracker: Tracker) -> None:
    with paused_backup(tracker) as (task, _):
        for words in ("job.sh", str(tracker.database.script), ".backup"):
            for pid in tracker.machine.processes(words):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        check_end(wait_for_end(task), 1, "without reporting an exit status")
        check_end(tracker.inv("attach"), 1, "without reporting an exit status")
    tracker.check_folder(new=0)
    check_end(tracker.inv("run-tracker-backup"), 0)
    tracker.check_folder(new=1)


# --- the disk -------------------------------------------------------------------------------------------------------


def test_forced_backup_without_space_fails_cleanly(tracker: Tracker) -> None:
    tracker.mount(16)
    check_end(tracker.inv("preflight", "--json"), 1)
    check_end(tracker.inv("run-tracker-backup"), 1, f"not enough space on {tracker.database.backup_dir}", "--force")
    tracker.check_folder(new=0)
    done = tracker.inv("run-tracker-backup", "--force", INVOKE_FREE_SPACE_FLOOR="0 B")
    check_end(done, 1, "the backup of the tracker database failed", "full")
    tracker.check_folder(new=0)


def test_nearly_full_disk_stops_backup(tracker: Tracker) -> None:
    tracker.mount(256)
    with paused_backup(tracker, INVOKE_FREE_SPACE_FLOOR="100 MB") as (task, pid):
        tracker.machine.run("fallocate", "-l", "180M", f"{tracker.database.backup_dir}/.filler")
        wait_for_term(pid)
        resume(pid)
        check_end(
            wait_for_end(task), 1, "stopped: ", f"free on the disk of {tracker.database.backup_dir}", "must stay free"
        )
    (tracker.backups / ".filler").unlink()
    tracker.check_folder(new=0)


def test_full_disk_fails_backup(tracker: Tracker) -> None:
    tracker.mount(128)
    with paused_backup(tracker, INVOKE_FREE_SPACE_FLOOR="0 B") as (task, pid):
        tracker.machine.run("sh", "-c", f"cat /dev/zero > {tracker.database.backup_dir}/.filler 2>/dev/null || :")
        resume(pid)
        check_end(wait_for_end(task), 1, "the backup of the tracker database failed", "full")
    (tracker.backups / ".filler").unlink()
    tracker.check_folder(new=0)


# --- the state folder -----------------------------------------------------------------------------------------------


@pytest.fixture
def state(tracker: Tracker) -> Path:
    """The folder in which a run of root's was kept that has ended well; its backup is gone again."""
    check_end(tracker.inv("run-tracker-backup"), 0)
    for name in tracker.new_backups():
        (tracker.backups / name).unlink()
    tracker.expired = tracker._add(days=9)
    (folder,) = (tracker.machine.folder / "root/.demo-backups").glob("tracker-backup-*/0*")
    return folder


@pytest.mark.parametrize("name", ["about", "status"])
def test_damaged_state_does_not_prevent_next_backup(tracker: Tracker, state: Path, name: str) -> None:
    (state / name).write_bytes(b"\x00\xff{")
    check_end(
        tracker.inv("attach"),
        3,
        f"the state directory of this job, ~/.demo-backups/{state.parent.name}/{state.name}, is damaged",
        "rm -r ",
    )
    check_end(tracker.inv("stop-backup"), 0, "no backup of the tracker database is running")
    tracker.check_folder(new=0)
    check_end(tracker.inv("run-tracker-backup"), 0)
    tracker.check_folder(new=1)


def test_backup_with_damaged_state_is_stopped(tracker: Tracker) -> None:
    with paused_backup(tracker) as (task, pid):
        (state,) = (tracker.machine.folder / "root/.demo-backups").glob("tracker-backup-*/0*")
        (state / "about").write_text("{")
        check_end(wait_for_end(task), 3, "is damaged")
        check_end(
            tracker.inv("run-tracker-backup", "--force"), 1, "a backup of the tracker database is already running"
        )
        stop = tracker.start("stop-backup")
        wait_for_term(pid)
        resume(pid)
        check_end(wait_for_end(stop), 0, "stopped; only the partial file was removed")
    tracker.check_folder(new=0)


def test_state_of_other_user_is_rejected(tracker: Tracker, state: Path) -> None:
    tracker.machine.own(state.parent)
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    for task in ("attach", "stop-backup", "run-tracker-backup"):
        check_end(tracker.inv(task), 3, "it is rejected", "its owner is torrust")
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before
    tracker.check_folder(new=0)


# --- WAL mode while the database is in use --------------------------------------------------------------------------


@contextlib.contextmanager
def transaction(tracker: Tracker) -> Iterator[Task]:
    """Let a service on the server keep a transaction open; closing its standard input ends it."""
    service = subprocess.Popen(
        [*tracker.machine.enter, "sqlite3", "-batch", str(tracker.database.source)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert service.stdin
    assert service.stdout
    with service:
        service.stdin.write("BEGIN IMMEDIATE;\n.shell echo held\n")
        service.stdin.flush()
        assert service.stdout.readline() == "held\n"
        yield service


@pytest.fixture
def rollback(tracker: Tracker) -> Tracker:
    """The same with the database in rollback mode, as published."""
    check_end(tracker.inv("enable-wal", "--undo"), 0)
    return tracker


def test_wal_mode_waits_for_open_transaction(rollback: Tracker) -> None:
    with transaction(rollback) as service:
        task = rollback.start("enable-wal")
        wait_until(lambda: rollback.sqlite_processes("journal_mode"), "the first try")
        assert service.stdin
        service.stdin.close()
        check_end(wait_for_end(task), 0, "is now in WAL mode")
    rollback.check_folder(new=0)


def test_wal_mode_fails_during_long_transaction(rollback: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_backups.sqlite.journal_mode.RETRY_TIMEOUT", 0.5)
    before = rollback.source.read_bytes()
    with transaction(rollback), open_host(rollback.server.settings) as host:
        with pytest.raises(StepError, match="stayed locked") as error:
            change_journal_mode(host, rollback.database, wal=True)
        assert f"of root: sqlite3 -batch {rollback.database.source}" in str(error.value)
        assert "nothing was changed" in str(error.value)
        assert not read_journal_mode(host, rollback.database).wal
        assert rollback.source.read_bytes() == before
    check_end(rollback.inv("enable-wal"), 0, "is now in WAL mode")
    rollback.check_folder(new=0)
