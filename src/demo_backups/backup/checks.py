"""The five checks of a backup, each decided from what the host printed, without I/O."""

from __future__ import annotations

from typing import TypeAlias

from ..errors import SourceUnavailableError
from ..records.check import Check, Outcome
from ..remote.files import File
from ..remote.host import Result
from ..remote.processes import HIDDEN_ADVICE
from ..settings.model import Database
from ..sqlite.command import is_access_failure
from ..sqlite.inspect import DatabaseSummary, Header, parse_header, parse_summary
from ..sqlite.integrity import (
    COUNT,
    NONE,
    QUICK,
    TableCheck,
    describe_table_check,
    find_missing_definition,
    parse_table_checks,
    pragma_name,
)
from ..sqlite.sharing import Sharing
from .names import is_backup_name, is_verified_name

Source: TypeAlias = DatabaseSummary | SourceUnavailableError  # the summary of the live source, or why there is none

FILE_TYPES = {"l": "symbolic link", "d": "folder", "p": "pipe", "s": "socket"}  # as `find -printf %y` names them


def check_created(database: Database, backup: File, sidecars: list[str]) -> Check:
    """Check that it is a regular file with the name of a backup, and has no sidecar files."""
    problems = []
    if backup.type != "f":
        problems.append(f"it is a {FILE_TYPES.get(backup.type, 'special file')}, not a regular file")
    name = backup.path.name
    if not is_backup_name(database, name) and not is_verified_name(database, name):
        problems.append(f"its name is not {database.backup_prefix}YYYY-MM-DD_HH-MM-SS.db")
    if sidecars:
        names = ", ".join(f"{backup.path.name}{suffix}" for suffix in sidecars)
        problems.append(f"it is unfinished: {names} exists next to it")
    if problems:
        return Check("created", Outcome.FAILED, "; ".join(problems))
    time = backup.modified.isoformat(sep=" ", timespec="seconds")
    return Check("created", Outcome.PASSED, f"{time}, a regular file without sidecar files")


def check_size(backup: File, header: Result) -> Check:
    """Check that the file is as large as its header says, and not empty."""
    if not header.ok:
        return Check("size", Outcome.UNKNOWN, f"the header cannot be read: {header.output}")
    try:
        parsed = parse_header(header.stdout, backup.bytes)
    except ValueError as error:
        return Check("size", Outcome.UNKNOWN, f"the header cannot be parsed: {error}")
    return _compare_size(backup.bytes, parsed)


def _compare_size(size: int, header: Header | None) -> Check:
    if size == 0:
        return Check("size", Outcome.FAILED, "the file is empty")
    if header is None:
        return Check("size", Outcome.FAILED, f"{size:,} bytes, without the header of a database")
    if header.bytes is None:
        return Check("size", Outcome.UNKNOWN, f"{size:,} bytes; the header has no valid page count to compare with")
    if header.bytes != size:
        return Check("size", Outcome.FAILED, f"{size:,} bytes, but the header says {header.bytes:,}")
    return Check("size", Outcome.PASSED, f"{size:,} bytes, as the header says")


def list_integrity_lines(result: Result) -> list[str]:
    """Return all lines that the integrity check printed, and lines that describe the checks of single tables."""
    whole, tables = parse_table_checks(_join_output(result))
    lines = [whole, *map(describe_table_check, tables)]
    return [line for text in lines for line in text.splitlines()]


def check_integrity(result: Result, quick: bool) -> Check:
    """Check that the integrity check printed `ok` and nothing else (pragma.html#pragma_integrity_check).

    If SQLite lacks a definition of the application, what it could check decides whether the backup is damaged.
    """
    pragma = pragma_name(quick)
    whole, tables = parse_table_checks(_join_output(result))
    missing = find_missing_definition(whole)
    if missing and (not result.ok or _is_about_definitions(whole)):
        return _judge_tables(pragma, missing, quick, tables)
    if not result.ok:
        return Check("integrity", outcome_of_failure(result), f"{pragma}: {result.output}")
    if not whole:
        return Check("integrity", Outcome.UNKNOWN, f"{pragma}: no output")
    outcome = Outcome.PASSED if whole == "ok" else Outcome.FAILED
    return Check("integrity", outcome, f"{pragma}: {whole}")


def _join_output(result: Result) -> str:
    return "\n".join([*result.stdout.splitlines(), *result.stderr.splitlines()])


def _is_about_definitions(whole: str) -> bool:
    """Tell whether all faults that the check lists are definitions that SQLite does not have."""
    return all(find_missing_definition(line) for line in whole.splitlines())


