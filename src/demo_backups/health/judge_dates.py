"""Decide whether the times of backups, and the clock of their host, can be right. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence

from ..remote.files import File
from ..units import format_brief
from .findings import CLOCK_TOLERANCE, shorten
from .freshness import Backups, backup_time, has_contradiction
from .state import Finding, State


def judge_dates(backups: Backups, now: float) -> list[Finding]:
    """Warn of backups dated in the future, of a newest one whose times contradict each other, and of empty ones."""
    findings = []
    files = backups.all
    if backups.future:
        last = backups.future[0]
        difference = format_brief(backup_time(last) - now)
        findings.append(f"{_count(backups.future)} dated in the future: {last.path.name}, by {difference}")
    newest = max(files, key=lambda file: file.modified, default=None)
    if newest and has_contradiction(newest):
        findings.append(f"the name of {newest.path.name} and its modification time differ by more than a day")
    empty = [file for file in files if file.bytes == 0]
    if empty:
        findings.append(f"{_count(empty)} empty: {empty[0].path.name}")
    return [Finding("backup", State.WARNING, shorten(text)) for text in findings]


def _count(files: Sequence[File]) -> str:
    return "1 backup is" if len(files) == 1 else f"{len(files)} backups are"


def judge_clock(difference: float) -> list[Finding]:
    """Judge by how much the clock of the host is ahead of that of this machine."""
    if abs(difference) <= CLOCK_TOLERANCE:
        return []
    direction = "ahead of" if difference > 0 else "behind"
    text = f"the clock of the host is {format_brief(difference)} {direction} that of this machine"
    return [Finding("clock", State.WARNING, text)]
