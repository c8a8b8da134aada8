"""What rsync starts in place of `ssh`: it connects the streams of rsync to a socket of this project.

It runs in a process of its own: `rsync_bridge.py SOCKET HOST COMMAND...`. It first sends the command, as one line of
JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import threading

CHUNK = 256 * 1024


def main(path: str, command: list[str]) -> None:
    """Send the command; then pass on the standard input, and what comes back."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    connection.sendall(json.dumps(command).encode() + b"\n")
    threading.Thread(target=_send_input, args=(connection,), daemon=True).start()
    while data := _receive(connection):
        _write(data)


def _write(data: bytes) -> None:
    """Write to rsync, which may have set its pipes to non-blocking."""
    rest = memoryview(data)
    while rest:
        select.select([], [1], [])
        with contextlib.suppress(BlockingIOError):
            rest = rest[os.write(1, rest) :]


def _read() -> bytes:
    """Read from rsync; nothing at the end."""
    while True:
        select.select([0], [], [])
        with contextlib.suppress(BlockingIOError):
            return os.read(0, CHUNK)


def _receive(connection: socket.socket) -> bytes:
    """Return what comes back; nothing at the end.

    A reset is an end too: rsync on the host may end before it has read all input. rsync knows if something is missing.
    """
    try:
        return connection.recv(CHUNK)
    except ConnectionResetError:
        return b""


def _send_input(connection: socket.socket) -> None:
    try:
        while data := _read():
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    except OSError:  # the command on the host has ended
        pass


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[3:])
