"""The console that tasks print on, JSON output, and SVG pictures of what was printed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rich import console
from rich.segment import Segment
from rich.text import Text

from ..errors import BackupsError, SettingsError
from ..units import escape_controls
from .outcome import STYLES, Tone

PICTURE_WIDTH = 114  # columns: enough for the lines and tables of a rehearsal
WIDTH_WITHOUT_TERMINAL = 160  # columns


def styled(text: str, tone: Tone = Tone.PLAIN) -> Text:
    """Return text for a table or a console, escaped and in the style of a tone."""
    return Text(escape_controls(text), STYLES[tone])


class Console(console.Console):
    """A Rich console that prints text literally: no markup, no emoji, no highlighting, no links.

    Everything that is printed passes `render`, whatever renders it: a table, a progress bar or a question.
    """

    def __init__(self, file: TextIO, width: int, record: bool = False, is_terminal: bool | None = None) -> None:
        super().__init__(
            file=file,
            width=width,
            record=record,
            force_terminal=is_terminal,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self.shows_progress = self.is_terminal  # by a bar

    def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
        """Render something; control characters in its text are escaped. Rich's own control codes have no text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else _harmless(segment)

    def say(self, text: str, tone: Tone = Tone.PLAIN) -> None:
        """Print lines, escaped; long lines are left to the terminal to wrap."""
        self.print(styled(text, tone), soft_wrap=True)

    def echo(self, text: str) -> None:
        """Print a piece of the output of a command, escaped, without adding a line end."""
        self.print(styled(text), end="", soft_wrap=True)


class BufferedConsole(Console):
    """A console whose output is printed later on another one, with its width, colors and encoding; it has no bars."""

    def __init__(self, target: Console) -> None:
        self._collected = _EncodedText(target.encoding)
        super().__init__(self._collected, target.width, is_terminal=target.is_terminal)
        self.shows_progress = False

    def text(self) -> str:
        """Return what was printed, with the codes of its colors."""
        return self._collected.getvalue()


class _EncodedText(io.StringIO):
    """Text in memory with the encoding of a stream: Rich draws tables by the characters that it has."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding."""
        return self._encoding


def _harmless(segment: Segment) -> Segment:
    style = segment.style
    if style and style.link:
        style = style.update_link(None)
    return Segment(escape_controls(segment.text), style)


def make_console(stream: TextIO | None = None, record: bool = False) -> Console:
    """Make a console on a stream, standard output by default.

    Tables are as wide as the terminal; without a terminal, as wide as they need to be up to 160 columns.
    """
    stream = stream or sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # for characters that the terminal's encoding lacks
    is_sized = stream.isatty() or "COLUMNS" in os.environ
    width = shutil.get_terminal_size().columns if is_sized else WIDTH_WITHOUT_TERMINAL
    return Console(stream, width, record)


def error_as_json(error: BackupsError) -> dict[str, Any]:
    """Return the JSON object of an error."""
    return {"error": str(error), "exit_code": error.exit_code}


def print_json(value: Any) -> None:
    """Print one JSON object on standard output."""
    print(json.dumps(value, indent=2), flush=True)


def print_block(out: Console, text: str) -> None:
    """Print what a BufferedConsole has collected."""
    out.file.write(text)
    out.file.flush()


def print_error(text: str) -> None:
    """Print the text of an error on standard error."""
    print(escape_controls(text), file=sys.stderr, flush=True)


def print_text(text: str) -> None:
    """Print text in UTF-8 for another program, whatever the encoding of the terminal."""
    sys.stdout.flush()
    sys.stdout.buffer.write(escape_controls(text).encode())


# --- pictures -------------------------------------------------------------------------------------------------------


def check_svg_path(path: Path) -> None:
    """Check before a long task that its picture can be written; raises SettingsError."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise SettingsError(f"--svg {str(path)!r} cannot be written", advice="name a file in an existing directory")


@contextlib.contextmanager
def recording_console(svg: str | None, title: str) -> Iterator[Console]:
    """Make a console whose output is also saved as an SVG picture, if `svg` names a file; raises SettingsError."""
    path = None if svg is None else Path(svg)
    if path:
        check_svg_path(path)
    out = make_console(record=path is not None)
    yield out
    if path:
        save_svg(out, path, title)


def save_svg(out: Console, path: Path, title: str) -> None:
    """Save what a recording console printed as an SVG picture of PICTURE_WIDTH columns.

    Long lines are folded. Unlike Rich's own SVG, the picture loads no font from a server.
    """
    picture = console.Console(file=io.StringIO(), width=PICTURE_WIDTH, record=True)
    picture.print(Text.from_ansi(out.export_text(styles=True).rstrip()), overflow="fold")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", picture.export_svg(title=escape_controls(title)), flags=re.DOTALL)
    path.write_text(svg, encoding="utf-8")
