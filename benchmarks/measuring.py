"""Measure ways to copy a live SQLite database, side by side in one run.

Every method copies the same tracker database while another process writes to it. The yardstick is `cp` followed by
one fsync, which is as fast as the disk allows and not safe. Caches are dropped before each copy where root can
(`/proc/sys/vm/drop_caches`), so that every method reads from the disk.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

from demo_backups.project import ROOT
from demo_backups.rehearsal.database import make_tracker
from demo_backups.rehearsal.writer import Traffic, live_writer
from demo_backups.sqlite.command import LOCK_TIMEOUT, PIN, SQLITE, timeout_command

SCRIPT = ROOT / "share/bin/tracker-db-backup.sh"
BYTES_A_ROW = 107
AS_MANY_AS_IT_CAN = 1_000_000  # commits a second that no writer reaches
ALONE_SECONDS = 5.0  # for which a writer is measured without a backup
LARGE = 2e9  # bytes
SHELL = (*SQLITE, "-readonly")


@dataclass(frozen=True)
class Grid:
    """What is measured: sizes in bytes, journal modes, commits a second, methods, and how often each.

    Every method is measured once, those that are compared `rounds` times. `limit` is the time in seconds after which
    a copy by one of the others is given up. Whether a copy is consistent is asked in the first round.
    """

    sizes: Sequence[float]
    journals: Sequence[str]
    rates: Sequence[float]
    methods: Sequence[str]
    rounds: int
    limit: float


@dataclass(frozen=True)
class Measured:
    """One copy. Sizes in bytes, durations in seconds, rates in commits a second; None where there was nothing to see.

    `alone` is the rate of the same writer without a backup; `peak_memory` is that of the largest process.
    """

    method: str
    size: float
    journal: str
    rate: float
    seconds: float
    source_bytes: int
    copied: int
    status: int | None
    consistent: bool | None
    commits_per_second: float
    alone: float
    failed_writes: int
    slowest_write: float
    peak_memory: int
    wal_growth: int


# --- the methods ----------------------------------------------------------------------------------------------------


def cp(source: Path, folder: Path) -> list[str]:
    """Copy the file as it lies there, then flush it once."""
    return ["sh", "-c", 'cp -- "$1" "$2" && sync -- "$2"', "sh", str(source), str(folder / "copy.db")]


def plain(source: Path, folder: Path) -> list[str]:
    """Use the release plan's minimum."""
    return [*SHELL, str(source), ".timeout 30000", f".backup {folder / 'copy.db'}"]


def script(source: Path, folder: Path) -> list[str]:
    """Use this project's script."""
    return ["env", f"DATABASE_FILE={source}", f"BACKUP_DIR={folder}", str(SCRIPT)]


def vacuum(source: Path, folder: Path) -> list[str]:
    """Write a new database, row by row, then flush it once."""
    sql = f"VACUUM INTO '{folder / 'copy.db'}'"
    return ["sh", "-c", '"$@" && sync -- "$0"', str(folder / "copy.db"), *SHELL, str(source), ".timeout 30000", sql]


def _pinned(before: Sequence[str], backup: str, shell: str) -> Callable[[Path, Path], list[str]]:
    """Use the script's `sqlite3` call in another form: for the shell, $0 is the source, $copy the copy, $@ the call."""

    def command(source: Path, folder: Path) -> list[str]:
        copy = str(folder / "copy.db")
        words = [*SHELL, str(source), timeout_command(LOCK_TIMEOUT), *before, *PIN]
        return ["sh", "-c", f"copy=$1; shift; {shell}", str(source), copy, *words, f"{backup} {copy}"]

    return command


METHODS: dict[str, Callable[[Path, Path], list[str]]] = {
    "cp, fsync": cp,
    "plain .backup": plain,
    "script": script,
    "VACUUM INTO": vacuum,
    # What was tried: the script's call is `pinned, --async, one sync`, and these differ from it in one thing each.
    "pinned, without --async": _pinned([], ".backup", '"$@"'),
    "pinned, mmap": _pinned(["PRAGMA mmap_size=1099511627776"], ".backup --async", '"$@" && sync -- "$copy"'),
    "pinned, read ahead": _pinned(
        [], ".backup --async", 'dd if="$0" of=/dev/null bs=4M 2>/dev/null & "$@" && sync -- "$copy"'
    ),
}

COMPARED = ("cp, fsync", "script")
USUAL = ("cp, fsync", "plain .backup", "script", "VACUUM INTO")
RATES = (0, 200, AS_MANY_AS_IT_CAN)
DEFAULT = Grid((50e6, 200e6), ("wal", "delete"), RATES, USUAL, rounds=3, limit=10)
FULL = Grid((0.25e9, 1e9, 4e9), ("wal",), (200, AS_MANY_AS_IT_CAN), USUAL, rounds=5, limit=30)


# --- measuring ------------------------------------------------------------------------------------------------------


def alone(source: Path, rate: float) -> float:
    """Commits a second of a writer without a backup."""
    if not rate:
        return 0.0
    with live_writer(source, rate) as seen:
        time.sleep(ALONE_SECONDS)
    return seen.commits / seen.seconds


