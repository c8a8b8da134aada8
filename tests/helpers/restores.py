"""Restores on this machine: a database, a backup of another content, a service, and the script that restores it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from demo_backups.recovery.restore_job import RestoreRequest, recovery_command, restore_command
from demo_backups.recovery.restore_journal import (
    Method,
    PendingRestore,
    Proof,
    Save,
    parse_pending,
    pending_command,
)
from demo_backups.settings.model import Database

from .databases import execute
from .programs import write_program

OLD, NEW = "old", "new"
ROWS = 40
CHANGING = ("rm", "mv", "ln", "cp", "rmdir", "sqlite3", "timeout")  # between two of these, no file changes its name


def make_content(path: Path, origin: str, mode: str = "delete", page_size: int = 4096) -> None:
    """Make a database of many pages in which each row tells where it comes from."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA page_size = {page_size}")
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute("CREATE TABLE content (id INTEGER PRIMARY KEY, origin TEXT, padding BLOB)")
        database.executemany(
            "INSERT INTO content (origin, padding) VALUES (?, randomblob(3000))", [(origin,) for _ in range(ROWS)]
        )
        database.execute("CREATE TABLE service (n INTEGER)")


def read_content(path: Path) -> set[str]:
    """Return the origins of the rows of a database; the test fails if it is damaged or has not all rows."""
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=20)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = database.execute("SELECT id, origin FROM content ORDER BY id").fetchall()
    assert [number for number, _ in rows] == list(range(1, ROWS + 1))
    return {origin for _, origin in rows}


