"""Becoming root through a real sudo: with and without a password, a terminal, the right to."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Server
from .machine import PASSWORD

ASKED = "sudo password on demo"


def files_with(word: str, folder: Path) -> list[Path]:
    """The files below a folder that hold a word."""
    return [path for path in folder.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]


def test_the_password_is_asked_for_once_and_neither_shown_nor_kept(server: Server) -> None:
    server.machine.allow_sudo("ALL", "timestamp_timeout=0", "lecture=always")
    assert server.inv("deploy-index-backup").returncode == 3
    with server.inv_on_terminal("deploy-index-backup") as tty:
        tty.expect(ASKED)
        tty.type(PASSWORD)
        assert tty.end() == 0, tty.shown
    with server.inv_on_terminal("run-index-backup") as tty:
        tty.expect(ASKED)
        tty.type(PASSWORD)
        assert tty.end() == 0, tty.shown
        assert tty.shown.count(ASKED) == 1
        assert "created /home/torrust/backups/backup_" in tty.shown
        assert PASSWORD not in tty.shown
    assert len(server.names()) == 1
    assert PASSWORD not in server.evidence()
    assert '"exit_status": 0' in server.evidence()
    assert files_with(PASSWORD, Path(server.environment["HOME"])) == []
    assert files_with(PASSWORD, server.machine.folder) == []


def test_nobody_is_asked_where_sudo_needs_no_password(server: Server) -> None:
    with server.inv_on_terminal("deploy-index-backup", "run-index-backup") as tty:
        assert tty.end() == 0, tty.shown
        assert "assword" not in tty.shown


def test_a_wrong_password_ends_it_and_is_not_tried_again(server: Server) -> None:
    server.machine.allow_sudo("ALL")
    with server.inv_on_terminal("list-backups") as tty:
        tty.expect(ASKED)
        tty.type("guess")
        assert tty.end() == 3, tty.shown
        assert "sudo refused the password" in tty.shown
        assert "guess" not in tty.shown
        assert tty.shown.count(ASKED) == 1


@pytest.mark.parametrize(
    ("allowed", "defaults", "words"),
    [
        pytest.param("ALL", [], "a password is required", id="a password, and no terminal to ask for it"),
        pytest.param(None, [], "a password is required", id="no right to sudo"),
        pytest.param("NOPASSWD: ALL", ["requiretty"], "you must have a tty to run sudo", id="requiretty"),
        pytest.param("NOPASSWD: /usr/bin/true", [], "a password is required", id="another command only"),
    ],
)
def test_where_sudo_refuses_nothing_was_looked_at(
    server: Server, allowed: str | None, defaults: list[str], words: str
) -> None:
    server.machine.allow_sudo(allowed, *defaults)
    done = server.inv("list-backups")
    assert done.returncode == 3, done.stdout + done.stderr
    assert words in done.stderr
    assert "allow it in sudoers, run this task on a terminal, or set use_sudo to false" in done.stderr
    assert "backup_" not in done.stdout


def test_a_user_without_the_right_to_sudo_is_told_so_after_the_password(server: Server) -> None:
    server.machine.allow_sudo(None)
    with server.inv_on_terminal("list-backups") as tty:
        tty.expect(ASKED)
        tty.type(PASSWORD)
        assert tty.end() == 3, tty.shown
        assert "not in the sudoers file" in tty.shown


def test_a_server_without_sudo_is_named(server: Server) -> None:
    server.machine.remove("sudo")
    done = server.inv("list-backups")
    assert done.returncode == 3
    assert "sudo is not installed" in done.stderr


def test_who_logs_in_as_root_needs_no_sudo(server: Server) -> None:
    server.machine.remove("sudo")
    (server.machine.folder / "root/.ssh").mkdir(mode=0o700)
    (server.machine.folder / "root/.ssh/authorized_keys").write_text(server.machine.key.with_suffix(".pub").read_text())
    server.machine.configure(server.machine.alias("demo", server.sshd).replace("User torrust", "User root"))
    done = server.inv("deploy-index-backup", "run-index-backup", "verify", "enable-index-backup")
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.machine.crontab() is not None
