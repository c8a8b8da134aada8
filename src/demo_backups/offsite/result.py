"""What a call of `inv offsite` has done, for the console and as JSON."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import FAILED, BackupsError, combine_exit_codes
from ..records.check import Check, Checked
from ..recovery.copies import Copy
from .locks import Lock
from .snapshots import StoredBackup


class Result(Protocol):
    """The result of a call, whatever it did."""

    @property
    def exit_code(self) -> int:
        """The exit code of the task."""

    @property
    def errors(self) -> Sequence[BackupsError]:
        """What failed for a part of the task; an error of the whole task is raised."""

    def as_json(self) -> dict[str, Any]:
        """Return the object that `inv offsite --json` prints."""


@dataclass
class Done:
    """The result of a call that only creates the repository, or of a dry run, which has printed what it would do."""

    repository: str
    id: str | None = None
    dry_run: bool = False
    exit_code: int = 0
    errors: Sequence[BackupsError] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the object that `inv offsite --init --json` prints, and each dry run but that of a store."""
        return {"repository": self.repository, "id": self.id, "dry_run": self.dry_run}


class State(enum.Enum):
    """What became of the newest verified copy of a series."""

    STORED = "stored"
    PRESENT = "already stored"
    PLANNED = "would be stored"
    NO_COPY = "no copy"
    NOT_VERIFIED = "no verified copy"
    FAILED = "failed"


@dataclass
class SeriesResult:
    """The result for one series: the copy, what became of it, and the newer copies that are not verified.

    `backup` is the copy as it is in the repository, if it is there.
    """

    database: str
    state: State
    copy: Copy | None = None
    backup: StoredBackup | None = None
    stored_bytes: int = 0
    unverified: Sequence[str] = ()
    error: BackupsError | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of this series alone; a series without any copy does not count."""
        if self.error:
            return self.error.exit_code
        return FAILED if self.state is State.NOT_VERIFIED else 0

    def as_json(self) -> dict[str, Any]:
        """Return the object that `inv offsite --json` has for the series."""
        values: dict[str, Any] = {}
        if self.copy:
            values = {"backup": self.copy.name, "bytes": self.copy.bytes}
        if self.backup:
            values |= self.backup.as_json()
            del values["host"]
        return {
            "database": self.database,
            "state": self.state.value,
            **values,
            "stored_bytes": self.stored_bytes,
            "not_verified": list(self.unverified),
            "error": None if self.error is None else str(self.error),
        }


@dataclass
class Stored:
    """The result of a store: each series, the locks that were removed, and what was removed by the policy."""

    host: str
    repository: str
    series: list[SeriesResult]
    dry_run: bool = False
    removed_locks: Sequence[Lock] = ()
    removed: list[StoredBackup] = field(default_factory=list)
    retention_error: BackupsError | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of all series and of the policy together."""
        codes = [found.exit_code for found in self.series]
        return combine_exit_codes([*codes, self.retention_error.exit_code if self.retention_error else 0])

    @property
    def errors(self) -> list[BackupsError]:
        """The errors, each once."""
        found: list[BackupsError] = []
        for error in [*(result.error for result in self.series), self.retention_error]:
            if error is not None and error not in found:
                found.append(error)
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the object that `inv offsite --json` prints."""
        return {
            "host": self.host,
            "repository": self.repository,
            "dry_run": self.dry_run,
            "backups": [result.as_json() for result in self.series],
            "locks_removed": [str(lock) for lock in self.removed_locks],
            "removed": [backup.as_json() for backup in self.removed],
            "retention_error": None if self.retention_error is None else str(self.retention_error),
        }


@dataclass
class RepositoryCheck(Checked):
    """The result of a check of the repository: which part of the data was read."""

    repository: str
    part: int
    parts: int
    checks: list[Check]
    removed_locks: Sequence[Lock] = ()
    errors: Sequence[BackupsError] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the object that `inv offsite --check --json` prints."""
        return {
            "repository": self.repository,
            "part": self.part,
            "parts": self.parts,
            "locks_removed": [str(lock) for lock in self.removed_locks],
            "checks": [check.as_json() for check in self.checks],
        }


@dataclass
class StoredList:
    """The backups in the repository that were selected, the newest first, and how many others there are."""

    repository: str
    backups: list[StoredBackup]
    others: int = 0
    exit_code: int = 0
    errors: Sequence[BackupsError] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the object that `inv offsite --list --json` prints."""
        return {"repository": self.repository, "backups": [backup.as_json() for backup in self.backups]}


@dataclass
class Restored(Checked):
    """A backup that was brought back from the repository, and its checks on this machine."""

    backup: StoredBackup
    file: Path
    checks: list[Check]
    errors: Sequence[BackupsError] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the object that `inv offsite --restore NAME --json` prints."""
        return self.backup.as_json() | {"file": str(self.file), "verified": self.outcome.value}
