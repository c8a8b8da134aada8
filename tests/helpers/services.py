"""Services that have a database open in a process, also in a mount namespace of their own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import PurePath

SERVICE = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("SELECT count(*) FROM sqlite_master").fetchone()
for statement in sys.argv[2:]:
    database.execute(statement).fetchall()
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def service_in_process(
    path: PurePath, *statements: str, start: Sequence[str | PurePath] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Let a process have a database open, after some statements, until its standard input is closed.

    `start` is the start of its command, such as one that changes what the process sees.
    """
    command = [*start, sys.executable, "-c", SERVICE, path, *statements]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            close_service(process)


def close_service(process: subprocess.Popen[str]) -> None:
    """Let the process close its database and end."""
    assert process.stdin
    process.stdin.close()
    process.wait(timeout=60)


def with_mount(private_mounts: Sequence[str], source: PurePath, target: PurePath) -> list[str | PurePath]:
    """Return the start of a command that sees a file or directory at another path too, as in a container."""
    return [*private_mounts, "sh", "-euc", 'mount --bind -- "$0" "$1"; shift; exec "$@"', source, target]
