"""What verifying a backup sees: each check as a table, then real damage, looked at through a Host."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.backup.verify import (
    Verification,
    check_created,
    check_integrity,
    check_query,
    check_size,
    check_source,
    verify_backup,
)
from demo_backups.project import ROOT
from demo_backups.records.check import Check
from demo_backups.rehearsal.database import make_index
from demo_backups.rehearsal.writer import live_writer
from demo_backups.remote.files import File
from demo_backups.remote.host import Host, Result
from demo_backups.remote.jobs import Job, JobStatus, follow_job
from demo_backups.settings import Database, Settings
from demo_backups.sqlite.inspect import DatabaseSummary, Header, choose_open_mode, is_access_failure

from ..helpers.constants import SCRIPT
from ..helpers.tasks import INV, Demo

CHECKS = ["created", "size", "integrity", "query", "source"]
MARKS = {"+": True, "-": False, "?": None}
NAME = "backup_2026-01-31_04-00-00.db"
WHEN = datetime(2026, 1, 31, 4, 0, 1, 85, timezone(timedelta(hours=1)))


# --- the checks by themselves ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def index(project_settings: Settings) -> Database:
    """The index database as the settings have it."""
    return project_settings.database("index")


def size(path: Path) -> int:
    return path.stat().st_size


def file(name: str = NAME, size: int = 8192, kind: str = "f") -> File:
    return File(PurePosixPath("/backups") / name, size, WHEN, kind)


def header(pages: int, page_size: int = 4096, magic: bytes = b"SQLite format 3\0", known: bool = True) -> Result:
    """What od prints of a database's first 100 bytes."""
    fields = bytearray(100)
    fields[:16] = magic
    fields[16:18] = (1 if page_size == 65536 else page_size).to_bytes(2, "big")
    fields[18:20] = b"\1\1"
    fields[24:28] = b"\0\0\0\7"
    fields[28:32] = pages.to_bytes(4, "big")
    fields[92:96] = b"\0\0\0\7" if known else b"\0\0\0\6"
    lines = [fields[at : at + 16].hex(" ") for at in range(0, 100, 16)]
    return Result(0, "".join(f" {line}\n" for line in lines), "")


def shape(*tables: str, pages: int = 100) -> Result:
    return Result(0, "\n".join([str(pages), "4096", *tables]) + "\n", "")


NO_PERMISSION = Result(14, "", 'Error: unable to open database "file:x": unable to open database file')
MALFORMED = Result(11, "", "Error: in prepare, database disk image is malformed (11)")


@pytest.mark.parametrize(
    ("backup", "unfinished", "passed", "words"),
    [
        (file(), [], True, "2026-01-31 04:00:01+01:00, a regular file, nothing unfinished beside it"),
        (file(kind="l"), [], False, "it is a symbolic link, not a regular file"),
        (file(kind="d"), [], False, "it is a folder, not a regular file"),
        (file(kind="b"), [], False, "it is a special file, not a regular file"),
        (file(), [f"/backups/{NAME}-journal"], False, f"unfinished: beside it stands {NAME}-journal"),
        (file(), [f"/backups/{NAME}-wal", f"/backups/{NAME}-shm"], False, f"{NAME}-wal, {NAME}-shm"),
        (file("backup_2026-01-31_04-00-00.db.gz"), [], False, "its name is not backup_YYYY-MM-DD_HH-MM-SS.db"),
        (file("backup_2026-01-31.db"), [], False, "its name is not"),
        (file("tracker_backup_2026-01-31_04-00-00.db"), [], False, "its name is not"),
        (file("backup_2026-01-31_04-00-00.db\n"), [], False, "its name is not"),
        (file("x", kind="l"), ["/backups/x-journal"], False, "link, not a regular file; its name is not"),
    ],
)
def test_created(index: Database, backup: File, unfinished: list[str], passed: bool, words: str) -> None:
    seen = check_created(index, backup, unfinished)
    assert (seen.name, seen.passed) == ("created", passed)
    assert words in seen.detail


