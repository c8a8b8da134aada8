"""A copy of a backup on this machine, from its partial file to its final name."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CopyExistsError, FetchRunningError, LocalDiskError
from ..local_files import sync_directory, write_private
from ..remote.download import PartialFile, Progress
from ..remote.shell import quote
from ..units import format_size
from .copies import CHANGE_DIRECTORY, hash_file, require_private
from .remote_hash import HashedBackup

LINKS_UNSUPPORTED = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)  # link(2), as on FAT
PART_SUFFIX, DESCRIPTION_SUFFIX = ".part", ".part.json"


@dataclass(frozen=True)
class CopyPaths:
    """The files of one copy: the final one, the partial one, and the description of what that is a part of."""

    final: Path

    @property
    def partial(self) -> Path:
        """The partial file."""
        return self.final.with_name(f".{self.final.name}{PART_SUFFIX}")

    @property
    def description(self) -> Path:
        """The description of the backup that the partial file is a part of."""
        return self.final.with_name(f".{self.final.name}{DESCRIPTION_SUFFIX}")

    @property
    def exists(self) -> bool:
        """Tell whether something has the final name, also a broken link."""
        return os.path.lexists(self.final)


def prepare_directory(folder: Path) -> None:
    """Create a directory, and those above it, for this user only.

    Raises LocalDiskError if it cannot be used, and UnsafePathError if others can write to it.
    """
    try:
        for directory in (*reversed(folder.parents), folder):
            if not directory.exists():
                directory.mkdir(mode=0o700, exist_ok=True)
        require_private(folder)
    except OSError as error:
        raise LocalDiskError(f"{folder} cannot be used", output=str(error), advice=CHANGE_DIRECTORY) from error


def require_space(folder: Path, needed: int) -> None:
    """Raise LocalDiskError unless a directory, or the one above that exists, has this many bytes free."""
    existing = next(directory for directory in (folder, *folder.parents) if directory.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise LocalDiskError(
            f"{folder} has {format_size(free)} free, and the backup needs {format_size(needed)} more",
            advice="free space there, or use another disk: --to DIR",
        )


def list_partial(folder: Path) -> list[str]:
    """List the names of the backups of which a directory has a partial file; none if it cannot be read."""
    with contextlib.suppress(OSError):
        names = sorted(path.name for path in folder.iterdir())
        return [name[1:].removesuffix(PART_SUFFIX) for name in names if name[:1] == "." and name.endswith(PART_SUFFIX)]
    return []


def explain_open(paths: CopyPaths, error: OSError) -> FetchRunningError | LocalDiskError:
    """Return the error for a partial file that cannot be opened."""
    if isinstance(error, BlockingIOError):
        return FetchRunningError(
            f"another task is writing {paths.final.name} on this machine", advice="wait for its end"
        )
    if not os.path.lexists(paths.partial):
        return LocalDiskError(f"{paths.partial} cannot be created", output=str(error), advice=CHANGE_DIRECTORY)
    return LocalDiskError(
        f"{paths.partial} cannot be used",
        output=str(error),
        advice=f"find out who created it, then remove it: rm -r -- {quote(str(paths.partial))}",
    )


@contextlib.contextmanager
def open_partial(
    paths: CopyPaths, backup: HashedBackup, progress: Progress, delta: bool = False
) -> Iterator[PartialFile]:
    """Open the partial file, and empty it unless it is a part of this backup, or with `delta` one that becomes it.

    Raises FetchRunningError if another fetch has it open, and LocalDiskError if it cannot be used.
    """
    try:
        partial = PartialFile(paths.partial, backup.identity.bytes, progress)
    except OSError as error:
        raise explain_open(paths, error) from error
    with partial:
        if paths.exists:  # another fetch has completed it since
            paths.partial.unlink(missing_ok=True)
            raise CopyExistsError(f"{paths.final} has been created by another fetch", advice="start the task again")
        if _read_description(paths.description) != _describe(backup, delta):
            restart(paths, partial, backup, delta)
        yield partial


def restart(paths: CopyPaths, partial: PartialFile, backup: HashedBackup, delta: bool = False) -> None:
    """Empty a partial file, and describe what it will be a part of; raises LocalDiskError."""
    partial.clear()
    _write_description(paths, backup, delta)


def _describe(backup: HashedBackup, delta: bool) -> dict[str, Any]:
    """Describe a partial file; one of a delta has pages of another backup, so only the next delta can use it."""
    description = {"sha256": backup.sha256, "bytes": backup.identity.bytes}
    return description | {"delta": True} if delta else description


def _read_description(path: Path) -> Any:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if stat.S_ISREG(path.lstat().st_mode):
            return json.loads(path.read_text(encoding="utf-8"))
    return None


def _write_description(paths: CopyPaths, backup: HashedBackup, delta: bool) -> None:
    try:
        write_private(paths.description, json.dumps(_describe(backup, delta)), f".{paths.final.name}.new-")
    except OSError as error:
        raise LocalDiskError(
            f"{paths.description} cannot be written", output=str(error), advice=CHANGE_DIRECTORY
        ) from error


def publish(paths: CopyPaths, partial: PartialFile, modified_ns: int) -> None:
    """Give a complete copy its final name, never over another file, and the time of the backup, and flush it.

    `modified_ns` is in nanoseconds since 1970. Raises CopyExistsError if something has that name, and LocalDiskError.
    """
    try:
        os.fchmod(partial.fileno(), 0o600)
        os.utime(partial.fileno(), ns=(modified_ns, modified_ns))
        partial.sync()
        _link(paths)
        paths.partial.unlink(missing_ok=True)
        paths.description.unlink(missing_ok=True)
        sync_directory(paths.final.parent)
    except FileExistsError as error:
        raise exists_error(paths) from error
    except OSError as error:
        raise LocalDiskError(
            f"{paths.final} could not be created",
            output=str(error),
            advice="start the task again: it continues with what is here",
        ) from error


def require_same(paths: CopyPaths, size: int, sha256: str, progress: Progress = lambda size: None) -> None:
    """Raise CopyExistsError unless the file that has the final name is the backup; `progress` gets the bytes read."""
    try:
        if paths.final.is_symlink() or not paths.final.is_file() or paths.final.stat().st_size != size:
            raise exists_error(paths)
        if hash_file(paths.final, progress) != sha256:
            raise exists_error(paths)
    except OSError as error:
        raise LocalDiskError(f"{paths.final} cannot be read", output=str(error)) from error


def exists_error(paths: CopyPaths) -> CopyExistsError:
    """Return the error for a final name that something else has."""
    return CopyExistsError(
        f"{paths.final} exists, with another content than the backup: it is not replaced",
        advice="move it away, or use another directory: --to DIR",
    )


def _link(paths: CopyPaths) -> None:
    """Give the partial file its final name; raises FileExistsError."""
    try:
        os.link(paths.partial, paths.final)
    except OSError as error:
        if error.errno not in LINKS_UNSUPPORTED:
            raise
        # Created here, so that nothing else is replaced.
        os.close(os.open(paths.final, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        paths.partial.replace(paths.final)
