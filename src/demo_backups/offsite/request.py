"""A copy that is to be stored, and the arguments of restic for it."""

from __future__ import annotations

from dataclasses import dataclass

from ..recovery.copies import Copy
from ..settings.model import BackupSeries
from .snapshots import BYTES, NAME, SHA256, path_of, tag_of


@dataclass(frozen=True)
class StoreRequest:
    """A copy to store: of which host and series, and the SHA-256 that the record of its fetch has."""

    host: str
    label: str
    series: BackupSeries
    copy: Copy
    sha256: str

    @property
    def path(self) -> str:
        """The path in the snapshot."""
        return path_of(self.label, self.series)

    def arguments(self) -> list[str]:
        """Return the arguments of restic. It reads the open file as its standard input, so no name can change.

        The time is that of the backup, in UTC, as is the time zone of restic.
        """
        tags = [
            tag_of(self.label, self.series),
            f"{NAME}{self.copy.name}",
            f"{SHA256}{self.sha256}",
            f"{BYTES}{self.copy.bytes}",
        ]
        return [
            *("backup", "--json", "--force", f"--host={self.host}"),
            f"--time={self.copy.modified:%Y-%m-%d %H:%M:%S}",
            *(f"--tag={tag}" for tag in tags),
            *("--stdin", f"--stdin-filename={self.path}"),
        ]
