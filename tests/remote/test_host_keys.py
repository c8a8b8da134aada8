"""Host keys, decided on as OpenSSH does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import shlex
import socket
import subprocess
from pathlib import Path

import asyncssh
import paramiko
import pytest

from demo_backups.errors import CouldNotLookError, SettingsError
from demo_backups.remote.auth import make_transport
from demo_backups.remote.host_keys import HostKeys, fingerprint, known_keys
from demo_backups.remote.ssh_config import Hop, resolve

from .test_ssh_config import write

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


def known(tmp_path: Path, text: str, **options: str) -> HostKeys:
    file = write(tmp_path / "known_hosts", with_keys(text))
    resolved = {"hostname": "demo.example", "port": "22", "globalknownhostsfile": "/dev/null"}
    return known_keys(Hop("demo"), None, {**resolved, "userknownhostsfile": str(file), **options})


def decide(keys: HostKeys, blob: bytes) -> str:
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
    assert f"known is ssh-ed25519 {fingerprint(OTHER)}, in {first}" in words
    assert f"known is ssh-ed25519 {fingerprint(THIRD)}, in {second}" in words
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
        transport = make_transport(ours, known=algorithms)
        assert transport.get_security_options().key_types[0] == first


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"])
def test_a_fingerprint_is_written_as_ssh_keygen_does(tmp_path: Path, kind: str) -> None:
    key = asyncssh.generate_private_key(kind)
    key.write_public_key(tmp_path / "key.pub")
    said = subprocess.run(["ssh-keygen", "-l", "-f", tmp_path / "key.pub"], capture_output=True, text=True, check=True)
    assert said.stdout.split()[1] == fingerprint(key.public_data)


@pytest.mark.parametrize("hop", [Hop("demo"), Hop("demo", "torrust", "2022", "one,two@three")])
def test_the_printed_command_goes_where_we_went(tmp_path: Path, hop: Hop) -> None:
    folder = tmp_path / "with a blank"
    folder.mkdir()
    config = write(folder / "config", f'Host demo\n HostName demo.example\n UserKnownHostsFile "{folder}/known"\n')
    options = resolve(hop, config).lookup("demo")
    words = decide(known_keys(hop, config, options), GOOD)
    command = re.search(r"accept it: (ssh .*)$", words)
    assert command
    ssh_, *arguments = shlex.split(command[1])
    told = subprocess.run([ssh_, "-G", *arguments], capture_output=True, text=True, check=True).stdout.splitlines()
    assert "hostname demo.example" in told
    assert f"userknownhostsfile {folder}/known" in told
    assert "stricthostkeychecking ask" in told
    assert not hop.user or {f"user {hop.user}", f"port {hop.port}", f"proxyjump {hop.jumps}"} <= set(told)


@pytest.mark.parametrize("line", ["@revoked Demo.EXAMPLE GOOD", "@revoked *.Example GOOD"])
def test_capital_letters_hide_no_revoked_key(tmp_path: Path, line: str) -> None:
    assert "is marked @revoked" in decide(known(tmp_path, f"demo.example GOOD\n{line}"), GOOD)


@pytest.mark.parametrize(
    "hosts",
    [
        "demo.example",
        "Demo.Example",
        "DEMO.EXAMPLE,192.0.2.1",
        "*.EXAMPLE",
        "*,!DEMO.example",
        "Other.example",
        hashed("demo.example"),
        hashed("Demo.Example"),
    ],
)
@pytest.mark.parametrize("marker", ["", "@revoked "])
def test_the_hosts_of_a_line_are_those_that_ssh_keygen_finds(tmp_path: Path, marker: str, hosts: str) -> None:
    keys = known(tmp_path, f"{marker}{hosts} GOOD")
    command = ["ssh-keygen", "-F", "demo.example", "-f", str(tmp_path / "known_hosts")]
    found = GOOD in (keys.revoked if marker else keys.trusted)
    assert found == bool(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


@pytest.mark.parametrize("line", ["DEMO.example GOOD", "Other,Demo.Example GOOD"])
def test_the_case_of_a_host_is_no_matter(tmp_path: Path, line: str) -> None:
    assert decide(known(tmp_path, line), GOOD) == "accepted"
    assert decide(known(tmp_path, "demo.example GOOD", hostname="DEMO.Example"), GOOD) == "accepted"
