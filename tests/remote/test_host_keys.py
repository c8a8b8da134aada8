"""Errors and printed commands for refused host keys, and the options of `ssh -G` that matter.

The decisions themselves are compared with OpenSSH in test_host_keys_oracle.py.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from demo_backups.errors import COULD_NOT_LOOK, WRONG_INPUT, HostKeyError, SettingsError
from demo_backups.remote import ssh_config
from demo_backups.remote.host_keys import HostKeyPolicy
from demo_backups.remote.known_hosts import fingerprint
from demo_backups.remote.ssh_config import Hop

from ..helpers.host_keys import KEYS, offer, with_keys, write


def policy(folder: Path, known: str, **options: str) -> HostKeyPolicy:
    """Make the policy for a host with a known_hosts file and with options of `ssh -G`."""
    file = write(folder / "known_hosts", with_keys(known) + "\n")
    resolved = {"hostname": "demo.example", "port": "22", "globalknownhostsfile": "/dev/null"}
    return HostKeyPolicy(Hop("demo"), None, {**resolved, "userknownhostsfile": str(file), **options})


def refusal(policy: HostKeyPolicy, name: str = "GOOD", client: Any = None) -> HostKeyError:
    """Return the error with which a key is refused."""
    with pytest.raises(HostKeyError) as caught:
        policy.missing_host_key(client, "", offer(name))
    assert caught.value.exit_code == COULD_NOT_LOOK
    return caught.value


def known_as(name: str) -> str:
    return fingerprint(KEYS[name].public_data)


def test_unknown_key_names_the_accept_command(tmp_path: Path) -> None:
    error = refusal(policy(tmp_path, "other.example GOOD", port="2222"))
    assert "the host key of [demo.example]:2222 is unknown: refused" in str(error)
    assert error.output == f"offered: ED25519 {known_as('GOOD')}"
    assert error.advice.endswith(": ssh -o StrictHostKeyChecking=ask demo true")


def test_changed_key_lists_known_keys(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, with_keys("# comment\n\ndemo.example OTHER\n@revoked demo.example THIRD"))
    write(second, with_keys("demo.example ECDSA"))
    known_hosts = f"{first} {tmp_path}/missing"
    error = refusal(policy(tmp_path, "", userknownhostsfile=known_hosts, globalknownhostsfile=str(second)))
    assert "the host key of demo.example has CHANGED: refused" in str(error)
    assert error.output.splitlines() == [
        f"offered: ED25519 {known_as('GOOD')}",
        f"known: ED25519 {known_as('OTHER')}, {first}:3",
        f"known: ECDSA {known_as('ECDSA')}, {second}:1",
    ]
    forget = [f"ssh-keygen -R demo.example -f {file}" for file in (first, second)]
    assert error.advice.endswith(f": {' && '.join(forget)} && ssh -o StrictHostKeyChecking=ask demo true")


def test_changed_key_is_forgotten_by_printed_command(tmp_path: Path) -> None:
    folder = tmp_path / "with a blank"
    folder.mkdir()
    file = write(folder / "known_hosts", with_keys("# first\n[demo.example]:2222 OTHER\nother.example THIRD\n"))
    error = refusal(policy(tmp_path, "", userknownhostsfile=str(file), port="2222"))
    command = error.advice.partition(": ")[2].split(" && ")[0]
    subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True)
    assert file.read_text() == with_keys("# first\nother.example THIRD\n")


def test_system_file_is_changed_with_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = policy(tmp_path, "demo.example OTHER")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert f": sudo ssh-keygen -R demo.example -f {tmp_path}/known_hosts && ssh " in refusal(keys).advice


@pytest.mark.parametrize("marked", ["demo.example", "*", "DEMO.*"])
def test_revoked_key_names_its_line(tmp_path: Path, marked: str) -> None:
    error = refusal(policy(tmp_path, f"demo.example GOOD\n@revoked {marked} GOOD"))
    assert f"is revoked by a @revoked line, {tmp_path}/known_hosts:2: refused" in str(error)
    shown = subprocess.run(
        shlex.split(error.advice.rpartition(": ")[2]), check=True, capture_output=True, text=True
    ).stdout
    assert shown == with_keys(f"@revoked {marked} GOOD\n")


@pytest.mark.parametrize("binary", [False, True], ids=["list", "KRL"])
def test_revoked_host_keys_name_their_file(tmp_path: Path, binary: bool) -> None:
    file = write(tmp_path / "revoked", with_keys("GOOD\n"))
    if binary:
        file = file.rename(tmp_path / "source")
        subprocess.run(["ssh-keygen", "-q", "-k", "-f", tmp_path / "revoked", file], check=True)
        file = tmp_path / "revoked"
    error = refusal(policy(tmp_path, "demo.example GOOD", revokedhostkeys=f"/dev/null {file}"))
    assert f"is revoked in RevokedHostKeys {file}: refused" in str(error)
    command = shlex.split(error.advice.rpartition(": ")[2])
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(("name", "algorithms"), [("GOOD", "ssh-ed25519"), ("RSA", "rsa-sha2-512,rsa-sha2-256")])
def test_authority_only_asks_for_plain_key(tmp_path: Path, name: str, algorithms: str) -> None:
    error = refusal(policy(tmp_path, "@cert-authority *.example OTHER"), name)
    assert "is known through a @cert-authority only" in str(error)
    command = f"ssh -o StrictHostKeyChecking=ask -o HostKeyAlgorithms={algorithms} demo true"
    assert error.advice.endswith(f": {command}")


def test_known_hosts_command_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="KnownHostsCommand /bin/keys %H is not supported") as caught:
        policy(tmp_path, "demo.example GOOD", knownhostscommand="/bin/keys %H")
    assert caught.value.exit_code == WRONG_INPUT
    policy(tmp_path, "demo.example GOOD", knownhostscommand="none").missing_host_key(None, "", offer("GOOD"))


def test_unsupported_host_key_algorithms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="HostKeyAlgorithms ssh-dss has no algorithm"):
        policy(tmp_path, "demo.example GOOD", hostkeyalgorithms="ssh-dss")


def test_unreadable_known_hosts_is_reported(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    keys = policy(tmp_path, "", globalknownhostsfile=f"{tmp_path}/folder {tmp_path}/missing")
    assert f"not read: {tmp_path}/folder is not a regular file" in refusal(keys).output.splitlines()


@pytest.mark.parametrize(
    ("known", "algorithms", "expected"),
    [
        ("", "ssh-ed25519,rsa-sha2-512", ["ssh-ed25519", "rsa-sha2-512"]),
        ("demo.example RSA", "ssh-ed25519,rsa-sha2-512,rsa-sha2-256", ["rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519"]),
        ("demo.example RSA\n* GOOD", "ssh-ed25519,ssh-rsa,rsa-sha2-512", ["ssh-ed25519", "rsa-sha2-512"]),
        (
            "demo.example ECDSA_384",
            "ssh-ed25519-cert-v01@openssh.com,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384",
            ["ecdsa-sha2-nistp384", "ecdsa-sha2-nistp256"],
        ),
        ("@revoked * RSA\n@cert-authority * RSA", "ssh-ed25519,rsa-sha2-512", ["ssh-ed25519", "rsa-sha2-512"]),
        ("other.example RSA", "ssh-ed25519,rsa-sha2-512", ["ssh-ed25519", "rsa-sha2-512"]),
    ],
)
def test_algorithms_of_known_keys_come_first(tmp_path: Path, known: str, algorithms: str, expected: list[str]) -> None:
    assert policy(tmp_path, known, hostkeyalgorithms=algorithms).algorithms() == expected


# --- CheckHostIP ----------------------------------------------------------------------------------------------------


def client_at(address: str) -> Any:
    """Return a client whose connection goes to an address."""
    transport = SimpleNamespace(getpeername=lambda: (address, 22))
    return SimpleNamespace(get_transport=lambda: transport)


ADDRESS = "192.0.2.1"


def test_check_host_ip_refuses_key_of_address(tmp_path: Path) -> None:
    known = f"demo.example GOOD\n{ADDRESS} OTHER"
    error = refusal(policy(tmp_path, known, checkhostip="yes"), client=client_at(ADDRESS))
    assert f"is not the one of its address {ADDRESS} (CheckHostIP)" in str(error)
    assert f"known: ED25519 {known_as('OTHER')}, {tmp_path}/known_hosts:2" in error.output
    assert f"ssh-keygen -R {ADDRESS} -f {tmp_path}/known_hosts && ssh " in error.advice


@pytest.mark.parametrize(
    ("known", "address", "options"),
    [
        ("demo.example GOOD\n192.0.2.1 OTHER", ADDRESS, {"checkhostip": "no"}),
        ("demo.example GOOD\n192.0.2.1 OTHER", ADDRESS, {"proxycommand": "nc %h %p"}),
        ("demo.example GOOD\n192.0.2.1 OTHER", ADDRESS, {"proxyjump": "jump"}),
        ("demo.example GOOD\n192.0.2.1 OTHER", ADDRESS, {"port": "2222"}),
        ("demo.example GOOD\n127.0.0.1 OTHER", "127.0.0.1", {}),
        ("demo.example GOOD\n192.0.2.2 OTHER", ADDRESS, {}),
        ("demo.example GOOD\n192.0.2.1 OTHER\n192.0.2.1 GOOD", ADDRESS, {}),
        ("demo.example GOOD", ADDRESS, {}),
    ],
)
def test_check_host_ip_accepts(tmp_path: Path, known: str, address: str, options: dict[str, str]) -> None:
    keys = policy(tmp_path, known, **{"checkhostip": "yes", **options})
    keys.missing_host_key(client_at(address), "", offer("GOOD"))


# --- the printed command --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hop", [Hop("demo"), Hop("demo", "torrust", "2022", "one,two@three")])
def test_printed_command_reaches_the_same_host(tmp_path: Path, hop: Hop) -> None:
    folder = tmp_path / "with a blank"
    folder.mkdir()
    config = write(folder / "config", f'Host demo\n HostName demo.example\n UserKnownHostsFile "{folder}/known"\n')
    error = refusal(HostKeyPolicy(hop, config, ssh_config.resolve(hop, config)))
    command = re.search(r"accept it: (ssh .*)$", error.advice)
    assert command
    program, *arguments = shlex.split(command[1])
    result = subprocess.run([program, "-G", *arguments], capture_output=True, text=True, check=True)
    options = result.stdout.splitlines()
    expected = {"hostname demo.example", f"userknownhostsfile {folder}/known", "stricthostkeychecking ask"}
    if hop.user:
        expected |= {f"user {hop.user}", f"port {hop.port}", f"proxyjump {hop.jumps}"}
    assert expected <= set(options)
