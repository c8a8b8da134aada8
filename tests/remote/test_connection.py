"""Connections to a real server, and every way in which a login can fail."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest
from paramiko.common import cMSG_CHANNEL_SUCCESS

from demo_backups.errors import COULD_NOT_LOOK, BackupsError, ConnectionLostError
from demo_backups.rehearsal.server import Server, serve
from demo_backups.remote.connection import KEEPALIVE, connect, open_host
from demo_backups.remote.known_hosts import fingerprint
from demo_backups.settings import Settings

from ..helpers.host_keys import KEYS, with_keys
from ..helpers.processes import wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    with serve(folder) as running:
        yield running


def refusal(server: Server, alias: str = "rehearsal") -> BackupsError:
    """Connect, and return why that failed."""
    with pytest.raises(BackupsError) as caught:
        connect(alias, server.ssh_config).close()
    print(caught.value)
    return caught.value


def port(server: Server) -> str:
    """The port that a server's SSH configuration names."""
    return server.ssh_config.read_text().split("Port ")[1].split()[0]


def change(server: Server, old: str, new: str) -> None:
    """Change the SSH configuration of a server."""
    text = server.ssh_config.read_text()
    assert old in text
    server.ssh_config.write_text(text.replace(old, new))


def test_a_known_host_is_logged_in_to(server: Server) -> None:
    connection = connect("rehearsal", server.ssh_config)
    assert connection.user == "rehearsal"
    assert connection.transport.packetizer._Packetizer__keepalive_interval == KEEPALIVE
    connection.close()


def test_a_user_may_stand_before_the_alias(server: Server) -> None:
    connection = connect("somebody@rehearsal", server.ssh_config)
    assert (connection.user, connection.host, connection.port) == ("somebody", "127.0.0.1", server.port)
    connection.close()


def test_an_unknown_host_key_is_refused_until_the_printed_command_has_accepted_it(server: Server) -> None:
    theirs = server.known_hosts.read_text()
    server.known_hosts.write_text("")
    error = refusal(server)
    assert f"rehearsal: the host key of [127.0.0.1]:{server.port} is unknown: refused" in str(error)
    assert fingerprint(base64.b64decode(theirs.split()[2])) in error.output
    assert error.exit_code == COULD_NOT_LOOK
    assert server.known_hosts.read_text() == ""

    command = error.advice.split("accept it: ")[1]
    # Its question needs a terminal; accept-new answers it.
    accepted = command.replace("StrictHostKeyChecking=ask", "StrictHostKeyChecking=accept-new")
    assert accepted != command
    subprocess.run(["/bin/sh", "-c", accepted], check=True, stdin=subprocess.DEVNULL)
    connect("rehearsal", server.ssh_config).close()


