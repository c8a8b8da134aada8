"""`inv restore` on a throwaway server, as a user calls it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import FAILED, WRONG_INPUT
from demo_backups.project import ROOT
from demo_backups.rehearsal.database import make_index
from demo_backups.rehearsal.writer import live_writer

from ..helpers.backups import make_backup
from ..helpers.databases import damage_pages, dump, execute, is_consistent, leave_wal, overwrite
from ..helpers.services import service_in_process
from ..helpers.tasks import INV, CompletedTask, DemoServer, assert_exit, assert_success
from ..helpers.terminal import terminal

TABLE = "torrust_torrent_announce_urls"


@pytest.fixture
def backup(demo_server: DemoServer) -> Path:
    """A backup of the live database, in rollback mode."""
    return make_backup(demo_server.source, demo_server.backups)


def restore(server: DemoServer, *flags: str, **changes: str) -> CompletedTask:
    """Restore without a question."""
    return server.inv("restore", *flags, "--yes", **changes)


def tables(path: Path) -> set[str]:
    """Return the names of the tables of a database."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def saved_states(server: DemoServer) -> list[Path]:
    """Return the saved states, the oldest first."""
    return sorted(server.backups.glob("saved.*.db"))


def snapshot(server: DemoServer) -> dict[str, bytes]:
    """Return the content of all files of the live database and of the backups."""
    paths = [*server.backups.iterdir(), *server.source.parent.iterdir()]
    return {str(path): path.read_bytes() for path in paths if path.is_file()}


# --- three ways of damage, each restored from the server and from this machine ---------------------------------------


@dataclass
class DamagedServer:
    """A server with an index database in a journal mode, and a backup of it, there or fetched, to restore."""

    demo_server: DemoServer
    content: list[str]
    flags: list[str]

    def restore(self) -> str:
        """Restore the backup, and return the output."""
        return assert_success(restore(self.demo_server, *self.flags, INVOKE_FETCH_DIR=self.fetch_dir))

    @property
    def fetch_dir(self) -> str:
        return str(Path(self.demo_server.environment["HOME"]) / "copies")

    def record(self) -> dict[str, Any]:
        """Return the record of the only restore."""
        (record,) = [record for record in self.demo_server.records() if record["kind"] == "restore"]
        assert record["exit_status"] == 0
        return record


@pytest.fixture
def damaged(demo_server: DemoServer, request: pytest.FixtureRequest) -> DamagedServer:
    """A server whose database a test damages; the parameters are its journal mode, and where the backup is."""
    journal, place = request.param
    demo_server.source.unlink()
    make_index(demo_server.source, journal, torrents=300)
    content = dump(demo_server.source)
    backup = make_backup(demo_server.source, demo_server.backups)
    damaged = DamagedServer(demo_server, content, ["--backup", backup.name, "--from", place])
    if place == "here":
        assert_success(demo_server.inv("fetch", INVOKE_FETCH_DIR=damaged.fetch_dir))
        backup.unlink()
    return damaged


BOTH = pytest.mark.parametrize("damaged", [("delete", "server"), ("wal", "here")], indirect=True)
OTHERS = pytest.mark.parametrize("damaged", [("wal", "server"), ("delete", "here")], indirect=True)


@BOTH
def test_dropped_table_is_restored_under_writes(damaged: DamagedServer) -> None:
    source = damaged.demo_server.source
    execute(source, f"DROP TABLE {TABLE}")
    inode = source.stat().st_ino
    with live_writer(source, 20) as traffic:
        output = damaged.restore()
    assert TABLE in tables(source)
    assert (traffic.failed, source.stat().st_ino) == (0, inode)
    assert is_consistent(source)
    details = damaged.record()["details"]
    is_wal = "transaction" in details["proof"]
    assert (details["method"], details["proof"]) == ("in place", "transaction" if is_wal else "locked")
    assert (details["source"], is_wal) in (("server", False), ("here", True))
    (saved,) = saved_states(damaged.demo_server)
    assert details["saved"] == str(saved)
    assert str(saved) in output
    assert TABLE not in tables(saved)


