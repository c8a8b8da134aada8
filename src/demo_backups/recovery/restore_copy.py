"""A copy on this machine that is to be restored: it must be the file that was fetched, or came from the repository."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ..errors import CouldNotLookError, RestoreRefusedError, StepError
from ..records.record import FetchRecord, Record
from ..records.search import CopyRecord, is_of_copy, is_of_good_copy
from ..settings.model import BackupSeries, Settings
from ..sqlite.inspect import HEADER_BYTES, parse_header
from .copies import Copy, copies_dir, hash_file, list_copies, read_copy
from .restore_facts import RestoreSource, find_size_problem


@dataclass(frozen=True)
class LocalBackup:
    """A file on this machine, and the record of the task that wrote it, whose SHA-256 it has; None without a record."""

    copy: Copy
    record: CopyRecord | None


def find_local_backup(
    settings: Settings, host: str, series: BackupSeries, backup: str, records: Iterable[Record]
) -> LocalBackup:
    """Find a backup on this machine, by its name among those fetched from the host or by its path.

    Raises StepError if there is none, RestoreRefusedError if it is not the file that its record describes, and
    CouldNotLookError if it cannot be read.
    """
    path = copies_dir(settings, host) / Path(backup).expanduser()
    copy = read_copy(path)
    if copy is None:
        names = [found.name for found in list_copies(settings, host, series)]
        raise StepError(
            f"there is no file {path} on this machine",
            output="\n".join(names),
            advice=f"use one of the fetched backups in {copies_dir(settings, host)}, or a path",
        )
    record = find_copy_record(records, series, path)
    if record:
        _require_unchanged(copy, record)
    return LocalBackup(copy, record)


def find_copy_record(records: Iterable[Record], series: BackupSeries, path: Path) -> CopyRecord | None:
    """Find the record of the task that wrote a file, which may have been moved since: its name decides then."""
    found = [record for record in records if is_of_copy(record) and record.database == series.name]
    found.sort(key=lambda record: record.when, reverse=True)
    same_file = [record for record in found if record.details.file == str(path)]
    same_name = [record for record in found if PurePosixPath(record.backup or "").name == path.name]
    return next(iter(same_file + same_name), None)


def _require_unchanged(copy: Copy, record: CopyRecord) -> None:
    """Raise RestoreRefusedError unless a file has the SHA-256 of its record."""
    try:
        sha256 = hash_file(copy.path)
    except OSError as error:
        raise CouldNotLookError(f"{copy.path} cannot be read", output=str(error)) from error
    if sha256 != record.details.sha256:
        raise RestoreRefusedError(
            f"{copy.path} has changed: its SHA-256 is not that of its record",
            output=f"{sha256} now\n{record.details.sha256} by the record of {record.when}",
            advice="move it out of that directory, and get the backup again",
        )


def describe_source(local: LocalBackup, target: PurePosixPath) -> RestoreSource:
    """Describe a file that is to be uploaded to a path on the host, as the backup that it will be there.

    Raises CouldNotLookError if it cannot be read.
    """
    copy = local.copy
    try:
        with copy.path.open("rb") as file:
            header = parse_header(file.read(HEADER_BYTES).hex(), copy.bytes)
    except OSError as error:
        raise CouldNotLookError(f"{copy.path} cannot be read", output=str(error)) from error
    verified = "not yet: it has no good record here, and is verified after the upload, before anything is changed"
    if is_verified(local):
        assert local.record
        when = f"{local.record.when[:16].replace('T', ' ')} UTC"
        verified = f"when it was {_describe_origin(local.record)}, {when}; it has not changed since"
    source = RestoreSource(target, copy.bytes, copy.modified, header, verified, upload=True)
    return replace(source, problem=find_size_problem(source))


def is_verified(local: LocalBackup) -> bool:
    """Tell whether a file is known to be good: it passed all checks when it was written on this machine."""
    return local.record is not None and is_of_good_copy(local.record)


def _describe_origin(record: CopyRecord) -> str:
    return "fetched" if isinstance(record, FetchRecord) else "restored from the off-site repository"
