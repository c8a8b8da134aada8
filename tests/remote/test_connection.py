"""Connections to a real server, and every way in which one fails before the login."""

from __future__ import annotations

import base64
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import paramiko
import pytest

from demo_backups.errors import COULD_NOT_LOOK, ConnectionLostError
from demo_backups.rehearsal.server import Server
from demo_backups.remote.connection import KEEPALIVE, connect, open_host
from demo_backups.remote.known_hosts import fingerprint
from demo_backups.settings.model import Settings

from ..helpers.host_keys import KEYS, with_keys
from ..helpers.processes import wait_until
from ..helpers.ssh_servers import Answer, add_option, change_config, connection_error, serve_deaf


def test_known_host_is_connected_to(server: Server) -> None:
    connection = connect("rehearsal", server.ssh_config)
    assert connection.user == "rehearsal"
    assert connection.transport.packetizer._Packetizer__keepalive_interval == KEEPALIVE
    connection.close()


def test_cipher_without_mac_is_preferred(server: Server) -> None:
    """The hash of each packet would cost a third of what a download costs."""
    connection = connect("rehearsal", server.ssh_config)
    assert connection.transport.remote_cipher == "aes128-gcm@openssh.com"
    connection.close()


def test_alias_may_have_a_user(server: Server) -> None:
    connection = connect("somebody@rehearsal", server.ssh_config)
    assert (connection.user, connection.host, connection.port) == ("somebody", "127.0.0.1", server.port)
    connection.close()


# --- host keys ------------------------------------------------------------------------------------------------------


def run_advice(command: str) -> None:
    """Run the command of an advice; its question needs a terminal, so accept-new answers it."""
    accepting = command.replace("StrictHostKeyChecking=ask", "StrictHostKeyChecking=accept-new")
    assert accepting != command
    subprocess.run(["/bin/sh", "-c", accepting], check=True, stdin=subprocess.DEVNULL, capture_output=True)


def test_unknown_key_is_accepted_by_printed_command(server: Server) -> None:
    known = server.known_hosts.read_text()
    server.known_hosts.write_text("")
    error = connection_error(server)
    assert f"rehearsal: the host key of [127.0.0.1]:{server.port} is unknown: refused" in str(error)
    assert fingerprint(base64.b64decode(known.split()[2])) in error.output
    assert error.exit_code == COULD_NOT_LOOK
    assert server.known_hosts.read_text() == ""
    run_advice(error.advice.split("accept it: ")[1])
    connect("rehearsal", server.ssh_config).close()


def test_changed_key_is_replaced_by_printed_commands(server: Server) -> None:
    server.known_hosts.write_text(with_keys(f"[127.0.0.1]:{server.port} OTHER\n"))
    error = connection_error(server)
    assert "has CHANGED: refused" in str(error)
    assert f"known: ED25519 {fingerprint(KEYS['OTHER'].public_data)}, {server.known_hosts}:1" in error.output
    run_advice(error.advice.split("confirms the new key: ")[1])
    connect("rehearsal", server.ssh_config).close()


def test_revoked_key_is_refused(server: Server) -> None:
    server.known_hosts.write_text("@revoked * " + server.known_hosts.read_text().split(" ", 1)[1])
    assert f"is revoked by a @revoked line, {server.known_hosts}:1: refused" in str(connection_error(server))


def test_printed_command_accepts_authority_key(server: Server) -> None:
    text = server.known_hosts.read_text()
    server.known_hosts.write_text("@cert-authority * " + text.split(" ", 1)[1])
    error = connection_error(server)
    assert "is known through a @cert-authority only" in str(error)
    run_advice(error.advice.split("accept it: ")[1])
    connect("rehearsal", server.ssh_config).close()


@pytest.mark.parametrize("option", ["StrictHostKeyChecking no", "StrictHostKeyChecking accept-new"])
def test_no_option_accepts_unknown_key(server: Server, option: str) -> None:
    server.known_hosts.write_text("")
    add_option(server, option)
    assert "is unknown: refused" in str(connection_error(server))


# --- no connection --------------------------------------------------------------------------------------------------


def test_unknown_host_name(server: Server) -> None:
    change_config(server, "HostName 127.0.0.1", "HostName no-such-host.invalid")
    error = connection_error(server)
    assert "rehearsal: no such host: no-such-host.invalid" in str(error)
    assert f"ssh -G -F {server.ssh_config} rehearsal" in error.advice


