"""The console: text from elsewhere made harmless, JSON, SVG pictures."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import SettingsError

if TYPE_CHECKING:
    from rich.console import Console


PICTURE_WIDTH = 114  # columns: what a rehearsal's lines and tables need below /tmp


def escape_controls(text: str) -> str:
    """Make text from elsewhere harmless to a terminal: control characters and broken bytes are written out."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def make_console(stream: TextIO | None = None, record: bool = False) -> Console:
    """Make a console; where there is no terminal, lines are as long as they need to be up to 160 columns."""
    from rich.console import Console

    stream = stream or sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # what the terminal's own letters have not is written out
    width = shutil.get_terminal_size().columns if stream.isatty() or "COLUMNS" in os.environ else 160
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False, record=record)


def check_svg_path(path: Path) -> None:
    """See that a picture can be written before the work that it shows; raises SettingsError."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise SettingsError(f"--svg {str(path)!r} cannot be written", advice="name a file in a folder that is there")


def save_svg(out: Console, path: Path, title: str) -> None:
    """Draw what a recording console printed, as an SVG picture of PICTURE_WIDTH columns.

    Long lines are folded, which the console itself leaves to the terminal; and unlike Rich's own form, the picture
    loads no font from another server.
    """
    from rich.console import Console
    from rich.text import Text

    picture = Console(file=io.StringIO(), width=PICTURE_WIDTH, record=True)
    picture.print(Text.from_ansi(out.export_text(styles=True).rstrip()), overflow="fold")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", picture.export_svg(title=title), flags=re.DOTALL)
    path.write_text(svg, encoding="utf-8")


def print_json(value: Any) -> None:
    """Print one JSON object on standard output."""
    print(json.dumps(value, indent=2))


def print_text(text: str) -> None:
    """Print text as it is, for another program: in UTF-8, whatever the terminal has."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
