"""The backups in the repository. Their tags say everything: the repository alone is enough to find and restore them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from ..backup.names import is_backup_name
from ..settings.model import BackupSeries, Settings
from .answers import SnapshotAnswer, parse_snapshots
from .program import Restic

SERIES, NAME, SHA256, BYTES = "demo-backups:", "name:", "sha256:", "bytes:"


@dataclass(frozen=True)
class StoredBackup:
    """A backup in the repository: its snapshot, whose backup it is, its size in bytes, its time and its SHA-256."""

    snapshot: str
    host: str
    database: str
    name: str
    bytes: int
    created: datetime
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """Return the object that JSON output has for a stored backup."""
        return {
            "host": self.host,
            "database": self.database,
            "backup": self.name,
            "bytes": self.bytes,
            "created": self.created.isoformat(),
            "sha256": self.sha256,
            "snapshot": self.snapshot,
        }


def tag_of(host_label: str, series: BackupSeries) -> str:
    """Return the tag of all backups of a series of a host."""
    return f"{SERIES}{host_label}/{series.name}"


def path_of(host_label: str, series: BackupSeries) -> str:
    """Return the path of a backup in its snapshot: the same for all of a series, on all machines."""
    return f"/{host_label}/{series.name}{series.suffix}"


def read_stored(restic: Restic, settings: Settings) -> list[StoredBackup]:
    """List the backups in the repository, of all hosts, the newest first; other snapshots are ignored."""
    answers = restic.query("listing the off-site repository", parse_snapshots, "snapshots", "--json", "--no-lock")
    series = {found.name: found for found in settings.all_series()}
    stored = [backup for answer in answers if (backup := _read_stored(answer, series))]
    return sorted(stored, key=lambda backup: (backup.created, backup.name), reverse=True)


def _read_stored(answer: SnapshotAnswer, series: dict[str, BackupSeries]) -> StoredBackup | None:
    """Read the tags of a snapshot; None if it is not one of ours, with a name and values that we would have given."""
    tags = answer.tags or []
    values = [[tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)] for prefix in _PREFIXES]
    if any(len(found) != 1 for found in values):
        return None
    ((owner,), (name,), (sha256,), (size,)) = values
    label, _, database = owner.partition("/")
    if database not in series or not is_backup_name(series[database], name):
        return None
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or not re.fullmatch(r"[1-9][0-9]{0,17}", size):
        return None
    return StoredBackup(answer.id, unquote(label), database, name, int(size), answer.time, sha256)


_PREFIXES = (SERIES, NAME, SHA256, BYTES)


def select(stored: Iterable[StoredBackup], host: str | None, names: Sequence[str] | None) -> list[StoredBackup]:
    """Return those of a host and of some databases; None stands for all."""
    return [backup for backup in stored if host in (None, backup.host) and (names is None or backup.database in names)]
