"""Why restic has failed: its exit status and what it printed, as an error with the advice that fits the cause.

Exit codes that name a cause came with restic 0.17. The texts are those of restic's messages, which it never translates.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import (
    BackupsError,
    LocalDiskError,
    MissingToolError,
    OffsiteError,
    RepositoryDamagedError,
    RepositoryFullError,
    RepositoryLockedError,
    RepositoryMissingError,
    RepositoryPasswordError,
    RepositoryUnreachableError,
)

MOST_LINES = 12  # of what restic printed, in an error
LONGEST_LINE = 500
LARGEST_KEY = 65536  # bytes


@dataclass(frozen=True)
class Cause:
    """One cause of a failure: how it is recognized, and the error for it; `text` follows what was tried."""

    error: type[BackupsError]
    text: str
    advice: str
    pattern: str
    status: int | None = None

    def matches(self, status: int, output: str) -> bool:
        """Tell whether a failure has this cause."""
        return status == self.status or bool(re.search(self.pattern, output, re.IGNORECASE))


# The first that matches decides. What proves damage is before what may have several causes.
CAUSES = (
    Cause(
        LocalDiskError,
        "the disk for temporary files on this machine is full",
        "free space in the directory for temporary files, or set TMPDIR to another one",
        r"restic-temp-[a-z]+-\d+: (no space left|disk quota|file too large)",
    ),
    Cause(
        RepositoryFullError,
        "the repository is full",
        "free space where the repository is, or raise its quota, and start the task again; nothing that was stored "
        "before is lost. Smaller numbers in copies keep fewer backups",
        r"no space left on device|quota exceeded|file too large|insufficient storage|XMinioStorageFull"
        r"|sftp: \"?failure|ssh_fx_failure|\b507\b",
    ),
    Cause(
        RepositoryPasswordError,
        "the password is not the one of the repository",
        "correct the password that offsite.password_file or offsite.password_command provides. If it is lost, nobody "
        "can read the repository: create another one while the fetched backups exist",
        r"wrong password or no key found",
        status=12,
    ),
    Cause(
        RepositoryLockedError,
        "another process is working on the repository",
        "wait for its end, and start the task again; the lock of a process that has been killed is removed then",
        r"repository is already locked",
        status=11,
    ),
    Cause(
        RepositoryLockedError,
        "a lock of the repository is damaged",
        "when no other process is working on the repository, remove all locks by hand: restic unlock --remove-all",
        r"<lock/[^\n]*(invalid data returned|ciphertext verification failed)",
    ),
    Cause(
        RepositoryDamagedError,
        "the repository is damaged",
        "remove nothing from it. Copy it, check the disk that it is on, read "
        "https://restic.readthedocs.io/en/stable/077_troubleshooting.html, and store the backups in another repository "
        "until it is repaired",
        r"ciphertext verification failed|pack id does not match|invalid data returned|hash mismatch|is damaged"
        r"|fatal: unmarshal|unexpected pack id|loadindex returned errors|not found in index"
        r"|pack [0-9a-f]+: does not exist"
        r"|<(data|index|snapshot|key)/[^\n]*no such file|tree [0-9a-f]+: not found|blob [0-9a-f]+ not found",
    ),
    Cause(
        RepositoryUnreachableError,
        "the repository cannot be reached",
        "check its address, the network and the access: sftp HOST for sftp, the mount for a directory, the keys in the "
        "environment for S3",
        r"permission denied|access ?denied|operation not permitted|connection (refused|reset|timed out|lost)"
        r"|no route to host|\btime(d )?out\b|host key verification failed|could not resolve|no such host"
        r"|network is unreachable|unable to start the sftp session|ssh (command )?exited|transport endpoint"
        r"|stale file handle|input/output error|read-only file system|unauthorized|forbidden|bad gateway"
        r"|service unavailable|unexpected eof|broken pipe|tls: |x509: ",
    ),
    Cause(
        RepositoryMissingError,
        "there is no repository",
        "check offsite.repository; to create a new, empty repository: ./inv offsite --init",
        r"is there a repository at the following location|repository does not exist|unable to open config file",
        status=10,
    ),
    Cause(
        MissingToolError,
        "restic is too old for the repository",
        "install a newer restic",
        r"unsupported repository version|unknown (flag|command)",
    ),
    Cause(
        RepositoryDamagedError,
        "the repository is damaged",
        "start the task again; if that does not help, check the disk that the repository is on",
        r"repository contains errors|the repository (index )?is damaged",
    ),
)
# Lines of Go's stack traces, which version 0.14 prints, and of progress, such as `[0:01] 50.00%`.
_NOISE = re.compile(r"\t|(github\.com|main|runtime)[./]|\[\d+:\d\d(:\d\d)?\] ")


def explain(action: str, status: int, output: str, mask: Callable[[str], str]) -> BackupsError:
    """Return the error for a failure of restic: what was tried, the cause, what was printed, and what to do."""
    text = mask(read_messages(output))
    for cause in CAUSES:
        if cause.matches(status, text):
            return cause.error(f"{action}: {cause.text}", output=shorten_output(text), advice=cause.advice)
    ended = f"restic ended with exit status {status}" if status >= 0 else f"restic was killed by signal {-status}"
    return OffsiteError(
        f"{action}: {ended}",
        output=shorten_output(text),
        advice="start the task again; if that does not help, run restic by hand for the same repository",
    )


def find_damaged_key(directory: Path) -> Path | None:
    """Find a key of a repository on this machine that was changed: restic 0.14 says that the password is wrong.

    The name of a key is its SHA-256.
    """
    with contextlib.suppress(OSError):
        for path in sorted((directory / "keys").iterdir()):
            if not _is_named_by_hash(path):
                return path
    return None


def _is_named_by_hash(path: Path) -> bool:
    """Tell whether the name of a small regular file is its SHA-256; others can write to the directory."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return hashlib.sha256(file.read(LARGEST_KEY + 1)).hexdigest() == path.name


def read_messages(output: str) -> str:
    """Return the text of what restic printed, where with --json it prints objects with messages."""
    messages = [_read_message(line) for line in output.splitlines() if not _NOISE.match(line)]
    return "\n".join(message for message in messages if message)


def _read_message(line: str) -> str:
    """Return the message in a line; nothing for a line of progress."""
    if not line.startswith("{"):
        return line.strip()
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(content, dict) or content.get("message_type") in ("status", "summary", "verbose_status"):
        return ""
    error = content.get("error")
    texts = [content.get("message"), error.get("message") if isinstance(error, dict) else None, content.get("item")]
    return " ".join(text for text in texts if isinstance(text, str)) or line


def shorten_output(text: str) -> str:
    """Return the first and the last lines of a text: the first errors, and how it ended."""
    lines = [line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..." for line in text.splitlines()]
    if len(lines) > MOST_LINES:
        half = MOST_LINES // 2
        lines = [*lines[:half], f"... {len(lines) - 2 * half} more lines ...", *lines[-half:]]
    return "\n".join(lines)
