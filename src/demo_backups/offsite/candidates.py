"""Which copy of a series is to be stored: the newest one that is verified."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import NoSuchBackupError
from ..records.record import Record
from ..records.store import filter_records
from ..recovery.copies import Copy, copies_dir, list_copies
from ..recovery.pruning import find_good_copy
from ..settings.model import BackupSeries, Settings
from .request import StoreRequest


@dataclass
class Candidate:
    """A series, its newest verified copy if there is one, and the names of newer copies that are not verified."""

    series: BackupSeries
    copies: Sequence[Copy]
    request: StoreRequest | None = None
    unverified: list[str] = field(default_factory=list)


def find_candidate(settings: Settings, series: BackupSeries, records: Sequence[Record]) -> Candidate:
    """Find the copy to store among the copies of a series of the host; `records` are those of all hosts."""
    copies = list_copies(settings, settings.host, series)
    own_records = filter_records(records, settings.host, series.name)
    candidate = Candidate(series, copies)
    for copy in copies:
        record = find_good_copy(own_records, copy)
        if record and record.details.sha256:
            label = copies_dir(settings, settings.host).name
            candidate.request = StoreRequest(settings.host, label, series, copy, record.details.sha256)
            break
        candidate.unverified.append(copy.name)
    return candidate


def require_copies(settings: Settings, candidates: Sequence[Candidate]) -> None:
    """Raise NoSuchBackupError for a series without any copy."""
    for candidate in candidates:
        if not candidate.copies:
            raise NoSuchBackupError(
                f"there is no fetched backup of {candidate.series.name} in {copies_dir(settings, settings.host)}",
                advice=f"fetch one first: ./inv fetch --host {shlex.quote(settings.host)} --database "
                f"{candidate.series.name}",
            )
