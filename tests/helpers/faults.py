"""Faults of a server: programs and scripts in place of its own, and modes that deny access."""

from __future__ import annotations

from pathlib import Path

from .tasks import DemoServer


def write_executable(path: Path, text: str) -> Path:
    """Write a program."""
    path.write_text(text)
    path.chmod(0o755)
    return path


def install_script(demo_server: DemoServer, body: str) -> Path:
    """Install another backup script of the index database on the server."""
    return write_executable(demo_server.script, f"#!/bin/sh\n{body}\n")


def install_program(demo_server: DemoServer, name: str, body: str) -> Path:
    """Put a program first on the PATH of the server."""
    return write_executable(demo_server.server.folder / "bin" / name, f"#!/bin/sh\n{body}\n")


def install_shell(demo_server: DemoServer, body: str) -> None:
    """Replace the login shell of the server by a script; it gets the arguments of the shell."""
    shell = write_executable(demo_server.server.folder / "shell", f"#!/bin/sh\n{body}\n")
    demo_server.server.shell = str(shell)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return the content of every file in a directory; None stands for a directory."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
