"""Host keys with a real sshd, jump hosts included. The commands that an error prints are run."""

from __future__ import annotations

import re
import subprocess

import pytest

from ..helpers.terminal import terminal
from .conftest import Server


def advice(printed: str) -> str:
    """Return the commands that an error advises."""
    match = re.search(r"-> .*?: (ssh(?:-keygen)? .*)", printed)
    assert match, printed
    return match[1]


def accept(server: Server, printed: str) -> None:
    """Run the advised commands as the user would, and answer yes."""
    with terminal(["sh", "-c", advice(printed)], server.environment) as tty:
        tty.expect("Are you sure you want to continue connecting")
        tty.type("yes")
        assert tty.end() == 0, tty.shown


def fingerprint(public_key: str) -> str:
    """Return the fingerprint of a key, as OpenSSH prints it."""
    done = subprocess.run(["ssh-keygen", "-lf", "-"], input=public_key, capture_output=True, text=True, check=True)
    return done.stdout.split()[1]


@pytest.mark.parametrize("option", ["", "StrictHostKeyChecking no", "StrictHostKeyChecking accept-new"])
def test_unknown_key_is_refused_until_accepted(server: Server, option: str) -> None:
    server.machine.known_hosts.unlink()
    server.machine.configure(server.machine.alias("demo", server.sshd, option))
    done = server.inv("list-backups")
    assert done.returncode == 3
    assert "is unknown: refused" in done.stderr
    assert fingerprint(server.sshd.host_key) in done.stderr
    assert not server.machine.known_hosts.exists()

    accept(server, done.stderr)
    assert server.sshd.host_key in server.machine.known_hosts.read_text()
    assert server.inv("list-backups").returncode == 0


def test_changed_key_is_refused_until_replaced(server: Server) -> None:
    other = server.machine.sshd().host_key
    server.machine.known_hosts.write_text(server.sshd.known.replace(server.sshd.host_key, other))
    done = server.inv("list-backups")
    assert done.returncode == 3
    assert "has CHANGED: refused" in done.stderr
    assert fingerprint(server.sshd.host_key) in done.stderr
    assert fingerprint(other) in done.stderr

    accept(server, done.stderr)
    assert other not in server.machine.known_hosts.read_text()
    assert server.inv("list-backups").returncode == 0


def test_revoked_key_is_refused_if_known(server: Server) -> None:
    server.machine.known_hosts.write_text(f"{server.sshd.known}@revoked * {server.sshd.host_key}\n")
    done = server.inv("list-backups")
    assert done.returncode == 3
    assert "@revoked" in done.stderr


def test_hashed_names_are_known(server: Server) -> None:
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", server.machine.known_hosts], check=True, capture_output=True)
    assert "127.0.0.1" not in server.machine.known_hosts.read_text()
    assert server.inv("list-backups").returncode == 0


@pytest.mark.parametrize("kinds", [("rsa", "ed25519"), ("ecdsa", "ed25519")], ids=lambda kinds: kinds[0])
def test_known_key_type_is_negotiated_first(server: Server, kinds: tuple[str, ...]) -> None:
    sshd = server.machine.sshd(kinds=kinds)
    server.machine.known_hosts.write_text(sshd.known)
    server.machine.configure(server.machine.alias("demo", sshd))
    done = server.inv("list-backups")
    assert done.returncode == 0, done.stderr


def test_keys_of_jump_host_and_target(server: Server) -> None:
    """Only the jump host resolves the name of the target. Both keys are unknown, refused, then accepted."""
    machine = server.machine
    inner = machine.sshd()
    with (machine.folder / "etc/hosts").open("a") as hosts:
        hosts.write("127.0.0.1 inner.demo.invalid\n")
    machine.configure(
        machine.alias("jump", server.sshd),
        machine.alias("demo", inner, "ProxyJump jump").replace("127.0.0.1", "inner.demo.invalid"),
    )
    machine.known_hosts.unlink()
    # OpenSSH passes -F to the client for the jump host without quoting: its path must not contain a blank.
    server.environment["INVOKE_SSH_CONFIG"] = str(machine.ssh_config.rename(machine.folder / "ssh_config"))

    done = server.inv("list-backups")
    assert done.returncode == 3
    assert "jump: the host key of " in done.stderr
    assert fingerprint(server.sshd.host_key) in done.stderr
    accept(server, done.stderr)

    done = server.inv("list-backups")
    assert done.returncode == 3
    assert fingerprint(inner.host_key) in done.stderr
    accept(server, done.stderr)

    done = server.inv("deploy-index-backup", "run-index-backup", "verify")
    assert done.returncode == 0, done.stdout + done.stderr


def test_changed_key_of_jump_host_is_refused(server: Server) -> None:
    machine = server.machine
    inner = machine.sshd()
    machine.configure(machine.alias("jump", server.sshd), machine.alias("demo", inner, "ProxyJump jump"))
    machine.known_hosts.write_text(inner.known + server.sshd.known.replace(server.sshd.host_key, inner.host_key))
    done = server.inv("list-backups")
    assert done.returncode == 3
    assert "has CHANGED" in done.stderr
    assert str(server.sshd.port) in done.stderr
