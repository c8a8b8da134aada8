"""Change the journal mode of a live database: to WAL mode, in which a backup does not block writers, and back."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import JournalModeError
from ..remote.answers import parse_line
from ..remote.host import Host, Result
from ..remote.notify import Notify, ignore
from ..remote.shell import quote
from ..remote.sudo import USE_SUDO
from ..settings.model import Database
from .command import LOCKED, sidecar_path, sqlite_command
from .inspect import EXCLUSIVE_NOTE, describe_users, read_header
from .sidecars import list_sidecars, sidecars_writable

RETRY_TIMEOUT = 60  # seconds for which the change is retried while writers keep the database busy

JOURNAL_MODES = {"delete", "truncate", "persist", "memory", "wal", "off"}  # pragma.html#pragma_journal_mode


@dataclass(frozen=True)
class JournalMode:
    """The journal mode of a database, its `-wal` and `-shm` files that exist, and the owners of all of them."""

    wal: bool
    sidecars: list[PurePosixPath]
    owners: frozenset[str]


def journal_mode_name(wal: bool) -> str:
    """Name a journal mode for messages."""
    return "WAL" if wal else "rollback"


def describe_wal_mode(host: Host, database: Database) -> str:
    """Explain what WAL mode changes, for the maintainer (wal.html)."""
    name = database.source.name
    undo = host.task("enable-wal", "--database", database.name, "--undo")
    return f"""\
in WAL mode the database consists of three files that belong together:
  {name}      the data up to the last checkpoint
  {name}-wal  the commits since then; a copy without it is outdated or corrupt
  {name}-shm  the index of the -wal, shared by the processes that have the database open
A checkpoint copies the -wal into the database every 1,000 pages. During a backup the -wal grows, and it does not shrink
afterwards. The mode stays until you change it back: {undo}"""


def journal_mode_command(database: Database, wal: bool) -> str:
    """Build the command that changes the journal mode."""
    pragma = f"PRAGMA journal_mode={'WAL' if wal else 'DELETE'}"
    return sqlite_command(database.source, pragma, writable=True, timeout=1)


def owners_command(paths: list[PurePosixPath]) -> str:
    """Build the command that prints the owner and group of those files that exist."""
    quoted = " ".join(quote(path) for path in paths)
    return f'set -e; for path in {quoted}; do [ ! -e "$path" ] || stat -c %U:%G -- "$path"; done'


def parse_owners(output: str) -> frozenset[str]:
    """Parse what `owners_command` printed; raises ValueError, also where there is no owner at all."""
    owners = frozenset(output.splitlines())
    if not owners or not all(re.fullmatch(r"\S+:\S+", owner) for owner in owners):
        raise ValueError("not a list of owners")
    return owners


def read_journal_mode(host: Host, database: Database) -> JournalMode:
    """Read the journal mode from the header (fileformat2.html, section 1.3.3).

    Raises CouldNotLookError, and NoDatabaseError where there is no database.
    """
    source = database.source
    header = read_header(host, source)
    sidecars = [sidecar_path(source, suffix) for suffix in list_sidecars(host, source) if suffix != "-journal"]
    owners = host.query_parsed("read the owners of the files", owners_command([source, *sidecars]), parse_owners)
    return JournalMode(header.wal, sidecars, owners)


def check_sidecars_writable(host: Host, database: Database) -> None:
    """Raise JournalModeError where the change would create files that the service cannot write."""
    if not sidecars_writable(host, database.source):
        raise JournalModeError(
            f"{database.source} belongs to another user: its service could not write the files that this would create",
            host=host.name,
            advice=USE_SUDO,
        )


def change_journal_mode(host: Host, database: Database, wal: bool, notify: Notify = ignore) -> int:
    """Change the journal mode; return the number of tries. Raises JournalModeError.

    The change to WAL mode is retried while writers keep the database locked, and `notify` gets a message. The change
    back is tried once: it needs a database that no other process has open.
    """
    deadline = time.monotonic() + (RETRY_TIMEOUT if wal else 0)
    command = journal_mode_command(database, wal)
    tries = 0
    while True:
        tries += 1
        result = host.run("change the journal mode", command, root=True)
        if _is_changed(host, result, wal):
            return tries
        if result.status not in LOCKED or time.monotonic() > deadline:
            raise _explain_failure(host, database, result, wal)
        if tries == 1:
            notify(f"{database.source} is locked: trying for up to {RETRY_TIMEOUT} s, while its service keeps running")


def check_journal_mode(host: Host, database: Database, wal: bool) -> JournalMode:
    """Check that the database is in the mode that it was changed to; raises JournalModeError."""
    mode = read_journal_mode(host, database)
    if mode.wal != wal:
        raise JournalModeError(
            f"{database.source} is not in {journal_mode_name(wal)} mode, although SQLite reported the change",
            host=host.name,
            advice="does its service set the mode when it starts?",
        )
    if len(mode.owners) > 1:
        raise JournalModeError(
            f"the files of {database.source} have different owners: its service may not be able to write them",
            host=host.name,
            output=", ".join(sorted(mode.owners)),
            advice="change the owner of the -wal and -shm to the owner of the database",
        )
    return mode


def parse_journal_mode(output: str) -> str:
    """Parse what `PRAGMA journal_mode` printed; raises ValueError."""
    mode = parse_line(output)
    if mode not in JOURNAL_MODES:
        raise ValueError(f"{mode[:50]!r} is not a journal mode")
    return mode


def _is_changed(host: Host, result: Result, wal: bool) -> bool:
    # A pragma that cannot change the mode may print the mode in force and exit with 0.
    if not result.ok:
        return False
    return host.parse("change the journal mode", result.stdout, parse_journal_mode) == ("wal" if wal else "delete")


def _explain_failure(host: Host, database: Database, result: Result, wal: bool) -> JournalModeError:
    """Explain why the mode was not changed, with the processes that have the database open."""
    if result.status not in LOCKED:
        advice = host.advise(result)
        return JournalModeError("the journal mode was not changed", host=host.name, output=result.output, advice=advice)
    listing = describe_users(host, database.source)
    if wal:
        action = f"{database.source} stayed locked for {RETRY_TIMEOUT} s: a process keeps a transaction open"
        advice = f"end that transaction, or try again when there is less traffic; nothing was changed. {EXCLUSIVE_NOTE}"
    else:
        action = f"{database.source} is open in another process: WAL mode can be left only while no process has it open"
        advice = (
            f"stop its service (on the demo: docker compose stop {database.name}, in the folder of app_dir), "
            "run this again, start the service; nothing was changed"
        )
    return JournalModeError(action, host=host.name, output=f"{result.output}\n{listing}", advice=advice)
