"""The directory of records: one JSON file each, written completely or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import reprlib
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import (
    ValidationError,
)

from ..errors import FAILED, INTERRUPTED, BackupsError, CouldNotLookError, StepError
from ..project import ROOT, whoami
from ..settings import Settings
from .record import _SCHEMA, SCHEMA, Record

ADVICE = "set evidence_dir to a folder that can be {} (INVOKE_EVIDENCE_DIR)"


def records_dir(settings: Settings) -> Path:
    """The folder of the records: `evidence_dir`, from this checkout's root where it is relative."""
    return ROOT / Path(settings.evidence_dir).expanduser()


@contextlib.contextmanager
def record_outcome(into: Path, record: Record) -> Iterator[Record]:
    """Write the record of what is done inside, and of who does it, into a folder, however that ends.

    Raises StepError where the folder cannot be written: before anything is done.
    """
    record.who = record.who or whoami()
    with _translate_oserror(into), tempfile.TemporaryFile(dir=into):
        pass
    started = time.monotonic()
    try:
        yield record
    except BaseException as error:
        record.error = str(error) or type(error).__name__
        _complete(record, _status(error), started)
        try:
            write_record(into, record)
        except StepError as unwritten:
            # It must not hide what went wrong.
            if isinstance(error, BackupsError):
                error.output = f"{error.output}\n{unwritten}".strip()
        raise
    _complete(record, 0, started)
    write_record(into, record)


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
class InvalidRecord:
    """A file among the records that is none: where it is, and what is wrong with it."""

    path: Path
    why: str


def read_records(folder: Path) -> tuple[list[Record], list[InvalidRecord]]:
    """Read the records of a folder, the oldest first, and name those that cannot be read.

    A folder that is not there has none; raises CouldNotLookError for one that cannot be read.
    """
    records, damaged = [], []
    for path in _files(folder):
        try:
            records.append(_read_record(path))
        except ValueError as error:
            damaged.append(InvalidRecord(path, str(error)))
    return sorted(records, key=lambda record: datetime.fromisoformat(record.when)), damaged


def filter_records(records: Iterable[Record], host: str | None, database: str | None) -> list[Record]:
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
            f"the records in {folder} cannot be read", output=str(error), advice=ADVICE.format("read")
        ) from error
    return [folder / name for name in names if name.endswith(".json") and not name.startswith(".")]


def _read_record(path: Path) -> Record:
    """Read one record; raises ValueError that says what is wrong."""
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise ValueError("it is not a regular file")
        content = json.loads(path.read_bytes().decode(), parse_constant=_refuse_constant)
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
        return _SCHEMA.validate_python(content)
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(details) for details in error.errors()[:3])) from error


def _refuse_constant(word: str) -> None:
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


def write_record(into: Path, record: Record) -> Path:
    """Write a record beside its place, flush it, and give it its name; raises StepError."""
    words = (record.when[:26].replace(":", "-"), record.kind, record.host, record.database)
    name = "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", word) for word in words)
    place = into / f"{name}.json"
    with (
        _translate_oserror(into),
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
def _translate_oserror(into: Path) -> Iterator[None]:
    """Make the folder, and put into words that something could not be written to it."""
    try:
        into.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StepError(
            f"the record of this could not be written to {into}",
            output=str(error),
            advice=ADVICE.format("written"),
        ) from error
