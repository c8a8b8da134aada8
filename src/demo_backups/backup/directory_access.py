"""Whether the script can create and delete files in a directory, found out without creating one."""

from __future__ import annotations

import enum
import re
import secrets
from pathlib import PurePosixPath

from ..remote.host import Host
from ..remote.shell import quote
from ..remote.sudo import USE_SUDO


class DirectoryAccess(enum.Enum):
    """What the user of the script can do in a directory."""

    WRITABLE = "writable"
    READ_ONLY = "on a read-only file system"
    APPEND_ONLY = "append-only: files in it cannot be renamed or deleted"
    IMMUTABLE = "immutable: no file can be created in it"
    DENIED = "not writable for this user"


def directory_access_command(directory: PurePosixPath, lock: PurePosixPath | None = None) -> str:
    """Build the command that prints what keeps this user from changing a directory, which may have a lock file.

    `rmdir` of the lock, which is a regular file, never succeeds; its message is the first reason of the kernel
    (fs/namei.c): a read-only file system, then missing permission, then the attributes of the directory, and only then
    that it is not a directory. A name that does not exist shows only the first. `lsattr` shows the attributes where
    e2fsprogs is installed and the file system has any.
    """
    choose = f"name=.demo-backups-{secrets.token_hex(16)}"
    if lock:
        choose += f"; if [ -f {quote(lock)} ] && [ ! -L {quote(lock)} ]; then name={quote(lock.name)}; fi"
    return "\n".join(
        [
            f"cd -- {quote(directory)} || exit",
            choose,
            'rmdir -- "$name" 2>&1',
            "if [ -w . ]; then echo writable; else echo unwritable; fi",
            "lsattr -d . 2>/dev/null || true",
        ]
    )


def parse_directory_access(output: str) -> DirectoryAccess:
    """Parse what `directory_access_command` printed; raises ValueError."""
    match = re.fullmatch(r"rmdir: failed to remove '[^\n]*': ([^\n]+)\n(writable|unwritable)\n([^\n]*)\n?", output)
    if not match:
        raise ValueError("not the access to a directory")
    reason, permission, attributes = match.groups()
    if reason == "Read-only file system":
        return DirectoryAccess.READ_ONLY
    flags = attributes.split(" ")[0]
    if "i" in flags:
        return DirectoryAccess.IMMUTABLE
    if "a" in flags:
        return DirectoryAccess.APPEND_ONLY
    if reason == "Operation not permitted":
        return DirectoryAccess.APPEND_ONLY if permission == "writable" else DirectoryAccess.IMMUTABLE
    if permission == "unwritable" or reason == "Permission denied":
        return DirectoryAccess.DENIED
    if reason not in ("Not a directory", "No such file or directory"):
        raise ValueError(f"rmdir failed for another reason: {reason}")
    return DirectoryAccess.WRITABLE


def read_directory_access(host: Host, directory: PurePosixPath, lock: PurePosixPath | None = None) -> DirectoryAccess:
    """Find out whether this user can create and delete files in a directory; raises CouldNotLookError."""
    command = directory_access_command(directory, lock)
    return host.query_parsed(f"find out who can write to {directory}", command, parse_directory_access)


def explain_directory_access(access: DirectoryAccess, directory: PurePosixPath) -> str:
    """Explain why no file can be created in a directory, and what to do; empty if one can be created."""
    path = quote(directory)
    advice = {
        DirectoryAccess.READ_ONLY: "mount it writable (after a disk error, see dmesg first)",
        DirectoryAccess.APPEND_ONLY: f"sudo chattr -a {path}",
        DirectoryAccess.IMMUTABLE: f"sudo chattr -i {path}",
        DirectoryAccess.DENIED: f"correct its owner or mode, or {USE_SUDO}",
    }
    return "" if access not in advice else f"{directory} is {access.value}: {advice[access]}"
