"""Log in to a real sshd: keys, passphrases, a real agent, passwords."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..helpers.agent import agent
from .conftest import Server
from .machine import PASSWORD

PASSPHRASE = "tr0ub4dor & three"


def test_unknown_key_is_refused(server: Server) -> None:
    wrong = server.machine.ssh / "wrong"
    server.machine.make_key(wrong, known=False)
    server.machine.configure(server.machine.alias("demo", server.sshd, key=wrong))
    done = server.inv("list-backups")
    assert done.returncode == 3
    assert "login as torrust refused" in done.stderr
    assert str(wrong) in done.stderr
    assert "backup" not in done.stdout.split("\n", 1)[1]


def test_agent_key_needs_no_file(server: Server, tmp_path: Path) -> None:
    with agent(tmp_path, server.machine.key) as socket:
        server.machine.key.unlink()
        config = server.machine.ssh_config
        assert server.inv("list-backups").returncode == 3
        config.write_text(config.read_text().replace("IdentityAgent none", f"IdentityAgent {socket}"))
        assert server.inv("list-backups").returncode == 0
        config.write_text(config.read_text().replace(f"IdentityAgent {socket}", "IdentityAgent SSH_AUTH_SOCK"))
        assert server.inv("list-backups", SSH_AUTH_SOCK=str(socket)).returncode == 0


def test_other_agent_keys_use_up_no_tries(server: Server, tmp_path: Path) -> None:
    others = [tmp_path / f"other{number}" for number in range(7)]
    for key in others:
        server.machine.make_key(key, known=False)
    with agent(tmp_path, *others, server.machine.key) as socket:
        config = server.machine.ssh_config
        config.write_text(config.read_text().replace("IdentityAgent none", f"IdentityAgent {socket}"))
        done = server.inv("list-backups")
        assert done.returncode == 0, done.stderr
        # Without IdentitiesOnly, the key that the configuration names is still tried first, as by OpenSSH.
        config.write_text(config.read_text().replace("IdentitiesOnly yes", "IdentitiesOnly no"))
        done = server.inv("list-backups")
        assert done.returncode == 0, done.stderr


def test_identities_only_limits_the_agent(server: Server, tmp_path: Path) -> None:
    wrong = server.machine.ssh / "wrong"
    server.machine.make_key(wrong, known=False)
    server.machine.configure(server.machine.alias("demo", server.sshd, key=wrong))
    with agent(tmp_path, server.machine.key) as socket:
        config = server.machine.ssh_config
        config.write_text(config.read_text().replace("IdentityAgent none", f"IdentityAgent {socket}"))
        assert server.inv("list-backups").returncode == 3
        config.write_text(config.read_text().replace("IdentitiesOnly yes", "IdentitiesOnly no"))
        assert server.inv("list-backups").returncode == 0


@pytest.fixture
def locked(server: Server) -> Path:
    """The user's only key, with a passphrase."""
    key = server.machine.ssh / "locked"
    server.machine.make_key(key, PASSPHRASE)
    server.machine.configure(server.machine.alias("demo", server.sshd, key=key))
    return key


def test_passphrase_is_typed_on_terminal(server: Server, locked: Path) -> None:
    with server.inv_on_terminal("list-backups") as tty:
        tty.expect(f"Passphrase for {locked}: ")
        tty.type(PASSPHRASE)
        assert tty.end() == 0, tty.shown
        assert PASSPHRASE not in tty.shown


def test_wrong_passphrase_is_reported(server: Server, locked: Path) -> None:
    with server.inv_on_terminal("list-backups") as tty:
        tty.expect("Passphrase for ")
        tty.type("guess")
        assert tty.end() == 3, tty.shown
        assert "login as torrust refused" in tty.shown
        assert "Traceback" not in tty.shown


def test_passphrase_without_terminal_has_an_advice(server: Server, locked: Path) -> None:
    done = server.inv("list-backups")
    assert done.returncode == 3
    assert f"{locked}: has a passphrase, and there is no terminal to ask for it: ssh-add it first" in done.stderr


def test_password_is_typed_on_terminal_only(server: Server) -> None:
    sshd = server.machine.sshd("PasswordAuthentication yes", "PubkeyAuthentication no")
    server.machine.known_hosts.write_text(sshd.known)
    server.machine.configure(server.machine.alias("demo", sshd))
    done = server.inv("list-backups")
    assert done.returncode == 3
    assert "login as torrust refused" in done.stderr
    with server.inv_on_terminal("list-backups") as tty:
        tty.expect("torrust@127.0.0.1's password: ")
        tty.type(PASSWORD)
        assert tty.end() == 0, tty.shown
        assert PASSWORD not in tty.shown


@pytest.mark.parametrize("methods", ["publickey,password", "password,publickey"])
def test_key_and_password_are_both_given(server: Server, methods: str) -> None:
    sshd = server.machine.sshd("PasswordAuthentication yes", f"AuthenticationMethods {methods}")
    server.machine.known_hosts.write_text(sshd.known)
    server.machine.configure(server.machine.alias("demo", sshd))
    with server.inv_on_terminal("list-backups") as tty:
        tty.expect("torrust@127.0.0.1's password: ")
        tty.type(PASSWORD)
        assert tty.end() == 0, tty.shown


def test_insufficient_key_without_terminal_is_no_login(server: Server) -> None:
    sshd = server.machine.sshd("PasswordAuthentication yes", "AuthenticationMethods publickey,password")
    server.machine.known_hosts.write_text(sshd.known)
    server.machine.configure(server.machine.alias("demo", sshd))
    done = server.inv("list-backups")
    assert done.returncode == 3
    assert "login as torrust refused" in done.stderr
    assert f"{server.machine.key}: accepted" in done.stderr
    assert "the server still requires: password" in done.stderr
