"""Decide from the records of a kind whether something was done in time, and without a fault. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import PurePosixPath

from ..records.check import Outcome
from ..records.record import Record
from ..records.search import has_failed, is_good
from ..records.store import InvalidRecord, filter_records, is_name_of, time_in_name
from ..units import format_brief
from .findings import shorten, with_limit
from .state import Finding, State

OVERDUE = 1.5  # times the setting: the due task runs from a daily crontab line
NEVER = datetime.min.replace(tzinfo=timezone.utc)


def judge_age(name: str, text: str, age: float, every: float) -> Finding:
    """Judge the age of the last verification, drill or copy; there should be one `every` so many seconds."""
    limit = OVERDUE * every
    if age <= limit:
        return Finding(name, State.OK, text)
    return Finding(name, State.WARNING, with_limit(text, limit))


def is_same_or_newer(record: Record, failed: Record) -> bool:
    """Tell whether a record is of the same backup as one that failed, or of a newer one, as far as this is known."""
    if record.created is None or failed.created is None:
        return True
    return datetime.fromisoformat(record.created) >= datetime.fromisoformat(failed.created)


def settle_backup(later: Sequence[Record], failed: Record) -> bool:
    """Tell whether one of the later good records is of the same backup as the failed one, or of a newer one."""
    return any(is_same_or_newer(record, failed) for record in later)


@dataclass(frozen=True)
class Subject:
    """What a finding is about: its name, the kind of its records, and how often there should be one, in seconds.

    `done` and `never` are its texts, and `noun` is what fails; without one, its name. `selects` chooses the records of
    the kind, and `accept` those that are good. `settles` tells whether good ones that are later settle a failed one.
    """

    name: str
    kind: str
    every: float
    done: str
    never: str
    noun: str = ""
    accept: Callable[[Record], bool] = is_good
    selects: Callable[[Record], bool] = lambda record: True
    settles: Callable[[Sequence[Record], Record], bool] = settle_backup


@dataclass(frozen=True)
class Records:
    """The records of what was done with the backups of a database of a host, and the files that are invalid."""

    valid: tuple[Record, ...] = ()
    invalid: tuple[InvalidRecord, ...] = ()


@dataclass(frozen=True)
class RecordJudge:
    """The records of a database on a host, or on any host (None), and what follows from them at a time."""

    records: Records
    host: str | None
    database: str
    now: datetime

    def has_any(self, kind: str) -> bool:
        """Tell whether there is any record of a kind, valid or not."""
        own = filter_records(self.records.valid, self.host, self.database)
        return any(record.kind == kind for record in own) or self.find_invalid(kind, NEVER) is not None

    def decide(self, subject: Subject) -> Finding:
        """Decide from the last good record, and from those after it that failed or cannot be read."""
        good = self.find_last(subject, subject.accept)
        since = datetime.fromisoformat(good.when) if good else NEVER
        failed = self.find_failure(subject)
        if failed:
            return Finding(subject.name, State.CRITICAL, self.describe_failure(subject, failed))
        invalid = self.find_invalid(subject.kind, since)
        if invalid:
            text = shorten(f"{invalid.path.name}: {invalid.reason}")
            noun = subject.noun or subject.name
            return Finding(subject.name, State.UNKNOWN, f"{noun} unknown: a record cannot be read: {text}")
        if good is None:
            return Finding(subject.name, State.WARNING, self.explain_missing(subject))
        age = (self.now - since).total_seconds()
        return judge_age(subject.name, subject.done.format(format_brief(age)), age, subject.every)

    def decide_last(self, name: str, kind: str) -> list[Finding]:
        """Decide from the last record of a kind whether its task has succeeded; it is no finding if it has."""
        subject = Subject(name, kind, 0, "", "")
        last = self.find_last(subject, lambda record: True)
        invalid = self.find_invalid(kind, datetime.fromisoformat(last.when) if last else NEVER)
        if invalid:
            text = f"{kind} unknown: a record cannot be read: {invalid.path.name}: {invalid.reason}"
            return [Finding(name, State.UNKNOWN, shorten(text))]
        if last is None or last.exit_status == 0:
            return []
        age = format_brief((self.now - datetime.fromisoformat(last.when)).total_seconds())
        lines = (last.error or "").strip().splitlines()
        reason = lines[0].removeprefix(f"{last.host}: ") if lines else f"exit code {last.exit_status}"
        return [Finding(name, State.WARNING, shorten(f"{kind} failed {age} ago: {reason}"))]

    def find_last(self, subject: Subject, accept: Callable[[Record], bool]) -> Record | None:
        """Find the last record that is accepted; one from the future, before the clock was set back, does not count."""
        for record in self.list_newest_first(subject):
            if datetime.fromisoformat(record.when) <= self.now and accept(record):
                return record
        return None

    def find_failure(self, subject: Subject) -> Record | None:
        """Find the last record that failed, unless later ones that are good settle it."""
        good: list[Record] = []
        for record in self.list_newest_first(subject):
            if has_failed(record):
                later = [other for other in good if self.is_later(other, record)]
                if not subject.settles(later, record):
                    return record
            if subject.accept(record):
                good.append(record)
        return None

    def list_newest_first(self, subject: Subject) -> list[Record]:
        """List the records, the newest first."""
        own = filter_records(self.records.valid, self.host, self.database)
        records = [record for record in own if record.kind == subject.kind and subject.selects(record)]
        return sorted(records, key=lambda record: datetime.fromisoformat(record.when), reverse=True)

    def is_later(self, record: Record, failed: Record) -> bool:
        """Tell whether a good record is later than a failed one.

        Dated in the future, from before the clock was set back, it is later only than another one of that time.
        """
        when, failed_when = datetime.fromisoformat(record.when), datetime.fromisoformat(failed.when)
        return when > failed_when and not failed_when <= self.now < when

    def find_invalid(self, kind: str, since: datetime) -> InvalidRecord | None:
        """Find a file that may be a record of a kind from after a time, and cannot be read."""
        for invalid in self.records.invalid:
            is_of_kind = is_name_of(invalid.path.name, kind, self.host, self.database)
            if is_of_kind and (time_in_name(invalid.path.name) or self.now) > since:
                return invalid
        return None

    def describe_failure(self, subject: Subject, failed: Record) -> str:
        """Describe the record of a task with checks that failed."""
        checks = [check for check in failed.checks if check.outcome is Outcome.FAILED]
        age = format_brief((self.now - datetime.fromisoformat(failed.when)).total_seconds())
        of_backup = f" of {PurePosixPath(failed.backup).name}" if failed.backup else ""
        details = "; ".join(f"{check.name}: {check.detail}" for check in checks)
        return shorten(f"{subject.noun or subject.name}{of_backup} failed {age} ago: {details}")

    def explain_missing(self, subject: Subject) -> str:
        """Say that there is no good record, and whether there is one of a task that could not make all checks."""
        last = self.find_last(subject, lambda record: True)
        return f"{subject.never} completely" if last and last.checks else subject.never
