"""Ask a host for one fact, so that an error of it is no error of the others; and compare its clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..errors import ConnectionLostError, HostKeyError, HostUnreachableError, LoginError
from ..remote.fact import Fact, try_fact

T = TypeVar("T")
UNREACHABLE = (ConnectionLostError, HostUnreachableError, HostKeyError, LoginError)
CLOCK = "date +%s.%N"


def try_query(query: Callable[[], T]) -> Fact[T]:
    """Return what a query returns, or Unavailable with its error.

    Raises the errors that mean that the host cannot be reached any more.
    """
    return try_fact(query, reraised=UNREACHABLE)


def compare_clocks(before: float, now: float, after: float) -> float:
    """Return by how much a clock is ahead that was read between two times of this machine's clock."""
    return now - before if now < before else max(0.0, now - after)