@OTHERS
def test_overwritten_pages_are_restored(damaged: DamagedServer) -> None:
    source = damaged.demo_server.source
    overwrite(source, source.stat().st_size // 2 // 4096 * 4096, b"\xff" * 40_000)
    damaged.restore()
    assert dump(source) == damaged.content
    assert is_consistent(source)


@BOTH
def test_deleted_file_is_restored(damaged: DamagedServer) -> None:
    source = damaged.demo_server.source
    for path in source.parent.iterdir():
        path.unlink()
    damaged.restore()
    assert dump(source) == damaged.content
    details = damaged.record()["details"]
    assert (details["method"], details["proof"], details["saved"]) == ("swap", "stopped", None)


def test_damaged_header_is_replaced_and_saved_raw(demo_server: DemoServer, backup: Path) -> None:
    content = dump(demo_server.source)
    overwrite(demo_server.source, 0, b"\0" * 100)
    damaged = demo_server.source.read_bytes()
    assert_success(restore(demo_server, "--backup", backup.name, INVOKE_DATABASES_INDEX_STOP="true", **START))
    assert dump(demo_server.source) == content
    (saved,) = saved_states(demo_server)
    assert saved.name.endswith(".raw.db")
    assert saved.read_bytes() == damaged


START = {"INVOKE_DATABASES_INDEX_START": "true"}
SERVICE = {"INVOKE_DATABASES_INDEX_STOP": "true", **START}


def test_service_is_stopped_and_started(demo_server: DemoServer, backup: Path) -> None:
    log = demo_server.server.home / "service.log"
    commands = {
        f"INVOKE_DATABASES_INDEX_{name}": f"echo {name.lower()} $PWD >> '{log}'"
        for name in ("STOP", "START", "HEALTHY")
    }
    output = assert_success(restore(demo_server, "--backup", backup.name, **commands))
    folder = demo_server.settings.app_dir
    assert log.read_text() == f"stop {folder}\nstart {folder}\nhealthy {folder}\n"
    assert "the service was stopped for" in output
    assert demo_server.records()[-1]["details"]["proof"] == "stopped"


# --- undo and another path ------------------------------------------------------------------------------------------


def test_undo_restores_state_from_before(demo_server: DemoServer, backup: Path) -> None:
    execute(demo_server.source, f"DROP TABLE {TABLE}")
    before = dump(demo_server.source)
    assert_success(restore(demo_server, "--backup", backup.name))
    assert dump(demo_server.source) == dump(backup)
    assert_success(restore(demo_server, "--undo"))
    assert dump(demo_server.source) == before
    assert_success(restore(demo_server, "--undo"))  # of the undo
    assert dump(demo_server.source) == dump(backup)


def test_undo_restores_all_files_of_raw_state(demo_server: DemoServer, backup: Path) -> None:
    leave_wal(demo_server.source, f"DROP TABLE {TABLE}")
    overwrite(demo_server.source, 0, b"\0" * 100)
    wal = Path(f"{demo_server.source}-wal")
    files = {path: path.read_bytes() for path in (demo_server.source, wal)}
    assert_success(restore(demo_server, "--backup", backup.name, **SERVICE))
    assert dump(demo_server.source) == dump(backup)
    assert_success(restore(demo_server, "--undo", **SERVICE))
    assert {path: path.read_bytes() for path in files} == files


def test_undo_without_saved_state_is_refused(demo_server: DemoServer) -> None:
    assert_exit(restore(demo_server, "--undo"), FAILED, "nothing to undo")


def test_copy_is_a_new_file(demo_server: DemoServer, backup: Path) -> None:
    target = demo_server.source.with_name("copy.db")
    before = snapshot(demo_server)
    assert_success(restore(demo_server, "--backup", backup.name, "--to", str(target)))
    assert dump(target) == dump(backup)
    assert {path: content for path, content in snapshot(demo_server).items() if path in before} == before
    assert saved_states(demo_server) == []
    again = restore(demo_server, "--backup", backup.name, "--to", str(target))
    assert_exit(again, FAILED, f"{target} exists")


def test_copy_to_missing_directory_is_refused(demo_server: DemoServer, backup: Path, tmp_path: Path) -> None:
    target = tmp_path / "missing/restored.db"
    refusal = assert_exit(restore(demo_server, "--backup", backup.name, "--to", str(target)), FAILED, "does not exist")
    assert "another path with --to" in refusal
    assert "app_dir" not in refusal


# --- refusals -------------------------------------------------------------------------------------------------------


def test_damaged_backup_is_refused(demo_server: DemoServer, backup: Path) -> None:
    damage_pages(backup)
    before = snapshot(demo_server)
    assert_exit(restore(demo_server, "--backup", backup.name), FAILED, "must not be restored")
    assert snapshot(demo_server) == before


def test_backup_of_another_database_is_refused(demo_server: DemoServer) -> None:
    other = demo_server.backups / "backup_2026-01-31_12-00-00.db"
    execute(other, "CREATE TABLE other (a)")
    before = snapshot(demo_server)
    assert_exit(restore(demo_server, "--backup", other.name), FAILED, "no such table")
    assert snapshot(demo_server) == before


def test_verified_backup_is_not_verified_again(demo_server: DemoServer, backup: Path) -> None:
    assert_success(demo_server.inv("verify"))
    output = assert_success(demo_server.inv("restore", "--backup", backup.name, "--dry-run"))
    assert "by the verification of" in output
    assert "verifying it" not in output
    backup.touch()
    assert "verifying it" in assert_success(demo_server.inv("restore", "--backup", backup.name, "--dry-run"))


def test_wrong_flags_are_refused(demo_server: DemoServer) -> None:
    assert_exit(restore(demo_server), WRONG_INPUT, "--backup is missing")
    assert_exit(restore(demo_server, "--backup", "a", "--from", "there"), WRONG_INPUT, "use server or here")
    assert_exit(restore(demo_server, "--undo", "--backup", "a"), WRONG_INPUT, "leave out --backup")
    assert_exit(restore(demo_server, "--backup", "a", "--to", "b"), WRONG_INPUT, "not an absolute path")


def test_missing_backup_is_refused(demo_server: DemoServer) -> None:
    assert_exit(restore(demo_server, "--backup", "backup_2020-01-01_00-00-00.db"), FAILED, "does not exist")


def test_no_terminal_needs_yes(demo_server: DemoServer, backup: Path) -> None:
    before = snapshot(demo_server)
    assert_exit(demo_server.inv("restore", "--backup", backup.name), WRONG_INPUT, "--yes")
    assert snapshot(demo_server) == before


def test_long_wait_is_refused_before_anything(demo_server: DemoServer, backup: Path) -> None:
    before = snapshot(demo_server)
    done = restore(demo_server, "--backup", backup.name, INVOKE_WRITER_TIMEOUT="0.0001")
    assert_exit(done, FAILED, "every write would wait")
    assert snapshot(demo_server) == before


def test_used_file_is_not_swapped(demo_server: DemoServer, backup: Path) -> None:
    with service_in_process(demo_server.source):
        assert_exit(restore(demo_server, "--backup", backup.name, "--swap"), FAILED, "no process has it open")


def test_dry_run_changes_nothing(demo_server: DemoServer, backup: Path) -> None:
    before = snapshot(demo_server)
    output = assert_success(demo_server.inv("restore", "--backup", backup.name, "--dry-run"))
    assert str(backup) in output
    assert "saved.backup_" in output
    assert snapshot(demo_server) == before
    assert demo_server.records() == []


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", FAILED), ("", FAILED)])
def test_question_decides(demo_server: DemoServer, backup: Path, answer: str, code: int) -> None:
    execute(demo_server.source, f"DROP TABLE {TABLE}")
    command: list[str | Path] = [INV, "--search-root", ROOT, "restore", "--backup", backup.name]
    with terminal(command, demo_server.environment) as tty:
        tty.expect("[y/N]")
        tty.type(answer)
        assert tty.end() == code
    assert (TABLE in tables(demo_server.source)) == (code == 0)


# --- from this machine ----------------------------------------------------------------------------------------------


def test_uploaded_file_is_restored(demo_server: DemoServer, backup: Path, tmp_path: Path) -> None:
    local = tmp_path / backup.name
    shutil.move(backup, local)
    execute(demo_server.source, f"DROP TABLE {TABLE}")
    assert_success(restore(demo_server, "--backup", str(local), "--from", "here"))
    assert dump(demo_server.source) == dump(local)
    assert backup.read_bytes() == local.read_bytes()
    assert demo_server.records()[-1]["details"]["source"] == "here"


def test_empty_server_is_restored(demo_server: DemoServer, backup: Path, tmp_path: Path) -> None:
    local = tmp_path / backup.name
    shutil.move(backup, local)
    for folder in (demo_server.backups, demo_server.source.parent):
        for path in folder.iterdir():
            path.unlink()
    assert_success(restore(demo_server, "--backup", str(local), "--from", "here"))
    assert dump(demo_server.source) == dump(local)


def test_other_content_on_server_is_kept(demo_server: DemoServer, backup: Path, tmp_path: Path) -> None:
    local = tmp_path / backup.name
    make_index(local, torrents=20)
    before = snapshot(demo_server)
    assert restore(demo_server, "--backup", str(local), "--from", "here").returncode == FAILED
    assert snapshot(demo_server) == before


def test_edited_copy_is_refused(demo_server: DemoServer, backup: Path, tmp_path: Path) -> None:
    folder = {"INVOKE_FETCH_DIR": str(tmp_path / "copies")}
    assert_success(demo_server.inv("fetch", **folder))
    (copy,) = (tmp_path / "copies").rglob(backup.name)
    flags = ("--backup", backup.name, "--from", "here")
    dry_run = assert_success(demo_server.inv("restore", *flags, "--dry-run", **folder))
    assert "when it was fetched" in dry_run
    execute(copy, "DELETE FROM torrust_torrents")
    before = snapshot(demo_server)
    assert_exit(restore(demo_server, *flags, **folder), FAILED, "its SHA-256 is not that of its record")
    assert snapshot(demo_server) == before


def test_missing_copy_is_refused(demo_server: DemoServer, tmp_path: Path) -> None:
    done = restore(demo_server, "--backup", "x.db", "--from", "here", INVOKE_FETCH_DIR=str(tmp_path / "copies"))
    assert_exit(done, FAILED, "there is no file")


def test_damaged_upload_is_not_restored(demo_server: DemoServer, backup: Path, tmp_path: Path) -> None:
    local = tmp_path / backup.name
    shutil.move(backup, local)
    damage_pages(local)
    live = demo_server.source.read_bytes()
    assert_exit(restore(demo_server, "--backup", str(local), "--from", "here"), FAILED, "must not be restored")
    assert demo_server.source.read_bytes() == live
