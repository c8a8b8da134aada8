"""The checks of a fetched backup on this machine."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ..backup.archive import CHECKS, check_archive
from ..backup.checks import check_integrity, check_row, check_size
from ..records.check import Check, Outcome
from ..remote.files import File
from ..remote.host import LONG_TIMEOUT, Host
from ..settings.model import BackupSeries, Database
from ..sqlite.command import sqlite_command
from ..sqlite.inspect import header_command
from ..sqlite.integrity import integrity_command
from .copies import Copy, read_copy


def check_copy(this_machine: Host, series: BackupSeries, path: Path) -> list[Check]:
    """Check a file on this machine without its source.

    Of a backup of a database, its size, its integrity, and that the query returns a row; of an archive of the
    configuration, its size, its members and their checksums.
    """
    copy = read_copy(path)
    if copy is None:
        names = ("integrity", "query") if isinstance(series, Database) else CHECKS[1:]
        missing = Check("size", Outcome.FAILED, f"{path} is not a regular file")
        return [missing, *(Check(name, Outcome.UNKNOWN, "no copy to check") for name in names)]
    if not isinstance(series, Database):
        return check_archive(path)
    return _check_database(this_machine, series, copy, path)


def _check_database(this_machine: Host, database: Database, copy: Copy, path: Path) -> list[Check]:
    absolute = PurePosixPath(path.absolute())
    header = this_machine.run(f"read the header of {path}", header_command(absolute), reads_only=True)
    integrity = this_machine.run(
        f"check {path}", integrity_command(absolute, quick=False), timeout=LONG_TIMEOUT, reads_only=True
    )
    query = sqlite_command(absolute, database.query, immutable=True)
    row = this_machine.run(f"query {path}", query, timeout=LONG_TIMEOUT, reads_only=True)
    return [
        check_size(File(absolute, copy.bytes, copy.modified), header),
        check_integrity(integrity, quick=False),
        check_row(row),
    ]
