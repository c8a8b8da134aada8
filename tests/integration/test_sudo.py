"""Root access through a real sudo: with and without a password, a terminal, and the right to use it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from demo_backups.errors import CouldNotLookError
from demo_backups.remote.connection import open_host
from demo_backups.remote.files import receive, send
from demo_backups.remote.host import Host

from ..helpers.constants import SCRIPT
from .conftest import Server
from .machine import PASSWORD, USER

QUESTION = "sudo password on demo"
DATA = os.urandom(3_000_000)


def files_with(text: str, folder: Path) -> list[Path]:
    """The files below a folder that contain a text."""
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


# --- the tasks ------------------------------------------------------------------------------------------------------


def test_password_is_asked_once_and_not_stored(server: Server) -> None:
    server.machine.allow_sudo("ALL", "timestamp_timeout=0", "lecture=always")
    assert server.inv("deploy-index-backup").returncode == 3
    with server.inv_on_terminal("deploy-index-backup") as tty:
        tty.expect(QUESTION)
        tty.type(PASSWORD)
        assert tty.end() == 0, tty.shown
    with server.inv_on_terminal("--debug", "run-index-backup") as tty:
        tty.expect(QUESTION)
        tty.type(PASSWORD)
        assert tty.end() == 0, tty.shown
        assert tty.shown.count(QUESTION) == 1
        assert "created /home/torrust/backups/backup_" in tty.shown
        assert "debug: demo as root: exit status 0, " in tty.shown
        assert PASSWORD not in tty.shown
    assert len(server.names()) == 1
    assert PASSWORD not in server.evidence()
    assert '"exit_status": 0' in server.evidence()
    assert files_with(PASSWORD, Path(server.environment["HOME"])) == []
    assert files_with(PASSWORD, server.machine.folder) == []


def test_nobody_is_asked_without_need(server: Server) -> None:
    with server.inv_on_terminal("deploy-index-backup", "run-index-backup") as tty:
        assert tty.end() == 0, tty.shown
        assert "assword" not in tty.shown


def test_wrong_password_is_not_tried_again(server: Server) -> None:
    server.machine.allow_sudo("ALL")
    with server.inv_on_terminal("list-backups") as tty:
        tty.expect(QUESTION)
        tty.type("guess")
        assert tty.end() == 3, tty.shown
        assert "sudo refused the password" in tty.shown
        assert "guess" not in tty.shown
        assert tty.shown.count(QUESTION) == 1


@pytest.mark.parametrize(
    ("allowed", "defaults", "message", "advice"),
    [
        pytest.param("ALL", [], "a password is required", "run this task on a terminal", id="password, no terminal"),
        pytest.param(None, [], "a password is required", "run this task on a terminal", id="no right to sudo"),
        pytest.param("NOPASSWD: ALL", ["requiretty"], "requiretty is set", "!requiretty", id="requiretty"),
        pytest.param("NOPASSWD: /usr/bin/true", [], "a password is required", "allow it in sudoers", id="another"),
    ],
)
def test_refusing_sudo_is_no_empty_answer(
    server: Server, allowed: str | None, defaults: list[str], message: str, advice: str
) -> None:
    server.machine.allow_sudo(allowed, *defaults)
    done = server.inv("list-backups")
    assert done.returncode == 3, done.stdout + done.stderr
    assert message in done.stderr
    assert advice in done.stderr
    assert "backup_" not in done.stdout


def test_requiretty_asks_for_no_password(server: Server) -> None:
    server.machine.allow_sudo("ALL", "requiretty")
    with server.inv_on_terminal("list-backups") as tty:
        assert tty.end() == 3, tty.shown
        assert "!requiretty" in tty.shown
        assert QUESTION not in tty.shown


def test_single_try_for_the_password(server: Server) -> None:
    server.machine.allow_sudo("ALL", "passwd_tries=1")
    with server.inv_on_terminal("list-backups") as tty:
        tty.expect(QUESTION)
        tty.type("guess")
        assert tty.end() == 3, tty.shown
        assert "sudo refused the password" in tty.shown
        assert "-> start the task again" in tty.shown


def test_user_who_may_not_use_sudo(server: Server) -> None:
    server.machine.allow_sudo(None)
    with server.inv_on_terminal("list-backups") as tty:
        tty.expect(QUESTION)
        tty.type(PASSWORD)
        assert tty.end() == 3, tty.shown
        assert "not in the sudoers file" in tty.shown


def test_server_without_sudo(server: Server) -> None:
    server.machine.remove("sudo")
    done = server.inv("list-backups")
    assert done.returncode == 3
    assert "sudo is not installed" in done.stderr


def test_root_login_needs_no_sudo(server: Server) -> None:
    server.machine.remove("sudo")
    (server.machine.folder / "root/.ssh").mkdir(mode=0o700)
    (server.machine.folder / "root/.ssh/authorized_keys").write_text(server.machine.key.with_suffix(".pub").read_text())
    server.machine.configure(server.machine.alias("demo", server.sshd).replace("User torrust", "User root"))
    tasks = ("deploy-index-backup", "run-index-backup", "verify", "enable-index-backup")
    done = server.inv(*tasks)
    assert done.returncode == 1  # torrust, who could change the script, is neither root nor the login
    assert "log in as torrust" in done.stderr
    server.machine.run("chown", "-R", "root:root", "/home/torrust")
    done = server.inv(*tasks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.machine.crontab() is not None


def test_advice_for_state_of_root_works(server: Server) -> None:
    assert server.inv("deploy-index-backup", "run-index-backup").returncode == 0
    (state,) = server.machine.folder.glob("root/.demo-backups/index-backup-*")
    (state / "00000001/about").write_text("garbage\n")
    done = server.inv("attach")
    assert done.returncode == 3
    command = done.stderr.rpartition("remove it there: ")[2].strip()
    assert server.machine.run("su", "-c", command, USER) == ""
    assert not (state / "00000001").exists()


# --- streams --------------------------------------------------------------------------------------------------------

# Debian's sudoers sets use_pty; without it, sudo runs a command without a terminal of its own.
SUDOERS = {
    "no password": ("NOPASSWD: ALL", ()),
    "no password, no pty": ("NOPASSWD: ALL", ("!use_pty",)),
    "password": ("ALL", ("timestamp_timeout=0",)),
    "password, no pty": ("ALL", ("timestamp_timeout=0", "!use_pty")),
    "password and lecture": ("ALL", ("timestamp_timeout=0", "lecture=always")),
    # For every session of the user: sudo asks for the first command, and not for the next ones.
    "cached timestamp": ("ALL", ("timestamp_type=global",)),
    "cached timestamp, no pty": ("ALL", ("timestamp_type=global", "!use_pty")),
}


class Typist:
    """Opens the server from this process, and types a password when sudo asks for one."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self.password = PASSWORD
        self.questions = 0
        self._server = server
        self._stack = stack

    def open_host(self) -> Host:
        return self._stack.enter_context(open_host(self._server.settings))

    def answer(self, prompt: str) -> str:
        self.questions += 1
        return self.password


