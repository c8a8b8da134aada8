"""What was run and what it showed, kept as records: one JSON file each, written whole or not at all.

docs/evidence.md has the schema, for people.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import reprlib
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict

from .detached import whoami
from .errors import FAILED, INTERRUPTED, BackupsError, CouldNotLookError, StepError
from .project import ROOT
from .settings import Settings
from .verification import verdict

SCHEMA = 2
ADVICE = "set evidence_dir to a folder that can be {} (INVOKE_EVIDENCE_DIR)"


def _moment(text: str) -> str:
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(text)
        # Every reader can say it in its own zone and reckon with it, which the calendar's first and last years forbid.
        if moment.tzinfo and 1000 <= moment.year < 9000:
            return text
    raise ValueError("must be a time with its zone, as in 2026-01-31T12:00:00+00:00")


Moment = Annotated[str, AfterValidator(_moment)]
Size = Annotated[StrictInt, Field(ge=0, lt=2**63)]  # what a file can have
Duration = Annotated[StrictFloat, Field(gt=-1e12, lt=1e12)]  # below 0 where a clock was put back


@with_config(ConfigDict(extra="forbid"))
class CheckSeen(TypedDict):
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
    when: Moment = field(default_factory=lambda: datetime.now(timezone.utc).isoformat())
    schema: StrictInt = SCHEMA
    who: str = ""
    script_sha256: str | None = None
    commands: list[str] = field(default_factory=list)
    exit_status: StrictInt | None = None  # of the script where it ran, else of the task
    backup: str | None = None
    bytes: Size | None = None
    created: Moment | None = None  # the backup was written last, by the server's clock
    seconds: Duration | None = None
    checks: list[CheckSeen] = field(default_factory=list)
    integrity_check: list[str] = field(default_factory=list)
    error: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        """The verdict of its checks; True also where none was made."""
        return verdict(check["passed"] for check in self.checks)


_SHAPE = TypeAdapter(Record)


def folder(settings: Settings) -> Path:
    """The folder of the records: `evidence_dir`, from this checkout's root where it is relative."""
    return ROOT / Path(settings.evidence_dir).expanduser()


@contextlib.contextmanager
def recording(into: Path, record: Record) -> Iterator[Record]:
    """Write the record of what is done inside, and of who does it, into a folder, however that ends.

    Raises StepError where the folder cannot be written: before anything is done.
    """
    record.who = record.who or whoami()
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
    """Read the records of a folder, the oldest first, and name those that cannot be read.

    A folder that is not there has none; raises CouldNotLookError for one that cannot be read.
    """
    records, damaged = [], []
    for path in _files(folder):
        try:
            records.append(_read(path))
        except ValueError as error:
            damaged.append(Damaged(path, str(error)))
    return sorted(records, key=lambda record: datetime.fromisoformat(record.when)), damaged


def choose(records: Iterable[Record], host: str | None, database: str | None) -> list[Record]:
    """Those of one host, and of one database; None stands for all."""
    return [each for each in records if host in (None, each.host) and database in (None, each.database)]


def _files(folder: Path) -> list[Path]:
    """The records' files; those that are hidden are still being written, or were left half-written."""
    try:
        # By way of its '.', it must be one that can be entered: else none of its files could be opened.
        with os.scandir(f"{folder}/.") as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not folder.is_symlink():
            return []
        raise CouldNotLookError(
            f"the records in {folder} cannot be read", printed=str(error), advice=ADVICE.format("read")
        ) from error
    return [folder / name for name in names if name.endswith(".json") and not name.startswith(".")]


def _read(path: Path) -> Record:
    """Read one record; raises ValueError that says what is wrong."""
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise ValueError("it is not a regular file")
        content = json.loads(path.read_bytes().decode(), parse_constant=_refuse)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not whole, or not JSON: {error}" if path.stat().st_size else "it is empty") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply for a record") from error
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    schema = content.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise ValueError(f"schema {schema} is not known: a newer version wrote it")
    if type(schema) is not int or schema < 1:
        raise ValueError(f"schema: must be a number from 1 to {SCHEMA}, not {_short(schema)}")
    if "when" not in content:  # a new record has a default for it
        raise ValueError("when: is missing")
    try:
        return _SHAPE.validate_python(content)
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(details) for details in error.errors()[:3])) from error


def _refuse(word: str) -> None:
    raise ValueError(f"it is not JSON: {word} is no number there")


def _sentence(details: Any) -> str:
    key = ".".join(str(part) for part in details["loc"])
    match details["type"]:
        case "missing":
            return f"{key}: is missing"
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"{key}: is not a field of a record"
    words = details["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{key}: {words}, not {_short(details['input'])}"


def _short(value: Any) -> str:
    return reprlib.repr(value)


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
            advice=ADVICE.format("written"),
        ) from error
