"""The SSH set-up as OpenSSH reads it, host keys as OpenSSH checks them, and every way in which a login can fail."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest

from demo_backups import ssh
from demo_backups.errors import COULD_NOT_LOOK, WRONG_INPUT, BackupsError, CouldNotLookError, SettingsError
from demo_backups.rehearsal.server import Server, serve
from demo_backups.ssh import _Hop as Hop


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def without_ssh(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make this a machine without OpenSSH's client, whose user has a home of the test's own."""
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("HOME", str(folder))


# --- configuration --------------------------------------------------------------------------------------------------

CONFIG = """
Include {folder}/included
Host demo
    HostName demo.example
    Port 2222
    User torrust
    HostKeyAlias torrust-demo
    UserKnownHostsFile "{folder}/a b/known" {folder}/second
    IdentityAgent {folder}/agent.sock
    IdentityFile {folder}/%r_key
    ConnectTimeout 7
    ProxyJump one,torrust@two:2200
Match originalhost matched
    HostName matched.example
Host *
    User everybody
"""


@pytest.mark.parametrize(
    ("alias", "option", "value"),
    [
        ("demo", "hostname", "demo.example"),
        ("demo", "port", "2222"),
        ("demo", "user", "torrust"),
        ("demo", "hostkeyalias", "torrust-demo"),
        ("demo", "identityagent", "{folder}/agent.sock"),
        ("demo", "identityfile", ["{folder}/torrust_key"]),
        ("demo", "connecttimeout", "7"),
        ("demo", "proxyjump", "one,torrust@two:2200"),
        ("matched", "hostname", "matched.example"),
        ("other", "hostname", "other"),
        ("other", "user", "everybody"),
        ("other", "port", "22"),
        ("deep", "hostname", "deep.example"),
        ("deep", "user", "from-the-include"),
    ],
)
def test_a_host_is_resolved_as_openssh_does(tmp_path: Path, alias: str, option: str, value: Any) -> None:
    write(tmp_path / "included", "Host deep\n  HostName deep.example\n  User from-the-include\n")
    config = write(tmp_path / "config", CONFIG.format(folder=tmp_path))
    found = ssh.resolve(Hop(alias), config).lookup(alias)[option]
    expected = [each.format(folder=tmp_path) for each in value] if isinstance(value, list) else value
    assert found == (expected.format(folder=tmp_path) if isinstance(expected, str) else expected)


def test_what_a_proxyjump_says_wins_over_the_configuration(tmp_path: Path) -> None:
    config = write(tmp_path / "config", CONFIG.replace("Include {folder}/included\n", "").format(folder=tmp_path))
    found = ssh.resolve(Hop("demo", user="root", port="22"), config).lookup("demo")
    assert (found["user"], found["port"], found["hostname"]) == ("root", "22", "demo.example")


@pytest.mark.parametrize("present", [True, False], ids=["ssh", "no ssh"])
def test_known_hosts_may_be_several_files_with_blanks_in_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: bool
) -> None:
    config = write(tmp_path / "config", f'Host demo\n UserKnownHostsFile "{tmp_path}/a b/o\'k" {tmp_path}/second\n')
    if not present:
        without_ssh(monkeypatch, tmp_path)
    options = ssh.resolve(Hop("demo"), config).lookup("demo")
    files = ssh._paths(options["userknownhostsfile"])
    assert files == [tmp_path / "a b/o'k", tmp_path / "second"]


def test_a_missing_configuration_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"there is no file .*nothing-here") as caught:
        ssh.resolve(Hop("demo"), tmp_path / "nothing-here")
    assert "set ssh_config to a file, or to null" in str(caught.value)


def test_what_openssh_refuses_to_read_is_handed_on(tmp_path: Path) -> None:
    config = write(tmp_path / "config", "Host demo\n  Prot 22\n")
    with pytest.raises(SettingsError) as caught:
        ssh.resolve(Hop("demo"), config)
    assert "Bad configuration option: prot" in str(caught.value)
    assert str(config) in str(caught.value)
    assert caught.value.exit_code == WRONG_INPUT


