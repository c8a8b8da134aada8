"""The state of one thing that `inv check` considers, and of a database.

The names and numbers are those of the monitoring plugins guidelines, which are also the exit codes of `inv check`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any


class State(enum.Enum):
    """A state; its value is the exit code of a monitoring plugin."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


WORST_FIRST = (State.CRITICAL, State.UNKNOWN, State.WARNING, State.OK)


def worst_of(states: Iterable[State]) -> State:
    """Return the worst of some states; UNKNOWN if there are none, since nothing was considered."""
    return min(states, key=WORST_FIRST.index, default=State.UNKNOWN)


@dataclass(frozen=True)
class Finding:
    """One thing that was considered, such as "backup", and what was found, such as "backup 59 min old"."""

    name: str
    state: State
    text: str

    def as_json(self) -> dict[str, str]:
        """Return the finding as a JSON object."""
        return {"name": self.name, "state": self.state.name, "text": self.text}


@dataclass(frozen=True)
class Metrics:
    """What is measured of a database: times in seconds since 1970, sizes in bytes; None if unknown or never.

    `backups_listed`: the host has answered which backups there are.
    `now` is the time by the clock of this machine, to which the ages of records refer. `host_now` is that by the
    clock of the host, to which the age of the backup refers; None: it is the same.
    """

    now: float
    backup_time: float | None = None
    backup_bytes: int | None = None
    verification_time: float | None = None
    drill_time: float | None = None
    copy_time: float | None = None
    offsite_time: float | None = None
    warn_age: float | None = None
    critical_age: float | None = None
    host_now: float | None = None
    backups_listed: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the metrics as a JSON object, with the times in UTC."""
        values = asdict(self)
        is_time = {key for key in values if key in ("now", "host_now") or key.endswith("_time")}
        return {key: _format_time(value) if key in is_time else value for key, value in values.items()}


def _format_time(time: float | None) -> str | None:
    return None if time is None else datetime.fromtimestamp(time, timezone.utc).isoformat()


@dataclass(frozen=True)
class Health:
    """The state of the backups of one database of one host."""

    host: str
    database: str
    findings: tuple[Finding, ...]
    metrics: Metrics | None = None

    @property
    def state(self) -> State:
        """The worst state of the findings."""
        return worst_of(finding.state for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the state of the database as a JSON object."""
        return {
            "database": self.database,
            "state": self.state.name,
            "findings": [finding.as_json() for finding in self.findings],
            "metrics": None if self.metrics is None else self.metrics.as_json(),
        }
