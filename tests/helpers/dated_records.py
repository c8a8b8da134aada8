"""Records, copies and backups of some hours before a time, for what `check` decides from them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath
from typing import Any

from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import Record
from demo_backups.records.store import InvalidRecord
from demo_backups.recovery.copies import Copy
from demo_backups.remote.fact import Unavailable
from demo_backups.remote.files import File

from .records import make_record

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=timezone.utc)
PASSED, FAILED, UNDECIDED = (Check("integrity", outcome, "x\n\x1b") for outcome in Outcome)
DENIED = Unavailable("could not look", "could not look")


def record(
    age: float, kind: str = "verification", check: Check | None = PASSED, older: float = 0, **values: Any
) -> Record:
    """Make a record of some hours ago, of a backup that was complete `older` hours before."""
    when = NOW - timedelta(hours=age)
    created = when - timedelta(hours=older)
    backup = f"/srv/backup_{created:%H}.db"
    defaults = {"when": when.isoformat(), "created": created.isoformat(), "backup": backup, "bytes": 5}
    return make_record(kind, **defaults | {"checks": [check] if check else []} | values)


def invalid(age: float, kind: str = "verification", host: str = "demo") -> InvalidRecord:
    """Make the file of a damaged record of some hours ago."""
    when = NOW - timedelta(hours=age)
    return InvalidRecord(Path(f"/e/{when:%Y-%m-%dT%H-%M-%S.%f}_{kind}_{host}_index.json"), "it is empty")


def copy(age: float, size: int = 5, seconds: float = 0) -> Copy:
    """Make a fetched copy of a backup of some hours ago."""
    return Copy(Path("/c/backup_09.db"), size, NOW - timedelta(hours=age, seconds=seconds))


def backup(age: float) -> File:
    """Make a backup on the host that was complete some hours ago."""
    modified = NOW - timedelta(hours=age)
    return File(PurePosixPath(f"/srv/backup_{modified:%d_%H}.db"), 5, modified)
