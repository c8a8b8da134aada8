"""Verifying a backup: real damage, real sources, and the task."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.backup.verify import Verification, verify_backup
from demo_backups.errors import CouldNotLookError
from demo_backups.project import ROOT
from demo_backups.records.check import Check, Outcome
from demo_backups.rehearsal.writer import live_writer
from demo_backups.remote.files import File
from demo_backups.remote.host import Host
from demo_backups.remote.job_state import Job, JobStatus
from demo_backups.remote.jobs import follow_job
from demo_backups.settings.model import Database

from ..helpers.backups import make_backup
from ..helpers.databases import (
    APPLICATION_TABLES,
    add_application_table,
    damage_index,
    damage_pages,
    execute,
    leave_hot_journal,
    leave_wal,
    opened,
    overwrite,
    require_module,
)
from ..helpers.processes import wait_until
from ..helpers.services import service_in_process, with_mount
from ..helpers.tasks import INV, DemoServer

CHECKS = ["created", "size", "integrity", "query", "source"]
SIGNS = {Outcome.PASSED: "+", Outcome.FAILED: "-", Outcome.UNKNOWN: "?"}
NAME = "backup_2026-01-31_04-00-00.db"


def signs(verification: Verification) -> str:
    """Return one sign for each check: + passed, - failed, ? unknown."""
    assert [check.name for check in verification.checks] == CHECKS
    return "".join(SIGNS[check.outcome] for check in verification.checks)


# --- the verdict ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checks", "outcome", "exit_code"),
    [
        ("+++++", Outcome.PASSED, 0),
        ("+++?+", Outcome.UNKNOWN, 3),
        ("???-?", Outcome.FAILED, 1),
        ("-++++", Outcome.FAILED, 1),
        ("?????", Outcome.UNKNOWN, 3),
    ],
)
def test_failed_check_outweighs_unknown(checks: str, outcome: Outcome, exit_code: int) -> None:
    outcomes = {sign: outcome for outcome, sign in SIGNS.items()}
    list_of_checks = [Check(name, outcomes[sign], "") for name, sign in zip(CHECKS, checks, strict=True)]
    verification = Verification("demo", "index", None, None, PurePosixPath("/s"), None, list_of_checks)
    assert (verification.outcome, verification.exit_code) == (outcome, exit_code)


def test_json_keys_and_order() -> None:
    created = datetime(2026, 1, 31, 4, 0, 1, 85, timezone(timedelta(hours=1)))
    backup = File(PurePosixPath("/backups") / NAME, 8192, created)
    checks = [Check("created", Outcome.PASSED, "fine"), Check("source", Outcome.UNKNOWN, "missing")]
    verification = Verification("demo", "index", backup.path, backup, PurePosixPath("/s.db"), 4096, checks, ["ok"])
    assert json.dumps(verification.as_json()) == (
        '{"host": "demo", "database": "index", '
        f'"backup": {{"path": "/backups/{NAME}", "bytes": 8192, "created": "2026-01-31T04:00:01.000085+01:00"}}, '
        '"source": {"path": "/s.db", "bytes": 4096}, '
        '"checks": [{"name": "created", "passed": true, "detail": "fine"}, '
        '{"name": "source", "passed": null, "detail": "missing"}], "passed": null}'
    )


# --- real files -----------------------------------------------------------------------------------------------------


@dataclass
class BackedUp:
    """A database on this machine, and a backup that the script made of it."""

    host: Host
    database: Database
    backup: Path

    @property
    def source(self) -> Path:
        return Path(self.database.source)

    def read_files(self) -> dict[Path, bytes]:
        """Read all files in both folders; of a -shm only that it exists: SQLite writes to it."""
        paths = [*self.source.parent.iterdir(), *self.backup.parent.iterdir()]
        return {path: path.read_bytes() if path.is_file() and path.suffix != ".db-shm" else b"" for path in paths}

    def follow(self, job: Job) -> tuple[JobStatus, str]:
        """Follow the integrity check to its end."""
        output: list[str] = []
        status = follow_job(self.host, self.database, job, output.append, lambda status: None)
        return status, "".join(output)

    def verify(self, path: Path | None = None, quick: bool = False, tolerance: float = 0.1) -> Verification:
        """Verify the backup."""
        chosen = PurePosixPath(path) if path else None
        return verify_backup(self.host, self.database, chosen, quick, tolerance, self.follow)

    def verify_unchanged(self) -> Verification:
        """Verify the backup, and check that this changes no file."""
        before = self.read_files()
        verification = self.verify()
        assert self.read_files() == before
        return verification

    def back_up_again(self) -> None:
        """Replace the backup by a new one."""
        self.backup.unlink()
        self.backup = make_backup(self.source, self.backup.parent)


@pytest.fixture(scope="session")
def backup_file(index_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good backup of the index database, to be copied."""
    return make_backup(index_file, tmp_path_factory.mktemp("backups"))


