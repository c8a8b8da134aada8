"""The record of what one task did on a host: one model per kind, with the same fields and its own details."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    TypeAdapter,
    with_config,
)

from .check import Check, Outcome, combine_outcomes

SCHEMA = 2
REPOSITORY = ""  # the `database` of a record that is about no single one: of a check of the off-site repository
MIN_YEAR, MAX_YEAR = 1000, 9000  # such a time can be converted to every zone

# --- values ---------------------------------------------------------------------------------------------------------


def _timestamp(text: str) -> str:
    with contextlib.suppress(ValueError):
        time = datetime.fromisoformat(text)
        if time.tzinfo and MIN_YEAR <= time.year < MAX_YEAR:
            return text
    raise ValueError("must be a time with its zone, as in 2026-01-31T12:00:00+00:00")


Timestamp = Annotated[str, AfterValidator(_timestamp)]
Size = Annotated[StrictInt, Field(ge=0, lt=2**63)]  # bytes, as a file can have
Duration = Annotated[StrictFloat, Field(gt=-1e12, lt=1e12)]  # seconds; negative if a clock was set back


# --- the details of each kind ---------------------------------------------------------------------------------------


class Details(BaseModel):
    """What only some kinds of record have.

    Unknown values, of a later version, are kept. Values that were not set are not written.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, defer_build=True)


class RunDetails(Details):
    """The details of a run; `job_started` is the start of its job by the host's clock, set when its end is known."""

    waited_seconds: Duration | None = None
    job_started: Timestamp | None = None


class VerificationDetails(Details):
    """The details of a verification: the size of the source, and whether only quick_check was used.

    `newest`: of the newest backup, not of one that was selected. `compared`: with the live source.
    """

    source_bytes: Size | None = None
    quick: bool = False
    newest: bool = False
    compared: bool = True
    job_started: Timestamp | None = None


class FetchDetails(Details):
    """The details of a fetch: the file on this machine, and what was transferred.

    `resumed_from` are the bytes that an earlier fetch left, `sent_bytes` the bytes on the wire.
    """

    file: str | None = None
    sha256: str | None = None
    resumed_from: Size = 0
    sent_bytes: Size = 0
    verified: bool | None = None


class RestoreDetails(Details):
    """The details of a restore: where the backup came from, how it was restored, and what proves that.

    `identical`: the content was that of the backup, byte for byte. `changed_pages` are those that the service had
    written before the comparison.
    """

    source: str | None = None
    target: str | None = None
    method: str | None = None
    proof: str | None = None
    identical: bool | None = None
    changed_pages: Size | None = None
    saved: str | None = None
    stopped_seconds: Duration | None = None
    job_started: Timestamp | None = None


class DrillDetails(Details):
    """The details of a drill: where the backup came from, and how `drill_command` ended."""

    source: str | None = None
    command_status: int | None = None


class OffsiteDetails(Details):
    """The details of a call of `inv offsite`: what it did (an action: store, check or restore), and its snapshot.

    `repository` is its ID. `sha256` is that of the backup. `part` and `parts` are those of the data that a check has
    read.
    """

    action: str | None = None
    repository: str | None = None
    snapshot: str | None = None
    sha256: str | None = None
    stored_bytes: Size | None = None
    part: Size | None = None
    parts: Size | None = None
    file: str | None = None


class PruneDetails(Details):
    """The details of a pruning of fetched backups: the names of the deleted files."""

    deleted: list[str] = Field(default_factory=list)


class Traffic(BaseModel):
    """What the live writer of a rehearsal did; `slowest` write in seconds."""

    model_config = Details.model_config

    commits: int
    failed: int
    slowest: float


class RehearsalDetails(RunDetails, VerificationDetails):
    """The details of a rehearsal, which is also a run and a verification."""

    journal: str | None = None
    asked_commits_per_second: float | None = None
    traffic: Traffic | None = None


# --- the records ----------------------------------------------------------------------------------------------------


