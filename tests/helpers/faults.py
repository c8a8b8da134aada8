"""Faults of a server: scripts and programs in place of its own."""

from __future__ import annotations

from pathlib import Path

from .programs import write_program
from .tasks import DemoServer


def install_script(demo_server: DemoServer, body: str) -> Path:
    """Install another backup script of the index database on the server."""
    return write_program(demo_server.script, f"#!/bin/sh\n{body}\n")


def install_program(demo_server: DemoServer, name: str, body: str) -> Path:
    """Put a program first on the PATH of the server."""
    return write_program(demo_server.server.folder / "bin" / name, f"#!/bin/sh\n{body}\n")


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return the content of every file in a directory; None stands for a directory."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