@pytest.mark.parametrize(
    ("size", "said", "passed", "words"),
    [
        (8192, header(2), True, "8,192 bytes, as its header says"),
        (1024, header(2, 512), True, "1,024 bytes"),
        (131072, header(2, 65536), True, "131,072 bytes"),
        (4096, header(2), False, "4,096 bytes, and its header says 8,192"),
        (8191, header(2), False, "its header says 8,192"),
        (12288, header(2), False, "its header says 8,192"),
        (0, Result(0, "", ""), False, "it is empty"),
        (50, Result(0, " 53 51 4c\n", ""), False, "50 bytes that do not begin like a database"),
        (8192, header(2, magic=b"SQLite format 4\0"), False, "do not begin like a database"),
        (8192, header(2, known=False), None, "its header does not say how many"),
        (8192, header(0), None, "its header does not say how many"),
        (8192, Result(1, "", "od: x: Permission denied"), None, "its header cannot be read: od: x: Permission denied"),
    ],
)
def test_size(size: int, said: Result, passed: bool | None, words: str) -> None:
    seen = check_size(file(size=size), said)
    assert (seen.name, seen.passed) == ("size", passed)
    assert words in seen.detail


@pytest.mark.parametrize(
    ("result", "passed", "words"),
    [
        (Result(0, "ok\n", ""), True, "integrity_check: ok"),
        (Result(0, "*** in database main ***\nPage 7: never used\n", ""), False, "main ***\nPage 7: never used"),
        (Result(0, "ok\n", "warning"), False, "ok\nwarning"),
        (Result(0, "ok\nok\n", ""), False, "ok\nok"),
        (Result(0, "", ""), False, "printed nothing"),
        (MALFORMED, False, "malformed"),
        (Result(26, "", "Error: in prepare, file is not a database (26)"), False, "not a database"),
        (NO_PERMISSION, None, "unable to open"),
        (Result(127, "", "sh: 1: sqlite3: not found"), None, "not found"),
        (Result(None, "", ""), None, "killed by a signal"),
    ],
)
def test_integrity(result: Result, passed: bool | None, words: str) -> None:
    seen = check_integrity(result, quick=False)
    assert (seen.name, seen.passed) == ("integrity", passed)
    assert words in seen.detail


def test_integrity_says_which_of_the_two_checks_it_was() -> None:
    assert check_integrity(Result(0, "ok\n", ""), quick=True).detail == "quick_check: ok"


SOURCE = DatabaseSummary(409600, frozenset({"a", "b"}))
ROW = Result(0, "1|abc\n", "")


@pytest.mark.parametrize(
    ("opened", "row", "source", "passed", "words"),
    [
        (shape("a", "b"), ROW, SOURCE, True, "the query returned a row; 2 tables, as in the source"),
        (shape("b", "a"), Result(0, "\n", ""), SOURCE, True, "returned a row"),
        (shape("a"), ROW, SOURCE, False, "its tables are not the source's: without b"),
        (shape("a", "b", "c"), ROW, SOURCE, False, "with c, which the source has not"),
        (shape(), ROW, SOURCE, False, "without a, without b"),
        (shape("a", "b"), Result(0, "", ""), SOURCE, False, "the query returned no row"),
        (shape("a", "b"), Result(0, "", ""), "it is gone", False, "the query returned no row"),
        (shape("a", "b"), Result(1, "", "Error: no such table: t"), SOURCE, False, "no such table: t"),
        (shape("a", "b"), MALFORMED, SOURCE, False, "malformed"),
        (MALFORMED, ROW, SOURCE, False, "malformed"),
        (NO_PERMISSION, NO_PERMISSION, SOURCE, None, "unable to open"),
        (shape("a", "b"), ROW, "it is gone", None, "could not be compared: it is gone"),
    ],
)
def test_query(opened: Result, row: Result, source: DatabaseSummary | str, passed: bool | None, words: str) -> None:
    seen = check_query(opened, row, source)
    assert (seen.name, seen.passed) == ("query", passed)
    assert words in seen.detail


