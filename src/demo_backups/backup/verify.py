"""Verify a backup: read its facts from the host, run its integrity check as a job, and collect the five checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ..errors import JobNotStartedError, NoDatabaseError, SourceUnavailableError
from ..records.check import Check, Checked, Outcome
from ..remote.files import File, stat_file
from ..remote.host import COMMAND_TIMEOUT, LONG_TIMEOUT, Host, Result
from ..remote.job_state import CHECK, Job
from ..remote.jobs import FollowJob, hint_on_detach, start_or_join
from ..remote.notify import Notify, ignore
from ..remote.page_cache import drop_pages_command
from ..settings.model import Database
from ..sqlite.command import sqlite_command
from ..sqlite.inspect import (
    SUMMARY_STATEMENTS,
    DatabaseSummary,
    Header,
    header_command,
    parse_header,
    read_summary,
    resolve_source,
)
from ..sqlite.integrity import integrity_command
from ..sqlite.sharing import Sharing, read_sharing
from ..sqlite.sidecars import list_sidecars
from .catalog import list_backups
from .checks import Source, check_created, check_integrity, check_query, check_size, check_source, list_integrity_lines

READABLE_TYPES = ("f", "l")  # opening a pipe would wait forever


@dataclass(frozen=True)
class Verification(Checked):
    """The checks of one backup. Sizes in bytes; None is what could not be read."""

    host: str
    database: str
    path: PurePosixPath | None
    backup: File | None
    source: PurePosixPath
    source_bytes: int | None
    checks: list[Check]
    integrity: list[str] = field(default_factory=list)
    advice: str = ""  # what to do where there is no backup to check
    quick: bool = False  # only quick_check was used
    compared: bool = True  # with the live source

    def as_json(self) -> dict[str, Any]:
        """Return the object that `inv verify --json` prints."""
        return {
            "host": self.host,
            "database": self.database,
            "backup": {
                "path": str(self.path) if self.path else None,
                "bytes": self.backup.bytes if self.backup else None,
                "created": self.backup.modified.isoformat() if self.backup else None,
            },
            "source": {"path": str(self.source), "bytes": self.source_bytes},
            "checks": [check.as_json() for check in self.checks],
            "passed": self.outcome.value,
        }


def verify_backup(
    host: Host,
    database: Database,
    path: PurePosixPath | None,
    quick: bool,
    tolerance: float,
    follow: FollowJob,
    notify: Notify = ignore,
    job: Job | None = None,
    *,
    compare: bool = True,
) -> Verification:
    """Verify a backup of a database, the one at `path` or else the newest; nothing is written next to it.

    Without `compare`, the live source is not read: there is no check `source`, and `query` does not compare the tables.

    The integrity check takes long, so it is a job on the host, and `follow` waits for its end. With `job`, an integrity
    check of this file that was started before, its result is used. A running check of the same file is joined; after a
    running check of another file, this one is started. `notify` gets a message about that, or if the source is locked.

    Raises CouldNotLookError where the host or the backup folder cannot be read at all.
    """
    path, backup = _find_backup(host, database, path)
    source: Source | None = None
    sharing: Sharing | None = None
    if compare:
        database, source, sharing = _read_source(host, database, notify)
    integrity: list[str] = []
    if path is None or backup is None or backup.type not in READABLE_TYPES:
        checks = _check_unreadable(database, path, backup, compare)
    else:
        result = run_integrity_job(host, database, backup, quick, follow, notify, job)
        integrity = list_integrity_lines(result)
        checks = _check_readable(host, database, backup, check_integrity(result, quick), source, sharing, tolerance)
    source_bytes = source.bytes if isinstance(source, DatabaseSummary) else None
    advice = "" if backup else _advise_on_missing(host, database, path)
    return Verification(
        host.name, database.name, path, backup, database.source, source_bytes, checks, integrity, advice, quick, compare
    )


def _find_backup(
    host: Host, database: Database, path: PurePosixPath | None
) -> tuple[PurePosixPath | None, File | None]:
    """Find the backup at a path, or the newest one."""
    if path is not None:
        return path, stat_file(host, path)
    backups = list_backups(host, database)
    if not backups:
        return None, None
    return backups[0].path, backups[0]


def _advise_on_missing(host: Host, database: Database, path: PurePosixPath | None) -> str:
    if path is None:
        return f"make a backup: {host.task('run', '--database', database.name)}"
    return f"list the backups: {host.task('list-backups', '--database', database.name)}"


def _check_unreadable(
    database: Database, path: PurePosixPath | None, backup: File | None, compare: bool
) -> list[Check]:
    """Check a backup that does not exist, or that is not a file: all checks but the first are unknown."""
    if backup:
        created = check_created(database, backup, [])
    else:
        missing = f"{path} does not exist" if path else f"there is no backup of this database in {database.backup_dir}"
        created = Check("created", Outcome.FAILED, missing)
    others = ("size", "integrity", "query", *(["source"] if compare else []))
    return [created, *(Check(name, Outcome.UNKNOWN, "no backup to check") for name in others)]


def _check_readable(
    host: Host,
    database: Database,
    backup: File,
    integrity: Check,
    source: Source | None,
    sharing: Sharing | None,
    tolerance: float,
) -> list[Check]:
    def query(action: str, *statements: str, timeout: int = COMMAND_TIMEOUT) -> Result:
        command = sqlite_command(backup.path, *statements, immutable=True)
        return host.run(f"{action} {backup.path}", command, root=True, timeout=timeout)

    sidecars = list_sidecars(host, backup.path)
    header = host.run(f"read the header of {backup.path}", header_command(backup.path), root=True)
    summary = query("open", *SUMMARY_STATEMENTS)
    row = query("query", database.query, timeout=LONG_TIMEOUT)
    drop = drop_pages_command(backup.path, database.source)  # what was read after the end of the job
    host.run(f"drop {backup.path} from the page cache", drop, root=True)
    checks = [
        check_created(database, backup, sidecars),
        check_size(backup, header),
        integrity,
        check_query(summary, row, source),
    ]
    return checks if source is None else [*checks, check_source(summary, source, sharing, tolerance)]


def run_integrity_job(
    host: Host,
    database: Database,
    backup: File,
    quick: bool,
    follow: FollowJob,
    notify: Notify = ignore,
    job: Job | None = None,
) -> Result:
    """Run the integrity check of a backup as a job, or join one, and wait for its end: see `verify_backup`."""
    command = integrity_command(backup.path, quick)
    new_job = Job(CHECK, database.name, command, str(backup.path), backup.bytes)
    with hint_on_detach(host, database, CHECK):
        try:
            if job is None or not _is_same_check(job, new_job, backup):
                job = start_or_join(
                    host, database, new_job, lambda running: _is_same_check(running, new_job, backup), follow, notify
                )
        except JobNotStartedError as error:
            return Result(None, "", str(error))
        status, output = follow(job)
    if status.problem and not output:
        return Result(None, "", f"its output is missing: {status.problem}")
    if status.status == 0:
        return Result(0, output, "")
    return Result(status.status, "", output)


def _is_same_check(job: Job, new_job: Job, backup: File) -> bool:
    # The path is not enough: a file that was written after the start of the check is another backup.
    return job.command == new_job.command and backup.modified.timestamp() <= job.started


def _read_source(host: Host, database: Database, notify: Notify) -> tuple[Database, Source, Sharing | None]:
    """Read the live source, creating no file next to it.

    Return the database with the resolved path of its source, the summary or why there is none, and how processes see it
    where that matters for its backups.
    """
    sharing: Sharing | None = None
    try:
        database = resolve_source(host, database)
        header = _read_source_header(host, database.source)
        sharing = read_sharing(host, database.source, header.wal)
        if not header.wal and not sharing.deleted:
            sharing = None
        sidecars = list_sidecars(host, database.source)
        return database, read_summary(host, database.source, header, sidecars, notify), sharing
    except NoDatabaseError as error:
        unavailable = SourceUnavailableError(f"the source {error.action}", host=host.name, advice=error.advice)
        return database, unavailable, sharing
    except SourceUnavailableError as error:
        return database, error, sharing


def _read_source_header(host: Host, source: PurePosixPath) -> Header:
    """Read the header of the live source; raises SourceUnavailableError, also where it is not a database."""
    file = stat_file(host, source)
    if file is None:
        raise SourceUnavailableError(f"the source {source} does not exist", host=host.name)
    result = host.run(f"read the header of {source}", header_command(source), root=True)
    if not result.ok:
        advice = host.advise(result)
        raise SourceUnavailableError(
            f"the source {source} cannot be read", host=host.name, output=result.output, advice=advice
        )
    try:
        header = parse_header(result.stdout, file.bytes)
    except ValueError as error:
        raise SourceUnavailableError(
            f"the header of the source {source} cannot be parsed", host=host.name, output=str(error)
        ) from error
    if header is None:
        raise SourceUnavailableError(f"the source {source} is not a database", host=host.name)
    return header
