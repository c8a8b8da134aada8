"""The directory of records: one JSON file each, written completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import reprlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ..errors import FAILED, INTERRUPTED, BackupsError, CouldNotLookError, RecordNotWrittenError, StepError
from ..local_files import write_private
from ..project import ROOT, whoami
from ..settings.model import Settings
from .record import KINDS, SCHEMA, Record, validate_record

R = TypeVar("R", bound=Record)
STAGED = ".record-"  # the start of the name of a record that is being written
MOST_MISTAKES = 3  # of an invalid record, that are named


def records_dir(settings: Settings) -> Path:
    """Return the directory of the records: `evidence_dir`, relative to the root of this checkout."""
    return ROOT / Path(settings.evidence_dir).expanduser()


@dataclass(frozen=True)
class InvalidRecord:
    """A file in the directory of records that is not a record, and the reason."""

    path: Path
    reason: str


# --- write ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def record_outcome(folder: Path, record: R, required: bool = True) -> Iterator[R]:
    """Write the record of what is done inside and of how it ends.

    If it is `required`, raises StepError before anything is done if the directory cannot be written. If it cannot be
    written at the end, raises RecordNotWrittenError; the exit code is that of the record if that is not 0.
    """
    record.who = record.who or whoami()
    if required:
        _check_writable(folder)
    start = time.monotonic()
    try:
        yield record
    except BaseException as error:
        record.error = str(error) or type(error).__name__
        _complete(record, _exit_code(error), start)
        try:
            write_record(folder, record)
        except RecordNotWrittenError as write_error:
            # It must not hide the first error.
            if isinstance(error, BackupsError):
                error.output = f"{error.output}\n{write_error}".strip()
        raise
    _complete(record, 0, start)
    try:
        write_record(folder, record)
    except RecordNotWrittenError as error:
        error.action = f"the task is done, but {error.action}"
        # A check that failed, or that could not be made, matters more.
        error.exit_code = record.exit_status or error.exit_code
        raise


def _check_writable(folder: Path) -> None:
    """Raise StepError unless a file can be created in the directory."""
    with _translate_oserror(folder, StepError), tempfile.TemporaryFile(dir=folder):
        pass


def _complete(record: Record, exit_code: int, start: float) -> None:
    if record.seconds is None:
        record.seconds = round(time.monotonic() - start, 3)
    if record.exit_status is None:
        record.exit_status = exit_code


def _exit_code(error: BaseException) -> int:
    if isinstance(error, BackupsError):
        return error.exit_code
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED


def write_record(folder: Path, record: Record) -> Path:
    """Write a record to a hidden file, flush it and rename it; raises RecordNotWrittenError.

    Only its owner can read it. A record with an invalid value is not written, since it could not be read again.
    """
    try:
        content = record.as_json()
        validate_record(content)
    except ValueError as error:
        raise RecordNotWrittenError(
            "the record was not written: it has invalid values",
            output=_describe(error) if isinstance(error, ValidationError) else str(error),
            advice="times and sizes are those of the server: is its clock correct?",
        ) from error
    path = folder / _file_name(record)
    with _translate_oserror(folder, RecordNotWrittenError):
        write_private(path, json.dumps(content, indent=2) + "\n", STAGED)
    return path


def _file_name(record: Record) -> str:
    parts = (record.when[:26].replace(":", "-"), record.kind, record.host, record.database)
    return "_".join(map(_name_part, parts)) + ".json"


def _name_part(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text)


@contextlib.contextmanager
def _translate_oserror(folder: Path, kind: type[BackupsError]) -> Iterator[None]:
    """Create the directory, for its owner only; raise an error of this kind if something cannot be written to it.

    The mode of a directory that exists is not changed: it may be shared, and its files are private in any case.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise kind(
            f"the record could not be written to {folder}",
            output=str(error),
            advice=f"{'free space there, or ' if full else ''}set evidence_dir to a directory that can be written "
            "(INVOKE_EVIDENCE_DIR)",
        ) from error


# --- read -----------------------------------------------------------------------------------------------------------