def test_without_openssh_the_same_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_ssh(monkeypatch, tmp_path)
    text = CONFIG.replace("Include {folder}/included\n", "").format(folder=tmp_path)
    (tmp_path / ".ssh").mkdir()
    write(tmp_path / ".ssh/config", text)
    monkeypatch.setattr(ssh, "CONFIG_FILES", ("~/.ssh/config", str(write(tmp_path / "system", "Compression yes\n"))))
    for config in (write(tmp_path / "config", text), None):
        found = ssh.resolve(Hop("demo", user="root"), config).lookup("demo")
        assert (found["hostname"], found["port"], found["user"]) == ("demo.example", "2222", "root")
        assert found["hostkeyalias"] == "torrust-demo"
        assert ssh.resolve(Hop("matched"), config).lookup("matched")["hostname"] == "matched.example"
    assert ssh.resolve(Hop("demo"), None).lookup("demo")["compression"] == "yes"
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    assert ssh.resolve(Hop("demo"), None).lookup("demo")["hostname"] == "demo"


@pytest.mark.parametrize(
    "line",
    [
        "Include ~/.ssh/more",
        'Match exec "true"',
        "Match host demo !exec /bin/false",
        "Match tagged work",
        "match localnetwork 10.0.0.0/8",
        "CanonicalizeHostname yes",
        "CanonicalizeHostname=always",
    ],
)
def test_without_openssh_what_cannot_be_honoured_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    without_ssh(monkeypatch, tmp_path)
    config = write(tmp_path / "config", f"Host demo\n  User torrust\n  {line}\n")
    with pytest.raises(SettingsError) as caught:
        ssh.resolve(Hop("demo"), config)
    assert f"{config}: '{line}' cannot be honoured without OpenSSH's client" in str(caught.value)
    assert "openssh-client" in str(caught.value)


@pytest.mark.parametrize(
    "line",
    ["# Include more", "CanonicalizeHostname  no", "Match all", "Match user torrust host demo", "ProxyCommand none"],
)
def test_without_openssh_the_rest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    without_ssh(monkeypatch, tmp_path)
    config = write(tmp_path / "config", f"Host demo\n  User torrust\n{line}\n")
    assert ssh.resolve(Hop("demo"), config).lookup("demo")["user"] == "torrust"


@pytest.mark.parametrize("text", ["Port many\n", "nonsense\n", 'Host "open\n'])
def test_without_openssh_a_broken_configuration_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    without_ssh(monkeypatch, tmp_path)
    with pytest.raises(SettingsError, match="the SSH configuration cannot be read"):
        ssh.resolve(Hop("demo"), write(tmp_path / "config", text))


@pytest.mark.parametrize(
    ("value", "hops"),
    [
        ("none", []),
        ("None", []),
        ("jump", [Hop("jump")]),
        ("torrust@jump", [Hop("jump", "torrust")]),
        ("jump:2222", [Hop("jump", None, "2222")]),
        ("a@b.example:22, c", [Hop("b.example", "a", "22"), Hop("c", jumps="a@b.example:22")]),
        ("one,two,three", [Hop("one"), Hop("two", jumps="one"), Hop("three", jumps="one,two")]),
        ("ssh://torrust@jump:22/", [Hop("jump", "torrust", "22")]),
        ("ssh://[::1]:22", [Hop("::1", None, "22")]),
        ("[fe80::1]", [Hop("fe80::1")]),
    ],
)
def test_proxyjump_is_split_as_openssh_does(value: str, hops: list[Hop]) -> None:
    assert ssh.parse_jumps(value) == hops


@pytest.mark.parametrize("value", ["", "a,,b", "user@", "jump:port", "-oProxyCommand=touch x", "@jump", "[]:22"])
def test_a_proxyjump_that_cannot_be_read_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        ssh.parse_jumps(value)


def test_jump_hosts_in_a_circle_are_refused(tmp_path: Path) -> None:
    config = write(tmp_path / "config", "Host a\n ProxyJump b\nHost b\n ProxyJump c\nHost c\n ProxyJump a\n")
    with pytest.raises(SettingsError, match="a -> b -> c -> a") as caught:
        ssh.connect("a", config)
    assert caught.value.exit_code == WRONG_INPUT


