"""Figures of a benchmark: results beside their targets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A figure: what was measured, its target, the result with what belongs to it, and whether it was reached."""

    what: str
    target: str
    measured: str
    reached: bool | None

    def cells(self) -> list[str]:
        """Return the cells of its row."""
        return [self.what, self.target, self.measured, {True: "yes", False: "**no**", None: ""}[self.reached]]
