"""Run a ProxyCommand as OpenSSH does (ssh_config(5)): the user's shell runs it, and its streams are the connection."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile

ERROR_LIMIT = 10_000  # bytes of its standard error that are shown
END_TIMEOUT = 2  # seconds for the command to end after SIGTERM; then it is killed


class ProxyCommand:
    """A running ProxyCommand, in the form of the socket that Paramiko takes.

    Paramiko's own class splits the command into words instead of giving it to a shell, and does not notice its end.
    """

    def __init__(self, command: str) -> None:
        self._socket, child_socket = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the command
        with child_socket:
            self._process = subprocess.Popen(
                [os.environ.get("SHELL") or "/bin/sh", "-c", f"exec {command}"],
                stdin=child_socket.fileno(),
                stdout=child_socket.fileno(),
                stderr=self._errors,
            )

    def send(self, data: bytes) -> int:
        """Send to the command."""
        return self._socket.send(data)

    def recv(self, size: int) -> bytes:
        """Receive from the command; nothing at its end."""
        return self._socket.recv(size)

    def settimeout(self, timeout: float | None) -> None:
        """Set the timeout in seconds of send and recv."""
        self._socket.settimeout(timeout)

    def fileno(self) -> int:
        """Return the file descriptor; -1 if it is closed."""
        return self._socket.fileno()

    @property
    def _closed(self) -> bool:
        """Tell whether it is closed; read by Paramiko."""
        return self._socket.fileno() == -1

    def errors(self) -> str:
        """Return what the command has printed on its standard error."""
        if self._errors.closed:
            return ""
        return os.pread(self._errors.fileno(), ERROR_LIMIT, 0).decode(errors="replace").strip()

    def close(self) -> None:
        """End the command. Its standard error is still readable."""
        self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._errors.close()
