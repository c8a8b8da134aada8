"""Both transports, Fabric and the OpenSSH client, against a real sshd."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from demo_backups.errors import (
    ConnectionLostError,
    CouldNotLookError,
    HostKeyError,
    HostUnreachableError,
    InterruptedRunError,
    LoginError,
    OutputTooLongError,
)
from demo_backups.remote.connection import open_host
from demo_backups.remote.exchange import OUTPUT_LIMIT
from demo_backups.remote.files import receive, send
from demo_backups.remote.host import Host
from demo_backups.settings.values import FABRIC, OPENSSH

from ..helpers.agent import agent
from ..helpers.processes import wait_until
from .conftest import Server
from .machine import PASSWORD, USER, Sshd

DATA = os.urandom(3_000_000)
Opener = Callable[..., Host]


@pytest.fixture
def open_by(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """Open the server by a transport."""
    monkeypatch.setenv("HOME", server.environment["HOME"])
    monkeypatch.setattr("demo_backups.remote.openssh_runner.OPEN_TIMEOUT", 20)
    with ExitStack() as stack:

        def open_(transport: str, name: str = "demo") -> Host:
            settings = server.settings.model_copy(update={"ssh_transport": transport})
            return stack.enter_context(open_host(settings, name))

        yield open_


@pytest.fixture(params=[FABRIC, OPENSSH])
def host(request: pytest.FixtureRequest, open_by: Opener) -> Host:
    """The server, by each transport."""
    return open_by(request.param)


def serve(server: Server, *lines: str, alias: tuple[str, ...] = ()) -> Sshd:
    """Replace the server by an sshd with further lines of configuration."""
    sshd = server.machine.sshd(*lines)
    server.machine.known_hosts.write_text(sshd.known)
    server.machine.configure(server.machine.alias("demo", sshd, *alias))
    return sshd


# --- what both can --------------------------------------------------------------------------------------------------


def test_commands_have_outputs_and_status(host: Host) -> None:
    for status in (0, 3, 127):
        result = host.run("try", f"echo out; echo err >&2; exit {status}")
        assert (result.status, result.stdout, result.stderr) == (status, "out\n", "err\n")
    assert host.run("try", "kill -9 $$").status is None
    assert host.run("read nothing", "cat; id -u", root=True).stdout == "0\n"


def test_streams_arrive_unchanged(host: Host) -> None:
    for data in (DATA, b"", b"short"):
        sent = send(host, "send it", "umask 077; cat > /root/data", data)
        assert sent.sha256 == hashlib.sha256(data).hexdigest()
        sink = io.BytesIO()
        receive(host, "receive it", "cat /root/data", sink)
        assert sink.getvalue() == data


def test_output_is_limited(host: Host) -> None:
    assert len(host.run("read", f"head -c {OUTPUT_LIMIT} /dev/zero").stdout) == OUTPUT_LIMIT
    with pytest.raises(OutputTooLongError):
        host.run("read", f"head -c {OUTPUT_LIMIT + 1} /dev/zero; sleep 600")
    assert host.run("read", "echo next").stdout == "next\n"


def test_slow_command_is_given_up(host: Host) -> None:
    with pytest.raises(ConnectionLostError, match=r"no answer within 0\.5 s"):
        host.run("wait", "sleep 600", timeout=0.5)
    assert host.run("read", "echo next").stdout == "next\n"


def test_interrupt_ends_the_wait_only(host: Host) -> None:
    timer = threading.Timer(0.5, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        begin = time.monotonic()
        with pytest.raises(InterruptedRunError):
            host.run("wait", "sleep 600")
        assert time.monotonic() - begin < 10
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


def test_lost_connection_is_replaced(server: Server, host: Host) -> None:
    def cut() -> None:
        wait_until(lambda: bool(server.machine.processes("sleep 601")), "the command to run")
        for process in server.machine.processes(f"sshd: {USER}"):
            os.kill(process, signal.SIGKILL)

    threading.Thread(target=cut).start()
    with pytest.raises(ConnectionLostError, match="the connection was lost while trying to wait"):
        host.run("wait", "sleep 601; true")
    assert host.run("read", "echo next").stdout == "next\n"


def test_unknown_and_changed_keys_are_refused(server: Server, open_by: Opener) -> None:
    other = server.machine.sshd()
    known = server.machine.known_hosts
    for content in ("", known.read_text().split()[0] + " " + other.host_key + "\n"):
        known.write_text(content)
        for transport in (FABRIC, OPENSSH):
            with pytest.raises(HostKeyError):
                open_by(transport)


def test_unknown_jump_host_is_refused(server: Server, open_by: Opener) -> None:
    jump, machine = server.machine.sshd(), server.machine
    for option in ("StrictHostKeyChecking no", "StrictHostKeyChecking accept-new"):
        machine.configure(machine.alias("demo", server.sshd, "ProxyJump jump"), machine.alias("jump", jump, option))
        for transport in (FABRIC, OPENSSH):
            with pytest.raises(CouldNotLookError):
                open_by(transport)
    machine.known_hosts.write_text(server.sshd.known + jump.known)
    for transport in (FABRIC, OPENSSH):
        assert open_by(transport).run("read", "echo out").stdout == "out\n"


@pytest.mark.parametrize("transport", [FABRIC, OPENSSH])
def test_agent_is_not_forwarded(server: Server, open_by: Opener, tmp_path: Path, transport: str) -> None:
    with agent(tmp_path, server.machine.key) as socket:
        serve(server, "AllowAgentForwarding yes", alias=("ForwardAgent yes", f"IdentityAgent {socket}"))
        question = "echo ${SSH_AUTH_SOCK-none}"
        by_ssh = ["ssh", "-F", str(server.machine.ssh_config), "-o", "BatchMode=yes", "demo", question]
        assert subprocess.run(by_ssh, capture_output=True, text=True, check=True).stdout != "none\n"
        assert open_by(transport).run("look for the agent", question).stdout == "none\n"


def test_wrong_key_is_a_login_error(server: Server, open_by: Opener) -> None:
    wrong = server.machine.ssh / "wrong"
    server.machine.make_key(wrong, known=False)
    server.machine.configure(server.machine.alias("demo", server.sshd, key=wrong))
    for transport in (FABRIC, OPENSSH):
        with pytest.raises(LoginError):
            open_by(transport)


@pytest.mark.parametrize(
    "command",
    ["nc %h %p 2>/dev/null", "nc $LOOP %p", "nc %h %p | cat", 'sh -c \'exec nc "$0" "$1"\' %h %p'],
)
def test_proxy_command_is_run_by_shell(
    server: Server, open_by: Opener, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    if shutil.which("nc") is None:
        pytest.skip("nc is not installed")
    monkeypatch.setenv("LOOP", "127.0.0.1")
    server.machine.configure(server.machine.alias("demo", server.sshd, f"ProxyCommand {command}"))
    for transport in (FABRIC, OPENSSH):
        host = open_by(transport)
        assert send(host, "send it", "wc -c", DATA).result.stdout == f"{len(DATA)}\n"


@pytest.mark.parametrize("place", ["CertificateFile", "next to the key"])
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_certificate_logs_in(server: Server, open_by: Opener, kind: str, place: str) -> None:
    authority, key = server.machine.ssh / "authority", server.machine.ssh / "certified"
    server.machine.make_key(authority, known=False)
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(key)], check=True)
    sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "id", "-n", USER, f"{key}.pub"]
    subprocess.run(sign, check=True)
    certificate = Path(f"{key}-cert.pub")
    lines = []
    if place == "CertificateFile":
        lines = [f'CertificateFile "{certificate.rename(server.machine.ssh / "other name")}"']
    authorities = server.machine.folder / "etc/ssh/authorities"
    authorities.write_text(authority.with_suffix(".pub").read_text())
    sshd = serve(server, "TrustedUserCAKeys /etc/ssh/authorities", "AuthorizedKeysFile none")
    server.machine.configure(server.machine.alias("demo", sshd, *lines, key=key))
    for transport in (FABRIC, OPENSSH):
        assert open_by(transport).run("read", "echo out").stdout == "out\n"


def test_expired_certificate_leaves_the_key(server: Server, open_by: Opener) -> None:
    key = server.machine.key
    authority = server.machine.ssh / "authority"
    server.machine.make_key(authority, known=False)
    command: list[str | Path] = ["ssh-keygen", "-q", "-s", authority, "-I", "id", "-n", USER, "-V", "-2d:-1d"]
    subprocess.run([*command, key.with_suffix(".pub")], check=True)
    for transport in (FABRIC, OPENSSH):
        assert open_by(transport).run("read", "echo out").stdout == "out\n"


@pytest.mark.parametrize("shell", ["tcsh", "fish"])
def test_tasks_work_with_login_shell(server: Server, shell: str) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    server.machine.run("usermod", "--shell", path, USER)
    for transport in (FABRIC, OPENSSH):
        tasks = ("deploy-index-backup", "run-index-backup", "verify", "enable-index-backup", "disable-index-backup")
        done = server.inv(*tasks, INVOKE_SSH_TRANSPORT=transport)
        assert done.returncode == 0, done.stdout + done.stderr
        wait_until(lambda: time.time() % 1 < 0.5, "another second, since a backup is named by its second")


# --- what only the OpenSSH client can -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("KexAlgorithms sntrup761x25519-sha512@openssh.com", "key exchange: the server offers only sntrup761x25519"),
        ("Ciphers chacha20-poly1305@openssh.com", "cipher: the server offers only chacha20-poly1305@openssh.com;"),
        ("MACs umac-128-etm@openssh.com,umac-64@openssh.com", "MAC: the server offers only umac-128-etm@openssh.com, "),
    ],
)
def test_unsupported_algorithms_are_named(server: Server, open_by: Opener, line: str, cause: str) -> None:
    serve(server, line)
    with pytest.raises(HostUnreachableError) as caught:
        open_by(FABRIC)
    assert cause in caught.value.output
    assert "INVOKE_SSH_TRANSPORT=openssh" in caught.value.advice
    assert open_by(OPENSSH).run("read", "echo out").stdout == "out\n"


def test_open_master_is_only_way_in(server: Server, open_by: Opener, public_folder: Path) -> None:
    machine = server.machine
    public_folder.chmod(0o700)
    machine.configure(machine.alias("demo", server.sshd, f"ControlPath {public_folder}/%C"))
    command: list[str | Path] = ["ssh", "-F", machine.ssh_config, "demo"]
    subprocess.run([*command, "-f", "-N", "-M"], check=True, capture_output=True)
    try:
        for process in machine.processes("/usr/sbin/sshd -D"):  # the session stays, and nobody else gets in
            os.kill(process, signal.SIGKILL)
        with pytest.raises(HostUnreachableError) as caught:
            open_by(FABRIC)
        assert "OpenSSH has a connection open" in caught.value.advice
        assert open_by(OPENSSH).run("read", "echo out").stdout == "out\n"
        assert subprocess.run([*command, "-O", "check"], capture_output=True, check=False).returncode == 0
    finally:
        subprocess.run([*command, "-O", "exit"], check=False, capture_output=True)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_planted_master_is_not_used(server: Server, open_by: Opener, public_folder: Path, mode: int) -> None:
    machine = server.machine
    machine.configure(machine.alias("demo", server.sshd, f"ControlPath {public_folder}/%C"))
    # Another user's, whose server is an attacker's: here one whose host key is not known.
    command: list[str | Path] = ["ssh", "-F", machine.ssh_config, "-o", "StrictHostKeyChecking=no", "demo"]
    unknown = ["-o", "UserKnownHostsFile=/dev/null"]
    subprocess.run([*command, *unknown, "-f", "-N", "-M"], check=True, capture_output=True)
    machine.known_hosts.write_text("")
    public_folder.chmod(mode)
    try:
        with pytest.raises(HostKeyError):
            open_by(OPENSSH)
    finally:
        subprocess.run([*command, "-O", "exit"], check=False, capture_output=True)


def test_tasks_work_through_openssh(server: Server) -> None:
    server.machine.allow_sudo("ALL", "timestamp_timeout=0")
    with server.inv_on_terminal(
        "deploy-index-backup", "run-index-backup", "verify", INVOKE_SSH_TRANSPORT=OPENSSH
    ) as tty:
        for _ in range(3):
            tty.expect("sudo password on demo")
            tty.type(PASSWORD)
        assert tty.end() == 0, tty.shown
    assert len(server.names()) == 1
    assert PASSWORD not in tty.shown
    used = str(server.machine.ssh_config)
    assert [file for file in Path("/tmp").glob("demo-backups-*/config") if used in file.read_text()] == []


def test_passphrase_is_asked_by_openssh(server: Server) -> None:
    key = server.machine.ssh / "locked"
    server.machine.make_key(key, "a passphrase")
    server.machine.configure(server.machine.alias("demo", server.sshd, key=key))
    done = server.inv("list-backups", INVOKE_SSH_TRANSPORT=OPENSSH)
    assert done.returncode == 3, done.stdout + done.stderr
    with server.inv_on_terminal("list-backups", INVOKE_SSH_TRANSPORT=OPENSSH) as tty:
        tty.expect("Enter passphrase for key")
        tty.type("a passphrase")
        assert tty.end() == 0, tty.shown
