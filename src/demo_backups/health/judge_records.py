"""Decide from the records and the fetched copies whether a database is verified, drilled and copied in time.

Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ..records.check import Outcome
from ..records.record import KINDS, FetchRecord, Record, VerificationRecord
from ..records.search import DRILL, FETCH, VERIFICATION, find_fetch, find_last, has_copy, has_failed, is_good
from ..records.store import InvalidRecord, filter_records, is_name_of, time_in_name
from ..recovery.copies import Copy
from ..remote.fact import Unavailable
from ..remote.files import File
from ..settings.model import Settings
from ..units import format_brief
from .findings import CLOCK_TOLERANCE, shorten, unavailable, with_limit
from .state import Finding, State

if TYPE_CHECKING:
    from .local_facts import LocalFacts, Records

OVERDUE = 1.5  # times the setting: the due task runs from a daily crontab line
TIME_TOLERANCE = 2.0  # seconds; some file systems store no exact times
NEVER = datetime.min.replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class _Subject:
    """The kind of records that a finding is about, with its texts, and how often there should be one, in seconds."""

    name: str
    kind: str
    every: float
    done: str
    never: str
    accept: Callable[[Record], bool] = is_good


def judge_local(facts: LocalFacts, settings: Settings, host: str, database: str, now: datetime) -> list[Finding]:
    """Judge what this machine knows; `now` is the time of its clock."""
    verification = _Subject("verification", VERIFICATION, settings.verify_every, "verified {} ago", "never verified")
    drill = _Subject("drill", DRILL, settings.drill_every, "drill {} ago", "no drill yet")
    if isinstance(facts.records, Unavailable):
        names = ["verification", "drill", *_copy_names(facts)]
        return [unavailable(name, name, facts.records) for name in names]
    judge = _Judge(facts.records, host, database, now)
    findings = [judge.decide(verification)]
    if settings.drill_dir or settings.drill_command or judge.has_any(DRILL):
        findings.append(judge.decide(drill))
    return [*findings, *_judge_copy(judge, facts, settings.fetch_every)]


def _judge_age(name: str, text: str, age: float, every: float) -> Finding:
    """Judge the age of the last verification, drill or copy; there should be one `every` so many seconds."""
    limit = OVERDUE * every
    if age <= limit:
        return Finding(name, State.OK, text)
    return Finding(name, State.WARNING, with_limit(text, limit))


@dataclass(frozen=True)
class _Judge:
    """The records of a database on a host, and what follows from them at a time."""

    records: Records
    host: str
    database: str
    now: datetime

    def has_any(self, kind: str) -> bool:
        """Tell whether there is any record of a kind, valid or not."""
        is_known = any(record.kind == kind for record in self.records.valid)
        return is_known or self.find_invalid(kind, NEVER) is not None

    def decide(self, subject: _Subject) -> Finding:
        """Decide from the last good record, and from those after it that failed or cannot be read."""
        good = self.find_last(subject.kind, subject.accept, self.now)
        since = datetime.fromisoformat(good.when) if good else NEVER
        failed = self.find_failure(subject)
        if failed:
            return Finding(subject.name, State.CRITICAL, self.describe_failure(subject, failed))
        invalid = self.find_invalid(subject.kind, since)
        if invalid:
            text = shorten(f"{invalid.path.name}: {invalid.reason}")
            return Finding(subject.name, State.UNKNOWN, f"{subject.name} unknown: a record cannot be read: {text}")
        if good is None:
            return Finding(subject.name, State.WARNING, self.explain_missing(subject))
        age = (self.now - since).total_seconds()
        return _judge_age(subject.name, subject.done.format(format_brief(age)), age, subject.every)

    def find_last(self, kind: str, accept: Callable[[Record], bool], until: datetime | None = None) -> Record | None:
        """Find the last record of a kind that is accepted."""
        return find_last(self.records.valid, KINDS[kind], self.host, self.database, accept, until)

    def find_failure(self, subject: _Subject) -> Record | None:
        """Find the last record of a kind that failed, unless a later one of the same or a newer backup is good."""
        good: list[Record] = []
        for record in self.list_newest_first(subject.kind):
            if has_failed(record) and not any(self.settles(later, record) for later in good):
                return record
            if subject.accept(record):
                good.append(record)
        return None

    def list_newest_first(self, kind: str) -> list[Record]:
        """List the records of a kind, the newest first."""
        own = filter_records(self.records.valid, self.host, self.database)
        records = [record for record in own if record.kind == kind]
        return sorted(records, key=lambda record: datetime.fromisoformat(record.when), reverse=True)

    def settles(self, record: Record, failed: Record) -> bool:
        """Tell whether a good record is of a later check than a failed one, of the same backup or a newer one.

        Dated in the future, from before the clock was set back, it is later only than another one of that time.
        """
        when, failed_when = datetime.fromisoformat(record.when), datetime.fromisoformat(failed.when)
        if when <= failed_when or failed_when <= self.now < when:
            return False
        if record.created is None or failed.created is None:
            return True
        return datetime.fromisoformat(record.created) >= datetime.fromisoformat(failed.created)

    def find_invalid(self, kind: str, since: datetime) -> InvalidRecord | None:
        """Find a file that may be a record of a kind from after a time, and cannot be read."""
        for invalid in self.records.invalid:
            is_of_kind = is_name_of(invalid.path.name, kind, self.host, self.database)
            if is_of_kind and (time_in_name(invalid.path.name) or self.now) > since:
                return invalid
        return None

    def describe_failure(self, subject: _Subject, failed: Record) -> str:
        """Describe the record of a task with checks that failed."""
        checks = [check for check in failed.checks if check.outcome is Outcome.FAILED]
        age = format_brief((self.now - datetime.fromisoformat(failed.when)).total_seconds())
        name = PurePosixPath(failed.backup or "a backup").name
        details = "; ".join(f"{check.name}: {check.detail}" for check in checks)
        return shorten(f"{subject.name} of {name} failed {age} ago: {details}")

    def explain_missing(self, subject: _Subject) -> str:
        """Say that there is no good record, and whether there is one of a task that could not make all checks."""
        last = self.find_last(subject.kind, lambda record: True, self.now)
        return f"{subject.never} completely" if last and last.checks else subject.never


# --- copies ---------------------------------------------------------------------------------------------------------


def _copy_names(facts: LocalFacts) -> list[str]:
    return ["copy"] if isinstance(facts.copies, Unavailable) or facts.copies else []


def _judge_copy(judge: _Judge, facts: LocalFacts, every: float) -> list[Finding]:
    """Judge the copies, if there ever was one: the last fetch, and whether its file is still what was fetched."""
    copies = facts.copies
    if isinstance(copies, Unavailable):
        return [unavailable("copy", "copy", copies)]
    if not copies and not judge.has_any(FETCH):
        return []
    fetch = find_fetch(judge.records.valid, judge.host, judge.database, judge.now)
    if fetch is None and copies and not judge.has_any(FETCH):
        return [_judge_unrecorded(judge, copies, every)]
    subject = _Subject("copy", FETCH, every, "copy {} old", "no copy yet", lambda record: record is fetch)
    finding = judge.decide(subject)
    of_file = _judge_file(facts, fetch)
    return [finding] if of_file is None else [finding, of_file]


def _judge_unrecorded(judge: _Judge, copies: Sequence[Copy], every: float) -> Finding:
    """Judge copies without a record by the times of their backups, which are those of the clock of the host."""
    ages = [judge.now.timestamp() - copy.modified.timestamp() for copy in copies]
    age = min((max(0.0, age) for age in ages if age >= -CLOCK_TOLERANCE), default=None)
    if age is None:
        return Finding("copy", State.WARNING, "the copies are dated in the future")
    return _judge_age("copy", f"copy of a backup {format_brief(age)} old", age, every)


def _judge_file(facts: LocalFacts, fetch: FetchRecord | None) -> Finding | None:
    """Judge the file of the last fetch; None if it is as it was fetched."""
    if fetch is None:
        return None
    if isinstance(facts.fetched, Unavailable):
        return unavailable("copy", "copy", facts.fetched)
    if facts.fetched is None:
        return Finding("copy", State.WARNING, shorten(f"the copy {fetch.details.file} is missing"))
    is_same = facts.fetched.bytes == fetch.bytes
    if fetch.created:
        created = datetime.fromisoformat(fetch.created)
        is_same = is_same and abs((facts.fetched.modified - created).total_seconds()) <= TIME_TOLERANCE
    if not is_same:
        return Finding("copy", State.CRITICAL, shorten(f"the copy {facts.fetched.name} was changed after its fetch"))
    return None


# --- backups that are not covered by a verification or a fetch ------------------------------------------------------


def judge_coverage(
    backups: Iterable[File], records: Sequence[Record], settings: Settings, host: str, database: str, now: float
) -> list[Finding]:
    """Find out whether newer backups than the last one that was verified, or copied, have waited too long for that.

    So a verification of an old backup is not enough. All times are by the clock of the host, whose time is `now`.
    """
    own = filter_records(records, host, database)
    verified = [record for record in own if isinstance(record, VerificationRecord) and is_good(record)]
    copied = [record for record in own if isinstance(record, FetchRecord) and has_copy(record)]
    files = list(backups)
    findings = []
    for name, verb, covering, every in (
        ("verification", "verified", verified, settings.verify_every),
        ("copy", "copied", copied, settings.fetch_every),
    ):
        age = _uncovered_age(files, covering, now)
        if age is not None and age > OVERDUE * every:
            findings.append(Finding(name, State.WARNING, f"no backup of the last {format_brief(age)} is {verb}"))
    return findings


def _uncovered_age(backups: Iterable[File], records: Iterable[Record], now: float) -> float | None:
    """Return the age of the first backup that is newer than all those of some records; None if there is none."""
    created = [datetime.fromisoformat(record.created).timestamp() for record in records if record.created]
    last = max((time for time in created if time <= now), default=None)
    if last is None:
        return None
    newer = [time for file in backups if (time := file.modified.timestamp()) > last]
    return now - min(newer) if newer else None


# --- verified backups that have changed -----------------------------------------------------------------------------


def judge_changes(backups: Iterable[File], records: Sequence[Record], host: str, database: str) -> list[Finding]:
    """Find the backups on the host that are no longer the file that passed its verification."""
    verified: dict[str, Record] = {}
    for record in filter_records(records, host, database):  # the oldest first
        if isinstance(record, VerificationRecord) and record.backup and is_good(record):
            verified[record.backup] = record
    changed = [file for file in backups if _has_changed(file, verified.get(str(file.path)))]
    return [
        Finding("verification", State.CRITICAL, shorten(f"{file.path.name} was changed after it was verified"))
        for file in changed[:1]
    ]


def _has_changed(file: File, record: Record | None) -> bool:
    if record is None or record.created is None:
        return False
    return record.bytes != file.bytes or datetime.fromisoformat(record.created) != file.modified
