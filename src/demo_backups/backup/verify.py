"""The checks of a backup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from ..errors import COULD_NOT_LOOK, FAILED
from ..records.check import Check, combine_outcomes
from ..remote.files import File, existing_command, stat_file
from ..remote.host import COMMAND_TIMEOUT, LONG_TIMEOUT, Host, Result
from ..remote.jobs import CHECK, Job, JobStatus, find_job, hint_on_detach, read_status, start_job
from ..settings import Database
from ..sqlite.inspect import (
    SUMMARY_STATEMENTS,
    DatabaseSummary,
    header_command,
    is_access_failure,
    list_sidecars,
    parse_header,
    parse_summary,
    read_summary,
    sidecar_paths,
    sqlite_command,
)
from .catalog import is_backup_name, list_backups

FollowJob: TypeAlias = Callable[[Job], tuple[JobStatus, str]]  # the last look, and all that was printed


@dataclass(frozen=True)
class Verification:
    """The checks of one backup. Sizes in bytes; None is what could not be seen."""

    host: str
    database: str
    path: PurePosixPath | None
    backup: File | None
    source: PurePosixPath
    source_bytes: int | None
    checks: list[Check]
    integrity: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool | None:
        """The verdict of its checks."""
        return combine_outcomes(check.passed for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0: all passed; 1: one failed; 3: none failed, one could not be made."""
        return {True: 0, False: FAILED, None: COULD_NOT_LOOK}[self.passed]

    def as_json(self) -> dict[str, Any]:
        """The object that `inv verify --json` prints."""
        seen = self.backup
        return {
            "host": self.host,
            "database": self.database,
            "backup": {
                "path": str(self.path) if self.path else None,
                "bytes": seen.bytes if seen else None,
                "created": seen.modified.isoformat() if seen else None,
            },
            "source": {"path": str(self.source), "bytes": self.source_bytes},
            "checks": [{"name": each.name, "passed": each.passed, "detail": each.detail} for each in self.checks],
            "passed": self.passed,
        }


def verify_backup(
    host: Host,
    database: Database,
    path: PurePosixPath | None,
    quick: bool,
    tolerance: float,
    follow: FollowJob,
    resume: bool = False,
) -> Verification:
    """Verify one backup of a database: the one at `path`, the newest by default. Nothing beside it is written.

    Reading all of it takes long: that check goes on by itself on the host, and `follow` stays with it to its end. One
    of the same file that is going on already is joined; with `resume`, also one that has ended.

    Raises CouldNotLookError where the host or the backup folder cannot be seen at all.
    """
    if path is None:
        newest = list_backups(host, database)[:1]
        path, backup = (newest[0].path, newest[0]) if newest else (None, None)
    else:
        backup = stat_file(host, path)
    source, source_bytes = read_source_summary(host, database)
    if path is None or backup is None or backup.type not in ("f", "l"):  # opening a pipe would wait for ever
        missing = f"there is no {path}" if path else f"there is no backup of it in {database.backup_dir}"
        checks = [check_created(database, backup, []) if backup else Check("created", False, missing)]
        checks += [
            Check(name, None, "there is no backup to look at") for name in ("size", "integrity", "query", "source")
        ]
        return Verification(host.name, database.name, path, backup, database.source, source_bytes, checks)

    def ask(what: str, *statements: str, timeout: int = COMMAND_TIMEOUT) -> Result:
        command = sqlite_command(backup.path, *statements, immutable=True)
        return host.run(f"{what} {backup.path}", command, root=True, timeout=timeout)

    unfinished = host.query(
        f"look beside {path}", existing_command(sidecar_paths(path, "-journal", "-wal", "-shm"))
    ).splitlines()
    header = host.run(f"read the header of {path}", header_command(path), root=True)
    integrity = run_integrity_job(host, database, backup, quick, follow, resume)
    shape = ask("open", *SUMMARY_STATEMENTS)
    row = ask("query", database.query, timeout=LONG_TIMEOUT)
    checks = [
        check_created(database, backup, unfinished),
        check_size(backup, header),
        check_integrity(integrity, quick),
        check_query(shape, row, source),
        check_source(shape, source, tolerance),
    ]
    return Verification(
        host.name, database.name, path, backup, database.source, source_bytes, checks, output_lines(integrity)
    )


def run_integrity_job(
    host: Host, database: Database, backup: File, quick: bool, follow: FollowJob, resume: bool = False
) -> Result:
    """Start the check of a whole backup, or join the one that is going on, and wait for its end."""
    command = sqlite_command(backup.path, f"PRAGMA {'quick' if quick else 'integrity'}_check", immutable=True)
    with hint_on_detach(host, database, CHECK):
        run = find_job(host, database, CHECK)
        # Only of the very file: one that was written since its check has not been checked.
        same = run and run.command == command and backup.modified.timestamp() <= run.started
        if not (run and same and (resume or read_status(host, database, CHECK).running)):
            check = Job(CHECK, database.name, command, str(backup.path), backup.bytes)
            run = start_job(host, database, check, command)
        seen, printed = follow(run)
    return Result(seen.status, printed, "") if seen.status == 0 else Result(seen.status, "", printed)


