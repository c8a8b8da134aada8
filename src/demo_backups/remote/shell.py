"""Words and paths of the shell of a host."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath

HOME = '"$HOME"'  # words of the host's shell
STATE_DIR = f"{HOME}/.demo-backups"  # the state of the latest jobs, and the previous crontab
CRON_PATH = "/usr/bin:/bin"  # the PATH of a job in a crontab that does not set it (crontab(5))


def quote(path: PurePosixPath | str) -> str:
    """Quote a path, or any text, as one word of a POSIX shell."""
    return shlex.quote(str(path))
