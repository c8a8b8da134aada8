"""The impact of a copy on a service: how long its writes take, and which of its pages stay in the page cache."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from demo_backups.rehearsal.writer import Traffic

PHASE = 5.0  # seconds for which the service is measured before and after a copy
LARGEST_MAPPING = 2**30  # bytes of a file
LOWEST_BIT = bytes(value & 1 for value in range(256))  # the others are undefined


@dataclass(frozen=True)
class Latency:
    """How long writes took, in seconds: the 50th and the 99th percentile and the slowest; their number."""

    median: float
    p99: float
    slowest: float
    writes: int


@dataclass(frozen=True)
class Impact:
    """The impact of one copy on the service: its writes before, during and after it, and its pages in the page cache.

    `cached_before` and `cached_after` are bytes of the database just before and just after the copy, as `fincore`
    counts them, and `still_cached` is the share of the pages before that were cached after it.
    """

    before: Latency
    during: Latency
    after: Latency
    cached_before: int
    cached_after: int
    still_cached: float


def percentile(durations: Sequence[float], share: float) -> float:
    """Return the smallest duration that at least this share of all durations does not exceed; 0 if there is none."""
    ordered = sorted(durations)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def summarize_writes(durations: Sequence[float]) -> Latency:
    """Summarize how long writes took."""
    median, p99 = (round(percentile(durations, share), 5) for share in (0.5, 0.99))
    return Latency(median, p99, slowest=round(max(durations, default=0.0), 5), writes=len(durations))


def split_writes(traffic: Traffic, start: float, end: float) -> tuple[list[float], list[float], list[float]]:
    """Split the durations of writes at the start and the end of a copy, which are times of the monotonic clock.

    A write that was under way at the start or at the end is one during the copy.
    """
    before: list[float] = []
    during: list[float] = []
    after: list[float] = []
    for started, duration in zip(traffic.starts, traffic.durations, strict=True):
        if started + duration <= start:
            before.append(duration)
        elif started >= end:
            after.append(duration)
        else:
            during.append(duration)
    return before, during, after


def read_cached_pages(path: Path) -> bytes:
    """Tell for each page of a file whether it is in the page cache (mincore(2)): one byte, 1 if it is.

    The file must be one of this user: of others, the kernel says that all is cached.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    pages = b""
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0:
            length = min(left, LARGEST_MAPPING)
            pages += _read_residency(libc, file.fileno(), len(pages) * mmap.PAGESIZE, length)
            left -= length
    return pages


def _read_residency(libc: ctypes.CDLL, descriptor: int, offset: int, length: int) -> bytes:
    count = -(-length // mmap.PAGESIZE)
    vector = (ctypes.c_ubyte * count)()
    # Private, so that ctypes gets a writable buffer of a file that is only read.
    with mmap.mmap(descriptor, length, flags=mmap.MAP_PRIVATE, offset=offset) as mapped:
        anchor = ctypes.c_char.from_buffer(mapped)
        address = ctypes.c_void_p(ctypes.addressof(anchor))
        if libc.mincore(address, ctypes.c_size_t(length), vector):
            raise OSError(ctypes.get_errno(), "mincore failed")
        del anchor
    return bytes(vector).translate(LOWEST_BIT)


def cached_bytes(pages: bytes) -> int:
    """Return the size of the cached pages."""
    return pages.count(1) * mmap.PAGESIZE


def share_still_cached(before: bytes, after: bytes) -> float:
    """Return the share of the pages cached before that are cached after."""
    still_cached = int.from_bytes(before, "little") & int.from_bytes(after, "little")
    return round(still_cached.bit_count() / max(1, before.count(1)), 4)


def describe_impact(traffic: Traffic, start: float, end: float, cached: tuple[bytes, bytes]) -> Impact:
    """Describe the impact of a copy on the service from `start` to `end`."""
    before, during, after = (summarize_writes(durations) for durations in split_writes(traffic, start, end))
    pages_before, pages_after = cached
    return Impact(
        before,
        during,
        after,
        cached_bytes(pages_before),
        cached_bytes(pages_after),
        share_still_cached(pages_before, pages_after),
    )


def read_impact(fields: Mapping[str, Any]) -> Impact:
    """Read an Impact from its stored fields."""
    phases = {name: Latency(**fields[name]) for name in ("before", "during", "after")}
    return Impact(**{**fields, **phases})


def median_impact(impacts: Sequence[Impact]) -> Impact | None:
    """Return the medians of several copies, of each value for itself; None if there are none."""
    if not impacts:
        return None
    before, during, after = (
        _median_latency([getattr(impact, name) for impact in impacts]) for name in ("before", "during", "after")
    )
    return Impact(
        before,
        during,
        after,
        int(median(impact.cached_before for impact in impacts)),
        int(median(impact.cached_after for impact in impacts)),
        median(impact.still_cached for impact in impacts),
    )


def _median_latency(latencies: Sequence[Latency]) -> Latency:
    return Latency(
        median(latency.median for latency in latencies),
        median(latency.p99 for latency in latencies),
        median(latency.slowest for latency in latencies),
        int(median(latency.writes for latency in latencies)),
    )