@pytest.fixture
def backed_up(local_host: Host, database: Database, backup_file: Path) -> BackedUp:
    """A database, and a good backup of it."""
    return BackedUp(local_host, database, Path(shutil.copy2(backup_file, database.backup_dir)))


def test_good_backup_passes_all_checks(backed_up: BackedUp) -> None:
    verification = backed_up.verify_unchanged()
    assert signs(verification) == "+++++"
    assert verification.path == PurePosixPath(backed_up.backup)
    assert (verification.exit_code, verification.integrity) == (0, ["ok"])
    assert verification.source_bytes == backed_up.source.stat().st_size


def back_up_damaged_source(backed_up: BackedUp) -> None:
    damage_pages(backed_up.source)
    backed_up.back_up_again()


def back_up_missing_source(backed_up: BackedUp) -> None:
    """Back up a missing source by a plain `.backup`: sqlite3 creates an empty source and an empty backup."""
    backed_up.backup.unlink()
    missing = backed_up.source.with_name("missing.db")
    done = subprocess.run(["sqlite3", missing, f".backup '{NAME}'"], cwd=backed_up.backup.parent, check=False)
    assert done.returncode == 0
    assert missing.read_bytes() == b""
    missing.unlink()
    backed_up.backup = backed_up.backup.with_name(NAME)


def kill_copy_midway(backed_up: BackedUp) -> None:
    """Leave what `kill -9` leaves under the final name."""
    code = """
import os, sqlite3, sys
source, copy = (sqlite3.connect(path) for path in sys.argv[1:])
copy.execute("PRAGMA cache_size = 1")
source.backup(copy, pages=10, progress=lambda status, left, total: left < total / 2 and os._exit(0))
"""
    backed_up.backup.unlink()
    subprocess.run([sys.executable, "-c", code, backed_up.source, backed_up.backup], check=True)
    assert backed_up.backup.stat().st_size
    assert Path(f"{backed_up.backup}-journal").stat().st_size


def kill_copy_midway_and_open_it(backed_up: BackedUp) -> None:
    kill_copy_midway(backed_up)
    execute(backed_up.backup, "SELECT * FROM sqlite_master")
    assert backed_up.backup.read_bytes() == b""
    assert not Path(f"{backed_up.backup}-journal").exists()


def replace_by_link(backed_up: BackedUp) -> None:
    target = backed_up.backup.rename(backed_up.backup.with_name("elsewhere.db"))
    backed_up.backup.symlink_to(target)


def replace_by_folder(backed_up: BackedUp) -> None:
    backed_up.backup.unlink()
    backed_up.backup.mkdir()


def replace_by_pipe(backed_up: BackedUp) -> None:
    backed_up.backup.unlink()
    os.mkfifo(backed_up.backup)


def copy_without_wal(backed_up: BackedUp) -> None:
    """Copy a live database as `cp` does: without what only the WAL has."""
    with contextlib.closing(sqlite3.connect(backed_up.source, isolation_level=None)) as service:
        service.execute("PRAGMA journal_mode = wal")
        service.execute("DELETE FROM torrust_torrents")
        service.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        service.execute("INSERT INTO torrust_torrents SELECT 1, 1, 1, 'h', 1, 'n', '', 1, 0, ''")
        shutil.copyfile(backed_up.source, backed_up.backup)


def grow_backup(backed_up: BackedUp) -> None:
    overwrite(backed_up.backup, backed_up.backup.stat().st_size, bytes(4096))


def grow_source(backed_up: BackedUp) -> None:
    execute(backed_up.source, "INSERT INTO torrust_users VALUES (0, zeroblob(50000), 0)")