@dataclass
class RestoreSetup:
    """A database with the old content, a backup with the new one, and the environment of the script."""

    folder: Path
    environment: dict[str, str]
    database: Database

    @property
    def target(self) -> Path:
        return Path(self.database.source)

    @property
    def backups(self) -> Path:
        return Path(self.database.backup_dir)

    @property
    def backup(self) -> Path:
        return self.backups / "tracker_backup_2026-01-01_02-00-00.db"

    @property
    def saved(self) -> Path:
        return self.backups / "saved.tracker_backup_2026-02-02_02-02-02.db"

    @property
    def journal(self) -> Path:
        return Path(self.database.restore_journal)

    @property
    def work(self) -> Path:
        return self.target.with_name(f".{self.target.name}.restore")

    def request(self, method: Method, proof: Proof = Proof.STOPPED, save: Save = Save.COPY) -> RestoreRequest:
        """Return the request of a restore of the backup."""
        saved = self.saved.with_suffix(".raw.db") if save is Save.RAW else self.saved
        return RestoreRequest(
            backup=PurePosixPath(self.backup),
            target=PurePosixPath(self.target),
            method=method,
            proof=proof,
            save=save,
            saved=None if save is Save.NONE else PurePosixPath(saved),
            journal=self.database.restore_journal,
            lock=self.database.lock,
            stop=self.database.stop,
            start=self.database.start,
            healthy=self.database.healthy,
            service_directory=PurePosixPath(self.folder),
            service_timeout=10,
            owner=None,
            mode=None,
            writer_timeout=5,
            floor=0,
        )

    def set_service(self, stop: str = "true", start: str = "true", healthy: str | None = None) -> None:
        """Set the commands of the service."""
        self.database = replace(self.database, stop=stop, start=start, healthy=healthy)

    def start(self, command: str, **changes: str) -> subprocess.Popen[str]:
        """Start a command of the script in a process group of its own."""
        return subprocess.Popen(
            ["sh", "-c", command],
            env=self.environment | changes,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="surrogateescape",
            start_new_session=True,
        )

    def run(self, command: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the script to its end."""
        process = self.start(command, **changes)
        stdout, _ = process.communicate(timeout=120)
        return subprocess.CompletedProcess(command, process.returncode, stdout)

    def restore(self, request: RestoreRequest, **changes: str) -> subprocess.CompletedProcess[str]:
        """Restore the backup."""
        return self.run(restore_command(request), **changes)

    def pending(self) -> PendingRestore | None:
        """Read the journal."""
        command = ["sh", "-c", pending_command(self.database.restore_journal)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=self.environment)
        return parse_pending(done.stdout)

    def recover(self, pending: PendingRestore, revert: bool, **changes: str) -> subprocess.CompletedProcess[str]:
        """Complete or revert a restore that was killed."""
        folder = PurePosixPath(self.folder)
        return self.run(recovery_command(self.database, pending, revert, folder, 10), **changes)

    def leftovers(self) -> list[str]:
        """Return the names of the files that a restore must not leave."""
        names = [path.name for path in self.backups.iterdir() if path.name.startswith(".")]
        names += [path.name for path in self.target.parent.iterdir() if path.name != self.target.name]
        return sorted(set(names) - {self.database.lock.name})

    # --- kills --------------------------------------------------------------------------------------------------------

    def shadow(self, names: Mapping[str, str]) -> str:
        """Put programs before those of the same name; return the PATH."""
        folder = self.folder / "programs"
        folder.mkdir(exist_ok=True)
        for name, body in names.items():
            write_program(folder / name, f"#!/bin/sh\n{body}\n")
        return f"{folder}:{self.environment['PATH']}"

    def counting_path(self) -> str:
        """Return a PATH whose programs count their calls, and kill the whole process group at the call `KILL_AT`."""
        count = shlex.quote(str(self.folder / "count"))
        body = f'n=0; read n < {count}; n=$((n + 1)); echo $n > {count}; [ "$n" != "$KILL_AT" ] || kill -9 0'
        path = os.environ["PATH"]
        programs = {name: f'{body}\nPATH={shlex.quote(path)} exec {name} "$@"' for name in CHANGING}
        return self.shadow({**programs, "sleep": "exit 0"})

    def restore_killed(self, request: RestoreRequest, call: int) -> bool:
        """Restore, killed before a call of a program that changes something; False if it ended before."""
        (self.folder / "count").write_text("0\n")
        done = self.restore(request, PATH=self.counting_path(), KILL_AT=str(call))
        assert done.returncode in (0, -signal.SIGKILL), done.stdout
        return done.returncode != 0

    def recover_killed(self, pending: PendingRestore, revert: bool, call: int) -> bool:
        """Complete or revert, killed before a call of a program that changes something; False if it ended before."""
        (self.folder / "count").write_text("0\n")
        done = self.recover(pending, revert, PATH=self.counting_path(), KILL_AT=str(call))
        assert done.returncode in (0, -signal.SIGKILL), done.stdout
        return done.returncode != 0


SERVICE = """
import os, signal, sqlite3, sys, time
path, pid_file = sys.argv[1:]
database = sqlite3.connect(path, timeout=5, isolation_level=None)
database.execute("CREATE TABLE IF NOT EXISTS service (n INTEGER)")
with open(pid_file, "w") as file:
    file.write(str(os.getpid()))
while True:
    database.execute("INSERT INTO service VALUES (1)")
    time.sleep(0.01)
"""


@dataclass
class Service:
    """A service that has a database open and commits to it; shell commands start and stop it."""

    target: Path
    pid_file: Path

    @property
    def start(self) -> str:
        """The command that starts it, and ends when it has written."""
        arguments = [sys.executable, "-c", SERVICE, str(self.target), str(self.pid_file)]
        file = shlex.quote(str(self.pid_file))
        return f"{shlex.join(arguments)} & until [ -s {file} ]; do sleep 0.02; done"

    @property
    def stop(self) -> str:
        """The command that stops it, as SIGKILL does: its -wal stays."""
        file = shlex.quote(str(self.pid_file))
        return (
            f"[ -s {file} ] || exit 0; pid=$(cat {file}); kill -9 $pid; rm {file}; "
            "while kill -0 $pid 2>/dev/null; do sleep 0.02; done"
        )

    def run(self, command: str) -> None:
        """Run one of the commands."""
        subprocess.run(["sh", "-c", command], check=True, stdout=subprocess.DEVNULL, start_new_session=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Have it run in the beginning, and stopped in the end."""
        self.run(self.start)
        try:
            yield
        finally:
            self.run(self.stop)


def rows_of_service(path: Path) -> int:
    """Return how many rows the service has written to a database."""
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as database:
        (rows,) = database.execute("SELECT count(*) FROM service").fetchone()
    return int(rows)


def set_version(path: Path, number: int) -> None:
    """Set the numbers of a database that belong to its application."""
    execute(path, f"PRAGMA user_version = {number}", f"PRAGMA application_id = {number}")