def drop_caches() -> bool:
    """Make the next copy read from the disk, where that is allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def is_consistent(path: Path) -> bool:
    """Ask SQLite whether a copy is whole; a large one without its indexes, which would take longer than all else."""
    pragma = "integrity_check" if size_of(path) < LARGE else "quick_check"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
            return bool(database.execute(f"PRAGMA {pragma}").fetchall() == [("ok",)])
    except sqlite3.DatabaseError:
        return False


def peak_memory(session: int) -> int:
    """Bytes of memory that the largest process of a session has had so far (proc(5), VmHWM)."""
    peak = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration):
            if os.getsid(int(folder.name)) == session:
                status = (folder / "status").read_text().splitlines()
                peak = max(peak, 1024 * int(next(line for line in status if line.startswith("VmHWM:")).split()[1]))
    return peak


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


@dataclass(frozen=True)
class Situation:
    """A live database: its planned size in bytes, its journal mode, commits a second asked for, and reached alone."""

    source: Path
    size: float
    journal: str
    rate: float
    alone: float


def run(command: Sequence[str], limit: float) -> tuple[int, float, int]:
    """Run a command, killed after `limit` seconds; return its status, how long it took, and its peak memory."""
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None:
        peak = max(peak, peak_memory(process.pid))
        if time.monotonic() - started > limit:
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
    return process.returncode, time.monotonic() - started, peak


def copy(method: str, live_database: Situation, folder: Path, limit: float, check: bool) -> Measured:
    """Copy the live database once, by one method, into an empty folder, and look at what came of it."""
    source, rate = live_database.source, live_database.rate
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    wal = source.with_name(source.name + "-wal")
    command = METHODS[method](source, folder)
    drop_caches()
    with live_writer(source, rate) if rate else contextlib.nullcontext(Traffic()) as seen:
        wal_before, size = size_of(wal), size_of(source)
        status, seconds, peak = run(command, limit)
    copies = [path for path in folder.iterdir() if path.suffix in (".db", ".part")]
    made = copies[0] if copies else folder / "copy.db"
    whole = status == 0 and size_of(made) > 0  # of one that failed that is known, whether asked for or not
    return Measured(
        method=method,
        size=live_database.size,
        journal=live_database.journal,
        rate=rate,
        seconds=round(seconds, 3),
        source_bytes=size,
        copied=size_of(made),
        status=status,
        consistent=whole and (is_consistent(made) if check else None),
        commits_per_second=round(seen.commits / seen.seconds, 1) if rate else 0.0,
        alone=round(live_database.alone, 1),
        failed_writes=seen.failed,
        slowest_write=seen.slowest,
        peak_memory=peak,
        wal_growth=max(0, size_of(wal) - wal_before),
    )


def measure(grid: Grid, folder: Path) -> Iterator[Measured]:
    """Measure a grid in a folder, the methods of each round one after the other."""
    for size in grid.sizes:
        for journal in grid.journals:
            source = folder / "source.db"
            for each in folder.glob("source.db*"):
                each.unlink()
            make_tracker(source, journal, int(size / BYTES_A_ROW))
            for rate in grid.rates:
                live = Situation(source, size, journal, rate, alone(source, rate))
                for number in range(grid.rounds):
                    for method in grid.methods:
                        if number == 0 or method in COMPARED:
                            # cp and the script end by themselves, at 17 GB after a minute.
                            limit = math.inf if method in COMPARED else grid.limit
                            yield copy(method, live, folder / "copies", limit, check=number == 0)


def measure_verification(folder: Path, size: float) -> dict[str, float]:
    """Time `inv verify` of a backup against SQLite's integrity check alone, caches dropped before each; seconds."""
    source, copies = folder / "app/storage/tracker/lib/database/sqlite3.db", folder / "backups"
    for path in (source.parent, copies):
        path.mkdir(parents=True)
    make_tracker(source, "wal", int(size / BYTES_A_ROW))
    environment = os.environ | {
        "HOME": str(folder),
        "INVOKE_APP_DIR": str(folder / "app"),
        "INVOKE_BACKUP_DIR": str(copies),
        "INVOKE_EVIDENCE_DIR": str(folder / "evidence"),
        "INVOKE_USE_SUDO": "0",
    }
    subprocess.run(script(source, copies), check=True)
    (backup,) = copies.glob("tracker_backup_*.db")
    inv = [str(Path(sys.executable).with_name("inv")), "--search-root", str(ROOT)]
    verify = [*inv, "verify", "--host", "local", "--database", "tracker"]
    alone_ = [*SHELL, f"file:{backup}?mode=ro&immutable=1", "PRAGMA integrity_check"]
    seconds: dict[str, list[float]] = {"inv verify": [], "integrity_check": []}
    for _ in range(2):
        for name, command in (("inv verify", verify), ("integrity_check", alone_)):
            drop_caches()
            started = time.monotonic()
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.monotonic() - started)
    return {name: round(median(each), 2) for name, each in seconds.items()} | {"size": size}


def machine() -> dict[str, Any]:
    """Say what it was measured on."""
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "sqlite3": subprocess.run(["sqlite3", "--version"], capture_output=True, text=True, check=True).stdout.split()[
            0
        ],
        "python": platform.python_version(),
        "caches_dropped": drop_caches(),
    }
