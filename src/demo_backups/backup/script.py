"""A backup script, in this checkout and as installed on a host."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..errors import StepError
from ..remote.shell import quote


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
        """The value that is built in for a variable which the environment may set; None where there is none."""
        match = re.search(
            rf'^{variable}="\$\{{{variable}:-([^}}"]*)\}}"$', self.content.decode(errors="replace"), re.MULTILINE
        )
        return match[1] if match else None


@dataclass(frozen=True)
class InstalledScript:
    """The script that stands on the host: its mode in octal, its content.

    `since` is when it was put there, by the clock of the host: the change of its inode, which a renamed file has too.
    """

    mode: str
    content: bytes
    since: datetime

    @property
    def sha256(self) -> str:
        """SHA-256 of its content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


def read_script(path: Path) -> Script:
    """Read a script of this checkout; raises StepError where it could not run on a server."""
    try:
        if not path.is_file():
            raise StepError(
                f"there is no script {path}",
                advice="restore it: git checkout -- share/bin; or correct release.repository",
            )
        script = Script(path, path.read_bytes())
    except OSError as error:
        raise StepError(f"{path} cannot be read", output=str(error)) from error
    if b"\r" in script.content:
        raise StepError(
            f"{path} has Windows line ends (CRLF): bash would not run it",
            advice=f"sed -i 's/\\r$//' {quote(str(path))}",
        )
    if not os.access(path, os.X_OK):
        raise StepError(f"{path} is not executable: cron could not run it", advice=f"chmod +x {quote(str(path))}")
    checked = subprocess.run(
        ["bash", "-n", "--", path], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if checked.returncode:
        raise StepError(f"bash cannot read {path}", output=checked.stderr, advice="correct the script")
    return script
