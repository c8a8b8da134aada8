"""What rsync starts in place of `ssh`: the bridge to a socket of this project."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo_backups.remote.rsync import BRIDGE

COMMAND = ["rsync", "--server", "--sender"]


@pytest.fixture
def bridge() -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A running bridge, and its connection, on which the command was received."""
    with tempfile.TemporaryDirectory(prefix="demo-backups-", dir="/tmp") as folder:
        path = Path(folder) / "rsync"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(1)
            with subprocess.Popen(
                [sys.executable, "-I", str(BRIDGE), str(path), "host", *COMMAND],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process:
                connection, _ = listener.accept()
                line = b""
                while not line.endswith(b"\n"):
                    line += connection.recv(1)
                assert json.loads(line) == COMMAND
                try:
                    yield process, connection
                finally:
                    connection.close()
                    process.kill()


def test_both_directions_are_connected(bridge: tuple[subprocess.Popen[bytes], socket.socket]) -> None:
    process, connection = bridge
    connection.sendall(b"from the host")
    assert process.stdin is not None
    process.stdin.write(b"to the host")
    process.stdin.close()
    received = b""
    while data := connection.recv(100):
        received += data
    connection.shutdown(socket.SHUT_RDWR)
    assert process.stdout is not None
    assert (received, process.stdout.read()) == (b"to the host", b"from the host")
    assert process.wait(20) == 0


def test_end_with_unread_input_is_no_failure(bridge: tuple[subprocess.Popen[bytes], socket.socket]) -> None:
    # rsync on this machine may still send when rsync on the host has ended: the socket is then reset.
    process, connection = bridge
    connection.sendall(b"the last data")
    assert process.stdin is not None
    process.stdin.write(b"unread")
    process.stdin.flush()
    connection.recv(1, socket.MSG_PEEK)  # it has arrived
    connection.close()
    assert process.stdout is not None
    assert process.stdout.read() == b"the last data"
    assert process.wait(20) == 0
