"""The fetched backups on this machine: where they are, which there are, and whether they are good."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote as percent_encode

from ..backup.names import is_backup_name
from ..errors import CouldNotLookError, SettingsError, UnsafePathError
from ..project import ROOT
from ..remote.download import CHUNK, Progress
from ..remote.shell import quote
from ..settings.model import BackupSeries, Settings

CHANGE_DIRECTORY = "use another directory: --to DIR, or set fetch_dir (INVOKE_FETCH_DIR)"
ON_SERVER, FETCHED = "server", "here"  # the values of --from: a backup on the host, or a copy on this machine


@dataclass(frozen=True)
class Copy:
    """A fetched backup: its size in bytes, and the modification time of the backup on the server, in UTC."""

    path: Path
    bytes: int
    modified: datetime

    @property
    def name(self) -> str:
        """The name of the backup."""
        return self.path.name


def check_place(place: str) -> None:
    """Raise SettingsError for a value of --from that is neither ON_SERVER nor FETCHED."""
    if place not in (ON_SERVER, FETCHED):
        raise SettingsError(f"--from {place!r} is not a place of backups", advice=f"use {ON_SERVER} or {FETCHED}")


def copies_dir(settings: Settings, host: str) -> Path:
    """Return the directory of the backups that were fetched from a host: `fetch_dir/HOST`.

    `fetch_dir` is relative to the root of this checkout. In HOST, characters that a path cannot have are
    percent-encoded, and so is a dot at its start.
    """
    name = percent_encode(host, safe="@")
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    return ROOT / Path(settings.fetch_dir).expanduser() / name


def list_copies(settings: Settings, host: str, series: BackupSeries) -> list[Copy]:
    """List the fetched backups of a series of a host, the newest first by name; none if the directory is missing.

    Only regular files with the name of a backup count: a copy gets that name when it is complete and checked. Raises
    CouldNotLookError if the directory cannot be read, and UnsafePathError if others can write to it.
    """
    folder = copies_dir(settings, host)
    names = [entry.name for entry in list_entries(folder)]
    copies = [read_copy(folder / name) for name in names if is_backup_name(series, name)]
    return sorted((copy for copy in copies if copy), key=lambda copy: copy.name, reverse=True)


def list_entries(folder: Path) -> list[os.DirEntry[str]]:
    """List what is in a directory, sorted by name; nothing if it is missing.

    Raises CouldNotLookError if it cannot be read, and UnsafePathError if others can write to it.
    """
    try:
        with os.scandir(f"{folder}/.") as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        require_private(folder)
    except FileNotFoundError as error:
        if folder.is_symlink():
            raise _unreadable(folder, error) from error
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error
    return entries


def read_copy(path: Path) -> Copy | None:
    """Read the size and time of a regular file; None if it is not one, or missing. Raises CouldNotLookError."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # ValueError: a record may have a path with a NUL
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        return None
    return Copy(path, status.st_size, _to_datetime(status.st_mtime))


def _to_datetime(seconds: float) -> datetime:
    """Return a time; a file system can store later ones than datetime, and all of those are in the future."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=timezone.utc)


def require_private(folder: Path) -> None:
    """Raise UnsafePathError if another user than root can put a file into a directory; raises OSError."""
    status = folder.stat()
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnsafePathError(
            f"{folder} belongs to another user, or others can write to it",
            advice=f"use a directory of your own: chmod go-w {quote(str(folder))}; or {CHANGE_DIRECTORY}",
        )


def hash_file(path: Path, progress: Progress = lambda size: None) -> str:
    """Return the SHA-256 of a file, in hexadecimal; `progress` gets the bytes read so far. Raises OSError."""
    sha256 = hashlib.sha256()
    count = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
            count += len(chunk)
            progress(count)
    return sha256.hexdigest()


def _unreadable(path: Path, error: OSError | ValueError) -> CouldNotLookError:
    return CouldNotLookError(f"{path} cannot be read", output=str(error), advice=CHANGE_DIRECTORY)
