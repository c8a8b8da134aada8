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


def has_terminal() -> bool:
    """Tell whether the user can be asked a question."""
    return sys.stdin is not None and sys.stdin.isatty()  # it is None if it was closed


def ask_yes_no(question: str) -> bool | None:
    """Ask a question; True for yes, False for anything else and for Ctrl-D, None if there is no terminal."""
    if not has_terminal():
        return None
    try:
        return input(f"{escape_controls(question)} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False
