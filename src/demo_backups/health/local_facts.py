"""What this machine knows about the backups of a database: the records, and the fetched copies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..records.record import Record
from ..records.search import DRILL, FETCH, VERIFICATION, find_fetch
from ..records.store import InvalidRecord, is_name_of, read_records, records_dir
from ..recovery.copies import Copy, list_copies, read_copy
from ..remote.fact import Fact, Unavailable, try_fact
from ..settings.model import Database, Settings


@dataclass(frozen=True)
class Records:
    """The records of the verifications, drills and fetches of a database of a host, and the files that are invalid."""

    valid: tuple[Record, ...] = ()
    invalid: tuple[InvalidRecord, ...] = ()


@dataclass(frozen=True)
class LocalFacts:
    """What this machine knows.

    `copies` are the fetched backups below `fetch_dir`, the newest first. `fetched` is the file of the last fetch, which
    may have been made elsewhere; None if it is missing, or if there was no fetch.
    """

    records: Fact[Records]
    copies: Fact[tuple[Copy, ...]]
    fetched: Fact[Copy | None] = None


def observe_local(settings: Settings, host: str, database: Database, now: datetime) -> LocalFacts:
    """Observe this machine; `now` is the time of its clock."""
    records = try_fact(lambda: _read_records(settings, host, database.name))
    copies = try_fact(lambda: tuple(list_copies(settings, host, database)))
    fetch = None if isinstance(records, Unavailable) else find_fetch(records.valid, host, database.name, now)
    file = fetch.details.file if fetch else None
    fetched = None if file is None else try_fact(lambda: read_copy(Path(file)))
    return LocalFacts(records, copies, fetched)


def _read_records(settings: Settings, host: str, database: str) -> Records:
    def is_wanted(name: str) -> bool:
        return any(is_name_of(name, kind, host, database) for kind in (VERIFICATION, DRILL, FETCH))

    valid, invalid = read_records(records_dir(settings), is_wanted)
    return Records(tuple(valid), tuple(invalid))
