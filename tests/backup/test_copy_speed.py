"""The expected speed of a copy: from records, or from a short read of the source."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from demo_backups.backup.copy_speed import (
    COPY_CEILING,
    SAMPLE_BYTES,
    CopySpeed,
    SpeedSource,
    estimate_copy_speed,
    find_recorded_speed,
    parse_read_speed,
    read_speed_command,
)
from demo_backups.records.record import Record, RunDetails, new_record
from demo_backups.remote.host import Host

from ..helpers.shell import run_sh

DD_RECORDS = "16384+0 records in\n16384+0 records out\n"


def run_record(speed: float, minute: int, **changes: Any) -> Record:
    """Make the record of a run at so many bytes per second, that took 4 s."""
    fields: dict[str, Any] = {
        "kind": "run",
        "host": "demo",
        "database": "tracker",
        "when": f"2026-01-01T00:{minute:02}:00+00:00",
        "exit_status": 0,
        "bytes": int(speed * 4),
        "seconds": 4.0,
    }
    return new_record(**fields | changes)


# --- a short read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "speed"),
    [
        (f"{DD_RECORDS}67108864 bytes (67 MB, 64 MiB) copied, 0.25 s, 268 MB/s\n", 67_108_864 / 0.25),
        (
            "1+0 records in\n1+0 records out\n4096 bytes (4.1 kB, 4.0 KiB) copied, 5.12e-05 s, 80 MB/s\n",
            4096 / 5.12e-05,
        ),
        ("0+1 records in\n0+1 records out\n512 bytes copied, 0.000128 s, 4.0 MB/s\n", 512 / 0.000128),
        ("0+1 records in\n0+1 records out\n512 bytes copied, 0 s, Infinity B/s\n", 512 / 1e-6),
    ],
)
def test_parse_read_speed(output: str, speed: float) -> None:
    assert parse_read_speed(output) == pytest.approx(speed)


@pytest.mark.parametrize(
    "output",
    [
        "",
        "dd: failed to open '/x': Permission denied\n",
        "0+0 records in\n0+0 records out\n0 bytes copied, 0.000123 s, 0.0 kB/s\n",  # a speed of 0 would divide
    ],
)
def test_parse_read_speed_rejects_other_output(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_read_speed(output)


@pytest.mark.parametrize(
    ("size", "read"),
    [(100, 100), (5000, 5000), (SAMPLE_BYTES, SAMPLE_BYTES), (SAMPLE_BYTES + 10_000, SAMPLE_BYTES)],
)
def test_sample_of_short_and_long_files(tmp_path: Path, size: int, read: int) -> None:
    path = tmp_path / "it's"
    path.touch()
    os.truncate(path, size)
    output = run_sh(read_speed_command(PurePosixPath(path), size)).stdout
    assert f"\n{read} bytes" in output
    assert parse_read_speed(output) > 0


# --- records --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "speed"),
    [
        ([], None),
        ([run_record(100, 1)], 100),
        ([run_record(100, 1), run_record(900, 2), run_record(200, 3)], 200),
        # The latest five, in any order.
        ([run_record(speed, minute) for minute, speed in enumerate([9000, 9000, 9000, 1, 2, 3, 4, 5])], 3),
        ([run_record(speed, 9 - minute) for minute, speed in enumerate([1, 2, 3, 4, 5, 9000, 9000])], 3),
        # Without the seconds for which it waited for a lock.
        ([run_record(100, 1, details=RunDetails(waited_seconds=3.0))], 400),
        ([run_record(100, 1, details=RunDetails(waited_seconds=0.0))], 100),
        ([run_record(100, 1, details=RunDetails(waited_seconds=4.0)), run_record(700, 2)], 700),
        # Only runs of this database on this host that succeeded.
        ([run_record(100, 1, kind="deploy")], None),
        ([run_record(100, 1, kind="verification")], None),
        ([run_record(100, 1, host="local")], None),
        ([run_record(100, 1, database="index")], None),
        ([run_record(100, 1, exit_status=1), run_record(700, 2)], 700),
        ([run_record(100, 1, exit_status=4)], 100),
        ([run_record(100, 1, exit_status=None)], None),
        ([run_record(100, 1, bytes=None), run_record(100, 1, seconds=None), run_record(100, 1, seconds=0.0)], None),
    ],
)
def test_recorded_speed_by_runs(records: list[Record], speed: float | None) -> None:
    assert find_recorded_speed(records, "demo", "tracker") == speed


# --- the estimate ---------------------------------------------------------------------------------------------------


def test_records_come_before_sample(local_host: Host, tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(bytes(100_000))
    sampled = estimate_copy_speed(local_host, "index", PurePosixPath(path), 100_000, [])
    assert sampled.source is SpeedSource.SAMPLE
    assert 0 < sampled.bytes_per_second <= COPY_CEILING
    records = [run_record(1234, 1, host="local", database="index")]
    recorded = estimate_copy_speed(local_host, "index", PurePosixPath(path), 100_000, records)
    assert recorded == CopySpeed(1234, SpeedSource.EARLIER_RUNS)