def test_a_changed_host_key_is_refused_until_the_printed_commands_have_replaced_it(server: Server) -> None:
    name = f"[127.0.0.1]:{server.port}"
    server.known_hosts.write_text(with_keys(f"{name} OTHER\n"))
    error = refusal(server)
    assert "has CHANGED: refused" in str(error)
    assert f"known: ED25519 {fingerprint(KEYS['OTHER'].public_data)}, {server.known_hosts}:1" in error.output
    command = error.advice.split("confirms the new key: ")[1]
    accepted = command.replace("StrictHostKeyChecking=ask", "StrictHostKeyChecking=accept-new")
    subprocess.run(["/bin/sh", "-c", accepted], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    connect("rehearsal", server.ssh_config).close()


def test_a_revoked_host_key_is_refused(server: Server) -> None:
    server.known_hosts.write_text("@revoked * " + server.known_hosts.read_text().split(" ", 1)[1])
    error = refusal(server)
    assert f"is revoked by a @revoked line, {server.known_hosts}:1: refused" in str(error)


def test_authority_only_key_is_accepted_by_printed_command(server: Server) -> None:
    text = server.known_hosts.read_text()
    server.known_hosts.write_text("@cert-authority * " + text.split(" ", 1)[1])
    error = refusal(server)
    assert "is known through a @cert-authority only" in str(error)
    command = error.advice.split("accept it: ")[1]
    accepted = command.replace("StrictHostKeyChecking=ask", "StrictHostKeyChecking=accept-new")
    subprocess.run(["/bin/sh", "-c", accepted], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    connect("rehearsal", server.ssh_config).close()


@pytest.mark.parametrize("option", ["StrictHostKeyChecking no", "StrictHostKeyChecking accept-new"])
def test_no_setting_lets_an_unknown_host_key_pass(server: Server, option: str) -> None:
    server.known_hosts.write_text("")
    change(server, "IdentitiesOnly yes", f"IdentitiesOnly yes\n    {option}")
    assert "is unknown: refused" in str(refusal(server))


def test_no_such_host_says_where_to_look(server: Server) -> None:
    change(server, "HostName 127.0.0.1", "HostName no-such-host.invalid")
    error = refusal(server)
    assert "rehearsal: no such host: no-such-host.invalid" in str(error)
    assert f"ssh -G -F {server.ssh_config} rehearsal" in error.advice


def test_a_refused_connection_names_the_address(server: Server) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        port = nobody_listens.getsockname()[1]
        change(server, f"Port {server.port}", f"Port {port}")
        error = refusal(server)
    assert f"no SSH connection to 127.0.0.1 port {port}" in str(error)
    assert f"ssh -v -F {server.ssh_config} rehearsal true" in error.advice
    assert error.output == "127.0.0.1: Connection refused"


Answer = Callable[[socket.socket], Any]


@pytest.fixture
def stranger(server: Server) -> Iterator[Callable[[Answer], None]]:
    """Put something else at the server's address: what is accepted there is handed to a function."""
    listening = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def start(answer: Answer) -> None:
        def take() -> None:
            connection, _ = listening.accept()
            taken.append(connection)
            answer(connection)

        threading.Thread(target=take, daemon=True).start()

    change(server, f"Port {server.port}", f"Port {listening.getsockname()[1]}")
    yield start
    for each in (listening, *taken):
        each.close()


def test_a_server_that_says_nothing_is_given_up(
    server: Server, stranger: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo_backups.remote.connection.BANNER_TIMEOUT", 0.2)
    stranger(lambda connection: None)
    error = refusal(server)
    assert "no SSH connection to 127.0.0.1" in str(error)
    assert error.output == "it did not greet as an SSH server does within 0.2 s"
    assert error.exit_code == COULD_NOT_LOOK


def test_a_server_that_stops_after_its_banner_is_given_up(server: Server, stranger: Callable[[Answer], None]) -> None:
    change(server, "IdentitiesOnly yes", "IdentitiesOnly yes\n    ConnectTimeout 1")
    stranger(lambda connection: connection.sendall(b"SSH-2.0-silent\r\n"))
    error = refusal(server)
    assert "no SSH connection to 127.0.0.1" in str(error)
    assert error.output == "it stopped answering before the keys were agreed on"


def test_something_that_is_no_ssh_server_is_told_in_words(server: Server, stranger: Callable[[Answer], None]) -> None:
    stranger(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100))
    error = refusal(server)
    assert "no SSH connection to 127.0.0.1" in str(error)


def test_a_proxy_command_is_run_and_its_failure_told(server: Server, tmp_path: Path) -> None:
    change(server, "IdentitiesOnly yes", f"IdentitiesOnly yes\n    ProxyCommand {tmp_path}/no-such-program %h %p")
    error = refusal(server)
    assert "no SSH connection to 127.0.0.1" in str(error)
    assert "no-such-program" in error.output


# --- login ----------------------------------------------------------------------------------------------------------


def test_a_key_that_is_not_allowed_is_told_with_its_file(server: Server) -> None:
    KEYS["GOOD"].write_private_key(server.folder / "wrong_key")
    change(server, f"{server.folder}/user_key", f"{server.folder}/wrong_key")
    error = refusal(server)
    assert f"login as rehearsal refused by 127.0.0.1 port {server.port}" in str(error)
    assert f"{server.folder}/wrong_key: " in error.output
    assert f"ssh -F {server.ssh_config} rehearsal true" in error.advice
    assert error.exit_code == COULD_NOT_LOOK


def test_no_key_at_all_says_what_the_server_takes(server: Server) -> None:
    change(server, f"{server.folder}/user_key", "/nowhere/key")
    error = refusal(server)
    assert "there was nothing to offer" in error.output
    assert "the server takes: publickey" in error.output


def test_a_key_with_a_passphrase_and_no_terminal_says_what_to_do(server: Server) -> None:
    key = server.folder / "user_key"
    asyncssh.read_private_key(key).write_private_key(key, passphrase="secret")
    error = refusal(server)
    assert "has a passphrase, and there is no terminal to ask for it: ssh-add it first" in error.output


def test_a_broken_key_file_is_told_with_its_name(server: Server) -> None:
    (server.folder / "user_key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n")
    assert f"{server.folder}/user_key: " in refusal(server).output


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """An SSH agent of the test's own; ends with it."""
    path = tmp_path / "agent.sock"
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL) as process:
        try:
            while not path.exists():
                assert process.poll() is None
            yield path
        finally:
            process.terminate()


def test_a_key_in_the_agent_that_identity_agent_names_is_used(server: Server, agent: Path) -> None:
    environment = os.environ | {"SSH_AUTH_SOCK": str(agent)}
    subprocess.run(["ssh-add", "-q", server.folder / "user_key"], env=environment, check=True)
    (server.folder / "user_key").unlink()
    change(server, "IdentityAgent none", f"IdentityAgent {agent}")
    change(server, f"{server.folder}/user_key", f"{server.folder}/user_key.pub")
    connect("rehearsal", server.ssh_config).close()


class Deaf(paramiko.ServerInterface):  # type: ignore[misc]
    """A server that lets everybody in, and then never answers."""

    def __init__(self, takes_commands: bool) -> None:
        self.takes_commands = takes_commands
        self.asked = threading.Event()
        self.end = threading.Event()

    def check_auth_none(self, username: str) -> int:
        return paramiko.AUTH_SUCCESSFUL  # type: ignore[no-any-return]

    def get_allowed_auths(self, username: str) -> str:
        return "none"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED  # type: ignore[no-any-return]

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        if not self.takes_commands:
            return self.answer_nothing()
        # Taken, and over without an exit status: is the connection lost? The client will ask.
        taken = paramiko.Message()
        taken.add_byte(cMSG_CHANNEL_SUCCESS)
        taken.add_int(channel.remote_chanid)
        channel.transport._send_message(taken)
        channel.close()
        return True

    def check_global_request(self, kind: str, message: paramiko.Message) -> bool:
        return self.answer_nothing()

    def answer_nothing(self) -> bool:
        self.asked.set()
        self.end.wait()
        return False


@pytest.mark.parametrize("takes_commands", [False, True])
def test_a_server_that_stops_answering_is_given_up(
    tmp_path: Path, project_settings: Settings, monkeypatch: pytest.MonkeyPatch, takes_commands: bool
) -> None:
    monkeypatch.setattr("demo_backups.remote.runners.ANSWER_TIMEOUT", 0.2)
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(tmp_path / "key")
    deaf = Deaf(takes_commands)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{port} {key.export_public_key().decode()}")
        config = tmp_path / "config"
        config.write_text(f"Host deaf\n HostName 127.0.0.1\n Port {port}\n UserKnownHostsFile {tmp_path}/known_hosts\n")

        def serve_one() -> None:
            transport = paramiko.Transport(listening.accept()[0])
            transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(tmp_path / "key")))
            transport.start_server(server=deaf, event=threading.Event())
            deaf.end.wait()
            transport.close()

        thread = threading.Thread(target=serve_one)
        thread.start()
        settings = project_settings.model_copy(update={"host": "deaf", "ssh_config": str(config), "use_sudo": False})
        try:
            with (
                pytest.raises(ConnectionLostError, match="the connection was lost while trying to look"),
                open_host(settings) as host,
            ):
                host.run("look", "true")
            assert deaf.asked.is_set()
        finally:
            deaf.end.set()
            thread.join()


