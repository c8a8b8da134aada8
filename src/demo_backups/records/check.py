"""One check, its outcome, and the outcome of several."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, with_config

from ..errors import COULD_NOT_LOOK, FAILED


class Outcome(enum.Enum):
    """The outcome of a check. The value is that of `passed` in JSON and in records."""

    PASSED = True
    FAILED = False
    UNKNOWN = None

    @property
    def exit_code(self) -> int:
        """The exit code of a task with this outcome: 0, FAILED, or COULD_NOT_LOOK if a check could not be made."""
        return {Outcome.PASSED: 0, Outcome.FAILED: FAILED, Outcome.UNKNOWN: COULD_NOT_LOOK}[self]


def _parse_outcome(value: Any) -> Outcome:
    if value is None or isinstance(value, bool):
        return Outcome(value)
    raise ValueError("must be true, false or null")


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Check:
    """One check: its name, its outcome, and the details that the outcome rests on."""

    name: str
    outcome: Annotated[Outcome, BeforeValidator(_parse_outcome), Field(validation_alias="passed")]
    detail: str

    def as_json(self) -> dict[str, str | bool | None]:
        """Return the object that JSON output and records have for it."""
        return {"name": self.name, "passed": self.outcome.value, "detail": self.detail}


class Checked:
    """What has checks: the outcome of all of them, and the exit code of the task that made them."""

    checks: Sequence[Check]

    @property
    def outcome(self) -> Outcome:
        """The combined outcome of the checks."""
        return combine_outcomes(check.outcome for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0: all checks passed; 1: one failed; 3: none failed, and one is unknown."""
        return self.outcome.exit_code


def combine_outcomes(outcomes: Iterable[Outcome]) -> Outcome:
    """Combine the outcomes of several checks: failed if one failed, else unknown if one is, else passed."""
    distinct = set(outcomes)
    if Outcome.FAILED in distinct:
        return Outcome.FAILED
    if Outcome.UNKNOWN in distinct:
        return Outcome.UNKNOWN
    return Outcome.PASSED
