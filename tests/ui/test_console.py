"""The console: text from a server is harmless, and nothing is taken for markup."""

from __future__ import annotations

import io
import json
from pathlib import PurePosixPath

import pytest

from demo_backups.backup.verify import Verification
from demo_backups.records.check import Check, Outcome
from demo_backups.remote.job_state import CHECK, Job, JobStatus
from demo_backups.ui.console import BufferedConsole, Console, make_console, print_block, print_json
from demo_backups.ui.outcome import STYLES, Tone
from demo_backups.ui.progress import JobProgress
from demo_backups.ui.tables import print_verification
from demo_backups.units import escape_controls

from ..helpers.consoles import print_to_text


@pytest.mark.parametrize(
    ("text", "escaped"),
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
def test_control_characters_are_escaped(text: str, escaped: str) -> None:
    assert escape_controls(text) == escaped
    assert escape_controls(escaped) == escaped
    escaped.encode()  # no undecodable bytes are left


@pytest.mark.parametrize("tone", Tone)
def test_text_is_not_markup(monkeypatch: pytest.MonkeyPatch, tone: Tone) -> None:
    text = "[bold]x[/bold] [/] :warning: /a/[b].db 1.2.3.4"
    assert print_to_text(monkeypatch, Console.say, text, tone) == f"{text}\n"


def test_long_line_is_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "word " * 100
    assert print_to_text(monkeypatch, Console.say, text, width=40) == f"{text}\n"


def test_output_of_command_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert print_to_text(monkeypatch, Console.echo, "half a li") == "half a li"


def test_terminal_gets_colors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    make_console(screen).say("done", Tone.GOOD)
    assert "\x1b[32mdone" in screen.getvalue()


def test_every_tone_has_a_style() -> None:
    assert set(STYLES) == set(Tone)


def test_json_is_one_ascii_object(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": [1, None, True], "b": "ünï \x1b \udcff"}
    print_json(value)
    text = capsys.readouterr().out
    assert json.loads(text) == value
    assert text.isascii()
    assert "\x1b" not in text


class Stream(io.StringIO):
    """Text in memory that claims to be a terminal or a pipe with an encoding."""

    def __init__(self, encoding: str, is_terminal: bool) -> None:
        super().__init__()
        self._encoding = encoding
        self._is_terminal = is_terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("is_terminal", [False, True])
def test_buffered_output_is_the_same(monkeypatch: pytest.MonkeyPatch, encoding: str, is_terminal: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "70")
    verification = Verification(
        "demo", "index", PurePosixPath("/b"), None, PurePosixPath("/s"), 1, [Check("size", Outcome.FAILED, "x " * 99)]
    )
    direct, buffered = Stream(encoding, is_terminal), Stream(encoding, is_terminal)
    print_verification(make_console(direct), verification)
    console = BufferedConsole(make_console(buffered))
    print_verification(console, verification)
    assert buffered.getvalue() == ""
    print_block(make_console(buffered), console.text())
    assert buffered.getvalue() == direct.getvalue()
    assert ("\x1b[" in direct.getvalue(), "\u2500" in direct.getvalue()) == (is_terminal, encoding == "utf-8")


def test_buffered_output_has_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    console = BufferedConsole(make_console(Stream("utf-8", True)))
    job = Job(CHECK, "index", "true", "/b", 1)
    with JobProgress(console, job) as progress:
        progress.show(JobStatus(True, None, None, None, now=1.0, started=0.0, output=""))
    assert console.text() == ""
