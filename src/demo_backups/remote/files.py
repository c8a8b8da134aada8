"""Files on a host: their size, time and type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import PurePosixPath

from ..errors import CouldNotLookError
from .host import Host
from .shell import quote


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


def stat_file(host: Host, path: PurePosixPath) -> File | None:
    """Look at one file; None where there is none. Raises CouldNotLookError where that cannot be told."""
    result = host.run(f"look at {path}", file_command(path), root=True)
    if result.ok:
        return parse_files(result.stdout)[0]
    if result.stderr.rstrip().endswith("No such file or directory"):
        return None
    raise CouldNotLookError(f"could not look at {path}", host=host.name, output=result.output)


def parse_sha256(output: str) -> str:
    """Hexadecimal SHA-256, from what `sha256sum` printed."""
    match = re.match(r"\\?([0-9a-f]{64})\b", output)
    if not match:
        raise ValueError(f"no SHA-256 in {output!r}")
    return match[1]
