"""Measure ways to copy a live SQLite database, side by side in one run.

Every method copies the same tracker database while another process writes to it. The reference is `cp` followed by
one fsync: as fast as the disk allows, and not safe. Caches are dropped before each copy where root can
(`/proc/sys/vm/drop_caches`), so that every method reads from the disk. For warm caches,
the database is read after that.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import platform
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any

from memory_limit import memory_limit
from service import PHASE, Impact, describe_impact, read_cached_pages

from demo_backups.project import ROOT
from demo_backups.rehearsal.database import make_tracker
from demo_backups.rehearsal.writer import Traffic, live_writer
from demo_backups.remote.job_state import supervised_command
from demo_backups.remote.page_cache import CacheUse, PageCache
from demo_backups.sqlite.command import LOCK_TIMEOUT, PIN, SQLITE, timeout_command

SCRIPT = ROOT / "share/bin/tracker-db-backup.sh"
BYTES_PER_ROW = 107
MAXIMUM_RATE = 1_000_000  # commits per second that no writer reaches
WRITER_SECONDS = 5.0  # for which a writer is measured without a backup
QUICK_CHECK_SIZE = 2e9  # bytes from which a copy is checked without its indexes
SHELL = (*SQLITE, "-readonly")
COLD, WARM = "cold", "warm"
PART = ".tracker_backup.part"  # of the script


@dataclass(frozen=True)
class Grid:
    """What is measured: sizes in bytes, journal modes, commits per second, methods and the number of rounds.

    `caches` are COLD and WARM; `memory` is the limit of the memory in bytes, for the service and the copy. The methods
    in COMPARED are measured in every round, the others in the first one. These are stopped after `limit` seconds.
    Consistency is checked in the first round.
    """

    sizes: Sequence[float]
    journals: Sequence[str]
    rates: Sequence[float]
    methods: Sequence[str]
    rounds: int
    limit: float
    caches: Sequence[str] = (COLD,)
    memory: float | None = None


@dataclass(frozen=True)
class Measurement:
    """One copy. Sizes in bytes, durations in seconds, rates in commits per second.

    `consistent` is None where it was not checked. `alone` is the rate of the same writer without a backup.
    `peak_memory` is that of the largest process. `impact` is None without a writer, and in numbers of earlier
    versions. `load` is the load of the machine after the copy.
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
    caches: str = COLD
    memory: float | None = None
    impact: Impact | None = None
    load: float | None = None


# --- the methods ----------------------------------------------------------------------------------------------------


def cp_command(source: Path, folder: Path) -> list[str]:
    """Copy the file as it is, then flush it once."""
    return ["sh", "-c", 'cp -- "$1" "$2" && sync -- "$2"', "sh", str(source), str(folder / "copy.db")]


def plain_command(source: Path, folder: Path) -> list[str]:
    """Use a plain `.backup`, the minimum that the release plan requires."""
    return [*SHELL, str(source), ".timeout 30000", f".backup {folder / 'copy.db'}"]


def script_command(source: Path, folder: Path) -> list[str]:
    """Use this project's script."""
    return ["env", f"DATABASE_FILE={source}", f"BACKUP_DIR={folder}", str(SCRIPT)]


def task_command(source: Path, folder: Path) -> list[str]:
    """Use this project's script as the tasks do: under the supervisor of a job, which flushes the partial file."""
    return _supervised(source, folder, PageCache(CacheUse.WRITTEN, PurePosixPath(folder / PART), PurePosixPath(source)))


def unflushed_command(source: Path, folder: Path) -> list[str]:
    """Use the script under the supervisor without flushing."""
    return _supervised(source, folder, None)


def _supervised(source: Path, folder: Path, cache: PageCache | None) -> list[str]:
    command = supervised_command(shlex.join(script_command(source, folder)), [PurePosixPath(folder)], 0, cache)
    return ["sh", "-c", 'cd "$0" && "$@" && read -r status _ < status && exit "$status"', str(folder), *command]


def vacuum_command(source: Path, folder: Path) -> list[str]:
    """Write a new database row by row, then flush it once."""
    sql = f"VACUUM INTO '{folder / 'copy.db'}'"
    return ["sh", "-c", '"$@" && sync -- "$0"', str(folder / "copy.db"), *SHELL, str(source), ".timeout 30000", sql]


