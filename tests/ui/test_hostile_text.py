"""Text from a host or a record never controls the terminal and is never markup, whatever prints it."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo_backups.backup.verify import Verification
from demo_backups.project import ROOT
from demo_backups.records.check import Check, Outcome
from demo_backups.remote.files import File
from demo_backups.remote.job_state import CHECK, Job, JobStatus
from demo_backups.ui import tables
from demo_backups.ui.console import Console, make_console, print_text, save_svg
from demo_backups.ui.progress import JobProgress
from demo_backups.units import escape_controls

from ..helpers.records import make_record

EVIL = "x\x1b]0;title\x07\x1b[2J\r\x9b31m\u202e\udcff[bold][/nope][link=https://evil.example]y :warning:"
EVIL_PATH = PurePosixPath(EVIL)
SOURCES = [ROOT / "tasks.py", *(ROOT / "src").rglob("*.py")]


class Screen(io.StringIO):
    """A terminal, whose text a test reads."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A terminal without colors, so that everything with an escape character comes from the text."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("NO_COLOR", "1")
    return Screen()


def check_harmless(printed: str) -> None:
    """Check that a text has no escape sequence but those with which Rich draws, and that markup was not read."""
    assert not {"\x07", "\x9b", "\u202e", "\udcff"} & set(printed)
    for sequence in ("\x1b]", "\x1b[2J"):
        assert sequence not in printed
    assert "[bold]" in printed


WAYS: dict[str, Callable[[Console], object]] = {
    "say": lambda out: out.say(EVIL),
    "echo": lambda out: out.echo(EVIL),
    "print": lambda out: out.print(EVIL),
    "print text": lambda out: out.print(Text(EVIL)),
    "log": lambda out: out.log(EVIL),
    "rule": lambda out: out.rule(EVIL),
    "panel": lambda out: out.print(Panel(EVIL, title=Text(EVIL))),
    "backups": lambda out: tables.print_backups(
        out, [File(PurePosixPath(EVIL), 1, datetime(2026, 1, 31, tzinfo=timezone.utc))]
    ),
    "history": lambda out: tables.print_history(
        out, {EVIL: [make_record(host=EVIL, database=EVIL, backup=EVIL, who=EVIL)], "": []}, 1, [], Path(EVIL)
    ),
    "verification": lambda out: tables.print_verification(
        out, Verification(EVIL, EVIL, EVIL_PATH, None, EVIL_PATH, None, [Check("size", Outcome.FAILED, EVIL)])
    ),
}


def _table(out: Console) -> None:
    table = Table(title=Text(EVIL), caption=Text(EVIL))
    table.add_column(EVIL)
    table.add_row(EVIL)
    table.add_row(Text(EVIL))
    out.print(table)


WAYS["table"] = _table


@pytest.mark.parametrize("print_", WAYS.values(), ids=WAYS)
def test_nothing_printed_controls_the_terminal(screen: Screen, print_: Callable[[Console], object]) -> None:
    print_(make_console(screen))
    check_harmless(screen.getvalue())


def test_markup_has_no_links(screen: Screen) -> None:
    make_console(screen).print(Text.from_markup("[link=https://evil.example]x[/link]"))
    assert screen.getvalue() == "x\n"


def test_kind_of_job_is_plain_text(screen: Screen) -> None:
    with JobProgress(make_console(screen), Job(EVIL, EVIL, EVIL, EVIL, 5)) as progress:
        progress.show(JobStatus(True, None, None, 1, now=2.0, started=1.0, output=EVIL))
    check_harmless(screen.getvalue())
    with JobProgress(make_console(screen), Job(CHECK, EVIL, EVIL, EVIL, 5)) as progress:
        progress.show(JobStatus(True, None, None, 1, now=2.0, started=1.0, output=EVIL))


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(codec=None), max_size=60))
def test_escaped_text_is_printable_and_stable(text: str) -> None:
    escaped = escape_controls(text)
    assert all(c.isprintable() or c in "\n\t" for c in escaped)
    assert escape_controls(escaped) == escaped
    stream = io.StringIO()
    make_console(stream).say(text)
    assert all(c.isprintable() or c in "\n\t" for c in stream.getvalue())


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_picture_of_any_text_is_xml(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("picture") / "x.svg"
    out = Console(io.StringIO(), 80, record=True)
    out.say(text)
    save_svg(out, path, EVIL + text)
    ET.parse(path)


def test_text_for_programs_is_escaped(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    print_text(EVIL)
    sys.stdout.flush()
    check_harmless(capfdbinary.readouterr().out.decode())


def test_uncaught_exception_is_escaped() -> None:
    program = "import sys; from demo_backups.ui.debug import print_uncaught; sys.excepthook = print_uncaught\n"
    program += f"raise RuntimeError({EVIL!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"RuntimeError" in done.stderr
    check_harmless(done.stderr.decode())


# --- there is no other way ------------------------------------------------------------------------------------------

# Prints for the process that started it.
WRITES = ("sys.stdout.write", "sys.stderr.write", "os.system")
EXCEPTIONS = {
    "src/demo_backups/rehearsal/writer.py",  # a program of its own, whose output is a protocol
    "src/demo_backups/remote/terminal.py",  # asks questions, escaped
    "src/demo_backups/workflows/plugin_main.py",  # prints where the ui cannot be imported
}


def output_calls(tree: ast.AST) -> list[str]:
    """Name everything in a module that can print, or that imports Rich."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "input"):
            found.append(node.func.id)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in WRITES:
            found.append(ast.unparse(node))
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "rich":
            found.append(f"from {node.module}")
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in ("rich", "warnings", "pprint")]
    return found


def test_output_calls_are_found() -> None:
    text = "import rich.table\nfrom rich import box\nprint(x)\ninput()\nsys.stderr.write(x)\n"
    assert len(output_calls(ast.parse(text))) == 5


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_ui_prints(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    if name not in EXCEPTIONS and "/ui/" not in name:
        assert output_calls(ast.parse(path.read_text())) == []


@pytest.mark.parametrize("path", sorted((ROOT / "src/demo_backups/ui").glob("*.py")), ids=lambda path: path.name)
def test_markup_is_never_enabled(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.Attribute) and node.attr in ("from_markup", "render_str"))
        if isinstance(node, ast.keyword) and node.arg in ("markup", "emoji"):
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False
