"""Consoles whose output a test reads."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from demo_backups.ui.console import make_console


def print_to_text(
    monkeypatch: pytest.MonkeyPatch, print_: Callable[..., None], *values: Any, width: int | None = None
) -> str:
    """Return what a function prints on a console without a terminal, of the usual or another width."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if width:
        monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    print_(make_console(stream), *values)
    return stream.getvalue()
