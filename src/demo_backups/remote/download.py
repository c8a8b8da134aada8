"""Download a file of a host into a partial file: resumable, compressed, at a limited rate, in constant memory.

A partial file has the bytes of the file on the host from its start. A resumed download sends only the bytes after
them. Only the SHA-256 of the whole file, which is computed here from all of its bytes, tells whether it is the same.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from ..errors import ConnectionLostError, CouldNotLookError, LocalDiskError, StepError
from .files import STALL_TIMEOUT
from .host import Host
from .programs import has_program
from .shell import quote

if TYPE_CHECKING:
    from typing_extensions import Self

CHUNK = 1024 * 1024  # bytes that are read, written and decompressed at a time
METERED_CHUNK = 64 * 1024  # bytes that a limited download takes at a time
PAUSE = 0.25  # seconds that a limited download sleeps at a time, so that Ctrl-C is not delayed
MAX_WINDOW = 8 * 1024 * 1024  # bytes that zstd may refer back to; `zstd -1` needs less

Progress = Callable[[int], None]  # called with the number of bytes that the partial file has


@dataclass(frozen=True)
class Download:
    """A file to download, with zstd if `compress` is set."""

    path: PurePosixPath
    compress: bool = False

    def command(self, offset: int) -> str:
        """Build the command that prints the file from an offset on.

        It has a shared lock on the file meanwhile, so that another fetch does not remove a link that is in use.
        """
        # pipefail: without it, a failed read would look like the end of the file. Only bash has it everywhere.
        compress = " | zstd -1 --quiet --stdout" if self.compress else ""
        script = f"set -o pipefail; exec 9< {quote(self.path)} || exit 1; flock --nonblock --shared 9; "
        script += f"tail -c +{offset + 1} <&9{compress}"
        return f"exec bash -c {quote(script)}"


def has_local_zstd() -> bool:
    """Tell whether zstd can be decompressed on this machine."""
    try:
        import zstandard  # noqa: F401 - only whether it is installed
    except ImportError:
        return False
    return True


def can_compress(host: Host) -> bool:
    """Tell whether zstd is installed on this machine and on the host."""
    return has_local_zstd() and has_program(host, "zstd")


# --- the file on this machine ---------------------------------------------------------------------------------------


class _Writer(Protocol):
    def write(self, data: bytes | memoryview, /) -> int:
        """Write some of the data; return how many bytes."""


class PartialFile:
    """A partial file that is open for appending, and locked; it knows its size and its SHA-256.

    `progress` gets the size while what it already has is read, and while it grows. Raises BlockingIOError if another
    process has it locked, other kinds of OSError if it cannot be read or written, and ValueError for more than
    `max_bytes`. With `empty`, what is in it is removed and not read.
    """

    def __init__(self, path: Path, max_bytes: int, progress: Progress, empty: bool = False) -> None:
        self.path = path
        self.write_error: OSError | None = None
        self._file = _open_private(path)
        self._max_bytes = max_bytes
        self._progress = progress
        self.size = 0
        self.sha256 = hashlib.sha256()
        try:
            if empty or os.fstat(self._file).st_size > max_bytes:
                self.clear()
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def write(self, data: bytes | memoryview) -> int:
        """Append some bytes; return how many."""
        if self.size + len(data) > self._max_bytes:
            raise ValueError(f"the host sends more than {self._max_bytes:,} bytes")
        try:
            count = os.write(self._file, data)
        except OSError as error:
            self.write_error = error
            raise
        self._count(memoryview(data)[:count])
        return count

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._file

    def sync(self) -> None:
        """Flush the file to the disk."""
        os.fsync(self._file)

    def clear(self) -> None:
        """Remove all bytes."""
        os.ftruncate(self._file, 0)
        self.size = 0
        self.sha256 = hashlib.sha256()

    def reload(self) -> None:
        """Read the file again, after another program has written to it; one with too many bytes becomes empty."""
        if os.fstat(self._file).st_size > self._max_bytes:
            self.clear()
            return
        self.size = 0
        self.sha256 = hashlib.sha256()
        self._read()

    def _read(self) -> None:
        with os.fdopen(os.dup(self._file), "rb") as reader:
            reader.seek(0)
            while chunk := reader.read(CHUNK):
                self._count(chunk)

    def _count(self, data: bytes | memoryview) -> None:
        self.sha256.update(data)
        self.size += len(data)
        self._progress(self.size)


def _open_private(path: Path) -> int:
    """Open and lock a regular file that belongs to this user alone, and has no other name; create it if necessary."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(path, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            names = _count_names(file, path)
            if names == 1:
                return file
            # It has got its final name since it was opened, or was linked to another name: that one must not change.
            if names > 1:
                path.unlink()
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _count_names(file: int, path: Path) -> int:
    """Count the names of an open file; raises OSError unless it is a regular file that only this user can write to."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise OSError(errno.EPERM, "not a regular file that only you can write to", str(path))
    return status.st_nlink


# --- the transfer ---------------------------------------------------------------------------------------------------


class Meter:
    """Count the bytes on the wire, over all tries of a download, and limit their rate (bytes per second)."""

    def __init__(self, limit: int | None = None) -> None:
        self.count = 0
        self._limit = limit
        self._start = time.monotonic()
        self._counted = 0  # since the start

    @property
    def is_limited(self) -> bool:
        """Tell whether there is a limit."""
        return self._limit is not None

    def restart(self) -> None:
        """Measure the rate from now on: time in which nothing was sent must not be made up for."""
        self._start, self._counted = time.monotonic(), 0

    def add(self, count: int) -> None:
        """Count some bytes; sleep while they came too fast."""
        self.count += count
        self._counted += count
        if self._limit is None:
            return
        due = self._start + self._counted / self._limit
        while (left := due - time.monotonic()) > 0:
            time.sleep(min(left, PAUSE))


class _MeteredSink:
    """Pass everything on to a sink, through a meter."""

    def __init__(self, sink: _Writer, meter: Meter) -> None:
        self._sink = sink
        self._meter = meter

    def write(self, data: bytes | memoryview) -> int:
        size = METERED_CHUNK if self._meter.is_limited else CHUNK
        for start in range(0, len(data), size):
            piece = memoryview(data)[start : start + size]
            self._meter.add(len(piece))
            while piece:
                piece = piece[self._sink.write(piece) :]
        return len(data)


class _ZstdSink:
    """Decompress zstd into a sink, in pieces of bounded size. A stream that is cut gives the bytes before the cut."""

    def __init__(self, sink: _Writer) -> None:
        import zstandard

        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._error = zstandard.ZstdError
        self._writer = decompressor.stream_writer(
            cast("BinaryIO", sink), write_size=CHUNK, write_return_read=True, closefd=False
        )

    def write(self, data: bytes | memoryview) -> int:
        try:
            return self._writer.write(bytes(data))
        except self._error as error:
            raise ValueError(f"the compressed data is damaged: {error}") from error


def download(host: Host, wanted: Download, partial: PartialFile, meter: Meter) -> None:
    """Append the bytes that a partial file lacks.

    Raises ConnectionLostError if the connection is lost or the command is killed, and InterruptedRunError on Ctrl-C;
    the partial file then has what arrived. Raises CouldNotLookError if the host cannot read the file, LocalDiskError if
    the partial file cannot be written, and StepError if the data is damaged or too long.
    """
    sink: _Writer = _ZstdSink(partial) if wanted.compress else partial
    action = f"download {wanted.path}"
    meter.restart()
    try:
        transfer = host.stream(
            action,
            wanted.command(partial.size),
            root=True,
            timeout=STALL_TIMEOUT,
            display=wanted.command(0),  # recorded once, however often it is resumed
            reads_only=True,
            sink=cast("BinaryIO", _MeteredSink(sink, meter)),
            hashes=False,  # the partial file has the one that counts
        )
    except StepError as error:
        if partial.write_error is None:
            raise
        raise LocalDiskError(
            f"{partial.path} could not be written",
            output=str(partial.write_error),
            advice="free space there, and start the task again: it continues with what is here",
        ) from error
    result = transfer.result
    if result.status is None:  # the server closed the stream without an exit status
        raise ConnectionLostError(f"could not {action}: the stream ended early", host=host.name, output=result.output)
    if not result.ok:
        raise CouldNotLookError(f"could not {action}", host=host.name, output=result.output, advice=host.advise(result))