def read_source_summary(host: Host, database: Database) -> tuple[DatabaseSummary | str, int | None]:
    """Ask SQLite for the shape of the live source, leaving nothing beside it; words where it cannot be had."""
    source = database.source
    file = stat_file(host, source)
    if file is None:
        return f"the source {source} is gone", None
    header = host.run(f"read the header of {source}", header_command(source), root=True)
    if not header.ok:
        return f"the source {source} cannot be read: {header.output}", None
    shape = read_summary(host, source, parse_header(header.stdout), list_sidecars(host, source))
    return shape, shape.bytes if isinstance(shape, DatabaseSummary) else None


def check_created(database: Database, backup: File, unfinished: list[str]) -> Check:
    """A regular file with the name of a backup, and nothing unfinished beside it."""
    kinds = {"l": "symbolic link", "d": "folder", "p": "pipe", "s": "socket"}
    wrong = []
    if backup.type != "f":
        wrong.append(f"it is a {kinds.get(backup.type, 'special file')}, not a regular file")
    if not is_backup_name(database, backup.path.name):
        wrong.append(f"its name is not {database.backup_prefix}YYYY-MM-DD_HH-MM-SS.db")
    if unfinished:
        wrong.append(f"unfinished: beside it stands {', '.join(PurePosixPath(path).name for path in unfinished)}")
    return Check(
        "created",
        not wrong,
        "; ".join(wrong)
        or f"{backup.modified.isoformat(sep=' ', timespec='seconds')}, a regular file, nothing unfinished beside it",
    )


def check_size(backup: File, header: Result) -> Check:
    """As many bytes as its own header says, and not empty."""
    if not header.ok:
        return Check("size", None, f"its header cannot be read: {header.output}")
    if backup.bytes == 0:
        return Check("size", False, "it is empty")
    said = parse_header(header.stdout)
    if said is None:
        return Check("size", False, f"{backup.bytes:,} bytes that do not begin like a database")
    if said.bytes is None:
        return Check("size", None, f"{backup.bytes:,} bytes; its header does not say how many there should be")
    if said.bytes != backup.bytes:
        return Check("size", False, f"{backup.bytes:,} bytes, and its header says {said.bytes:,}")
    return Check("size", True, f"{backup.bytes:,} bytes, as its header says")


def output_lines(result: Result) -> list[str]:
    """All lines that a command printed."""
    return [*result.stdout.splitlines(), *result.stderr.splitlines()]


def check_integrity(result: Result, quick: bool) -> Check:
    """All that the integrity check printed is `ok` (pragma.html#pragma_integrity_check)."""
    pragma = "quick_check" if quick else "integrity_check"
    if result.ok:
        return Check(
            "integrity",
            output_lines(result) == ["ok"],
            f"{pragma}: " + "\n".join(output_lines(result) or ["printed nothing"]),
        )
    return Check("integrity", _failure(result), f"{pragma}: {result.output}")


def check_query(shape: Result, row: Result, source: DatabaseSummary | str) -> Check:
    """It opens read-only, its tables are the source's, and the query returns a row."""
    for result in (shape, row):
        if not result.ok:
            return Check("query", _failure(result), result.output)
    tables = parse_summary(shape.stdout).tables
    if not row.stdout:
        return Check("query", False, f"the query returned no row; {len(tables)} tables")
    if isinstance(source, str):
        return Check(
            "query", None, f"the query returned a row; its {len(tables)} tables could not be compared: {source}"
        )
    if tables != source.tables:
        differences = [f"without {name}" for name in sorted(source.tables - tables)]
        differences += [f"with {name}, which the source has not" for name in sorted(tables - source.tables)]
        return Check("query", False, f"its tables are not the source's: {', '.join(differences)}")
    return Check("query", True, f"the query returned a row; {len(tables)} tables, as in the source")


def check_source(shape: Result, source: DatabaseSummary | str, tolerance: float) -> Check:
    """Its size is the source's, give or take the tolerance; both as SQLite counts them, a live file's own is stale."""
    if not shape.ok:
        return Check("source", None, f"the backup's size could not be asked for: {shape.output}")
    if isinstance(source, str):
        return Check("source", None, source)
    size = parse_summary(shape.stdout).bytes
    difference = abs(size - source.bytes) / source.bytes if source.bytes else float(size > 0)
    detail = f"{size:,} bytes, the source {source.bytes:,}: {difference:.1%} apart, {tolerance:.1%} allowed"
    return Check("source", difference <= tolerance, detail)


def _failure(result: Result) -> bool | None:
    return None if is_access_failure(result) else False
