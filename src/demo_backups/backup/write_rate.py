"""How much is written to a live database."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

from ..remote.shell import quote

SAMPLES = "1 2 3 4 5"  # pairs of looks at the counters of commits, each pair as close as can be
PAUSE = 0.1  # after each pair
WAL_FRAME_HEADER = 24  # bytes (fileformat2.html, section 4.1)


@dataclass(frozen=True)
class WriteRate:
    """How much is written: commits a second, and bytes a second that the WAL grows by while a snapshot is pinned."""

    commits: float
    wal_bytes: float


def write_rate_command(source: PurePosixPath, wal: bool) -> str:
    """Ask again and again for the counters that every commit moves; it takes no lock.

    In WAL mode the `-shm` has commits, frames and salts (walformat.html, section 2.1: iChange, mxFrame, aSalt), in this
    machine's byte order; otherwise the database's header counts commits (fileformat2.html, section 1.3.6), highest
    byte first.
    """
    look = (
        f"od -An -v -w32 -tu4 -j8 -N32 -- {quote(f'{source}-shm')} 2>/dev/null || echo 0 0 0 0 0 0 0 0"
        if wal
        else f"od -An -v --endian=big -tu4 -j24 -N4 -- {quote(source)}"
    )
    look = f"date +%s.%N; {look}"
    return f"for pair in {SAMPLES}; do {look}; {look}; sleep {PAUSE}; done; {look}"


def parse_write_rate(output: str, page_size: int) -> WriteRate:
    """Pulse, from what `pulse_command` printed, and the size of a page in bytes; raises ValueError."""
    lines = output.splitlines()
    looks = [[int(word) for word in line.split()] for line in lines[1::2]]
    if len(lines) % 2 or {len(look) for look in looks} not in ({1}, {8}):
        raise ValueError("these are no counters")
    seconds = float(lines[-2]) - float(lines[0])
    if seconds <= 0:
        raise ValueError("the clock was put back")
    commits = steady = frames = since = 0
    for before, after in pairwise(looks):
        # The counter wraps around. What has gone back, as in a -shm that was made anew in between, says nothing.
        forward = (after[0] - before[0]) % 2**32
        made = forward if forward < 2**31 else 0
        commits += made
        if after[6:] == before[6:]:
            steady += made
            frames += max(0, after[2] - before[2]) if len(after) > 1 else 0
        elif made:
            # A WAL that begins anew has other salts, and counts its frames from 0 (walformat.html, section 1.2).
            since += after[2]
    # While a snapshot is pinned it cannot begin anew: then all commits append as much as those did that were seen to.
    written = max(frames + since, frames * commits / steady if steady else 0)
    return WriteRate(commits / seconds, written / seconds * (page_size + WAL_FRAME_HEADER))