@pytest.mark.parametrize(("text", "seconds"), [("ConnectTimeout 3", 3), ("ConnectTimeout none", 10), ("", 10)])
def test_connect_timeout_is_the_users_or_ours(tmp_path: Path, text: str, seconds: int) -> None:
    config = write(tmp_path / "config", text)
    assert ssh.connect_timeout(ssh.resolve(Hop("demo"), config).lookup("demo")) == seconds


@pytest.mark.parametrize(
    ("value", "inside"),
    [
        (None, "/outside.sock"),
        ("SSH_AUTH_SOCK", "/outside.sock"),
        ("none", None),
        ("/of/the/host.sock", "/of/the/host.sock"),
        ("~/host.sock", "/home-of-test/host.sock"),
        ("$MY_AGENT", "/my.sock"),
        ("${MY_AGENT}", "/my.sock"),
        ("$NOT_SET", None),
    ],
)
def test_identity_agent_holds_for_its_own_host_only(
    monkeypatch: pytest.MonkeyPatch, value: str | None, inside: str | None
) -> None:
    for name, setting in (("SSH_AUTH_SOCK", "/outside.sock"), ("MY_AGENT", "/my.sock"), ("HOME", "/home-of-test")):
        monkeypatch.setenv(name, setting)
    with ssh._agent(value):
        assert os.environ.get("SSH_AUTH_SOCK") == inside
    assert os.environ["SSH_AUTH_SOCK"] == "/outside.sock"


# --- host keys ------------------------------------------------------------------------------------------------------

KEYS = {
    name: asyncssh.generate_private_key("ssh-rsa" if name == "RSA" else "ssh-ed25519")
    for name in ("GOOD", "OTHER", "THIRD", "RSA")
}
GOOD, OTHER, THIRD, RSA = (key.public_data for key in KEYS.values())


def with_keys(text: str) -> str:
    """Put keys in the place of their names; they are new in every process, and tests are named by their text."""
    return re.sub(r"\b(GOOD|OTHER|THIRD|RSA)\b", lambda match: public(KEYS[match[1]]), text)


