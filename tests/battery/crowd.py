"""20,000 backups in the backup directory."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from .framework import Fault, Injection, Strike
from .machine import CROWD, DAY, Machine, RunningTask

COUNT = 20_000
EXPIRED = 5_000  # of them, in one half of the tries
NEWEST, OLDEST = 4, 6  # days; the rotation deletes what is older than seven
NEXT_EXPIRED = 9 * DAY
SIZE = 1024  # bytes


@dataclass(frozen=True)
class Crowd:
    """A task among so many backups; some of them are older than the rotation keeps, or none."""

    tasks: tuple[str, ...] = ("run", "verify", "fetch", "restore")
    name: str = f"{COUNT:,} backups"

    def missing(self) -> str | None:
        """Say why it cannot be used on this machine."""
        return None

    @contextlib.contextmanager
    def arrange(self, machine: Machine, task: str, rng: random.Random) -> Iterator[Injection]:
        """Add small backups, all older than those that the task uses."""
        expired = rng.choice([0, EXPIRED])
        crowd = machine.folder / "crowd"  # kept for the next try: it takes long to create
        names = prepare(crowd, expired)
        with added_to(machine.backups, crowd):
            injection = CrowdInjection(machine, task, names)
            yield injection
            injection.check()


def prepare(folder: Path, expired: int) -> dict[str, float]:
    """Create the backups that are missing, the expired ones among them; return the names and times of all."""
    folder.mkdir(exist_ok=True)
    content = small_database(folder / ".small")
    found = {path.name for path in folder.iterdir()}
    step = (OLDEST - NEWEST) * DAY / COUNT
    now = time.time()
    names = {}
    for number in range(COUNT):
        age = NEXT_EXPIRED + number * 60 if number < expired else NEWEST * DAY + number * step
        name = f"{CROWD}{datetime(2024, 1, 1) + timedelta(minutes=number):-%m-%d_%H-%M-%S}.db"
        names[name] = now - age
        if name not in found:
            write_backup(folder / name, content)
        os.utime(folder / name, (names[name], names[name]))
    return names


@contextlib.contextmanager
def added_to(backups: Path, crowd: Path) -> Iterator[None]:
    """Let the directory of the crowd be the backup directory, and have its files too; in the end, take them out."""
    few = backups.with_name("few backups")
    backups.rename(few)
    crowd.rename(backups)
    move_all(few, backups)
    try:
        yield
    finally:
        move_all(backups, few)
        backups.rename(crowd)
        few.rename(backups)


def move_all(source: Path, target: Path) -> None:
    """Move everything but the crowd to another directory."""
    for path in list(source.iterdir()):
        if not path.name.startswith(CROWD):
            path.rename(target / path.name)


def write_backup(path: Path, content: bytes) -> None:
    """Write a backup."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, content)
    os.close(descriptor)


def small_database(path: Path) -> bytes:
    """Return the content of a database of 1 kB."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA page_size = 512")
        database.execute("CREATE TABLE committed (number INTEGER PRIMARY KEY)")
    content = path.read_bytes()
    path.unlink()
    return content


@dataclass
class CrowdInjection:
    """A task among many backups: their names, and when they were written."""

    machine: Machine
    task: str
    names: dict[str, float]

    def start(self) -> RunningTask:
        """Start the task."""
        return self.machine.start_task(self.task)

    def strike(self, task: RunningTask) -> Strike:
        """Do nothing more: the task must succeed."""
        expired = sum(self._is_expired(name) for name in self.names)
        return Strike("all the time", f"{expired:,} expired", exit_codes=(0,))

    def repair(self) -> None:
        """Check the backups, and keep them."""
        self.check()

    def check(self) -> None:
        """Check that all are as they were, but for those that the rotation after a good backup has deleted."""
        with os.scandir(self.machine.backups) as entries:
            found = {entry.name: entry.stat() for entry in entries if entry.name.startswith(CROWD)}
        for name, modified in self.names.items():
            if name not in found:
                if self.task != "run" or not self._is_expired(name):
                    raise RuntimeError(f"{name} is missing")
            elif found[name].st_size != SIZE or abs(found[name].st_mtime - modified) > 0.001:
                raise RuntimeError(f"{name} has changed")

    def _is_expired(self, name: str) -> bool:
        return self.names[name] < time.time() - (NEXT_EXPIRED - DAY / 2)


FAULTS: tuple[Fault, ...] = (Crowd(),)
