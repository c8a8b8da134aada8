"""The time of a backup, and which backups are dated in the future.

A backup has two times: that in its name, at which it started, in the local time of the host; and its modification time,
at which it was complete.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..backup.names import LARGEST_DIFFERENCE, parse_start_time
from ..remote.files import File

FUTURE_TOLERANCE = 60.0  # seconds


def backup_time(file: File) -> float:
    """Return the time of a backup, in seconds since 1970: its modification time, unless its name contradicts that.

    Of two times that cannot both be right, it is the earlier one: a copy of an old backup is not a new one.
    """
    modified = file.modified.timestamp()
    started = _time_in_name(file)
    return modified if started is None or not _contradict(started, modified) else min(started, modified)


def has_contradiction(file: File) -> bool:
    """Tell whether the time in the name of a backup and its modification time cannot both be right."""
    started = _time_in_name(file)
    return started is not None and _contradict(started, file.modified.timestamp())


def _contradict(started: float, modified: float) -> bool:
    return abs(modified - started) > LARGEST_DIFFERENCE.total_seconds()


def _time_in_name(file: File) -> float | None:
    try:
        return parse_start_time(file.path.name).replace(tzinfo=file.modified.tzinfo).timestamp()
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class Backups:
    """The backups of a database, the newest first, and apart from them those that are dated in the future."""

    current: tuple[File, ...]
    future: tuple[File, ...]

    @property
    def newest(self) -> File | None:
        """The newest backup that is not dated in the future; None if there is none."""
        return next(iter(self.current), None)

    @property
    def all(self) -> tuple[File, ...]:
        """All backups."""
        return (*self.future, *self.current)


def sort_backups(files: Iterable[File], now: float) -> Backups:
    """Sort backups by their time, and set those apart that are later than `now`, by the clock of the host."""
    timed = [(backup_time(file), file) for file in files]
    timed.sort(key=lambda item: (item[0], item[1].path.name), reverse=True)
    latest = now + FUTURE_TOLERANCE
    return Backups(
        tuple(file for time, file in timed if time <= latest), tuple(file for time, file in timed if time > latest)
    )
