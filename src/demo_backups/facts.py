"""Questions to ask a host: a command, and beside it the parser of what it prints."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import PurePosixPath
from urllib.parse import quote as percent_encode

from .errors import CouldNotLookError, StepError
from .hosts import Host, Result

HOME = '"$HOME"'  # words of the host's shell
STATE = f"{HOME}/.demo-backups"  # how the last runs went, and the crontab as it was before
CRON_PATH = "/usr/bin:/bin"  # of a job in a crontab that sets none (crontab(5))


def quote(path: PurePosixPath | str) -> str:
    """Quote a path, or any text, as one word of a POSIX shell."""
    return shlex.quote(str(path))


# --- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """A file on a host: its size in bytes, when it was last written, its type as `find -printf %y` has it."""

    path: PurePosixPath
    bytes: int
    modified: datetime
    type: str = "f"


_PRINT_FILES = r"-printf '%T@ %Tz %s %y %p\0'"


def file_command(path: PurePosixPath) -> str:
    """Ask for one file."""
    return f"find {quote(path)} -maxdepth 0 {_PRINT_FILES}"


def files_command(folder: PurePosixPath, pattern: str) -> str:
    """Ask for the files of a folder whose names match a shell pattern."""
    return f"find -H {quote(folder)} -maxdepth 1 -name {quote(pattern)} {_PRINT_FILES}"


def parse_files(output: str) -> list[File]:
    """Files, from what `file_command` or `files_command` printed; times with the server's own offset."""
    files = []
    for line in output.split("\0")[:-1]:
        seconds, offset, size, kind, path = line.split(" ", 4)
        files.append(File(PurePosixPath(path), int(size), parse_time(seconds, offset), kind))
    return files


def parse_time(seconds: str, offset: str) -> datetime:
    """A time, from seconds since 1970 and an offset such as +0130, as `find` prints them; raises ValueError."""
    zone = timezone(timedelta(hours=int(offset[:3]), minutes=int(offset[0] + offset[3:5])))
    try:
        return datetime.fromtimestamp(float(seconds), zone)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{seconds} s is no time: {error}") from error


def look_at_file(host: Host, path: PurePosixPath) -> File | None:
    """Look at one file; None where there is none. Raises CouldNotLookError where that cannot be told."""
    result = host.run(f"look at {path}", file_command(path), root=True)
    if result.ok:
        return parse_files(result.stdout)[0]
    if result.stderr.rstrip().endswith("No such file or directory"):
        return None
    raise CouldNotLookError(f"could not look at {path}", host=host.name, printed=result.printed)


def existing_command(paths: Iterable[PurePosixPath | str]) -> str:
    """Ask which of some paths exist."""
    words = " ".join(quote(path) for path in paths)
    return f'for path in {words}; do [ ! -e "$path" ] || printf "%s\\n" "$path"; done'


def beside(path: PurePosixPath, *endings: str) -> list[PurePosixPath]:
    """Name the files that SQLite keeps beside a database: `-journal`, `-wal`, `-shm`."""
    return [path.with_name(path.name + ending) for ending in endings]


# --- databases ------------------------------------------------------------------------------------------------------


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


def look_at_header(host: Host, path: PurePosixPath) -> Header:
    """Read the header of a database; raises StepError where there is none, CouldNotLookError where none can be read."""
    if look_at_file(host, path) is None:
        raise StepError(
            f"there is no {path}", host=host.name, advice="see the settings: app_dir, and file of the database"
        )
    header = parse_header(host.ask(f"read the header of {path}", header_command(path)))
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


SHAPE_STATEMENTS = (
    "PRAGMA page_count",
    "PRAGMA page_size",
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY name",
)


@dataclass(frozen=True)
class Shape:
    """A database as SQLite sees it: size in bytes, and its tables."""

    bytes: int
    tables: frozenset[str]


def parse_shape(output: str) -> Shape:
    """Shape, from what `SHAPE_STATEMENTS` printed."""
    pages, page_size, *tables = output.splitlines()
    return Shape(int(pages) * int(page_size), frozenset(tables))


def may_make_files_command(source: PurePosixPath) -> str:
    """Ask whether what SQLite makes beside a database could be written by its service too.

    Root's get the owner of the database, and its owner's are the owner's; any other user's are that user's own.
    """
    return f'if [ "$(id -u)" = 0 ] || [ -O {quote(source)} ]; then echo yes; else echo no; fi'