def change_backup(statement: str) -> Callable[[BackedUp], None]:
    return lambda backed_up: execute(backed_up.backup, statement)


def cut_backup(size: int) -> Callable[[BackedUp], None]:
    return lambda backed_up: os.truncate(backed_up.backup, size)


def add_sidecar(suffix: str) -> Callable[[BackedUp], None]:
    return lambda backed_up: Path(f"{backed_up.backup}{suffix}").touch()


# How the backup is damaged, the outcomes of the five checks, and a fact in the details of one that failed.
BAD_BACKUPS: dict[str, tuple[Callable[[BackedUp], object], str, str]] = {
    # where a backup looks good and is not
    "missing source": (back_up_missing_source, "+++--", "no such table: torrust_torrents"),
    "killed midway": (kill_copy_midway, "----?", "db-journal"),
    "killed midway, then opened": (kill_copy_midway_and_open_it, "+-+--", "empty"),
    "full disk": (cut_backup(40960), "+---?", "40,960"),
    "damaged source": (back_up_damaged_source, "++-++", "returns error code 11"),
    "copy without its WAL": (copy_without_wal, "+++-+", "no row"),
    # and where it does not
    "empty": (cut_backup(0), "+-+--", "empty"),
    "cut in its header": (cut_backup(50), "+---?", "50 bytes"),
    "text": (lambda backed_up: backed_up.backup.write_text("text " * 1000), "+---?", "5,000 bytes"),
    "longer than its header says": (grow_backup, "+-+++", "header"),
    "damaged page": (lambda backed_up: damage_pages(backed_up.backup), "++-++", "returns error code 11"),
    "damaged index": (lambda backed_up: damage_index(backed_up.backup), "++-++", "row 7 missing from index"),
    "missing table": (change_backup("DROP TABLE torrust_torrent_tags"), "+++-+", "without torrust_torrent_tags"),
    "additional table": (change_backup("CREATE TABLE more (x)"), "+++-+", "with more"),
    "no row": (change_backup("DELETE FROM torrust_torrents"), "+++-+", "no row"),
    "too small": (grow_source, "++++-", "%"),
    "journal": (add_sidecar("-journal"), "-++++", "db-journal"),
    "WAL": (add_sidecar("-wal"), "-++++", "db-wal"),
    "symbolic link": (replace_by_link, "--+++", "symbolic link"),
    "folder": (replace_by_folder, "-????", "folder"),
    "pipe": (replace_by_pipe, "-????", "pipe"),
}


@pytest.mark.parametrize(("damage", "expected", "fact"), BAD_BACKUPS.values(), ids=BAD_BACKUPS)
def test_bad_backup_is_detected(
    backed_up: BackedUp, damage: Callable[[BackedUp], object], expected: str, fact: str
) -> None:
    damage(backed_up)
    verification = backed_up.verify_unchanged()
    assert signs(verification) == expected
    assert verification.exit_code == 1
    assert fact in "\n".join(check.detail for check in verification.checks if check.outcome is Outcome.FAILED)


def test_quick_check_misses_damaged_index(backed_up: BackedUp) -> None:
    damage_index(backed_up.backup)
    assert backed_up.verify(quick=True).checks[2] == Check("integrity", Outcome.PASSED, "quick_check: ok")
    damage_pages(backed_up.backup)
    assert backed_up.verify(quick=True).checks[2].outcome is Outcome.FAILED


def test_all_integrity_errors_are_kept(backed_up: BackedUp) -> None:
    damage_pages(backed_up.backup, count=3)
    verification = backed_up.verify()
    assert len([line for line in verification.integrity if "returns error code 11" in line]) == 3
    assert all(line in verification.checks[2].detail for line in verification.integrity)


# --- definitions of the application ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("statements", "missing", "level"), APPLICATION_TABLES.values(), ids=APPLICATION_TABLES)
def test_application_definition_is_not_damage(backed_up: BackedUp, statements: str, missing: str, level: str) -> None:
    add_application_table(backed_up.source, statements)
    backed_up.back_up_again()
    verification = backed_up.verify_unchanged()
    assert (signs(verification), verification.exit_code) == ("++?++", 3)
    assert missing in verification.checks[2].detail
    assert "12 of 13 tables" in verification.checks[2].detail
    assert "not completely checked: own" in verification.checks[2].detail
    assert "table torrust_torrents: integrity_check: ok" in verification.integrity


