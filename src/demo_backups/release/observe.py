"""Collect the facts of a release."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..backup.catalog import list_backups
from ..backup.crontab import has_job, make_job, read_crontab
from ..backup.deploy import read_installed
from ..backup.script import InstalledScript, Script, read_script
from ..backup.script_lint import lint
from ..errors import BackupsError, InterruptedRunError, StepError
from ..records.store import read_records, records_dir
from ..remote.connection import open_host
from ..remote.host import Host
from ..settings import Database, Settings
from .facts import DatabaseFacts, Fact, HostFacts, ReleaseFacts, Unavailable
from .plan import Plan, make_plan
from .pull_request import read_pull_request
from .repository import Checkout, commit_part, open_checkout, read_local_state, read_remote_state

T = TypeVar("T")
DATABASES = ("index", "tracker")
PARTS = (*DATABASES, "docs")  # of the release: one commit each


def try_fact(ask: Callable[[], T]) -> Fact[T]:
    """Ask for a fact; one that cannot be had is a fact too."""
    try:
        return ask()
    except InterruptedRunError:
        raise
    except BackupsError as error:
        return Unavailable(error.action, str(error))


def observe_plan(settings: Settings) -> Plan:
    """Observe all facts of the plan, and mark its steps."""
    return make_plan(*observe_facts(settings))


def observe_facts(settings: Settings) -> tuple[ReleaseFacts, list[str]]:
    """Return the facts, and a note for each record that is invalid."""
    records = try_fact(lambda: read_records(records_dir(settings)))
    files = {name: commit_part(settings, name)[0] for name in PARTS}
    checkout = try_fact(lambda: open_checkout(settings))

    def in_checkout(ask: Callable[[Checkout], T]) -> Fact[T]:
        return checkout if isinstance(checkout, Unavailable) else try_fact(lambda: ask(checkout))

    facts = ReleaseFacts(
        host=settings.host,
        release=settings.release,
        files=files,
        databases=_observe_databases(settings),
        docs={file: _missing_in(settings.repository / file) for file in settings.release.docs},
        records=records if isinstance(records, Unavailable) else records[0],
        here=in_checkout(lambda there: read_local_state(there, itertools.chain(*files.values()))),
        there=in_checkout(read_remote_state),
        pull_request=in_checkout(read_pull_request),
    )
    damaged = [] if isinstance(records, Unavailable) else records[1]
    return facts, [f"skipped: {each.path}: {each.why}" for each in damaged]


def _missing_in(doc: Path) -> str | None:
    try:
        text = doc.read_bytes()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if re.search(rb"^(<{7}|>{7}) ", text, re.MULTILINE):
        return "holds an unfinished merge"
    return None if re.search(rb"(?<![\w.])\.backup\b", text) else "does not tell of .backup"


def _observe_databases(settings: Settings) -> dict[str, DatabaseFacts]:
    databases = [settings.database(name) for name in DATABASES]

    def ask() -> list[HostFacts]:
        with open_host(settings, settings.host) as there:
            crontab = try_fact(lambda: read_crontab(there))
            return [_observe_database(settings, there, database, crontab) for database in databases]

    seen = try_fact(ask)
    on_host = [HostFacts(seen, seen, seen)] * len(databases) if isinstance(seen, Unavailable) else seen
    return {
        database.name: DatabaseFacts(*_read_local_script(database), there)
        for database, there in zip(databases, on_host, strict=True)
    }


def _read_local_script(database: Database) -> tuple[Script | None, list[str]]:
    try:
        script = read_script(database.local_script)
    except StepError as error:
        return None, [error.action]
    return script, lint(script.content.decode(errors="replace"))


def _observe_database(settings: Settings, host: Host, database: Database, crontab: Fact[str | None]) -> HostFacts:
    deployed = try_fact(lambda: read_installed(host, database))
    enabled = crontab if isinstance(crontab, Unavailable) else _has_job(settings, database, deployed, crontab or "")
    return HostFacts(deployed, try_fact(lambda: list_backups(host, database)), enabled)


def _has_job(
    settings: Settings, database: Database, deployed: Fact[InstalledScript | None], crontab: str
) -> Fact[bool | None]:
    if isinstance(deployed, Unavailable):
        return deployed
    script = Script(database.local_script, deployed.content if deployed else b"")
    try:
        return has_job(crontab, make_job(settings, database, script))
    except StepError:
        return None  # by hand, as published
