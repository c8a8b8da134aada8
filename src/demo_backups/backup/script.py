"""A backup script, in this checkout and as installed on a host."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..errors import INCOMPLETE, ScriptError
from ..remote.shell import quote

MADE_BACKUP = (0, INCOMPLETE)  # exit statuses of a script that made a backup; only the rotation may have failed


@dataclass(frozen=True)
class Script:
    """A backup script of this checkout."""

    path: Path
    content: bytes

    @property
    def sha256(self) -> str:
        """SHA-256 of its content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    def default(self, variable: str) -> str | None:
        """Return the default of a variable that the environment may set, as in `X="${X:-default}"`; None if none."""
        pattern = rf'^{variable}="\$\{{{variable}:-([^}}"]*)\}}"$'
        match = re.search(pattern, self.content.decode(errors="replace"), re.MULTILINE)
        return match[1] if match else None


@dataclass(frozen=True)
class InstalledScript:
    """A script as installed on a host: its mode in octal, and its content.

    `changed` is when it was put in place, by the clock of the host: the change time of its inode, which a rename
    updates too.
    """

    mode: str
    content: bytes
    changed: datetime

    @property
    def sha256(self) -> str:
        """SHA-256 of its content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


def read_script(path: Path) -> Script:
    """Read a script of this checkout; raises ScriptError where it is missing or could not run on a server."""
    try:
        if not path.is_file():
            raise ScriptError(
                f"the script {path} does not exist",
                advice="restore it: git checkout -- share/bin; or correct release.repository",
            )
        script = Script(path, path.read_bytes())
    except OSError as error:
        raise ScriptError(f"{path} cannot be read", output=str(error)) from error
    _check_runnable(script)
    return script


def _check_runnable(script: Script) -> None:
    word = quote(str(script.path))
    if b"\r" in script.content:
        raise ScriptError(
            f"{script.path} has Windows line endings (CRLF): bash would not run it", advice=f"sed -i 's/\\r$//' {word}"
        )
    if not os.access(script.path, os.X_OK):
        raise ScriptError(f"{script.path} is not executable: cron could not run it", advice=f"chmod +x {word}")
    syntax = subprocess.run(
        ["bash", "-n", "--", script.path], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if syntax.returncode:
        raise ScriptError(f"{script.path} has a syntax error", output=syntax.stderr, advice="correct the script")
