"""The password of the repository: read once by this program, and passed to restic through a pipe.

It is in no argument, no environment and no file that this program writes.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from pathlib import Path

from ..errors import RepositoryPasswordError, SettingsError
from ..project import ROOT
from ..remote.shell import quote
from ..settings.model import OffsiteSettings

LONGEST = 4096  # bytes; more would not fit into every pipe at once
TIMEOUT = 60.0  # seconds for password_command, which may ask a key agent


def read_password(settings: OffsiteSettings) -> bytes:
    """Return the password of the repository; raises RepositoryPasswordError, and SettingsError without a setting."""
    if settings.password_command is not None:
        return _require_password(_run_command(settings.password_command), "offsite.password_command")
    if settings.password_file is not None:
        return _require_password(_read_file(ROOT / Path(settings.password_file).expanduser()), "offsite.password_file")
    raise SettingsError(
        "the password of the off-site repository is not configured",
        advice="set offsite.password_file or offsite.password_command in invoke.yaml",
    )


def _require_password(password: bytes, setting: str) -> bytes:
    password = password.strip()  # as restic does
    if not password or len(password) > LONGEST or b"\0" in password:
        problem = "is empty" if not password else "is not the password of a repository"
        raise RepositoryPasswordError(
            f"the password of the off-site repository cannot be read: what {setting} contains {problem}",
            advice=_advise(setting),
        )
    return password


def _read_file(path: Path) -> bytes:
    """Read the file that only its owner may read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise RepositoryPasswordError(
                    f"offsite.password_file {path} is not a regular file", advice=_advise("offsite.password_file")
                )
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o077:
                raise RepositoryPasswordError(
                    f"offsite.password_file {path} belongs to another user, or others can read it",
                    advice=f"use a file of your own: chmod 600 {quote(str(path))}",
                )
            return file.read(LONGEST + 2)
    except OSError as error:
        raise RepositoryPasswordError(
            "the password of the off-site repository cannot be read",
            output=str(error),
            advice=_advise("offsite.password_file"),
        ) from error


def _advise(setting: str) -> str:
    return f"correct {setting}, or restore it from your copy of the password: without it nobody can read the repository"


def _run_command(command: str) -> bytes:
    """Run password_command in a shell, and return what it prints; what it writes to standard error is shown."""
    process = subprocess.Popen(["/bin/sh", "-c", command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise RepositoryPasswordError(
            f"the password of the off-site repository cannot be read: offsite.password_command did not end within "
            f"{TIMEOUT:.0f} s",
            advice="run it by hand: it may be waiting for an answer",
        ) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
    if process.returncode:
        raise RepositoryPasswordError(
            "the password of the off-site repository cannot be read: exit status "
            f"{process.returncode} of offsite.password_command",
            advice=_advise("offsite.password_command"),
        )
    return output
