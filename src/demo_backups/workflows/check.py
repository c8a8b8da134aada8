"""Judge the backups of a database: observe this machine and the host, and decide."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

from ..health.facts import observe_host, try_query
from ..health.findings import unavailable
from ..health.freshness import backup_time
from ..health.host_facts import HostFacts
from ..health.judge import decide_limits, judge_host
from ..health.judge_records import judge_changes, judge_coverage, judge_local
from ..health.local_facts import LocalFacts, observe_local
from ..health.state import Finding, Health, Metrics
from ..records.record import DrillRecord, Record, VerificationRecord
from ..records.search import find_fetch, find_last
from ..remote.fact import Fact, Unavailable
from ..settings.model import Settings
from .session import Session


def check_database(work: Session) -> Health:
    """Judge the backups of the session's database; whatever cannot be determined is an UNKNOWN finding.

    Raises HostUnreachableError, HostKeyError, LoginError or ConnectionLostError if the host cannot be reached any more.
    """
    settings, name, database = work.settings, work.host.name, work.database
    now = datetime.now(timezone.utc)
    local = observe_local(settings, name, database, now)
    facts = try_query(lambda: observe_host(work.host, database, settings))
    findings = judge_local(local, settings, name, database.name, now)
    if isinstance(facts, Unavailable):
        findings = [unavailable("backup", "backup", facts), *findings]
    else:
        findings = [
            *judge_host(facts, database, settings.check, int(settings.free_space_floor)),
            *_judge_recorded(facts, local, settings, name, database.name),
            *findings,
        ]
    return Health(name, database.name, _without_duplicates(findings), _measure(work, facts, local, now))


def _judge_recorded(facts: HostFacts, local: LocalFacts, settings: Settings, host: str, database: str) -> list[Finding]:
    """Compare the backups on the host with the records."""
    if isinstance(facts.backups, Unavailable) or isinstance(local.records, Unavailable):
        return []
    backups, records = facts.backups, local.records.valid
    return [
        *judge_changes(backups.all, records, host, database),
        *judge_coverage(backups.current, records, settings, host, database, facts.now),
    ]


def _without_duplicates(findings: list[Finding]) -> tuple[Finding, ...]:
    """Leave out findings with the same text: one reason may make several facts unavailable."""
    return tuple({(finding.name, finding.text): finding for finding in findings}.values())


def _measure(work: Session, facts: Fact[HostFacts], local: LocalFacts, now: datetime) -> Metrics:
    """Measure what performance data and metrics have; times of records are those of this machine's clock."""
    metrics = _measure_local(work, local, now)
    if isinstance(facts, Unavailable):
        return metrics
    limits = decide_limits(facts.cron, work.settings.check)
    newest = None if isinstance(facts.backups, Unavailable) else facts.backups.newest
    return replace(
        metrics,
        host_now=facts.now,
        backup_time=backup_time(newest) if newest else None,
        backup_bytes=newest.bytes if newest else None,
        warn_age=limits.warn,
        critical_age=limits.critical,
    )


def _measure_local(work: Session, local: LocalFacts, now: datetime) -> Metrics:
    if isinstance(local.records, Unavailable):
        return Metrics(now.timestamp())
    records, host, database = local.records.valid, work.host.name, work.database.name
    return Metrics(
        now.timestamp(),
        verification_time=_time_of(find_last(records, VerificationRecord, host, database, until=now)),
        drill_time=_time_of(find_last(records, DrillRecord, host, database, until=now)),
        copy_time=_time_of(find_fetch(records, host, database, now)),
    )


def _time_of(record: Record | None) -> float | None:
    return datetime.fromisoformat(record.when).timestamp() if record else None
