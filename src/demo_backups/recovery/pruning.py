"""The directories of fetched backups on this machine: what is in them, and the deletion of a copy."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

from ..backup.names import is_backup_name
from ..errors import LocalDiskError
from ..local_files import sync_directory
from ..records.record import KINDS, DrillRecord, FetchRecord, OffsiteRecord, Record
from ..records.search import CopyRecord, is_of_good_copy
from ..settings.model import BackupSeries, Settings
from .copies import Copy, copies_dir, list_entries, read_copy

IN_USE = "another task is reading it"
CHANGED = "it has changed since it was looked at"
COPY_KINDS = (FetchRecord.kind, DrillRecord.kind, OffsiteRecord.kind)  # of the records that say that a copy is good


@dataclass(frozen=True)
class StrayFile:
    """A file or directory below `fetch_dir` that is not a copy of a series in the settings, and the reason."""

    path: Path
    reason: str


def list_hosts(settings: Settings) -> tuple[list[str], list[StrayFile]]:
    """List the hosts that have a directory in `fetch_dir`, and what else is in it; none if it is missing.

    Links are not followed. Raises CouldNotLookError and UnsafePathError.
    """
    root = copies_dir(settings, "host").parent
    hosts, strays = [], []
    for entry in _list_visible(root):
        host = unquote(entry.name)
        if not entry.is_dir(follow_symlinks=False):
            strays.append(StrayFile(root / entry.name, "not the directory of a host"))
        elif copies_dir(settings, host).name != entry.name:
            strays.append(StrayFile(root / entry.name, "not a name that a fetch gives to the directory of a host"))
        else:
            hosts.append(host)
    return hosts, strays


def list_strays(settings: Settings, host: str, all_series: Sequence[BackupSeries]) -> list[StrayFile]:
    """List the files in the directory of a host that are not copies of one of these series."""
    folder = copies_dir(settings, host)
    strays = []
    for entry in _list_visible(folder):
        if not any(is_backup_name(series, entry.name) for series in all_series):
            strays.append(StrayFile(folder / entry.name, "not the name of a backup"))
        elif not entry.is_file(follow_symlinks=False):
            strays.append(StrayFile(folder / entry.name, "not a regular file"))
    return strays


def _list_visible(folder: Path) -> list[os.DirEntry[str]]:
    """List what is in a directory, sorted; names of files that are still being fetched start with a dot."""
    return [entry for entry in list_entries(folder) if not entry.name.startswith(".")]


# --- what the records say about copies -------------------------------------------------------------------------------


def find_verified(records: Iterable[Record], copies: Iterable[Copy]) -> set[str]:
    """Find the names of the copies that passed all their checks when they were written, and are still the same files.

    `records` are those of the host and the database.
    """
    records = list(records)
    return {copy.name for copy in copies if find_good_copy(records, copy)}


def find_good_copy(records: Iterable[Record], copy: Copy) -> CopyRecord | None:
    """Find the last record by which a copy passed all its checks when it was written, and is still the same file.

    `records` are those of the host and the database, the oldest first.
    """
    found = [record for record in records if is_of_good_copy(record) and _is_copy(record, copy)]
    return found[-1] if found else None


def find_drilled(records: Sequence[Record], copies: Iterable[Copy]) -> list[str]:
    """Find the names of the copies whose backup a drill has restored with success, the last one first.

    `records` are those of the host and the database, the oldest first.
    """
    drills = [record for record in records if isinstance(record, DrillRecord) and record.exit_status == 0]
    found: dict[str, None] = {}
    copies = list(copies)
    for drill in reversed(drills):
        found |= {copy.name: None for copy in copies if _is_same_backup(drill, copy)}
    return list(found)


def may_be_of_copy(record: Path) -> bool:
    """Tell from the name and the owner of a record that cannot be read whether it may be that of a copy or a drill."""
    kind = [*record.name.split("_"), ""][1]
    try:
        is_own = record.lstat().st_uid == os.geteuid()
    except OSError:
        is_own = True
    return is_own and (kind in COPY_KINDS or kind not in KINDS)


def _is_same_backup(record: Record, copy: Copy) -> bool:
    return record.backup is not None and Path(record.backup).name == copy.name and record.bytes in (None, copy.bytes)


def _is_copy(record: Record, copy: Copy) -> bool:
    """Tell whether a record is about a copy: by its name, size and modification time, to the second."""
    if not _is_same_backup(record, copy) or record.bytes is None or record.created is None:
        return False
    return abs((datetime.fromisoformat(record.created) - copy.modified).total_seconds()) < 1


# --- deletion --------------------------------------------------------------------------------------------------------


def delete_copy(copy: Copy) -> None:
    """Delete a copy, unless it has changed since or is being read; raises LocalDiskError.

    It is not an error if it is already deleted.
    """
    try:
        descriptor = os.open(copy.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _not_deleted(copy, CHANGED if error.errno == errno.ELOOP else str(error)) from error
    try:
        _lock(descriptor)
        if read_copy(copy.path) != copy:
            raise _not_deleted(copy, CHANGED)
        copy.path.unlink(missing_ok=True)
        sync_directory(copy.path.parent)
    except BlockingIOError as error:
        raise _not_deleted(copy, IN_USE) from error
    except OSError as error:
        raise _not_deleted(copy, str(error)) from error
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock a file that no task reads; raises BlockingIOError if one does. Some file systems have no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF):
            raise


def _not_deleted(copy: Copy, problem: str) -> LocalDiskError:
    return LocalDiskError(f"{copy.path} was not deleted", output=problem)
