"""Collect the facts of a release: from git, the scripts, the host, the records and the pull request."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, TypeVar

from ..backup.catalog import list_backups
from ..backup.cron_lines import find_lines, require_clear
from ..backup.cron_tables import Tables, read_tables
from ..backup.crontab import make_job
from ..backup.deploy import read_installed
from ..backup.script import Script, read_script
from ..backup.script_lint import LintResult, lint
from ..errors import StepError
from ..records.check import Outcome
from ..records.store import read_records, records_dir
from ..recovery.restore_journal import require_no_restore
from ..remote.connection import open_host
from ..remote.fact import Fact, Unavailable, try_fact
from ..remote.host import Host
from ..settings.model import Database, Settings
from .facts import CronState, DatabaseFacts, HostFacts, ReleaseFacts
from .git_state import read_local_state, read_remote_state
from .merge_search import read_merge
from .plan import Plan, make_plan
from .pull_request import read_pull_request
from .repository import Checkout, commit_part, open_checkout

T = TypeVar("T")
Release: TypeAlias = tuple[ReleaseFacts, list[str]]  # with a message for each record that could not be read
DATABASES = ("index", "tracker")
PARTS = (*DATABASES, "docs")  # one commit each
MERGE_CONFLICT = re.compile(rb"^(<{7}|>{7}) ", re.MULTILINE)
BACKUP_COMMAND = re.compile(rb"(?<![\w.])\.backup\b")


def observe_plan(settings: Settings, release: Release | None = None) -> Plan:
    """Collect the facts and derive the plan; those that no host has are collected unless they are known."""
    return make_plan(*observe_facts(settings, release))


def observe_facts(settings: Settings, release: Release | None = None) -> Release:
    """Collect the facts, and a message for each record that could not be read."""
    facts, notes = release or observe_release(settings)
    return replace(facts, host=settings.host, databases=_observe_databases(settings)), notes


def observe_release(settings: Settings) -> Release:
    """Collect the facts that are the same for every host, and a message for each record that could not be read."""
    records = try_fact(lambda: read_records(records_dir(settings)))
    files = {part: commit_part(settings, part)[0] for part in PARTS}
    checkout = try_fact(lambda: open_checkout(settings))

    def in_checkout(query: Callable[[Checkout], T]) -> Fact[T]:
        return checkout if isinstance(checkout, Unavailable) else try_fact(lambda: query(checkout))

    all_files = tuple(itertools.chain(*files.values()))
    remote = in_checkout(read_remote_state)
    facts = ReleaseFacts(
        host=settings.host,
        checkout=settings.repository,
        release=settings.release,
        files=files,
        scripts={name: str(settings.database_settings(name).script) for name in DATABASES},
        databases={},
        docs={file: find_doc_problem(settings.repository / file) for file in settings.release.docs},
        records=records if isinstance(records, Unavailable) else records[0],
        local=in_checkout(lambda checkout: read_local_state(checkout, all_files)),
        remote=remote,
        merge=in_checkout(lambda checkout: read_merge(checkout, _available(remote), all_files)),
        pull_request=in_checkout(read_pull_request),
    )
    invalid = [] if isinstance(records, Unavailable) else records[1]
    return facts, [f"invalid record, ignored: {record.path}: {record.reason}" for record in invalid]


def _available(fact: Fact[T]) -> T | None:
    return None if isinstance(fact, Unavailable) else fact


def find_doc_problem(doc: Path) -> str | None:
    """Return what is wrong with a documentation file, or None."""
    try:
        text = doc.read_bytes()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if MERGE_CONFLICT.search(text):
        return "contains an unresolved merge conflict"
    return None if BACKUP_COMMAND.search(text) else "does not describe .backup"


def _observe_databases(settings: Settings) -> dict[str, DatabaseFacts]:
    databases = [settings.database(database) for database in DATABASES]

    def observe_all() -> list[HostFacts]:
        with open_host(settings) as host:
            tables = try_fact(lambda: read_tables(host, [database.script for database in databases]))
            return [_observe_on_host(settings, host, database, tables) for database in databases]

    observed = try_fact(observe_all)
    if isinstance(observed, Unavailable):
        observed = [HostFacts(observed, observed, observed)] * len(databases)
    return {
        database.name: DatabaseFacts(*_check_local_script(database), on_host)
        for database, on_host in zip(databases, observed, strict=True)
    }


def _check_local_script(database: Database) -> tuple[Script | None, LintResult]:
    """Return the script in the checkout, None if it could not run, and the result of its check."""
    try:
        script = read_script(database.local_script)
    except StepError as error:
        return None, LintResult(Outcome.FAILED, (error.action,))
    return script, lint(script.content.decode(errors="replace"))


def _observe_on_host(settings: Settings, host: Host, database: Database, tables: Fact[Tables]) -> HostFacts:
    facts = _observe_backups(settings, host, database, tables)
    return replace(facts, restore=try_fact(lambda: require_no_restore(host, database)))


def _observe_backups(settings: Settings, host: Host, database: Database, tables: Fact[Tables]) -> HostFacts:
    installed = try_fact(lambda: read_installed(host, database))
    backups = try_fact(lambda: list_backups(host, database))
    if isinstance(tables, Unavailable):
        return HostFacts(installed, backups, tables)
    if isinstance(installed, Unavailable):
        return HostFacts(installed, backups, installed)
    script = Script(database.local_script, installed.content if installed else b"")
    cron = try_fact(lambda: _observe_cron(settings, host, database, script, tables))
    if isinstance(cron, Unavailable):
        return HostFacts(installed, backups, cron)
    return HostFacts(installed, backups, *cron)


def _observe_cron(
    settings: Settings, host: Host, database: Database, script: Script, tables: Tables
) -> tuple[CronState, tuple[str, ...]]:
    """Return the state of a database's job, and the lines that run the script other than the one that a task adds."""
    lines = find_lines(host, tables, database, script)
    try:
        job = make_job(settings, database, script)
    except StepError:
        job = None
    equivalent = [line for line in lines if job and line.is_equivalent(job)]
    if job and equivalent:
        is_exact = any(job.is_line(line.text) for line in equivalent)
        return CronState.ENABLED, () if is_exact else (str(equivalent[0]),)
    running = tuple(str(line) for line in lines if not line.unclear)
    if running:
        return CronState.DIFFERENT, running
    require_clear(host, database, lines)
    return CronState.NOT_ENABLED if job else CronState.NOT_PUBLISHED, ()
