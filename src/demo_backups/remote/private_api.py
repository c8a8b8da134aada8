"""Everything that relies on private parts of libraries, in one place.

It was written for and tested with the versions of VERSIONS; a test compares them with what is installed. Private parts
change without notice: with a new version, read this module against it.
"""

from __future__ import annotations

import _weakrefset
import socket
import threading
import weakref
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import paramiko
from paramiko.agent import AgentSSH
from paramiko.auth_handler import AuthOnlyHandler
from paramiko.common import cMSG_USERAUTH_REQUEST

VERSIONS = {"paramiko": "5.1"}  # and CPython 3.10 to 3.13

_WEAK_REFERENCES = (weakref.__file__, _weakrefset.__file__)


def is_exception_swallowed(frame: FrameType | None) -> bool:
    """Tell whether Python may drop an exception raised in this frame.

    It does in the callback of a weak reference and in a `__del__`: it prints the exception, and the program continues.
    Not everything in the modules of weak references is a callback, so this is True for too much rather than too little.
    """
    while frame:
        code = frame.f_code
        if code.co_name == "__del__" or code.co_filename in _WEAK_REFERENCES:
            return True
        if (code.co_filename, code.co_name) == ("<frozen importlib._bootstrap>", "cb"):  # of a module's lock
            return True
        frame = frame.f_back
    return False


def wait_for_exit_status(channel: Any, seconds: float) -> bool:
    """Wait for a Paramiko channel's exit status or its end; tell whether it came.

    `recv_exit_status` waits without a limit, and `exit_status_ready` does not wait.
    """
    return bool(channel.status_event.wait(seconds))


def end_request(channel: Any) -> None:
    """Close a Paramiko channel, and end the wait for the answer to a request.

    A channel that ends while a request is being sent clears its own notice of that, and would wait for ever.
    """
    channel.close()
    channel.event.set()


def is_at_eof(channel: Any) -> bool:
    """Tell whether nothing more arrives on a Paramiko channel; what has arrived may still be unread."""
    return bool(channel.eof_received or channel.closed)


class SocketAgent(AgentSSH):
    """The agent at a socket; it has no keys if there is none. Paramiko's own reads the path from the environment."""

    def __init__(self, path: str | None) -> None:
        super().__init__()
        if not path:
            return
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
        except (OSError, ValueError):  # the agent has ended, or the path is no path
            connection.close()
            return
        self._connect(connection)


class Transport(paramiko.ServiceRequestingTransport):
    """Paramiko's transport that requests the login service once, as in RFC 4252; its older one does so each time."""

    server_algorithms: Mapping[str, Any] | None = None  # what the server has offered, from its KEXINIT message

    def _really_parse_kex_init(self, m: Any, ignore_first_byte: bool = False) -> Any:
        parsed = super()._really_parse_kex_init(m, ignore_first_byte)
        if not ignore_first_byte:  # otherwise it is the one of this side
            self.server_algorithms = parsed
        return parsed

    def list_incompatible(self) -> list[str]:
        """Say for which algorithms this side and the server have none in common."""
        offered = self.server_algorithms or {}
        kinds = {
            "key exchange": ("kex_algo_list", self.preferred_kex),
            "host key": ("server_key_algo_list", self.preferred_keys),
            "cipher": ("server_encrypt_algo_list", self.preferred_ciphers),
            "MAC": ("server_mac_algo_list", self.preferred_macs),
        }
        return [
            f"{kind}: the server offers only {', '.join(offered[name])}; this transport has {', '.join(supported)}"
            for kind, (name, supported) in kinds.items()
            if name in offered and not set(offered[name]) & set(supported)
        ]

    def get_auth_handler(self) -> _AuthHandler:
        """Return the object that sends login requests; called by Paramiko."""
        return _AuthHandler(self)


class _AuthHandler(AuthOnlyHandler):
    def send_auth_request(
        self, username: str, method: str, finish_message: Callable[[Any], Any] = lambda message: None
    ) -> Any:
        """Do what Paramiko does, but create the event before the request is sent: it misses a quick answer."""
        self.auth_method, self.username = method, username
        self.auth_event = threading.Event()
        message = paramiko.Message()
        message.add_byte(cMSG_USERAUTH_REQUEST)
        for text in (username, "ssh-connection", method):
            message.add_string(text)
        finish_message(message)
        with self.transport.lock:
            self.transport._send_message(message)
        return self.wait_for_response(self.auth_event)
