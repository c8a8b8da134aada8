"""Files on a host: their size, time and type; and bytes, streamed to and from a command over the open connection.

Streamed bytes are not in the arguments of a command, so neither `ps` nor the log of sudo shows them. Their number is
not limited, and the memory in use does not grow with it.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from ..errors import CouldNotLookError, StepError
from .answers import END, parse_count, parse_list, parse_time
from .host import Host, Result, Transfer
from .shell import quote

STALL_TIMEOUT = 60  # seconds without data after which a transfer is aborted
LOCK_TIMEOUT = 2  # seconds to wait for another task that puts a file into the same directory
STALE_MINUTES = 60  # without the lock: a staged file that was not written to for this long was left by a crash


# --- facts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """A file on a host: its size in bytes, its modification time, and its type as `find -printf %y` prints it."""

    path: PurePosixPath
    bytes: int
    modified: datetime
    type: str = "f"

    def as_json(self) -> dict[str, Any]:
        """Return the object that JSON output has for a backup."""
        return {"path": str(self.path), "bytes": self.bytes, "created": self.modified.isoformat()}


_PRINT_FILES = rf"-printf '%T@ %Tz %s %y %p\0' && printf {END}"


def file_command(path: PurePosixPath) -> str:
    """Build the command that prints one file."""
    return f"find {quote(path)} -maxdepth 0 {_PRINT_FILES}"


def files_command(folder: PurePosixPath, pattern: str) -> str:
    """Build the command that prints the files of a folder whose names match a shell pattern.

    It fails if the folder is not a directory.
    """
    return f"find -H {quote(f'{folder}/')} -mindepth 1 -maxdepth 1 -name {quote(pattern)} {_PRINT_FILES}"


def parse_files(output: str) -> list[File]:
    """Parse what `file_command` or `files_command` printed; times have the server's own offset. Raises ValueError."""
    files = []
    for entry in parse_list(output, "\0"):
        seconds, offset, size, kind, path = entry.split(" ", 4)
        files.append(File(PurePosixPath(path), parse_count(size), parse_time(seconds, offset), kind))
    return files


def parse_file(output: str) -> File:
    """Parse what `file_command` printed; raises ValueError."""
    (file,) = parse_files(output)
    return file


def stat_file(host: Host, path: PurePosixPath) -> File | None:
    """Query one file; None if there is none. Raises CouldNotLookError if that cannot be decided."""
    action = f"look at {path}"
    result = host.run(action, file_command(path), root=True)
    if result.ok:
        return host.parse(action, result.stdout, lambda output: _parse_file_at(path, output))
    if is_missing(result):
        return None
    raise CouldNotLookError(f"could not {action}", host=host.name, output=result.output, advice=host.advise(result))


def _parse_file_at(path: PurePosixPath, output: str) -> File:
    file = parse_file(output)
    if file.path != path:  # the name of a fetched backup comes from it
        raise ValueError("it is another file")
    return file


def is_missing(result: Result) -> bool:
    """Tell whether a command on one file failed because there is no such file."""
    return result.stderr.rstrip().endswith("No such file or directory")


def parse_sha256(output: str) -> str:
    """Parse the hexadecimal SHA-256 that `sha256sum` printed; raises ValueError."""
    match = re.match(r"\\?([0-9a-f]{64}) ", output)
    if not match:
        raise ValueError(f"no SHA-256 in {output[:100]!r}")
    return match[1]


# --- streams --------------------------------------------------------------------------------------------------------


