"""Files on this machine, written completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from pathlib import Path

PRIVATE = 0o600
STALE_SECONDS = 3600  # a staged file that is older was left by a crash


def write_private(path: Path, text: str, staged: str) -> None:
    """Write a text to a file that only its owner can read, as `write_file` does; raises OSError."""
    write_file(path, text, staged, PRIVATE)


def write_file(path: Path, text: str, staged: str, mode: int) -> None:
    """Write a text in UTF-8 to a hidden file in the same directory, flush it and rename it; raises OSError.

    `staged` is the start of the hidden name, and what a crash left under such a name is removed. tempfile creates files
    that only their owner can read; they get their mode when they are complete.
    """
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=staged, delete=False, encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    sync_directory(path.parent)
    _remove_stale(path.parent, staged)


def sync_directory(folder: Path) -> None:
    """Flush the names in a directory to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot flush directories (fsync(2))
            raise
    finally:
        os.close(descriptor)


def _remove_stale(folder: Path, staged: str) -> None:
    for path in folder.glob(f"{staged}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > STALE_SECONDS:
                path.unlink()
