"""Logging in to a real server: keys, an agent, and what is said when nothing is accepted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncssh
import pytest

from demo_backups.errors import COULD_NOT_LOOK
from demo_backups.rehearsal.server import Server
from demo_backups.remote.auth import Login
from demo_backups.remote.connection import connect, open_host
from demo_backups.settings.model import Settings

from ..helpers.host_keys import KEYS
from ..helpers.ssh_servers import (
    Answer,
    change_config,
    configured_port,
    connection_error,
    serve_never_satisfied,
)


def test_refused_key_is_named(server: Server) -> None:
    KEYS["GOOD"].write_private_key(server.folder / "wrong_key")
    change_config(server, f"{server.folder}/user_key", f"{server.folder}/wrong_key")
    error = connection_error(server)
    assert f"login as rehearsal refused by 127.0.0.1 port {server.port}" in str(error)
    assert f"{server.folder}/wrong_key: " in error.output
    assert f"ssh -F {server.ssh_config} rehearsal true" in error.advice
    assert error.exit_code == COULD_NOT_LOOK


def test_openssh_works_with_closed_input(
    server: Server, project_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as Python does where it was closed
    changes = {"ssh_config": str(server.ssh_config), "ssh_transport": "openssh", "host": "rehearsal"}
    with open_host(project_settings.model_copy(update=changes)) as host:
        assert host.run("print", "echo x").stdout == "x\n"


def test_no_password_prompt_with_closed_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    login = Login({"identityagent": "none"}, None, "torrust")
    login.allowed = ["password"]
    assert list(login.get_sources()) == []


def test_without_key_methods_of_server_are_named(server: Server) -> None:
    change_config(server, f"{server.folder}/user_key", "/nowhere/key")
    assert connection_error(server).output == "there was nothing to offer\nthe server accepts: publickey"


def test_passphrase_needs_terminal(server: Server) -> None:
    key = server.folder / "user_key"
    asyncssh.read_private_key(key).write_private_key(key, passphrase="secret")
    error = connection_error(server)
    assert "has a passphrase, and there is no terminal to ask for it: ssh-add it first" in error.output


def test_closed_input_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)  # as in `./inv list-backups <&-`
    login = Login({}, None, "torrust")
    login.allowed = ["password"]
    assert list(login.get_sources()) == []


@pytest.mark.parametrize(("typed", "accepted"), [("secret", True), ("guess", False)])
def test_typed_passphrase_opens_key(
    server: Server, monkeypatch: pytest.MonkeyPatch, typed: str, accepted: bool
) -> None:
    key = server.folder / "user_key"
    asyncssh.read_private_key(key).write_private_key(key, passphrase="secret")
    monkeypatch.setattr("demo_backups.remote.auth.ask_secret", lambda prompt, is_right: typed)
    if accepted:
        connect("rehearsal", server.ssh_config).close()
    else:
        assert f"{key}: the passphrase is wrong, or the file is damaged" in connection_error(server).output


def test_damaged_key_file_is_named(server: Server) -> None:
    (server.folder / "user_key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n")
    assert f"{server.folder}/user_key: " in connection_error(server).output


def test_endless_requirements_are_given_up(server: Server, replace_server: Callable[[Answer], None]) -> None:
    replace_server(lambda connection: serve_never_satisfied(server, connection))
    name = f"[127.0.0.1]:{configured_port(server)}"
    server.known_hosts.write_text(f"{name} {(server.folder / 'user_key.pub').read_text()}")
    assert "the server still requires: publickey" in connection_error(server).output


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """An SSH agent that ends with the test."""
    path = tmp_path / "agent.sock"
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL) as process:
        try:
            while not path.exists():
                assert process.poll() is None
            yield path
        finally:
            process.terminate()


def test_key_of_configured_agent_is_used(server: Server, agent: Path) -> None:
    environment = os.environ | {"SSH_AUTH_SOCK": str(agent)}
    subprocess.run(["ssh-add", "-q", server.folder / "user_key"], env=environment, check=True, capture_output=True)
    (server.folder / "user_key").unlink()
    change_config(server, "IdentityAgent none", f"IdentityAgent {agent}")
    change_config(server, f"{server.folder}/user_key", f"{server.folder}/user_key.pub")
    connect("rehearsal", server.ssh_config).close()
