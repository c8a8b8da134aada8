"""Host keys are accepted and refused as by the `ssh` of this machine, with the same files and the same server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo_backups.errors import CouldNotLookError, HostKeyError
from demo_backups.remote import connection, host_keys, ssh_config

from ..helpers.host_keys import hashed, offer, open_server, with_keys, write


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server whose only host key is GOOD."""
    with open_server("GOOD") as number:
        yield number


@pytest.fixture(scope="module")
def port_with_four_keys() -> Iterator[int]:
    """The port of a server with host keys of all types."""
    with open_server("RSA", "ECDSA_384", "ECDSA", "GOOD") as number:
        yield number


def configure(folder: Path, port: int, known: str, options: str = "") -> Path:
    """Write a known_hosts file and an SSH configuration for the alias `demo`; PORT and FOLDER are replaced."""
    known = known.replace("PORT", str(port))
    write(folder / "known_hosts", with_keys(known) + "\n")
    lines = [
        *options.replace("PORT", str(port)).replace("FOLDER", str(folder)).splitlines(),
        "HostName 127.0.0.1",
        f"Port {port}",
        "User demo",
        "IdentityFile none",
        "IdentityAgent none",
        f"UserKnownHostsFile {folder}/known_hosts",
        f"GlobalKnownHostsFile {folder}/global",
    ]
    return write(folder / "config", "Host demo\n" + "".join(f"  {line}\n" for line in lines))


