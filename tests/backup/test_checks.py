"""The five checks of a backup, each as a table of what a host prints."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import PurePosixPath

import pytest

from demo_backups.backup.checks import Source, check_created, check_integrity, check_query, check_size, check_source
from demo_backups.errors import SourceUnavailableError
from demo_backups.records.check import Check, Outcome, combine_outcomes
from demo_backups.remote.files import File
from demo_backups.remote.host import Result
from demo_backups.remote.processes import Process
from demo_backups.settings.model import Database, Settings
from demo_backups.sqlite.inspect import DatabaseSummary
from demo_backups.sqlite.sharing import Sharing

from ..helpers.headers import format_od, make_header

NAME = "backup_2026-01-31_04-00-00.db"
TIME = datetime(2026, 1, 31, 4, 0, 1, 85, timezone(timedelta(hours=1)))
PASSED = Outcome.PASSED
FAILED = Outcome.FAILED
UNKNOWN = Outcome.UNKNOWN
NO_PERMISSION = Result(14, "", 'Error: unable to open database "file:x": unable to open database file')
MALFORMED = Result(11, "", "Error: in prepare, database disk image is malformed (11)")


def make_file(name: str = NAME, size: int = 8192, kind: str = "f") -> File:
    return File(PurePosixPath("/backups") / name, size, TIME, kind)


def has_outcome(check: Check, name: str, outcome: Outcome, keyword: str) -> None:
    """Check the name and the outcome, and that the details have the fact that they rest on."""
    assert (check.name, check.outcome) == (name, outcome)
    assert keyword in check.detail


# --- created --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backup", "sidecars", "outcome", "keyword"),
    [
        (make_file(), [], PASSED, "2026-01-31 04:00:01+01:00"),
        (make_file(kind="l"), [], FAILED, "symbolic link"),
        (make_file(kind="d"), [], FAILED, "folder"),
        (make_file(kind="b"), [], FAILED, "special file"),
        (make_file(), ["-journal"], FAILED, f"{NAME}-journal"),
        (make_file(), ["-wal", "-shm"], FAILED, f"{NAME}-wal, {NAME}-shm"),
        (make_file("backup_2026-01-31_04-00-00.db.gz"), [], FAILED, "backup_YYYY-MM-DD_HH-MM-SS.db"),
        (make_file("backup_2026-01-31.db"), [], FAILED, "backup_YYYY"),
        (make_file("tracker_backup_2026-01-31_04-00-00.db"), [], FAILED, "backup_YYYY"),
        (make_file("backup_2026-01-31_04-00-00.db\n"), [], FAILED, "backup_YYYY"),
        (make_file("x", kind="l"), ["-journal"], FAILED, "symbolic link"),
        (make_file("x", kind="l"), ["-journal"], FAILED, "backup_YYYY"),
        (make_file("x", kind="l"), ["-journal"], FAILED, "x-journal"),
    ],
)
def test_created_check_outcomes(
    project_settings: Settings, backup: File, sidecars: list[str], outcome: Outcome, keyword: str
) -> None:
    index: Database = project_settings.database("index")
    has_outcome(check_created(index, backup, sidecars), "created", outcome, keyword)


# --- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "header", "outcome", "keyword"),
    [
        (8192, make_header(2), PASSED, "8,192"),
        (1024, make_header(2, 512), PASSED, "1,024"),
        (131072, make_header(2, 65536), PASSED, "131,072"),
        (4096, make_header(2), FAILED, "8,192"),
        (8191, make_header(2), FAILED, "8,191"),
        (12288, make_header(2), FAILED, "12,288"),
        (0, b"", FAILED, "empty"),
        (50, make_header(2)[:50], FAILED, "50"),
        (8192, make_header(2, magic=b"SQLite format 4\0"), FAILED, "header"),
        (8192, make_header(2, is_valid=False), UNKNOWN, "page count"),
        (8192, make_header(0), UNKNOWN, "page count"),
    ],
)
def test_size_check_outcomes(size: int, header: bytes, outcome: Outcome, keyword: str) -> None:
    has_outcome(check_size(make_file(size=size), Result(0, format_od(header), "")), "size", outcome, keyword)


@pytest.mark.parametrize(
    "header",
    [
        Result(1, "", "od: x: Permission denied"),
        Result(0, "", ""),
        Result(0, " 53 51 4c\n", ""),
        Result(0, "garbage\n", ""),
    ],
)
def test_size_without_header_is_unknown(header: Result) -> None:
    has_outcome(check_size(make_file(), header), "size", UNKNOWN, "header")


# --- integrity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "outcome", "keyword"),
    [
        (Result(0, "ok\n", ""), PASSED, "integrity_check: ok"),
        (Result(0, "*** in database main ***\nPage 7: never used\n", ""), FAILED, "main ***\nPage 7: never used"),
        (Result(0, "ok\n", "warning"), FAILED, "ok\nwarning"),
        (Result(0, "ok\nok\n", ""), FAILED, "ok\nok"),
        (MALFORMED, FAILED, "malformed"),
        (Result(26, "", "Error: in prepare, file is not a database (26)"), FAILED, "not a database"),
        (Result(0, "", ""), UNKNOWN, "integrity_check"),
        (NO_PERMISSION, UNKNOWN, "unable to open"),
        (Result(127, "", "sh: 1: sqlite3: not found"), UNKNOWN, "not found"),
        (Result(None, "", ""), UNKNOWN, "integrity_check"),
        (Result(1, "", "Error: in prepare, no such collation sequence: X"), UNKNOWN, "the collation X"),
        (Result(0, "no such tokenizer: x\n", ""), UNKNOWN, "the tokenizer x"),
        (Result(0, "no such tokenizer: x\nPage 7: never used\n", ""), FAILED, "Page 7"),
        (Result(1, "", "Error: no such module: x\n== 74 none 1\nError: no such module: x\n"), UNKNOWN, "checked: t"),
        (Result(1, "", "Error: no such module: x\n== 74 quick_check 0\nrow 7 missing\n"), FAILED, "table t: quick"),
        (Result(1, "", "Error: no such module: x\n== 74 count 11\nError: malformed\n"), FAILED, "Error: malformed"),
    ],
)
def test_integrity_check_outcomes(result: Result, outcome: Outcome, keyword: str) -> None:
    has_outcome(check_integrity(result, quick=False), "integrity", outcome, keyword)


def test_quick_check_is_named() -> None:
    assert check_integrity(Result(0, "ok\n", ""), quick=True).detail == "quick_check: ok"


# --- query ----------------------------------------------------------------------------------------------------------

SOURCE = DatabaseSummary(409600, frozenset({"a", "b"}))
MISSING = SourceUnavailableError("the source /x.db does not exist")
ROW = Result(0, "1|abc\n", "")


def summary(*tables: str, pages: int = 100) -> Result:
    """Return what sqlite3 prints of a database with some tables."""
    return Result(0, "\n".join([str(pages), "4096", *tables]) + "\n", "")


@pytest.mark.parametrize(
    ("opened", "row", "source", "outcome", "keyword"),
    [
        (summary("a", "b"), ROW, SOURCE, PASSED, "2 tables"),
        (summary("b", "a"), Result(0, "\n", ""), SOURCE, PASSED, "2 tables"),
        (summary("a"), ROW, SOURCE, FAILED, "without b"),
        (summary("a", "b", "c"), ROW, SOURCE, FAILED, "with c"),
        (summary(), ROW, SOURCE, FAILED, "without a, without b"),
        (summary("a", "b"), Result(0, "", ""), SOURCE, FAILED, "no row"),
        (summary("a", "b"), Result(0, "", ""), MISSING, FAILED, "no row"),
        (summary("a", "b"), Result(1, "", "Error: no such table: t"), SOURCE, FAILED, "no such table: t"),
        (summary("a", "b"), MALFORMED, SOURCE, FAILED, "malformed"),
        (MALFORMED, ROW, SOURCE, FAILED, "malformed"),
        (NO_PERMISSION, NO_PERMISSION, SOURCE, UNKNOWN, "unable to open"),
        (summary("a", "b"), ROW, MISSING, UNKNOWN, "/x.db"),
        (Result(0, "", ""), ROW, SOURCE, UNKNOWN, "tables"),
        (Result(0, "garbage\n", ""), ROW, SOURCE, UNKNOWN, "tables"),
    ],
)
def test_query_check_outcomes(opened: Result, row: Result, source: Source, outcome: Outcome, keyword: str) -> None:
    has_outcome(check_query(opened, row, source), "query", outcome, keyword)


# --- source ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pages", "source", "tolerance", "outcome", "keyword"),
    [
        (100, 409600, 0.1, PASSED, "0.0%"),
        (100, 409600, 0, PASSED, "0.0%"),
        (90, 409600, 0.1, PASSED, "10.0%"),
        (110, 409600, 0.1, PASSED, "10.0%"),
        (89, 409600, 0.1, FAILED, "11.0%"),
        (111, 409600, 0.1, FAILED, "11.0%"),
        (111, 409600, 0.2, PASSED, "11.0%"),
        (1, 409600, 0.1, FAILED, "99.0%"),
        (1, 0, 0.1, FAILED, "4,096"),
        (0, 0, 0.1, PASSED, "0 bytes"),
    ],
)
def test_source_check_outcomes(pages: int, source: int, tolerance: float, outcome: Outcome, keyword: str) -> None:
    check = check_source(summary("a", pages=pages), DatabaseSummary(source, frozenset("a")), None, tolerance)
    has_outcome(check, "source", outcome, keyword)


@pytest.mark.parametrize("opened", [MALFORMED, Result(0, "", ""), Result(0, "garbage\n", "")])
def test_source_of_unreadable_backup_is_unknown(opened: Result) -> None:
    has_outcome(check_source(opened, SOURCE, None, 0.1), "source", UNKNOWN, "backup")


def test_unavailable_source_is_unknown() -> None:
    error = SourceUnavailableError("the source /x.db is locked", output="database is locked", advice="try again")
    check = check_source(summary("a"), error, None, 0.1)
    assert check.outcome is UNKNOWN
    for part in (error.action, error.output, error.advice):
        assert part in check.detail


@pytest.mark.parametrize(
    ("sharing", "pages", "outcome"),
    [
        (Sharing(1, [], [], [], [], sees_all=True), 100, PASSED),
        (Sharing(2, [], [], [], [], sees_all=True), 100, FAILED),
        (Sharing(1, [], [], [Process(7, "root", "service")], [], sees_all=True), 100, FAILED),
        (Sharing(1, [], [], [], [7], sees_all=True), 100, UNKNOWN),
        (Sharing(1, [], [], [], [], sees_all=False), 100, UNKNOWN),
        (Sharing(1, [], [], [], [7], sees_all=True), 1, FAILED),
    ],
)
def test_source_with_other_wal_does_not_pass(sharing: Sharing, pages: int, outcome: Outcome) -> None:
    assert check_source(summary("a", pages=pages), SOURCE, sharing, 0.1).outcome is outcome


# --- outcomes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "combined"),
    [
        ([], PASSED),
        ([PASSED, PASSED], PASSED),
        ([PASSED, UNKNOWN, PASSED], UNKNOWN),
        ([UNKNOWN, FAILED, UNKNOWN], FAILED),
        ([FAILED, PASSED], FAILED),
        ([UNKNOWN], UNKNOWN),
    ],
)
def test_outcomes_combine_to_worst(outcomes: list[Outcome], combined: Outcome) -> None:
    assert combine_outcomes(outcomes) is combined


@pytest.mark.parametrize(("outcome", "value"), [(PASSED, True), (FAILED, False), (UNKNOWN, None)])
def test_outcome_in_json(outcome: Outcome, value: bool | None) -> None:
    assert Check("size", outcome, "x").as_json() == {"name": "size", "passed": value, "detail": "x"}
    assert Outcome(value) is outcome