@with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
@dataclass(kw_only=True)
class Record:
    """What one task did or observed on a host. Sizes in bytes, durations in seconds, times in ISO 8601.

    The values are validated where a record is read or written.
    """

    kind: str
    host: str
    database: str
    when: Timestamp = field(default_factory=lambda: datetime.now(timezone.utc).isoformat())
    schema: StrictInt = SCHEMA
    who: str = ""
    script_sha256: str | None = None
    commands: list[str] = field(default_factory=list)
    exit_status: StrictInt | None = None  # of the script if it ran, else of the task
    backup: str | None = None
    bytes: Size | None = None
    created: Timestamp | None = None  # modification time of the backup, by the server's clock
    seconds: Duration | None = None
    checks: list[Check] = field(default_factory=list)
    integrity_check: list[str] = field(default_factory=list)
    error: str | None = None
    details: Details = field(default_factory=Details)

    @property
    def outcome(self) -> Outcome:
        """The outcome of all its checks; passed if it has none."""
        return combine_outcomes(check.outcome for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Return the object that is written to a file and that `inv history --json` prints."""
        content = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        content["checks"] = [check.as_json() for check in self.checks]
        content["details"] = self.details.model_dump(exclude_unset=True)
        return content


@dataclass(kw_only=True)
class DeployRecord(Record):
    """The record of a deployment."""

    kind: Literal["deploy"] = "deploy"


@dataclass(kw_only=True)
class RunRecord(Record):
    """The record of a backup."""

    kind: Literal["run"] = "run"
    details: RunDetails = field(default_factory=RunDetails)


@dataclass(kw_only=True)
class VerificationRecord(Record):
    """The record of a verification."""

    kind: Literal["verification"] = "verification"
    details: VerificationDetails = field(default_factory=VerificationDetails)


@dataclass(kw_only=True)
class RehearsalRecord(Record):
    """The record of a rehearsal."""

    kind: Literal["rehearsal"] = "rehearsal"
    details: RehearsalDetails = field(default_factory=RehearsalDetails)


@dataclass(kw_only=True)
class EnableRecord(Record):
    """The record of a job that was added to a crontab."""

    kind: Literal["enable"] = "enable"


@dataclass(kw_only=True)
class DisableRecord(Record):
    """The record of a job that was removed from a crontab."""

    kind: Literal["disable"] = "disable"


@dataclass(kw_only=True)
class EnableWalRecord(Record):
    """The record of a changed journal mode."""

    kind: Literal["enable-wal"] = "enable-wal"


@dataclass(kw_only=True)
class StopRecord(Record):
    """The record of a backup that was stopped."""

    kind: Literal["stop-backup"] = "stop-backup"


@dataclass(kw_only=True)
class FetchRecord(Record):
    """The record of a fetched backup."""

    kind: Literal["fetch"] = "fetch"
    details: FetchDetails = field(default_factory=FetchDetails)


@dataclass(kw_only=True)
class RestoreRecord(Record):
    """The record of a restore."""

    kind: Literal["restore"] = "restore"
    details: RestoreDetails = field(default_factory=RestoreDetails)


@dataclass(kw_only=True)
class DrillRecord(Record):
    """The record of a restore drill."""

    kind: Literal["drill"] = "drill"
    details: DrillDetails = field(default_factory=DrillDetails)


@dataclass(kw_only=True)
class PruneRecord(Record):
    """The record of a pruning of fetched backups."""

    kind: Literal["prune-copies"] = "prune-copies"
    details: PruneDetails = field(default_factory=PruneDetails)


@dataclass(kw_only=True)
class OffsiteRecord(Record):
    """The record of a copy in the off-site repository, or of a check of the repository."""

    kind: Literal["offsite"] = "offsite"
    details: OffsiteDetails = field(default_factory=OffsiteDetails)


@dataclass(kw_only=True)
class BackupConfigRecord(Record):
    """The record of an archive of the configuration. It has no names and no contents of files."""

    kind: Literal["backup-config"] = "backup-config"


@dataclass(kw_only=True)
class AttachRecord(Record):
    """The record of an attach that found no job, as earlier versions wrote it."""

    kind: Literal["attach"] = "attach"


RECORDS = (
    *(DeployRecord, RunRecord, VerificationRecord, RehearsalRecord, EnableRecord, DisableRecord),
    *(EnableWalRecord, StopRecord, AttachRecord),
    *(FetchRecord, RestoreRecord, DrillRecord, PruneRecord, OffsiteRecord, BackupConfigRecord),
)
KINDS: dict[str, type[Record]] = {cls.kind: cls for cls in RECORDS}
AnyRecord: TypeAlias = (
    DeployRecord
    | RunRecord
    | VerificationRecord
    | RehearsalRecord
    | EnableRecord
    | DisableRecord
    | EnableWalRecord
    | StopRecord
    | AttachRecord
    | FetchRecord
    | RestoreRecord
    | DrillRecord
    | PruneRecord
    | OffsiteRecord
    | BackupConfigRecord
)


def new_record(kind: str, host: str, database: str, **values: Any) -> Record:
    """Make a record of a kind, with the current time."""
    return KINDS[kind](host=host, database=database, **values)


@functools.cache
def record_adapter() -> TypeAdapter[AnyRecord]:
    """Return what validates a record. It takes a tenth of a second to build, and few tasks read records."""
    return TypeAdapter(Annotated[AnyRecord, Field(discriminator="kind")])


def validate_record(content: dict[str, Any]) -> Record:
    """Make a record of the object in a file; raises pydantic's ValidationError."""
    return record_adapter().validate_python(_upgrade(content))


def _upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """Add what records of earlier versions lack: only the text of a check said that it was a quick_check."""
    details, checks = content.get("details", {}), content.get("checks")
    if not isinstance(details, dict) or "quick" in details or not isinstance(checks, list):
        return content
    texts = [check.get("detail") for check in checks if isinstance(check, dict)]
    is_quick = any(isinstance(text, str) and text.startswith("quick_check:") for text in texts)
    return content | {"details": details | {"quick": True}} if is_quick else content
