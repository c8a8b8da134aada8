"""The checks of an archive of the configuration on this machine."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from demo_backups.backup.archive import check_archive, parse_list_member, parse_sums
from demo_backups.records.check import Outcome, combine_outcomes

from ..helpers.archives import add, make_archive, make_archive_of_link

SECRET = "hunter2-in-a-file"


def outcome(path: Path) -> Outcome:
    checks = check_archive(path)
    assert [check.name for check in checks] == ["size", "list", "checksums"]
    assert SECRET not in repr(checks)
    return combine_outcomes(check.outcome for check in checks)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    files = {"env.production": SECRET.encode(), "compose.yaml": b"x" * 3000}
    return make_archive(tmp_path / "config.tar", files, links={"latest": "/etc/shadow"})


def test_good_archive_passes(archive: Path) -> None:
    assert outcome(archive) is Outcome.PASSED


def test_link_in_place_of_directory_fails(tmp_path: Path, archive: Path) -> None:
    assert outcome(make_archive_of_link(tmp_path / "link.tar", tmp_path)) is Outcome.FAILED
    with tarfile.open(archive, "a") as tar:
        add(tar, "files/latest/x", b"content")
    (check,) = [check for check in check_archive(archive) if check.name == "list"]
    assert "not in a directory" in check.detail


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_endless_headers_fail(archive: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 8
    block = header.tobuf(tarfile.GNU_FORMAT) + b"8 a=bcd\n".ljust(512, b"\0")
    content = archive.read_bytes()
    archive.write_bytes(content[:2048] + 2000 * block + content[2048:])
    assert outcome(archive) is Outcome.FAILED


@pytest.mark.parametrize("step", range(7))
def test_flipped_bit_of_member_fails(archive: Path, step: int) -> None:
    content = bytearray(archive.read_bytes())
    blocks = [offset for offset in range(0, len(content), 512) if any(content[offset : offset + 100])]
    offset = blocks[len(blocks) * step // 7]
    content[offset + 3] ^= 4
    archive.write_bytes(content)
    assert outcome(archive) is Outcome.FAILED


def test_archive_without_its_end_fails(archive: Path) -> None:
    size = archive.stat().st_size
    for left in (0, 512, size // 2 // 512 * 512, 1000):
        os.truncate(archive, left)
        assert outcome(archive) is Outcome.FAILED


@pytest.mark.parametrize(
    "name", ["/etc/cron.d/x", "files/../../etc/x", "../x", "LIST", "files/env.production", "files/./y", "files//z"]
)
def test_member_outside_of_files_fails(archive: Path, name: str) -> None:
    with tarfile.open(archive, "a") as tar:
        add(tar, name, b"content")
    assert outcome(archive) is Outcome.FAILED


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.LNKTYPE, tarfile.BLKTYPE])
def test_special_member_fails(archive: Path, kind: bytes) -> None:
    with tarfile.open(archive, "a") as tar:
        add(tar, "files/special", type=kind, linkname="files/env.production")
    assert outcome(archive) is Outcome.FAILED


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGLINK])
def test_large_header_is_not_read(archive: Path, kind: bytes) -> None:
    with tarfile.open(archive, "a") as tar:
        add(tar, "files/x", b"y" * (2**20 + 512), type=kind)
    assert outcome(archive) is Outcome.FAILED


@pytest.mark.parametrize("content", [b"", b"\0" * 10240, b"SQLite format 3\0" + b"x" * 4080, os.urandom(5120)])
def test_other_file_fails(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    assert outcome(path) is Outcome.FAILED


def test_unreadable_archive_is_unknown(tmp_path: Path) -> None:
    assert outcome(tmp_path) is Outcome.UNKNOWN  # a directory


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_list_member, "f:644:a:b:1:1:files//"),
        (parse_list_member, "f:648:a:b:1:1:files//\0"),
        (parse_list_member, "f:644:a:b:-1:1:files//\0"),
        (parse_list_member, "s:644:a:b:1:1:files//\0"),
        (parse_list_member, "f:644\0"),
        (parse_sums, f"{'0' * 64}  x"),
        (parse_sums, f"{'0' * 63}  x\n"),
        (parse_sums, f"{'0' * 64}  x\n{'1' * 64}  x\n"),
    ],
)
def test_invalid_description_is_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - every kind
        parse(text)


def test_escaped_names_are_parsed() -> None:
    assert parse_sums(f"\\{'0' * 64}  files/a\\nb\\\\n\n") == {"files/a\nb\\n": "0" * 64}
