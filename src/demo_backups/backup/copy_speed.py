"""How fast a backup will copy a database: as earlier runs did, or estimated from a short read of the source."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from statistics import median

from ..records.record import Record, RunRecord
from ..remote.answers import parse_count, parse_seconds
from ..remote.host import Host
from ..remote.shell import quote
from .script import MADE_BACKUP

SAMPLE_BYTES = 64 * 1024 * 1024  # read from the middle of the source
# Copying a page takes one read and one write of 4 KiB: no measured copy was much faster than this number of bytes per
# second, whatever its disk (docs/benchmarks.md). It limits the estimate until a first run measures the server.
COPY_CEILING = 300e6
MAX_RUNS = 5  # the latest runs that count
MIN_SECONDS = 1e-6  # dd prints 0 s for a very short read


class SpeedSource(enum.Enum):
    """What a copy speed rests on."""

    EARLIER_RUNS = "earlier runs"
    SAMPLE = "a short read of the source"


@dataclass(frozen=True)
class CopySpeed:
    """A copy speed in bytes per second, and what it rests on."""

    bytes_per_second: float
    source: SpeedSource


def estimate_copy_speed(
    host: Host, database: str, source: PurePosixPath, file_bytes: int, records: Iterable[Record]
) -> CopySpeed:
    """Estimate how fast a backup will copy a database: from records of earlier runs, else from a read of the source.

    `file_bytes` is the size of the source file. Raises CouldNotLookError.
    """
    recorded = find_recorded_speed(records, host.name, database)
    if recorded is not None:
        return CopySpeed(recorded, SpeedSource.EARLIER_RUNS)
    read = host.query_parsed("measure the read speed", read_speed_command(source, file_bytes), parse_read_speed)
    # A copy also writes: half the speed of a read.
    return CopySpeed(min(read / 2, COPY_CEILING), SpeedSource.SAMPLE)


def read_speed_command(source: PurePosixPath, size: int) -> str:
    """Build the command that reads the middle of a file of `size` bytes in pages of 4 KiB, as a backup does."""
    skip = max(0, size - SAMPLE_BYTES) // 2
    flags = f"bs=4096 iflag=skip_bytes,count_bytes skip={skip} count={SAMPLE_BYTES}"
    return f"dd if={quote(source)} of=/dev/null {flags} 2>&1"


def parse_read_speed(output: str) -> float:
    """Parse bytes per second from the output of `dd`; raises ValueError."""
    match = re.search(r"^(\d+) bytes.* copied, ([0-9.e+-]+) s", output, re.MULTILINE)
    if not match or match[1] == "0":
        raise ValueError("no speed in the output of dd")
    return parse_count(match[1]) / max(parse_seconds(match[2]), MIN_SECONDS)


def find_recorded_speed(records: Iterable[Record], host: str, database: str) -> float | None:
    """Return the median speed of the latest runs that made a backup on a host, in bytes per second, or None."""
    speeds = []
    for record in sorted(records, key=lambda record: record.when):
        if not isinstance(record, RunRecord) or record.exit_status not in MADE_BACKUP:
            continue
        if (record.host, record.database) == (host, database):
            speed = _speed_of_run(record)
            if speed is not None:
                speeds.append(speed)
    return median(speeds[-MAX_RUNS:]) if speeds else None


def _speed_of_run(run: RunRecord) -> float | None:
    """Return bytes per second, without the wait for a lock, which blocks no writer; None where the record has none."""
    copy_seconds = (run.seconds or 0.0) - (run.details.waited_seconds or 0.0)
    if not run.bytes or copy_seconds <= 0:
        return None
    return run.bytes / copy_seconds
