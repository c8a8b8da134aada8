"""Words, paths and commands of the shell of a host."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath

HOME = '"$HOME"'  # words of the host's shell
STATE_DIR = f"{HOME}/.demo-backups"  # the state of the latest jobs, and the previous crontab
CRON_PATH = "/usr/bin:/bin"  # the PATH of a job in a crontab that does not set it (crontab(5))

# Words of `find`: the owner is root, the user of the command, or the account that sudo was called from (sudo(8)).
TRUSTED_OWNER = r'\( -uid 0 -o -uid "$(id -u)" -o -uid "${SUDO_UID:-0}" \)'


def quote(path: PurePosixPath | str) -> str:
    """Quote a path, or any text, as one word of a POSIX shell."""
    return shlex.quote(str(path))


# What shells read differently inside single quotes: csh `!` and a line end, fish a backslash. As printf(1) writes them.
_ESCAPES = str.maketrans({character: rf"\0{ord(character):03o}" for character in "\\'!\n\r"})


def for_any_shell(script: str) -> str:
    """Make of a POSIX script a command that every login shell understands, csh and fish too.

    /bin/sh replaces the login shell. If a program replaces it in turn, its exit status or signal is the one reported.
    """
    return f"""exec /bin/sh -c 'eval "$(printf %b "$0")"' '{script.translate(_ESCAPES)}'"""
