"""Programs that the tests put in place of real ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .tasks import DemoServer


def write_program(path: Path, text: str) -> Path:
    """Write an executable file and return its path."""
    path.write_text(text)
    path.chmod(0o755)
    return path


def set_login_shell(demo_server: DemoServer, text: str) -> None:
    """Give the server's user another login shell: a script, called with -c and the command."""
    demo_server.server.shell = str(write_program(demo_server.server.folder / "login-shell", f"#!/bin/sh\n{text}\n"))


def link_programs(folder: Path, *without: str) -> Path:
    """Make a folder of links to all programs of this machine but some."""
    folder.mkdir()
    for place in ("/usr/bin", "/bin"):
        for program in Path(place).iterdir():
            link = folder / program.name
            if program.name not in without and not link.exists() and os.access(program, os.X_OK):
                link.symlink_to(program)
    return folder


def shadow_program(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a shell script into a folder, and put it before the program of the same name in PATH."""
    folder.mkdir(exist_ok=True)
    write_program(folder / name, f"#!/bin/bash\n{body}\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