def _pinned(before: Sequence[str], backup: str, shell: str) -> Callable[[Path, Path], list[str]]:
    """Use the script's `sqlite3` call in another form: in `shell`, $0 is the source, $copy the copy, $@ the call."""

    def command(source: Path, folder: Path) -> list[str]:
        copy = str(folder / "copy.db")
        call = [*SHELL, str(source), timeout_command(LOCK_TIMEOUT), *before, *PIN, f"{backup} {copy}"]
        return ["sh", "-c", f"copy=$1; shift; {shell}", str(source), copy, *call]

    return command


METHODS: dict[str, Callable[[Path, Path], list[str]]] = {
    "cp, fsync": cp_command,
    "plain .backup": plain_command,
    "script": script_command,
    "task": task_command,
    "task, not flushed": unflushed_command,
    "VACUUM INTO": vacuum_command,
    # Variants: the script's call is pinned, with --async and one sync. Each of these differs from it in one point.
    "pinned, without --async": _pinned([], ".backup", '"$@"'),
    "pinned, mmap": _pinned(["PRAGMA mmap_size=1099511627776"], ".backup --async", '"$@" && sync -- "$copy"'),
    "pinned, read ahead": _pinned(
        [], ".backup --async", 'dd if="$0" of=/dev/null bs=4M 2>/dev/null & "$@" && sync -- "$copy"'
    ),
}

COMPARED = ("cp, fsync", "script", "task", "task, not flushed")
USUAL = ("cp, fsync", "plain .backup", "script", "task", "task, not flushed", "VACUUM INTO")
RATES = (0, 200, MAXIMUM_RATE)
DEFAULT = Grid((200e6,), ("wal", "delete"), RATES, USUAL, rounds=3, limit=10)
FULL = Grid((0.25e9, 1e9, 4e9), ("wal",), (200, MAXIMUM_RATE), USUAL, rounds=5, limit=30)


# --- measuring ------------------------------------------------------------------------------------------------------


def measure_writer(source: Path, rate: float) -> float:
    """Return the commits per second of a writer without a backup."""
    if not rate:
        return 0.0
    with live_writer(source, rate) as traffic:
        time.sleep(WRITER_SECONDS)
    return traffic.commits / traffic.seconds


def drop_caches() -> bool:
    """Make the next copy read from the disk; False where that is not permitted."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def is_consistent(path: Path) -> bool:
    """Check a copy with SQLite; a large one without its indexes, which would take longer than everything else."""
    pragma = "integrity_check" if file_size(path) < QUICK_CHECK_SIZE else "quick_check"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
            return bool(database.execute(f"PRAGMA {pragma}").fetchall() == [("ok",)])
    except sqlite3.DatabaseError:
        return False


def read_peak_memory(session: int) -> int:
    """Return the peak memory in bytes of the largest process of a session (proc(5), VmHWM)."""
    peak = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration):
            if os.getsid(int(folder.name)) == session:
                status = (folder / "status").read_text().splitlines()
                peak = max(peak, 1024 * int(next(line for line in status if line.startswith("VmHWM:")).split()[1]))
    return peak


def file_size(path: Path) -> int:
    """Return the size of a file in bytes; 0 where it does not exist."""
    return path.stat().st_size if path.exists() else 0


@dataclass(frozen=True)
class LiveDatabase:
    """A database in use: planned size in bytes, journal mode, requested commits per second, and those reached alone."""

    source: Path
    size: float
    journal: str
    rate: float
    alone: float


def run_limited(command: Sequence[str], limit: float) -> tuple[int, float, int]:
    """Run a command, killed after `limit` seconds; return its exit status, duration in seconds and peak memory."""
    started = time.monotonic()
    peak = 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None:
        peak = max(peak, read_peak_memory(process.pid))
        if time.monotonic() - started > limit:
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
    return process.returncode, time.monotonic() - started, peak


def prepare_caches(source: Path, caches: str) -> None:
    """Drop the caches where that is permitted; for warm ones, read the database."""
    drop_caches()
    if caches == WARM:
        with source.open("rb") as file:
            while file.read(2**20):
                pass


def measure_copy(
    method: str,
    live: LiveDatabase,
    folder: Path,
    limit: float,
    check: bool,
    caches: str = COLD,
    memory: float | None = None,
) -> Measurement:
    """Copy a live database once, by one method, into an empty folder, and check the copy if required.

    Raises NoMemoryLimitError if the memory cannot be limited.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    wal = live.source.with_name(live.source.name + "-wal")
    command = METHODS[method](live.source, folder)
    phase = PHASE if live.rate else 0.0
    writer = live_writer(live.source, live.rate, times=True) if live.rate else contextlib.nullcontext(Traffic())
    with memory_limit(memory):
        prepare_caches(live.source, caches)
        with writer as traffic:
            time.sleep(phase)
            wal_size, source_size, cached = file_size(wal), file_size(live.source), read_cached_pages(live.source)
            start = time.monotonic()
            status, seconds, peak = run_limited(command, limit)
            end = start + seconds
            cached_after, wal_growth = read_cached_pages(live.source), max(0, file_size(wal) - wal_size)
            time.sleep(phase)
        load = os.getloadavg()[0]
    copies = [path for path in folder.iterdir() if path.suffix in (".db", ".part")]
    copy = copies[0] if copies else folder / "copy.db"
    is_complete = status == 0 and file_size(copy) > 0
    impact = describe_impact(traffic, start, end, (cached, cached_after)) if live.rate else None
    return Measurement(
        method=method,
        size=live.size,
        journal=live.journal,
        rate=live.rate,
        seconds=round(seconds, 3),
        source_bytes=source_size,
        copied=file_size(copy),
        status=status,
        consistent=is_complete and (is_consistent(copy) if check else None),
        commits_per_second=round(impact.during.writes / seconds, 1) if impact else 0.0,
        alone=round(live.alone, 1),
        failed_writes=traffic.failed,
        slowest_write=impact.during.slowest if impact else 0.0,
        peak_memory=peak,
        wal_growth=wal_growth,
        caches=caches,
        memory=memory,
        impact=impact,
        load=round(load, 2),
    )


