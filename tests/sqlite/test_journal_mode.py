"""WAL mode for a live database, and back: no write fails, no file is left behind, and a refusal has a reason."""

from __future__ import annotations

import contextlib
import getpass
import io
import os
import shutil
import sqlite3
import sys
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from demo_backups.errors import JournalModeError, NoDatabaseError
from demo_backups.records.record import new_record
from demo_backups.rehearsal.database import make_tracker
from demo_backups.rehearsal.writer import live_writer
from demo_backups.remote.host import Host, Result
from demo_backups.settings.model import Database, Settings
from demo_backups.sqlite.journal_mode import (
    change_journal_mode,
    check_journal_mode,
    journal_mode_command,
    owners_command,
    parse_owners,
)
from demo_backups.ui.console import make_console
from demo_backups.workflows.journal_mode import enable_wal
from demo_backups.workflows.session import Session

from ..helpers.constants import NOBODY, ODD_NAMES, root_only
from ..helpers.databases import is_consistent
from ..helpers.processes import wait_until
from ..helpers.services import close_service, service_in_process, with_mount
from ..helpers.shell import run_sh
from ..helpers.tasks import DemoServer

WAL_FILES = ["sqlite3.db", "sqlite3.db-shm", "sqlite3.db-wal"]


@dataclass
class LiveDatabase:
    """A tracker database on this machine."""

    host: Host
    settings: Settings
    database: Database

    @property
    def source(self) -> Path:
        return Path(self.database.source)

    def enable_wal(self, undo: bool = False, dry_run: bool = False) -> str:
        """Do what the task does; return what it printed."""
        out = io.StringIO()
        record = new_record("enable-wal", self.host.name, self.database.name)
        enable_wal(Session(self.host, self.settings, self.database, record, make_console(out), dry_run), undo)
        return out.getvalue()

    def refusal(self, undo: bool = False, dry_run: bool = False) -> JournalModeError:
        """Return the error with which the task refuses."""
        with pytest.raises(JournalModeError) as caught:
            self.enable_wal(undo, dry_run)
        assert caught.value.exit_code == 1
        return caught.value

    def mode(self) -> str:
        """Return the journal mode by the two version numbers of the header."""
        return {b"\1\1": "delete", b"\2\2": "wal"}[self.source.read_bytes()[18:20]]

    def names(self) -> list[str]:
        """Return the names in the database's folder."""
        return sorted(path.name for path in self.source.parent.iterdir())

    def state(self) -> tuple[bytes, int, list[str]]:
        """Return all that a task could change."""
        return self.source.read_bytes(), self.source.stat().st_mtime_ns, self.names()

    def move(self, source: Path) -> LiveDatabase:
        """Move the database to another path."""
        source.parent.mkdir(parents=True, exist_ok=True)
        self.source.rename(source)
        return replace(self, database=replace(self.database, source=PurePosixPath(source)))