@pytest.mark.parametrize("quick", [False, True])
def test_damage_in_other_table_is_found(backed_up: BackedUp, quick: bool) -> None:
    add_application_table(backed_up.source, APPLICATION_TABLES["collation"][0])
    backed_up.back_up_again()
    damage_pages(backed_up.backup)
    verification = backed_up.verify(quick=quick)
    assert verification.checks[2].outcome is Outcome.FAILED
    assert "the collation MINE" in verification.checks[2].detail
    assert "error code 11" in verification.checks[2].detail


def test_damage_in_table_of_application_is_found(backed_up: BackedUp) -> None:
    """Of a table with such a collation, the rows can be counted: this reads the pages of its tree."""
    add_application_table(backed_up.source, APPLICATION_TABLES["collation"][0], rows=2000)
    backed_up.back_up_again()
    with contextlib.closing(sqlite3.connect(backed_up.backup)) as database:
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'own'").fetchone()
    overwrite(backed_up.backup, (root - 1) * 4096, b"\0")
    check = backed_up.verify().checks[2]
    assert check.outcome is Outcome.FAILED
    assert "table own: Error: stepping, database disk image is malformed" in check.detail


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("fts5(a)", "vec0(a float)", "the module vec0"),
        ("fts5(a, tokenize=porter)", "fts5(a, tokenize=mine)", "the tokenizer mine"),
        ("fts4(a, tokenize=porter)", "fts4(a, tokenize=icu de_DE)", "the tokenizer icu"),
    ],
)
def test_query_that_needs_application_is_unknown(backed_up: BackedUp, old: str, new: str, missing: str) -> None:
    require_module(backed_up.source, old, new)
    backed_up.back_up_again()
    backed_up.database = replace(backed_up.database, query="SELECT * FROM own")
    check = backed_up.verify().checks[3]
    assert check.outcome is Outcome.UNKNOWN
    assert missing in check.detail


def test_newest_backup_by_time_is_default(backed_up: BackedUp) -> None:
    now = time.time()
    ages = {
        "backup_2020-01-01_00-00-00.db": 60,
        "backup_2030-01-01_00-00-00.db": 120,
        "tracker_backup_2026-01-01_00-00-00.db": 0,
        "backup_of_mine.db": 0,
        backed_up.backup.name: 180,
    }
    for name, age in ages.items():
        path = backed_up.backup.with_name(name)
        if path != backed_up.backup:
            shutil.copyfile(backed_up.backup, path)
        os.utime(path, (now - age, now - age))
    verification = backed_up.verify()
    assert verification.path == PurePosixPath(backed_up.backup.with_name("backup_2020-01-01_00-00-00.db"))
    assert signs(verification) == "+++++"


def test_other_name_fails_first_check(backed_up: BackedUp) -> None:
    copy = shutil.copyfile(backed_up.backup, backed_up.backup.with_name("copy of it.db"))
    verification = backed_up.verify(copy)
    assert (verification.path, signs(verification)) == (PurePosixPath(copy), "-++++")


@pytest.mark.parametrize("is_named", [True, False])
def test_missing_backup_fails(backed_up: BackedUp, is_named: bool) -> None:
    backed_up.backup.unlink()
    verification = backed_up.verify(backed_up.backup if is_named else None)
    assert (signs(verification), verification.exit_code, verification.backup) == ("-????", 1, None)
    expected = backed_up.backup if is_named else backed_up.backup.parent
    assert str(expected) in verification.checks[0].detail
    assert verification.source_bytes == backed_up.source.stat().st_size


def test_missing_backup_folder_is_an_error(backed_up: BackedUp) -> None:
    shutil.rmtree(backed_up.backup.parent)
    with pytest.raises(CouldNotLookError) as caught:
        backed_up.verify()
    assert "No such file or directory" in caught.value.output


def test_size_difference_within_tolerance(backed_up: BackedUp) -> None:
    grow_source(backed_up)
    assert signs(backed_up.verify(tolerance=0.2)) == "++++-"
    assert signs(backed_up.verify(tolerance=0.3)) == "+++++"


# --- sources --------------------------------------------------------------------------------------------------------


def leave_wal_without_shm(source: Path) -> None:
    leave_wal(source, "UPDATE torrust_torrents SET size = 1")
    Path(f"{source}-shm").unlink()