@pytest.mark.parametrize(
    ("pages", "source", "tolerance", "passed", "words"),
    [
        (100, 409600, 0.1, True, "409,600 bytes, the source 409,600: 0.0% apart, 10.0% allowed"),
        (100, 409600, 0, True, "0.0% apart, 0.0% allowed"),
        (90, 409600, 0.1, True, "10.0% apart"),
        (110, 409600, 0.1, True, "10.0% apart"),
        (89, 409600, 0.1, False, "364,544 bytes, the source 409,600: 11.0% apart"),
        (111, 409600, 0.1, False, "11.0% apart"),
        (111, 409600, 0.2, True, "11.0% apart, 20.0% allowed"),
        (1, 409600, 0.1, False, "99.0% apart"),
        (1, 0, 0.1, False, "the source 0"),
        (0, 0, 0.1, True, "0 bytes, the source 0"),
    ],
)
def test_source(pages: int, source: int, tolerance: float, passed: bool, words: str) -> None:
    seen = check_source(shape("a", pages=pages), DatabaseSummary(source, frozenset("a")), tolerance)
    assert (seen.name, seen.passed) == ("source", passed)
    assert words in seen.detail


def test_source_cannot_be_compared_with_what_cannot_be_opened() -> None:
    assert check_source(MALFORMED, SOURCE, 0.1).passed is None
    assert check_source(shape("a"), "the source is gone", 0.1) == Check("source", None, "the source is gone")


@pytest.mark.parametrize(
    ("wal", "beside", "opened"),
    [
        (False, [], False),
        (False, ["-wal", "-shm"], False),
        (True, [], True),
        (True, ["-shm"], True),
        (True, ["-wal", "-shm"], False),
    ],
)
def test_a_source_is_opened_as_immutable_only_where_opening_it_plainly_would_make_files_beside_it(
    wal: bool, beside: list[str], opened: bool
) -> None:
    assert choose_open_mode(Header(8192, wal, 4096), beside) is opened


def test_what_cannot_be_opened_without_writing_is_not_opened() -> None:
    assert "start its service once" in str(choose_open_mode(Header(8192, True, 4096), ["-wal"]))
    assert choose_open_mode(None, []) == "is not a database"


@pytest.mark.parametrize(
    ("result", "could_not_look"),
    [(Result(status, "", "Error"), True) for status in (None, 3, 5, 6, 8, 14, 15, 23, 126, 127)]
    + [(Result(status, "", "Error"), False) for status in (1, 10, 11, 26)]
    + [(Result(1, "", "Error: unable to open database file"), True)],
)
def test_failing_for_want_of_access_is_told_from_failing_for_what_is_in_the_file(
    result: Result, could_not_look: bool
) -> None:
    assert is_access_failure(result) is could_not_look


@pytest.mark.parametrize(
    ("marks", "passed", "exit_code"),
    [("+++++", True, 0), ("+++?+", None, 3), ("???-?", False, 1), ("-++++", False, 1), ("?????", None, 3)],
)
def test_the_verdict_is_a_failure_before_it_is_a_doubt(marks: str, passed: bool | None, exit_code: int) -> None:
    checks = [Check(name, MARKS[mark], "") for name, mark in zip(CHECKS, marks, strict=True)]
    seen = Verification("demo", "index", None, None, PurePosixPath("/s"), None, checks)
    assert (seen.passed, seen.exit_code) == (passed, exit_code)


def test_the_json_has_the_keys_of_its_description_in_their_order() -> None:
    checks = [Check("created", True, "fine"), Check("source", None, "gone")]
    seen = Verification("demo", "index", file().path, file(), PurePosixPath("/s.db"), 4096, checks, ["ok"])
    assert json.dumps(seen.as_json()) == (
        '{"host": "demo", "database": "index", '
        f'"backup": {{"path": "/backups/{NAME}", "bytes": 8192, "created": "2026-01-31T04:00:01.000085+01:00"}}, '
        '"source": {"path": "/s.db", "bytes": 4096}, '
        '"checks": [{"name": "created", "passed": true, "detail": "fine"}, '
        '{"name": "source", "passed": null, "detail": "gone"}], "passed": null}'
    )


