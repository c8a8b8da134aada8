"""The names of backups: what the database's script calls them, and what they are called when they are kept."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from ..settings.model import BackupSeries, Database

DATE = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]_[0-9][0-9]-[0-9][0-9]-[0-9][0-9]"  # in a pattern of the shell
# Between the time in a name and the modification time: 14 h of the farthest time zone, and 12 h for the backup itself.
LARGEST_DIFFERENCE = timedelta(hours=26)
VERIFIED = "verified."  # the start of the name of a backup that is kept, which no rotation matches


def parse_start_time(name: str) -> datetime:
    """Return the time in the name of a backup, at which it started, in the local time of the host; raises ValueError.

    Written out, since strptime takes several times as long, and there may be many thousands of backups.
    """
    match = re.search(r"(\d{4})-(\d\d)-(\d\d)_(\d\d)-(\d\d)-(\d\d)\.(?:db|tar)\Z", name, re.ASCII)
    if match is None:
        raise ValueError(f"{name!r} has no time")
    year, month, day, hour, minute, second = map(int, match.groups())
    return datetime(year, month, day, hour, minute, second)


def is_backup_name(series: BackupSeries, name: str) -> bool:
    """Tell whether a backup of the series would have a name like this."""
    time = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d"
    return bool(re.fullmatch(re.escape(series.backup_prefix) + time + re.escape(series.suffix), name, re.ASCII))


def is_verified_name(database: Database, name: str) -> bool:
    """Tell whether a file is called like a backup that is kept because it was verified: see `keep_verified`."""
    return name.startswith(VERIFIED) and is_backup_name(database, name.removeprefix(VERIFIED))