def openssh_accepts(config: Path) -> bool:
    """Ask OpenSSH's client."""
    command = ["ssh", "-F", str(config), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "demo", "true"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    print(result.stderr)
    assert result.returncode == 0 or "verification failed" in result.stderr, result.stderr
    return result.returncode == 0


def we_accept(config: Path) -> bool:
    """Ask this project, without connecting, about the key GOOD."""
    hop = ssh_config.Hop("demo")
    try:
        policy = host_keys.HostKeyPolicy(hop, config, ssh_config.resolve(hop, config))
        policy.missing_host_key(None, "", offer("GOOD"))
    except CouldNotLookError as error:
        print(error)
        return False
    return True


def we_connect(config: Path) -> bool:
    """Ask this project, by connecting."""
    try:
        connection.close_connection(connection.connect("demo", config))
    except HostKeyError as error:
        print(error)
        return False
    return True


MALFORMED = """\
[127.0.0.1]:PORT
[127.0.0.1]:PORT ssh-ed25519
[127.0.0.1]:PORT ssh-ed25519 AAAA
[127.0.0.1]:PORT ssh-ed25519 not!base64
[127.0.0.1]:PORT ssh-nonsense AAAAC3NzaC1lZDI1NTE5AAAAIJj
@unknown-marker [127.0.0.1]:PORT OTHER
@revoked
|1|half-a-hash OTHER
|9|c2FsdA==|aGFzaA== OTHER
# comment
"""
KNOWN = [
    ("", False),
    ("[127.0.0.1]:PORT GOOD", True),
    ("[127.0.0.1]:PORT OTHER", False),
    ("[127.0.0.1]:PORT RSA", False),
    ("[127.0.0.1]:PORT OTHER\n[127.0.0.1]:PORT GOOD", True),
    ("[127.0.0.2]:PORT,[127.0.0.1]:PORT GOOD", True),
    ("[127.0.0.1]:1 GOOD", False),
    # without the port
    ("127.0.0.1 GOOD", True),
    ("127.0.0.1 OTHER", False),
    ("127.0.0.1 GOOD\n[127.0.0.1]:PORT OTHER", False),
    ("127.0.0.1 OTHER\n[127.0.0.1]:PORT GOOD", True),
    ("127.0.0.1 GOOD\n@cert-authority [127.0.0.1]:PORT OTHER", True),
    # wildcards and negation
    ("* GOOD", True),
    ("[127.0.0.?]:* GOOD", True),
    ("127.* GOOD", True),
    ("*,![127.0.0.1]:PORT GOOD", True),
    ("*,![127.0.0.1]:PORT,!127.0.0.1 GOOD", False),
    ("![127.0.0.1]:*,!127.*,* GOOD", False),
    ("*,!127.0.0.1 GOOD", True),
    # hashed names
    ("HASHED_PORT GOOD", True),
    ("HASHED GOOD", True),
    ("HASHED_PORT OTHER", False),
    # markers
    ("@revoked * GOOD\n[127.0.0.1]:PORT GOOD", False),
    ("@revoked [127.0.0.1]:PORT GOOD\n127.0.0.1 GOOD", False),
    ("@revoked HASHED_PORT GOOD\n* GOOD", False),
    ("@revoked 127.0.0.1 GOOD\n127.0.0.1 GOOD", False),
    ("@revoked * OTHER\n* GOOD", True),
    ("@revoked *,![127.0.0.1]:PORT,!127.0.0.1 GOOD\n* GOOD", True),
    ("@revoked * CERTIFICATE\n* GOOD", False),
    ("@cert-authority * GOOD", False),
    ("@cert-authority * OTHER\n* GOOD", True),
    ("* CERTIFICATE", False),
    ("* CERTIFICATE\n* GOOD", True),
    # malformed lines
    (MALFORMED, False),
    (f"{MALFORMED}* GOOD\n{MALFORMED}", True),
    ("  \t * GOOD with a comment", True),
    ("*\tGOOD", True),
    ("* GOOD\r", True),
]


@pytest.mark.parametrize(("known", "accepted"), KNOWN)
def test_known_hosts_agree_with_openssh(tmp_path: Path, port: int, known: str, accepted: bool) -> None:
    known = known.replace("HASHED_PORT", hashed(f"[127.0.0.1]:{port}")).replace("HASHED", hashed("127.0.0.1"))
    config = configure(tmp_path, port, known)
    assert openssh_accepts(config) is we_accept(config) is accepted


@pytest.mark.parametrize(
    ("known", "alias", "accepted"),
    [
        ("demo-alias GOOD", "demo-alias", True),
        ("[demo-alias]:PORT GOOD", "demo-alias", False),
        ("[127.0.0.1]:PORT GOOD\n127.0.0.1 GOOD", "demo-alias", False),
        ("Demo-Alias GOOD", "demo-alias", True),
        ("demo-alias GOOD", "Demo-ALIAS", True),
        ("@revoked DEMO-* GOOD\ndemo-alias GOOD", "demo-alias", False),
    ],
)
def test_host_key_alias_agrees(tmp_path: Path, port: int, known: str, alias: str, accepted: bool) -> None:
    config = configure(tmp_path, port, known, f"HostKeyAlias {alias}")
    assert openssh_accepts(config) is we_accept(config) is accepted


@pytest.mark.parametrize(
    ("known", "name", "accepted"),
    [
        ("[localhost]:PORT GOOD", "LocalHost", True),
        ("[LOCALHOST]:PORT GOOD", "localhost", True),
        ("@revoked [LOCAL*]:* GOOD\n[localhost]:PORT GOOD", "localhost", False),
    ],
)
def test_case_of_host_names_agrees(tmp_path: Path, port: int, known: str, name: str, accepted: bool) -> None:
    config = configure(tmp_path, port, known, f"HostName {name}\nAddressFamily inet")
    assert openssh_accepts(config) is accepted
    assert we_accept(config) is accepted


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        ("UserKnownHostsFile none", True),
        ("UserKnownHostsFile /dev/null", True),
        ("UserKnownHostsFile FOLDER/missing FOLDER", True),
        ("UserKnownHostsFile FOLDER/other FOLDER/missing", True),
        ('UserKnownHostsFile "FOLDER/a name" "FOLDER/revoked"', False),
        ("GlobalKnownHostsFile FOLDER/revoked FOLDER/global", False),
        ("GlobalKnownHostsFile FOLDER/loop FOLDER/global", True),
        ("GlobalKnownHostsFile /dev/null", False),
        ("UserKnownHostsFile FOLDER/%n-file\nGlobalKnownHostsFile none", True),
    ],
)
def test_lists_of_files_agree(tmp_path: Path, port: int, options: str, accepted: bool) -> None:
    files = {"global": "* GOOD", "other": "* OTHER", "revoked": "@revoked * GOOD", "a name": "* GOOD"}
    for name, text in (files | {"demo-file": "* GOOD"}).items():
        write(tmp_path / name, with_keys(text) + "\n")
    (tmp_path / "loop").symlink_to("loop")
    config = configure(tmp_path, port, "", options)
    assert openssh_accepts(config) is we_accept(config) is accepted


