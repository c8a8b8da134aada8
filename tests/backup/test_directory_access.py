"""The access to a backup directory: the parser, and real mounts, attributes and modes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_backups.backup.directory_access import (
    DirectoryAccess,
    directory_access_command,
    explain_directory_access,
    parse_directory_access,
    read_directory_access,
)
from demo_backups.backup.disk_space import disks_command, parse_disks
from demo_backups.remote.host import Host

from ..helpers.constants import EVERY_ODD_NAME, root_only
from ..helpers.shell import run_sh


def answer(reason: str, permission: str = "writable", attributes: str = "") -> str:
    """Make the output of the command."""
    return f"rmdir: failed to remove '.backup.lock': {reason}\n{permission}\n{attributes}"


@pytest.mark.parametrize(
    ("output", "access"),
    [
        (answer("Not a directory"), DirectoryAccess.WRITABLE),
        (answer("No such file or directory"), DirectoryAccess.WRITABLE),
        (answer("No such file or directory", attributes="--------------e------- .\n"), DirectoryAccess.WRITABLE),
        (answer("No such file or directory", attributes="-----a--------e------- .\n"), DirectoryAccess.APPEND_ONLY),
        (answer("Operation not permitted"), DirectoryAccess.APPEND_ONLY),
        (answer("Operation not permitted", "unwritable"), DirectoryAccess.IMMUTABLE),
        (answer("No such file or directory", "unwritable", "----i--- .\n"), DirectoryAccess.IMMUTABLE),
        (answer("Read-only file system", "unwritable"), DirectoryAccess.READ_ONLY),
        (answer("Permission denied", "unwritable"), DirectoryAccess.DENIED),
        (answer("No such file or directory", "unwritable"), DirectoryAccess.DENIED),
    ],
)
def test_parse_directory_access_output(output: str, access: DirectoryAccess) -> None:
    assert parse_directory_access(output) is access


@pytest.mark.parametrize(
    "output",
    [
        "",
        "writable\n",
        answer("Input/output error"),
        answer("Not a directory", "maybe"),
        "sh: rmdir: not found\nwritable\n",
    ],
)
def test_parse_directory_access_rejects_other_output(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_directory_access(output)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.text(), st.text(), st.text())
def test_any_other_reason_is_no_access(reason: str, permission: str, attributes: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_directory_access(answer(reason, permission, attributes))


@pytest.mark.parametrize("access", DirectoryAccess)
def test_refused_access_has_advice(access: DirectoryAccess) -> None:
    text = explain_directory_access(access, PurePosixPath("/backups"))
    assert ("/backups" in text and ": " in text) is (access is not DirectoryAccess.WRITABLE)


# --- real directories -----------------------------------------------------------------------------------------------


def read_access(directory: Path) -> DirectoryAccess:
    """Read the access to a directory, and check that this leaves no file."""
    before = sorted(directory.iterdir())
    path = PurePosixPath(directory)
    access = parse_directory_access(run_sh(directory_access_command(path, path / ".backup.lock")).stdout)
    assert sorted(directory.iterdir()) == before
    return access


@EVERY_ODD_NAME
@pytest.mark.parametrize("has_lock", [False, True])
def test_usual_directory_is_writable(tmp_path: Path, name: str, has_lock: bool) -> None:
    directory = tmp_path / name
    directory.mkdir()
    if has_lock:
        (directory / ".backup.lock").touch()
    assert read_access(directory) is DirectoryAccess.WRITABLE


def test_directory_in_place_of_lock_stays(tmp_path: Path) -> None:
    (tmp_path / ".backup.lock").mkdir()
    assert read_access(tmp_path) is DirectoryAccess.WRITABLE


@pytest.mark.parametrize("has_lock", [False, True])
def test_read_only_mount_is_found(tmp_path: Path, private_mounts: list[str], has_lock: bool) -> None:
    if has_lock:
        (tmp_path / ".backup.lock").touch()
    script = 'mount --bind "$0" "$0"; mount -o remount,bind,ro "$0"; exec sh -c "$1"'
    path = PurePosixPath(tmp_path)
    command = directory_access_command(path, path / ".backup.lock")
    done = subprocess.run(
        [*private_mounts, "sh", "-euc", script, tmp_path, command],
        env=os.environ | {"LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert parse_directory_access(done.stdout) is DirectoryAccess.READ_ONLY


@contextmanager
def attribute(directory: Path, flag: str) -> Iterator[None]:
    """Set an attribute of a directory; skip the test where the file system has none."""
    done = subprocess.run(["chattr", f"+{flag}", directory], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no attributes here: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["chattr", f"-{flag}", directory], check=True)


@root_only
@pytest.mark.parametrize("has_lock", [False, True])
@pytest.mark.parametrize(("flag", "access"), [("a", DirectoryAccess.APPEND_ONLY), ("i", DirectoryAccess.IMMUTABLE)])
def test_attributes_of_directory_are_found(tmp_path: Path, has_lock: bool, flag: str, access: DirectoryAccess) -> None:
    if has_lock:
        (tmp_path / ".backup.lock").touch()
    with attribute(tmp_path, flag):
        assert read_access(tmp_path) is access


@root_only
@pytest.mark.usefixtures("as_nobody")
def test_directory_of_other_user_is_denied(local_host: Host, public_folder: Path) -> None:
    directory = public_folder / "backups"
    directory.mkdir()
    directory.chmod(0o755)
    (directory / ".backup.lock").touch()
    path = PurePosixPath(directory)
    assert read_directory_access(local_host, path) is DirectoryAccess.DENIED
    assert read_directory_access(local_host, path, path / ".backup.lock") is DirectoryAccess.DENIED


def test_free_inodes_are_read(private_mounts: list[str]) -> None:
    script = 'mount -t tmpfs -o nr_inodes=20 tmpfs /mnt; exec sh -c "$0"'
    command = disks_command(PurePosixPath("/mnt"), PurePosixPath("/proc"))
    done = subprocess.run([*private_mounts, "sh", "-euc", script, command], capture_output=True, text=True, check=True)
    limited, proc, _ = parse_disks(done.stdout, 3)
    assert limited.free_inodes == 19
    assert proc.free_inodes is None
