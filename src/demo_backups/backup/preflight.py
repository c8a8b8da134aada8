"""What a backup will do to a live service, before it starts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from statistics import median
from typing import Any, TypeAlias

from ..errors import FAILED, CouldNotLookError
from ..project import task_command
from ..records.record import Record
from ..remote.files import stat_file
from ..remote.host import Host
from ..remote.processes import Process
from ..remote.shell import HOME, quote
from ..settings import Database
from ..sqlite.inspect import (
    choose_open_mode,
    list_sidecars,
    read_header,
    read_summary,
    sidecar_paths,
    sidecars_writable,
)
from .catalog import backup_processes, has_hidden_backup, list_backups
from .write_rate import WriteRate, parse_write_rate, write_rate_command

SAMPLE_BYTES = 64 * 1024 * 1024  # of the source that are read to see how fast its disk is
# Copying a page is one read and one write of 4 KiB: bytes a second that no copy was seen to exceed by much, however
# fast its disk (docs/benchmarks.md). It stands in until a first run says how fast this server is.
COPY_CEILING = 300e6
EARLIER_RUNS = 5  # that the expected duration is taken from
# A writer that waits to commit keeps new readers out too (lockingv3.html, section 3: PENDING).
READERS = "; while one waits, new readers wait too"
KEPT_DAYS = 8  # -mtime +7 deletes what is at least eight whole days old (find(1))


class Verdict(Enum):
    """Whether a backup can be started: go; care, it will be noticed; no, it would do harm or fail."""

    GO = "go"
    WARN = "warn"
    NO = "no"


@dataclass(frozen=True)
class Disk:
    """The file system that a path is on: its mount point and the bytes free on it."""

    mount: str
    free: int


SpaceDemand: TypeAlias = tuple[
    Disk, int, str
]  # a disk, the bytes that one thing asks of it, and what is there, in words


@dataclass(frozen=True)
class PreflightFacts:
    """What was seen on the host. Sizes in bytes, durations in seconds; `backups` are count and bytes of those held.

    `state_disk` is the one that the run itself is kept on. `hidden_backup` tells of a backup whose processes may not
    be seen, and `leaves_files` that this one would leave files beside the source that its service could not write.
    """

    host: str
    database: str
    sqlite: str
    wal: bool
    source_bytes: int
    wal_bytes: int
    backup_disk: Disk
    source_disk: Disk
    state_disk: Disk
    pulse: WriteRate
    backup_processes: Sequence[Process]
    hidden_backup: bool
    leaves_files: bool
    copy_seconds: float
    copy_known_from: str
    backups: tuple[int, int]
    runs_a_day: int


@dataclass(frozen=True)
class Preflight:
    """What was seen, what follows from it, and the verdict with its reasons.

    `needed_bytes` are those that each disk must have free, by its mount point.
    """

    seen: PreflightFacts
    writers_held_seconds: float
    needed_bytes: Mapping[str, int]
    wal_growth_bytes: int
    rotation_bytes: int
    verdict: Verdict
    reasons: Sequence[str]

    @property
    def exit_code(self) -> int:
        """0 for go and care, 1 for no."""
        return FAILED if self.verdict is Verdict.NO else 0

    def as_json(self) -> dict[str, Any]:
        """The object that `inv preflight --json` prints; sizes in bytes, durations in seconds."""
        seen = self.seen
        return {
            "host": seen.host,
            "database": seen.database,
            "journal": "wal" if seen.wal else "rollback",
            "source_bytes": seen.source_bytes,
            "wal_bytes": seen.wal_bytes,
            "commits_per_second": round(seen.pulse.commits, 1),
            "free_bytes": {"backups": seen.backup_disk.free, "source": seen.source_disk.free},
            "needed_bytes": {
                "backups": self.needed_bytes[seen.backup_disk.mount],
                "source": self.needed_bytes[seen.source_disk.mount],
            },
            "wal_growth_bytes": self.wal_growth_bytes,
            "sqlite": seen.sqlite,
            "running": [process.as_json() for process in seen.backup_processes],
            "running_unseen": seen.hidden_backup,
            "expected_seconds": round(seen.copy_seconds, 2),
            "expected_from": seen.copy_known_from,
            "writers_held_seconds": round(self.writers_held_seconds, 2),
            "backups": {"count": seen.backups[0], "bytes": seen.backups[1], "rotation_bytes": self.rotation_bytes},
            "verdict": self.verdict.value,
            "reasons": list(self.reasons),
        }


def decide_preflight(seen: PreflightFacts, writer_timeout: float, floor: int) -> Preflight:
    """Tell what a backup will do, from what was seen; sizes in bytes, durations in seconds."""
    held = 0.0 if seen.wal else seen.copy_seconds
    growth = math.ceil(seen.pulse.wal_bytes * seen.copy_seconds)
    no, care = [], []
    way = task_command("enable-wal", seen.host, "--database", seen.database)
    if held > writer_timeout:
        no.append(
            f"every write would wait for about {held:.1f} s, and writers give up after {writer_timeout:g} s{READERS}: "
            f"put the database in WAL mode ({way}), or stop its service first"
        )
    elif held:
        care.append(
            f"writes wait for the copy, about {held:.1f} s; writers give up after {writer_timeout:g} s{READERS}"
        )
    asked = (
        (seen.backup_disk, seen.source_bytes, ""),
        (seen.source_disk, growth, ", where the source is"),
        (seen.state_disk, 0, ", where the run is kept"),
    )
    needed = _sum_needed_bytes(asked, floor)
    no += _too_little_space(asked, needed)
    if seen.leaves_files:
        no.append(
            "it would leave a -wal and a -shm beside the source that its service could not write, since nobody has it "
            "open and it is another user's: set use_sudo to true (INVOKE_USE_SUDO=1), or start its service first"
        )
    if seen.backup_processes:
        who = ", ".join(f"process {each.pid} of {each.user}" for each in seen.backup_processes)
        no.append(f"a backup of it is going on: {who}")
    elif seen.hidden_backup:
        no.append("a backup of it is going on, by somebody whose processes may not be seen from here")
    verdict = Verdict.NO if no else Verdict.WARN if care else Verdict.GO
    rotation = seen.source_bytes * seen.runs_a_day * KEPT_DAYS
    return Preflight(seen, held, needed, growth, rotation, verdict, [*no, *care])


def _sum_needed_bytes(asked: Sequence[SpaceDemand], floor: int) -> dict[str, int]:
    """Add up what each disk must have free: what is asked of one by several is asked together, and the floor once."""
    needed: dict[str, int] = {}
    for disk, count, _ in asked:
        needed[disk.mount] = needed.get(disk.mount, floor) + count
    return needed


def _too_little_space(asked: Sequence[SpaceDemand], needed: Mapping[str, int]) -> Iterator[str]:
    """Name the disks with too little space, each once."""
    for mount, count in needed.items():
        disk, where = next((disk, where) for disk, _, where in asked if disk.mount == mount)
        if (short := count - disk.free) > 0:
            yield f"too little space on {mount}{where}: {short:,} bytes more are needed"


def disks_command(*paths: PurePosixPath) -> str:
    """Ask for the file systems that some paths are on, and the home directory last."""
    return f"df -B1 --output=avail,target -- {' '.join(quote(path) for path in paths)} {HOME}"


def parse_disks(output: str) -> list[Disk]:
    """Disks, from what `disks_command` printed, in the order of its paths."""
    rows = (line.split(maxsplit=1) for line in output.splitlines()[1:])
    return [Disk(mount, int(free)) for free, mount in rows]


def read_speed_command(source: PurePosixPath, size: int) -> str:
    """Ask how fast the middle of a file can be read, page by page as a backup reads it."""
    skip = max(0, size - SAMPLE_BYTES) // 2
    flags = f"bs=4096 iflag=skip_bytes,count_bytes skip={skip} count={SAMPLE_BYTES}"
    return f"dd if={quote(source)} of=/dev/null {flags} 2>&1"


def parse_read_speed(output: str) -> float:
    """Bytes a second, from what `dd` printed."""
    match = re.search(r"^(\d+) bytes.* copied, ([0-9.e-]+) s", output, re.MULTILINE)
    if not match or match[1] == "0":
        raise ValueError(f"no rate in {output!r}")
    return int(match[1]) / max(float(match[2]), 1e-6)


def recorded_speed(records: Iterable[Record], host: str, database: str) -> float | None:
    """Bytes a second, from what the latest runs on this host took; None where there were none."""
    speeds = [
        speed
        for record in sorted(records, key=lambda record: record.when)
        if (record.kind, record.host, record.database, record.exit_status) == ("run", host, database, 0)
        and (speed := _copy_speed(record))
    ]
    return median(speeds[-EARLIER_RUNS:]) if speeds else None


def _copy_speed(run: Record) -> float | None:
    """Bytes a second without the wait for a lock, in which a run holds nobody back; None where there are none."""
    waited = run.details.get("waited_seconds")  # nothing looks at what the details of a record are
    copying = (run.seconds or 0.0) - (waited if type(waited) is float else 0.0)
    return run.bytes / copying if run.bytes and copying > 0 else None


def observe_preflight(
    host: Host, database: Database, sqlite: str, runs_a_day: int, records: Iterable[Record]
) -> PreflightFacts:
    """Look at all that decides how a backup will go; raises CouldNotLookError. Nothing is written."""
    source = database.source
    held = list_backups(host, database)
    header, beside_it = read_header(host, source), list_sidecars(host, source)
    shape = read_summary(host, source, header, beside_it)
    if isinstance(shape, str):
        raise CouldNotLookError(shape, host=host.name, advice="is its service up? Without an answer nothing is started")
    wal_file = stat_file(host, *sidecar_paths(source, "-wal"))
    disks = host.query_parsed("look at the free space", disks_command(database.backup_dir, source.parent), parse_disks)
    pulse = host.query_parsed(
        "see how much is written",
        write_rate_command(source, header.wal),
        lambda answer: parse_write_rate(answer, header.page_size),
    )
    speed, known_from = recorded_speed(records, host.name, database.name), "earlier runs"
    if speed is None:
        read = host.query_parsed(
            "see how fast it is read", read_speed_command(source, header.bytes or 0), parse_read_speed
        )
        speed, known_from = min(read / 2, COPY_CEILING), "a short read of the source"
    return PreflightFacts(
        host=host.name,
        database=database.name,
        sqlite=sqlite,
        wal=header.wal,
        source_bytes=shape.bytes,
        wal_bytes=wal_file.bytes if wal_file else 0,
        backup_disk=disks[0],
        source_disk=disks[1],
        state_disk=disks[2],
        pulse=pulse,
        backup_processes=backup_processes(host, database),
        hidden_backup=has_hidden_backup(host, database),
        # Opened plainly, as the script does, it would get what is left alone by opening it as immutable.
        leaves_files=choose_open_mode(header, beside_it) is True and not sidecars_writable(host, source),
        copy_seconds=shape.bytes / speed,
        copy_known_from=known_from,
        backups=(len(held), sum(each.bytes for each in held)),
        runs_a_day=runs_a_day,
    )
