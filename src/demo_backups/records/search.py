"""Find the last record of a kind for a database of a host."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TypeAlias, TypeGuard, TypeVar

from .check import Outcome
from .record import BackupConfigRecord, DrillRecord, FetchRecord, OffsiteRecord, Record, VerificationRecord

R = TypeVar("R", bound=Record)
CopyRecord: TypeAlias = FetchRecord | OffsiteRecord  # of the tasks that write copies on this machine
VERIFICATION, DRILL, FETCH = VerificationRecord.kind, DrillRecord.kind, FetchRecord.kind
OFFSITE, CONFIG_ARCHIVE = OffsiteRecord.kind, BackupConfigRecord.kind
STORE, CHECK, RESTORE = "store", "check", "restore"  # the actions of an OffsiteRecord; a restore writes a copy here


def is_good(record: Record) -> bool:
    """Tell whether all checks of a record were made and passed.

    A quick_check, which does not check indexes, is not enough. Files that a drill has left do not matter.
    """
    is_quick = isinstance(record, VerificationRecord) and record.details.quick
    return bool(record.checks) and record.outcome is Outcome.PASSED and not is_quick


def has_failed(record: Record) -> bool:
    """Tell whether a check of a record failed; a task that ended before it had checked anything does not count."""
    return record.outcome is Outcome.FAILED


def find_last(
    records: Iterable[Record],
    kind: type[R],
    host: str,
    database: str,
    accept: Callable[[R], bool] = is_good,
    until: datetime | None = None,
) -> R | None:
    """Find the last record of a kind for a database of a host that is accepted: by default, the last good one.

    A record from after `until`, written before the clock was set back, does not count.
    """
    found: R | None = None
    for record in records:
        if not isinstance(record, kind) or (record.host, record.database) != (host, database):
            continue
        when = datetime.fromisoformat(record.when)
        if until is not None and when > until:
            continue
        if accept(record) and (found is None or when >= datetime.fromisoformat(found.when)):
            found = record
    return found


def find_recent(
    records: Iterable[Record],
    kind: type[R],
    host: str,
    database: str,
    every: float,
    now: datetime,
    accept: Callable[[R], bool] = is_good,
) -> R | None:
    """Find the last record that is accepted, if it is less than `every` seconds ago; None if the next one is due.

    The next one is also due if one has failed since.
    """
    record = find_last(records, kind, host, database, lambda record: accept(record) or has_failed(record), until=now)
    if record is None or has_failed(record) or now - datetime.fromisoformat(record.when) >= timedelta(seconds=every):
        return None
    return record


def is_of_copy(record: Record) -> TypeGuard[CopyRecord]:
    """Tell whether a record is that of a copy written on this machine, fetched or from the off-site repository.

    It has the SHA-256 of the copy; what the checks of the copy found is another question.
    """
    if isinstance(record, OffsiteRecord) and record.details.action != RESTORE:
        return False
    return isinstance(record, FetchRecord | OffsiteRecord) and bool(record.details.sha256)


def is_of_good_copy(record: Record) -> TypeGuard[CopyRecord]:
    """Tell whether a record is that of a copy written on this machine that passed all its checks."""
    return is_of_copy(record) and is_good(record) and record.exit_status == 0


def find_fetch(records: Iterable[Record], host: str, database: str, until: datetime) -> FetchRecord | None:
    """Find the last fetch that has put a backup on this machine, also one that could not be checked completely.

    One from after `until` does not count.
    """
    return find_last(records, FetchRecord, host, database, has_copy, until)


def has_copy(record: FetchRecord) -> bool:
    """Tell whether a fetch has put a backup on this machine whose checks found no fault."""
    return record.error is None and bool(record.checks) and not has_failed(record) and record.details.file is not None


def is_stored(record: Record) -> bool:
    """Tell whether a record is of a backup that was stored off-site, or found to be stored there, without a fault."""
    return isinstance(record, OffsiteRecord) and record.details.action == STORE and is_good(record)
