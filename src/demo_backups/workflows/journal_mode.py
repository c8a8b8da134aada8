"""Change the journal mode of the live database."""

from __future__ import annotations

from ..sqlite.inspect import resolve_source
from ..sqlite.journal_mode import (
    change_journal_mode,
    check_journal_mode,
    check_sidecars_writable,
    describe_wal_mode,
    journal_mode_command,
    journal_mode_name,
    read_journal_mode,
)
from ..sqlite.sharing import require_sharing
from .session import Session


def enable_wal(work: Session, undo: bool = False) -> None:
    """Switch the live database to WAL mode, or with `undo` to rollback mode; if it already is in that mode, say so."""
    wal = not undo
    name = journal_mode_name(wal)
    work.series = resolve_source(work.host, work.database)
    is_wal = read_journal_mode(work.host, work.database).wal
    if wal:  # also where it is in WAL mode already: that is not a success then
        require_sharing(work.host, work.database, is_wal)
    if is_wal == wal:
        work.out.say(f"{work.database.source} is already in {name} mode: nothing to do")
        return
    check_sidecars_writable(work.host, work.database)
    if wal:
        work.out.say(describe_wal_mode(work.host, work.database))
    if work.dry_run:
        work.show(journal_mode_command(work.database, wal))
        return
    attempts = change_journal_mode(work.host, work.database, wal, work.out.say)
    mode = check_journal_mode(work.host, work.database, wal)
    sidecars = ", ".join(path.name for path in mode.sidecars) or "none"
    work.out.say(f"{work.database.source} is now in {name} mode (attempts: {attempts}); sidecar files: {sidecars}")
