"""A long backup outlives its task, against OpenSSH: what cuts it off, finds it again, ends it, or fills its disk."""

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
from demo_backups.project import ROOT
from demo_backups.remote.connection import open_host
from demo_backups.settings import Database
from demo_backups.sqlite.journal_mode import change_journal_mode, read_journal_mode

from ..helpers.databases import is_consistent
from ..helpers.processes import start_program, stop_midway, stopped_midway, wait_for_end, wait_until
from ..helpers.tasks import INV
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
        """Put a backup of some days ago into the folder; returns its name."""
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
        return wait_for_end(self.start(task, *flags, **changes))

    def start(self, task: str, *flags: str, **changes: str) -> Task:
        """Start a task on the tracker's database."""
        words = [] if task == "run-tracker-backup" else ["--database", "tracker"]
        env = self.server.environment | changes
        return start_program(INV, "--search-root", ROOT, task, *words, *flags, env=env)

    def shells(self, words: str) -> list[int]:
        """The processes of sqlite3 that were called with some words."""
        found = []
        for pid in self.machine.processes(words):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "sqlite3\n":
                    found.append(pid)
        return found

    def stop_copy(self) -> int | None:
        """Stop the copy as soon as it has begun; returns its process, None where it was faster."""
        wait_until(lambda: self.part.exists() or self.made(), "the copy")
        return stop_midway(self.shells(".backup"), self.part, self.source)

    def made(self) -> list[str]:
        """The names of new backups."""
        return sorted({path.name for path in self.backups.glob("tracker_backup_*")} - {self.recent, self.expired})

    def left(self, *, made: int, part: bool = False) -> list[Path]:
        """Check what is in the folder: so many new backups, all good, the older ones untouched, and nothing else.

        Only a run that went well takes the expired one away.
        """
        new = self.made()
        assert len(new) == made
        assert all(is_consistent(self.backups / name) for name in new)
        older = [self.recent] if made else [self.recent, self.expired]
        assert {name: (self.backups / name).read_text() for name in older} == {name: name for name in older}
        hidden = {".tracker_backup.lock"} | ({self.part.name, f"{self.part.name}-journal"} if part else set())
        assert {path.name for path in self.backups.iterdir()} - hidden == {*new, *older}
        return [self.backups / name for name in new]

    def cut(self, task: Task) -> Done:
        """Kill every session of sshd, not the one that listens, until a look of a task meets that and the task ends."""

        def met() -> bool:
            for pid in self.machine.processes("sshd: torrust"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return task.poll() is not None  # cut between two looks, the next one makes the connection anew

        wait_until(met, "the end of the task")
        return wait_for_end(task)

    def run_as_cron(self) -> Task:
        """Start what cron would run, as root."""
        bare = ["env", "-i", "HOME=/root", "PATH=/usr/bin:/bin"]
        return start_program(*self.machine.enter, *bare, "/bin/sh", "-c", str(self.database.script), env=os.environ)


@pytest.fixture
def tracker(server: Server, large: Path) -> Tracker:
    """The demo server with the tracker's database and script."""
    made = Tracker(server)
    made.source.parent.mkdir(parents=True)
    shutil.copy(large, made.source)
    server.machine.own(server.machine.home / "github")
    assert server.inv("deploy-tracker-backup").returncode == 0
    return made


def told(done: Done, code: int, *words: str) -> None:
    """Check that a task ended with a code, and in words rather than in a traceback."""
    print(done.stdout, done.stderr, sep="")
    assert done.returncode == code
    assert "Traceback" not in done.stdout + done.stderr
    for each in words:
        assert each in (done.stderr if code else done.stdout)


def go_on(pid: int) -> None:
    """Let a process go on that was stopped."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def wait_for_term(pid: int) -> None:
    """Wait until a stopped process was sent SIGTERM, which it meets as soon as it goes on."""

    def pending() -> bool:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True  # it has met it: the system lets a process go on whose group has lost its parent (setpgid(2))
        lines = dict(line.split(":\t") for line in status.splitlines())
        return lines["State"].startswith("Z") or bool(int(lines["ShdPnd"], 16) >> (signal.SIGTERM - 1) & 1)

    wait_until(pending, "SIGTERM")


def held(
    tracker: Tracker, *flags: str, cron: bool = False, **changes: str
) -> contextlib.AbstractContextManager[tuple[Task, int]]:
    """Start a backup and stop its copy in the middle; yields who started it, and the process of the copy."""

    def start() -> Task:
        return tracker.run_as_cron() if cron else tracker.start("run-tracker-backup", *flags, **changes)

    def undo() -> None:
        for name in tracker.made():
            (tracker.backups / name).unlink()
        (tracker.backups / tracker.expired).unlink(missing_ok=True)
        tracker.expired = tracker._add(days=9)

    return stopped_midway(start, tracker.stop_copy, undo)


# --- the connection, the user and the maintainer's machine ----------------------------------------------------------


def test_a_connection_that_is_cut_leaves_a_run_that_is_found_and_finished(tracker: Tracker) -> None:
    with held(tracker) as (task, pid):
        words = ("the connection was lost", "goes on without", "./inv attach --host demo --database tracker")
        told(tracker.cut(task), 3, *words)
        again = tracker.start("attach")
        go_on(pid)
        done = wait_for_end(again)
    (backup,) = tracker.left(made=1)
    told(done, 0, f"created {tracker.database.backup_dir}/{backup.name}")


def test_attach_ends_as_a_run_that_failed_and_a_truncated_source_is_no_backup(tracker: Tracker) -> None:
    with held(tracker) as (task, pid):
        told(tracker.cut(task), 3, "the connection was lost")
        os.truncate(tracker.source, MIB)
        again = tracker.start("attach")
        go_on(pid)
        told(wait_for_end(again), 1, "the backup of the tracker database failed", "became smaller while it was copied")
        told(tracker.inv("attach"), 1, "became smaller while it was copied")  # also when asked later
    tracker.left(made=0)


def test_a_maintainers_machine_that_is_gone_for_good_costs_nothing(tracker: Tracker, tmp_path: Path) -> None:
    with held(tracker) as (task, pid):
        os.killpg(task.pid, signal.SIGKILL)
        task.wait()
        go_on(pid)
        wait_until(lambda: tracker.made() and not tracker.machine.processes("job.sh"), "the end of the run")
    other = tmp_path / "another maintainer"
    other.mkdir()
    done = tracker.inv("attach", HOME=str(other), INVOKE_EVIDENCE_DIR=str(other / "evidence"))
    (backup,) = tracker.left(made=1)
    told(done, 0, "started by ", f"created {tracker.database.backup_dir}/{backup.name}")
    (record,) = (json.loads(path.read_text()) for path in (other / "evidence").iterdir())
    assert (record["kind"], record["exit_status"], record["bytes"]) == ("run", 0, backup.stat().st_size)


def test_on_a_terminal_a_bar_is_shown_ctrl_c_detaches_and_nothing_is_asked(tracker: Tracker) -> None:
    for _ in range(20):
        with tracker.server.inv_on_terminal("run-tracker-backup") as tty:
            if pid := tracker.stop_copy():
                tty.expect("━")
                tty.expect("left, after")
                tty.type("\x03")
                assert tty.end() == 130
                break
            assert tty.end() == 0
            (tracker.backups / tracker.made()[0]).unlink()
            tracker.expired = tracker._add(days=9)
    assert pid
    assert "assword" not in tty.shown
    assert "detached: the backup, once started, goes on without this terminal" in tty.shown
    assert "./inv attach --host demo --database tracker" in tty.shown
    assert "./inv stop-backup --host demo --database tracker" in tty.shown
    with tracker.server.inv_on_terminal("attach", "--database", "tracker") as tty:
        tty.expect("━")
        go_on(pid)
        assert tty.end() == 0
    (backup,) = tracker.left(made=1)
    assert f"created {tracker.database.backup_dir}/{backup.name}" in tty.shown


def test_a_long_check_is_left_and_found_again_too(tracker: Tracker) -> None:
    told(tracker.inv("run-tracker-backup"), 0)
    for _ in range(20):
        task = tracker.start("verify")
        wait_until(lambda: tracker.shells("integrity_check") or task.poll() is not None, "the check")  # noqa: B023
        if pids := tracker.shells("integrity_check"):
            os.kill(pids[0], signal.SIGSTOP)
            break
        wait_for_end(task)
    os.killpg(task.pid, signal.SIGINT)
    told(
        wait_for_end(task),
        130,
        "detached: the check, once started, goes on",
        "./inv attach --host demo --database tracker",
    )
    again = tracker.start("attach")
    go_on(pids[0])
    told(wait_for_end(again), 0, "all checks passed")
    tracker.left(made=1)


# --- one at a time --------------------------------------------------------------------------------------------------


def test_a_second_run_is_refused_whoever_starts_it(tracker: Tracker) -> None:
    with held(tracker) as (task, pid):
        told(tracker.inv("run-tracker-backup"), 1, "a backup of this database is running: process ", " of root")
        told(tracker.inv("run-tracker-backup", "--force"), 1, "is going on, started by ", "./inv attach --host demo")
        told(wait_for_end(tracker.run_as_cron()), 1, f"another run is at work in {tracker.database.backup_dir}")
        ahead = tracker.inv("preflight", "--json")
        assert (ahead.returncode, json.loads(ahead.stdout)["verdict"]) == (1, "no")
        tracker.left(made=0, part=True)
        go_on(pid)
        told(wait_for_end(task), 0, "created ")
    tracker.left(made=1)


def test_a_run_is_refused_while_cron_s_is_going_on(tracker: Tracker) -> None:
    with held(tracker, cron=True) as (cron, pid):
        told(tracker.inv("run-tracker-backup"), 1, "a backup of this database is running: process ")
        told(tracker.inv("run-tracker-backup", "--force"), 1, "another run is at work in ")
        tracker.left(made=0, part=True)
        go_on(pid)
        assert wait_for_end(cron).returncode == 0
    tracker.left(made=1)


# --- its end from outside -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["attach", "stop-backup"])
def test_where_there_is_nothing_to_find_they_say_so(tracker: Tracker, task: str) -> None:
    words = {"attach": "there is no run of the tracker database", "stop-backup": "no backup of the tracker database"}
    told(tracker.inv(task), 1, words[task])
    tracker.left(made=0)


def test_stopping_ends_the_run_of_a_task_which_says_by_whom(tracker: Tracker) -> None:
    with held(tracker) as (task, pid):
        stop = tracker.start("stop-backup")
        wait_for_term(pid)
        go_on(pid)
        told(wait_for_end(stop), 0, "stopped; nothing of it is left")
        told(wait_for_end(task), 1, "the backup of the tracker database failed", "stopped by ")
    tracker.left(made=0)
    assert "stopped by " in tracker.server.evidence()
    told(tracker.inv("attach"), 1, "stopped by ")


def test_stopping_ends_cron_s_run_too(tracker: Tracker) -> None:
    with held(tracker, cron=True) as (cron, pid):
        stop = tracker.start("stop-backup")
        wait_for_term(pid)
        go_on(pid)
        told(wait_for_end(stop), 0, "stopped; nothing of it is left")
        assert wait_for_end(cron).returncode != 0
    tracker.left(made=0)


def test_a_run_that_is_killed_on_the_server_is_told_as_such(tracker: Tracker) -> None:
    with held(tracker) as (task, _):
        for words in ("job.sh", str(tracker.database.script), ".backup"):
            for pid in tracker.machine.processes(words):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        told(wait_for_end(task), 1, "without reporting an exit status")
        told(tracker.inv("attach"), 1, "without reporting an exit status")
    tracker.left(made=0)
    told(tracker.inv("run-tracker-backup"), 0)
    tracker.left(made=1)


# --- the disk -------------------------------------------------------------------------------------------------------


def test_too_little_space_is_told_before_and_a_forced_run_fails_cleanly(tracker: Tracker) -> None:
    tracker.mount(16)
    told(tracker.inv("preflight", "--json"), 1)
    told(tracker.inv("run-tracker-backup"), 1, f"too little space on {tracker.database.backup_dir}", "--force")
    tracker.left(made=0)
    done = tracker.inv("run-tracker-backup", "--force", INVOKE_FREE_SPACE_FLOOR="0 B")
    told(done, 1, "the backup of the tracker database failed", "full")
    tracker.left(made=0)


def test_a_disk_that_fills_up_meanwhile_stops_the_run_before_it_is_full(tracker: Tracker) -> None:
    tracker.mount(256)
    with held(tracker, INVOKE_FREE_SPACE_FLOOR="100 MB") as (task, pid):
        tracker.machine.run("fallocate", "-l", "180M", f"{tracker.database.backup_dir}/.filler")
        wait_for_term(pid)
        go_on(pid)
        told(
            wait_for_end(task), 1, "stopped: ", f"free on the disk of {tracker.database.backup_dir}", "are to stay free"
        )
    (tracker.backups / ".filler").unlink()
    tracker.left(made=0)


def test_a_disk_that_is_full_in_the_middle_fails_the_run(tracker: Tracker) -> None:
    tracker.mount(128)
    with held(tracker, INVOKE_FREE_SPACE_FLOOR="0 B") as (task, pid):
        tracker.machine.run("sh", "-c", f"cat /dev/zero > {tracker.database.backup_dir}/.filler 2>/dev/null || :")
        go_on(pid)
        told(wait_for_end(task), 1, "the backup of the tracker database failed", "full")
    (tracker.backups / ".filler").unlink()
    tracker.left(made=0)


# --- the state folder -----------------------------------------------------------------------------------------------


@pytest.fixture
def state(tracker: Tracker) -> Path:
    """The folder in which a run of root's was kept that has ended well; its backup is gone again."""
    told(tracker.inv("run-tracker-backup"), 0)
    for name in tracker.made():
        (tracker.backups / name).unlink()
    tracker.expired = tracker._add(days=9)
    (folder,) = (tracker.machine.folder / "root/.demo-backups").glob("tracker-backup-*")
    return folder


@pytest.mark.parametrize("name", ["about", "status"])
def test_a_damaged_state_folder_is_named_and_stands_in_no_new_run_s_way(
    tracker: Tracker, state: Path, name: str
) -> None:
    (state / name).write_bytes(b"\x00\xff{")
    told(tracker.inv("attach"), 3, f"the folder of this run, ~/.demo-backups/{state.name}, is damaged", "rm -r ")
    told(tracker.inv("stop-backup"), 1, "no backup of the tracker database is running")
    tracker.left(made=0)
    told(tracker.inv("run-tracker-backup"), 0)
    tracker.left(made=1)


def test_a_run_whose_folder_is_damaged_meanwhile_is_found_at_work_and_stopped(tracker: Tracker) -> None:
    with held(tracker) as (task, pid):
        (state,) = (tracker.machine.folder / "root/.demo-backups").glob("tracker-backup-*")
        (state / "about").write_text("{")
        told(wait_for_end(task), 3, "is damaged")
        told(tracker.inv("run-tracker-backup", "--force"), 1, "a backup of the tracker database is going on")
        stop = tracker.start("stop-backup")
        wait_for_term(pid)
        go_on(pid)
        told(wait_for_end(stop), 0, "stopped; nothing of it is left")
    tracker.left(made=0)


def test_a_state_folder_of_another_user_is_not_believed_and_nothing_is_started(tracker: Tracker, state: Path) -> None:
    tracker.machine.own(state)
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    for task in ("attach", "stop-backup", "run-tracker-backup"):
        told(tracker.inv(task), 3, "is another user's: nothing in it is believed", "it belongs to torrust")
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before
    tracker.left(made=0)


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
    told(tracker.inv("enable-wal", "--undo"), 0)
    return tracker


def test_wal_mode_waits_for_an_open_transaction_and_comes_when_that_ends(rollback: Tracker) -> None:
    with transaction(rollback) as service:
        task = rollback.start("enable-wal")
        wait_until(lambda: rollback.shells("journal_mode"), "the first try")
        assert service.stdin
        service.stdin.close()
        told(wait_for_end(task), 0, "is now in WAL mode")
    rollback.left(made=0)


def test_wal_mode_is_given_up_where_a_transaction_stays_open(
    rollback: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo_backups.sqlite.journal_mode.RETRY_TIMEOUT", 0.5)
    before = rollback.source.read_bytes()
    with transaction(rollback), open_host(rollback.server.settings) as host:
        with pytest.raises(StepError, match="stayed locked") as error:
            change_journal_mode(host, rollback.database, wal=True)
        assert f"of root: sqlite3 -batch {rollback.database.source}" in str(error.value)
        assert "nothing has changed" in str(error.value)
        assert not read_journal_mode(host, rollback.database).wal
        assert rollback.source.read_bytes() == before
    told(rollback.inv("enable-wal"), 0, "is now in WAL mode")
    rollback.left(made=0)
