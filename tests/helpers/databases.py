"""What the tests share: a throwaway server, its live writer, and the tasks as a user calls them."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def is_consistent(path: Path) -> bool:
    """Ask SQLite whether a finished copy is whole, leaving nothing beside it."""
    database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        return database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        database.close()
