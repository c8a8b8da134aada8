"""Logging in as OpenSSH does: keys of the agent, key files, then a password asked for once on a terminal."""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import paramiko
from paramiko.auth_handler import AuthOnlyHandler
from paramiko.auth_strategy import (
    AuthFailure,
    AuthResult,
    AuthSource,
    AuthStrategy,
    InMemoryPrivateKey,
    Password,
    PrivateKey,
)
from paramiko.common import cMSG_USERAUTH_REQUEST

MOST_FACTORS = 5  # that a server may want one after the other: no server can keep us here for ever


def make_transport(sock: Any, host_key_algorithms: Sequence[str], **kwargs: Any) -> paramiko.Transport:
    """Make a transport that offers these host key algorithms, in their order."""
    transport = _Transport(sock, **kwargs)
    options = transport.get_security_options()
    options.key_types = [algorithm for algorithm in host_key_algorithms if algorithm in options.key_types]
    return transport


def ask_secret(prompt: str) -> str | None:
    """Ask on the terminal for what must not be shown; None where there is no terminal. It is kept nowhere."""
    try:
        return getpass.getpass(prompt) if sys.stdin.isatty() else None
    except EOFError:  # Ctrl-D
        raise KeyboardInterrupt from None


class _Transport(paramiko.ServiceRequestingTransport):
    """Paramiko's transport that asks for the login service once, as RFC 4252 has it; the older one asks every time."""

    def get_auth_handler(self) -> _AuthHandler:
        return _AuthHandler(self)


class _AuthHandler(AuthOnlyHandler):
    def send_auth_request(
        self, username: str, method: str, finish_message: Callable[[Any], Any] = lambda message: None
    ) -> Any:
        """Do what Paramiko 5.1 does, but make the event before the question: it can miss an answer that is quick."""
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


class KeyFile(PrivateKey):
    """A private key in a file, read when its turn comes; asks for its passphrase on a terminal."""

    def __init__(self, username: str, path: Path) -> None:
        super().__init__(username)
        self.path = path

    def authenticate(self, transport: Any) -> Any:
        """Offer the key; raises Paramiko's exceptions."""
        try:
            self.pkey = paramiko.PKey.from_path(self.path)
        except (TypeError, paramiko.PasswordRequiredException):  # the first is what from_path lets through
            passphrase = ask_secret(f"Passphrase for {self.path}: ")
            if passphrase is None:
                raise paramiko.AuthenticationException(
                    "has a passphrase, and there is no terminal to ask for it: ssh-add it first"
                ) from None
            try:
                self.pkey = paramiko.PKey.from_path(self.path, passphrase.encode())
            except (TypeError, ValueError, paramiko.SSHException) as error:
                raise paramiko.AuthenticationException("the passphrase is wrong, or the file is damaged") from error
        return super().authenticate(transport)


class Login(AuthStrategy):
    """Try to log in as OpenSSH does: agent keys, key files, then a password asked for once on a terminal."""

    def __init__(self, ssh_config: Mapping[str, Any], fabric_config: Any, username: str) -> None:
        super().__init__(ssh_config)
        self.username = username
        self.host = ssh_config.get("hostname", "")  # named where a password is asked for: a jump host's is another
        self.allowed: list[str] = []

    def authenticate(self, transport: Any) -> Any:
        """Ask the server what it allows, then try it; raises AuthFailure with all that was tried."""
        done = AuthResult(self)
        try:
            self.allowed = transport.auth_none(self.username)
        except paramiko.BadAuthenticationType as refused:
            self.allowed = refused.allowed_types
        for _ in range(MOST_FACTORS):
            if not self.allowed:
                return done
            try:
                done += super().authenticate(transport)
            except AuthFailure as failure:
                raise AuthFailure(AuthResult(self, [*done, *failure.result])) from failure
            self.allowed = done[-1].result  # what the server wants as well; to Paramiko's strategy all is done
        raise AuthFailure(done)

    def get_sources(self) -> Iterator[AuthSource]:
        """Yield what to try, in OpenSSH's order (ssh_config(5), PreferredAuthentications and IdentitiesOnly)."""
        if "publickey" in self.allowed:
            yield from self._keys()
        if {"password", "keyboard-interactive"} & set(self.allowed) and sys.stdin.isatty():
            yield Password(self.username, lambda: ask_secret(f"{self.username}@{self.host}'s password: "))

    def _keys(self) -> Iterator[AuthSource]:
        default = ["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"]
        files = [Path(each).expanduser() for each in self.ssh_config.get("identityfile", default)]
        # Of a key in the agent, the public half may be all that is here.
        listed = {_public(file): file for file in files}
        agent = list(paramiko.Agent().get_keys())
        only = self.ssh_config.get("identitiesonly", "no") == "yes"
        for key in sorted(agent, key=lambda key: key.asbytes() not in listed):
            if not only or key.asbytes() in listed:
                yield InMemoryPrivateKey(self.username, key)
        in_agent = {key.asbytes() for key in agent}
        yield from (
            KeyFile(self.username, file)
            for blob, file in listed.items()
            if blob not in in_agent and file.suffix != ".pub" and file.is_file()
        )


def _public(file: Path) -> bytes:
    """Read the public half of a key file, in SSH's wire format; the path itself where there is none."""
    public = file if file.suffix == ".pub" else file.with_name(file.name + ".pub")
    try:
        return bytes(paramiko.PublicBlob.from_file(public).key_blob)
    except (OSError, ValueError):
        return os.fsencode(file)


@contextlib.contextmanager
def agent_of(value: str | None) -> Iterator[None]:
    """Honour a host's IdentityAgent while it is logged in to; Paramiko finds its agent through the environment only."""
    before = os.environ.get("SSH_AUTH_SOCK")
    if value is None or value == "SSH_AUTH_SOCK":
        wanted = before
    elif value.startswith("$"):
        wanted = os.environ.get(value[1:].strip("{}"))
    else:
        wanted = None if value.lower() == "none" else str(Path(value).expanduser())
    try:
        _set_agent(wanted)
        yield
    finally:
        _set_agent(before)


def _set_agent(value: str | None) -> None:
    os.environ.pop("SSH_AUTH_SOCK", None)
    if value is not None:
        os.environ["SSH_AUTH_SOCK"] = value