# --- real files, looked at through a Host ---------------------------------------------------------------------------


@dataclass
class There:
    """A source, and a backup that the script made of it, on this machine."""

    host: Host
    database: Database
    backup: Path

    @property
    def source(self) -> Path:
        return Path(self.database.source)

    def look(self) -> dict[Path, bytes]:
        """All files in both folders, and their bytes; a -shm is no data, and is SQLite's to change."""
        paths = [*self.source.parent.iterdir(), *self.backup.parent.iterdir()]
        return {path: path.read_bytes() if path.is_file() and path.suffix != ".db-shm" else b"" for path in paths}

    def follow(self, run: Job) -> tuple[JobStatus, str]:
        """Stay with the check of a whole file to its end."""
        printed: list[str] = []
        seen = follow_job(self.host, self.database, run, printed.append, lambda look: None)
        return seen, "".join(printed)

    def verify(self, path: Path | None = None, quick: bool = False, tolerance: float = 0.1) -> Verification:
        """Verify, and see that this changed nothing."""
        before = self.look()
        seen = verify_backup(
            self.host, self.database, PurePosixPath(path) if path else None, quick, tolerance, self.follow
        )
        assert self.look() == before
        assert [check.name for check in seen.checks] == CHECKS
        return seen


def marks(seen: Verification) -> str:
    """The results of the five checks, one sign each."""
    signs = {passed: sign for sign, passed in MARKS.items()}
    return "".join(signs[check.passed] for check in seen.checks)


def make_backup(source: Path, folder: Path) -> Path:
    """Make a backup with the script."""
    subprocess.run(
        [SCRIPT], env=os.environ | {"DATABASE_FILE": str(source), "BACKUP_DIR": str(folder)}, check=True, timeout=60
    )
    return max(folder.glob("backup_*.db"))


@pytest.fixture
def there(tmp_path: Path, index: Database, here: Host) -> There:
    """A good backup and its source, on this machine."""
    folder = tmp_path / 'back\'ups "100%" #1?'
    source = tmp_path / "data\\base 100% #1? it's" / "sqlite3.db"
    folder.mkdir()
    source.parent.mkdir()
    make_index(source, torrents=40)
    database = dataclasses.replace(index, source=PurePosixPath(source), backup_dir=PurePosixPath(folder))
    return There(here, database, make_backup(source, folder))


def test_a_good_backup_passes_all_checks(there: There) -> None:
    seen = there.verify()
    assert marks(seen) == "+++++"
    assert (seen.path, seen.exit_code, seen.integrity) == (PurePosixPath(there.backup), 0, ["ok"])
    assert seen.source_bytes == there.source.stat().st_size


