"""The backup that is restored: where it is, and what shows that it is good."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePosixPath

from ..backup.catalog import select_backup
from ..backup.checks import check_integrity, check_query
from ..backup.verify import run_integrity_job
from ..errors import CouldNotLookError
from ..records.check import Check, Outcome
from ..records.record import Record, VerificationRecord
from ..records.search import find_last
from ..remote.files import File
from ..remote.host import LONG_TIMEOUT, Host
from ..remote.jobs import FollowJob
from ..remote.notify import Notify
from ..settings.model import Database
from ..sqlite.command import is_access_failure, sqlite_command
from ..sqlite.inspect import SUMMARY_STATEMENTS, parse_summary
from ..sqlite.integrity import find_missing_definition
from ..sqlite.sidecars import list_sidecars
from .restore_facts import RestoreSource, SavedState, find_size_problem, parse_saved_name, read_header_of

REQUIRED_CHECKS = ("created", "size", "integrity")  # of a verification; the others compare with the present state
SAVED_STATE = "no: it is the state that an earlier restore replaced, and may be damaged"


def read_source(host: Host, database: Database, path: PurePosixPath) -> RestoreSource:
    """Read the facts about a backup, by its path; raises NoSuchBackupError, and CouldNotLookError.

    It is not verified yet, unless it is a saved state, of which nobody knows whether it was good.
    """
    file = select_backup(host, database, path)
    is_raw = parse_saved_name(database, path.name)
    if is_raw is not None:
        return read_saved_state(host, SavedState(file, is_raw))
    source = RestoreSource(path, file.bytes, file.modified, read_header_of(host, file))
    sidecars = list_sidecars(host, path)
    if sidecars:
        names = ", ".join(f"{path.name}{suffix}" for suffix in sidecars)
        return replace(source, problem=f"it is unfinished, or it is a live database: {names} exists next to it")
    return replace(source, problem=find_size_problem(source))


def read_saved_state(host: Host, state: SavedState) -> RestoreSource:
    """Read the facts about a saved state; a raw one may have any content. Raises CouldNotLookError."""
    file = state.file
    source = RestoreSource(file.path, file.bytes, file.modified, read_header_of(host, file), SAVED_STATE)
    return replace(source, raw=True) if state.raw else replace(source, problem=find_size_problem(source))


def find_verification(
    records: Iterable[Record], host: str, database: str, source: RestoreSource
) -> VerificationRecord | None:
    """Find the latest good verification of a backup that has not changed since.

    What it says about the present state of the database does not matter, and quick_check is not enough.
    """

    def is_of_source(record: VerificationRecord) -> bool:
        if record.details.quick or record.created is None:
            return False
        created = datetime.fromisoformat(record.created)  # the zone of the server may have changed
        return (record.backup, record.bytes, created) == (str(source.path), source.bytes, source.modified)

    record = find_last(records, VerificationRecord, host, database, is_of_source)
    if record is None:
        return None
    passed = {check.name for check in record.checks if check.outcome is Outcome.PASSED}
    return record if passed.issuperset(REQUIRED_CHECKS) else None


@dataclass(frozen=True)
class _Verdict:
    verified: str = ""
    problem: str = ""


def verify_source(
    host: Host,
    database: Database,
    source: RestoreSource,
    records: Iterable[Record],
    follow: FollowJob,
    notify: Notify,
    known: str = "",
) -> RestoreSource:
    """Verify a backup that is not known to be good: by the record of a verification, else by an integrity check now.

    `known` says what else shows that it is good. In any case it must open, and answer the query of its database. Raises
    CouldNotLookError where that cannot be decided.
    """
    if source.problem or source.verified:
        return source
    verdict = _query_source(host, database, source)
    if known:
        verdict = replace(verdict, verified=known)
    elif not verdict.problem:
        record = find_verification(records, host.name, database.name, source)
        if record:
            verdict = _Verdict(f"by the verification of {record.when[:16].replace('T', ' ')} UTC{verdict.verified}")
        else:
            verdict = _check_integrity(host, database, source, follow, notify)
    return replace(source, verified=verdict.verified, problem=verdict.problem)


def _query_source(host: Host, database: Database, source: RestoreSource) -> _Verdict:
    """Run the query of the database on a backup: one of another database fails."""
    command = sqlite_command(source.path, database.query, immutable=True)
    action = f"query {source.path}"
    result = host.run(action, command, root=True, timeout=LONG_TIMEOUT, reads_only=True)
    if result.ok:
        problem = "" if result.stdout else "the query returned no row"
        return _Verdict(problem=problem)
    missing = find_missing_definition(result.output)
    if missing:
        return _Verdict(verified=f"; the query needs {missing}, which the application defines")
    if is_access_failure(result):
        raise CouldNotLookError(f"could not {action}", host=host.name, output=result.output)
    return _Verdict(problem=f"the query of the {database.name} database fails: {result.output}")


def _check_integrity(
    host: Host,
    database: Database,
    source: RestoreSource,
    follow: FollowJob,
    notify: Notify,
) -> _Verdict:
    notify(f"{source.path} is not known to be good: verifying it")
    file = File(source.path, source.bytes, source.modified)
    result = run_integrity_job(host, database, file, False, follow, notify)
    check = check_integrity(result, False)
    if check.outcome is Outcome.PASSED:
        return _Verdict(verified=f"now: {check.detail}")
    if check.outcome is Outcome.FAILED:
        return _Verdict(problem=check.detail)
    if find_missing_definition(check.detail) or "the application defines" in check.detail:
        return _Verdict(verified=f"not completely: {check.detail}")
    raise CouldNotLookError(
        f"could not verify {source.path}",
        host=host.name,
        output=check.detail,
        advice=f"see {host.task('verify', '--database', database.name, '--backup', str(source.path))}",
    )


def check_restored(host: Host, database: Database, target: PurePosixPath, backup: PurePosixPath) -> Check:
    """Check that a database in use opens, has the tables of its backup, and that its query returns a row."""
    summary = host.parse(
        f"query {backup}",
        host.query(f"query {backup}", sqlite_command(backup, *SUMMARY_STATEMENTS, immutable=True)),
        parse_summary,
    )
    opened = host.run(f"open {target}", sqlite_command(target, *SUMMARY_STATEMENTS), root=True, reads_only=True)
    row = host.run(
        f"query {target}", sqlite_command(target, database.query), root=True, timeout=LONG_TIMEOUT, reads_only=True
    )
    return check_query(opened, row, summary)
