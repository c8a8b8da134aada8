"""A fact: a value, or Unavailable with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from ..errors import BackupsError, InterruptedRunError

T = TypeVar("T")


@dataclass(frozen=True)
class Unavailable:
    """A fact that could not be determined: the reason in a few words, the full error text, and what was printed."""

    reason: str
    error: str
    output: str = ""


Fact: TypeAlias = T | Unavailable


def try_fact(
    query: Callable[[], T],
    errors: type[BackupsError] | tuple[type[BackupsError], ...] = BackupsError,
    reraised: tuple[type[BackupsError], ...] = (),
) -> Fact[T]:
    """Return the result of a query, or Unavailable with its error, if it is one of `errors`.

    Ctrl-C is raised again, and so are the errors `reraised`.
    """
    try:
        return query()
    except BackupsError as error:
        if isinstance(error, (InterruptedRunError, *reraised)) or not isinstance(error, errors):
            raise
        return Unavailable(error.action, str(error), error.output)