@pytest.mark.parametrize(
    ("revoked", "accepted"),
    [
        ("", True),
        ("OTHER", True),
        ("GOOD", False),
        ("# comment\n\n \tOTHER\nGOOD a comment", False),
        ("CERTIFICATE", False),
        ("not a key\nOTHER", False),
        ("* OTHER", False),
        ("ssh-ed25519 AAAA", False),
    ],
)
def test_lists_of_revoked_keys_agree(tmp_path: Path, port: int, revoked: str, accepted: bool) -> None:
    write(tmp_path / "revoked", with_keys(revoked))
    config = configure(tmp_path, port, "* GOOD", "RevokedHostKeys FOLDER/revoked")
    assert openssh_accepts(config) is we_accept(config) is accepted


@pytest.mark.parametrize(
    ("specification", "accepted"), [("OTHER", True), ("GOOD", False), ("hash: FINGERPRINT", False)]
)
def test_key_revocation_lists_agree(tmp_path: Path, port: int, specification: str, accepted: bool) -> None:
    key = write(tmp_path / "key.pub", with_keys("GOOD"))
    printed = subprocess.run(["ssh-keygen", "-l", "-f", key], capture_output=True, text=True, check=True).stdout
    text = with_keys(specification).replace("FINGERPRINT", printed.split()[1])
    source = write(tmp_path / "source", f"{text}\n")
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", tmp_path / "revoked", source], check=True)
    config = configure(tmp_path, port, "* GOOD", "RevokedHostKeys FOLDER/revoked")
    assert openssh_accepts(config) is we_accept(config) is accepted


@pytest.mark.parametrize("file", ["missing", "folder", "broken-krl"])
def test_unreadable_list_of_revoked_keys_agrees(tmp_path: Path, port: int, file: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken-krl").write_bytes(b"SSHKRL\n\0nothing more")
    config = configure(tmp_path, port, "* GOOD", f"RevokedHostKeys FOLDER/{file}")
    assert openssh_accepts(config) is we_accept(config) is False


@pytest.mark.parametrize(
    ("known", "options", "accepted"),
    [
        ("* GOOD", "", True),
        ("* RSA", "", True),
        ("* ECDSA", "", True),
        ("* ECDSA_384", "", True),
        ("* RSA\n* OTHER", "", False),
        ("* RSA\n[127.0.0.1]:1 GOOD", "", True),
        ("127.0.0.1 RSA", "", False),
        ("@cert-authority * RSA", "", False),
        ("* CERTIFICATE\n* RSA", "", True),
        ("* RSA", "HostKeyAlgorithms ssh-ed25519", False),
        ("* RSA\n* GOOD", "HostKeyAlgorithms rsa-sha2-512,ssh-ed25519", True),
        ("* ECDSA_384", "HostKeyAlgorithms -ssh-ed25519*", True),
        ("* GOOD", "HostKeyAlgorithms -ssh-ed25519*", False),
    ],
)
def test_choice_of_key_type_agrees(
    tmp_path: Path, port_with_four_keys: int, known: str, options: str, accepted: bool
) -> None:
    config = configure(tmp_path, port_with_four_keys, known, options)
    assert openssh_accepts(config) is accepted
    assert we_connect(config) is accepted


@pytest.mark.parametrize(
    ("known", "options"),
    [
        ("@revoked 127.0.0.1 GOOD\n[127.0.0.1]:PORT GOOD", ""),
        ("", "NoHostAuthenticationForLocalhost yes"),
    ],
)
def test_openssh_is_less_strict(tmp_path: Path, port: int, known: str, options: str) -> None:
    config = configure(tmp_path, port, known, options)
    assert openssh_accepts(config)
    assert not we_connect(config)
