"""Start commands: on this machine, and over an SSH connection that is open."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import paramiko

from .exchange import ConnectionBrokenError, InputClosedError, NoSessionError, RunningCommand, Stream
from .private_api import end_request, is_at_eof, wait_for_exit_status

ANSWER_TIMEOUT = 30  # seconds for the server to accept a command, or to give a sign of life
CLOSE_TIMEOUT = 2  # seconds for a channel to be closed; after that the whole connection is
# Bytes that a server may send ahead. Paramiko's 2 MiB are little over a line with latency. After Ctrl-C, all of them
# have to be sent again.
WINDOW = 6 * 1024 * 1024
SESSION_PAUSES = (0.05, 0.2, 1)  # seconds before the next try, where the server opens no session

_CONNECTION_ERRORS = (EOFError, OSError, paramiko.SSHException)


class Runner(Protocol):
    """Starts commands, one after the other."""

    def start(self, command: str) -> RunningCommand:
        """Start a command of the POSIX shell. Raises ConnectionBrokenError and NoSessionError."""


# --- this machine ---------------------------------------------------------------------------------------------------


class LocalRunner:
    """Start commands on this machine."""

    def start(self, command: str) -> LocalCommand:
        """Start a command of the POSIX shell."""
        return LocalCommand(
            subprocess.Popen(
                ["/bin/sh", "-c", command.encode("utf-8", "surrogateescape")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        )


class LocalCommand:
    """A command that runs on this machine."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        self._process = process
        self._input = process.stdin
        self._outputs = {Stream.STDOUT: process.stdout, Stream.STDERR: process.stderr}
        for output in self._outputs.values():
            os.set_blocking(output.fileno(), False)

    def filenos(self) -> list[int]:
        """File descriptors that are readable when there is something to read."""
        return [output.fileno() for output in self._outputs.values() if not output.closed]

    def read(self, stream: Stream) -> bytes | None:
        """Read what there is: None if there is nothing yet, nothing (`b""`) at the end."""
        output = self._outputs[stream]
        data = output.read(1024 * 1024)
        if data == b"":
            output.close()
        return data

    def write(self, data: bytes) -> None:
        """Write all of this to the input; blocks while the command reads nothing. Raises InputClosedError."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._input.write(rest) or 0 :]
        except (OSError, ValueError) as error:
            raise InputClosedError(str(error)) from error

    def close_input(self) -> None:
        """End the input."""
        self._input.close()

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the command; tell whether it has come."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def exit_status(self) -> int | None:
        """The exit status; None if a signal ended the command."""
        status = self._process.returncode
        return status if status >= 0 else None

    def close(self) -> None:
        """Kill the command if it has not ended. What it has started may keep its outputs open: they are not read."""
        self._process.kill()
        self._process.wait()
        for stream in (self._input, *self._outputs.values()):
            stream.close()


# --- over SSH -------------------------------------------------------------------------------------------------------


class SshRunner:
    """Start commands over a Fabric connection.

    Where the connection was lost between two commands, `reconnect` replaces it by a new one.
    """

    def __init__(self, connection: Any, reconnect: Callable[[Any], Any]) -> None:
        self.connection = connection
        self._reconnect = reconnect

    def start(self, command: str) -> SshCommand:
        """Start a command of the login shell."""
        if not self.connection.is_connected:
            self.connection = self._reconnect(self.connection)
        with _translated():
            transport = self.connection.transport
            channel = _open_session(transport)
            try:
                # As bytes: the name of a file need not be UTF-8.
                with _close_after(ANSWER_TIMEOUT, partial(end_request, channel)):
                    channel.exec_command(command.encode("utf-8", "surrogateescape"))
            except BaseException:
                SshCommand(transport, channel).close()
                raise
        return SshCommand(transport, channel)


def _open_session(transport: Any) -> Any:
    """Open a session; where MaxSessions is 1, sshd refuses it until it has forgotten the one before.

    A connection on which the server no longer answers, for example because this machine has got another address, is
    closed: the next command is then started over a new one.
    """
    for pause in (*SESSION_PAUSES, None):
        try:
            return transport.open_session(window_size=WINDOW)
        except paramiko.ChannelException as error:
            if pause is None:
                raise NoSessionError(str(error)) from error
            time.sleep(pause)
        except paramiko.SSHException:
            transport.close()
            raise
    raise AssertionError


class SshCommand:
    """A command that runs on a server, in a session of its own."""

    def __init__(self, transport: Any, channel: Any) -> None:
        self._transport = transport
        self._channel = channel

    def filenos(self) -> list[int]:
        """File descriptors that are readable when there is something to read."""
        return [self._channel.fileno()]

    def read(self, stream: Stream) -> bytes | None:
        """Read what there is: None if there is nothing yet, nothing (`b""`) at the end."""
        channel = self._channel
        is_ready, receive = {
            Stream.STDOUT: (channel.recv_ready, channel.recv),
            Stream.STDERR: (channel.recv_stderr_ready, channel.recv_stderr),
        }[stream]
        at_eof = is_at_eof(channel)  # first: what arrives after this makes the stream ready
        with _translated():
            if is_ready():
                # Read everything: after each partial read, Paramiko copies the rest in memory.
                return bytes(receive(WINDOW))
        return b"" if at_eof else None

    def write(self, data: bytes) -> None:
        """Write all of this to the input; blocks while the window is closed. Raises InputClosedError."""
        rest = memoryview(data)
        while rest:
            try:
                sent = self._channel.send(rest)
            except _CONNECTION_ERRORS as error:
                raise InputClosedError(str(error)) from error
            if not sent:
                raise InputClosedError
            rest = rest[sent:]

    def close_input(self) -> None:
        """End the input."""
        with _translated():
            self._channel.shutdown_write()

    def wait(self, seconds: float) -> bool:
        """Wait for the exit status; tell whether it has come."""
        return wait_for_exit_status(self._channel, seconds)

    def exit_status(self) -> int | None:
        """The exit status; None if a signal ended the command. Raises ConnectionBrokenError if there is none."""
        status = int(self._channel.recv_exit_status())
        if status != -1:
            return status
        # There is no exit status after a signal, and none after a lost connection: see whether the connection works.
        with _translated(), _close_after(ANSWER_TIMEOUT, self._transport.close):
            self._transport.global_request("keepalive@openssh.com", wait=True)
        if not self._transport.is_active():
            raise ConnectionBrokenError
        return None

    def close(self) -> None:
        """Close the session; on the server, the command may continue."""
        with contextlib.suppress(*_CONNECTION_ERRORS), _close_after(CLOSE_TIMEOUT, self._transport.close):
            self._channel.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise ConnectionBrokenError for everything that Paramiko raises where a connection breaks."""
    try:
        yield
    except _CONNECTION_ERRORS as error:
        raise ConnectionBrokenError(str(error)) from error


@contextlib.contextmanager
def _close_after(seconds: float, close: Callable[[], object]) -> Iterator[None]:
    """Limit a wait that Paramiko does not limit: after `seconds`, close the object that is waited for."""

    def give_up() -> None:
        with contextlib.suppress(*_CONNECTION_ERRORS):  # the end of the wait may close it at the same moment
            close()

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