@pytest.fixture
def typist(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Typist]:
    """A user who knows the password."""
    monkeypatch.setenv("HOME", server.environment["HOME"])
    with ExitStack() as stack:
        user = Typist(server, stack)
        monkeypatch.setattr("demo_backups.remote.host.ask_secret", user.answer)
        yield user


def copy_both_ways(host: Host) -> None:
    """Put data into a file that only root can read, and get it back."""
    for data in (DATA, b"", b"short"):
        sent = send(host, "send it", "umask 077; cat > /root/data; id -u; wc -c < /root/data", data)
        assert sent.result.stdout == f"0\n{len(data)}\n"
        sink = io.BytesIO()
        received = receive(host, "receive it", "cat /root/data", sink)
        assert sink.getvalue() == data
        assert sent.sha256 == received.sha256
    assert host.run("read nothing", "cat; id -u", root=True).stdout == "0\n"


@pytest.mark.parametrize(("allowed", "defaults"), SUDOERS.values(), ids=SUDOERS)
def test_data_passes_sudo_unchanged(server: Server, typist: Typist, allowed: str, defaults: tuple[str, ...]) -> None:
    server.machine.allow_sudo(allowed, *defaults)
    copy_both_ways(typist.open_host())
    assert typist.questions == (0 if allowed.startswith("NOPASSWD") else 1)
    assert files_with(PASSWORD, server.machine.folder) == []


def test_shell_that_prints_and_reads_takes_nothing(server: Server, typist: Typist) -> None:
    server.machine.allow_sudo("ALL", "timestamp_timeout=0")
    reading = "echo Welcome; echo 'You have mail' >&2; timeout 0.2 cat >> ~/taken\n"
    bashrc = server.machine.home / ".bashrc"
    bashrc.write_text(reading + bashrc.read_text())
    copy_both_ways(typist.open_host())
    assert (server.machine.home / "taken").read_bytes() == b""


def test_timestamp_may_expire_between_commands(server: Server, typist: Typist) -> None:
    server.machine.allow_sudo("ALL", "timestamp_type=global")
    server.machine.run("sudo", "-u", "torrust", "sudo", "-S", "-v", given=f"{PASSWORD}\n")
    host = typist.open_host()
    copy_both_ways(host)
    assert typist.questions == 0
    server.machine.run("rm", "-r", "/run/sudo")
    copy_both_ways(host)
    assert typist.questions == 1


@pytest.mark.parametrize("allowed", ["ALL", None], ids=["wrong password", "no right"])
def test_refusing_sudo_gets_no_data(server: Server, typist: Typist, allowed: str | None) -> None:
    server.machine.allow_sudo(allowed)
    typist.password = "wrong guess 4711" if allowed else PASSWORD
    with pytest.raises(CouldNotLookError, match=r"may not use sudo|sudo refused the password"):
        send(typist.open_host(), "send it", "cat > /root/data", b"data")
    assert not (server.machine.folder / "root/data").exists()
    assert files_with(typist.password, server.machine.folder) == []


def test_content_is_in_no_log(server: Server) -> None:
    """Sudo logs the commands that it runs, with their arguments."""
    server.machine.allow_sudo("NOPASSWD: ALL", "logfile=/var/log/sudo.log")
    crontab = b"MAILTO=somebody@example.org\nTOKEN=secret\n"
    server.machine.set_crontab(crontab)
    done = server.inv("deploy-index-backup", "enable-index-backup")
    assert done.returncode == 0, done.stderr
    assert server.machine.crontab() != crontab
    log = "".join(line.strip() for line in (server.machine.folder / "log/sudo.log").read_text().splitlines())
    assert "crontab -l" in log
    content = [*SCRIPT.read_text().splitlines(), *crontab.decode().splitlines()]
    assert [line for line in content if len(line) > 10 and line.strip() in log] == []
