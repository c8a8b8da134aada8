"""The sqlite3 command: how it is called on a host, and what its exit status means."""

from __future__ import annotations

import enum
import shlex
from pathlib import PurePosixPath
from urllib.parse import quote as percent_encode

from ..remote.host import Result
from ..remote.shell import CRON_PATH

SQLITE = ("sqlite3", "-batch", "-init", "/dev/null", "-bail")  # no start-up file; stop at the first error
PIN = ("BEGIN", "SELECT 1 FROM sqlite_master LIMIT 0")  # pin a read snapshot, as the scripts do
LOCK_TIMEOUT = 120  # seconds that sqlite3 waits for a lock, as in the scripts; meanwhile it blocks nobody
SIGNAL_OR_NOT_STARTED = 126  # exit statuses from here on are the shell's: not executable, not found, ended by a signal


class AccessError(enum.IntEnum):
    """The result codes of SQLite that mean a lock or missing access (rescode.html).

    They say nothing about the content of the file. sqlite3 exits with the code.
    """

    PERM = 3
    BUSY = 5
    LOCKED = 6
    READONLY = 8
    CANTOPEN = 14
    PROTOCOL = 15
    AUTH = 23


LOCKED = (AccessError.BUSY, AccessError.LOCKED)
DAMAGED = (11, 26)  # SQLITE_CORRUPT and SQLITE_NOTADB


def sidecar_path(path: PurePosixPath, suffix: str) -> PurePosixPath:
    """Return the path of a file that SQLite keeps next to a database."""
    return path.with_name(path.name + suffix)


def sqlite_command(
    path: PurePosixPath,
    *statements: str,
    immutable: bool = False,
    writable: bool = False,
    timeout: float = LOCK_TIMEOUT,
) -> str:
    """Build the command that runs statements on a database, read-only unless `writable`.

    A missing database is an error and is never created (uri.html). sqlite3 waits up to `timeout` seconds for a lock.
    With `immutable` it takes no lock, creates no file next to the database and ignores those that exist (uri.html,
    section 3.3): right for a finished backup, and for a database in WAL mode that no process has open.

    The sqlite3 that cron would run is found also if the login has a PATH without it.
    """
    encoded = percent_encode(str(path), errors="surrogateescape")
    parameters = f"mode={'rw' if writable else 'ro'}"
    if immutable:
        parameters += "&immutable=1"
    options = [] if writable else ["-readonly"]
    arguments = [*SQLITE, *options, f"file:{encoded}?{parameters}", timeout_command(timeout), *statements]
    return f'PATH="$PATH:{CRON_PATH}" {shlex.join(arguments)}'


def timeout_command(seconds: float) -> str:
    """Build the sqlite3 dot-command that sets how long to wait for a lock (cli.html)."""
    return f".timeout {seconds * 1000:.0f}"


def probe_command() -> str:
    """Build the command that uses every sqlite3 option of the scripts on an empty database in memory.

    It prints the version of SQLite.
    """
    statements = [*PIN, ".backup --async :memory:", "SELECT sqlite_version()"]
    arguments = [*SQLITE, "-readonly", ":memory:", timeout_command(LOCK_TIMEOUT), *statements]
    return f"PATH={CRON_PATH}; {shlex.join(arguments)}"


def is_access_failure(result: Result) -> bool:
    """Tell whether sqlite3 failed because of a lock or missing access, not because of the content of the file.

    If the sqlite3 shell cannot open the file at all, it exits with 1. Only its message distinguishes that case.
    """
    if result.status is None or result.status >= SIGNAL_OR_NOT_STARTED:
        return True
    return result.status in frozenset(AccessError) or "unable to open" in result.stderr
