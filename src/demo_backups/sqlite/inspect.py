"""What SQLite and a file's header say about a database, read without changing anything."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from ..errors import CouldNotLookError, NoDatabaseError, SourceUnavailableError
from ..remote.answers import parse_count
from ..remote.files import is_missing, stat_file
from ..remote.host import COMMAND_TIMEOUT, PROGRAM_NOT_FOUND, Host, Result
from ..remote.notify import Notify, ignore
from ..remote.processes import processes_using
from ..remote.shell import CRON_PATH, quote
from ..settings.model import Database
from .command import DAMAGED, LOCK_TIMEOUT, LOCKED, AccessError, sqlite_command

MOST_PAGES, LARGEST_PAGE = 2**32 - 2, 65536  # limits.html
HEADER_BYTES = 100
MAGIC = b"SQLite format 3\0"
WAL_VERSION = 2  # of the file format: bytes 18 and 19 of the header of a database in WAL mode
SETTINGS_ADVICE = "check the settings: app_dir, and file of the database"
START_SERVICE = "start its service once"
EXCLUSIVE_NOTE = "A database that its service uses with locking_mode=EXCLUSIVE cannot be read by any other process"
QUIET_TIMEOUT = 3  # seconds to wait for a lock before the user gets a message

# --- the path -------------------------------------------------------------------------------------------------------


def real_path_command(path: PurePosixPath) -> str:
    """Build the command that prints the path of a file without symbolic links."""
    return f"realpath -e -- {quote(path)}"


def parse_real_path(output: str) -> PurePosixPath:
    """Parse what `real_path_command` printed; raises ValueError."""
    path = output.removesuffix("\n")
    if path == output or not path.startswith("/") or "\0" in path:
        raise ValueError("not an absolute path")
    return PurePosixPath(path)


def resolve_source(host: Host, database: Database) -> Database:
    """Return a database with the path of its source without symbolic links, as SQLite itself uses it.

    The `-wal`, `-shm` and `-journal` are next to that file, not next to a link to it. Raises NoDatabaseError where
    there is no such file, and SourceUnavailableError where that cannot be decided.
    """
    action = f"resolve the path {database.source}"
    result = host.run(action, real_path_command(database.source), root=True)
    if result.ok:
        return replace(database, source=host.parse(action, result.stdout, parse_real_path))
    if is_missing(result):
        raise NoDatabaseError(f"{database.source} does not exist", host=host.name, advice=SETTINGS_ADVICE)
    raise SourceUnavailableError(
        f"could not {action}", host=host.name, output=result.output, advice=host.advise(result)
    )


# --- the header -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """The header of a database: size and page size in bytes, and the journal mode.

    `bytes` is None where the header does not have a valid page count.
    """

    bytes: int | None
    wal: bool
    page_size: int


def header_command(path: PurePosixPath) -> str:
    """Build the command that prints the header of a file in hexadecimal."""
    return f"od -An -v -tx1 -N{HEADER_BYTES} -- {quote(path)}"


def parse_header(output: str, file_bytes: int) -> Header | None:
    """Parse the header (fileformat2.html, section 1.3) of a file of this size; None if it is not a database.

    Raises ValueError where `output` is not what `header_command` prints for such a file.
    """
    content = bytes.fromhex("".join(output.split()))
    expected = min(HEADER_BYTES, file_bytes)
    if len(content) < expected:
        raise ValueError(f"{len(content)} bytes of a header instead of {expected}")
    if len(content) < HEADER_BYTES or not content.startswith(MAGIC):
        return None
    page_size = int.from_bytes(content[16:18], "big")
    if page_size == 1:
        page_size = 65536
    pages = int.from_bytes(content[28:32], "big")
    # The page count is valid only if the version of SQLite that wrote the file last knew that field.
    is_valid = pages > 0 and content[24:28] == content[92:96]
    return Header(pages * page_size if is_valid else None, content[18] == WAL_VERSION, page_size)


def read_header(host: Host, path: PurePosixPath) -> Header:
    """Read the header of a database; raises NoDatabaseError, or CouldNotLookError where it cannot be read."""
    file = stat_file(host, path)
    if file is None:
        raise NoDatabaseError(f"{path} does not exist", host=host.name, advice=SETTINGS_ADVICE)
    size = file.bytes
    action = f"read the header of {path}"
    header = host.query_parsed(action, header_command(path), lambda output: parse_header(output, size))
    if header is None:
        raise NoDatabaseError(f"{path} is not a database", host=host.name, advice=SETTINGS_ADVICE)
    return header


# --- how to open a live database ------------------------------------------------------------------------------------


class OpenMode(enum.Enum):
    """How to open a live database read-only so that this creates no file next to it."""

    PLAIN = "plain"
    IMMUTABLE = "immutable"
    IMPOSSIBLE = "impossible"


def choose_open_mode(header: Header, sidecars: list[str]) -> OpenMode:
    """Decide how to open a live database so that this creates no file next to it.

    In WAL mode, opening a database that no process has open creates its `-wal` and `-shm` (walformat.html, section
    1.4). `immutable` does not. It misses no data, because without a `-wal` the file itself has all of it.
    """
    if not header.wal:
        return OpenMode.PLAIN
    if "-wal" not in sidecars:
        return OpenMode.IMMUTABLE
    if "-shm" not in sidecars:
        return OpenMode.IMPOSSIBLE
    return OpenMode.PLAIN


# --- the summary ----------------------------------------------------------------------------------------------------

SUMMARY_STATEMENTS = (
    "PRAGMA page_count",
    "PRAGMA page_size",
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY name",
)


@dataclass(frozen=True)
class DatabaseSummary:
    """A database as SQLite reports it: size in bytes, and the names of its tables."""

    bytes: int
    tables: frozenset[str]


def parse_summary(output: str) -> DatabaseSummary:
    """Parse what `SUMMARY_STATEMENTS` printed; raises ValueError."""
    page_count, page_size, *tables = output.splitlines()
    size = parse_count(page_count, MOST_PAGES) * parse_count(page_size, LARGEST_PAGE)
    return DatabaseSummary(size, frozenset(tables))


def read_summary(
    host: Host, source: PurePosixPath, header: Header, sidecars: list[str], notify: Notify = ignore
) -> DatabaseSummary:
    """Read the summary of a live database, creating no file next to it; raises SourceUnavailableError.

    It waits up to LOCK_TIMEOUT seconds for a lock; `notify` gets a message if it has to wait.
    """
    mode = choose_open_mode(header, sidecars)
    if mode is OpenMode.IMPOSSIBLE:
        raise _explain_missing_shm(host, source)
    result = query_summary(host, source, mode, notify)
    if not result.ok:
        raise _explain_open_failure(host, source, result)
    try:
        return host.parse(f"query the source {source}", result.stdout, parse_summary)
    except CouldNotLookError as error:
        raise SourceUnavailableError(error.action, host=host.name, output=error.output) from error


def query_summary(
    host: Host, path: PurePosixPath, mode: OpenMode, notify: Notify = ignore, *, reads_only: bool = False
) -> Result:
    """Query the summary of a live database, PLAIN or IMMUTABLE; a lock is waited for, up to LOCK_TIMEOUT seconds.

    `notify` gets a message if it has to wait. With `reads_only`, the error for a lost connection says that nothing can
    still be running that matters.
    """

    def query(lock_timeout: int) -> Result:
        is_immutable = mode is OpenMode.IMMUTABLE
        command = sqlite_command(path, *SUMMARY_STATEMENTS, immutable=is_immutable, timeout=lock_timeout)
        timeout = lock_timeout + COMMAND_TIMEOUT
        return host.run(f"query {path}", command, root=True, timeout=timeout, reads_only=reads_only)

    result = query(QUIET_TIMEOUT)
    if result.status in LOCKED:
        notify(f"{path} is locked: waiting for up to {LOCK_TIMEOUT} s\n{describe_users(host, path)}")
        result = query(LOCK_TIMEOUT)
    return result


def describe_users(host: Host, source: PurePosixPath) -> str:
    """Describe the processes that use a database, one on a line; raises CouldNotLookError."""
    processes = processes_using(host, source)
    listing = "\n".join(str(process) for process in processes) or "no process that this user can see"
    return f"open in:\n{listing}"


def _explain_missing_shm(host: Host, source: PurePosixPath) -> SourceUnavailableError:
    """Explain a `-wal` without a `-shm`: a connection in exclusive mode needs none (wal.html, section 8)."""
    if processes_using(host, source):
        return SourceUnavailableError(
            f"the source {source} has a -wal but no -shm, although it is open: its service uses locking_mode=EXCLUSIVE",
            host=host.name,
            output=describe_users(host, source),
            advice="let the service use locking_mode=NORMAL, or stop it for the backup; no other process can read the "
            "database until then",
        )
    return SourceUnavailableError(
        f"the source {source} has a -wal but no -shm: opening it would create files next to it",
        host=host.name,
        advice=START_SERVICE,
    )


def _explain_open_failure(host: Host, source: PurePosixPath, result: Result) -> SourceUnavailableError:
    """Explain why a live database cannot be read, by the exit status of sqlite3 (rescode.html)."""
    action = f"the source {source} cannot be opened read-only"
    output = result.output
    if result.status == AccessError.READONLY:
        action = f"the source {source} has the journal of a writer that crashed: it cannot be opened read-only"
        advice = START_SERVICE
    elif result.status in LOCKED:
        action = f"the source {source} stayed locked for {LOCK_TIMEOUT} s"
        output += f"\n{describe_users(host, source)}"
        advice = f"try again when its transaction has ended. {EXCLUSIVE_NOTE}"
    elif result.status == PROGRAM_NOT_FOUND:
        action = f"the source {source} cannot be read: sqlite3 is not installed"
        advice = f"install it (Debian package: sqlite3); it is neither on the PATH of this login nor on {CRON_PATH}"
    elif result.status in DAMAGED:
        advice = "it may be damaged: check it on the host with PRAGMA integrity_check, and keep the older backups"
    else:
        advice = "is its service running, and may this user read it? See use_sudo (INVOKE_USE_SUDO=1)"
    return SourceUnavailableError(action, host=host.name, output=output, advice=advice)
