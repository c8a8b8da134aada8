"""Archives of a configuration, made without the script of the host."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

MODE, OWNER = 0o640, 1000


def make_archive(path: Path, files: Mapping[str, bytes], *, links: Mapping[str, str] | None = None) -> Path:
    """Write a good archive with some files below `files/`, by their paths there, and symbolic links."""
    links = links or {}
    entries = [f"d:755:user:user:{OWNER}:{OWNER}:files//"]
    entries += [f"f:{MODE:o}:user:user:{OWNER}:{OWNER}:files/{name}//" for name in files]
    entries += [f"l:777:user:user:{OWNER}:{OWNER}:files/{name}//{target}" for name, target in links.items()]
    listing = "".join(f"{entry}\0" for entry in entries).encode()
    members = {"LIST": listing} | {f"files/{name}": content for name, content in files.items()}
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in members.items())
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, "SHA256SUMS", sums.encode())
        add(tar, "LIST", listing)
        add(tar, "files", mode=0o755, type=tarfile.DIRTYPE)
        for name, content in files.items():
            add(tar, f"files/{name}", content)
        for name, target in links.items():
            add(tar, f"files/{name}", mode=0o777, type=tarfile.SYMTYPE, linkname=target)
    return path


def make_archive_of_link(path: Path, target: Path) -> Path:
    """Write an archive whose root is a symbolic link, as its list and checksums say."""
    listing = f"l:777:user:user:{OWNER}:{OWNER}:files//{target}\0".encode()
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, "SHA256SUMS", f"{hashlib.sha256(listing).hexdigest()}  LIST\n".encode())
        add(tar, "LIST", listing)
        add(tar, "files", mode=0o777, type=tarfile.SYMTYPE, linkname=str(target))
    return path


def replace_sums(path: Path, content: bytes) -> None:
    """Replace SHA256SUMS of an archive."""
    with tarfile.open(path) as tar:
        members = [(member, file.read() if (file := tar.extractfile(member)) else b"") for member in tar if member]
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for member, old in members:
            new = content if member.name == "SHA256SUMS" else old
            member.size = len(new)
            tar.addfile(member, io.BytesIO(new))


def add(
    tar: tarfile.TarFile,
    name: str,
    content: bytes = b"",
    *,
    mode: int = MODE,
    type: bytes = tarfile.REGTYPE,
    linkname: str = "",
) -> None:
    """Add a member to a tar file."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.type, member.linkname = len(content), mode, type, linkname
    member.uid = member.gid = OWNER
    tar.addfile(member, io.BytesIO(content))
