"""The facts of a host from which the state of its backups is decided."""

from __future__ import annotations

from dataclasses import dataclass

from ..backup.disk_space import Disk
from ..errors import Problem
from ..records.check import Check
from ..recovery.restore_journal import PendingRestore
from ..remote.fact import Fact, Unavailable
from ..remote.job_state import Job, JobStatus
from .cron_log import CronLog
from .freshness import Backups
from .leftovers import RunFiles


@dataclass(frozen=True)
class CronFacts:
    """The lines of all crontabs that back up a database.

    `interval` is the longest time between two of their runs in seconds; None if there are none. `problem` is why it is
    not known whether there are lines, or when they run; else empty.
    """

    interval: float | None
    problem: str = ""


@dataclass(frozen=True)
class LastJob:
    """The last backup that a task has started on the host, and its status."""

    job: Job
    status: JobStatus


@dataclass(frozen=True)
class RestoreFacts:
    """A restore that was killed or is running, by its journal, and whether a job restores the database now."""

    pending: PendingRestore | None
    running: bool


@dataclass(frozen=True)
class NoPermission(Unavailable):
    """A fact that a login without root may not look at: see docs/unattended.md."""


@dataclass(frozen=True)
class Source:
    """The live database: its size in bytes by its header, and its disk."""

    bytes: int
    disk: Disk


@dataclass(frozen=True)
class HostFacts:
    """What a host says about the backups of a database. Times in seconds since 1970, by its clock.

    `clock_difference` is by how much its clock is ahead of that of this machine, as far as that is certain. `checks`
    are those of the newest backup that is not dated in the future. `source` is None if there is no live database.
    `problems` are what lets other users change the backups. `disks` are those of the backups and of the home directory.
    """

    now: float
    clock_difference: float
    backups: Fact[Backups]
    checks: Fact[tuple[Check, ...]]
    cron: Fact[CronFacts]
    log: Fact[CronLog | None]
    runs: Fact[RunFiles]
    job: Fact[LastJob | None]
    restore: Fact[RestoreFacts]
    source: Fact[Source | None]
    disks: Fact[tuple[Disk, Disk]]
    problems: Fact[list[Problem]]
