"""A backup by the script: a consistent copy of a live database, under the published name."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from ..helpers.backup_script import DAY, ScriptSetup, file_size, make_database, make_older, read_counters
from ..helpers.constants import ODD_NAMES
from ..helpers.databases import is_consistent, set_journal_mode
from ..helpers.processes import wait_until

# A service whose every commit changes a page at each end of the file, and never one without the other.
SERVICE = """
import json, select, sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)
commits = failed = 0
due = time.monotonic()
while not select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]:
    due = max(due + 1 / float(sys.argv[2]), time.monotonic() - 1)
    try:
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE first SET n = n + 1")
        database.execute("UPDATE last SET n = n + 1")
        database.execute("COMMIT")
        commits += 1
    except sqlite3.OperationalError as error:
        failed += 1
        if database.in_transaction:
            database.rollback()
print(json.dumps([commits, failed]))
"""


def test_backup_has_published_name_and_no_output(setup: ScriptSetup) -> None:
    before = datetime.now().replace(microsecond=0)
    done = setup.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    backup = setup.backup()
    assert before <= datetime.strptime(backup.name, "backup_%Y-%m-%d_%H-%M-%S.db") <= datetime.now()
    assert is_consistent(backup)
    assert read_counters(backup) == (0, 0)


@pytest.mark.parametrize(("journal", "rate"), [("wal", 400), ("delete", 100)])
def test_backup_of_live_database_is_consistent(
    setup: ScriptSetup, large_counter_file: Path, journal: str, rate: int
) -> None:
    shutil.copyfile(large_counter_file, setup.source)
    set_journal_mode(setup.source, journal)
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE, setup.source, str(rate)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as service:
        with setup.dates(*(f"2026-01-01_00-00-0{second}" for second in range(3))):
            for _ in range(3):
                wait_for_commit(setup.source)
                done = setup.run()
                assert (done.returncode, done.stderr) == (0, "")
        commits, failed = json.loads(service.communicate("stop")[0])
    backups = [setup.folder / name for name in setup.visible()]
    counters = [read_counters(backup) for backup in backups]
    assert failed == 0
    assert all(first == last for first, last in counters)  # each backup is one point in time
    assert 0 < counters[0][0] < counters[1][0] < counters[2][0] <= commits
    assert all(is_consistent(backup) for backup in backups)


def wait_for_commit(source: Path) -> None:
    """Wait for a commit of another process, without taking a lock."""

    def last_write() -> int:
        files = (source, source.with_name(f"{source.name}-wal"))
        return max(path.stat().st_mtime_ns for path in files if path.exists())

    before = last_write()
    wait_until(lambda: last_write() > before, "a commit of the service")


def test_backup_includes_wal_of_linked_source(setup: ScriptSetup, tmp_path: Path) -> None:
    link = tmp_path / "link to it.db"
    link.symlink_to(setup.source)
    with contextlib.closing(sqlite3.connect(setup.source, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = wal")
        database.execute("PRAGMA wal_autocheckpoint = 0")
        database.execute("UPDATE first SET n = 85")
        assert setup.run(DATABASE_FILE=str(link)).returncode == 0
    backup = setup.backup()
    assert not backup.is_symlink()
    assert read_counters(backup)[0] == 85
    assert [path.name for path in tmp_path.iterdir() if "link" in path.name] == [link.name]


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_source_is_not_written(setup: ScriptSetup, journal: str) -> None:
    def state() -> tuple[bytes, int, list[str]]:
        names = sorted(path.name for path in setup.source.parent.iterdir())
        return setup.source.read_bytes(), setup.source.stat().st_mtime_ns, names

    with contextlib.closing(sqlite3.connect(setup.source, isolation_level=None)) as service:
        service.execute(f"PRAGMA journal_mode = {journal}")
        service.execute("UPDATE first SET n = 1")
        make_older(setup.source, DAY)
        before = state()
        assert setup.run().returncode == 0
        assert state() == before


def test_start_up_file_is_ignored(setup: ScriptSetup, home: Path, private_home: Callable[[Path], list[str]]) -> None:
    other = setup.source.with_name("other.db")
    make_database(other, megabytes=1)
    (home / ".sqliterc").write_text(f'.print from the start-up file\n.open "{other}"\n')
    read = subprocess.run(
        [*private_home(home), "sqlite3", "-batch", ":memory:", "SELECT 1"], capture_output=True, text=True, check=True
    )
    assert "from the start-up file" in read.stdout  # the start-up file works
    done = setup.run(*private_home(home))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert file_size(setup.backup()) == file_size(setup.source)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o400])
def test_backup_has_permissions_of_source(setup: ScriptSetup, mode: int, umask: int) -> None:
    setup.source.chmod(mode)
    assert setup.run("sh", "-c", f'umask {umask:o} && exec "$@"', "sh").returncode == 0
    assert setup.backup().stat().st_mode & 0o777 == mode


ODD_PATHS = ODD_NAMES | {"not UTF-8": "\udcff", "URI": "file:x"}


@pytest.mark.parametrize("name", ODD_PATHS.values(), ids=ODD_PATHS)
def test_absolute_path_may_be_odd(setup: ScriptSetup, tmp_path: Path, name: str) -> None:
    source = tmp_path / name / f"{name}.db"
    folder = tmp_path / name / "backups" / name
    folder.mkdir(parents=True)
    setup.source.rename(source)
    setup.source = source
    setup.folder = folder
    done = setup.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert setup.backup().read_bytes()[100:] == source.read_bytes()[100:]  # the header counts changes
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == sorted([source.name, "backups"])


@pytest.mark.parametrize("name", ["-x.db", "file:x.db", ":memory:"])
def test_relative_path_may_be_odd(setup: ScriptSetup, name: str) -> None:
    base = setup.source.parent
    setup.source.rename(base / name)
    setup.folder = base / f"-{name}"
    setup.folder.mkdir()
    done = setup.run("env", "-C", str(base), DATABASE_FILE=name, BACKUP_DIR=setup.folder.name)
    assert (done.returncode, done.stderr) == (0, "")
    assert is_consistent(setup.backup())
    assert read_counters(setup.backup()) == (0, 0)