def read_records(
    folder: Path, is_wanted: Callable[[str], bool] = lambda name: True
) -> tuple[list[Record], list[InvalidRecord]]:
    """Read the records of a directory, the oldest first, and name the files that are not valid records.

    A file whose name is not wanted is not read. A missing directory has no records. A file of another user is not
    valid, unless the directory is that user's: in a shared directory anybody could store a record. Raises
    CouldNotLookError if it cannot be read.
    """
    records, invalid = [], []
    for path in _list_files(folder):
        if not is_wanted(path.name):
            continue
        try:
            records.append(_read_record(path))
        except ValueError as error:
            invalid.append(InvalidRecord(path, str(error)))
    return sorted(records, key=lambda record: datetime.fromisoformat(record.when)), invalid


def filter_records(records: Iterable[Record], host: str | None, database: str | None) -> list[Record]:
    """Return the records of one host and one database; None stands for all."""
    return [record for record in records if host in (None, record.host) and database in (None, record.database)]


def is_name_of(name: str, kind: str, host: str | None, database: str) -> bool:
    """Tell from the name of a file whether it may be a record of a kind for a database of a host; None: of any host."""
    of_host = "[^_]*" if host is None else re.escape(_name_part(host))
    return bool(re.search(rf"_{re.escape(kind)}_{of_host}_{re.escape(_name_part(database))}\.json\Z", name))


def time_in_name(name: str) -> datetime | None:
    """Return the time in the name of a record; None if there is none."""
    match = re.match(r"(\d{4}-\d\d-\d\d)T(\d\d)-(\d\d)-(\d\d)", name)
    try:
        return datetime.fromisoformat(f"{match[1]}T{match[2]}:{match[3]}:{match[4]}+00:00") if match else None
    except ValueError:
        return None


def _list_files(folder: Path) -> list[Path]:
    """List the files of records; hidden ones are still being written, or were left by a crash."""
    try:
        # The '.' fails for a directory that cannot be entered: none of its files could be opened.
        with os.scandir(f"{folder}/.") as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not folder.is_symlink():
            return []
        raise CouldNotLookError(
            f"the records in {folder} cannot be read",
            output=str(error),
            advice="set evidence_dir to a directory that can be read (INVOKE_EVIDENCE_DIR)",
        ) from error
    return [folder / name for name in names if name.endswith(".json") and not name.startswith(".")]


def _read_record(path: Path) -> Record:
    """Read one record; raises ValueError with the reason if it is invalid."""
    content = _read_object(path)
    _check_schema(content.get("schema"))
    if "when" not in content:  # which has a default in a new record
        raise ValueError("when: is missing")
    try:
        record = validate_record(content)
    except ValidationError as error:
        raise ValueError(_describe(error)) from error
    record.as_json()  # raises ValueError for a name that is not text, which pydantic accepts in the details
    return record


def _read_object(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():  # opening a pipe would block
            raise ValueError("it is not a regular file")
        owners = {path.stat().st_uid, path.lstat().st_uid}  # also of a link: another user could link to an old record
        if not owners <= {os.geteuid(), 0, path.parent.stat().st_uid}:
            raise ValueError("it belongs to another user")
        content = json.loads(path.read_bytes().decode(), parse_constant=_reject_constant)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is incomplete or not JSON: {error}" if path.stat().st_size else "it is empty") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply for a record") from error
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


def _reject_constant(name: str) -> None:
    raise ValueError(f"it is not JSON: {name} is not a number in JSON")


def _check_schema(schema: Any) -> None:
    if type(schema) is int and schema > SCHEMA:
        raise ValueError(f"schema {schema} is of a newer version")
    if type(schema) is not int or schema < 1:
        raise ValueError(f"schema: must be a number from 1 to {SCHEMA}, not {reprlib.repr(schema)}")


def _describe(error: ValidationError) -> str:
    """Describe the first mistakes, each with the name of its field."""
    return "; ".join(_describe_mistake(details) for details in error.errors()[:MOST_MISTAKES])


def _describe_mistake(details: Any) -> str:
    path = [str(part) for part in details["loc"]]
    key = ".".join(path[1:] if path and path[0] in KINDS else path)  # the first is the kind, which chose the model
    match details["type"]:
        case "missing":
            return f"{key}: is missing"
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"{key}: is not a field of a record"
        case "union_tag_not_found":
            return "kind: is missing"
        case "union_tag_invalid":
            return f"kind: must be one of {', '.join(KINDS)}, not {reprlib.repr(details['input'].get('kind'))}"
    message = details["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{key}: {message}, not {reprlib.repr(details['input'])}"
