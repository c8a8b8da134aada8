"""The files that SQLite keeps next to a database: its `-journal`, `-wal` and `-shm` (tempfiles.html)."""

from __future__ import annotations

from pathlib import PurePosixPath

from ..remote.answers import END, parse_list, parse_yes_no
from ..remote.host import Host
from ..remote.shell import quote

SIDECAR_SUFFIXES = ("-journal", "-wal", "-shm")


def sidecars_command(path: PurePosixPath) -> str:
    """Build the command that prints the suffixes of the sidecar files that exist."""
    suffixes = " ".join(SIDECAR_SUFFIXES)
    return f'for suffix in {suffixes}; do [ ! -e {quote(path)}"$suffix" ] || echo "$suffix"; done; echo {END}'


def parse_sidecars(output: str) -> list[str]:
    """Parse what `sidecars_command` printed; raises ValueError."""
    suffixes = parse_list(output)
    unknown = set(suffixes) - set(SIDECAR_SUFFIXES)
    if unknown:
        raise ValueError(f"not suffixes of sidecar files: {sorted(unknown)}")
    return suffixes


def list_sidecars(host: Host, path: PurePosixPath) -> list[str]:
    """List the suffixes of the sidecar files of a database that exist."""
    return host.query_parsed(f"look for files next to {path}", sidecars_command(path), parse_sidecars)


def sidecars_writable_command(source: PurePosixPath) -> str:
    """Build the command that tells whether the service could write the sidecar files that this user would create.

    If root creates them, SQLite gives them the owner of the database. Any other user owns the files that it creates, so
    the service can write them only if that user owns the database too.
    """
    return f'if [ "$(id -u)" = 0 ] || [ -O {quote(source)} ]; then echo yes; else echo no; fi'


def sidecars_writable(host: Host, source: PurePosixPath) -> bool:
    """Tell whether the service could write the sidecar files that this user would create; raises CouldNotLookError."""
    return host.query_parsed(f"find out who owns {source}", sidecars_writable_command(source), parse_yes_no)
