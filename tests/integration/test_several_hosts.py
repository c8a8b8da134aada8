"""Several hosts, by a real sshd and sudo: questions take turns, and one bad host does not affect another."""

from __future__ import annotations

from pathlib import Path

from demo_backups.settings.values import OPENSSH

from .conftest import Server
from .machine import PASSWORD

PASSPHRASE = "tr0ub4dor & three"


def lock_key(server: Server) -> Path:
    """Make a key with a passphrase, which the server knows."""
    key = server.machine.ssh / "locked"
    server.machine.make_key(key, PASSPHRASE)
    return key


def test_hosts_ask_in_turn(server: Server) -> None:
    machine = server.machine
    name = server.add_backup(1)
    machine.allow_sudo("ALL", "timestamp_timeout=0")
    machine.configure(
        machine.alias("demo", server.sshd, key=lock_key(server)),
        machine.alias("guess", server.sshd),
        machine.alias("stranger", server.sshd, "UserKnownHostsFile /dev/null"),
    )
    answers = {
        "demo: Passphrase for ": PASSPHRASE,
        "demo: sudo password on demo": PASSWORD,
        "guess: sudo password on guess": "wrong",
    }
    with server.inv_on_terminal("list-backups", "--host", "stranger,demo,guess") as tty:
        for _ in range(3):
            question = tty.expect_any(answers)
            tty.type(answers.pop(question))
        assert tty.end() == 3, tty.shown
    print(tty.shown)
    parts = [
        "stranger: list-backups",
        "stranger: the host key of",
        "demo: list-backups",
        name,
        "guess: list-backups",
        "guess: could not",
        "sudo refused the password",
    ]
    positions = [tty.shown.index(part) for part in parts]
    assert positions == sorted(positions)
    assert PASSWORD not in tty.shown + server.evidence()
    assert PASSPHRASE not in tty.shown + server.evidence()


def test_openssh_asks_for_every_host(server: Server) -> None:
    machine = server.machine
    locked = lock_key(server)
    jump = machine.alias("jump", server.sshd, key=locked)
    machine.configure(
        machine.alias("demo", server.sshd, key=locked),
        machine.alias("behind", server.sshd, "ProxyJump jump"),
        machine.alias("open", server.sshd),
        jump,
    )
    with server.inv_on_terminal("list-backups", "--host", "demo,behind,open", INVOKE_SSH_TRANSPORT=OPENSSH) as tty:
        hosts = {"demo: ssh asks:", "behind: ssh asks:"}
        while hosts:
            hosts.remove(tty.expect_any(hosts))
            tty.expect("Enter passphrase for key")
            tty.type(PASSPHRASE)
        assert tty.end() == 0, tty.shown
    assert "open: ssh asks" not in tty.shown
    assert tty.shown.count("no backups") == 3
