"""The integrity check: its command on real databases, and the parser of what that prints."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_backups.sqlite.integrity import (
    LEVELS,
    NONE,
    TableCheck,
    describe_table_check,
    find_missing_definition,
    integrity_command,
    is_quick_command,
    parse_table_checks,
)

from ..helpers.constants import EVERY_ODD_NAME
from ..helpers.databases import APPLICATION_TABLES, add_application_table, execute
from ..helpers.shell import run_sh


@pytest.mark.parametrize(
    ("output", "missing"),
    [
        ("Error: in prepare, no such collation sequence: ICU_DE", "the collation ICU_DE"),
        ("Error: in prepare, unknown function: f()\n  PRAGMA integrity_check\n   ^--- error here", "the function f()"),
        ("Parse error: no such function: f", "the function f"),
        ("Error: in prepare, no such module: vec0", "the module vec0"),
        ("Error: in prepare, no such tokenizer: mine", "the tokenizer mine"),
        ("Error: in prepare, unknown tokenizer: icu", "the tokenizer icu"),
        ("Error: stepping, SQL logic error", "a definition of the application"),
        ("Error: in prepare, database disk image is malformed (11)", None),
        ("Error: in prepare, no such table: t", None),
        ("ok", None),
    ],
)
def test_missing_definition_is_named(output: str, missing: str | None) -> None:
    assert find_missing_definition(output) == missing


@pytest.mark.parametrize("quick", [False, True])
def test_usual_database_prints_ok_only(tmp_path: Path, quick: bool) -> None:
    execute(tmp_path / "x.db", "CREATE TABLE t (x)")
    command = integrity_command(PurePosixPath(tmp_path / "x.db"), quick)
    done = run_sh(command)
    assert (done.status, done.stdout, done.stderr) == (0, "ok\n", "")
    assert is_quick_command(command) is quick


@pytest.mark.parametrize(("statements", "missing", "level"), APPLICATION_TABLES.values(), ids=APPLICATION_TABLES)
def test_tables_are_checked_as_far_as_possible(tmp_path: Path, statements: str, missing: str, level: str) -> None:
    path = tmp_path / "x.db"
    execute(path, "CREATE TABLE t (x)")
    add_application_table(path, statements)
    done = run_sh(integrity_command(PurePosixPath(path), quick=False))
    assert done.status == 1
    whole, tables = parse_table_checks(done.stdout)
    assert find_missing_definition(whole) == missing
    assert {table.table: table.level for table in tables} == {
        "sqlite_master": "integrity_check",
        "t": "integrity_check",
        "own": level,
    }
    assert not any(table.found_fault for table in tables)


@EVERY_ODD_NAME
def test_table_with_odd_name_is_checked(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.db"
    quoted = name.replace('"', '""')
    add_application_table(path, f'CREATE TABLE "{quoted}" (a TEXT COLLATE MINE UNIQUE); CREATE TABLE own (a)')
    done = run_sh(integrity_command(PurePosixPath(path), quick=False))
    _, tables = parse_table_checks(done.stdout)
    assert TableCheck(name, "count", 0, "0") in tables


# --- the parser -----------------------------------------------------------------------------------------------------

TABLE_CHECKS = st.builds(
    TableCheck,
    st.text(min_size=1),
    st.sampled_from([*LEVELS, NONE]),
    st.integers(0, 255),
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"])).filter(lambda text: not text.startswith("== ")),
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(TABLE_CHECKS))
def test_table_checks_are_parsed_back(checks: list[TableCheck]) -> None:
    lines = ["Error: no such collation sequence: X"]
    for check in checks:
        lines += [f"== {check.table.encode().hex().upper()} {check.level} {check.status}", check.output]
    whole, tables = parse_table_checks("\n".join(lines) + "\n")
    assert whole == lines[0]
    assert tables == checks


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.text())
def test_any_output_is_parsed_without_loss(output: str) -> None:
    whole, tables = parse_table_checks(output)
    assert all(describe_table_check(table) for table in tables)
    assert tables or whole == output.removesuffix("\n")