def send(
    host: Host,
    action: str,
    command: str,
    source: BinaryIO | bytes,
    *,
    root: bool = True,
    timeout: float = STALL_TIMEOUT,
    display: str = "",
) -> Transfer:
    """Send bytes to the standard input of a command that changes something.

    The transfer is aborted after `timeout` seconds without data. Raises StepError unless the command succeeds and has
    read all input. A command that gets a file must check its SHA-256: to the command, a lost connection looks like the
    end of the file.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    transfer = host.stream(action, command, root=root, timeout=timeout, display=display, source=stream)
    require_complete(host, action, transfer)
    return transfer


def require_complete(host: Host, action: str, transfer: Transfer) -> None:
    """Raise StepError unless a command that changes something has succeeded and read all of its input."""
    host.require_success(action, transfer.result)
    if not transfer.complete:
        raise StepError(
            f"could not {action}: the command ended before it had read all of its input",
            host=host.name,
            output=transfer.result.output,
        )


def receive(
    host: Host,
    action: str,
    command: str,
    sink: BinaryIO,
    *,
    root: bool = True,
    timeout: float = STALL_TIMEOUT,
    display: str = "",
) -> Transfer:
    """Write the standard output of a command to a sink, and nothing that a login shell prints before it.

    The transfer is aborted after `timeout` seconds without data. Raises CouldNotLookError unless the command succeeds;
    the sink may then have a part of the output. Compare the SHA-256 of the transfer with that of the file on the server
    before you use what was received.
    """
    transfer = host.stream(action, command, root=root, timeout=timeout, display=display, sink=sink)
    if not transfer.result.ok:
        raise CouldNotLookError(
            f"could not {action}", host=host.name, output=transfer.result.output, advice=host.advise(transfer.result)
        )
    return transfer


# --- a file in its place --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileWrite:
    """A file to put in place on a host.

    `replaces` is the SHA-256 of the file that is there now, whose owner and mode the new one gets; None if there is
    none: the new one gets the owner of the folder, if root writes it, and `mode`. With `keep_previous` the old one
    stays, as NAME.previous.
    """

    target: PurePosixPath
    sha256: str
    replaces: str | None = None
    mode: str = "644"
    keep_previous: bool = False

    def command(self) -> str:
        """Build the command that puts its standard input in place.

        The input is staged in the same folder, checked by its SHA-256, given its owner and mode, flushed and renamed.
        So the file is always either the old or the new one, and a lost connection changes nothing. What a killed
        command has staged is removed: while this one has the lock of the folder, no other one is at work.
        """
        target, folder = quote(self.target), quote(self.target.parent)
        staged = f".{self.target.name}.XXXXXX"
        stale = quote(escape_pattern(staged.removesuffix("XXXXXX")) + "??????")
        return "\n".join(
            [
                "set -eu; umask 077",
                # Any user may hold this lock, and some file systems have none for directories.
                f"exec 8< {folder}; age=''",
                f"flock --wait {LOCK_TIMEOUT} 8 2>/dev/null || age='-mmin +{STALE_MINUTES}'",
                f"find -H {folder} -maxdepth 1 -name {stale} -type f $age -delete || true",
                f"new=$(mktemp -- {quote(self.target.parent / staged)})",
                "trap 'rm -f -- \"$new\"' EXIT; trap 'exit 1' HUP INT TERM",
                'cat > "$new"',
                check_sha256('"$new"', self.sha256, "the transfer was damaged"),
                *(self._take_over(target) if self.replaces else self._create(target, folder)),
                'sync -- "$new"',
                f'mv --force --no-target-directory -- "$new" {target}',
                f"sync -- {folder}",
            ]
        )

    def _take_over(self, target: str) -> list[str]:
        assert self.replaces
        lines = [
            check_sha256(target, self.replaces, "it has changed since it was read"),
            f'chown --reference={target} -- "$new"; chmod --reference={target} -- "$new"',
        ]
        if self.keep_previous:
            previous = quote(f"{self.target}.previous")
            lines.append(f"ln --force --no-target-directory -- {target} {previous}")
        return lines

    def _create(self, target: str, folder: str) -> list[str]:
        return [
            f"[ ! -e {target} ] || {{ echo 'it has been created since it was looked for' >&2; exit 1; }}",
            f'[ "$(id -u)" != 0 ] || chown --reference={folder} -- "$new"',
            f'chmod {self.mode} -- "$new"',
        ]


def write_file(host: Host, action: str, write: FileWrite, source: BinaryIO | bytes) -> None:
    """Put a file in place on a host, as root; raises StepError, and then leaves the old file unchanged."""
    send(host, action, write.command(), source)


def check_sha256(file: str, sha256: str, message: str) -> str:
    """Build the line of a script that fails with a message unless a file, a word of the shell, has this SHA-256."""
    return f'[ "$(sha256sum < {file})" = "{sha256}  -" ] || {{ echo {quote(message)} >&2; exit 1; }}'


def escape_pattern(name: str) -> str:
    """Escape a name for `find -name`, which takes a shell pattern."""
    return re.sub(r"[][*?\\]", r"\\\g<0>", name)
