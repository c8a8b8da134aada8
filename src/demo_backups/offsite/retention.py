"""Which backups in the repository to keep: by the same policy as the fetched ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ..recovery.copies import Copy
from ..recovery.retention import Decision, judge_copies
from ..settings.model import CopiesSettings
from .program import Restic
from .snapshots import StoredBackup


def find_expired(
    stored: Sequence[StoredBackup], policy: CopiesSettings, now: datetime, drilled: Sequence[str] = ()
) -> list[StoredBackup]:
    """Return the backups of one series of one host that the policy does not keep.

    Every one was verified before it was stored.
    """
    copies = {backup.name: as_copy(backup) for backup in reversed(stored)}
    judgements = judge_copies(copies.values(), policy, now, copies, drilled)
    names = {judgement.copy.name for judgement in judgements if judgement.decision is Decision.DELETED}
    return [backup for backup in stored if backup.name in names]


def as_copy(backup: StoredBackup) -> Copy:
    """Return a stored backup as a copy, for what decides about copies."""
    return Copy(Path(backup.name), backup.bytes, backup.created)


def forget_arguments(backups: Sequence[StoredBackup]) -> list[str]:
    """Return the arguments of restic that remove backups, and the data that only they had."""
    return ["forget", "--prune", *(backup.snapshot for backup in backups)]


def forget(restic: Restic, backups: Sequence[StoredBackup]) -> None:
    """Remove backups from the repository."""
    restic.run("removing expired backups from the off-site repository", *forget_arguments(backups))
