"""The format of an archive of the configuration, and its checks on this machine.

It is a tar file. Its first members describe the others: SHA256SUMS has the SHA-256 of each regular file, as `sha256sum
--check` reads it, and LIST has the type, mode, owner and link target of everything. SHA256SUMS has the SHA-256 of LIST
too. All else is below `files/`, which stands for `app_dir`. So an archive can be verified alone.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from ..records.check import Check, Outcome
from ..remote.answers import parse_count
from ..units import format_size

SUMS, LIST, FILES = "SHA256SUMS", "LIST", "files"  # the members, in this order
MOST_BYTES, MOST_FILES = 2**30, 20_000  # of the content: a configuration is small
LARGEST_DESCRIPTION = 32 * 2**20  # bytes of SHA256SUMS, and of LIST
LARGEST_READ = 2**20  # bytes that a header may have in memory
LARGEST_ID = 2**32
MISSING = "x"  # the type of a path that could not be packed
CHECKS = ("size", "list", "checksums")
KINDS = {tarfile.REGTYPE: "f", tarfile.AREGTYPE: "f", tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l"}
ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}  # of sha256sum


@dataclass(frozen=True)
class Entry:
    """A file, directory or symbolic link in an archive, as LIST describes it."""

    kind: str
    mode: int
    uid: int
    gid: int
    target: str


def check_archive(path: Path) -> list[Check]:
    """Check an archive on this machine: its size, that it has what LIST says, and the SHA-256 of each file.

    It is read and never unpacked. The details contain no names of files.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            return _check_file(file, size)
    except OSError as error:
        problem = f"it cannot be read: {error.strerror}"
        return [Check(name, Outcome.UNKNOWN, problem) for name in CHECKS]


def _check_file(file: IO[bytes], size: int) -> list[Check]:
    if size == 0 or size % tarfile.BLOCKSIZE:
        problem = f"{size:,} bytes are not the size of a tar file"
        return [Check(CHECKS[0], Outcome.FAILED, problem), *_unchecked()]
    checks = [Check(CHECKS[0], Outcome.PASSED, format_size(size))]
    try:
        content = _read(file)
    except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError) as error:
        return [
            *checks,
            Check(CHECKS[1], Outcome.FAILED, f"not an archive of a configuration: {error}"),
            *_unchecked()[1:],
        ]
    return [*checks, content.check_list(), content.check_sums()]


def _unchecked() -> list[Check]:
    return [Check(name, Outcome.UNKNOWN, "no archive to check") for name in CHECKS[1:]]


@dataclass(frozen=True)
class Content:
    """What an archive has, and what its first members say that it has, by path."""

    entries: Mapping[str, Entry]
    sums: Mapping[str, str]
    listed: Mapping[str, Entry]
    listed_sums: Mapping[str, str]

    def check_list(self) -> Check:
        """Compare the members with LIST."""
        differing = [path for path in self.entries.keys() | self.listed.keys() if self._differs(path)]
        if differing:
            return Check(CHECKS[1], Outcome.FAILED, f"{len(differing):,} members are not as {LIST} describes them")
        return Check(CHECKS[1], Outcome.PASSED, f"{len(self.listed):,} members, as {LIST} describes them")

    def _differs(self, path: str) -> bool:
        return self.entries.get(path) != self.listed.get(path)

    def check_sums(self) -> Check:
        """Compare the SHA-256 of each file with SHA256SUMS."""
        paths = self.sums.keys() | self.listed_sums.keys()
        differing = [path for path in paths if self.sums.get(path) != self.listed_sums.get(path)]
        if differing:
            return Check(CHECKS[2], Outcome.FAILED, f"{len(differing):,} files do not have their SHA-256")
        return Check(CHECKS[2], Outcome.PASSED, f"{len(paths) - 1:,} files have their SHA-256")


