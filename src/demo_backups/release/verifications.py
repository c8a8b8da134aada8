"""What the records of verifications say about a backup."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from .. import units
from ..records.check import Outcome
from ..records.record import Record, VerificationRecord
from ..remote.files import File


def verifications_by_path(records: Sequence[Record], host: str, database: str) -> dict[str | None, list[Record]]:
    """Group the verifications of a host's backups by the path of the backup, newest first."""
    groups: dict[str | None, list[Record]] = {}
    for record in reversed(records):
        is_verification = (record.kind, record.host, record.database) == ("verification", host, database)
        if is_verification and not is_partial(record):
            groups.setdefault(record.backup, []).append(record)
    return groups


def is_of_file(record: Record, file: File) -> bool:
    """Tell whether the verification of a path is of the file that is there now; old records have no time."""
    same_time = record.created is None or datetime.fromisoformat(record.created) == file.modified
    return record.bytes == file.bytes and same_time


def has_passed(record: Record) -> bool:
    """Tell whether all checks were made and passed."""
    return record.exit_status == 0 and bool(record.checks) and record.outcome is Outcome.PASSED


def describe_result(record: Record) -> str:
    """Describe the result of the checks."""
    if has_passed(record):
        return "passed"
    return "not all checks could be made" if record.outcome is Outcome.UNKNOWN else "FAILED"


def is_partial(record: Record) -> bool:
    """Tell whether it passed only by some checks: without the source, or by quick_check.

    The latter does not verify indexes (pragma.html#pragma_quick_check).
    """
    if not isinstance(record, VerificationRecord):
        return False
    return (record.details.quick or not record.details.compared) and has_passed(record)


def format_time(record: Record) -> str:
    """Return the time of a record in UTC, to the minute."""
    return units.format_time(datetime.fromisoformat(record.when))
