"""The tables: complete at every width, and harmless to a terminal."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import PurePosixPath

import pytest

from demo_backups.backup.verify import Verification
from demo_backups.records.check import Check, Outcome
from demo_backups.remote.files import File
from demo_backups.ui.tables import backups_as_json, print_backups, print_plan, print_verification

from ..helpers.consoles import print_to_text
from ..helpers.report_samples import all_marks

ZONE = timezone(timedelta(hours=5, minutes=30))
BACKUP = File(PurePosixPath("/backups/backup_2024-11-24_20-00-00.db"), 2301952, datetime(2024, 11, 24, 20, tzinfo=ZONE))
VERIFICATION = Verification(
    host="demo",
    database="index",
    path=BACKUP.path,
    backup=BACKUP,
    source=PurePosixPath("/app/sqlite3.db"),
    source_bytes=2300000,
    checks=[
        Check("created", Outcome.PASSED, "just now"),
        Check("size", Outcome.FAILED, "too small"),
        Check("source", Outcome.UNKNOWN, "it is gone"),
    ],
)


def without_blanks(text: str) -> str:
    return "".join(text.split())


# --- a verification -------------------------------------------------------------------------------------------------


def test_every_check_has_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    text = print_to_text(monkeypatch, print_verification, VERIFICATION)
    assert str(BACKUP.path) in text
    assert "/app/sqlite3.db" in text
    rows = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    assert ["created", "passed", "just now"] in rows
    assert ["size", "FAILED", "too small"] in rows
    assert ["source", "could not be made", "it is gone"] in rows


def test_last_line_depends_on_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = set()
    for outcome in Outcome:
        verification = replace(VERIFICATION, checks=[Check("size", outcome, "")])
        lines.add(print_to_text(monkeypatch, print_verification, verification).rstrip().splitlines()[-1])
    assert len(lines) == len(Outcome)


def test_missing_backup_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    text = print_to_text(monkeypatch, print_verification, replace(VERIFICATION, path=None, backup=None))
    assert re.search(r"^backup +none", text)


# --- every width ----------------------------------------------------------------------------------------------------


def test_without_terminal_lines_are_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    verification = replace(VERIFICATION, checks=[Check("query", Outcome.FAILED, "w" * 120)])
    text = print_to_text(monkeypatch, print_verification, verification)
    assert "w" * 120 in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_narrow_table_is_complete(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    output = "integrity_check: " + " ".join(f"row_{n}_missing_from_index" for n in range(30))
    path = PurePosixPath("/" + "very-long-name-of-a-folder/" * 8 + BACKUP.path.name)
    check = Check("integrity", Outcome.FAILED, f"{output}\nsecond line")
    text = print_to_text(monkeypatch, print_verification, replace(VERIFICATION, path=path, checks=[check]), width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert str(path) in without_blanks(text)
    assert without_blanks(output) + "secondline" in without_blanks(text)
    assert "…" not in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_narrow_list_of_backups_is_complete(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = PurePosixPath("/" + "very-long-name-of-a-folder/" * 8 + BACKUP.path.name)
    text = print_to_text(monkeypatch, print_backups, [replace(BACKUP, path=path)], width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert str(path) in "".join(line.split("  ")[0].strip() for line in text.splitlines()[3:])
    if width >= 80:
        assert "2,301,952" in text
        assert "2024-11-24 20:00:00+05:30" in text


def test_escape_sequences_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = PurePosixPath("/b/\x1b[31m\udcff.db")
    verification = replace(VERIFICATION, path=odd, checks=[Check("query", Outcome.FAILED, "\x1b[2J[red]")])
    text = print_to_text(monkeypatch, print_verification, verification)
    text += print_to_text(monkeypatch, print_backups, [replace(BACKUP, path=odd)])
    assert "\x1b" not in text
    assert text.count(r"/b/\x1b[31m\udcff.db") == 2
    assert r"\x1b[2J[red]" in text


# --- other tables ---------------------------------------------------------------------------------------------------


def test_plan_shows_marks_and_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = all_marks(notes=("demo: no such host\n  | \x1b[2J",))
    text = print_to_text(monkeypatch, print_plan, plan)
    for step in plan.steps:
        assert re.search(rf"{step.name}( \(optional\))? +{step.mark.value} +{step.details}", text)
    assert "demo: no such host\n  | \\x1b[2J\n" in text


def test_list_as_json() -> None:
    assert backups_as_json("demo", "index", [BACKUP]) == {
        "host": "demo",
        "database": "index",
        "backups": [{"path": str(BACKUP.path), "bytes": 2301952, "created": "2024-11-24T20:00:00+05:30"}],
    }
    assert backups_as_json("demo", "index", [])["backups"] == []
