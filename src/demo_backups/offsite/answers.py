"""What restic answers, parsed: a repository may be on the machine of others. Every parser raises ValueError."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, TypeAdapter, ValidationError

from ..records.record import MAX_YEAR, MIN_YEAR

T = TypeVar("T")
MOST_SNAPSHOTS = 100_000


def parse_time(value: Any) -> datetime:
    """Parse a time as Go prints it, with up to nine digits of a second and a zone."""
    match = re.fullmatch(
        r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", value if isinstance(value, str) else ""
    )
    if match is None:
        raise ValueError(f"{value!r} is not a time")
    fraction = (match[2] or "").ljust(6, "0")[:6]
    time = datetime.fromisoformat(f"{match[1]}.{fraction}{match[3].replace('Z', '+00:00')}")
    if not MIN_YEAR < time.year < MAX_YEAR:
        raise ValueError(f"{value!r} is not a time of a backup")
    return time.astimezone(timezone.utc)


Id = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Time = Annotated[datetime, BeforeValidator(parse_time)]
Size = Annotated[StrictInt, Field(ge=0, lt=2**63)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class SnapshotAnswer(_Answer):
    """A snapshot, as `restic snapshots --json` lists it."""

    id: Id
    time: Time
    tags: list[str] | None = None
    hostname: str = ""


class SummaryAnswer(_Answer):
    """The last line of `restic backup --json`."""

    snapshot_id: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
    files_new: Size
    files_changed: Size
    files_unmodified: Size
    total_bytes_processed: Size
    data_added: Size
    data_added_packed: Size | None = None

    @property
    def files(self) -> int:
        """The number of files in the snapshot."""
        return self.files_new + self.files_changed + self.files_unmodified

    @property
    def stored_bytes(self) -> int:
        """The bytes that the repository has grown by: compressed, where restic says so."""
        return self.data_added if self.data_added_packed is None else self.data_added_packed


class NodeAnswer(_Answer):
    """A file or directory of a snapshot, as `restic ls --json` lists it."""

    path: str
    type: str
    size: Size = 0


class ConfigAnswer(_Answer):
    """The configuration of a repository, as `restic cat config` prints it."""

    id: Id
    version: StrictInt


class LockAnswer(_Answer):
    """A lock of a repository, as `restic cat lock` prints it."""

    time: Time
    exclusive: bool = False
    hostname: str = ""
    username: str = ""
    pid: StrictInt = 0


def _parse(kind: type[T], text: str | bytes) -> T:
    try:
        return TypeAdapter(kind).validate_json(text)
    except (ValidationError, RecursionError) as error:
        raise ValueError(f"not an answer of restic: {str(text[:200])!r}") from error


def parse_snapshots(text: str) -> list[SnapshotAnswer]:
    """Parse the output of `restic snapshots --json`: `null` if there are none."""
    found = _parse(list[SnapshotAnswer] | None, text) or []  # type: ignore[arg-type]
    if len(found) > MOST_SNAPSHOTS:
        raise ValueError(f"{len(found):,} snapshots are too many")
    return found


def parse_summary(text: str) -> SummaryAnswer:
    """Parse the output of `restic backup --json`: one line of it is the summary."""
    lines = [line for line in text.splitlines() if '"message_type":"summary"' in line.replace(" ", "")]
    if len(lines) != 1:
        raise ValueError(f"{len(lines)} summaries in the output of restic")
    return _parse(SummaryAnswer, lines[0])


def parse_contents(text: str) -> tuple[SnapshotAnswer, list[NodeAnswer]]:
    """Parse the output of `restic ls --json`: the snapshot, and what is in it, at least one file or directory."""
    first, *lines = text.splitlines() or [""]
    snapshot, nodes = _parse(SnapshotAnswer, first), [_parse(NodeAnswer, line) for line in lines]
    if not nodes:
        raise ValueError("there is nothing in the snapshot")
    return snapshot, nodes


def parse_config(text: str) -> ConfigAnswer:
    """Parse the output of `restic cat config`."""
    return _parse(ConfigAnswer, text)


def parse_lock(text: str) -> LockAnswer:
    """Parse the output of `restic cat lock`."""
    return _parse(LockAnswer, text)


def parse_ids(text: str) -> list[str]:
    """Parse the output of `restic list`: one ID a line."""
    ids = text.split()
    if not all(re.fullmatch(r"[0-9a-f]{64}", value) for value in ids):
        raise ValueError(f"not a list of IDs: {text[:200]!r}")
    return ids


def parse_check(text: str) -> None:
    """Parse the output of `restic check`: it says in the end that there are no errors."""
    if "no errors were found" not in text.splitlines():
        raise ValueError(f"not the end of a check: {text[-200:]!r}")


def parse_version(text: str) -> tuple[int, int]:
    """Parse the output of `restic version`."""
    match = re.match(r"restic (\d{1,4})\.(\d{1,4})", text)
    if match is None:
        raise ValueError(f"not the version of restic: {text[:200]!r}")
    return int(match[1]), int(match[2])
