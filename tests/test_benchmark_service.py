"""The impact of a copy on a service: writes, cached pages, the limit of the memory, and the figures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from demo_backups.project import ROOT
from demo_backups.rehearsal.writer import Traffic

from .helpers.constants import root_only

sys.path.insert(0, str(ROOT / "benchmarks"))
from memory_limit import NoMemoryLimitError, memory_limit
from render import Row, format_figures, format_service_table, read_measurements, summarize
from service import (
    Impact,
    Latency,
    cached_bytes,
    median_impact,
    percentile,
    read_cached_pages,
    share_still_cached,
    split_writes,
    summarize_writes,
)
from service_figures import SERVICE_RESULTS, summarize_service

IMPACT = Impact(Latency(1, 2, 3, 9), Latency(0.001, 0.01, 0.1, 9), Latency(1, 2, 3, 9), 10**8, 10**8, 0.95)
ROW = Row(
    size=4e9,
    journal="wal",
    rate=200,
    method="task",
    seconds=10.0,
    ratio=None,
    finished=1,
    consistent=True,
    rounds=1,
    copied=1.0,
    throughput=1.0,
    failed_writes=0,
    slowest_write=0.1,
    peak_memory=1,
    wal_growth=0,
    memory=1e9,
    impact=IMPACT,
)


def with_slowest(row: Row, method: str, slowest: float, seconds: float = 10.0) -> Row:
    """Return a row of another method."""
    assert row.impact
    impact = replace(row.impact, during=replace(row.impact.during, slowest=slowest))
    return replace(row, method=method, seconds=seconds, impact=impact)


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (0.0, 1), (1.0, 100)])
def test_percentile_of_hundred_values(share: float, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value


def test_no_writes_are_zero() -> None:
    assert summarize_writes([]) == Latency(0.0, 0.0, 0.0, 0)


def test_writes_are_split_at_the_copy() -> None:
    """One that is under way at the start or the end of the copy belongs to it."""
    traffic = Traffic(starts=[1.0, 9.8, 10.0, 19.9, 20.0], durations=[0.1, 0.5, 0.2, 0.3, 0.4])
    assert split_writes(traffic, 10.0, 20.0) == ([0.1], [0.5, 0.2, 0.3], [0.4])


def test_median_is_that_of_every_value() -> None:
    slow = replace(IMPACT, still_cached=0.1, during=replace(IMPACT.during, slowest=9.0))
    found = median_impact([slow, IMPACT, IMPACT])
    assert found
    assert (found.still_cached, found.during.slowest) == (0.95, 0.1)
    assert median_impact([]) is None


@pytest.mark.skipif(not shutil.which("fincore"), reason="needs fincore")
def test_cached_pages_are_those_of_fincore(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(10**7))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 4_096_000, 0, os.POSIX_FADV_DONTNEED)
        pages = read_cached_pages(path)
        found = subprocess.run(["fincore", "-bnro", "RES", str(path)], capture_output=True, text=True, check=True)
    assert len(pages) == -(-(10**7) // 4096)
    assert cached_bytes(pages) == int(found.stdout) < 10**7


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [(b"\1\1\0\1", b"\1\0\1\1\1", 0.6667), (b"\1\1", b"\1\1", 1.0), (b"\0", b"\0", 0.0)],
)
def test_share_still_cached_counts_same_pages(before: bytes, after: bytes, share: float) -> None:
    assert share_still_cached(before, after) == share


@root_only
def test_memory_limit_holds_for_children() -> None:
    group = Path("/proc/self/cgroup")
    before = group.read_text()
    try:
        with memory_limit(200e6):
            child = subprocess.run(["cat", group], check=True, capture_output=True, text=True).stdout
            (created,) = Path("/sys/fs/cgroup").rglob(f"demo-backups-bench-{os.getpid()}")
            assert created.name in child
            (limit,) = (created / name for name in ("memory.limit_in_bytes", "memory.max") if (created / name).exists())
            assert 199e6 < int(limit.read_text()) <= 200e6
    except NoMemoryLimitError as error:
        pytest.skip(str(error))
    assert group.read_text() == before
    assert not created.exists()


def test_figures_compare_the_task() -> None:
    cp, unflushed = with_slowest(ROW, "cp, fsync", 0.25), with_slowest(ROW, "task, not flushed", 0.2, 9.6)
    figures = summarize_service([cp, unflushed, ROW])
    assert [figure.reached for figure in figures] == [True, True, True, True]
    worse = with_slowest(ROW, "task", 0.13, 10.2)
    assert worse.impact
    worse = replace(worse, impact=replace(worse.impact, still_cached=0.89))
    assert [figure.reached for figure in summarize_service([cp, unflushed, worse])] == [False] * 4
    assert summarize_service([cp, unflushed]) == []
    assert summarize_service([replace(ROW, memory=None)]) == []


def test_documented_rows_show_stored_numbers() -> None:
    page = (ROOT / "docs/benchmarks.md").read_text().splitlines()
    for results in SERVICE_RESULTS:
        rows = summarize(read_measurements(results))
        lines = format_service_table(rows) + format_figures(summarize_service(rows))
        assert len(lines) > 4
        assert [line for line in lines if line not in page] == []
