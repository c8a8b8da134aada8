"""The write rate: the parser with recorded samples, and a real database with a writer."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import struct
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.backup.write_rate import WAL_FRAME_HEADER, WriteRate, parse_write_rate, write_rate_command
from demo_backups.rehearsal.writer import live_writer
from demo_backups.sqlite.inspect import parse_header

from ..helpers.databases import opened, set_journal_mode
from ..helpers.processes import wait_until
from ..helpers.shell import run_sh

FRAME = 4096 + WAL_FRAME_HEADER
TOP = 2**32 - 1
NO_SHM = "0 0 0 0 0 0 0 0"
START = 1764021234.25  # seconds since 1970


def samples(*counters: str) -> str:
    """Format samples as the command prints them, the last one half a second after the first."""
    pause = 0.5 / max(len(counters) - 1, 1)
    return "".join(f"{START + pause * number:.9f}\n{line}\n" for number, line in enumerate(counters))


def counters(commits: int, frames: int, salt: int = 7) -> str:
    """Format the counters of a -shm as od prints them."""
    return f" {commits:10}  268435457 {frames:10}       1024 2231123123 4123123123 {salt:10} 3141592653"


# --- recorded samples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "commits", "wal_bytes"),
    [
        ("       1204", "       1304", 200, 0),
        ("       1204", "       1204", 0, 0),
        (f" {TOP - 5}", "          4", 20, 0),  # the counter has wrapped around
        ("       1204", "          1", 0, 0),  # another file in its place
        (counters(1204, 310), counters(1304, 610), 200, 600 * FRAME),
        (counters(1204, 310), counters(1204, 310), 0, 0),
        (counters(TOP - 5, 310), counters(4, 320), 20, 20 * FRAME),
        (counters(1204, 990), counters(1304, 20, salt=8), 200, 40 * FRAME),  # the WAL restarted: at least this
        (counters(1204, 10), counters(1304, 20, salt=8), 200, 40 * FRAME),  # also where it is longer than before
        (counters(9204, 990), counters(3, 6, salt=9), 0, 0),  # a new -shm
        (NO_SHM, NO_SHM, 0, 0),  # no process has it open
        (NO_SHM, counters(2, 8), 4, 16 * FRAME),
    ],
)
def test_rate_is_difference_of_counters(before: str, after: str, commits: float, wal_bytes: float) -> None:
    assert parse_write_rate(samples(before, after), 4096) == WriteRate(commits, wal_bytes)


def test_wal_grows_by_whole_pages() -> None:
    rate = parse_write_rate(samples(counters(0, 0), counters(1, 1)), 65536)
    assert rate.wal_bytes == 2 * (65536 + WAL_FRAME_HEADER)


@pytest.mark.parametrize(
    ("lines", "frames"),
    [
        # 100 commits; the 20 without a restart of the WAL in between wrote 3 frames each.
        ([counters(100, 930), counters(110, 960), counters(190, 50, salt=8), counters(200, 80, salt=8)], 300),
        ([counters(100, 930), counters(110, 960), counters(190, 50, salt=9), counters(200, 80, salt=9)], 300),
        # One large transaction after the restart is more than the small ones before suggest.
        ([counters(100, 930), counters(110, 960), counters(111, 5000, salt=8)], 5030),
        ([counters(100, 10), counters(110, 40), counters(120, 70), counters(130, 100)], 90),
    ],
)
def test_growth_is_extrapolated_over_restarts(lines: list[str], frames: int) -> None:
    assert parse_write_rate(samples(*lines), 4096).wal_bytes == pytest.approx(2 * frames * FRAME)


@pytest.mark.parametrize(
    "output",
    [
        "",
        samples("", ""),
        samples("12", NO_SHM),
        samples("12 3", "12 3"),
        samples("twelve", "13"),
        samples("12"),
        "1\n2\n3\n4\n5\n",
        "2\n7\n1\n8\n",  # the clock was set back
        "1\n7\nnan\n8\n",
    ],
)
def test_other_output_is_rejected(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_write_rate(output, 4096)


# --- a real database ------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path, index_file: Path) -> PurePosixPath:
    """A small index database, with a name that needs quotes."""
    return PurePosixPath(shutil.copy(index_file, tmp_path / "it's.db"))


def measure(path: PurePosixPath) -> WriteRate:
    """Measure the write rate as on a host."""
    header = parse_header(Path(path).read_bytes()[:100].hex(), 100)
    assert header
    result = run_sh(write_rate_command(path, header.wal))
    assert result.ok, result
    return parse_write_rate(result.stdout, header.page_size)


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_commits_of_writer_are_counted(path: PurePosixPath, journal: str) -> None:
    set_journal_mode(path, journal)
    assert measure(path) == WriteRate(0, 0)
    with opened(path):
        assert measure(path) == WriteRate(0, 0)
    with live_writer(Path(path), rate=200) as writes:
        rate = measure(path)
    assert writes.failed == 0
    assert rate.commits > 0
    assert (rate.wal_bytes > 0) == (journal == "wal")


def test_growth_is_not_underestimated_over_restarts(path: PurePosixPath) -> None:
    """Compared with what commits of the same writer append while a snapshot is pinned."""
    set_journal_mode(path, "wal")
    with live_writer(Path(path), rate=100_000):
        with checkpoints(path):
            rate = min((measure(path) for _ in range(3)), key=lambda rate: rate.wal_bytes / rate.commits)
        with opened(path) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
            first = read_shm(path)
            wait_until(lambda: read_shm(path)[0] > first[0] + 300, "300 commits")
            last = read_shm(path)
    appended = (last[1] - first[1]) * FRAME / (last[0] - first[0])
    assert rate.wal_bytes / rate.commits > 0.8 * appended


@contextlib.contextmanager
def checkpoints(path: PurePosixPath) -> Iterator[None]:
    """Checkpoint a database again and again, so that its WAL restarts at the next commit."""
    end = threading.Event()

    def checkpoint() -> None:
        with contextlib.closing(sqlite3.connect(path)) as database:
            while not end.wait(0.02):
                database.execute("PRAGMA wal_checkpoint")

    thread = threading.Thread(target=checkpoint)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def read_shm(path: PurePosixPath) -> tuple[int, int]:
    """Read the counters of commits and of frames from a -shm."""
    commits, _, frames = struct.unpack("=3I", Path(f"{path}-shm").read_bytes()[8:20])
    return commits, frames
