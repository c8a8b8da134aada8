"""The index backup script, run by bash with a database and a backup folder of the test's own."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .constants import SCRIPT
from .programs import write_program

DAY = 24 * 3600  # seconds
BACKUP_NAME = re.compile(r"backup_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.db")
OLD_BACKUP = "backup_2020-02-02_02-00-00.db"
OLD_TRACKER_BACKUP = "tracker_backup_2020-02-02_02-00-00.db"


def make_database(path: Path, megabytes: int = 0, journal: str = "delete") -> None:
    """Make a database with a counter on its first and on its last pages, and so much data between the two."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA journal_mode = {journal}")
        database.executescript(
            f"""
            CREATE TABLE first (n); INSERT INTO first VALUES (0);
            CREATE TABLE padding (x);
            INSERT INTO padding WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r)
                SELECT randomblob(100000) FROM r LIMIT {megabytes * 10};
            CREATE TABLE last (n); INSERT INTO last VALUES (0);
            """
        )


def read_counters(path: Path) -> tuple[int, int]:
    """Read both counters of a finished copy."""
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        first, last = database.execute("SELECT first.n, last.n FROM first, last").fetchone()
    return first, last


def file_size(path: Path) -> int:
    """Return the size of a file in bytes; 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def make_older(path: Path, seconds: float) -> None:
    """Set the modification time of a file back."""
    time_before = time.time() - seconds
    os.utime(path, (time_before, time_before), follow_symlinks=False)


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for the end of a script that was started."""
    stdout, stderr = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@dataclass
class ScriptSetup:
    """A database, a folder for its backups, and the environment of the script."""

    source: Path
    folder: Path
    environment: dict[str, str]
    script: Path = SCRIPT

    @property
    def part(self) -> Path:
        return self.folder / ".backup.part"

    def start(self, *before: str, **changes: str) -> subprocess.Popen[str]:
        """Start the script in a process group of its own."""
        paths = {"DATABASE_FILE": str(self.source), "BACKUP_DIR": str(self.folder)}
        return subprocess.Popen(
            [*before, "bash", str(self.script)],
            env=self.environment | paths | changes,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
            start_new_session=True,
        )

    def run(self, *before: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run the script to its end."""
        return finish(self.start(*before, **changes))

    def visible(self) -> list[str]:
        """Return the names in the backup folder that `ls` shows."""
        return sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))

    def hidden(self) -> list[str]:
        """Return the other names in the backup folder."""
        return sorted(path.name for path in self.folder.iterdir() if path.name.startswith("."))

    def backup(self) -> Path:
        """Return the only backup, and check that there is nothing else but the lock."""
        (name,) = self.visible()
        assert BACKUP_NAME.fullmatch(name)
        assert self.hidden() == [".backup.lock"]
        return self.folder / name

    def add_old_backups(self) -> list[str]:
        """Add backups that are ten days old."""
        for name in (OLD_BACKUP, OLD_TRACKER_BACKUP):
            (self.folder / name).write_text("old")
            make_older(self.folder / name, 10 * DAY)
        return self.visible()

    def check_failed(self, done: subprocess.CompletedProcess[str], cause: str, before: Sequence[str]) -> None:
        """Check that it failed with a cause on one line, kept every backup, and left nothing but the lock."""
        assert done.returncode != 0
        assert cause in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stdout == ""
        assert self.visible() == list(before)
        assert set(self.hidden()) <= {".backup.lock"}

    @contextlib.contextmanager
    def dates(self, *dates: str) -> Iterator[None]:
        """Let `date` print these dates, one for each call, and the last one from then on."""
        programs = Path(tempfile.mkdtemp(dir=self.source.parent, prefix="bin"))
        (programs / "dates").write_text("\n".join(dates) + "\n")
        write_program(
            programs / "date",
            '#!/bin/sh\ncd "${0%/*}"; head -n 1 dates; [ "$(wc -l < dates)" = 1 ] || sed -i 1d dates\n',
        )
        path = self.environment["PATH"]
        self.environment["PATH"] = f"{programs}:{path}"
        yield
        self.environment["PATH"] = path
