"""Free space on the disks of a host, and whether it is enough for a backup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..remote.answers import parse_count
from ..remote.shell import HOME, quote


@dataclass(frozen=True)
class Disk:
    """The file system of a path: its mount point, and the free bytes on it."""

    mount: str
    free: int


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


def disks_command(*paths: PurePosixPath) -> str:
    """Build the command that prints the file systems of some paths, and last that of the home directory."""
    return f"df -B1 --output=avail,target -- {' '.join(quote(path) for path in paths)} {HOME}"


def parse_disks(output: str, count: int) -> list[Disk]:
    """Parse what `disks_command` printed for `count` file systems, in the order of its paths; raises ValueError."""
    disks = []
    for row in output.splitlines()[1:]:
        free, mount = row.split(maxsplit=1)
        disks.append(Disk(mount, parse_count(free)))
    if len(disks) != count:
        raise ValueError(f"not the free space of {count} file systems")
    return disks
