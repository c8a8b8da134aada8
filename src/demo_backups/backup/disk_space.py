"""Free space and free inodes on the disks of a host, and whether they are enough for a backup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..remote.answers import parse_count
from ..remote.host import Host
from ..remote.shell import HOME, quote

MIN_INODES = 16  # that a disk must have free: more than a run creates files, and than the state of its job


@dataclass(frozen=True)
class Disk:
    """The file system of a path: its mount point, the free bytes on it, and the free inodes.

    `free_inodes` is None on a file system that creates inodes as it needs them, such as btrfs.
    """

    mount: str
    free: int
    free_inodes: int | None = None


@dataclass(frozen=True)
class SpaceDemand:
    """The bytes that a backup needs on a disk for one purpose."""

    disk: Disk
    bytes: int
    purpose: str


@dataclass(frozen=True)
class Shortage:
    """A disk with too few free bytes: how many are missing, and what the disk is for."""

    mount: str
    bytes: int
    purpose: str


def list_demands(
    backup_disk: Disk, copy_bytes: int, source_disk: Disk | None, wal_growth: int, state_disk: Disk
) -> list[SpaceDemand]:
    """List what a backup needs on the disks that it uses; the disk of the source may not be known."""
    demands = [SpaceDemand(backup_disk, copy_bytes, "backups")]
    if source_disk:
        demands.append(SpaceDemand(source_disk, wal_growth, "the source database"))
    return [*demands, SpaceDemand(state_disk, 0, "the state of the job")]


def sum_needed_bytes(demands: Sequence[SpaceDemand], floor: int) -> dict[str, int]:
    """Sum the free bytes that each disk must have, by its mount point: all demands on it, and `floor` once."""
    needed: dict[str, int] = {}
    for demand in demands:
        mount = demand.disk.mount
        needed[mount] = needed.get(mount, floor) + demand.bytes
    return needed


def find_shortages(demands: Sequence[SpaceDemand], floor: int) -> list[Shortage]:
    """Find the disks with too little free space, each one once, with the purpose of the first demand on it."""
    first_demands = {demand.disk.mount: demand for demand in reversed(demands)}
    shortages = []
    for mount, needed in sum_needed_bytes(demands, floor).items():
        demand = first_demands[mount]
        missing = needed - demand.disk.free
        if missing > 0:
            shortages.append(Shortage(mount, missing, demand.purpose))
    return shortages


def find_inode_shortages(demands: Sequence[SpaceDemand]) -> list[SpaceDemand]:
    """Find the disks with too few free inodes, each one once, by the first demand on it."""
    first_demands = {demand.disk.mount: demand for demand in reversed(demands)}
    return [
        demand
        for demand in first_demands.values()
        if demand.disk.free_inodes is not None and demand.disk.free_inodes < MIN_INODES
    ]


def disks_command(*paths: PurePosixPath) -> str:
    """Build the command that prints the file systems of some paths, and last that of the home directory."""
    return f"df -B1 --output=avail,itotal,iavail,target -- {' '.join(quote(path) for path in paths)} {HOME}"


def parse_disks(output: str, count: int) -> list[Disk]:
    """Parse what `disks_command` printed for `count` file systems, in the order of its paths; raises ValueError."""
    disks = []
    for row in output.splitlines()[1:]:
        free, inodes, free_inodes, mount = row.split(maxsplit=3)
        has_inodes = inodes not in ("0", "-")
        disks.append(Disk(mount, parse_count(free), parse_count(free_inodes) if has_inodes else None))
    if len(disks) != count:
        raise ValueError(f"not the free space of {count} file systems")
    return disks


def read_disks(host: Host, *paths: PurePosixPath) -> list[Disk]:
    """Read the free space on the disks of some paths, and last that of the home directory; raises CouldNotLookError."""
    count = len(paths) + 1
    return host.query_parsed("read the free space", disks_command(*paths), lambda output: parse_disks(output, count))
