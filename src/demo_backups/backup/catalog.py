"""Which backups there are on a host, and which process makes one now."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..remote.files import File, files_command, parse_files, stat_file
from ..remote.host import Host
from ..remote.processes import Process, is_locked_command, processes_with_open
from ..remote.shell import quote
from ..settings import Database


def is_backup_name(database: Database, name: str) -> bool:
    """Tell whether a file name is one that the database's script gives."""
    return bool(re.fullmatch(re.escape(database.backup_prefix) + r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.db", name))


def list_backups(host: Host, database: Database) -> list[File]:
    """List a database's backups, the newest first; raises CouldNotLookError where the folder cannot be read."""
    command = files_command(database.backup_dir, f"{database.backup_prefix}*.db")
    advice = f"is backup_dir right? If so, make the folder there: mkdir -m 750 {quote(database.backup_dir)}"
    files = host.query_parsed(f"list the backups in {database.backup_dir}", command, parse_files, advice=advice)
    backups = (file for file in files if is_backup_name(database, file.path.name))
    return sorted(backups, key=lambda file: (file.modified, file.path), reverse=True)


def find_new_backup(before: Iterable[str], after: Iterable[File], ended: float) -> File | None:
    """Find the backup that a run made: the first that was not there before, written before the run ended.

    `after` comes with the newest first, and may hold backups that were made since; `ended` is in seconds since 1970, by
    the clock of the host, as are the times of its files.
    """
    known = set(before)
    new = (file for file in reversed(list(after)) if file.path.name not in known)
    return next((file for file in new if file.modified.timestamp() <= ended), None)


def backup_processes(host: Host, database: Database) -> list[Process]:
    """See which processes back a database up now, whoever started them: they have the script's lock file open."""
    return processes_with_open(host, database.lock) if stat_file(host, database.lock) else []


def has_hidden_backup(host: Host, database: Database) -> bool:
    """Tell whether a backup goes on none of whose processes can be seen: only root sees what others have open."""

    def locked() -> bool:
        return host.query(f"see whether {database.lock} is held", is_locked_command(database.lock)) == "yes\n"

    return locked() and not backup_processes(host, database) and locked()
