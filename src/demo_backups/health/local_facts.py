"""What this machine knows about the backups of a database: the records, and the fetched copies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..records.record import REPOSITORY
from ..records.search import CONFIG_ARCHIVE, DRILL, FETCH, OFFSITE, VERIFICATION, find_fetch
from ..records.store import is_name_of, read_records, records_dir
from ..recovery.copies import Copy, list_copies, read_copy
from ..remote.fact import Fact, Unavailable, try_fact
from ..settings.model import BackupSeries, Settings
from .record_judge import Records

KINDS = (VERIFICATION, DRILL, FETCH, OFFSITE, CONFIG_ARCHIVE)


@dataclass(frozen=True)
class LocalFacts:
    """What this machine knows.

    `copies` are the fetched backups below `fetch_dir`, the newest first. `fetched` is the file of the last fetch, which
    may have been made elsewhere; None if it is missing, or if there was no fetch.
    """

    records: Fact[Records]
    copies: Fact[tuple[Copy, ...]]
    fetched: Fact[Copy | None] = None


def observe_local(settings: Settings, host: str, series: BackupSeries, now: datetime) -> LocalFacts:
    """Observe this machine; `now` is the time of its clock."""
    records = try_fact(lambda: _read_records(settings, host, series.name))
    copies = try_fact(lambda: tuple(list_copies(settings, host, series)))
    fetch = None if isinstance(records, Unavailable) else find_fetch(records.valid, host, series.name, now)
    file = fetch.details.file if fetch else None
    fetched = None if file is None else try_fact(lambda: read_copy(Path(file)))
    return LocalFacts(records, copies, fetched)


def _read_records(settings: Settings, host: str, database: str) -> Records:
    def is_wanted(name: str) -> bool:
        is_own = any(is_name_of(name, kind, host, database) for kind in KINDS)
        return is_own or is_name_of(name, OFFSITE, None, REPOSITORY)

    valid, invalid = read_records(records_dir(settings), is_wanted)
    return Records(tuple(valid), tuple(invalid))
