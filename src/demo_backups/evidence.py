"""What was run and what it showed, kept as records: one JSON file each, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .errors import FAILED, INTERRUPTED, BackupsError, StepError
from .project import ROOT
from .settings import Settings

SCHEMA = 1


@dataclass
class Record:
    """One deploy, run, verification or rehearsal. Sizes in bytes, durations in seconds, times in ISO 8601."""

    kind: str
    host: str
    database: str
    when: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat())
    schema: int = SCHEMA
    script_sha256: str | None = None
    exit_status: int | None = None  # of the script where it ran, else of the task
    backup: str | None = None
    bytes: int | None = None
    seconds: float | None = None
    checks: list[dict[str, Any]] = field(default_factory=list)
    integrity_check: list[str] = field(default_factory=list)
    error: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    who: str = ""
    commands: list[str] = field(default_factory=list)
    created: str | None = None


def folder(settings: Settings) -> Path:
    """The folder of the records: `evidence_dir`, from this checkout's root where it is relative."""
    return ROOT / Path(settings.evidence_dir).expanduser()


@contextlib.contextmanager
def recording(into: Path, record: Record) -> Iterator[Record]:
    """Write the record of what is done inside into a folder, however that ends.

    Raises StepError where the folder cannot be written: before anything is done.
    """
    with _writing(into), tempfile.TemporaryFile(dir=into):
        pass
    started = time.monotonic()
    try:
        yield record
    except BaseException as error:
        record.error = str(error) or type(error).__name__
        _complete(record, _status(error), started)
        try:
            write(into, record)
        except StepError as unwritten:
            # It must not hide what went wrong.
            if isinstance(error, BackupsError):
                error.printed = f"{error.printed}\n{unwritten}".strip()
        raise
    _complete(record, 0, started)
    write(into, record)


def _complete(record: Record, status: int, started: float) -> None:
    if record.seconds is None:
        record.seconds = round(time.monotonic() - started, 3)
    if record.exit_status is None:
        record.exit_status = status


def _status(error: BaseException) -> int:
    if isinstance(error, BackupsError):
        return error.exit_code
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED


@dataclass(frozen=True)
class Damaged:
    """A file among the records that is none: where it is, and what is wrong with it."""

    path: Path
    why: str


def read_all(folder: Path) -> tuple[list[Record], list[Damaged]]:
    """Read the records of a folder, the oldest first, and name those that cannot be read."""
    records, damaged = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(Record(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError) as error:
            damaged.append(Damaged(path, str(error)))
    return records, damaged


def write(into: Path, record: Record) -> Path:
    """Write a record beside its place, flush it, and give it its name; raises StepError."""
    words = (record.when[:26].replace(":", "-"), record.kind, record.host, record.database)
    name = "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", word) for word in words)
    place = into / f"{name}.json"
    with (
        _writing(into),
        tempfile.NamedTemporaryFile("w", dir=into, prefix=".", delete=False, encoding="utf-8") as part,
    ):
        try:
            json.dump(asdict(record), part, indent=2)
            part.write("\n")
            part.flush()
            os.fsync(part.fileno())
            Path(part.name).replace(place)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise
    return place


@contextlib.contextmanager
def _writing(into: Path) -> Iterator[None]:
    """Make the folder, and put into words that something could not be written to it."""
    try:
        into.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StepError(
            f"the record of this could not be written to {into}",
            printed=str(error),
            advice="set evidence_dir to a folder that can be written",
        ) from error
