"""A session that is refused while a restore of the database is running or was interrupted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..recovery.restore_journal import require_no_restore
from ..settings.model import BackupSeries, Database, Settings
from ..ui.console import Console
from .session import Session, open_session


@contextlib.contextmanager
def open_guarded_session(
    settings: Settings, series: BackupSeries, out: Console, kind: str | None = None, dry_run: bool = False
) -> Iterator[Session]:
    """Open a session as `open_session` does; raises RestorePendingError where a restore of the database forbids that.

    Only the tasks that restore a database, or follow that, use a plain session.
    """
    with open_session(settings, series, out, kind, dry_run) as work:
        if isinstance(series, Database):
            require_no_restore(work.host, series)
        yield work