def execute(path: Path, *statements: str) -> None:
    """Change a database, and close it again."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as opened:
        opened.seek(at)
        opened.write(content)


def damage_a_page(path: Path, count: int = 1) -> None:
    """Take the type off pages in the middle of tables (fileformat2.html, section 1.6)."""
    content = path.read_bytes()
    leaves = [at for at in range(4096, len(content), 4096) if content[at] == 0x0D]
    for at in leaves[len(leaves) // 2 :][:count]:
        overwrite(path, at, b"\0")


def damage_an_index(path: Path) -> None:
    """Change a key in an index, and not in its table."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        (key,) = database.execute("SELECT info_hash FROM torrust_torrents WHERE torrent_id = 7").fetchone()
    content = path.read_bytes()
    at = content.find(key.encode())
    while content[at // 4096 * 4096] not in (0x02, 0x0A):  # pages of indexes
        at = content.find(key.encode(), at + 1)
    overwrite(path, at, b"x")


def damage_the_source_and_back_it_up(there: There) -> None:
    there.backup.unlink()
    damage_a_page(there.source)
    there.backup = make_backup(there.source, there.backup.parent)


def back_a_missing_source_up_the_plain_way(there: There) -> None:
    there.backup.unlink()
    missing = there.source.with_name("missing.db")
    done = subprocess.run(["sqlite3", missing, f".backup '{NAME}'"], cwd=there.backup.parent, check=False)
    assert done.returncode == 0
    assert missing.read_bytes() == b""
    missing.unlink()
    there.backup = there.backup.with_name(NAME)


def kill_the_copy_midway(there: There) -> None:
    """Leave what `kill -9` leaves under the final name."""
    code = """
import os, sqlite3, sys
source, copy = (sqlite3.connect(path) for path in sys.argv[1:])
copy.execute("PRAGMA cache_size = 1")
source.backup(copy, pages=10, progress=lambda status, left, total: left < total / 2 and os._exit(0))
"""
    there.backup.unlink()
    subprocess.run([sys.executable, "-c", code, there.source, there.backup], check=True)
    assert there.backup.stat().st_size
    assert Path(f"{there.backup}-journal").stat().st_size


def kill_the_copy_midway_and_open_it(there: There) -> None:
    kill_the_copy_midway(there)
    execute(there.backup, "SELECT * FROM sqlite_master")
    assert there.backup.read_bytes() == b""
    assert not Path(f"{there.backup}-journal").exists()


def replace_by_link(there: There) -> None:
    good = there.backup.rename(there.backup.with_name("elsewhere.db"))
    there.backup.symlink_to(good)


def replace_by_folder(there: There) -> None:
    there.backup.unlink()
    there.backup.mkdir()


def replace_by_pipe(there: There) -> None:
    there.backup.unlink()
    os.mkfifo(there.backup)


def copy_a_live_wal_database(there: There) -> None:
    """Copy as `cp` does: without what only the WAL holds."""
    with contextlib.closing(sqlite3.connect(there.source, isolation_level=None)) as service:
        service.execute("PRAGMA journal_mode = wal")
        service.execute("DELETE FROM torrust_torrents")
        service.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        service.execute("INSERT INTO torrust_torrents SELECT 1, 1, 1, 'h', 1, 'n', '', 1, 0, ''")
        shutil.copyfile(there.source, there.backup)


# How the backup is spoilt, what the five checks make of it, and what one that failed says.
SPOILT: dict[str, tuple[Callable[[There], object], str, str]] = {
    # where a backup looks fine and is not
    "its source was missing": (back_a_missing_source_up_the_plain_way, "+++--", "no such table: torrust_torrents"),
    "killed midway": (kill_the_copy_midway, "----?", "db-journal"),
    "killed midway, then opened": (kill_the_copy_midway_and_open_it, "+-+--", "it is empty"),
    "the disk was full": (lambda t: os.truncate(t.backup, 40960), "+---?", "40,960 bytes, and its header says"),
    "its source is damaged": (damage_the_source_and_back_it_up, "++-++", "returns error code 11"),
    "a copy without its WAL": (copy_a_live_wal_database, "+++-+", "the query returned no row"),
    # and where it does not
    "empty": (lambda t: os.truncate(t.backup, 0), "+-+--", "it is empty"),
    "cut in its header": (lambda t: os.truncate(t.backup, 50), "+---?", "do not begin like a database"),
    "text": (lambda t: t.backup.write_text("text " * 1000), "+---?", "do not begin like a database"),
    "longer than it says": (lambda t: overwrite(t.backup, size(t.backup), bytes(4096)), "+-+++", "its header says"),
    "a damaged page": (lambda t: damage_a_page(t.backup), "++-++", "returns error code 11"),
    "a damaged index": (lambda t: damage_an_index(t.backup), "++-++", "row 7 missing from index"),
    "a table is missing": (
        lambda t: execute(t.backup, "DROP TABLE torrust_torrent_tags"),
        "+++-+",
        "without torrust_t",
    ),
    "a table too many": (lambda t: execute(t.backup, "CREATE TABLE more (x)"), "+++-+", "with more, which"),
    "no row": (lambda t: execute(t.backup, "DELETE FROM torrust_torrents"), "+++-+", "the query returned no row"),
    "too small": (
        lambda t: execute(t.source, "INSERT INTO torrust_users VALUES (0, zeroblob(50000), 0)"),
        "++++-",
        "%",
    ),
    "a journal beside it": (lambda t: Path(f"{t.backup}-journal").touch(), "-++++", "db-journal"),
    "a WAL beside it": (lambda t: Path(f"{t.backup}-wal").touch(), "-++++", "db-wal"),
    "a symbolic link": (replace_by_link, "--+++", "symbolic link"),
    "a folder": (replace_by_folder, "-????", "folder"),
    "a pipe": (replace_by_pipe, "-????", "pipe"),
}


@pytest.mark.parametrize(("spoil", "expected", "words"), SPOILT.values(), ids=SPOILT)
def test_it_sees_through_a_backup_that_is_not_good(
    there: There, spoil: Callable[[There], object], expected: str, words: str
) -> None:
    spoil(there)
    seen = there.verify()
    assert marks(seen) == expected
    assert seen.exit_code == 1
    assert words in "\n".join(check.detail for check in seen.checks if check.passed is False)


def test_the_quick_check_does_not_see_a_damaged_index_and_says_what_it_was(there: There) -> None:
    damage_an_index(there.backup)
    assert there.verify(quick=True).checks[2] == Check("integrity", True, "quick_check: ok")
    damage_a_page(there.backup)
    assert there.verify(quick=True).checks[2].passed is False


def test_all_that_the_integrity_check_prints_is_collected(there: There) -> None:
    damage_a_page(there.backup, count=3)
    seen = there.verify()
    assert len([line for line in seen.integrity if "returns error code 11" in line]) == 3
    assert all(line in seen.checks[2].detail for line in seen.integrity)


def test_the_newest_by_its_time_is_taken_whatever_the_names_say(there: There) -> None:
    now = time.time()
    for name, age in {
        "backup_2020-01-01_00-00-00.db": 60,
        "backup_2030-01-01_00-00-00.db": 120,
        "tracker_backup_2026-01-01_00-00-00.db": 0,
        "backup_of_mine.db": 0,
    }.items():
        path = shutil.copyfile(there.backup, there.backup.with_name(name))
        os.utime(path, (now - age, now - age))
    os.utime(there.backup, (now - 180, now - 180))
    seen = there.verify()
    assert seen.path == PurePosixPath(there.backup.with_name("backup_2020-01-01_00-00-00.db"))
    assert marks(seen) == "+++++"


def test_a_file_of_another_name_is_looked_at_where_asked_for(there: There) -> None:
    copy = shutil.copyfile(there.backup, there.backup.with_name("copy of it.db"))
    seen = there.verify(copy)
    assert (seen.path, marks(seen)) == (PurePosixPath(copy), "-++++")
    assert "its name is not backup_YYYY" in seen.checks[0].detail


@pytest.mark.parametrize("named", [True, False])
def test_no_backup_at_all_is_a_failure(there: There, named: bool) -> None:
    there.backup.unlink()
    seen = there.verify(there.backup if named else None)
    assert (marks(seen), seen.exit_code, seen.backup) == ("-????", 1, None)
    assert seen.checks[0].detail == (
        f"there is no {there.backup}" if named else f"there is no backup of it in {there.backup.parent}"
    )
    assert seen.source_bytes == size(there.source)


def test_the_difference_in_size_is_held_against_the_tolerance_given(there: There) -> None:
    execute(there.source, "INSERT INTO torrust_users VALUES (0, zeroblob(50000), 0)")
    assert marks(there.verify(tolerance=0.2)) == "++++-"
    assert marks(there.verify(tolerance=0.3)) == "+++++"


# --- sources --------------------------------------------------------------------------------------------------------


def leave_a_hot_journal(source: Path) -> None:
    """Let a writer die in the middle of a transaction that has reached the file."""
    code = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.executescript("PRAGMA cache_size = 1; BEGIN; UPDATE torrust_torrents SET name = name || name")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code, source], check=True)
    assert size(Path(f"{source}-journal"))


