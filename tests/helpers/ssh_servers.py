"""SSH servers that misbehave, and what the tests do with a server's SSH configuration."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncssh
import paramiko
import pytest
from paramiko.common import cMSG_CHANNEL_SUCCESS

from demo_backups.errors import BackupsError
from demo_backups.rehearsal.server import Server
from demo_backups.remote.connection import connect

from .host_keys import KEYS, with_keys

Answer = Callable[[socket.socket], object]


def connection_error(server: Server, alias: str = "rehearsal") -> BackupsError:
    """Connect, and return why that failed."""
    with pytest.raises(BackupsError) as caught:
        connect(alias, server.ssh_config).close()
    print(caught.value)
    return caught.value


def configured_port(server: Server) -> str:
    """The port that a server's SSH configuration names."""
    return server.ssh_config.read_text().split("Port ")[1].split()[0]


def change_config(server: Server, old: str, new: str) -> None:
    """Change the SSH configuration of a server."""
    text = server.ssh_config.read_text()
    assert old in text
    server.ssh_config.write_text(text.replace(old, new))


def add_option(server: Server, option: str) -> None:
    """Add an option to the SSH configuration of a server."""
    change_config(server, "IdentitiesOnly yes", f"IdentitiesOnly yes\n    {option}")


def add_alias(server: Server, name: str, port: int | None = None, is_known: bool = True) -> None:
    """Add an alias for a server, or for another port; the key of a server need not be known."""
    section = server.ssh_config.read_text().partition("\nHost ")[0].replace("Host rehearsal", f"Host {name}", 1)
    if port is not None:
        section = section.replace(f"Port {server.port}", f"Port {port}")
    if not is_known:
        section = section.replace(f'UserKnownHostsFile "{server.known_hosts}"', "UserKnownHostsFile /dev/null")
    server.ssh_config.write_text(f"{server.ssh_config.read_text()}\n{section}\n")


@contextlib.contextmanager
def replaced_server(server: Server) -> Iterator[Callable[[Answer], None]]:
    """Put something else at the server's address: what is accepted there is given to a function."""
    listening = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []

    def start(answer: Answer) -> None:
        def accept() -> None:
            connection, _ = listening.accept()
            accepted.append(connection)
            answer(connection)

        threading.Thread(target=accept, daemon=True).start()

    change_config(server, f"Port {server.port}", f"Port {listening.getsockname()[1]}")
    yield start
    for connection in (listening, *accepted):
        connection.close()


class DeafServer(paramiko.ServerInterface):  # type: ignore[misc]
    """A server that lets everybody in, and then never answers."""

    def __init__(self, takes_commands: bool) -> None:
        self.takes_commands = takes_commands
        self.was_asked = threading.Event()
        self.end = threading.Event()

    def check_auth_none(self, username: str) -> int:
        """Let everybody in."""
        return paramiko.AUTH_SUCCESSFUL  # type: ignore[no-any-return]

    def get_allowed_auths(self, username: str) -> str:
        """Allow no other method."""
        return "none"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        """Open every channel."""
        return paramiko.OPEN_SUCCEEDED  # type: ignore[no-any-return]

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        """Take a command, and end it without an exit status, so that the client asks whether the connection is lost."""
        if not self.takes_commands:
            return self._answer_nothing()
        success = paramiko.Message()
        success.add_byte(cMSG_CHANNEL_SUCCESS)
        success.add_int(channel.remote_chanid)
        channel.transport._send_message(success)
        channel.close()
        return True

    def check_global_request(self, kind: str, message: paramiko.Message) -> bool:
        """Do not answer to a sign of life."""
        return self._answer_nothing()

    def _answer_nothing(self) -> bool:
        self.was_asked.set()
        self.end.wait()
        return False


@contextlib.contextmanager
def serve_deaf(folder: Path, takes_commands: bool) -> Iterator[tuple[DeafServer, Path]]:
    """Run a server that never answers; yields it, and the SSH configuration of its alias `deaf`."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(folder / "key")
    deaf = DeafServer(takes_commands)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        known_hosts, config = folder / "known_hosts", folder / "config"
        known_hosts.write_text(f"[127.0.0.1]:{port} {key.export_public_key().decode()}")
        config.write_text(f"Host deaf\n HostName 127.0.0.1\n Port {port}\n UserKnownHostsFile {known_hosts}\n")

        def serve_one() -> None:
            transport = paramiko.Transport(listening.accept()[0])
            transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(folder / "key")))
            transport.start_server(server=deaf, event=threading.Event())
            deaf.end.wait()
            transport.close()

        thread = threading.Thread(target=serve_one)
        thread.start()
        try:
            yield deaf, config
        finally:
            deaf.end.set()
            thread.join()


class NeverSatisfied(paramiko.ServerInterface):  # type: ignore[misc]
    """A server that accepts every key, and requires one more."""

    def check_auth_publickey(self, username: str, key: object) -> int:
        """Accept a key, and require another."""
        return paramiko.AUTH_PARTIALLY_SUCCESSFUL  # type: ignore[no-any-return]

    def get_allowed_auths(self, username: str) -> str:
        """Allow keys."""
        return "publickey"


def serve_never_satisfied(server: Server, connection: socket.socket) -> None:
    """Serve one connection, with the user's key as the host key."""
    transport = paramiko.Transport(connection)
    transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(server.folder / "user_key")))
    transport.start_server(server=NeverSatisfied(), event=threading.Event())


@contextlib.contextmanager
def jump_host(server: Server) -> Iterator[list[object]]:
    """Put a jump host before the server; yields the connections that are open there."""
    connections: list[object] = []
    was_used = threading.Event()

    class Jump(asyncssh.SSHServer):
        def connection_made(self, conn: object) -> None:
            connections.append(self)
            was_used.set()

        def connection_lost(self, exc: Exception | None) -> None:
            connections.remove(self)

        def begin_auth(self, username: str) -> bool:
            return False

        def connection_requested(self, *address: object) -> bool:
            return True

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen("127.0.0.1", 0, server_factory=Jump, server_host_keys=[KEYS["GOOD"]])

    acceptor = asyncio.run_coroutine_threadsafe(listen(), loop).result()
    name = f"[127.0.0.1]:{acceptor.get_port()}"
    server.known_hosts.write_text(server.known_hosts.read_text() + with_keys(f"{name} GOOD\n"))
    add_option(server, "ProxyJump jump")
    general = f"IdentityAgent none\n UserKnownHostsFile {server.known_hosts}\n"
    jump = f"Host jump\n HostName 127.0.0.1\n Port {acceptor.get_port()}\n {general}"
    server.ssh_config.write_text(server.ssh_config.read_text() + jump)
    try:
        yield connections
        assert was_used.is_set()
    finally:
        loop.call_soon_threadsafe(acceptor.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
