"""Files on a host: parsers with recorded output, and commands on files with odd names."""

from __future__ import annotations

import os
import subprocess
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.errors import CouldNotLookError
from demo_backups.remote.files import File, file_command, files_command, parse_files, parse_sha256, stat_file
from demo_backups.remote.host import Host
from demo_backups.remote.shell import quote

from ..helpers.constants import EVERY_ODD_NAME
from ..helpers.shell import run_sh

SHA256_OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


# --- size, time and type --------------------------------------------------------------------------------------------


def test_parse_files_keeps_server_offsets() -> None:
    output = (
        "1732478400.5000000000 +0530 2301952 f /backups/backup_2024-11-24_20-00-00.db\0"
        "1732478400.0000000000 -0330 0 l /backups/a b\nc\0"
        "0.0000000000 +0000 4096 d /\0end"
    )
    first, second, third = parse_files(output)
    assert first.path == PurePosixPath("/backups/backup_2024-11-24_20-00-00.db")
    assert (first.bytes, first.type) == (2301952, "f")
    assert first.modified.isoformat() == "2024-11-25T01:30:00.500000+05:30"
    assert (second.path.name, second.bytes, second.type) == ("a b\nc", 0, "l")
    assert second.modified.isoformat() == "2024-11-24T16:30:00-03:30"
    assert third == File(PurePosixPath("/"), 4096, datetime(1970, 1, 1, tzinfo=timezone.utc), "d")


@pytest.mark.parametrize("seconds", ["1e20", "9000000000000000000", "9999999999999", "nan", "inf", "soon"])
def test_parse_files_rejects_impossible_time(seconds: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_files(f"{seconds} +0000 1 f /srv/x.db\0end")


def test_empty_list_of_files_has_an_end() -> None:
    assert parse_files("end") == []
    with pytest.raises(ValueError, match="the list ends in ''"):
        parse_files("")


@EVERY_ODD_NAME
def test_file_with_odd_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"12345")
    os.utime(path, (1_700_000_000.25, 1_700_000_000.25))
    (file,) = parse_files(run_sh(file_command(PurePosixPath(path))).stdout)
    assert (str(file.path), file.bytes, file.type) == (str(path), 5, "f")
    assert file.modified.timestamp() == 1_700_000_000.25
    assert file.modified.utcoffset() == file.modified.astimezone().utcoffset()  # this machine is the server


@EVERY_ODD_NAME
def test_files_in_folder_with_odd_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    (folder / "below").mkdir(parents=True)
    for file_name in ("backup_1.db", f"backup_{name}.db", "other.db", ".backup_.db", "below/backup_2.db"):
        (folder / file_name).touch()
    files = parse_files(run_sh(files_command(PurePosixPath(folder), "backup_*.db")).stdout)
    assert {str(file.path) for file in files} == {str(folder / "backup_1.db"), str(folder / f"backup_{name}.db")}


def test_files_in_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/backup_1.db").touch()
    (tmp_path / "link").symlink_to("real")
    (file,) = parse_files(run_sh(files_command(PurePosixPath(tmp_path / "link"), "backup_*.db")).stdout)
    assert file.path == PurePosixPath(tmp_path / "link/backup_1.db")


@pytest.mark.parametrize(("make", "kind"), [("mkdir x", "d"), ("ln -s y x", "l"), ("mkfifo x", "p"), ("touch x", "f")])
def test_file_type_does_not_follow_links(tmp_path: Path, make: str, kind: str) -> None:
    subprocess.run(make, shell=True, cwd=tmp_path, check=True)
    (file,) = parse_files(run_sh(file_command(PurePosixPath(tmp_path / "x"))).stdout)
    assert file.type == kind


def test_file_name_may_be_invalid_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.db")
    Path(path).touch()
    (file,) = parse_files(run_sh(files_command(PurePosixPath(tmp_path), "*.db")).stdout)
    assert str(file.path) == path


def test_stat_distinguishes_missing_from_unreadable(local_host: Host, tmp_path: Path) -> None:
    path = PurePosixPath(tmp_path / "file")
    assert stat_file(local_host, path) is None
    Path(path).write_bytes(b"123")
    file = stat_file(local_host, path)
    assert file is not None
    assert (file.path, file.bytes) == (path, 3)
    with pytest.raises(CouldNotLookError):
        stat_file(local_host, path / "below")  # its parent is not a folder


@EVERY_ODD_NAME
def test_quote_makes_one_word(name: str) -> None:
    assert run_sh(f"printf %s {quote(name)}").stdout == name


# --- hashes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "output",
    [
        f"{SHA256_OF_NOTHING}  /a/b.sh\n",
        f"\\{SHA256_OF_NOTHING}  /a\\\\b.sh\n",
        f"{SHA256_OF_NOTHING} */a/b.sh\n",
        f"{SHA256_OF_NOTHING}  -\n",
    ],
)
def test_parse_sha256_output(output: str) -> None:
    assert parse_sha256(output) == SHA256_OF_NOTHING


@pytest.mark.parametrize(
    "output",
    [
        "",
        SHA256_OF_NOTHING[:-1],
        f"{SHA256_OF_NOTHING}0  x",
        f"x{SHA256_OF_NOTHING}",
        SHA256_OF_NOTHING.upper(),
        f"\\\\{SHA256_OF_NOTHING}",
    ],
)
def test_parse_sha256_rejects_other_output(output: str) -> None:
    with pytest.raises(ValueError, match="no SHA-256"):
        parse_sha256(output)


@EVERY_ODD_NAME
def test_sha256_of_file_with_odd_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert parse_sha256(run_sh(f"sha256sum -- {quote(str(tmp_path / name))}").stdout) == SHA256_OF_NOTHING
