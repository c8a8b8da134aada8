"""Decide from the facts whether the configuration is archived. Pure: no I/O, no clock.

An archive is only made when something has changed, so its age has no limit. Nor is it verified or drilled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..remote.fact import Unavailable
from ..remote.files import File
from ..units import format_brief
from .findings import shorten, unavailable
from .freshness import backup_time
from .judge_dates import judge_clock, judge_dates
from .state import Finding, State

if TYPE_CHECKING:
    from .archive_facts import ArchiveFacts


def judge_archives(facts: ArchiveFacts, is_known: bool) -> list[Finding]:
    """Judge what a host says; `is_known`: there was an archive once."""
    if isinstance(facts.backups, Unavailable):
        return [unavailable("backup", "archive of the configuration", facts.backups)]
    newest = facts.backups.newest
    return [
        _judge_newest(newest, facts.now, is_known),
        *judge_dates(facts.backups, facts.now),
        *judge_clock(facts.clock_difference),
    ]


def _judge_newest(newest: File | None, now: float, is_known: bool) -> Finding:
    if newest is None and is_known:
        return Finding("backup", State.CRITICAL, "no archive of the configuration is left on the server")
    if newest is None:
        return Finding("backup", State.WARNING, "the configuration was never archived")
    if newest.type != "f" or newest.bytes == 0:
        problem = "it is empty" if newest.type == "f" else "it is not a regular file"
        return Finding("backup", State.CRITICAL, shorten(f"{newest.path.name} is damaged: {problem}"))
    return Finding("backup", State.OK, f"backup {format_brief(max(0.0, now - backup_time(newest)))} old")
