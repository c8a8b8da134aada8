"""A restore on the server: a job that puts a backup in place of a database, and the journal that a killed one leaves.

`restore.sh` does the work. Its journal has the stage that it is in, and is on the disk before each stage starts. A killed
restore can so be completed or reverted later, by the same script.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..remote.host import Host
from ..remote.job_state import RESTORE, Job, JobStatus
from ..settings import Database


class Method(enum.Enum):
    """How a backup is put in place: by SQLite, in one transaction, or as a file in place of the file."""

    IN_PLACE = "in place"
    SWAP = "swap"


class Proof(enum.Enum):
    """How it is proven that the database has the content of the backup.

    STOPPED: while the service is stopped, byte for byte. LOCKED: in rollback mode, by the session that keeps the lock.
    TRANSACTION: in WAL mode with the service running, where a comparison right after the transaction counts the pages
    that the service has changed since.
    """

    STOPPED = "stopped"
    LOCKED = "locked"
    TRANSACTION = "transaction"


class Save(enum.Enum):
    """How the present state is saved: by SQLite, as a backup is, or as raw copies of all files; or not at all."""

    COPY = "copy"
    RAW = "raw"
    NONE = "none"


@dataclass(frozen=True)
class RestoreRequest:
    """What to restore, and how; all paths are absolute, and `target` has no symbolic link.

    With SWAP the target may be missing. `saved` is the file for the present state: with Save.RAW, those of its sidecars
    are next to it. `journal` is a directory that the script creates and removes. `lock` is the lock of the backup
    script, which is held for the whole restore, or None. If `stop` is set, the service is stopped; `start` and `healthy`
    are run in the end. Commands run in `service_directory`, for `service_timeout` seconds each. `owner` (user:group)
    and `mode` are those of a new file where there was none. `floor` is how many bytes must stay free.
    """

    backup: PurePosixPath
    target: PurePosixPath
    method: Method
    proof: Proof
    save: Save
    saved: PurePosixPath | None
    journal: PurePosixPath
    lock: PurePosixPath | None
    stop: str | None
    start: str | None
    healthy: str | None
    service_directory: PurePosixPath
    service_timeout: float
    owner: str | None
    mode: str | None
    writer_timeout: float
    floor: int


@dataclass(frozen=True)
class RestoreResult:
    """What a restore did.

    `identical`: the database had the content of the backup, byte for byte. With Proof.TRANSACTION it may have other
    pages that the service has written since: `changed_pages`, None if they could not be counted. `wal_bytes` is the size
    of the -wal that could not be truncated, None if there is none. `stopped_seconds` is how long the service was stopped.
    `integrity` are the lines that integrity_check printed, with Proof.TRANSACTION only. `messages` are for people.
    """

    proof: Proof
    identical: bool
    changed_pages: int | None = None
    wal_bytes: int | None = None
    stopped_seconds: float | None = None
    integrity: Sequence[str] = ()
    messages: Sequence[str] = ()


@dataclass(frozen=True)
class PendingRestore:
    """A restore that its journal on the server describes: it was killed, or it is `running`.

    `started` is in seconds since 1970, by the server's clock. `stage` is a word of the journal, for people.
    `reverts`: it was being reverted, so it can only be reverted. `is_judged`: the database was found good and the service
    is up, so it can only be completed.
    """

    backup: PurePosixPath
    target: PurePosixPath
    method: Method
    proof: Proof
    save: Save
    saved: PurePosixPath | None
    stage: str
    started: float
    running: bool
    reverts: bool
    is_judged: bool


def start_restore(host: Host, database: Database, request: RestoreRequest, kind: str = RESTORE) -> Job:
    """Start a restore as a job on the host; `kind` is RESTORE, or DRILL. Raises StepError, also if one is running."""
    raise NotImplementedError


def collect_restore(host: Host, database: Database, job: Job, status: JobStatus, output: str) -> RestoreResult:
    """Return what a restore did; the end of its job is `status`.

    Raises RestoreFailedError where nothing was changed, RestoreRevertedError where the state from before is back,
    RestoreNotRevertedError where it is not, RestorePendingError where it was killed, and RestoreUncleanError where it is
    done and a file could not be removed.
    """
    raise NotImplementedError


def read_pending(host: Host, database: Database) -> PendingRestore | None:
    """Read the journal of a restore that has not ended; None if there is none. Raises CouldNotLookError."""
    raise NotImplementedError


def start_recovery(
    host: Host,
    database: Database,
    pending: PendingRestore,
    revert: bool,
    *,
    service_directory: PurePosixPath,
    service_timeout: float,
) -> Job:
    """Complete or revert a restore that was killed, as a job; collect its result with `collect_restore`.

    It can be killed and started again. The commands of the service are those of the settings now. Raises StepError.
    """
    raise NotImplementedError


def require_no_restore(host: Host, database: Database) -> None:
    """Raise RestorePendingError if a restore of this database is running or was killed; raises CouldNotLookError."""
    raise NotImplementedError
