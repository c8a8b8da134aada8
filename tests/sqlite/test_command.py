"""The sqlite3 command, run for real, and what its exit status means."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tempfile
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.remote.host import Result
from demo_backups.sqlite.command import AccessError, is_access_failure, probe_command, sqlite_command
from demo_backups.sqlite.inspect import SUMMARY_STATEMENTS, DatabaseSummary, parse_summary

from ..helpers.constants import EVERY_ODD_NAME, root_only
from ..helpers.databases import execute
from ..helpers.shell import run_sh


def make_database(path: Path, *pragmas: str) -> None:
    """Make a database with two tables, a view and an index."""
    statements = ["CREATE TABLE b (x)", "CREATE TABLE a (x)", "CREATE VIEW v AS SELECT 1", "CREATE INDEX i ON a (x)"]
    execute(path, *(f"PRAGMA {pragma}" for pragma in pragmas), *statements)


@EVERY_ODD_NAME
@pytest.mark.parametrize("immutable", [False, True])
def test_database_with_odd_name(tmp_path: Path, name: str, immutable: bool) -> None:
    path = tmp_path / name
    make_database(path)
    before = set(tmp_path.iterdir())
    result = run_sh(sqlite_command(PurePosixPath(path), *SUMMARY_STATEMENTS, immutable=immutable))
    assert result.stderr == ""
    assert parse_summary(result.stdout) == DatabaseSummary(path.stat().st_size, frozenset("ab"))
    assert set(tmp_path.iterdir()) == before


def test_database_name_may_be_invalid_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.db")
    make_database(Path(path))
    result = run_sh(sqlite_command(PurePosixPath(path), *SUMMARY_STATEMENTS))
    assert parse_summary(result.stdout).tables == {"a", "b"}


def test_missing_database_is_not_created(tmp_path: Path) -> None:
    missing = PurePosixPath(tmp_path / "missing.db")
    for writable in (False, True):
        result = run_sh(sqlite_command(missing, "PRAGMA page_count", writable=writable))
        assert not result.ok
        assert is_access_failure(result)
        assert not Path(missing).exists()


def test_database_is_not_written(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db")
    result = run_sh(sqlite_command(PurePosixPath(tmp_path / "x.db"), "CREATE TABLE c (x)"))
    assert result.status == AccessError.READONLY
    assert is_access_failure(result)


@root_only
def test_start_up_file_is_ignored() -> None:
    # SQLite takes the home directory from the user database, and HOME only for a user who is not in it.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / ".sqliterc").write_text(".mode box\n")
        make_database(folder / "x.db")
        command = sqlite_command(PurePosixPath(folder / "x.db"), "PRAGMA quick_check")

        def run_as_unknown_user(command: str) -> str:
            words = ["/bin/sh", "-c", command]
            return subprocess.run(
                words, env=os.environ | {"HOME": name}, user=54321, capture_output=True, text=True, check=True
            ).stdout

        assert "─" in run_as_unknown_user(command.replace("-init /dev/null", ""))  # the start-up file works
        assert run_as_unknown_user(command) == "ok\n"


def test_first_error_stops_sqlite(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db")
    result = run_sh(sqlite_command(PurePosixPath(tmp_path / "x.db"), "SELECT 1", "SELECT nothing", "SELECT 3"))
    assert (result.stdout, result.ok) == ("1\n", False)


def test_lock_timeout_is_an_access_failure(tmp_path: Path) -> None:
    path = PurePosixPath(tmp_path / "x.db")
    make_database(tmp_path / "x.db")
    assert ".timeout 120000" in sqlite_command(path, "PRAGMA quick_check")
    with sqlite3.connect(path, isolation_level=None) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        result = run_sh(sqlite_command(path, "PRAGMA quick_check", timeout=0.001))
    writer.close()
    assert result.status == AccessError.BUSY
    assert is_access_failure(result)


def test_immutable_creates_no_wal(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    make_database(path, "journal_mode = wal")
    assert list(tmp_path.iterdir()) == [path]
    result = run_sh(sqlite_command(PurePosixPath(path), *SUMMARY_STATEMENTS, immutable=True))
    assert parse_summary(result.stdout).tables == {"a", "b"}
    assert list(tmp_path.iterdir()) == [path]


def test_probe_prints_sqlite_version() -> None:
    result = run_sh(probe_command())
    assert result.ok, result
    assert result.stdout.count(".") == 2


@pytest.mark.parametrize("status", [None, *AccessError, 126, 127, 137])
def test_access_failure_by_status(status: int | None) -> None:
    assert is_access_failure(Result(status, "", "Error"))


def test_access_failure_by_message() -> None:
    message = 'Error: unable to open database "x": unable to open database file'
    assert is_access_failure(Result(1, "", message))


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (1, "Parse error: no such table: torrents"),
        (10, "disk I/O error"),
        (11, "database disk image is malformed"),
        (26, "file is not a database"),
    ],
)
def test_damage_is_not_an_access_failure(status: int, message: str) -> None:
    assert not is_access_failure(Result(status, "", message))
