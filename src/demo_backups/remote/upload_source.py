"""The file on this machine that is uploaded or stored: read from any offset, compressed, and noticed if it changes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import LocalDiskError, LocalFileChangedError
from ..units import format_size
from .download import CHUNK, Meter, Progress


class Source:
    """The file on this machine, as it was when it was opened."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._identity = self._read_identity()
        self.bytes, self.modified_ns = self._identity[1:]

    def fileno(self) -> int:
        """Return the file descriptor, whose offset is not moved."""
        return self._descriptor

    def hash(self, size: int, progress: Progress = lambda size: None) -> str:
        """Compute the SHA-256 of the first bytes of the file; `progress` gets the position. Raises LocalDiskError."""
        sha256, position = hashlib.sha256(), 0
        while position < size:
            data = self.read(position, min(CHUNK, size - position))
            sha256.update(data)
            position += len(data)
            progress(position)
        self.require_unchanged()
        return sha256.hexdigest()

    def read(self, position: int, size: int) -> bytes:
        """Read some bytes of the file; raises LocalDiskError."""
        try:
            data = os.pread(self._descriptor, size, position)
        except OSError as error:
            raise LocalDiskError(f"{self.path} could not be read", output=str(error)) from error
        if not data and size:
            raise self.changed(f"it ends after {format_size(position)}")
        return data

    def require_unchanged(self) -> None:
        """Raise LocalFileChangedError if the file was changed since it was opened."""
        if self._read_identity() != self._identity:
            raise self.changed("its size or its modification time is another one")

    def changed(self, problem: str) -> LocalFileChangedError:
        """Return the error for a file that was changed."""
        return LocalFileChangedError(
            f"{self.path} was changed while it was read",
            output=problem,
            advice="find out what changes it; a copy of a backup does not change",
        )

    def _read_identity(self) -> tuple[int, int, int]:
        status = os.fstat(self._descriptor)
        return status.st_ino, status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a regular file; raises LocalDiskError if it is not one, or cannot be read."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise LocalDiskError(f"{path} could not be read", output=str(error)) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise LocalDiskError(f"{path} is not a regular file")
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # prune-copies does not delete a copy in use
        yield Source(path, descriptor)
    finally:
        os.close(descriptor)


class Reader(io.RawIOBase):
    """The rest of a file, from an offset on; `progress` gets the position."""

    def __init__(self, source: Source, offset: int, progress: Progress) -> None:
        super().__init__()
        self._source = source
        self._progress = progress
        self.position = offset

    def read(self, size: int = -1) -> bytes:
        """Read some bytes; raises OSError, which the thread that sends them can report."""
        left = self._source.bytes - self.position
        try:
            data = self._source.read(self.position, min(CHUNK if size < 0 else size, left))
        except (LocalDiskError, LocalFileChangedError) as error:
            raise OSError(f"{error.action} {error.output}") from error
        self.position += len(data)
        self._progress(self.position)
        return data


class MeteredSource:
    """Pass on what is read from a source, through a meter; `limit` is in bytes per second."""

    def __init__(self, source: BinaryIO, meter: Meter, limit: int | None) -> None:
        self._source = source
        self._meter = meter
        # No read takes longer than a quarter of a second: the transfer is aborted when nothing moves for long.
        self._largest = CHUNK if limit is None else max(1, limit // 4)

    def read(self, size: int) -> bytes:
        """Read some bytes; wait as long as the limit demands."""
        data = self._source.read(min(size, self._largest))
        self._meter.add(len(data))
        return data


def compressed(reader: Reader) -> BinaryIO:
    """Return the same bytes, compressed with zstd."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=1)
    return cast("BinaryIO", compressor.stream_reader(cast("BinaryIO", reader), read_size=CHUNK, closefd=False))