def may_make_files(host: Host, source: PurePosixPath) -> bool:
    """Tell whether what SQLite makes beside a database could be written by its service too."""
    return host.ask("see whose the database is", may_make_files_command(source)) == "yes\n"


# --- programs -------------------------------------------------------------------------------------------------------


def missing_tools_command(tools: Iterable[str]) -> str:
    """Ask which of some programs a job in a crontab would not find."""
    return f'PATH={CRON_PATH}; for tool in {" ".join(tools)}; do command -v "$tool" >/dev/null || echo "$tool"; done'


def sqlite_ability_command() -> str:
    """Ask sqlite3 for the options that the scripts use, on an empty database in memory; prints its version."""
    words = [*SQLITE, "-readonly", ":memory:", lock_timeout(LOCK_WAIT), *PIN]
    words += [".backup --async :memory:", "SELECT sqlite_version()"]
    return f"PATH={CRON_PATH}; {shlex.join(words)}"


def parse_sha256(output: str) -> str:
    """Hexadecimal SHA-256, from what `sha256sum` printed."""
    match = re.match(r"\\?([0-9a-f]{64})\b", output)
    if not match:
        raise ValueError(f"no SHA-256 in {output!r}")
    return match[1]


def sqlite_could_not_look(result: Result) -> bool:
    """Tell whether sqlite3 failed for want of access or of a lock, rather than for what is in the file.

    Its exit status is SQLite's result code (rescode.html): 3 PERM, 5 BUSY, 6 LOCKED, 8 READONLY, 14 CANTOPEN, 15
    PROTOCOL, 23 AUTH; 126 and more are the shell's for a program that cannot be run or that a signal ended.
    """
    status = result.status
    return status in (None, 3, 5, 6, 8, 14, 15, 23) or status > 125 or "unable to open" in result.stderr


# --- processes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """A process on a host."""

    pid: int
    user: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user}: {self.command}"


def _for_holders(file: str, do: str) -> str:
    """Do something for the `$pid` of every process that has a file open; root sees those of all users (proc(5)).

    The file comes as a word of the host's shell.
    """
    # Not find -samefile: it opens the file itself, and finds itself.
    found = f'for fd in /proc/[0-9]*/fd/*; do [ "$fd" -ef {file} ] && echo "$fd"; done'
    return f"{{ {found}; }} | cut -d / -f 3 | sort -u | while read -r pid; do {do}; done"


def holders_command(path: PurePosixPath) -> str:
    """Ask which processes have a file open."""
    words = "$(tr '\\0\\n' '  ' < /proc/$pid/cmdline | cut -c -120)"
    return _for_holders(quote(path), f'user=$(stat -c %U -- /proc/$pid 2>/dev/null) && echo "$pid $user {words}"; true')


def signal_holders_command(file: str, signal: str) -> str:
    """Send a signal to every process that has a file open, one that is stopped (SIGSTOP) too.

    The file comes as a word of the host's shell.
    """
    return _for_holders(file, f"kill -s {signal} $pid 2>/dev/null && kill -s CONT $pid 2>/dev/null || true")


def locked_command(path: PurePosixPath) -> str:
    """Ask whether somebody holds a lock on a file; the kernel tells every user of it (proc(5), /proc/locks)."""
    major, minor = "device >> 8 & 0xfff", "device & 0xff | device >> 12 & 0xfff00"  # makedev(3)
    return "\n".join(
        [
            f"[ -e {quote(path)} ] || {{ echo no; exit; }}",
            f"set -e; device=$(stat -c %d -- {quote(path)}); inode=$(stat -c %i -- {quote(path)})",
            f'name=$(printf %02x:%02x:%s $(({major})) $(({minor})) "$inode"); locks=$(cat /proc/locks)',
            'case "$locks" in *" $name "*) echo yes ;; *) echo no ;; esac',
        ]
    )


def parse_holders(output: str) -> list[Process]:
    """Processes, from what `holders_command` printed."""
    words = (line.split(" ", 2) for line in output.splitlines())
    return [Process(int(pid), user, command.strip()) for pid, user, command in words]


def holders(host: Host, path: PurePosixPath) -> list[Process]:
    """See which processes have a file open; raises CouldNotLookError."""
    return host.learn(f"see who has {path} open", holders_command(path), parse_holders)