def leave_shm(source: Path) -> None:
    execute(source, "PRAGMA journal_mode = wal")
    Path(f"{source}-shm").write_bytes(bytes(32768))


def make_folder(source: Path) -> None:
    source.unlink()
    source.mkdir()


SOURCES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "+++??"),
    "empty": (lambda source: os.truncate(source, 0), "+++??"),
    "text": (lambda source: source.write_text("text " * 1000), "+++??"),
    "folder": (make_folder, "+++??"),
    "damaged schema": (lambda source: overwrite(source, 100, b"\xff" * 64), "+++??"),
    "damaged data": (damage_pages, "+++++"),
    "hot journal": (
        lambda source: leave_hot_journal(source, "UPDATE torrust_torrents SET name = name || name"),
        "+++??",
    ),
    "closed, WAL mode": (lambda source: execute(source, "PRAGMA journal_mode = wal"), "+++++"),
    "closed, WAL mode, -shm": (leave_shm, "+++++"),
    "crashed, WAL mode": (lambda source: leave_wal(source, "UPDATE torrust_torrents SET size = 1"), "+++++"),
    "crashed, WAL mode, no -shm": (leave_wal_without_shm, "+++??"),
    "with statistics": (lambda source: execute(source, "ANALYZE"), "+++++"),  # a table without data of its own
}


@pytest.mark.parametrize(("change", "expected"), SOURCES.values(), ids=SOURCES)
def test_source_is_read_without_trace(backed_up: BackedUp, change: Callable[[Path], object], expected: str) -> None:
    change(backed_up.source)
    verification = backed_up.verify_unchanged()
    assert signs(verification) == expected
    is_available = "?" not in expected
    assert verification.exit_code == (0 if is_available else 3)
    assert (verification.source_bytes is not None) == is_available
    assert is_available or str(backed_up.source) in verification.checks[4].detail


def test_live_source_includes_its_wal(backed_up: BackedUp) -> None:
    """The size of the file itself is outdated."""
    backed_up.source.unlink()
    with contextlib.closing(sqlite3.connect(backed_up.source, isolation_level=None)) as service:
        service.executescript("PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0")
        with contextlib.closing(sqlite3.connect(backed_up.backup)) as backup:
            for statement in backup.iterdump():
                service.execute(statement)
        assert backed_up.source.stat().st_size == 4096
        backed_up.back_up_again()
        verification = backed_up.verify_unchanged()
    assert signs(verification) == "+++++"
    assert verification.source_bytes is not None
    assert verification.source_bytes > 100_000


def link_source(backed_up: BackedUp) -> None:
    """Move the source elsewhere, and leave a symbolic link to it."""
    elsewhere = backed_up.source.parent / "elsewhere"
    elsewhere.mkdir()
    target = backed_up.source.rename(elsewhere / "real.db")
    backed_up.source.symlink_to(target)


def link_source_folder(backed_up: BackedUp) -> None:
    """Move the folder of the source, and leave a symbolic link to it."""
    folder = backed_up.source.parent
    folder.symlink_to(folder.rename(folder.with_name("moved")))


@pytest.mark.parametrize("link", [link_source, link_source_folder])
def test_commits_in_wal_of_linked_source_count(backed_up: BackedUp, link: Callable[[BackedUp], None]) -> None:
    link(backed_up)
    execute(backed_up.source, "PRAGMA journal_mode = wal")
    with opened(backed_up.source) as service:
        service.execute("PRAGMA wal_autocheckpoint = 0")
        service.execute("CREATE TABLE added AS SELECT zeroblob(500000) AS x")
        backed_up.back_up_again()
        verification = backed_up.verify()
    assert signs(verification) == "+++++"
    assert verification.source == PurePosixPath(backed_up.source.resolve())


def test_source_with_wal_elsewhere_fails(backed_up: BackedUp, private_mounts: list[str], tmp_path: Path) -> None:
    execute(backed_up.source, "PRAGMA journal_mode = wal")
    inside = tmp_path / "in the container.db"
    inside.touch()
    start = with_mount(private_mounts, backed_up.source, inside)
    with service_in_process(inside, "DELETE FROM torrust_torrents", start=start):
        backed_up.back_up_again()
        verification = backed_up.verify()
    assert (signs(verification), verification.exit_code) == ("++++-", 1)
    assert str(inside) in verification.checks[4].detail


