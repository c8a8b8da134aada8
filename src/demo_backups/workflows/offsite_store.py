"""Store the newest verified copy of each series in the off-site repository, and apply the policy there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from ..errors import (
    BackupsError,
    CopyMismatchError,
    InterruptedRunError,
    LocalFileChangedError,
    OffsiteRetentionError,
    SnapshotMismatchError,
)
from ..offsite.candidates import Candidate, find_candidate, require_copies
from ..offsite.location import find_location
from ..offsite.locks import Locks, clear_locks
from ..offsite.program import Restic, open_restic, read_id
from ..offsite.request import StoreRequest
from ..offsite.result import SeriesResult, State, Stored
from ..offsite.retention import as_copy, find_expired, forget, forget_arguments
from ..offsite.snapshots import StoredBackup, read_stored, select
from ..offsite.store import forget_unproven, hash_source, require_contents, store_copy
from ..records.check import Check, Outcome
from ..records.record import OffsiteDetails, Record, new_record
from ..records.search import STORE
from ..records.store import filter_records, read_records, record_outcome, records_dir
from ..recovery.pruning import find_drilled
from ..remote.upload_source import open_source
from ..settings.model import BackupSeries, Settings
from ..ui.console import Console
from ..ui.progress import TransferProgress
from ..units import format_size

EMPTY_POLICY = "copies.daily, copies.weekly and copies.monthly are 0: no backup is removed from the repository"


@dataclass
class _Repository:
    """The repository as it was opened: its ID, its locks, and the backups in it."""

    restic: Restic
    id: str
    locks: Locks
    stored: list[StoredBackup]


def store(settings: Settings, names: Sequence[str] | None, out: Console, dry_run: bool = False) -> Stored:
    """Store the newest verified copy of each series, unless it is in the repository, and apply the policy there.

    `names` are the series; None stands for all. What fails for one series does not stop the others: the result has the
    errors. Raises NoSuchBackupError if there is no copy at all, and SettingsError.
    """
    location = find_location(settings)
    records, _ = read_records(records_dir(settings))
    candidates = [find_candidate(settings, series, records) for series in _select_series(settings, names)]
    if names is not None or not any(candidate.copies for candidate in candidates):
        require_copies(settings, candidates)
    result = Stored(settings.host, location.display, [], dry_run)
    if dry_run:
        result.series = [_plan(candidate, out) for candidate in candidates]
        _show_commands(settings, candidates, out)
        return result
    opener = _Opener(settings, out, result)
    for candidate in candidates:
        result.series.append(_store_series(settings, candidate, opener, out))
    if opener.repository:
        _apply_policy(settings, result, opener.repository, candidates, records, out)
    return result


def _select_series(settings: Settings, names: Sequence[str] | None) -> list[BackupSeries]:
    return settings.all_series() if names is None else [settings.series(name) for name in names]


def _plan(candidate: Candidate, out: Console) -> SeriesResult:
    missing = _describe_missing(candidate, out)
    if missing:
        return missing
    assert candidate.request
    return SeriesResult(candidate.series.name, State.PLANNED, candidate.request.copy, unverified=candidate.unverified)


def _show_commands(settings: Settings, candidates: Sequence[Candidate], out: Console) -> None:
    """Print the commands; restic gets the repository and the password in other ways."""
    restic = open_restic(settings, out.say)
    for candidate in candidates:
        if candidate.request:
            out.say("would run on this machine, unless it is stored:")
            command = shlex.join(restic.command(*candidate.request.arguments()))
            out.say(f"  {restic.location.mask(command)} < {shlex.quote(str(candidate.request.copy.path))}")
    if settings.copies.is_empty:
        out.say(EMPTY_POLICY)
    else:
        out.say("would then remove what copies does not keep:")
        out.say(f"  {shlex.join(restic.command(*forget_arguments([])))} SNAPSHOT ...")


def _describe_missing(candidate: Candidate, out: Console) -> SeriesResult | None:
    """Return the result of a series that has nothing to store; None if it has."""
    name = candidate.series.name
    for copy in candidate.unverified:
        out.say(f"{copy} is not verified, and not stored: fetch it again")
    if candidate.request:
        return None
    if not candidate.copies:
        out.say(f"{name}: there is no fetched backup")
        return SeriesResult(name, State.NO_COPY)
    return SeriesResult(name, State.NOT_VERIFIED, unverified=candidate.unverified)


class _Opener:
    """Opens the repository when the first series needs it; what fails then is the error of every series."""

    def __init__(self, settings: Settings, out: Console, result: Stored) -> None:
        self.repository: _Repository | None = None
        self._settings = settings
        self._out = out
        self._result = result
        self._error: BackupsError | None = None

    def open(self) -> _Repository:
        """Return the repository; raises the error that the first call has raised."""
        if self._error:
            raise self._error
        if self.repository is None:
            try:
                self.repository = _open_repository(self._settings, self._out)
                self._result.removed_locks = self.repository.locks.removed
                self.repository.locks.require_free("storing backups off-site")
            except BackupsError as error:
                self.repository, self._error = None, error
                raise
        return self.repository


def _open_repository(settings: Settings, out: Console) -> _Repository:
    restic = open_restic(settings, out.say)
    repository = read_id(restic)
    locks = clear_locks(restic)
    return _Repository(restic, repository, locks, read_stored(restic, settings))


def _store_series(settings: Settings, candidate: Candidate, opener: _Opener, out: Console) -> SeriesResult:
    missing = _describe_missing(candidate, out)
    if missing:
        return missing
    request = candidate.request
    assert request
    record = new_record("offsite", settings.host, candidate.series.name)
    record.backup, record.bytes, record.created = (
        request.copy.name,
        request.copy.bytes,
        request.copy.modified.isoformat(),
    )
    details = record.details = OffsiteDetails(action=STORE, sha256=request.sha256)
    try:
        with record_outcome(records_dir(settings), record):
            repository = opener.open()
            details.repository = repository.id
            result = _store_candidate(repository, request, record, out)
    except InterruptedRunError:
        raise
    except BackupsError as error:
        result = SeriesResult(candidate.series.name, State.FAILED, request.copy, error=error)
    result.unverified = candidate.unverified
    return result


def _store_candidate(repository: _Repository, request: StoreRequest, record: Record, out: Console) -> SeriesResult:
    details = record.details
    assert isinstance(details, OffsiteDetails)
    found = _find_present(repository, request, out)
    if found:
        details.snapshot = found.snapshot
        record.checks = [Check("stored", Outcome.PASSED, f"already stored as snapshot {found.snapshot[:8]}")]
        out.say(f"{found.name} is already stored as snapshot {found.snapshot[:8]}")
        return SeriesResult(request.series.name, State.PRESENT, request.copy, found)
    copy = request.copy
    try:
        with open_source(copy.path) as source, TransferProgress(out, copy.name, copy.bytes, "storing") as progress:
            hash_source(request, source, progress.show)
            progress.start_transfer(0)
            new = store_copy(repository.restic, request, source, progress.show)
    except (CopyMismatchError, LocalFileChangedError) as error:
        record.checks = [Check("sha256", Outcome.FAILED, error.action)]
        raise
    details.snapshot, details.stored_bytes = new.backup.snapshot, new.stored_bytes
    record.checks = [
        Check("sha256", Outcome.PASSED, request.sha256),
        Check("stored", Outcome.PASSED, f"snapshot {new.backup.snapshot[:8]} has {format_size(copy.bytes)}"),
    ]
    repository.stored.append(new.backup)
    out.say(f"stored {copy.name} as snapshot {new.backup.snapshot[:8]}, {format_size(new.stored_bytes)} new")
    return SeriesResult(request.series.name, State.STORED, copy, new.backup, new.stored_bytes)


def _find_present(repository: _Repository, request: StoreRequest, out: Console) -> StoredBackup | None:
    """Find the backup in the repository; a snapshot that has its tags and not its file is removed."""
    for backup in list(repository.stored):
        owner = (backup.host, backup.database, backup.name, backup.sha256)
        if owner != (request.host, request.series.name, request.copy.name, request.sha256):
            continue
        try:
            require_contents(repository.restic, request, backup.snapshot, f"looking for {backup.name} off-site")
        except SnapshotMismatchError as error:
            out.say(f"removing snapshot {backup.snapshot[:8]}: it has not the content of {backup.name}")
            forget_unproven(repository.restic, backup.snapshot, error)
            repository.stored.remove(backup)
        else:
            return backup
    return None


def _apply_policy(
    settings: Settings,
    result: Stored,
    repository: _Repository,
    candidates: Sequence[Candidate],
    records: Sequence[Record],
    out: Console,
) -> None:
    policy = settings.copies
    if policy.is_empty:
        out.say(EMPTY_POLICY)
        return
    expired: list[StoredBackup] = []
    for candidate in candidates:
        name = candidate.series.name
        stored = select(repository.stored, settings.host, [name])
        drilled = find_drilled(filter_records(records, settings.host, name), map(as_copy, stored))
        expired += find_expired(stored, policy, datetime.now(timezone.utc), drilled)
    if not expired:
        return
    try:
        repository.locks.require_free("removing expired backups", exclusive=True)
        forget(repository.restic, expired)
    except InterruptedRunError:
        raise
    except BackupsError as error:
        result.retention_error = OffsiteRetentionError(
            f"the backups are stored, but the expired ones were not removed: {error.action}",
            output=error.output,
            advice=error.advice,
        )
        return
    result.removed = expired
    for backup in expired:
        out.say(f"removed {backup.name} from the repository: {backup.snapshot[:8]}")
