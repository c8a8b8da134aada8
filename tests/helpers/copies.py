"""Backups that tests fetch, and what a fetch leaves on this machine."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
from pathlib import Path

from demo_backups.rehearsal.database import make_index

from .databases import PAGE_SIZE

OLD_TIME = 1_767_225_600.123456789  # 2026-01-01 in UTC


def make_large_backup(folder: Path, name: str, megabytes: int = 1) -> Path:
    """Make a good backup of an index database, with some megabytes of random bytes in it."""
    path = folder / name
    make_index(path, torrents=50)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE filler (content BLOB)")
        for _ in range(megabytes):
            connection.execute("INSERT INTO filler VALUES (?)", [os.urandom(2**20)])
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    os.utime(path, (OLD_TIME, OLD_TIME))
    return path


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hidden_names(folder: Path) -> list[str]:
    """Return the hidden names in a directory."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def change_pages(path: Path) -> None:
    """Write random bytes into 1 % of the pages, in the middle of the file, where it has no structure."""
    first, last = 10 + path.stat().st_size // PAGE_SIZE // 4, path.stat().st_size // PAGE_SIZE * 3 // 4
    count = path.stat().st_size // PAGE_SIZE // 100
    with path.open("r+b") as file:
        for page in random.Random(0).sample(range(first, last), count):
            file.seek(page * PAGE_SIZE + 100)  # after the pointer to the next page of a large value
            file.write(os.urandom(PAGE_SIZE - 200))
