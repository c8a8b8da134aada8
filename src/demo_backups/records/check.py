"""One check, and the outcome of several."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it passed (None: could not be made), and what it saw."""

    name: str
    passed: bool | None
    detail: str


def combine_outcomes(results: Iterable[bool | None]) -> bool | None:
    """False if a check failed, else None if one could not be made, else True; True also where none was made."""
    seen = set(results)
    return False if False in seen else None if None in seen else True
