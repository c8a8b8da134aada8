"""The integrity check of a backup, also of one that uses definitions of its application.

An index can use a collation or a function, and a virtual table a module or a tokenizer, that the application defines
(appfunc.html). The sqlite3 shell does not have these, and the check of the whole file then fails at once. The
command here checks the tables one by one in that case, each as far as that is possible.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from .command import sqlite_command

INTEGRITY, QUICK, COUNT, NONE = "integrity_check", "quick_check", "count", "none"
LEVELS = (INTEGRITY, QUICK, COUNT)  # what is tried on a table, until SQLite needs no definition that is missing
# How SQLite words it, in several versions and modules; the name follows. Without a name: FTS5 since SQLite 3.44.
MISSING = {
    "no such collation sequence: ": "the collation",
    "unknown function: ": "the function",
    "no such function: ": "the function",
    "no such module: ": "the module",
    "no such tokenizer: ": "the tokenizer",
    "unknown tokenizer: ": "the tokenizer",
    "SQL logic error": "",
}
TABLES = "SELECT 'sqlite_master' AS name UNION ALL SELECT name FROM sqlite_master WHERE type = 'table'"


@dataclass(frozen=True)
class TableCheck:
    """How the check of one table ended: the level of LEVELS that was possible, or NONE, the status and the output."""

    table: str
    level: str
    status: int
    output: str

    @property
    def is_possible(self) -> bool:
        """Tell whether SQLite could check anything of the table."""
        return self.level != NONE

    @property
    def found_fault(self) -> bool:
        """Tell whether SQLite found a fault in the table."""
        if not self.is_possible:
            return False
        is_clean = self.output.isdigit() if self.level == COUNT else self.output == "ok"
        return self.status != 0 or not is_clean


def find_missing_definition(output: str) -> str | None:
    """Find in the output of sqlite3 what it lacks, such as `the collation NAME`; None if nothing is missing."""
    for message, kind in MISSING.items():
        match = re.search(re.escape(message) + r"(.*)", output)
        if match:
            return f"{kind} {match[1].strip()}" if kind else "a definition of the application"
    return None


def pragma_name(quick: bool) -> str:
    """Return the pragma that checks a whole database (pragma.html)."""
    return QUICK if quick else INTEGRITY


def integrity_command(path: PurePosixPath, quick: bool) -> str:
    """Build the command that checks a backup, and its tables one by one if a definition is missing.

    It prints what the pragma prints, and then, only if a definition is missing, for each table a line
    `== TABLE LEVEL STATUS`, the name of the table in hexadecimal, and what sqlite3 printed. The exit status is that of
    the check of the whole file.
    """
    patterns = "|".join(f"*'{message}'*" for message in MISSING)
    levels = " ".join(LEVELS[1:] if quick else LEVELS)
    # The name is passed in hexadecimal: as an argument of a pragma it may have any characters.
    count = """'SELECT count(*) FROM "' || replace($name, '"', '""') || '" NOT INDEXED'"""
    count = count.replace('"', '\\"')
    return f"""\
check() {{ {sqlite_command(path, immutable=True)} "$1" 2>&1; }}
is_missing() {{ case "$1" in {patterns}) true ;; *) false ;; esac; }}
printed=$(check 'PRAGMA {pragma_name(quick)}'); status=$?
printf '%s\\n' "$printed"
if [ "$status" = 1 ] && is_missing "$printed"; then
  check "SELECT hex(name) FROM ({TABLES})" | while IFS= read -r table; do
    name="CAST(x'$table' AS TEXT)"
    for level in {levels}; do
      statement="SELECT * FROM pragma_$level($name)"
      [ "$level" != {COUNT} ] || statement=$(check "SELECT {count}")
      printed=$(check "$statement"); result=$?
      is_missing "$printed" || break
      level={NONE}
    done
    printf '== %s %s %s\\n%s\\n' "$table" "$level" "$result" "$printed"
  done
fi
exit "$status\""""


def is_quick_command(command: str) -> bool:
    """Tell whether a command of `integrity_command` is that of the quick check."""
    return f"PRAGMA {QUICK}'" in command


_HEADING = re.compile(rf"== ((?:[0-9A-F]{{2}})+) ({'|'.join((*LEVELS, NONE))}) (\d{{1,3}})")


def parse_table_checks(output: str) -> tuple[str, list[TableCheck]]:
    """Split the output of `integrity_command` into that of the whole check, and the checks of the tables."""
    whole: list[str] = []
    tables: list[tuple[re.Match[str], list[str]]] = []
    for line in output.removesuffix("\n").split("\n"):
        heading = _HEADING.fullmatch(line)
        if heading:
            tables.append((heading, []))
        else:
            (tables[-1][1] if tables else whole).append(line)
    return "\n".join(whole), [_make_table_check(heading, lines) for heading, lines in tables]


def _make_table_check(heading: re.Match[str], lines: Sequence[str]) -> TableCheck:
    name = bytes.fromhex(heading[1]).decode("utf-8", "replace")
    return TableCheck(name, heading[2], int(heading[3]), "\n".join(lines))


def describe_table_check(check: TableCheck) -> str:
    """Describe the check of one table for the record: what was possible, and what came of it."""
    if check.level == COUNT:
        result = f"rows counted: {check.output}" if not check.found_fault else check.output
        return f"table {check.table}: {result}"
    level = "not checked" if check.level == NONE else check.level
    return f"table {check.table}: {level}: {check.output}"
