"""The output of `ssh-keygen`, and errors for output that is not understood."""

from __future__ import annotations

import subprocess
from pathlib import Path

import asyncssh
import pytest

from demo_backups.errors import CouldNotLookError
from demo_backups.remote import known_hosts, openssh
from demo_backups.remote.known_hosts import KeyStatus, KnownKey, Marker

from ..helpers.host_keys import KEYS, with_keys, write

FILE = Path("/known_hosts")
PRINT = "SHA256:" + "A" * 43
OUTPUT = f"""\
# Host [demo.example]:2222 found: line 1 
[demo.example]:2222 ED25519 {PRINT} a comment RSA SHA256:
# Host [demo.example]:2222 found: line 12 REVOKED
[demo.example]:2222 ED25519-CERT {PRINT}
# Host [demo.example]:2222 found: line 345 CA
[demo.example]:2222 RSA {PRINT}
"""  # noqa: W291


def test_recorded_output_is_parsed() -> None:
    assert known_hosts.parse_keys(OUTPUT, FILE, "demo") == [
        KnownKey(Marker.NONE, "ED25519", PRINT, FILE, 1),
        KnownKey(Marker.REVOKED, "ED25519-CERT", PRINT, FILE, 12),
        KnownKey(Marker.AUTHORITY, "RSA", PRINT, FILE, 345),
    ]
    assert known_hosts.parse_keys("", FILE, "demo") == []


@pytest.mark.parametrize(
    "output",
    [
        "\n",
        "nonsense",
        OUTPUT + "# Host demo found: line 7 \n",
        OUTPUT + "\n",
        OUTPUT.replace("REVOKED", "REVISED"),
        OUTPUT.replace("line 12", "line"),
        OUTPUT.replace("SHA256:AAA", "MD5:AAA"),
        OUTPUT.replace("AAA", "A"),
    ],
)
def test_unexpected_output_is_an_error(output: str) -> None:
    with pytest.raises(CouldNotLookError, match="ssh-keygen printed an unexpected line for /known_hosts"):
        known_hosts.parse_keys(output, FILE, "demo")


def test_failing_ssh_keygen_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CouldNotLookError, match=r"exit status 255") as caught:
        known_hosts.find_keys("demo", tmp_path / "missing", "demo")
    assert "No such file" in caught.value.output


def test_too_many_keys_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssh, "OUTPUT_LIMIT", 10_000)
    file = write(tmp_path / "known_hosts", with_keys("demo GOOD\n" * 200))
    with pytest.raises(CouldNotLookError, match="printed more than 10000 bytes"):
        known_hosts.find_keys("demo", file, "demo")


def test_curves_of_ecdsa_keys_are_found(tmp_path: Path) -> None:
    file = write(
        tmp_path / "known_hosts", with_keys("* GOOD\n\n* ECDSA_384 # ecdsa-sha2-nistp521 \nother ECDSA\n* ECDSA")
    )
    keys = known_hosts.find_keys("demo", file, "demo")
    assert [(key.line, key.kind, key.curve) for key in keys] == [
        (1, "ED25519", ""),
        (3, "ECDSA", "nistp384"),
        (5, "ECDSA", "nistp256"),
    ]


def test_invalid_utf_8_is_read(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_bytes(with_keys("demo GOOD ").encode() + b"\xff\xfe\x1b[2J\nother \xff\n")
    assert [key.line for key in known_hosts.find_keys("demo", file, "demo")] == [1]


GOOD, OTHER = (KnownKey(Marker.NONE, "ED25519", fingerprint, FILE, 1) for fingerprint in ("GOOD", "OTHER"))
REVOKED = KnownKey(Marker.REVOKED, "ED25519", "GOOD", FILE, 2)
AUTHORITY = KnownKey(Marker.AUTHORITY, "ED25519", "GOOD", FILE, 3)
CERTIFICATE = KnownKey(Marker.NONE, "ED25519-CERT", "GOOD", FILE, 4)


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ([], KeyStatus.UNKNOWN),
        ([OTHER, GOOD], KeyStatus.KNOWN),
        ([OTHER], KeyStatus.CHANGED),
        ([GOOD, REVOKED], KeyStatus.REVOKED),
        ([AUTHORITY], KeyStatus.UNKNOWN),
        ([CERTIFICATE], KeyStatus.CHANGED),
    ],
)
def test_status_of_offered_key(keys: list[KnownKey], status: KeyStatus) -> None:
    assert known_hosts.evaluate(keys, "GOOD") is status


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"])
def test_fingerprint_is_that_of_ssh_keygen(tmp_path: Path, kind: str) -> None:
    key = asyncssh.generate_private_key(kind)
    key.write_public_key(tmp_path / "key.pub")
    command = ["ssh-keygen", "-l", "-f", str(tmp_path / "key.pub")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.split()[1] == known_hosts.fingerprint(key.public_data)


def test_large_list_of_revoked_keys_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_hosts, "OUTPUT_LIMIT", 1000)
    file = write(tmp_path / "revoked", "# comment\n" * 100)
    with pytest.raises(CouldNotLookError, match="cannot be checked against RevokedHostKeys"):
        known_hosts.is_revoked(file, with_keys("GOOD"), known_hosts.fingerprint(KEYS["GOOD"].public_data), "demo")
