"""Measure ways to copy a live SQLite database, side by side in one run.

Every method copies the same tracker database while another process writes to it. The yardstick is `cp` followed by
one fsync, which is as fast as the disk allows and not safe. Caches are dropped before each copy where root can
(`/proc/sys/vm/drop_caches`), so that every method reads from the disk.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from demo_backups.errors import SettingsError
from demo_backups.facts import SQLITE
from demo_backups.project import ROOT
from demo_backups.rehearsal.database import make_tracker
from demo_backups.rehearsal.writer import Traffic, live_writer

if TYPE_CHECKING:
    from rich.console import Console

SCRIPT = ROOT / "share/bin/tracker-db-backup.sh"
BYTES_A_ROW = 107
AS_MANY_AS_IT_CAN = 1_000_000  # commits a second that no writer reaches
LARGEST = 1e12  # bytes of a database that is made
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
        words = [*SHELL, str(source), ".timeout 30000", *before, "BEGIN", "SELECT 1 FROM sqlite_master LIMIT 0"]
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
    return Measured(
        method=method,
        size=live_database.size,
        journal=live_database.journal,
        rate=rate,
        seconds=round(seconds, 3),
        source_bytes=size,
        copied=size_of(made),
        status=status,
        consistent=(status == 0 and size_of(made) > 0 and is_consistent(made)) if check else None,
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


# --- showing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """The medians of one method in one situation; `ratio` is its wall time to that of `cp, fsync`."""

    size: float
    journal: str
    rate: float
    method: str
    seconds: float
    ratio: float | None
    finished: int
    consistent: bool
    rounds: int
    copied: float
    throughput: float | None
    failed_writes: int
    slowest_write: float
    peak_memory: int
    wal_growth: int


def summarize(results: Sequence[Measured]) -> list[Row]:
    """Make one row of all rounds of a method in a situation, in the order in which they were measured."""
    groups: dict[tuple[float, str, float, str], list[Measured]] = {}
    for each in results:
        groups.setdefault((each.size, each.journal, each.rate, each.method), []).append(each)
    rows = []
    for (size, journal, rate, method), group in groups.items():
        yardstick = groups.get((size, journal, rate, "cp, fsync"))
        finished = [each for each in group if each.status == 0]
        seconds = median(each.seconds for each in group)
        rows.append(
            Row(
                size=size,
                journal=journal,
                rate=rate,
                method=method,
                seconds=seconds,
                ratio=seconds / median(each.seconds for each in yardstick) if yardstick and finished else None,
                finished=len(finished),
                consistent=all(each.consistent for each in group if each.consistent is not None),
                rounds=len(group),
                copied=median(each.copied / each.source_bytes for each in group),
                throughput=median(each.commits_per_second / each.alone for each in group) if group[0].alone else None,
                failed_writes=sum(each.failed_writes for each in group),
                slowest_write=max(each.slowest_write for each in group),
                peak_memory=max(each.peak_memory for each in group),
                wal_growth=max(each.wal_growth for each in group),
            )
        )
    return rows


HEADINGS = (
    "size",
    "journal",
    "commits/s asked",
    "method",
    "wall",
    "to cp",
    "consistent",
    "writer",
    "failed",
    "slowest write",
    "memory",
    "WAL grew",
)


def cells(row: Row) -> list[str]:
    """Write a row for people, under HEADINGS."""
    gave_up = f"{row.seconds:.1f} s, gave up at {row.copied:.0%}"
    return [
        f"{row.size / 1e9:g} GB",
        row.journal,
        "as many as it can" if row.rate == AS_MANY_AS_IT_CAN else f"{row.rate:g}",
        row.method,
        f"{row.seconds:.2f} s" if row.finished else gave_up,
        f"{row.ratio:.2f}" if row.ratio else "",
        "yes" if row.consistent else "NO",
        f"{row.throughput:.0%}" if row.throughput is not None else "",
        f"{row.failed_writes}",
        f"{row.slowest_write:.2f} s" if row.rate else "",
        f"{row.peak_memory / 1e6:.0f} MB",
        f"{row.wal_growth / 1e6:.0f} MB" if row.journal == "wal" else "",
    ]


def print_table(out: Console, rows: Sequence[Row]) -> None:
    """Print all rows as a table that is Markdown too."""
    from rich import box
    from rich.table import Table

    table = Table(*HEADINGS, box=box.MARKDOWN)
    for row in rows:
        table.add_row(*cells(row))
    out.print(table)


def draw(rows: Sequence[Row], picture: Path) -> None:
    """Draw wall times and what was left of the writer, a group of bars for each situation."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "benchmark"
    from matplotlib import pyplot

    journals = list(dict.fromkeys(row.journal for row in rows))
    figure, axes = pyplot.subplots(2, len(journals), figsize=(12, 7), squeeze=False, layout="constrained")
    for column, journal in zip(axes.T, journals, strict=True):
        shown = [row for row in rows if row.journal == journal]
        situations = list(dict.fromkeys((row.size, row.rate) for row in shown))
        labels = [
            f"{size / 1e9:g} GB\n{'max' if rate == AS_MANY_AS_IT_CAN else f'{rate:g}/s'}" for size, rate in situations
        ]
        methods = list(dict.fromkeys(row.method for row in shown))
        for number, method in enumerate(methods):
            mine = {(row.size, row.rate): row for row in shown if row.method == method}
            places = [
                place + (number - (len(methods) - 1) / 2) * 0.8 / len(methods) for place in range(len(situations))
            ]
            found = [mine.get(situation) for situation in situations]
            hatches = ["" if row and row.consistent else "///" for row in found]
            for axis, values in (
                (column[0], [row.seconds if row else 0 for row in found]),
                (column[1], [100 * (row.throughput or 0) if row else 0 for row in found]),
            ):
                axis.bar(
                    places,
                    values,
                    0.8 / len(methods),
                    label=method,
                    color=f"C{number}",
                    hatch=hatches,
                    edgecolor="white",
                )
        column[0].set(title=f"{'WAL' if journal == 'wal' else 'rollback journal'}", ylabel="wall time, s", yscale="log")
        column[1].set(ylabel="writer, % of alone")
        for axis in column:
            axis.set_xticks(range(len(situations)), labels, fontsize="small")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=len(names), title="hatched: not consistent, or not finished"
    )
    figure.savefig(picture, format="svg", metadata={"Date": None})
    pyplot.close(figure)


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


