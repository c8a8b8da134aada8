"""Fetch a backup by its difference to the last fetched one: the pages that changed are sent."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

from ..errors import RsyncError
from ..remote.download import Meter, PartialFile
from ..remote.host import Host
from ..remote.notify import Notify
from ..remote.retries import retry_when_lost
from ..remote.rsync import find_missing_rsync, update_file
from ..settings.model import BackupSeries, Settings
from .copies import Copy, list_copies
from .hold import Hold
from .local_copy import CopyPaths, require_space
from .remote_hash import HashedBackup

WHOLE = "the whole backup is sent"


def find_base(settings: Settings, host: Host, series: BackupSeries) -> Copy | None:
    """Find the last fetched backup of a series of a host; None if there is none."""
    copies = list_copies(settings, host.name, series)
    return copies[0] if copies else None


def update_partial(
    host: Host,
    base: Copy | None,
    backup: HashedBackup,
    hold: Hold,
    paths: CopyPaths,
    partial: PartialFile,
    meter: Meter,
    notify: Notify,
) -> bool:
    """Complete a partial file with the pages of the backup that it lacks; tell whether that was done.

    An empty partial file first becomes a copy of the base. Where it cannot be done, `notify` gets the reason. Raises
    ConnectionLostError and InterruptedRunError; the partial file can then be updated by the next try.
    """
    missing = find_missing_rsync(host)
    if missing:
        notify(f"rsync is not installed on {missing}: {WHOLE}")
        return False
    if not partial.size:
        if base is None:
            notify(f"there is no earlier copy of this database on this machine: {WHOLE}")
            return False
        require_space(paths.final.parent, max(base.bytes, backup.identity.bytes))
        notify(f"sending the pages that changed since {base.name}")
        if not _copy(base.path, paths.partial, notify):
            return False

    def update() -> None:
        hold.renew()
        update_file(host, hold.path, paths.partial, backup.identity.bytes, meter)

    try:
        retry_when_lost(update, lambda: meter.count, notify)
    except RsyncError as error:
        notify(f"{error}\n{WHOLE}")
        return False
    partial.reload()
    return True


def _copy(base: Path, partial: Path, notify: Notify) -> bool:
    """Copy the base over the partial file, by reflink where the file system has that."""
    try:
        with base.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # prune-copies does not delete a copy in use
            done = subprocess.run(
                ["cp", "--reflink=auto", "--", base, partial],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
    except OSError as error:
        notify(f"{base} could not be copied: {error}; {WHOLE}")
        return False
    if done.returncode:
        notify(f"{base} could not be copied: {done.stderr.strip()}; {WHOLE}")
    return not done.returncode
