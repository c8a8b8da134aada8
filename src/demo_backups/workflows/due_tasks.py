"""When the next verification or drill of a database is due."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, TypeVar

from ..errors import SettingsError
from ..records.record import DrillRecord, Record, VerificationRecord
from ..records.search import find_recent, is_good
from ..records.store import read_records, records_dir
from ..settings.model import Settings
from ..ui.console import Console
from ..units import format_time

R = TypeVar("R", bound=Record)


def check_verify_flags(backup: str | None, quick: bool) -> None:
    """Raise SettingsError for flags with which a verification never counts as the last one of the newest backup."""
    if quick or backup is not None:
        raise SettingsError(
            "--due verifies the newest backup, by integrity_check", advice="use it without --backup and --quick"
        )


def find_recent_verification(settings: Settings, database: str, *, compare: bool) -> VerificationRecord | None:
    """Find the last good verification of a database on the host of the settings; None if the next one is due.

    It counts if all its checks passed, integrity_check among them, if it was of the newest backup at that time, and if
    none has failed since. With `compare`, it must have compared the backup with the live source.
    """

    def counts(record: VerificationRecord) -> bool:
        return is_good(record) and record.details.newest and (record.details.compared or not compare)

    return _find_recent(settings, VerificationRecord, database, settings.verify_every, counts)


def find_recent_drill(settings: Settings, database: str) -> DrillRecord | None:
    """Find the last good drill of a database on the host of the settings; None if the next one is due."""
    return _find_recent(settings, DrillRecord, database, settings.drill_every)


def _find_recent(
    settings: Settings, kind: type[R], database: str, every: float, accept: Callable[[R], bool] = is_good
) -> R | None:
    settings.database(database)
    records, _ = read_records(records_dir(settings))
    return find_recent(records, kind, settings.host, database, every, datetime.now(timezone.utc), accept)


def report_recent(record: VerificationRecord | DrillRecord, out: Console) -> None:
    """Report that no verification or drill is due."""
    when = format_time(datetime.fromisoformat(record.when))
    subject = f"no {record.kind} of the {record.database} database"
    out.say(f"{record.host}: {subject} is due: the last good one was at {when}")


def recent_as_json(settings: Settings, record: VerificationRecord | DrillRecord) -> dict[str, Any]:
    """Return the object that a task with `--due --json` prints when nothing is due: that of the last record."""
    backup = {"path": record.backup, "bytes": record.bytes, "created": record.created}
    if isinstance(record, DrillRecord):
        files: dict[str, Any] = {"source": record.details.source, "backup": backup}
    else:
        source = settings.database(record.database).source
        files = {"backup": backup, "source": {"path": str(source), "bytes": record.details.source_bytes}}
    return {
        "host": record.host,
        "database": record.database,
        "due": False,
        **files,
        "checks": [check.as_json() for check in record.checks],
        "passed": record.outcome.value,
    }