def test_dangling_link_is_missing_source(backed_up: BackedUp) -> None:
    backed_up.source.unlink()
    backed_up.source.symlink_to("missing.db")
    verification = backed_up.verify()
    assert (signs(verification), verification.exit_code) == ("+++??", 3)
    assert f"{backed_up.source} does not exist" in verification.checks[4].detail


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_live_writer_does_not_disturb(backed_up: BackedUp, journal: str) -> None:
    execute(backed_up.source, f"PRAGMA journal_mode = {journal}")
    with live_writer(backed_up.source, rate=50) as writes:
        backed_up.back_up_again()
        verification = backed_up.verify()
    assert signs(verification) == "+++++"
    assert writes.failed == 0
    assert list(backed_up.source.parent.iterdir()) == [backed_up.source]


@pytest.mark.skipif(not shutil.which("fincore"), reason="needs fincore")
def test_only_backup_leaves_page_cache(backed_up: BackedUp) -> None:
    """A backup that is the live file itself, under another name, stays there too."""
    os.sync()  # only pages that are on the disk can be dropped
    assert signs(backed_up.verify()) == "+++++"
    wait_until(lambda: count_cached(backed_up.backup) == 0, "dropping the backup")
    other = backed_up.backup.with_name(f"other_{NAME}")
    other.hardlink_to(backed_up.source)
    backed_up.source.read_bytes()
    backed_up.verify(other)
    assert count_cached(backed_up.source) > 0


def count_cached(path: Path) -> int:
    """The bytes of a file that are in the page cache."""
    command = ["fincore", "-bnro", "RES", str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


# --- the task -------------------------------------------------------------------------------------------------------


@pytest.fixture
def backup(demo_server: DemoServer) -> Path:
    """A good backup on the throwaway server."""
    return make_backup(demo_server.source, demo_server.backups)


def test_task_exits_by_outcome(demo_server: DemoServer, backup: Path) -> None:
    done = demo_server.inv("verify", "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    details = [check.pop("detail") for check in content["checks"]]
    assert all(details)
    created = datetime.fromisoformat(content["backup"].pop("created"))
    assert created.utcoffset() is not None
    assert abs(created.timestamp() - backup.stat().st_mtime) < 0.001
    assert content == {
        "host": "rehearsal",
        "database": "index",
        "backup": {"path": str(backup), "bytes": backup.stat().st_size},
        "source": {"path": str(demo_server.source), "bytes": demo_server.source.stat().st_size},
        "checks": [{"name": name, "passed": True} for name in CHECKS],
        "passed": True,
    }
    demo_server.source.rename(demo_server.source.with_name("elsewhere.db"))
    done = demo_server.inv("verify", "--json", f"--backup={backup.name}")  # by its name in the folder
    assert (done.returncode, json.loads(done.stdout)["passed"]) == (3, None)
    assert json.loads(done.stdout)["backup"]["path"] == str(backup)
    damage_pages(backup)
    done = demo_server.inv("verify", "--quick")
    assert done.returncode == 1
    assert "quick_check" in done.stdout


def test_task_fails_for_missing_backup(demo_server: DemoServer, backup: Path) -> None:
    done = demo_server.inv("verify", "--host", "local", "--json", "--backup=-x.db")
    assert done.returncode == 1, done.stderr
    content = json.loads(done.stdout)
    assert [check["passed"] for check in content["checks"]] == [False, None, None, None, None]
    assert content["backup"] == {"path": str(backup.parent / "-x.db"), "bytes": None, "created": None}


def test_task_ignores_start_up_file(
    demo_server: DemoServer, backup: Path, home: Path, private_home: Callable[[Path], list[str]]
) -> None:
    (home / ".sqliterc").write_text(".mode box\n.headers on\n.print from the start-up file\n")
    read = subprocess.run(
        [*private_home(home), "sqlite3", "-batch", ":memory:", "SELECT 1"], capture_output=True, text=True, check=True
    )
    assert "from the start-up file" in read.stdout  # the start-up file works
    done = subprocess.run(
        [*private_home(home), INV, "--search-root", ROOT, "verify", "--host", "local"],
        env=dict(demo_server.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "integrity_check: ok" in done.stdout