def public(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


def hashed(name: str) -> str:
    """Hash a name as `ssh-keygen -H` does."""
    salt = b"01234567890123456789"
    words = (salt, hmac.new(salt, name.encode(), hashlib.sha1).digest())
    return "|1|" + "|".join(base64.b64encode(word).decode() for word in words)


def known(tmp_path: Path, text: str, **options: str) -> ssh.HostKeys:
    file = write(tmp_path / "known_hosts", with_keys(text))
    resolved = {"hostname": "demo.example", "port": "22", "globalknownhostsfile": "/dev/null"}
    return ssh.known_keys(Hop("demo"), None, {**resolved, "userknownhostsfile": str(file), **options})


def decide(keys: ssh.HostKeys, blob: bytes) -> str:
    """Say what is decided on a key: accepted, or the error's words."""
    try:
        keys.missing_host_key(None, "not used", paramiko.Ed25519Key(data=blob))
    except CouldNotLookError as error:
        return str(error)
    return "accepted"


@pytest.mark.parametrize(
    ("text", "port", "said"),
    [
        ("demo.example GOOD", 22, "accepted"),
        ("demo.example,192.0.2.1 GOOD", 22, "accepted"),
        ("*.example GOOD", 22, "accepted"),
        ("*.example,!demo.example GOOD", 22, "is unknown"),
        ("!demo.example,* GOOD", 22, "is unknown"),
        ("other.example GOOD", 22, "is unknown"),
        (hashed("demo.example") + " GOOD", 22, "accepted"),
        (hashed("other.example") + " GOOD", 22, "is unknown"),
        ("[demo.example]:2222 GOOD", 2222, "accepted"),
        (hashed("[demo.example]:2222") + " GOOD", 2222, "accepted"),
        ("[demo.example]:2222 GOOD", 22, "is unknown"),
        ("[demo.example]:2222 GOOD", 2223, "is unknown"),
        # A key that is known without its port serves, as for OpenSSH; another one there is no sign of a change.
        ("demo.example GOOD", 2222, "accepted"),
        ("demo.example OTHER", 2222, "is unknown"),
        ("demo.example GOOD\n[demo.example]:2222 OTHER", 2222, "has CHANGED"),
        ("demo.example OTHER", 22, "has CHANGED"),
        ("demo.example OTHER\ndemo.example GOOD", 22, "accepted"),
        ("demo.example RSA", 22, "has CHANGED"),
        ("@revoked demo.example GOOD", 22, "is marked @revoked"),
        ("@revoked * GOOD\ndemo.example GOOD", 22, "is marked @revoked"),
        ("@revoked demo.example GOOD\n[demo.example]:2222 GOOD", 2222, "is marked @revoked"),
        ("@revoked demo.example OTHER\ndemo.example GOOD", 22, "accepted"),
        ("@cert-authority *.example GOOD", 22, "through a @cert-authority only"),
        ("@cert-authority *.example OTHER\ndemo.example GOOD", 22, "accepted"),
        ("", 22, "is unknown"),
        ("# a comment\n\n   \ndemo.example GOOD", 22, "accepted"),
    ],
)
def test_a_host_key_is_accepted_only_where_known_hosts_has_it(tmp_path: Path, text: str, port: int, said: str) -> None:
    words = decide(known(tmp_path, text, port=str(port)), GOOD)
    assert said in words
    assert ("refused" in words) == (said != "accepted")


@pytest.mark.parametrize(
    "broken",
    [
        "demo.example",
        "demo.example ssh-ed25519",
        "demo.example ssh-ed25519 AAAA",
        "demo.example ssh-ed25519 not!base64",
        "@unheard-of demo.example ssh-ed25519 AAAA",
        "@revoked",
        "|1|half-a-hash GOOD",
        "|9|c2FsdA==|aGFzaA== GOOD",
        "demo.example ssh-nonsense AAAAC3NzaC1lZDI1NTE5AAAAIJj",
        "demo.example \udcff\x00",
    ],
)
def test_a_line_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "odd"
    path.write_bytes(with_keys(f"{broken}\ndemo.example GOOD\n{broken}").encode("utf-8", "surrogateescape"))
    keys = known(tmp_path, "", userknownhostsfile=str(path))
    assert decide(keys, GOOD) == "accepted"
    assert "has CHANGED" in decide(keys, OTHER)


def test_keys_come_from_all_files_and_each_is_told_with_its_own(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, with_keys("demo.example OTHER"))
    write(second, with_keys("demo.example THIRD"))
    keys = known(tmp_path, "", userknownhostsfile=f"{first} {tmp_path}/missing", globalknownhostsfile=str(second))
    assert decide(keys, OTHER) == decide(keys, THIRD) == "accepted"
    words = decide(keys, GOOD)
    assert f"known is ssh-ed25519 {ssh.fingerprint(OTHER)}, in {first}" in words
    assert f"known is ssh-ed25519 {ssh.fingerprint(THIRD)}, in {second}" in words
    for file in (first, second):
        assert f"ssh-keygen -R demo.example -f {file}" in words


def test_a_host_key_alias_stands_in_for_the_name_and_the_port(tmp_path: Path) -> None:
    keys = known(tmp_path, "torrust-demo GOOD", port="2222", hostkeyalias="torrust-demo")
    assert decide(keys, GOOD) == "accepted"
    keys = known(tmp_path, "demo.example GOOD", port="2222", hostkeyalias="torrust-demo")
    assert "the host key of torrust-demo is unknown" in decide(keys, GOOD)


def test_revoked_host_keys_in_a_file_of_their_own_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="RevokedHostKeys /etc/ssh/revoked cannot be honoured"):
        known(tmp_path, "demo.example GOOD", revokedhostkeys="/etc/ssh/revoked")
    assert decide(known(tmp_path, "demo.example GOOD", revokedhostkeys="none"), GOOD) == "accepted"


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("demo.example GOOD", "ssh-ed25519"),
        ("demo.example RSA", "rsa-sha2-512"),
        ("demo.example RSA\nother.example GOOD", "rsa-sha2-512"),
    ],
)
def test_the_kinds_of_key_that_are_known_are_asked_for_first(tmp_path: Path, text: str, first: str) -> None:
    algorithms = known(tmp_path, text).algorithms()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = ssh._transport(ours, known=algorithms)
        assert transport.get_security_options().key_types[0] == first


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"])
def test_a_fingerprint_is_written_as_ssh_keygen_does(tmp_path: Path, kind: str) -> None:
    key = asyncssh.generate_private_key(kind)
    key.write_public_key(tmp_path / "key.pub")
    said = subprocess.run(["ssh-keygen", "-l", "-f", tmp_path / "key.pub"], capture_output=True, text=True, check=True)
    assert said.stdout.split()[1] == ssh.fingerprint(key.public_data)


