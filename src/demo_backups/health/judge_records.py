"""Decide from the records and the fetched copies whether a database is verified, drilled and copied in time.

Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from ..records.record import FetchRecord, Record, VerificationRecord
from ..records.search import CONFIG_ARCHIVE, DRILL, FETCH, VERIFICATION, find_fetch, has_copy, is_good, is_stored
from ..records.store import filter_records
from ..recovery.copies import Copy
from ..remote.fact import Unavailable
from ..remote.files import File
from ..settings.model import Settings
from ..units import format_brief
from .findings import CLOCK_TOLERANCE, shorten, unavailable
from .judge_offsite import judge_offsite
from .record_judge import OVERDUE, RecordJudge, Subject, judge_age
from .state import Finding, State

if TYPE_CHECKING:
    from .local_facts import LocalFacts

TIME_TOLERANCE = 2.0  # seconds; some file systems store no exact times


def judge_local(facts: LocalFacts, settings: Settings, host: str, database: str, now: datetime) -> list[Finding]:
    """Judge what this machine knows about a database; `now` is the time of its clock."""
    if isinstance(facts.records, Unavailable):
        names = ["verification", "drill", *_list_copy_names(facts, settings)]
        return [unavailable(name, name, facts.records) for name in names]
    verification = Subject("verification", VERIFICATION, settings.verify_every, "verified {} ago", "never verified")
    drill = Subject("drill", DRILL, settings.drill_every, "drill {} ago", "no drill yet")
    judge = RecordJudge(facts.records, host, database, now)
    findings = [judge.decide(verification)]
    if settings.drill_dir or settings.drill_command or judge.has_any(DRILL):
        findings.append(judge.decide(drill))
    return [*findings, *_judge_copies(judge, facts, settings, host)]


def judge_local_archives(facts: LocalFacts, settings: Settings, host: str, name: str, now: datetime) -> list[Finding]:
    """Judge what this machine knows about the archives of the configuration, which are neither verified nor drilled."""
    if isinstance(facts.records, Unavailable):
        names = ["backup", *_list_copy_names(facts, settings)]
        return [unavailable(subject, subject, facts.records) for subject in names]
    judge = RecordJudge(facts.records, host, name, now)
    last_run = judge.decide_last("backup", CONFIG_ARCHIVE)
    return [*last_run, *_judge_copies(judge, facts, settings, host)]


def was_archived(facts: LocalFacts) -> bool:
    """Tell whether there was an archive of the configuration once, as the records and the copies show."""
    has_copy = bool(facts.copies) and not isinstance(facts.copies, Unavailable)
    records = () if isinstance(facts.records, Unavailable) else facts.records.valid
    return has_copy or any(record.kind == CONFIG_ARCHIVE and record.backup for record in records)


# --- copies ---------------------------------------------------------------------------------------------------------


def _list_copy_names(facts: LocalFacts, settings: Settings) -> list[str]:
    """List the findings about copies that are set up, as far as this is known without the records."""
    copy = ["copy"] if isinstance(facts.copies, Unavailable) or facts.copies else []
    return [*copy, *(["offsite"] if settings.offsite.repository else [])]


def _judge_copies(judge: RecordJudge, facts: LocalFacts, settings: Settings, host: str) -> list[Finding]:
    """Judge the fetched copies, and those in the off-site repository if there is one."""
    findings = _judge_copy(judge, facts, settings.fetch_every, host)
    if settings.offsite.repository:
        findings += judge_offsite(judge, settings.offsite.every)
    return findings


def _judge_copy(judge: RecordJudge, facts: LocalFacts, every: float, host: str) -> list[Finding]:
    """Judge the copies, if there ever was one: the last fetch, and whether its file is still what was fetched."""
    copies = facts.copies
    if isinstance(copies, Unavailable):
        return [unavailable("copy", "copy", copies)]
    if not copies and not judge.has_any(FETCH):
        return []
    fetch = find_fetch(judge.records.valid, host, judge.database, judge.now)
    if fetch is None and copies and not judge.has_any(FETCH):
        return [_judge_unrecorded(judge, copies, every)]
    subject = Subject("copy", FETCH, every, "copy {} old", "no copy yet", accept=lambda record: record is fetch)
    finding = judge.decide(subject)
    of_file = _judge_file(facts, fetch)
    return [finding] if of_file is None else [finding, of_file]


def _judge_unrecorded(judge: RecordJudge, copies: Sequence[Copy], every: float) -> Finding:
    """Judge copies without a record by the times of their backups, which are those of the clock of the host."""
    ages = [judge.now.timestamp() - copy.modified.timestamp() for copy in copies]
    age = min((max(0.0, age) for age in ages if age >= -CLOCK_TOLERANCE), default=None)
    if age is None:
        return Finding("copy", State.WARNING, "the copies are dated in the future")
    return judge_age("copy", f"copy of a backup {format_brief(age)} old", age, every)


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


# --- backups that are not covered by a verification, a fetch, or an off-site copy ------------------------------------


def judge_coverage(
    backups: Iterable[File],
    copies: Iterable[Copy],
    records: Sequence[Record],
    settings: Settings,
    host: str,
    database: str,
    now: float,
) -> list[Finding]:
    """Find out whether newer backups than the last one that was verified, or copied, have waited too long for that.

    So a verification of an old backup is not enough. A copy may be of a backup that is no longer on the host. All times
    are by the clock of the host, whose time is `now`.
    """
    own = filter_records(records, host, database)
    verified = [record for record in own if isinstance(record, VerificationRecord) and is_good(record)]
    copied = [record for record in own if isinstance(record, FetchRecord) and has_copy(record)]
    stored = [record for record in own if is_stored(record)]
    on_host = [backup.modified.timestamp() for backup in backups]
    fetched = [time for copy in copies if (time := copy.modified.timestamp()) <= now]
    subjects: list[tuple[str, str, list[float], Sequence[Record], float]] = [
        ("verification", "verified", on_host, verified, settings.verify_every),
        ("copy", "copied", on_host, copied, settings.fetch_every),
    ]
    if settings.offsite.repository:
        subjects.append(("offsite", "off-site", [*on_host, *fetched], stored, settings.offsite.every))
    findings = []
    for name, verb, times, covering, every in subjects:
        age = _uncovered_age(times, covering, now)
        if age is not None and age > OVERDUE * every:
            findings.append(Finding(name, State.WARNING, f"no backup of the last {format_brief(age)} is {verb}"))
    return findings


def _uncovered_age(backups: Iterable[float], records: Iterable[Record], now: float) -> float | None:
    """Return the age of the first backup, by its time, that is newer than all those of some records; None: none is."""
    created = [datetime.fromisoformat(record.created).timestamp() for record in records if record.created]
    last = max((time for time in created if time <= now), default=None)
    if last is None:
        return None
    newer = [time for time in backups if time > last + TIME_TOLERANCE]
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
