"""Decide from the facts whether the backups of a database are in order. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..backup.disk_space import SpaceDemand, find_inode_shortages, find_shortages, list_demands, sum_needed_bytes
from ..backup.script import MADE_BACKUP
from ..errors import Problem
from ..records.check import Check, Outcome
from ..remote.fact import Fact, Unavailable
from ..remote.files import File
from ..settings.model import CheckSettings, Database
from ..units import format_brief, format_short_size
from .cron_log import find_message
from .findings import CLOCK_TOLERANCE, shorten, unavailable, with_limit
from .freshness import Backups, backup_time
from .host_facts import CronFacts, HostFacts, NoPermission, RestoreFacts, Source
from .judge_dates import judge_clock, judge_dates
from .leftovers import RunFiles
from .state import Finding, State

DEFAULT_WARN_AGE, DEFAULT_CRITICAL_AGE = 26 * 3600.0, 50 * 3600.0  # without a line in a crontab
WARN_INTERVALS, CRITICAL_INTERVALS = 2, 4


@dataclass(frozen=True)
class AgeLimits:
    """The ages of the newest backup in seconds above which it is a warning, and critical."""

    warn: float
    critical: float


def decide_limits(cron: Fact[CronFacts], settings: CheckSettings) -> AgeLimits:
    """Decide the limits: those of the settings; what is not set follows from the crontab, or is a default.

    The two are in order: what is not set gives way to what is.
    """
    interval = None if isinstance(cron, Unavailable) else cron.interval
    warn = DEFAULT_WARN_AGE if interval is None else WARN_INTERVALS * interval
    critical = DEFAULT_CRITICAL_AGE if interval is None else CRITICAL_INTERVALS * interval
    if settings.warn_age is not None:
        warn = settings.warn_age
        critical = max(critical, warn)
    if settings.critical_age is not None:
        critical = settings.critical_age
        warn = min(warn, critical)
    return AgeLimits(warn, critical)


def judge_host(facts: HostFacts, database: Database, settings: CheckSettings, floor: int) -> list[Finding]:
    """Judge what a host says; `floor` is how many bytes must stay free on its disks."""
    limits = decide_limits(facts.cron, settings)
    return [
        *judge_source(facts.source),
        *_judge_backups(facts, limits),
        *judge_access(facts.problems),
        *judge_size(facts.backups, settings.size_change),
        *judge_job(facts),
        *judge_cron(facts, database, settings),
        *judge_runs(facts.runs),
        judge_space(facts, floor),
        *judge_restore(facts.restore),
        *judge_clock(facts.clock_difference),
    ]


def judge_source(source: Fact[Source | None]) -> list[Finding]:
    """Judge the live database: without it, there is no next backup. A login that may not read it cannot tell."""
    if source is None:
        return [Finding("source", State.CRITICAL, "the live database does not exist")]
    if isinstance(source, Unavailable) and not isinstance(source, NoPermission):
        return [unavailable("source", "live database", source)]
    return []


# --- the newest backup ----------------------------------------------------------------------------------------------


def _judge_backups(facts: HostFacts, limits: AgeLimits) -> list[Finding]:
    if isinstance(facts.backups, Unavailable):
        return [unavailable("backup", "backup", facts.backups)]
    newest = facts.backups.newest
    findings = [_judge_age(newest, facts.now, limits)]
    if newest:
        findings += judge_checks(facts.checks, newest)
    return [*findings, *judge_dates(facts.backups, facts.now)]


def _judge_age(newest: File | None, now: float, limits: AgeLimits) -> Finding:
    if newest is None:
        return Finding("backup", State.CRITICAL, "no backup")
    age = max(0.0, now - backup_time(newest))
    text = f"backup {format_brief(age)} old"
    if age > limits.critical:
        return Finding("backup", State.CRITICAL, with_limit(text, limits.critical))
    if age > limits.warn:
        return Finding("backup", State.WARNING, with_limit(text, limits.warn))
    return Finding("backup", State.OK, text)


def judge_checks(checks: Fact[tuple[Check, ...]], newest: File) -> list[Finding]:
    """Judge the checks of the newest backup that need little reading: only what is wrong is a finding."""
    if isinstance(checks, Unavailable):
        return [unavailable("backup", "state of the newest backup", checks)]
    states = {Outcome.FAILED: (State.CRITICAL, "damaged"), Outcome.UNKNOWN: (State.UNKNOWN, "not readable")}
    findings = []
    for check in checks:
        if check.outcome in states:
            state, problem = states[check.outcome]
            findings.append(Finding("backup", state, shorten(f"{newest.path.name} is {problem}: {check.detail}")))
    return findings


def judge_access(problems: Fact[list[Problem]]) -> list[Finding]:
    """Judge what lets other users than root and the login account change the backups, or make some up."""
    if isinstance(problems, Unavailable):
        return [unavailable("backup", "who can change the backups", problems)]
    return [Finding("backup", State.WARNING, shorten(problem.text)) for problem in problems[:1]]


def judge_size(backups: Fact[Backups], largest_change: float) -> list[Finding]:
    """Compare the size of the newest backup with that of the one before; `largest_change` is a fraction."""
    if isinstance(backups, Unavailable):
        return [unavailable("size", "size", backups)]
    files = [file for file in backups.current if file.type == "f"][:2]
    if not files:
        return []
    size = files[0].bytes
    text = f"size {format_short_size(size)}"
    if len(files) == 1:
        return [Finding("size", State.OK, text)]
    previous = files[1].bytes
    change = abs(size - previous) / previous if previous else float(size > 0)
    state = State.OK if change <= largest_change else State.WARNING
    return [Finding("size", state, f"{text}, {format_short_size(previous)} before")]


# --- runs -----------------------------------------------------------------------------------------------------------


def judge_job(facts: HostFacts) -> list[Finding]:
    """Judge the last backup that a task has started: a failure counts until there is a newer backup."""
    last = facts.job
    if isinstance(last, Unavailable):
        return [unavailable("job", "last job", last)]
    if last is None:
        return []
    status = last.status
    if status.running:
        return [Finding("job", State.OK, f"a backup is running, {format_brief(facts.now - last.job.started)}")]
    ended = status.ended if status.ended is not None else last.job.started
    if status.status == 0 or newest_time(facts) > ended:
        return [Finding("job", State.OK, "last job succeeded")]
    since = format_brief(facts.now - ended)
    if status.status is None:
        return [Finding("job", State.WARNING, f"the last job was killed; it started {since} ago")]
    output = shorten(status.output.strip().split("\n")[-1])
    problem = "made a backup, but the rotation failed" if status.status in MADE_BACKUP else "failed"
    return [Finding("job", State.WARNING, shorten(f"the last job {problem} {since} ago: {output}"))]


def newest_time(facts: HostFacts) -> float:
    """Return the time of the newest backup that is not in the future; minus infinity if there is none."""
    newest = None if isinstance(facts.backups, Unavailable) else facts.backups.newest
    return backup_time(newest) if newest else float("-inf")


def judge_cron(facts: HostFacts, database: Database, settings: CheckSettings) -> list[Finding]:
    """Judge the crontab lines, and the last message of the script in the log.

    Without a line that is certain, the limits of the age must be set.
    """
    has_limits = settings.warn_age is not None and settings.critical_age is not None
    cron = facts.cron
    findings = []
    if isinstance(cron, Unavailable):
        findings = [] if has_limits else [unavailable("cron", "crontab line", cron)]
    elif cron.problem:
        text = f"crontab line unknown: {shorten(cron.problem)}; set check.warn_age and check.critical_age"
        findings = [] if has_limits else [Finding("cron", State.UNKNOWN, text)]
    elif cron.interval is None:
        return []
    else:
        findings = [Finding("cron", State.OK, f"cron runs every {format_brief(cron.interval)}")]
    return [*findings, *_judge_log(facts, database)]


def _judge_log(facts: HostFacts, database: Database) -> list[Finding]:
    """Judge the last message of the script: it counts if it may be newer than the newest backup.

    Lines of the log have no time: none is newer than the log. A message at its end is as old as the log; another one
    counts if a run is missing.
    """
    if isinstance(facts.log, Unavailable):
        return [unavailable("cron", "log of cron", facts.log)]
    message = find_message(facts.log.lines, database.script.name) if facts.log else None
    if facts.log is None or message is None:
        return []
    newest = newest_time(facts)
    interval = None if isinstance(facts.cron, Unavailable) else facts.cron.interval
    is_missing = interval is not None and facts.now - newest > interval + CLOCK_TOLERANCE
    if facts.log.modified > newest and (message.is_last or is_missing):
        return [Finding("cron", State.WARNING, f"log of cron: {shorten(message.text)}")]
    return []


def judge_runs(runs: Fact[RunFiles]) -> list[Finding]:
    """Judge what killed runs have left."""
    if isinstance(runs, Unavailable):
        return [unavailable("leftovers", "leftovers", runs)]
    if not runs.leftovers:
        return [Finding("leftovers", State.OK, "a run is in progress" if runs.running else "no leftovers")]
    names = ", ".join(f"{item.name} ({format_short_size(item.bytes)})" for item in runs.leftovers)
    return [Finding("leftovers", State.WARNING, shorten(f"left by a killed run: {names}"))]


# --- the host -------------------------------------------------------------------------------------------------------


def judge_space(facts: HostFacts, floor: int) -> Finding:
    """Judge by the rules of the preflight whether there is room for the next copy.

    Its size is that of the database or of the newest backup, whichever is larger, or can be read.
    """
    if isinstance(facts.disks, Unavailable):
        return unavailable("space", "free space", facts.disks)
    source = None if isinstance(facts.source, Unavailable) else facts.source
    newest = None if isinstance(facts.backups, Unavailable) else facts.backups.newest
    sizes = [item.bytes for item in (source, newest) if item]
    if isinstance(facts.source, Unavailable) and not sizes:
        return unavailable("space", "size of the next backup", facts.source)
    backup_disk, home_disk = facts.disks
    demands = list_demands(backup_disk, max(sizes, default=0), source.disk if source else None, 0, home_disk)
    return _judge_demands(demands, floor)


def _judge_demands(demands: Sequence[SpaceDemand], floor: int) -> Finding:
    needed = sum_needed_bytes(demands, floor)
    free = {demand.disk.mount: format_short_size(demand.disk.free) for demand in demands}
    texts = [
        f"disk full: {free[shortage.mount]} free, {format_short_size(needed[shortage.mount])} needed on "
        f"{shortage.mount} (for {shortage.purpose})"
        for shortage in find_shortages(demands, floor)
    ]
    texts += [
        f"disk full: {demand.disk.free_inodes} free inodes on {demand.disk.mount} (for {demand.purpose})"
        for demand in find_inode_shortages(demands)
    ]
    if texts:
        return Finding("space", State.CRITICAL, shorten("; ".join(texts)))
    return Finding("space", State.OK, f"{free[demands[0].disk.mount]} free")


def judge_restore(restore: Fact[RestoreFacts]) -> list[Finding]:
    """Judge a restore that has not ended."""
    if isinstance(restore, Unavailable):
        return [unavailable("restore", "restore", restore)]
    pending = restore.pending
    if restore.running or (pending and pending.running):
        return [Finding("restore", State.WARNING, "a restore is running")]
    if pending:
        return [Finding("restore", State.CRITICAL, f"a restore was killed (stage: {pending.stage})")]
    return []
