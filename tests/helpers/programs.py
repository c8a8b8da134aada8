"""Programs that the tests put in place of real ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def write_program(path: Path, text: str) -> Path:
    """Write an executable file and return its path."""
    path.write_text(text)
    path.chmod(0o755)
    return path


def shadow_program(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a shell script into a folder, and put it before the program of the same name in PATH."""
    folder.mkdir(exist_ok=True)
    write_program(folder / name, f"#!/bin/bash\n{body}\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