def _words(text: str, separator: str = ",") -> list[str]:
    return [word.strip() for word in text.split(separator)]


PARSERS: dict[str, Callable[[str], Any]] = {
    "sizes": lambda text: tuple(1e9 * float(word) for word in _words(text)),
    "journals": lambda text: tuple({"wal": "wal", "delete": "delete"}[word] for word in _words(text)),
    "rates": lambda text: tuple(AS_MANY_AS_IT_CAN if word == "max" else float(word) for word in _words(text)),
    "methods": lambda text: tuple({name: name for name in METHODS}[word] for word in _words(text, ";")),
    "rounds": int,
}


def choose(full: bool, given: Mapping[str, str | None]) -> Grid:
    """Choose a grid, and change what was given, as lists with commas; sizes in GB, `max` for the highest rate.

    Raises SettingsError.
    """
    changed: dict[str, Any] = {}
    for name, text in given.items():
        if text is not None:
            try:
                changed[name] = PARSERS[name](text)
            except (ValueError, KeyError) as error:
                raise SettingsError(f"--{name} {text!r} cannot be measured", advice="see: inv --help bench") from error
    grid = replace(FULL if full else DEFAULT, **changed)
    sizes_fit = all(1e6 <= size <= LARGEST for size in grid.sizes)
    rates_fit = all(0 <= rate <= AS_MANY_AS_IT_CAN for rate in grid.rates)
    if not (sizes_fit and rates_fit and grid.rounds > 0):
        raise SettingsError("there is nothing to measure in that", advice="see: inv --help bench")
    return grid


def check_folder(flag: str, name: str) -> Path:
    """See that a folder can be written before the hour that is to end there; raises SettingsError."""
    if not (Path(name).is_dir() and os.access(name, os.W_OK)):
        raise SettingsError(f"--{flag} {name!r} is not a folder that can be written", advice="make it first")
    return Path(name)


def bench(grid: Grid, folder: Path, results: Path, picture: Path, out: Console) -> list[Row]:
    """Measure a grid, show it as it comes, keep the raw numbers and draw them; return the rows."""
    measured = []
    for each in measure(grid, folder):
        measured.append(each)
        out.print(
            f"{each.size / 1e9:g} GB {each.journal} {each.rate:g}/s {each.method}: {each.seconds:.2f} s, "
            f"status {each.status}, consistent: {each.consistent}, {each.failed_writes} writes failed",
            soft_wrap=True,
        )
    # Kept before more is measured: an hour's numbers are not lost with what comes after them.
    raw: dict[str, Any] = {
        "machine": machine(),
        "grid": asdict(grid),
        "measured": [asdict(each) for each in measured],
    }
    _write(results, raw)
    rows = summarize(measured)
    print_table(out, rows)
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, picture)
    verified = measure_verification(folder / "verification", max(grid.sizes))
    _write(results, raw | {"verification": verified})
    ratio = verified["inv verify"] / verified["integrity_check"]
    out.print(
        f"inv verify of {verified['size'] / 1e9:g} GB: {verified['inv verify']:.2f} s, integrity_check alone "
        f"{verified['integrity_check']:.2f} s, ratio {ratio:.2f}",
        soft_wrap=True,
    )
    return rows


def _write(results: Path, raw: dict[str, Any]) -> None:
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