def leave_a_wal(source: Path) -> None:
    """Let the service die with a commit in its WAL that the database itself does not hold."""
    code = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.executescript("PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0; UPDATE torrust_torrents SET size = 1")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code, source], check=True)
    assert size(Path(f"{source}-wal"))


def leave_a_wal_without_its_shm(source: Path) -> None:
    leave_a_wal(source)
    Path(f"{source}-shm").unlink()


def leave_a_shm(source: Path) -> None:
    execute(source, "PRAGMA journal_mode = wal")
    Path(f"{source}-shm").write_bytes(bytes(32768))


def make_a_folder(source: Path) -> None:
    source.unlink()
    source.mkdir()


SOURCES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "gone": (Path.unlink, "+++??", "is gone"),
    "empty": (lambda source: os.truncate(source, 0), "+++??", "is not a database"),
    "text": (lambda source: source.write_text("text " * 1000), "+++??", "is not a database"),
    "a folder": (make_a_folder, "+++??", "cannot be read"),
    "damaged where its tables stand": (lambda source: overwrite(source, 100, b"\xff" * 64), "+++??", "malformed"),
    "damaged elsewhere": (damage_a_page, "+++++", ""),
    "hot journal of a dead writer": (leave_a_hot_journal, "+++??", "the service must be started once"),
    "idle in WAL mode": (lambda source: execute(source, "PRAGMA journal_mode = wal"), "+++++", ""),
    "idle in WAL mode, with a -shm": (leave_a_shm, "+++++", ""),
    "idle in WAL mode, with all that a dead service left": (leave_a_wal, "+++++", ""),
    "idle in WAL mode, with a -wal": (leave_a_wal_without_its_shm, "+++??", "start its service once"),
}


