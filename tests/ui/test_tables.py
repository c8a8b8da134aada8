"""What is printed: harmless to a terminal, whole in a table of any width, and JSON where that is asked for."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import PurePosixPath
from typing import Any

import pytest

from demo_backups.backup.verify import Verification
from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import Record
from demo_backups.remote.files import File
from demo_backups.remote.jobs import Job, JobStatus
from demo_backups.ui.console import escape_controls, make_console, print_json
from demo_backups.ui.outcome import Tone, describe_outcome
from demo_backups.ui.progress import JobProgress
from demo_backups.ui.tables import backups_as_json, print_backups, print_verification
from demo_backups.units import format_size

from ..helpers.report_samples import checks, run, verification

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


def printed(print_it: Any, *values: Any, width: int | None = None, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a function prints on a console that is no terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if width:
        monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    print_it(make_console(stream), *values)
    return stream.getvalue()


def squeezed(text: str) -> str:
    return "".join(text.split())


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("plain, ünï … 漢字 🙂\ttab\nline", "plain, ünï … 漢字 🙂\ttab\nline"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("50%\r100%", r"50%\r100%"),
        ("\x9b31m red", r"\x9b31m red"),
        ("\x00\x08\x7f", r"\x00\x08\x7f"),
        ("\udcff\ud800", r"\udcff\ud800"),
        ("right \u202e to left, \u200b nothing", r"right \u202e to left, \u200b nothing"),
        ("\U000e0041", r"\U000e0041"),
        ("", ""),
    ],
)
def test_what_comes_from_elsewhere_is_made_harmless(text: str, harmless: str) -> None:
    assert escape_controls(text) == harmless
    assert escape_controls(harmless) == harmless
    harmless.encode()  # no broken bytes are left


def test_a_size_is_exact() -> None:
    assert format_size(17_000_000_001) == "17,000,000,001 bytes"
    assert format_size(0) == "0 bytes"


def test_brackets_and_colons_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[bold]x[/bold] [/] :warning: /a/[b].db 1.2.3.4"
    assert printed(lambda out: out.print(text), monkeypatch=monkeypatch) == f"{text}\n"


def test_output_without_terminal_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(print_verification, VERIFICATION, monkeypatch=monkeypatch)
    assert "\x1b" not in text
    long = replace(VERIFICATION, checks=[Check("query", Outcome.FAILED, "w" * 120)])
    assert "w" * 120 in printed(print_verification, long, monkeypatch=monkeypatch)


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        ([True, True], "all checks passed"),
        ([True, False, None], "NOT a good backup"),
        ([True, None], "not all checks could be made"),
    ],
)
def test_the_verdict_says_what_the_checks_say(
    results: list[bool | None], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = replace(VERIFICATION, checks=[Check(f"check{n}", Outcome(result), "x") for n, result in enumerate(results)])
    text = printed(print_verification, seen, monkeypatch=monkeypatch)
    assert text.rstrip().splitlines()[-1] == verdict


def test_verification_shows_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(print_verification, VERIFICATION, monkeypatch=monkeypatch).splitlines()
    assert [line.rstrip() for line in lines[:2]] == [f"backup  {BACKUP.path}", "source  /app/sqlite3.db"]
    assert [re.split(r"  +", line.strip()) for line in lines[5:8]] == [
        ["created", "passed", "just now"],
        ["size", "FAILED", "too small"],
        ["source", "could not be made", "it is gone"],
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_nothing_is_lost_in_a_narrow_table(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "integrity_check: " + " ".join(f"row_{n}_missing_from_index" for n in range(30))
    path = PurePosixPath("/" + "very-long-name-of-a-folder/" * 8 + BACKUP.path.name)
    seen = replace(VERIFICATION, path=path, checks=[Check("integrity", Outcome.FAILED, f"{words}\nsecond line")])
    text = printed(print_verification, seen, width=width, monkeypatch=monkeypatch)
    assert max(len(line) for line in text.splitlines()) <= width
    assert squeezed(str(path)) in squeezed(text)
    assert squeezed(words) + "secondline" in squeezed(text)
    assert "…" not in text

    text = printed(print_backups, [replace(BACKUP, path=path)], width=width, monkeypatch=monkeypatch)
    assert max(len(line) for line in text.splitlines()) <= width
    assert str(path) in "".join(line.split("  ")[0].strip() for line in text.splitlines()[3:])
    assert "…" not in text
    if width >= 80:
        assert "2,301,952" in text
        assert "2024-11-24 20:00:00+05:30" in text


def test_table_escapes_control_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = PurePosixPath("/b/\x1b[31m\udcff.db")
    seen = replace(VERIFICATION, path=odd, checks=[Check("query", Outcome.FAILED, "\x1b[2J[red]")])
    text = printed(print_verification, seen, monkeypatch=monkeypatch)
    text += printed(print_backups, [replace(BACKUP, path=odd)], monkeypatch=monkeypatch)
    assert "\x1b" not in text
    assert text.count(r"/b/\x1b[31m\udcff.db") == 2
    assert r"\x1b[2J[red]" in text


def test_no_backup_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(print_verification, replace(VERIFICATION, path=None, backup=None), monkeypatch=monkeypatch)
    assert text.splitlines()[0].rstrip() == "backup  none"


def test_a_list_without_a_backup_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(print_backups, [], monkeypatch=monkeypatch)
    assert text == "no backups\n"


# --- what a result is called ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "words", "tone"),
    [
        (run(), "done", Tone.GOOD),
        (run(exit_status=1), "failed, exit status 1", Tone.BAD),
        (run(exit_status=23), "failed, exit status 23", Tone.BAD),
        (run(exit_status=3), "a fact could not be read", Tone.WARNING),
        (run(exit_status=130), "interrupted", Tone.WARNING),
        (run(exit_status=None), "exit status unknown", Tone.WARNING),
        (verification(), "all 5 checks passed", Tone.GOOD),
        (verification(checks=checks(integrity=False), exit_status=1), "1 of 5 checks failed: integrity", Tone.BAD),
        (verification(checks=checks(size=False, query=None)), "1 of 5 checks failed: size", Tone.BAD),
        (
            verification(checks=checks(size=None, query=None), exit_status=3),
            "2 of 5 checks could not be made: size, query",
            Tone.WARNING,
        ),
        (verification(checks=checks(size=False), exit_status=0), "1 of 5 checks failed: size", Tone.BAD),
        (verification(exit_status=1), "failed, exit status 1", Tone.BAD),  # a rehearsal whose writer failed
    ],
)
def test_outcome_of_record_is_described(record: Record, words: str, tone: Tone) -> None:
    assert describe_outcome(record) == (words, tone)


# --- progress -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "seen"), [("backup", 400), ("check", None)])
def test_progress_shows_time_of_job(kind: str, seen: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    old = Job(kind, "tracker", "", "/app/sqlite3.db", 1000, started=5_000.0)
    with JobProgress(make_console(screen), old) as progress:
        progress.show(JobStatus(True, None, None, seen, now=5_000.0 + 3_725, started=5_000.0, output=""))
    assert "1:02:05" in screen.getvalue()


# --- JSON -----------------------------------------------------------------------------------------------------------


def test_json_is_one_object_and_pure_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": [1, None, True], "b": "ünï \x1b \udcff"}
    print_json(value)
    text = capsys.readouterr().out
    assert json.loads(text) == value
    assert text.isascii()
    assert "\x1b" not in text
    assert text.endswith("}\n")


def test_the_json_of_a_list_of_backups() -> None:
    assert backups_as_json("demo", "index", [BACKUP]) == {
        "host": "demo",
        "database": "index",
        "backups": [{"path": str(BACKUP.path), "bytes": 2301952, "created": "2024-11-24T20:00:00+05:30"}],
    }
    assert backups_as_json("demo", "index", [])["backups"] == []
