"""One record of what a task did on a host."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    TypeAdapter,
    with_config,
)
from typing_extensions import TypedDict

from .check import Outcome, combine_outcomes

SCHEMA = 2


def _timestamp(text: str) -> str:
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(text)
        # Every reader can say it in its own zone and reckon with it, which the calendar's first and last years forbid.
        if moment.tzinfo and 1000 <= moment.year < 9000:
            return text
    raise ValueError("must be a time with its zone, as in 2026-01-31T12:00:00+00:00")


Timestamp = Annotated[str, AfterValidator(_timestamp)]
Size = Annotated[StrictInt, Field(ge=0, lt=2**63)]  # what a file can have
Duration = Annotated[StrictFloat, Field(gt=-1e12, lt=1e12)]  # below 0 where a clock was put back


@with_config(ConfigDict(extra="forbid"))
class RecordedCheck(TypedDict):
    """One check of a backup, as a record has it; `passed` is None where it could not be made."""

    name: str
    passed: StrictBool | None
    detail: str


@with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
@dataclass
class Record:
    """What one task did or saw on a host, `kind` says which. Sizes in bytes, durations in seconds, times in ISO 8601.

    The types are checked where a record is read.
    """

    kind: str
    host: str
    database: str
    when: Timestamp = field(default_factory=lambda: datetime.now(timezone.utc).isoformat())
    schema: StrictInt = SCHEMA
    who: str = ""
    script_sha256: str | None = None
    commands: list[str] = field(default_factory=list)
    exit_status: StrictInt | None = None  # of the script where it ran, else of the task
    backup: str | None = None
    bytes: Size | None = None
    created: Timestamp | None = None  # the backup was written last, by the server's clock
    seconds: Duration | None = None
    checks: list[RecordedCheck] = field(default_factory=list)
    integrity_check: list[str] = field(default_factory=list)
    error: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        """The verdict of its checks; True also where none was made."""
        passed: bool | None = combine_outcomes(Outcome(check["passed"]) for check in self.checks).value
        return passed


_SCHEMA = TypeAdapter(Record)
