"""Delete the fetched backups that the settings do not keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ..errors import FAILED, CouldNotLookError, LocalDiskError
from ..records.record import PruneDetails, new_record
from ..records.store import InvalidRecord, filter_records, read_records, record_outcome, records_dir
from ..recovery.copies import Copy, list_copies
from ..recovery.pruning import (
    StrayFile,
    delete_copy,
    find_drilled,
    find_verified,
    list_hosts,
    list_strays,
    may_be_of_copy,
)
from ..recovery.retention import Decision, Judgement, judge_copies
from ..settings.model import Settings


@dataclass
class PrunedCopies:
    """The copies of a series of a host, what was decided about them, and which could not be deleted, and why."""

    host: str
    database: str
    judgements: list[Judgement]
    deleted: list[Copy] = field(default_factory=list)
    failures: dict[Copy, str] = field(default_factory=dict)

    @property
    def expired(self) -> list[Copy]:
        """The copies to delete, the oldest first."""
        return [judgement.copy for judgement in reversed(self.judgements) if judgement.decision is Decision.DELETED]


@dataclass
class Pruning:
    """The result of a pruning: the copies, the other files next to them, and the records that could not be read."""

    groups: list[PrunedCopies]
    strays: list[StrayFile]
    invalid_records: list[InvalidRecord]
    policy: dict[str, int]
    dry_run: bool

    @property
    def exit_code(self) -> int:
        """1 if a copy could not be deleted, or was not judged because its times contradict each other; else 0."""
        is_refused = any(judgement.is_refused for group in self.groups for judgement in group.judgements)
        return FAILED if is_refused or any(group.failures for group in self.groups) else 0

    def as_json(self) -> dict[str, Any]:
        """Return the object that `inv prune-copies --json` prints."""
        return {
            "dry_run": self.dry_run,
            "policy": self.policy,
            "copies": [_copy_as_json(group, judgement) for group in self.groups for judgement in group.judgements],
            "others": [{"file": str(stray.path), "why": stray.reason} for stray in self.strays],
            "damaged": [{"file": str(file.path), "why": file.reason} for file in self.invalid_records],
        }


def _copy_as_json(group: PrunedCopies, judgement: Judgement) -> dict[str, Any]:
    copy = judgement.copy
    return {
        "host": group.host,
        "database": group.database,
        "file": str(copy.path),
        "bytes": copy.bytes,
        "created": copy.modified.isoformat(),
        "decision": judgement.decision.value,
        "why": list(judgement.reasons),
        "deleted": copy in group.deleted,
        "error": group.failures.get(copy),
    }


def prune_copies(settings: Settings, names: Sequence[str] | None, dry_run: bool) -> Pruning:
    """Decide about the fetched backups of all hosts, and delete those that the settings do not keep.

    `names` are those of the series of backups; None stands for all. Nothing is deleted before everything was looked
    at. Raises CouldNotLookError if the directories or the records cannot be read, and UnsafePathError if others can
    write to them.
    """
    selected = [series for series in settings.all_series() if names is None or series.name in names]
    records, invalid = read_records(records_dir(settings))
    hosts, strays = list_hosts(settings)
    now = datetime.now(timezone.utc)
    groups = []
    for host in hosts:
        strays += list_strays(settings, host, settings.all_series())
        for series in selected:
            copies = list_copies(settings, host, series)
            own_records = filter_records(records, host, series.name)
            verified, drilled = find_verified(own_records, copies), find_drilled(own_records, copies)
            judgements = judge_copies(copies, settings.copies, now, verified, drilled)
            if judgements:
                groups.append(PrunedCopies(host, series.name, judgements))
    expired = [group for group in groups if group.expired]
    if expired and not dry_run:
        _require_known_copies(invalid)
        for group in expired:
            _delete(settings, group)
    return Pruning(groups, strays, invalid, settings.copies.model_dump(), dry_run)


def _require_known_copies(invalid: Sequence[InvalidRecord]) -> None:
    """Raise CouldNotLookError if an invalid record could be that of the newest verified or the last drilled copy.

    One of another user never counts.
    """
    unknown = [file for file in invalid if may_be_of_copy(file.path)]
    if unknown:
        raise CouldNotLookError(
            "no copy was deleted: a record is invalid, and could be about the last good one",
            output="\n".join(f"{file.path}: {file.reason}" for file in unknown),
            advice="read it; then move it out of that directory, and fetch a backup: that one is known to be good",
        )


def _delete(settings: Settings, group: PrunedCopies) -> None:
    record = new_record("prune-copies", group.host, group.database)
    with record_outcome(records_dir(settings), record):
        details = PruneDetails(deleted=[])
        record.details = details
        for copy in group.expired:
            try:
                delete_copy(copy)
            except LocalDiskError as error:
                group.failures[copy] = error.output
            else:
                group.deleted.append(copy)
                details.deleted.append(copy.name)
        if group.failures:
            record.exit_status = FAILED
            record.error = "\n".join(
                f"{copy.path} was not deleted: {reason}" for copy, reason in group.failures.items()
            )