@pytest.mark.parametrize("hop", [Hop("demo"), Hop("demo", "torrust", "2022", "one,two@three")])
def test_the_printed_command_goes_where_we_went(tmp_path: Path, hop: Hop) -> None:
    folder = tmp_path / "with a blank"
    folder.mkdir()
    config = write(folder / "config", f'Host demo\n HostName demo.example\n UserKnownHostsFile "{folder}/known"\n')
    options = ssh.resolve(hop, config).lookup("demo")
    words = decide(ssh.known_keys(hop, config, options), GOOD)
    command = re.search(r"accept it: (ssh .*)$", words)
    assert command
    ssh_, *arguments = shlex.split(command[1])
    told = subprocess.run([ssh_, "-G", *arguments], capture_output=True, text=True, check=True).stdout.splitlines()
    assert "hostname demo.example" in told
    assert f"userknownhostsfile {folder}/known" in told
    assert "stricthostkeychecking ask" in told
    assert not hop.user or {f"user {hop.user}", f"port {hop.port}", f"proxyjump {hop.jumps}"} <= set(told)


# --- connections ----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    with serve(folder) as running:
        yield running


def refusal(server: Server, alias: str = "rehearsal") -> BackupsError:
    """Connect, and return why that failed."""
    with pytest.raises(BackupsError) as caught:
        ssh.connect(alias, server.ssh_config).close()
    print(caught.value)
    return caught.value


def change(server: Server, old: str, new: str) -> None:
    """Change the SSH configuration of a server."""
    text = server.ssh_config.read_text()
    assert old in text
    server.ssh_config.write_text(text.replace(old, new))


def test_a_known_host_is_logged_in_to(server: Server) -> None:
    connection = ssh.connect("rehearsal", server.ssh_config)
    assert connection.user == "rehearsal"
    assert connection.transport.packetizer._Packetizer__keepalive_interval == ssh.KEEPALIVE
    connection.close()


