"""How much a service writes to its live database."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

from ..remote.answers import parse_count, parse_seconds
from ..remote.shell import quote

SAMPLES = 5  # pairs of samples of the commit counters, the two of a pair as close as possible
PAUSE = 0.1  # seconds after each pair
WAL_FRAME_HEADER = 24  # bytes (fileformat2.html, section 4.1)
SHM_FIELDS = 8  # 32-bit integers that are sampled from a -shm
COMMITS, FRAMES, SALTS = 0, 2, slice(6, 8)  # their places among those
COUNTER_RANGE = 2**32


@dataclass(frozen=True)
class WriteRate:
    """Commits per second, and bytes per second by which the WAL grows while a snapshot is pinned."""

    commits: float
    wal_bytes: float


def write_rate_command(source: PurePosixPath, wal: bool) -> str:
    """Build the command that samples the counters that every commit increments, and the time; it takes no lock.

    In WAL mode the `-shm` has the commits, frames and salts (walformat.html, section 2.1: iChange, mxFrame, aSalt), in
    the byte order of the machine. Otherwise the header of the database has the commits (fileformat2.html, section
    1.3.6), in big-endian order. A database that no process has open has no `-shm`: all counters are 0.
    """
    if wal:
        zeros = " ".join(["0"] * SHM_FIELDS)
        counters = f"od -An -v -w32 -tu4 -j8 -N32 -- {quote(f'{source}-shm')} 2>/dev/null || echo {zeros}"
    else:
        counters = f"od -An -v --endian=big -tu4 -j24 -N4 -- {quote(source)}"
    sample = f"date +%s.%N; {counters}"
    pairs = " ".join(str(number) for number in range(1, SAMPLES + 1))
    return f"for pair in {pairs}; do {sample}; {sample}; sleep {PAUSE}; done; {sample}"


def parse_write_rate(output: str, page_size: int) -> WriteRate:
    """Parse what `write_rate_command` printed; `page_size` in bytes. Raises ValueError.

    While a snapshot is pinned, SQLite cannot restart the WAL from its beginning, so every commit makes it grow. Here no
    snapshot is pinned, and the WAL may restart between two samples: how many frames were written before that is then
    unknown. So the growth is the larger of two estimates: the frames that were seen to be written, and all commits
    times the frames per commit between those samples that have no restart in between.
    """
    seconds, samples = _parse_samples(output)
    commits = 0
    steady_commits = 0
    steady_frames = 0
    restart_frames = 0
    for before, after in pairwise(samples):
        new_commits = _count_commits(before, after)
        commits += new_commits
        if after[SALTS] == before[SALTS]:
            steady_commits += new_commits
            steady_frames += _count_frames(before, after)
        elif new_commits:
            # A restarted WAL has new salts and counts its frames from 0 (walformat.html, section 1.2).
            restart_frames += after[FRAMES]
    frames: float = steady_frames + restart_frames
    if steady_commits:
        frames = max(frames, steady_frames * commits / steady_commits)
    return WriteRate(commits / seconds, frames / seconds * (page_size + WAL_FRAME_HEADER))


def _parse_samples(output: str) -> tuple[float, list[list[int]]]:
    """Parse the time between the first and the last sample, in seconds, and the counters of each sample."""
    lines = output.splitlines()
    times = [parse_seconds(line) for line in lines[::2]]
    samples = [[parse_count(word, COUNTER_RANGE) for word in line.split()] for line in lines[1::2]]
    field_counts = {len(sample) for sample in samples}
    if len(times) != len(samples) or field_counts not in ({1}, {SHM_FIELDS}):
        raise ValueError("not a list of counters")
    seconds = times[-1] - times[0]
    if seconds <= 0:
        raise ValueError("the clock was set back")
    return seconds, samples


def _count_commits(before: list[int], after: list[int]) -> int:
    """Count the commits between two samples; the counter wraps around."""
    difference = (after[COMMITS] - before[COMMITS]) % COUNTER_RANGE
    # A counter that went backwards belongs to another file, such as a new -shm: it says nothing about commits.
    return difference if difference < COUNTER_RANGE // 2 else 0


def _count_frames(before: list[int], after: list[int]) -> int:
    """Count the frames that were appended to the WAL between two samples without a restart in between."""
    if len(after) == 1:
        return 0
    return max(0, after[FRAMES] - before[FRAMES])
