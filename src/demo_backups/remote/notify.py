"""Messages for the user, from code that does not print."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Notify: TypeAlias = Callable[[str], None]  # gets a message


def ignore(message: str) -> None:
    """Drop a message."""
