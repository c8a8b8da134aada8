"""Bring a backup from the repository to this machine, as a partial file until its SHA-256 is the right one."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence

from ..errors import (
    CopyExistsError,
    CopyMismatchError,
    LocalDiskError,
    NoSuchBackupError,
    OffsiteError,
    RepositoryDamagedError,
)
from ..recovery.local_copy import CopyPaths, explain_open
from ..remote.download import PartialFile, Progress
from ..settings.model import BackupSeries
from .program import Restic
from .snapshots import StoredBackup, path_of


def find_stored(stored: Sequence[StoredBackup], name: str, host: str) -> StoredBackup:
    """Find a backup in the repository by its name, or by the first characters of the ID of its snapshot.

    Raises NoSuchBackupError if there is none of this host, and OffsiteError if several differ.
    """
    matching = [backup for backup in stored if name == backup.name or _is_start(name, backup.snapshot)]
    found = [backup for backup in matching if backup.host == host]
    if not found:
        names = [f"{backup.name} of {backup.host}" for backup in matching] or [
            backup.name for backup in stored if backup.host == host
        ]
        raise NoSuchBackupError(
            f"there is no backup {name} of {host} in the off-site repository",
            output="\n".join(names[:20]),
            advice="./inv offsite --list shows what is there; --host selects whose backup",
        )
    if len({backup.sha256 for backup in found}) > 1:
        raise OffsiteError(
            f"there are {len(found)} different backups {name} of {host} in the off-site repository",
            output="\n".join(f"{backup.snapshot[:16]} {backup.sha256}" for backup in found),
            advice="name the snapshot: ./inv offsite --restore SNAPSHOT",
        )
    return found[0]


def _is_start(text: str, snapshot: str) -> bool:
    return len(text) >= 8 and snapshot.startswith(text)


@contextlib.contextmanager
def open_new(paths: CopyPaths, size: int, progress: Progress) -> Iterator[PartialFile]:
    """Open the partial file of a copy, empty. Raises FetchRunningError, CopyExistsError and LocalDiskError."""
    try:
        partial = PartialFile(paths.partial, size, progress, empty=True)
    except OSError as error:
        raise explain_open(paths, error) from error
    with partial:
        if paths.exists:  # another task has completed it since
            raise CopyExistsError(f"{paths.final} has been created by another task", advice="start the task again")
        paths.description.unlink(missing_ok=True)  # of a fetch, which starts from the beginning then
        yield partial


def receive_stored(
    restic: Restic, stored: StoredBackup, label: str, series: BackupSeries, partial: PartialFile
) -> None:
    """Write a stored backup to a partial file; raises CopyMismatchError unless it has its size and its SHA-256."""

    def write(data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[partial.write(rest) :]
        except ValueError as error:
            raise mismatch(stored, f"more than {stored.bytes:,} bytes") from error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise LocalDiskError(
                f"{partial.path} cannot be written", output=str(error), advice="free space there" if full else ""
            ) from error

    action = f"restoring {stored.name} from the off-site repository"
    try:
        restic.stream(action, write, "dump", "--no-lock", stored.snapshot, path_of(label, series))
    except RepositoryDamagedError as error:
        error.advice = f"restore another backup: ./inv offsite --list. With the repository: {error.advice}"
        raise
    if partial.size != stored.bytes or partial.sha256.hexdigest() != stored.sha256:
        raise mismatch(stored, f"{partial.sha256.hexdigest()}, {partial.size:,} bytes")


def mismatch(stored: StoredBackup, received: str) -> CopyMismatchError:
    """Return the error for a file that is not the backup."""
    return CopyMismatchError(
        f"what the off-site repository has as {stored.name} is not the backup",
        output=f"received: {received}\nexpected: {stored.sha256}, {stored.bytes:,} bytes",
        advice="check the repository: ./inv offsite --check; and restore another backup: ./inv offsite --list",
    )
