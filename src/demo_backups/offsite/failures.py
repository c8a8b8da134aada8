"""Why restic has failed: its exit status and what it printed, as an error with the advice that fits the cause.

Exit codes that name a cause came with restic 0.17. The texts are those of restic's messages, which it never translates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import (
    BackupsError,
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
        RepositoryFullError,
        "the repository is full",
        "free space where the repository is, or raise its quota, and start the task again; nothing that was stored "
        "before is lost. Smaller numbers in copies keep fewer backups",
        r"no space left on device|quota exceeded|insufficient storage|sftp: \"?failure\"?|ssh_fx_failure"
        r"|file too large|XMinioStorageFull|507 ",
    ),
    Cause(
        RepositoryPasswordError,
        "the password is not the one of the repository",
        "correct offsite.password_file or offsite.password_command, from where you keep passwords. If the password is "
        "lost, nobody can read the repository: start another one while the fetched backups are there",
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
        RepositoryDamagedError,
        "the repository is damaged",
        "do not remove anything from it. Copy it, check the disk that it is on, read "
        "https://restic.readthedocs.io/en/stable/077_troubleshooting.html, and store the backups in another repository "
        "until it is repaired",
        r"ciphertext verification failed|hash mismatch|does not match|invalid data returned|is damaged"
        r"|not found in (the )?index|unexpected pack|size mismatch|blob.*not found|file .* is truncated"
        r"|unable to load (index|snapshot)|does not exist in the repository|packs? .* missing|id mismatch"
        r"|invalid character|unexpected end of json",
    ),
    Cause(
        RepositoryUnreachableError,
        "the repository cannot be reached",
        "check the address, the network and the access: ssh HOST for sftp, the mount for a directory, the keys in the "
        "environment for S3",
        r"permission denied|access denied|accessdenied|connection (refused|reset|timed out)|no route to host|timeout"
        r"|timed out|host key verification failed|could not resolve|no such host|network is unreachable"
        r"|unable to start the sftp session|ssh (command )?exited|ssh_exchange|transport endpoint|stale file handle"
        r"|input/output error|operation not permitted|read-only file system|unauthorized|forbidden|40[13] |50[0234] "
        r"|unexpected eof|broken pipe|connection lost|tls: |certificate",
    ),
    Cause(
        RepositoryMissingError,
        "there is no repository",
        "check offsite.repository; to create a new, empty repository there: ./inv offsite --init",
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
        "the repository is damaged, or a part of it cannot be read",
        "start the task again: if that does not help, check the disk that the repository is on",
        r"repository contains errors|the repository (index )?is damaged",
    ),
)


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


def read_messages(output: str) -> str:
    """Return the text of what restic printed, where with --json it prints objects with messages."""
    lines = []
    for line in output.splitlines():
        message = _read_message(line)
        if message:
            lines.append(message)
    return "\n".join(lines)


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
