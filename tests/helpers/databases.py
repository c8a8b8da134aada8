"""SQLite databases of the tests: made, changed, damaged and left behind as a crash leaves them."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath

PAGE_SIZE = 4096
TABLE_LEAF = 0x0D
INDEX_PAGES = (0x02, 0x0A)  # page types (fileformat2.html, section 1.6)


def is_consistent(path: Path) -> bool:
    """Tell whether a finished copy passes the integrity check, creating no file next to it."""
    database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        return database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        database.close()


def dump(path: PurePath) -> list[str]:
    """Return all statements that make the content of a database."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return list(database.iterdump())


def execute(path: PurePath, *statements: str) -> None:
    """Run statements on a database, and close it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def set_journal_mode(path: PurePath, mode: str) -> None:
    """Put a database in a journal mode."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute(f"PRAGMA journal_mode = {mode}").fetchone() == (mode,)


@contextlib.contextmanager
def opened(path: PurePath) -> Iterator[sqlite3.Connection]:
    """Have a database open, as its service does."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield database


# --- definitions of an application ----------------------------------------------------------------------------------

# What each one of these makes a database need: the name of the definition, and how far its table can be checked.
APPLICATION_TABLES = {
    "collation": ("CREATE TABLE own (a TEXT COLLATE MINE UNIQUE)", "the collation MINE", "count"),
    "collation of a key": (
        "CREATE TABLE own (a TEXT COLLATE MINE PRIMARY KEY) WITHOUT ROWID",
        "the collation MINE",
        "none",
    ),
    "function": (
        "CREATE TABLE own (a TEXT); CREATE INDEX own_index ON own (mine(a))",
        "the function mine()",
        "quick_check",
    ),
    "function of a partial index": (
        "CREATE TABLE own (a TEXT); CREATE INDEX own_index ON own (a) WHERE mine(a)",
        "the function mine()",
        "quick_check",
    ),
}


def add_application_table(path: PurePath, statements: str, rows: int = 3) -> None:
    """Add a table `own` that uses definitions of the application, as an application does."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.create_collation("MINE", lambda a, b: (a > b) - (a < b))
        database.create_function("mine", 1, lambda text: text[::-1], deterministic=True)
        database.executescript(statements)
        database.executemany("INSERT INTO own VALUES (?)", [(f"row {number}",) for number in range(rows)])


def require_module(path: PurePath, old: str, new: str) -> None:
    """Make a virtual table `own` in a database, whose definition then names a module or tokenizer that is missing."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"CREATE VIRTUAL TABLE own USING {old}")
        database.execute("PRAGMA writable_schema = 1")
        database.execute("UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = 'own'", (old, new))


# --- damage ---------------------------------------------------------------------------------------------------------


def overwrite(path: Path, offset: int, content: bytes) -> None:
    """Overwrite some bytes of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def damage_pages(path: Path, count: int = 1) -> None:
    """Overwrite the type of some pages in the middle of the tables (fileformat2.html, section 1.6)."""
    content = path.read_bytes()
    leaves = [offset for offset in range(PAGE_SIZE, len(content), PAGE_SIZE) if content[offset] == TABLE_LEAF]
    for offset in leaves[len(leaves) // 2 :][:count]:
        overwrite(path, offset, b"\0")


def damage_index(path: Path) -> None:
    """Change a key in an index of an index database, and not in its table."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        (key,) = database.execute("SELECT info_hash FROM torrust_torrents WHERE torrent_id = 7").fetchone()
    content = path.read_bytes()
    offset = content.find(key.encode())
    while content[offset // PAGE_SIZE * PAGE_SIZE] not in INDEX_PAGES:
        offset = content.find(key.encode(), offset + 1)
    overwrite(path, offset, b"x")


# --- crashes --------------------------------------------------------------------------------------------------------


def crash_writer(path: PurePath, script: str) -> None:
    """Run an SQL script in a process that then ends without closing the database."""
    code = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.executescript(sys.argv[2])
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code, path, script], check=True)


def leave_hot_journal(path: PurePath, update: str) -> None:
    """Let a writer crash in a transaction that is partly written to the database: `update` must change many pages."""
    crash_writer(path, f"PRAGMA cache_size = 1; BEGIN; {update}")
    assert Path(f"{path}-journal").stat().st_size


def leave_wal(path: PurePath, update: str) -> None:
    """Let a service crash with a commit in its WAL that the database file does not have."""
    crash_writer(path, f"PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0; {update}")
    assert Path(f"{path}-wal").stat().st_size