def measure_grid(grid: Grid, folder: Path) -> Iterator[Measurement]:
    """Measure a grid in a folder, the methods of each round one after the other.

    Raises NoMemoryLimitError if the memory cannot be limited as required.
    """
    with memory_limit(grid.memory):  # fails before a database is created
        pass
    for size, journal in itertools.product(grid.sizes, grid.journals):
        source = folder / "source.db"
        for path in folder.glob("source.db*"):
            path.unlink()
        make_tracker(source, journal, int(size / BYTES_PER_ROW))
        for rate in grid.rates:
            live = LiveDatabase(source, size, journal, rate, measure_writer(source, rate))
            yield from _measure_rounds(grid, live, folder / "copies")


def _measure_rounds(grid: Grid, live: LiveDatabase, folder: Path) -> Iterator[Measurement]:
    for number, caches, method in itertools.product(range(grid.rounds), grid.caches, grid.methods):
        is_compared = method in COMPARED  # these always finish, at 17 GB within two minutes
        if number == 0 or is_compared:
            limit = math.inf if is_compared else grid.limit
            yield measure_copy(method, live, folder, limit, number == 0, caches, grid.memory)


def measure_verification(folder: Path, size: float) -> dict[str, float]:
    """Measure `inv verify` and SQLite's integrity check alone, in seconds, with caches dropped before each."""
    source, copies = folder / "app/storage/tracker/lib/database/sqlite3.db", folder / "backups"
    for path in (source.parent, copies):
        path.mkdir(parents=True)
    make_tracker(source, "wal", int(size / BYTES_PER_ROW))
    environment = os.environ | {
        "HOME": str(folder),
        "INVOKE_APP_DIR": str(folder / "app"),
        "INVOKE_BACKUP_DIR": str(copies),
        "INVOKE_EVIDENCE_DIR": str(folder / "evidence"),
        "INVOKE_USE_SUDO": "0",
    }
    subprocess.run(script_command(source, copies), check=True)
    (backup,) = copies.glob("tracker_backup_*.db")
    inv = [str(Path(sys.executable).with_name("inv")), "--search-root", str(ROOT)]
    verify = [*inv, "verify", "--host", "local", "--database", "tracker"]
    integrity_check = [*SHELL, f"file:{backup}?mode=ro&immutable=1", "PRAGMA integrity_check"]
    seconds: dict[str, list[float]] = {"inv verify": [], "integrity_check": []}
    for _ in range(2):
        for name, command in (("inv verify", verify), ("integrity_check", integrity_check)):
            drop_caches()
            started = time.monotonic()
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.monotonic() - started)
    return {name: round(median(durations), 2) for name, durations in seconds.items()} | {"size": size}


def describe_machine() -> dict[str, Any]:
    """Describe the machine on which the numbers were measured."""
    version = subprocess.run(["sqlite3", "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "sqlite3": version.split()[0],
        "python": platform.python_version(),
        "caches_dropped": drop_caches(),
    }
