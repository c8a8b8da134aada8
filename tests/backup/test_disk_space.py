"""Free space: what a backup needs on each disk, and the parser of `df`."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_backups.backup.disk_space import (
    MIN_INODES,
    Disk,
    Shortage,
    SpaceDemand,
    disks_command,
    find_inode_shortages,
    find_shortages,
    parse_disks,
    sum_needed_bytes,
)

from ..helpers.shell import run_sh

FLOOR = 100


def demand(mount: str, free: int, count: int, purpose: str = "x") -> SpaceDemand:
    return SpaceDemand(Disk(mount, free), count, purpose)


@pytest.mark.parametrize(
    ("demands", "needed"),
    [
        ([demand("/", 0, 7)], {"/": 107}),
        ([demand("/", 0, 7), demand("/", 0, 5)], {"/": 112}),  # the floor once
        ([demand("/a", 0, 7), demand("/b", 0, 5), demand("/a", 0, 0)], {"/a": 107, "/b": 105}),
    ],
)
def test_demands_on_a_disk_are_summed(demands: list[SpaceDemand], needed: dict[str, int]) -> None:
    assert sum_needed_bytes(demands, FLOOR) == needed


@pytest.mark.parametrize(
    ("demands", "shortages"),
    [
        ([demand("/", 107, 7)], []),
        ([demand("/", 106, 7)], [Shortage("/", 1, "x")]),
        ([demand("/", 111, 7, "backups"), demand("/", 111, 5, "source")], [Shortage("/", 1, "backups")]),
        (
            [demand("/a", 100, 7, "backups"), demand("/b", 97, 5, "source"), demand("/b", 97, 0, "state")],
            [Shortage("/a", 7, "backups"), Shortage("/b", 8, "source")],
        ),
        ([demand("/a", 107, 7, "backups"), demand("/c", 99, 0, "state")], [Shortage("/c", 1, "state")]),
    ],
)
def test_shortages_are_found_once_per_disk(demands: list[SpaceDemand], shortages: list[Shortage]) -> None:
    assert find_shortages(demands, FLOOR) == shortages


def test_parse_disks_output() -> None:
    output = "       Avail  Inodes   IFree Mounted on\n 35297091584       0       0 /\n"
    output += "107374182400 6553600 6000000 /mnt/two  words\n        4096       -       - /boot\n"
    disks = [Disk("/", 35_297_091_584), Disk("/mnt/two  words", 107_374_182_400, 6_000_000), Disk("/boot", 4096)]
    assert parse_disks(output, 3) == disks


@pytest.mark.parametrize(
    "output",
    [
        "",
        "Verfügbar\nviel\n",
        "Avail Inodes IFree Mounted on\n1 1 1 /\n",
        "Avail Inodes IFree Mounted on\n- 1 1 /\n1 1 1 /\n",
        "Avail Inodes IFree Mounted on\n1 1 - /\n1 1 1 /\n",
        "Avail Mounted on\n1 /\n1 /\n",
    ],
)
def test_parse_disks_rejects_other_output(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_disks(output, 2)


def test_inode_shortages_are_found_once_per_disk() -> None:
    full, btrfs = Disk("/full", 10**9, MIN_INODES - 1), Disk("/btrfs", 10**9)
    demands = [SpaceDemand(disk, 0, purpose) for disk in (full, btrfs) for purpose in ("backups", "state")]
    demands.append(SpaceDemand(Disk("/enough", 10**9, MIN_INODES), 0, "source"))
    assert find_inode_shortages(demands) == [demands[0]]


COUNTS = st.integers(0, 2**63 - 1)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.tuples(COUNTS, COUNTS, st.text("abc /", min_size=1).map(lambda t: f"/{t}x"))))
def test_disks_are_parsed_back(rows: list[tuple[int, int, str]]) -> None:
    lines = ["Avail Inodes IFree Mounted on", *(f"{free} {inodes} {inodes} {mount}" for free, inodes, mount in rows)]
    disks = parse_disks("\n".join(lines) + "\n", len(rows))
    assert disks == [Disk(mount, free, inodes or None) for free, inodes, mount in rows]


def test_df_of_this_machine(tmp_path: Path) -> None:
    folder = tmp_path / "it's -x"
    folder.mkdir()
    result = run_sh(disks_command(PurePosixPath(folder), PurePosixPath("/proc")))
    backup_disk, proc, _ = parse_disks(result.stdout, 3)  # the last is that of the home directory
    assert proc.mount == "/proc"
    assert backup_disk.free > 0
