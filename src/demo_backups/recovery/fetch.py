"""Fetch a backup: download what is missing, continue after lost connections, and compare the SHA-256."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CopyMismatchError
from ..records.check import Check, Checked
from ..remote.download import Download, Meter, PartialFile, download
from ..remote.host import Host
from ..remote.notify import Notify
from ..remote.retries import retry_when_lost
from ..settings.load import parse_directory, parse_rate
from ..settings.model import Settings
from ..units import format_size
from .copies import copies_dir
from .hold import Hold
from .remote_hash import HashedBackup


@dataclass(frozen=True)
class FetchOptions:
    """How to fetch: the directory of the copy, the limit in bytes per second on the wire, and whether to compress.

    With `delta`, only the pages are sent that changed since the last fetched backup. `flags` are those of the command
    line, to be repeated by the command that continues.
    """

    folder: Path
    limit: int | None = None
    compress: bool = True
    delta: bool = False
    flags: Sequence[str] = ()


def fetch_options(
    settings: Settings, to: str | None, limit: str | None, compress: bool, delta: bool = False
) -> FetchOptions:
    """Combine the flags of the task with the settings; raises SettingsError."""
    folder = copies_dir(settings, settings.host) if to is None else parse_directory(to)
    rate = settings.fetch_limit if limit is None else parse_rate(limit)
    flags = [
        *([] if to is None else ["--to", str(folder)]),
        *([] if limit is None else ["--limit", limit]),
        *([] if compress else ["--no-compress"]),
        *(["--delta"] if delta else []),
    ]
    return FetchOptions(folder, rate, compress, delta, flags)


@dataclass
class Fetched(Checked):
    """The result of a fetch.

    `resumed_from` are the bytes that were on this machine before, `sent_bytes` the payload on the wire.
    """

    file: Path
    bytes: int
    sha256: str
    resumed_from: int
    sent_bytes: int
    checks: list[Check]

    def as_json(self, host: str, database: str, backup: str | None, seconds: float | None) -> dict[str, Any]:
        """Return the object that `inv fetch --json` prints."""
        return {
            "host": host,
            "database": database,
            "backup": backup,
            "file": str(self.file),
            "bytes": self.bytes,
            "sha256": self.sha256,
            "resumed_from": self.resumed_from,
            "sent_bytes": self.sent_bytes,
            "seconds": seconds,
            "verified": self.outcome.value,
        }


def receive_backup(
    host: Host,
    backup: HashedBackup,
    hold: Hold,
    compress: bool,
    partial: PartialFile,
    meter: Meter,
    notify: Notify,
) -> None:
    """Complete a partial file; raises CopyMismatchError if it then does not have the SHA-256 of the backup.

    What was in it before may be damaged, so the download is started once more from the beginning in that case.
    """

    def download_missing() -> None:
        hold.renew()
        download(host, Download(hold.path, compress), partial, meter)

    had_bytes = partial.size > 0
    if not is_complete(partial, backup):
        retry_when_lost(download_missing, lambda: partial.size, notify)
    if not is_complete(partial, backup) and had_bytes:
        notify("the partial file on this machine does not match the backup: starting from the beginning")
        partial.clear()
        retry_when_lost(download_missing, lambda: partial.size, notify)
    if not is_complete(partial, backup):
        received = f"{partial.sha256.hexdigest()}, {format_size(partial.size)}"
        partial.clear()
        raise CopyMismatchError(
            f"the SHA-256 of what was received is not that of {backup.path}",
            host=host.name,
            output=f"received:    {received}\non the host: {backup.sha256}, {format_size(backup.identity.bytes)}",
            advice="start the task again; if that does not help, find out which program changes the backup on the host",
        )


def is_complete(partial: PartialFile, backup: HashedBackup) -> bool:
    """Tell whether a partial file is the whole backup."""
    return partial.size == backup.identity.bytes and partial.sha256.hexdigest() == backup.sha256