@pytest.mark.parametrize(("change", "expected", "words"), SOURCES.values(), ids=SOURCES)
def test_a_source_is_looked_at_without_leaving_anything(
    there: There, change: Callable[[Path], object], expected: str, words: str
) -> None:
    change(there.source)
    seen = there.verify()
    assert marks(seen) == expected
    assert seen.exit_code == (0 if expected == "+++++" else 3)
    assert words in seen.checks[4].detail
    assert (seen.source_bytes is None) == ("?" in expected)


def test_a_live_source_in_wal_mode_is_measured_with_what_only_its_wal_holds(there: There) -> None:
    """The size of the file itself is a stale one."""
    there.source.unlink()
    with contextlib.closing(sqlite3.connect(there.source, isolation_level=None)) as service:
        service.executescript("PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0")
        with contextlib.closing(sqlite3.connect(there.backup)) as backup:
            for statement in backup.iterdump():
                service.execute(statement)
        assert size(there.source) == 4096
        make_backup_again(there)
        seen = there.verify()
    assert marks(seen) == "+++++"
    assert seen.source_bytes is not None
    assert seen.source_bytes > 100_000


def make_backup_again(there: There) -> None:
    there.backup.unlink()
    there.backup = make_backup(there.source, there.backup.parent)


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_source_that_is_being_written_to_is_no_hindrance_and_is_none_to_its_writer(
    there: There, journal: str
) -> None:
    execute(there.source, f"PRAGMA journal_mode = {journal}")
    with live_writer(there.source) as last:
        make_backup_again(there)
        seen = verify_backup(there.host, there.database, None, False, 0.1, there.follow)
    assert marks(seen) == "+++++"
    assert last.failed == 0
    assert sorted(there.source.parent.iterdir()) == [there.source]


# --- as a task ------------------------------------------------------------------------------------------------------


@pytest.fixture
def backup(demo: Demo) -> Path:
    """A good backup on the throwaway server."""
    return make_backup(demo.source, demo.backups)