def _judge_tables(pragma: str, missing: str, quick: bool, tables: list[TableCheck]) -> Check:
    """Judge a backup by the checks of its tables, as far as they were possible without a definition."""
    faults = [describe_table_check(table) for table in tables if table.found_fault]
    cause = f"{pragma}: needs {missing}, which the application defines and the sqlite3 shell does not have"
    if faults:
        return Check("integrity", Outcome.FAILED, "\n".join([cause, *faults]))
    partial = (COUNT, NONE) if quick else (QUICK, COUNT, NONE)
    others = [table.table for table in tables if table.level in partial]
    if not tables:
        return Check("integrity", Outcome.UNKNOWN, cause)
    detail = f"{len(tables) - len(others)} of {len(tables)} tables were checked without it and are ok"
    return Check("integrity", Outcome.UNKNOWN, f"{cause}; {detail}; not completely checked: {', '.join(others)}")


def check_query(opened: Result, row: Result, source: Source | None) -> Check:
    """Check that it opens read-only, that it has the tables of the source, and that the query returns a row.

    Without a source, the tables are only counted.
    """
    for result in (opened, row):
        if not result.ok:
            return Check("query", outcome_of_failure(result), _describe_failure(result))
    try:
        tables = parse_summary(opened.stdout).tables
    except ValueError as error:
        return Check("query", Outcome.UNKNOWN, f"the tables cannot be parsed: {error}")
    count = "1 table" if len(tables) == 1 else f"{len(tables)} tables"
    if not row.stdout:
        return Check("query", Outcome.FAILED, f"the query returned no row; {count}")
    outcome, comparison = _compare_tables(tables, source)
    if outcome is Outcome.FAILED:
        return Check("query", outcome, comparison)
    return Check("query", outcome, f"the query returned a row; {count}{comparison}")


def _compare_tables(tables: frozenset[str], source: Source | None) -> tuple[Outcome, str]:
    """Compare the tables of a backup with those of the source; return the outcome and its description."""
    if source is None:
        return Outcome.PASSED, ""
    if isinstance(source, SourceUnavailableError):
        return Outcome.UNKNOWN, f", not compared: {_describe_unavailable(source)}"
    if tables == source.tables:
        return Outcome.PASSED, ", as in the source"
    missing = [f"without {name}" for name in sorted(source.tables - tables)]
    extra = [f"with {name}, which the source does not have" for name in sorted(tables - source.tables)]
    return Outcome.FAILED, f"the tables differ from those of the source: {', '.join(missing + extra)}"


def check_row(row: Result) -> Check:
    """Check that the query returns a row, where there is no source to compare with."""
    if not row.ok:
        return Check("query", outcome_of_failure(row), _describe_failure(row))
    if not row.stdout:
        return Check("query", Outcome.FAILED, "the query returned no row")
    return Check("query", Outcome.PASSED, "the query returned a row")


def check_source(opened: Result, source: Source, sharing: Sharing | None, tolerance: float) -> Check:
    """Check that its size is that of the source within the tolerance, a fraction, and that it can have all commits.

    Both sizes are as SQLite reports them: the size of a live file does not include its WAL. `sharing` is how processes
    see a source in WAL mode: a backup lacks the commits of a process with another `-wal`.
    """
    if sharing and sharing.problems:
        problems = "; ".join(map(str, sharing.problems))
        return Check("source", Outcome.FAILED, f"backups lack commits to the source: {problems}")
    if not opened.ok:
        return Check("source", Outcome.UNKNOWN, f"the size of the backup cannot be read: {opened.output}")
    if isinstance(source, SourceUnavailableError):
        return Check("source", Outcome.UNKNOWN, _describe_unavailable(source))
    try:
        size = parse_summary(opened.stdout).bytes
    except ValueError as error:
        return Check("source", Outcome.UNKNOWN, f"the size of the backup cannot be parsed: {error}")
    difference = abs(size - source.bytes) / source.bytes if source.bytes else float(size > 0)
    outcome = Outcome.PASSED if difference <= tolerance else Outcome.FAILED
    detail = f"{size:,} bytes, the source {source.bytes:,}: {difference:.1%} difference, {tolerance:.1%} allowed"
    if outcome is Outcome.PASSED and sharing and sharing.unknown:
        return Check("source", Outcome.UNKNOWN, f"{detail}; {sharing.unknown}: {HIDDEN_ADVICE}")
    return Check("source", outcome, detail)


def outcome_of_failure(result: Result) -> Outcome:
    """Tell whether a query that failed shows a fault, or only that the file or a definition is not available."""
    is_unknown = is_access_failure(result) or find_missing_definition(result.output)
    return Outcome.UNKNOWN if is_unknown else Outcome.FAILED


def _describe_failure(result: Result) -> str:
    missing = find_missing_definition(result.output)
    if not missing:
        return result.output
    return f"it needs {missing}, which the application defines and the sqlite3 shell does not have: {result.output}"


def _describe_unavailable(error: SourceUnavailableError) -> str:
    """Describe on one line why the source is not available, and what to do."""
    description = error.action
    if error.output:
        description += f" ({error.output})"
    if error.advice:
        description += f"; {error.advice}"
    return description
