"""Decide from the facts whether the configuration is archived. Pure: no I/O, no clock.

An archive is only made when something has changed, so its age has no limit. Nor is it verified or drilled.
"""

from __future__ import annotations

from datetime import datetime

from ..records.record import Record
from ..records.search import CONFIG_ARCHIVE
from ..remote.fact import Unavailable
from ..remote.files import File
from ..units import format_brief
from .archive_facts import ArchiveFacts
from .findings import shorten, unavailable
from .freshness import backup_time
from .judge import judge_clock, judge_dates
from .record_judge import NEVER, RecordJudge, Subject
from .state import Finding, State

RUN = Subject("backup", CONFIG_ARCHIVE, 0, "", "")


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


def judge_last_run(judge: RecordJudge) -> list[Finding]:
    """Judge the last call of `backup-config`, by its record: it may have failed, or found that a path is missing."""
    last = judge.find_last(RUN, lambda record: True)
    invalid = judge.find_invalid(CONFIG_ARCHIVE, datetime.fromisoformat(last.when) if last else NEVER)
    if invalid:
        text = f"backup-config unknown: a record cannot be read: {invalid.path.name}: {invalid.reason}"
        return [Finding("backup", State.UNKNOWN, shorten(text))]
    if last is None or last.exit_status == 0:
        return []
    age = format_brief((judge.now - datetime.fromisoformat(last.when)).total_seconds())
    return [Finding("backup", State.WARNING, shorten(f"backup-config failed {age} ago: {_explain(last)}"))]


def _explain(record: Record) -> str:
    """Say why a task failed: the first line of its error, or its exit code."""
    lines = (record.error or "").strip().splitlines()
    return lines[0] if lines else f"exit code {record.exit_status}"
