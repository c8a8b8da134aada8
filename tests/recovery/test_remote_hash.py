"""The answers to the hash of a backup are parsed, and everything unexpected is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.recovery.remote_hash import hash_command, identity_command, parse_hash, parse_identity

from ..helpers.constants import EVERY_ODD_NAME
from ..helpers.copies import hash_of

SHA256 = "a" * 64 + "  -\n"
IDENTITY = "64769 12 4096 1767225600.123456789\n"


@EVERY_ODD_NAME
def test_hash_of_odd_name_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"content")
    command = hash_command(PurePosixPath(path))
    output = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    identity, sha256 = parse_hash(output)
    status = path.stat()
    assert (identity.device, identity.inode, identity.bytes) == (status.st_dev, status.st_ino, 7)
    assert identity.modified_ns == status.st_mtime_ns
    assert sha256 == hash_of(path)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "garbage",
        "64769 12 4096\n",
        "64769 12 -1 1767225600.123456789\n",
        "64769 12 4096 1767225600.1\n",
        "64769 12 4096 nan\n",
        "64769 12 4096 99999999999999.123456789\n",
        IDENTITY + IDENTITY,
    ],
)
def test_other_answer_is_no_identity(answer: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_identity(answer)


@pytest.mark.parametrize(
    "answer",
    [
        IDENTITY + SHA256,
        IDENTITY + "a" * 63 + "  -\n" + IDENTITY,
        IDENTITY + SHA256 + IDENTITY.replace("4096", "8192"),
        IDENTITY + SHA256 + IDENTITY + "more\n",
    ],
)
def test_other_answer_is_no_hash(answer: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_hash(answer)


def test_missing_file_has_no_identity(tmp_path: Path) -> None:
    command = identity_command(PurePosixPath(tmp_path / "missing"))
    assert subprocess.run(["sh", "-c", command], capture_output=True, check=False).returncode == 1
