"""What SQLite and the header of a file say about a database, without changing it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote as percent_encode

from ..errors import StepError
from ..remote.files import existing_command, stat_file
from ..remote.host import COMMAND_TIMEOUT, Host, Result
from ..remote.shell import CRON_PATH, quote


def list_sidecars(host: Host, source: PurePosixPath) -> list[str]:
    """See which of `-wal` and `-shm` are beside a database."""
    there = host.query(f"look beside {source}", existing_command(sidecar_paths(source, "-wal", "-shm"))).splitlines()
    return [path.removeprefix(str(source)) for path in there]


def read_summary(
    host: Host, source: PurePosixPath, header: Header | None, beside_it: list[str]
) -> DatabaseSummary | str:
    """Ask SQLite for the shape of a live source, leaving nothing beside it; words where it cannot be had."""
    opened = choose_open_mode(header, beside_it)
    if isinstance(opened, str):
        return f"the source {source} {opened}"
    command = sqlite_command(source, *SUMMARY_STATEMENTS, immutable=opened)
    result = host.run(f"ask SQLite about {source}", command, root=True, timeout=LOCK_WAIT + COMMAND_TIMEOUT)
    if not result.ok:
        started = (
            ": a journal of a dead writer is beside it, and the service must be started once"
            if result.status == 8
            else ""
        )
        return f"the source {source} cannot be opened read-only{started} ({result.output})"
    return parse_summary(result.stdout)


def choose_open_mode(header: Header | None, beside_it: list[str]) -> bool | str:
    """Decide how to open a live source so that nothing is left beside it: immutable, plainly, or not at all (words).

    In WAL mode, opening it while nobody else has it open would create its `-wal` and `-shm` (walformat.html, section
    1.4); immutable does not, and sees everything, since without a `-wal` all is in the file itself.
    """
    if header is None:
        return "is not a database"
    if not header.wal:
        return False
    match beside_it:
        case [] | ["-shm"]:
            return True
        case ["-wal"]:
            return "has a -wal without a -shm: it cannot be opened without writing beside it; start its service once"
        case _:
            return False


def sidecar_paths(path: PurePosixPath, *endings: str) -> list[PurePosixPath]:
    """Name the files that SQLite keeps beside a database: `-journal`, `-wal`, `-shm`."""
    return [path.with_name(path.name + ending) for ending in endings]


@dataclass(frozen=True)
class Header:
    """What the first 100 bytes of a database say: sizes in bytes, None where they do not, and whether it uses a WAL."""

    bytes: int | None
    wal: bool
    page_size: int


def header_command(path: PurePosixPath) -> str:
    """Ask for the header of a database file, in hexadecimal."""
    return f"od -An -v -tx1 -N100 -- {quote(path)}"


def parse_header(output: str) -> Header | None:
    """Read a header as SQLite's file format describes it (fileformat2.html, section 1.3); None if it is none."""
    header = bytes.fromhex("".join(output.split()))
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        return None
    page_size = int.from_bytes(header[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size
    pages = int.from_bytes(header[28:32], "big")
    # The page count holds only if the version of SQLite that last wrote the file knew that field.
    known = pages > 0 and header[24:28] == header[92:96]
    return Header(pages * page_size if known else None, header[18] == 2, page_size)


def read_header(host: Host, path: PurePosixPath) -> Header:
    """Read the header of a database; raises StepError where there is none, CouldNotLookError where none can be read."""
    if stat_file(host, path) is None:
        raise StepError(
            f"there is no {path}", host=host.name, advice="see the settings: app_dir, and file of the database"
        )
    header = parse_header(host.query(f"read the header of {path}", header_command(path)))
    if header is None:
        raise StepError(
            f"{path} is not a database", host=host.name, advice="see the settings: app_dir, and file of the database"
        )
    return header


SQLITE = ("sqlite3", "-batch", "-init", "/dev/null", "-bail")  # without start-up file, to the first failure
PIN = ("BEGIN", "SELECT 1 FROM sqlite_master LIMIT 0")  # a snapshot, as the scripts do
LOCK_WAIT = 120  # seconds that sqlite3 waits for a lock, in the scripts too; it holds nobody back meanwhile


def sqlite_command(
    path: PurePosixPath, *statements: str, immutable: bool = False, writable: bool = False, wait: float = LOCK_WAIT
) -> str:
    """Ask SQLite itself, read-only unless `writable`; a database that is missing is never made (uri.html).

    It waits for a lock for `wait` seconds. `immutable` leaves nothing beside the database and heeds nothing that is
    there (uri.html, section 3.3): right for a finished backup, and for a database in WAL mode that nobody has open.
    """
    encoded = percent_encode(str(path), errors="surrogateescape")
    uri = f"file:{encoded}?mode={'rw' if writable else 'ro'}{'&immutable=1' if immutable else ''}"
    return shlex.join([*SQLITE, *([] if writable else ["-readonly"]), uri, lock_timeout(wait), *statements])


def lock_timeout(seconds: float) -> str:
    """Tell sqlite3 for how long to wait for a lock (cli.html)."""
    return f".timeout {seconds * 1000:.0f}"


SUMMARY_STATEMENTS = (
    "PRAGMA page_count",
    "PRAGMA page_size",
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY name",
)


@dataclass(frozen=True)
class DatabaseSummary:
    """A database as SQLite sees it: size in bytes, and its tables."""

    bytes: int
    tables: frozenset[str]


def parse_summary(output: str) -> DatabaseSummary:
    """Shape, from what `SHAPE_STATEMENTS` printed."""
    pages, page_size, *tables = output.splitlines()
    return DatabaseSummary(int(pages) * int(page_size), frozenset(tables))


def sidecars_writable_command(source: PurePosixPath) -> str:
    """Ask whether what SQLite makes beside a database could be written by its service too.

    Root's get the owner of the database, and its owner's are the owner's; any other user's are that user's own.
    """
    return f'if [ "$(id -u)" = 0 ] || [ -O {quote(source)} ]; then echo yes; else echo no; fi'


def sidecars_writable(host: Host, source: PurePosixPath) -> bool:
    """Tell whether what SQLite makes beside a database could be written by its service too."""
    return host.query("see whose the database is", sidecars_writable_command(source)) == "yes\n"


def sqlite_features_command() -> str:
    """Ask sqlite3 for the options that the scripts use, on an empty database in memory; prints its version."""
    words = [*SQLITE, "-readonly", ":memory:", lock_timeout(LOCK_WAIT), *PIN]
    words += [".backup --async :memory:", "SELECT sqlite_version()"]
    return f"PATH={CRON_PATH}; {shlex.join(words)}"


def is_access_failure(result: Result) -> bool:
    """Tell whether sqlite3 failed for want of access or of a lock, rather than for what is in the file.

    Its exit status is SQLite's result code (rescode.html): 3 PERM, 5 BUSY, 6 LOCKED, 8 READONLY, 14 CANTOPEN, 15
    PROTOCOL, 23 AUTH; 126 and more are the shell's for a program that cannot be run or that a signal ended.
    """
    status = result.status
    return status in (None, 3, 5, 6, 8, 14, 15, 23) or status > 125 or "unable to open" in result.stderr
