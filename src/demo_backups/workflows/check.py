"""Judge the backups of a database: observe its host and this machine, and decide."""

from __future__ import annotations

import time

from ..backup.catalog import list_backups
from ..errors import ConnectionLostError, CouldNotLookError, HostKeyError, HostUnreachableError, LoginError
from ..health.state import Finding, Health, Metrics, State
from .session import Session

UNREACHABLE = (ConnectionLostError, HostUnreachableError, HostKeyError, LoginError)


def check_database(work: Session) -> Health:
    """Judge the backups of the session's database; whatever cannot be determined is an UNKNOWN finding.

    Raises HostUnreachableError, HostKeyError, LoginError or ConnectionLostError if the host cannot be reached any more.
    """
    now = time.time()
    try:
        backups = list_backups(work.host, work.database)
    except UNREACHABLE:
        raise
    except CouldNotLookError as error:
        finding = Finding("backup", State.UNKNOWN, error.action)
        return Health(work.host.name, work.database.name, (finding,), Metrics(now))
    if not backups:
        finding = Finding("backup", State.CRITICAL, "no backup")
        return Health(work.host.name, work.database.name, (finding,), Metrics(now))
    age = now - backups[0].modified.timestamp()
    warn, critical = work.settings.check.warn_age or 26 * 3600, work.settings.check.critical_age or 50 * 3600
    state = State.CRITICAL if age > critical else State.WARNING if age > warn else State.OK
    finding = Finding("backup", state, f"backup {age / 60:.0f} min old")
    metrics = Metrics(
        now, backups[0].modified.timestamp(), backups[0].bytes, warn_age=float(warn), critical_age=float(critical)
    )
    return Health(work.host.name, work.database.name, (finding,), metrics)