class _BoundedFile:
    """A file of which at most LARGEST_READ bytes are read at a time: a header may claim to be as large as the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST_READ:
            raise ValueError("a header is too large")
        return self._file.read(size)


def _read(file: IO[bytes]) -> Content:
    """Read an archive from its start to its end; everything unexpected raises ValueError or TarError."""
    bounded = cast("IO[bytes]", _BoundedFile(file))
    with tarfile.open(fileobj=bounded, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        sums = _read_description(tar, SUMS)
        listing = _read_description(tar, LIST)
        entries: dict[str, Entry] = {}
        hashes = {LIST: hashlib.sha256(listing).hexdigest()}
        while member := tar.next():
            _add_member(tar, member, entries, hashes)
    if FILES not in entries or entries[FILES].kind != "d":
        raise ValueError(f"{FILES} is not a directory")
    return Content(entries, hashes, parse_list_member(_decode(listing)), parse_sums(_decode(sums)))


def _read_description(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.next()
    if member is None or member.name != name or not member.isreg():
        raise ValueError(f"it does not start with {SUMS} and {LIST}")
    return b"".join(_read_chunks(tar, member, LARGEST_DESCRIPTION))


def _decode(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _add_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, entries: dict[str, Entry], hashes: dict[str, str]
) -> None:
    name = member.name
    if name in entries or not _is_safe_name(name):
        raise ValueError("a name occurs twice" if name in entries else f"a name is not below {FILES}")
    parent = entries.get(name.rpartition("/")[0])
    if name != FILES and (parent is None or parent.kind != "d"):
        raise ValueError("a member is not in a directory of the archive")
    if len(entries) > 2 * MOST_FILES:
        raise ValueError("it has too many members")
    entries[name] = _describe(member)
    if member.isreg():
        sha256 = hashlib.sha256()
        for chunk in _read_chunks(tar, member, MOST_BYTES):
            sha256.update(chunk)
        hashes[name] = sha256.hexdigest()


def _read_chunks(tar: tarfile.TarFile, member: tarfile.TarInfo, largest: int) -> Iterator[bytes]:
    if member.size > largest:
        raise ValueError("a member is too large")
    file = tar.extractfile(member)
    assert file
    missing = member.size
    while missing:
        chunk = file.read(min(missing, LARGEST_READ))
        if not chunk:
            raise ValueError("it is not complete")
        missing -= len(chunk)
        yield chunk


def _is_safe_name(name: str) -> bool:
    first, *rest = name.split("/")
    return first == FILES and not {"", ".", ".."} & set(rest)


def _describe(member: tarfile.TarInfo) -> Entry:
    kind = KINDS.get(member.type)
    if kind is None or member.issparse():
        raise ValueError("a member is neither a file nor a directory nor a symbolic link")
    return Entry(kind, member.mode & 0o7777, member.uid, member.gid, member.linkname if kind == "l" else "")


# --- the first members ----------------------------------------------------------------------------------------------


def parse_list_member(text: str) -> dict[str, Entry]:
    """Parse LIST: the entries by path, without the paths that could not be packed; raises ValueError."""
    *lines, end = text.split("\0")
    if end:
        raise ValueError(f"{LIST} is not complete")
    entries = {}
    for line in lines:
        kind, mode, _, _, uid, gid, rest = line.split(":", 6)
        path, separator, target = rest.partition("//")
        if path in entries or kind not in (*KINDS.values(), MISSING) or not separator:
            raise ValueError(f"{LIST} is not valid")
        if kind != MISSING:
            if not re.fullmatch("[0-7]{1,4}", mode):
                raise ValueError(f"{LIST} has a mode that is not valid")
            entries[path] = Entry(
                kind, int(mode, 8), parse_count(uid, LARGEST_ID), parse_count(gid, LARGEST_ID), target
            )
    return entries


def parse_sums(text: str) -> dict[str, str]:
    """Parse SHA256SUMS: the SHA-256 by path; raises ValueError."""
    *lines, end = text.split("\n")
    if end:
        raise ValueError(f"{SUMS} is not complete")
    sums = {}
    for line in lines:
        match = re.fullmatch(r"(\\?)([0-9a-f]{64})  (.+)", line, re.DOTALL)
        if match is None:
            raise ValueError(f"{SUMS} is not valid")
        path = match[3]
        if match[1]:
            path = re.sub(r"\\.", lambda escape: ESCAPES.get(escape[0], escape[0]), path)
        if path in sums:
            raise ValueError(f"{SUMS} has a name twice")
        sums[path] = match[2]
    return sums
