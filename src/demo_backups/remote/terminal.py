"""Questions to the user on the terminal."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ..units import escape_controls


@dataclass(frozen=True)
class SharedTerminal:
    """The terminal that several hosts share: `use` calls a function in the main thread, one at a time."""

    host: str  # for which this thread works
    use: Callable[[Callable[[], Any]], Any]
    answers: dict[str, str]  # of all hosts, by the question: those that are right for other hosts too

    def use_by_program(self, program: str, action: Callable[[], None]) -> None:
        """Call a function that runs a program which asks on the terminal: its own questions may not name the host."""

        def run() -> None:
            print(escape_controls(f"{self.host}: {program} asks:"), file=sys.stderr, flush=True)
            action()

        self.use(run)


SHARED_TERMINAL: ContextVar[SharedTerminal | None] = ContextVar("SHARED_TERMINAL", default=None)


def ask_secret(prompt: str, is_right: Callable[[str], bool] | None = None) -> str | None:
    """Ask for a password or passphrase without echo; None if there is no terminal. It is not stored.

    Where several hosts are in use, the question names the host, and waits for its turn. With `is_right`, an answer that
    is right is also the answer to the same question of another host.
    """
    if not has_terminal():
        return None
    shared = SHARED_TERMINAL.get()
    if shared is None:
        return _ask_secret(prompt)

    def ask() -> str:
        if prompt in shared.answers:
            return shared.answers[prompt]
        answer = _ask_secret(f"{shared.host}: {prompt}")
        if is_right and is_right(answer):
            shared.answers[prompt] = answer
        return answer

    return str(shared.use(ask))


def _ask_secret(prompt: str) -> str:
    try:
        return getpass.getpass(escape_controls(prompt))
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