def test_verify_prints_json_as_described_and_nothing_else(demo: Demo, backup: Path) -> None:
    done = demo.inv("verify", "--json")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    details = [check.pop("detail") for check in seen["checks"]]
    assert all(details)
    created = datetime.fromisoformat(seen["backup"].pop("created"))
    assert created.utcoffset() is not None
    assert abs(created.timestamp() - backup.stat().st_mtime) < 0.001
    assert seen == {
        "host": "rehearsal",
        "database": "index",
        "backup": {"path": str(backup), "bytes": size(backup)},
        "source": {"path": str(demo.source), "bytes": size(demo.source)},
        "checks": [{"name": name, "passed": True} for name in CHECKS],
        "passed": True,
    }


def test_verify_exits_0_1_or_3_as_its_verdict_says(demo: Demo, backup: Path) -> None:
    done = demo.inv("verify")
    assert (done.returncode, "all checks passed" in done.stdout) == (0, True), done.stderr
    demo.source.rename(demo.source.with_name("elsewhere.db"))
    done = demo.inv("verify", "--json")
    assert (done.returncode, json.loads(done.stdout)["passed"]) == (3, None)
    damage_a_page(backup)
    done = demo.inv("verify", "--json")
    assert (done.returncode, json.loads(done.stdout)["passed"]) == (1, False)
    done = demo.inv("verify")
    assert (done.returncode, "NOT a good backup" in done.stdout) == (1, True)


@pytest.fixture
def local(demo: Demo) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`inv verify --host local`, in the places of the throwaway server."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return demo.inv("verify", "--host", "local", "--json", *arguments)

    return run


def test_a_backup_is_named_by_its_path_or_by_its_name_in_the_folder(
    local: Callable[..., subprocess.CompletedProcess[str]], backup: Path
) -> None:
    other = shutil.copyfile(backup, backup.with_name("backup_2020-01-01_00-00-00.db"))
    for named in (str(other), other.name):
        done = local("--backup", named)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["backup"]["path"] == str(other)


@pytest.mark.parametrize("name", [NAME, f"/nowhere/{NAME}", "-x.db"])
def test_a_backup_that_is_not_there_is_a_failed_check(
    local: Callable[..., subprocess.CompletedProcess[str]], backup: Path, name: str
) -> None:
    done = local(f"--backup={name}")
    assert done.returncode == 1, done.stderr
    seen = json.loads(done.stdout)
    assert [check["passed"] for check in seen["checks"]] == [False, None, None, None, None]
    assert seen["backup"] == {"path": str(backup.parent / name), "bytes": None, "created": None}
    assert seen["passed"] is False


def test_a_backup_folder_that_is_not_there_is_not_an_empty_one(
    demo: Demo, local: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    demo.backups.rmdir()
    done = local()
    assert done.returncode == 3
    assert "No such file or directory" in json.loads(done.stdout)["error"]


def test_quick_is_said_to_be_quick(local: Callable[..., subprocess.CompletedProcess[str]], backup: Path) -> None:
    done = local("--quick")
    assert (done.returncode, json.loads(done.stdout)["checks"][2]["detail"]) == (0, "quick_check: ok")


def test_a_start_up_file_of_sqlite3_on_the_server_changes_nothing(
    demo: Demo, backup: Path, home: Path, private_home: Callable[[Path], list[str]]
) -> None:
    (home / ".sqliterc").write_text(".mode box\n.headers on\n.print from the start-up file\n")
    read = subprocess.run(
        [*private_home(home), "sqlite3", "-batch", ":memory:", "SELECT 1"], capture_output=True, text=True, check=True
    )
    assert "from the start-up file" in read.stdout  # else the test would prove nothing
    done = subprocess.run(
        [*private_home(home), INV, "--search-root", ROOT, "verify", "--host", "local"],
        env=dict(demo.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "integrity_check: ok" in done.stdout


def test_a_table_of_statistics_makes_no_difference(there: There) -> None:
    """`ANALYZE` makes one in the source later; it holds no data."""
    execute(there.source, "ANALYZE")
    assert marks(there.verify()) == "+++++"