@pytest.fixture(scope="module")
def tracker_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tracker database in rollback mode, to be copied."""
    path = tmp_path_factory.mktemp("tracker") / "sqlite3.db"
    make_tracker(path, "delete", rows=500)
    return path


@pytest.fixture
def live(local_host: Host, project_settings: Settings, tmp_path: Path, tracker_file: Path) -> LiveDatabase:
    """A database in rollback mode."""
    settings = project_settings.model_copy(update={"app_dir": PurePosixPath(tmp_path / "app")})
    live = LiveDatabase(local_host, settings, settings.database("tracker"))
    live.source.parent.mkdir(parents=True)
    shutil.copy(tracker_file, live.source)
    return live


# --- to WAL mode ----------------------------------------------------------------------------------------------------


def test_live_database_changes_without_failed_write(live: LiveDatabase) -> None:
    with live_writer(live.source, rate=200) as writes:
        live.enable_wal()
        assert live.mode() == "wal"
        wait_until(lambda: live.names() == WAL_FILES, "a commit to the WAL")
        live.enable_wal()  # changes nothing
    assert writes.commits > 0
    assert writes.failed == 0
    assert live.mode() == "wal"
    assert live.names() == ["sqlite3.db"]  # the last process to close the database removes the other two
    assert is_consistent(live.source)


def test_explanation_names_actual_files(live: LiveDatabase) -> None:
    moved = live.move(live.source.with_name("tracker.sqlite"))
    output = moved.enable_wal()
    for text in (
        "tracker.sqlite-wal",
        "tracker.sqlite-shm",
        "./inv enable-wal --host local --database tracker --undo",
    ):
        assert text in output
    assert moved.names() == ["tracker.sqlite"]


@pytest.mark.parametrize("undo", [False, True])
def test_dry_run_shows_command_only(live: LiveDatabase, undo: bool) -> None:
    if undo:
        live.enable_wal()
    before = live.state()
    assert journal_mode_command(live.database, not undo) in live.enable_wal(undo, dry_run=True)
    assert live.state() == before


def test_single_file_mount_is_refused(live: LiveDatabase, private_mounts: list[str], tmp_path: Path) -> None:
    inside = tmp_path / "in the container.db"
    inside.touch()
    before = live.state()
    with service_in_process(inside, start=with_mount(private_mounts, live.source, inside)) as service:
        for dry_run in (True, False):
            error = live.refusal(dry_run=dry_run)
            assert str(inside) in error.output
            assert f"process {service.pid}" in error.output
            assert "directory" in error.advice
    assert live.state() == before
    live.enable_wal()  # the mount is gone


def test_hard_link_is_refused(live: LiveDatabase, tmp_path: Path) -> None:
    (tmp_path / "other name.db").hardlink_to(live.source)
    error = live.refusal()
    assert "2 hard links" in error.output
    assert live.mode() == "delete"


def test_mode_that_loses_commits_is_no_success(live: LiveDatabase, private_mounts: list[str], tmp_path: Path) -> None:
    """Already in WAL mode is no reason to say that there is nothing to do. Leaving that mode is not refused."""
    live.enable_wal()
    inside = tmp_path / "in the container.db"
    inside.touch()
    start = with_mount(private_mounts, live.source, inside)
    with service_in_process(inside, "INSERT INTO keys VALUES (99, 'k', 1)", start=start):
        assert str(inside) in live.refusal().output
    live.enable_wal(undo=True)
    assert live.mode() == "delete"


def test_change_is_retried_while_locked(live: LiveDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[Result] = []
    run = Host.run
    with service_in_process(live.source, "BEGIN IMMEDIATE") as service:

        def run_and_close(self: Host, action: str, command: str, **options: Any) -> Result:
            result = run(self, action, command, **options)
            if command == journal_mode_command(live.database, wal=True):
                results.append(result)
                close_service(service)
            return result

        monkeypatch.setattr(Host, "run", run_and_close)
        assert change_journal_mode(live.host, live.database, wal=True) == 2
    assert [result.status for result in results] == [5, 0]
    assert live.mode() == "wal"


@pytest.mark.parametrize("statements", [["BEGIN IMMEDIATE"], ["BEGIN EXCLUSIVE"], ["BEGIN", "SELECT * FROM torrents"]])
def test_retries_end_after_timeout(live: LiveDatabase, statements: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_backups.sqlite.journal_mode.RETRY_TIMEOUT", 0)
    before = live.source.read_bytes()
    with service_in_process(live.source, *statements) as service:
        error = live.refusal()
    assert str(live.source) in error.action
    assert f"process {service.pid} of {getpass.getuser()}: {sys.executable}" in error.output
    assert "database is locked" in error.output
    assert live.mode() == "delete"
    assert live.source.read_bytes() == before
    assert live.names() == ["sqlite3.db"]


# --- and back -------------------------------------------------------------------------------------------------------


def test_undo_is_refused_while_open(live: LiveDatabase) -> None:
    live.enable_wal()
    with service_in_process(live.source) as service:
        error = live.refusal(undo=True)
        assert live.mode() == "wal"
    assert f"process {service.pid} of {getpass.getuser()}: " in error.output
    assert "docker compose stop tracker" in error.advice
    live.enable_wal(undo=True)
    assert (live.mode(), live.names()) == ("delete", ["sqlite3.db"])
    live.enable_wal(undo=True)  # changes nothing
    assert live.mode() == "delete"


def test_undo_keeps_commits_of_crashed_service(live: LiveDatabase) -> None:
    live.enable_wal()
    insert = "INSERT INTO torrents (info_hash, completed) VALUES ('from the WAL', 7)"
    with service_in_process(live.source, insert) as service:
        service.kill()
        service.wait()
    assert live.names() == WAL_FILES
    live.enable_wal(undo=True)
    assert (live.mode(), live.names()) == ("delete", ["sqlite3.db"])
    with contextlib.closing(sqlite3.connect(live.source)) as database:
        rows = database.execute("SELECT completed FROM torrents WHERE info_hash = 'from the WAL'").fetchall()
    assert rows == [(7,)]


# --- other files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("undo", [False, True])
def test_missing_database_is_not_created(live: LiveDatabase, undo: bool) -> None:
    live.source.unlink()
    with pytest.raises(NoDatabaseError):
        live.enable_wal(undo)
    assert live.names() == []


def test_vanished_database_is_not_created(live: LiveDatabase) -> None:
    live.source.unlink()
    with pytest.raises(JournalModeError, match="journal mode"):
        change_journal_mode(live.host, live.database, wal=True)
    assert live.names() == []


@pytest.mark.parametrize("content", [b"", b"not a database\n" * 100, b"SQLite format 3\0"])
def test_other_file_is_left_unchanged(live: LiveDatabase, content: bytes) -> None:
    live.source.write_bytes(content)
    with pytest.raises(NoDatabaseError):
        live.enable_wal()
    assert (live.source.read_bytes(), live.names()) == (content, ["sqlite3.db"])


@pytest.mark.parametrize("name", [name for name in ODD_NAMES.values() if "\n" not in name])
def test_odd_path_changes_and_back(live: LiveDatabase, tmp_path: Path, name: str) -> None:
    moved = live.move(tmp_path / name / f"{name}.db")
    moved.enable_wal()
    assert (moved.mode(), moved.names()) == ("wal", [f"{name}.db"])
    moved.enable_wal(undo=True)
    assert (moved.mode(), moved.names()) == ("delete", [f"{name}.db"])


def test_start_up_file_is_ignored(live: LiveDatabase, home: Path) -> None:
    (home / ".sqliterc").write_text(".mode box\n.headers on\n")
    live.enable_wal()
    assert live.mode() == "wal"


# --- the check afterwards -------------------------------------------------------------------------------------------


def test_mode_that_was_reset_fails_check(live: LiveDatabase) -> None:
    """As where the service sets its own mode: SQLite reported the change, the file has another mode."""
    with pytest.raises(JournalModeError, match="WAL"):
        check_journal_mode(live.host, live.database, wal=True)
    change_journal_mode(live.host, live.database, wal=True)
    check_journal_mode(live.host, live.database, wal=True)
    with pytest.raises(JournalModeError, match="rollback"):
        check_journal_mode(live.host, live.database, wal=False)


@root_only
def test_different_owners_fail_check(live: LiveDatabase) -> None:
    with service_in_process(live.source, "PRAGMA journal_mode = WAL", "DELETE FROM keys"):
        os.chown(f"{live.source}-wal", NOBODY, NOBODY)
        with pytest.raises(JournalModeError, match="owner") as caught:
            check_journal_mode(live.host, live.database, wal=True)
    assert "root:root" in caught.value.output


@root_only
def test_files_of_root_get_database_owner(live: LiveDatabase) -> None:
    os.chown(live.source, NOBODY, NOBODY)
    with live_writer(live.source, rate=20):
        live.enable_wal()
        wait_until(lambda: live.names() == WAL_FILES, "a commit to the WAL")
        owners = {(path.stat().st_uid, path.stat().st_gid) for path in live.source.parent.iterdir()}
    assert owners == {(NOBODY, NOBODY)}


def test_owners_of_existing_files(tmp_path: Path) -> None:
    path = tmp_path / "it's"
    path.touch()
    output = run_sh(owners_command([PurePosixPath(path), PurePosixPath(tmp_path / "missing")])).stdout
    assert parse_owners(output) == {f"{path.owner()}:{path.group()}"}


@pytest.mark.parametrize("output", ["", "root\n", "root:root\nerror\n", "a b:c\n"])
def test_parse_owners_rejects_other_output(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_owners(output)


@root_only
def test_database_of_other_user_is_refused(live: LiveDatabase, public_folder: Path, as_nobody: None) -> None:
    """By a user who may write it, but whose -wal and -shm its service could not write."""
    source = public_folder / "sqlite3.db"
    shutil.copy(live.source, source)
    source.chmod(0o666)
    foreign = replace(live, database=replace(live.database, source=PurePosixPath(source)))
    before = foreign.state()
    assert "INVOKE_USE_SUDO=1" in foreign.refusal().advice
    assert foreign.state() == before
    os.chown(source, NOBODY, NOBODY)
    foreign.enable_wal()
    assert foreign.mode() == "wal"


# --- the task -------------------------------------------------------------------------------------------------------


def test_task_changes_live_database(demo_server: DemoServer, tracker_file: Path) -> None:
    source = Path(demo_server.settings.database("tracker").source)
    source.parent.mkdir(parents=True)
    shutil.copy(tracker_file, source)
    task = ("enable-wal", "--database", "tracker")
    with live_writer(source, rate=20) as writes:
        done = demo_server.inv(*task)
        assert (done.returncode, done.stderr) == (0, "")
        refused = demo_server.inv(*task, "--undo")
        assert refused.returncode == 1
        assert "rehearsal.writer" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert writes.failed == 0
