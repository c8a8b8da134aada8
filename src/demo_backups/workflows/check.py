"""Judge the backups of a database, or the archives of the configuration: observe the host and this machine, decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import TypeVar

from ..health.archive_facts import ArchiveFacts, observe_archives
from ..health.facts import observe_host
from ..health.findings import unavailable
from ..health.freshness import Backups, backup_time
from ..health.host_facts import HostFacts
from ..health.host_queries import try_query
from ..health.judge import decide_limits, judge_host
from ..health.judge_archives import judge_archives
from ..health.judge_records import judge_changes, judge_coverage, judge_local, judge_local_archives, was_archived
from ..health.local_facts import LocalFacts, observe_local
from ..health.state import Finding, Health, Metrics
from ..records.record import DrillRecord, OffsiteRecord, Record, VerificationRecord
from ..records.search import find_fetch, find_last, is_stored
from ..remote.fact import Fact, Unavailable
from ..settings.model import ConfigArchives
from .session import Session

T = TypeVar("T", HostFacts, ArchiveFacts)


def check_database(work: Session) -> Health:
    """Judge the backups of the session's database; whatever cannot be determined is an UNKNOWN finding.

    Raises HostUnreachableError, HostKeyError, LoginError or ConnectionLostError if the host cannot be reached any more.
    """
    settings, name, database = work.settings, work.host.name, work.database
    now = datetime.now(timezone.utc)
    local = observe_local(settings, name, database, now)
    limits, floor = settings.check_settings(database.name), int(settings.free_space_floor)
    facts = try_query(lambda: observe_host(work.host, database, settings))
    findings = _judge_host(facts, lambda facts: judge_host(facts, database, limits, floor))
    findings += _judge_recorded(work, facts, local)
    findings += judge_local(local, settings, name, database.name, now)
    metrics = _measure(facts, _measure_local(work, local, now))
    if not isinstance(facts, Unavailable):
        ages = decide_limits(facts.cron, limits)
        metrics = replace(metrics, warn_age=ages.warn, critical_age=ages.critical)
    return Health(name, database.name, _without_duplicates(findings), metrics)


def check_archives(work: Session) -> Health:
    """Judge the archives of the configuration, which take one round trip, as `check_database` does."""
    settings, name, archives = work.settings, work.host.name, work.series
    assert isinstance(archives, ConfigArchives)
    now = datetime.now(timezone.utc)
    local = observe_local(settings, name, archives, now)
    facts = try_query(lambda: observe_archives(work.host, archives))
    findings = _judge_host(facts, lambda facts: judge_archives(facts, was_archived(local)))
    findings += _judge_recorded(work, facts, local)
    findings += judge_local_archives(local, settings, name, archives.name, now)
    metrics = _measure(facts, _measure_local(work, local, now))
    return Health(name, archives.name, _without_duplicates(findings), metrics)


def _judge_host(facts: Fact[T], judge: Callable[[T], list[Finding]]) -> list[Finding]:
    return [unavailable("backup", "backup", facts)] if isinstance(facts, Unavailable) else judge(facts)


def _judge_recorded(work: Session, facts: Fact[HostFacts] | Fact[ArchiveFacts], local: LocalFacts) -> list[Finding]:
    """Compare the backups on the host, and the copies of them, with the records."""
    backups = _backups_of(facts)
    if isinstance(facts, Unavailable) or backups is None or isinstance(local.records, Unavailable):
        return []
    records, host, name = local.records.valid, work.host.name, work.series.name
    copies = () if isinstance(local.copies, Unavailable) else local.copies
    return [
        *judge_changes(backups.all, records, host, name),
        *judge_coverage(backups.current, copies, records, work.settings, host, name, facts.now),
    ]


def _backups_of(facts: Fact[HostFacts] | Fact[ArchiveFacts]) -> Backups | None:
    """Return the backups that a host has listed; None if it has not."""
    if isinstance(facts, Unavailable) or isinstance(facts.backups, Unavailable):
        return None
    return facts.backups


def _without_duplicates(findings: list[Finding]) -> tuple[Finding, ...]:
    """Leave out findings with the same text: one reason may make several facts unavailable."""
    return tuple({(finding.name, finding.text): finding for finding in findings}.values())


# --- what performance data and metrics have -------------------------------------------------------------------------


def _measure(facts: Fact[HostFacts] | Fact[ArchiveFacts], metrics: Metrics) -> Metrics:
    """Add what the host says to the metrics."""
    if isinstance(facts, Unavailable):
        return metrics
    backups = _backups_of(facts)
    newest = backups.newest if backups else None
    return replace(
        metrics,
        host_now=facts.now,
        backup_time=backup_time(newest) if newest else None,
        backup_bytes=newest.bytes if newest else None,
        backups_listed=backups is not None,
    )


def _measure_local(work: Session, local: LocalFacts, now: datetime) -> Metrics:
    """Measure what this machine knows; times of records are those of its clock."""
    if isinstance(local.records, Unavailable):
        return Metrics(now.timestamp())
    records, host, name = local.records.valid, work.host.name, work.series.name
    return Metrics(
        now.timestamp(),
        verification_time=_time_of(find_last(records, VerificationRecord, host, name, until=now)),
        drill_time=_time_of(find_last(records, DrillRecord, host, name, until=now)),
        copy_time=_time_of(find_fetch(records, host, name, now)),
        offsite_time=_time_of(find_last(records, OffsiteRecord, host, name, is_stored, until=now)),
    )


def _time_of(record: Record | None) -> float | None:
    return datetime.fromisoformat(record.when).timestamp() if record else None