class NeverSatisfied(paramiko.ServerInterface):  # type: ignore[misc]
    """A server to which every key is right, and never enough."""

    def check_auth_publickey(self, username: str, key: object) -> int:
        return paramiko.AUTH_PARTIALLY_SUCCESSFUL  # type: ignore[no-any-return]

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"


def test_a_server_to_which_no_key_is_enough_is_given_up(server: Server, stranger: Callable[[Answer], None]) -> None:
    def answer(connection: socket.socket) -> None:
        transport = paramiko.Transport(connection)
        transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(server.folder / "user_key")))
        transport.start_server(server=NeverSatisfied(), event=threading.Event())

    stranger(answer)
    name = f"[127.0.0.1]:{port(server)}"
    server.known_hosts.write_text(f"{name} {(server.folder / 'user_key.pub').read_text()}")
    assert "the server still wants: publickey" in refusal(server).output


# --- jump hosts -----------------------------------------------------------------------------------------------------


@pytest.fixture
def jumps(server: Server) -> Iterator[list[object]]:
    """Put a jump host before the server; yields the connections that are open there."""
    seen: list[object] = []

    class Jump(asyncssh.SSHServer):
        def connection_made(self, conn: object) -> None:
            seen.append(self)
            made.append(self)

        def connection_lost(self, exc: Exception | None) -> None:
            seen.remove(self)

        def begin_auth(self, username: str) -> bool:
            return False

        def connection_requested(self, *where: object) -> bool:
            return True

    made: list[object] = []
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen("127.0.0.1", 0, server_factory=Jump, server_host_keys=[KEYS["GOOD"]])

    acceptor = asyncio.run_coroutine_threadsafe(listen(), loop).result()
    name = f"[127.0.0.1]:{acceptor.get_port()}"
    server.known_hosts.write_text(server.known_hosts.read_text() + with_keys(f"{name} GOOD\n"))
    change(server, "IdentitiesOnly yes", "IdentitiesOnly yes\n    ProxyJump jump")
    general = f"IdentityAgent none\n UserKnownHostsFile {server.known_hosts}\n"
    jump = f"Host jump\n HostName 127.0.0.1\n Port {acceptor.get_port()}\n {general}"
    server.ssh_config.write_text(server.ssh_config.read_text() + jump)
    try:
        yield seen
        assert made
    finally:
        loop.call_soon_threadsafe(acceptor.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_no_connection_to_a_jump_host_outlives_its_task(
    server: Server, jumps: list[object], project_settings: Settings
) -> None:
    update = {"host": "rehearsal", "ssh_config": str(server.ssh_config), "use_sudo": False}
    for _ in range(3):
        with open_host(project_settings.model_copy(update=update)) as host:
            assert host.run("look", "echo seen").stdout == "seen\n"
            assert len(jumps) == 1
        wait_until(lambda: not jumps, "the end of the connection to the jump host", 10)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("User rehearsal", "User rehearsal\n    RevokedHostKeys /etc/hosts"),
        ("user_key", "no_such_key"),
        ("ProxyJump jump", "ProxyJump jump,rehearsal"),
    ],
    ids=["not honoured", "not logged in", "in a circle"],
)
def test_a_jump_host_is_closed_where_the_way_ends_behind_it(
    server: Server, jumps: list[object], old: str, new: str
) -> None:
    change(server, old, new)
    refusal(server)
    wait_until(lambda: not jumps, "the end of the connection to the jump host", 10)