def test_refused_connection_names_address(server: Server) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        change_config(server, f"Port {server.port}", f"Port {port}")
        error = connection_error(server)
    assert f"no SSH connection to 127.0.0.1 port {port}" in str(error)
    assert f"ssh -v -F {server.ssh_config} rehearsal true" in error.advice
    assert error.output == "127.0.0.1: Connection refused"


def test_silent_server_is_given_up(
    server: Server, replace_server: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo_backups.remote.connection.BANNER_TIMEOUT", 0.2)
    replace_server(lambda connection: None)
    error = connection_error(server)
    assert "no SSH connection to 127.0.0.1" in str(error)
    assert error.output == "it sent no SSH banner within 0.2 s"
    assert error.exit_code == COULD_NOT_LOOK


def test_server_silent_after_banner_is_given_up(server: Server, replace_server: Callable[[Answer], None]) -> None:
    add_option(server, "ConnectTimeout 1")
    replace_server(lambda connection: connection.sendall(b"SSH-2.0-silent\r\n"))
    error = connection_error(server)
    assert "no SSH connection to 127.0.0.1" in str(error)
    assert error.output == "it stopped answering during the key exchange"


def test_other_protocol_is_no_ssh_server(server: Server, replace_server: Callable[[Answer], None]) -> None:
    replace_server(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100))
    assert "no SSH connection to 127.0.0.1" in str(connection_error(server))


def test_failing_proxy_command_is_named(server: Server, tmp_path: Path) -> None:
    add_option(server, f"ProxyCommand {tmp_path}/no-such-program %h %p")
    error = connection_error(server)
    assert "no SSH connection to 127.0.0.1" in str(error)
    assert "no-such-program" in error.output


@pytest.mark.parametrize("takes_commands", [False, True])
def test_deaf_server_is_given_up(
    tmp_path: Path, project_settings: Settings, monkeypatch: pytest.MonkeyPatch, takes_commands: bool
) -> None:
    monkeypatch.setattr("demo_backups.remote.runners.ANSWER_TIMEOUT", 0.2)
    with serve_deaf(tmp_path, takes_commands) as (deaf, config):
        settings = project_settings.model_copy(update={"host": "deaf", "ssh_config": str(config), "use_sudo": False})
        lost = pytest.raises(ConnectionLostError, match="the connection was lost while trying to look")
        with lost, open_host(settings) as host:
            host.run("look", "true")
        assert deaf.was_asked.is_set()


def test_connection_lost_while_command_is_sent(
    server: Server, project_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo_backups.remote.runners.ANSWER_TIMEOUT", 0.2)
    clear_event = paramiko.Channel._event_pending

    def lose_connection(channel: paramiko.Channel) -> None:
        """Lose the connection right before Paramiko clears the notice of that."""
        channel.transport.close()
        clear_event(channel)

    settings = project_settings.model_copy(
        update={"host": "rehearsal", "ssh_config": str(server.ssh_config), "use_sudo": False}
    )
    with open_host(settings) as host:
        monkeypatch.setattr(paramiko.Channel, "_event_pending", lose_connection)
        with pytest.raises(ConnectionLostError):
            host.run("look", "true")
        monkeypatch.undo()


# --- jump hosts -----------------------------------------------------------------------------------------------------


def test_jump_host_is_left_with_host(server: Server, jumps: list[object], project_settings: Settings) -> None:
    update = {"host": "rehearsal", "ssh_config": str(server.ssh_config), "use_sudo": False}
    for _ in range(3):
        with open_host(project_settings.model_copy(update=update)) as host:
            assert host.run("look", "echo answer").stdout == "answer\n"
            assert len(jumps) == 1
        wait_until(lambda: not jumps, "the end of the connection to the jump host", 10)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("User rehearsal", "User rehearsal\n    RevokedHostKeys /etc/hosts"),
        ("user_key", "no_such_key"),
        ("ProxyJump jump", "ProxyJump jump,rehearsal"),
    ],
    ids=["not supported", "not logged in", "circle"],
)
def test_jump_host_is_left_after_failure(server: Server, jumps: list[object], old: str, new: str) -> None:
    change_config(server, old, new)
    connection_error(server)
    wait_until(lambda: not jumps, "the end of the connection to the jump host", 10)
