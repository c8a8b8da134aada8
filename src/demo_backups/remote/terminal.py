"""Questions to the user on the terminal."""

from __future__ import annotations

import getpass
import sys

from ..units import escape_controls


def ask_secret(prompt: str) -> str | None:
    """Ask for a password or passphrase without echo; None if there is no terminal. It is not stored."""
    try:
        return getpass.getpass(escape_controls(prompt)) if sys.stdin.isatty() else None
    except EOFError:  # Ctrl-D
        raise KeyboardInterrupt from None
