"""Failures of the script: a bad source, a folder that cannot be written, a full disk. Nothing is rotated."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..helpers.backup_script import OLD_BACKUP, ScriptSetup, finish, make_database, read_counters
from ..helpers.constants import NOBODY, SCRIPT
from ..helpers.databases import is_consistent, leave_hot_journal
from ..helpers.processes import wait_until

# --- the source -----------------------------------------------------------------------------------------------------


def crash(path: Path) -> None:
    path.unlink()
    make_database(path, megabytes=1)
    leave_hot_journal(path, "UPDATE padding SET x = randomblob(100000)")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


BAD_SOURCES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "No such file or directory"),
    "empty": (lambda path: os.truncate(path, 0), "sqlite3.db is empty, or is not a file"),
    "folder": (replace_by_folder, "sqlite3.db is empty, or is not a file"),
    "pipe": (replace_by_pipe, "sqlite3.db is empty, or is not a file"),
    "text": (lambda path: path.write_text("text " * 1000), "sqlite3.db: Error: in prepare, file is not a database"),
    "zeros": (lambda path: path.write_bytes(bytes(8192)), "file is not a database"),
    "truncated": (lambda path: os.truncate(path, 3000), "Error: in prepare, database disk image is malformed"),
    "hot journal": (crash, "attempt to write a readonly database"),
}


@pytest.mark.parametrize(("spoil", "cause"), BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_bad_source_fails_without_rotation(setup: ScriptSetup, spoil: Callable[[Path], object], cause: str) -> None:
    before = setup.add_old_backups()
    spoil(setup.source)
    files = sorted(setup.source.parent.iterdir())
    content = setup.source.read_bytes() if setup.source.is_file() else None
    setup.check_failed(setup.run(), cause, before)
    assert sorted(setup.source.parent.iterdir()) == files
    assert content is None or setup.source.read_bytes() == content


def test_locked_source_is_waited_for(setup: ScriptSetup) -> None:
    with contextlib.closing(sqlite3.connect(setup.source, isolation_level=None)) as service:
        service.executescript("BEGIN EXCLUSIVE; UPDATE first SET n = 1; UPDATE last SET n = 1")
        script = setup.start()
        wait_until(lambda: is_open_elsewhere(setup.source), "sqlite3, waiting for the source")
        service.execute("COMMIT")
    done = finish(script)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_counters(setup.backup()) == (1, 1)


def is_open_elsewhere(path: Path) -> bool:
    """Tell whether another process has a file open."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            links = [descriptor.readlink() for descriptor in (process / "fd").iterdir()]
            if process.name != str(os.getpid()) and path in links:
                return True
    return False


def test_source_that_stays_locked_fails(setup: ScriptSetup, tmp_path: Path) -> None:
    impatient = SCRIPT.read_text().replace(".timeout 120000", ".timeout 30")
    assert impatient != SCRIPT.read_text()
    setup.script = tmp_path / SCRIPT.name
    setup.script.write_text(impatient)
    before = setup.add_old_backups()
    with contextlib.closing(sqlite3.connect(setup.source, isolation_level=None)) as service:
        service.execute("BEGIN EXCLUSIVE")
        setup.check_failed(setup.run(), "sqlite3.db: Error: in prepare, database is locked", before)


# --- the backup folder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cause"),
    [("missing", "missing: No such file or directory"), ("database/sqlite3.db", "sqlite3.db: Not a directory")],
)
def test_missing_folder_fails_and_stays_missing(setup: ScriptSetup, tmp_path: Path, name: str, cause: str) -> None:
    done = setup.run(BACKUP_DIR=str(tmp_path / name))
    setup.check_failed(done, cause, [])
    assert not (tmp_path / "missing").exists()


@pytest.fixture
def as_other_user(setup: ScriptSetup) -> Iterator[list[str]]:
    """Move everything to a place that every user can reach; return the start of a command that nobody runs.

    A user who is not root has few enough permissions already.
    """
    with tempfile.TemporaryDirectory() as name:
        public = Path(name)
        public.chmod(0o755)
        shutil.copytree(setup.source.parent, public / "database")
        shutil.copytree(setup.folder, public / "backups")
        shutil.copy(SCRIPT, public)
        setup.source = public / "database" / setup.source.name
        setup.folder = public / "backups"
        setup.script = public / SCRIPT.name
        if os.geteuid() == 0:
            os.chown(setup.folder, NOBODY, NOBODY)
        nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        yield nobody if os.geteuid() == 0 else []
        setup.folder.chmod(0o755)
        setup.source.parent.chmod(0o755)


def test_other_user_backs_up_readable_source(setup: ScriptSetup, as_other_user: list[str]) -> None:
    done = setup.run(*as_other_user)
    assert (done.returncode, done.stderr) == (0, "")
    assert is_consistent(setup.backup())


def test_unreadable_source_fails(setup: ScriptSetup, as_other_user: list[str]) -> None:
    before = setup.add_old_backups()
    setup.source.chmod(0)
    setup.check_failed(setup.run(*as_other_user), "sqlite3.db", before)
    setup.source.parent.chmod(0)
    setup.check_failed(setup.run(*as_other_user), "Permission denied", before)


def test_unwritable_folder_fails(setup: ScriptSetup, as_other_user: list[str]) -> None:
    before = setup.add_old_backups()
    setup.folder.chmod(0o555)
    done = setup.run(*as_other_user)
    setup.check_failed(done, "./.backup.lock: Permission denied", before)


# --- the copy -------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_megabyte(setup: ScriptSetup) -> ScriptSetup:
    """The setup with a source of one megabyte."""
    setup.source = setup.source.with_name("large.db")
    make_database(setup.source, megabytes=1)
    return setup


def test_full_disk_fails_and_is_freed(one_megabyte: ScriptSetup, private_mounts: list[str]) -> None:
    inside = """
        mount -t tmpfs -o size=512k,mode=755 tmpfs "$BACKUP_DIR"
        touch -d '10 days ago' "$BACKUP_DIR/backup_2020-02-02_02-00-00.db"
        status=0; "$@" || status=$?
        ls -A -- "$BACKUP_DIR"
        df --output=used -- "$BACKUP_DIR"
        exit "$status"
    """
    done = one_megabyte.run(*private_mounts, "sh", "-euc", inside, "sh")
    assert done.returncode == 1
    assert f"{one_megabyte.source}: Error: database or disk is full" in done.stderr
    assert done.stdout.split() == [".backup.lock", OLD_BACKUP, "Used", "0"]


def test_killed_sqlite_fails(one_megabyte: ScriptSetup) -> None:
    before = one_megabyte.add_old_backups()
    # A file that grows over the limit ends its writer with a signal (setrlimit(2), SIGXFSZ).
    done = one_megabyte.run("bash", "-c", 'ulimit -c 0 && ulimit -f 100 && exec "$@"', "bash")
    one_megabyte.check_failed(done, "large.db: sqlite3 ended with status 153", before)