def test_without_openssh_a_host_is_logged_in_to_as_well(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ssh(monkeypatch, tmp_path)
    ssh.connect("rehearsal", server.ssh_config).close()


def test_a_user_may_stand_before_the_alias(server: Server) -> None:
    connection = ssh.connect("somebody@rehearsal", server.ssh_config)
    assert (connection.user, connection.host, connection.port) == ("somebody", "127.0.0.1", server.port)
    connection.close()


def test_an_unknown_host_key_is_refused_until_the_printed_command_has_accepted_it(server: Server) -> None:
    theirs = server.known_hosts.read_text()
    server.known_hosts.write_text("")
    error = refusal(server)
    assert f"rehearsal: the host key of [127.0.0.1]:{server.port} is unknown: refused" in str(error)
    assert ssh.fingerprint(base64.b64decode(theirs.split()[2])) in error.printed
    assert error.exit_code == COULD_NOT_LOOK
    assert server.known_hosts.read_text() == ""

    command = error.advice.split("accept it: ")[1]
    # Its question needs a terminal; accept-new answers it.
    accepted = command.replace("StrictHostKeyChecking=ask", "StrictHostKeyChecking=accept-new")
    assert accepted != command
    subprocess.run(["/bin/sh", "-c", accepted], check=True, stdin=subprocess.DEVNULL)
    ssh.connect("rehearsal", server.ssh_config).close()


def test_a_changed_host_key_is_refused_until_the_printed_commands_have_replaced_it(server: Server) -> None:
    name = f"[127.0.0.1]:{server.port}"
    server.known_hosts.write_text(with_keys(f"{name} OTHER\n"))
    error = refusal(server)
    assert "has CHANGED: refused" in str(error)
    assert f"known is ssh-ed25519 {ssh.fingerprint(OTHER)}, in {server.known_hosts}" in error.printed
    command = error.advice.split("confirms the new key: ")[1]
    accepted = command.replace("StrictHostKeyChecking=ask", "StrictHostKeyChecking=accept-new")
    subprocess.run(["/bin/sh", "-c", accepted], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    ssh.connect("rehearsal", server.ssh_config).close()


def test_a_revoked_host_key_is_refused(server: Server) -> None:
    server.known_hosts.write_text("@revoked * " + server.known_hosts.read_text().split(" ", 1)[1])
    error = refusal(server)
    assert "is marked @revoked in known_hosts: refused" in str(error)
    assert "do not connect" in error.advice


def test_a_host_known_through_an_authority_is_refused_with_the_line_that_accepts_it(server: Server) -> None:
    text = server.known_hosts.read_text()
    server.known_hosts.write_text("@cert-authority * " + text.split(" ", 1)[1])
    error = refusal(server)
    assert "which cannot be checked here: refused" in str(error)
    server.known_hosts.write_text(error.advice.split("known_hosts: ")[1])
    ssh.connect("rehearsal", server.ssh_config).close()


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
    assert error.printed == "127.0.0.1: Connection refused"


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
    monkeypatch.setattr(ssh, "BANNER_TIMEOUT", 0.2)
    stranger(lambda connection: None)
    error = refusal(server)
    assert "no SSH connection to 127.0.0.1" in str(error)
    assert error.printed == "it did not greet as an SSH server does within 0.2 s"
    assert error.exit_code == COULD_NOT_LOOK


def test_a_server_that_stops_after_its_banner_is_given_up(server: Server, stranger: Callable[[Answer], None]) -> None:
    change(server, "IdentitiesOnly yes", "IdentitiesOnly yes\n    ConnectTimeout 1")
    stranger(lambda connection: connection.sendall(b"SSH-2.0-silent\r\n"))
    error = refusal(server)
    assert "no SSH connection to 127.0.0.1" in str(error)
    assert error.printed == "it stopped answering before the keys were agreed on"


def test_something_that_is_no_ssh_server_is_told_in_words(server: Server, stranger: Callable[[Answer], None]) -> None:
    stranger(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100))
    error = refusal(server)
    assert "no SSH connection to 127.0.0.1" in str(error)


def test_a_proxy_command_is_run_and_its_failure_told(server: Server, tmp_path: Path) -> None:
    change(server, "IdentitiesOnly yes", f"IdentitiesOnly yes\n    ProxyCommand {tmp_path}/no-such-program %h %p")
    error = refusal(server)
    assert "no SSH connection to 127.0.0.1" in str(error)
    assert "no-such-program" in error.printed


# --- login ----------------------------------------------------------------------------------------------------------


def test_a_key_that_is_not_allowed_is_told_with_its_file(server: Server) -> None:
    KEYS["GOOD"].write_private_key(server.folder / "wrong_key")
    change(server, f"{server.folder}/user_key", f"{server.folder}/wrong_key")
    error = refusal(server)
    assert f"login as rehearsal refused by 127.0.0.1 port {server.port}" in str(error)
    assert f"{server.folder}/wrong_key: " in error.printed
    assert f"ssh -F {server.ssh_config} rehearsal true" in error.advice
    assert error.exit_code == COULD_NOT_LOOK


def test_no_key_at_all_says_what_the_server_takes(server: Server) -> None:
    change(server, f"{server.folder}/user_key", "/nowhere/key")
    error = refusal(server)
    assert "there was nothing to offer" in error.printed
    assert "the server takes: publickey" in error.printed


def test_a_key_with_a_passphrase_and_no_terminal_says_what_to_do(server: Server) -> None:
    key = server.folder / "user_key"
    asyncssh.read_private_key(key).write_private_key(key, passphrase="secret")
    error = refusal(server)
    assert "has a passphrase, and there is no terminal to ask for it: ssh-add it first" in error.printed


def test_a_broken_key_file_is_told_with_its_name(server: Server) -> None:
    (server.folder / "user_key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n")
    assert f"{server.folder}/user_key: " in refusal(server).printed


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
    ssh.connect("rehearsal", server.ssh_config).close()
