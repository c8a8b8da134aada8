"""What rsync starts in place of `ssh`: the bridge to a socket of this project."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo_backups.remote.rsync import BRIDGE

from ..helpers.processes import wait_until

COMMAND = ["rsync", "--server", "--sender"]


@pytest.fixture
def bridge() -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A running bridge, and its connection, on which the command was received."""
    with run_bridge(subprocess.PIPE, subprocess.PIPE) as running:
        yield running


@contextlib.contextmanager
def run_bridge(stdin: int, stdout: int) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """Run a bridge with these streams, as `bridge` does."""
    with tempfile.TemporaryDirectory(prefix="demo-backups-", dir="/tmp") as folder:
        path = Path(folder) / "rsync"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(1)
            with subprocess.Popen(
                [sys.executable, "-I", str(BRIDGE), str(path), "host", *COMMAND],
                stdin=stdin,
                stdout=stdout,
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


def bytes_in_pipe(pipe: int) -> int:
    """Return how many bytes a pipe contains."""
    return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0])


def send_all(connection: socket.socket, data: bytes) -> None:
    """Send all data, and end the connection."""
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def test_full_pipe_is_waited_for() -> None:
    # rsync sets its pipes to non-blocking.
    read_end, write_end = os.pipe()
    capacity = fcntl.fcntl(write_end, fcntl.F_GETPIPE_SZ)
    os.set_blocking(write_end, False)
    data = os.urandom(4 * capacity)
    with open(read_end, "rb") as output, run_bridge(subprocess.DEVNULL, write_end) as (process, connection):  # noqa: PTH123
        os.close(write_end)
        sender = threading.Thread(target=send_all, args=(connection, data))
        sender.start()
        wait_until(lambda: bytes_in_pipe(read_end) == capacity or process.poll() is not None, "a full pipe")
        received = output.read()
        sender.join()
        assert received == data
        assert process.wait(20) == 0
