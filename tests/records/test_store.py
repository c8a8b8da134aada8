"""The directory of records: files are written completely or not at all, and invalid ones are named."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import tempfile
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo_backups.errors import (
    COULD_NOT_LOOK,
    FAILED,
    INCOMPLETE,
    INTERRUPTED,
    WRONG_INPUT,
    CouldNotLookError,
    RecordNotWrittenError,
    SettingsError,
    StepError,
)
from demo_backups.project import ROOT, whoami
from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import KINDS, Record, RunDetails, VerificationDetails, new_record
from demo_backups.records.store import filter_records, read_records, record_outcome, records_dir, write_record
from demo_backups.settings.model import Settings

from ..helpers.constants import NOBODY, root_only
from ..helpers.processes import file_mode_mask, run_as_user
from ..helpers.records import make_full_record, make_record, read_only_record


@pytest.fixture
def blocked_folder(tmp_path: Path) -> Path:
    """A directory that nobody can create, not even root."""
    (tmp_path / "file").touch()
    return tmp_path / "file/evidence"


@pytest.mark.parametrize(
    ("setting", "folder"),
    [("evidence", ROOT / "evidence"), ("/srv/x", Path("/srv/x")), ("~/x", Path("~/x").expanduser()), (".", ROOT)],
)
def test_directory_of_the_setting(project_settings: Settings, setting: str, folder: Path) -> None:
    assert records_dir(project_settings.model_copy(update={"evidence_dir": setting})) == folder


# --- write ----------------------------------------------------------------------------------------------------------


def test_record_is_one_json_object(tmp_path: Path) -> None:
    record = make_full_record()
    path = write_record(tmp_path / "a/b", record)
    assert path == tmp_path / "a/b/2024-11-24T20-00-00.123456_run_demo_index.json"
    assert path.read_text().endswith("}\n")
    assert read_only_record(tmp_path / "a/b") == record.as_json()


def test_new_record_has_time_and_schema(tmp_path: Path) -> None:
    before = datetime.now(timezone.utc)
    write_record(tmp_path, new_record("run", "demo", "index"))
    content = read_only_record(tmp_path)
    assert before <= datetime.fromisoformat(content["when"]) <= datetime.now(timezone.utc)
    assert content["schema"] == 2


@pytest.mark.parametrize(
    ("host", "part"),
    [
        ("user@host.example", "user-host.example"),
        ("[::1]", "-1-"),
        ("../../etc/x", "..-..-etc-x"),
        ("a/b", "a-b"),
        ("ünï", "-n-"),
        ("a_b", "a-b"),
    ],
)
def test_file_name_has_no_special_characters(tmp_path: Path, host: str, part: str) -> None:
    path = write_record(tmp_path, make_record(host=host))
    assert path == tmp_path / f"2024-11-24T20-00-00.123456_run_{part}_index.json"
    assert read_only_record(tmp_path)["host"] == host


def test_file_names_sort_by_time(tmp_path: Path) -> None:
    times = ("2024-11-24T20:00:00+00:00", "2024-11-24T20:00:00.000001+00:00", "2024-11-24T20:00:01+00:00")
    hosts = ("c", "b", "a")
    paths = [write_record(tmp_path, make_record(when=when, host=host)) for when, host in zip(times, hosts, strict=True)]
    assert len(set(paths)) == 3
    assert max(paths) == paths[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": float("inf")},
        {"seconds": float("nan")},
        {"created": "9999-12-31T23:00:00+00:00"},
        {"when": "yesterday"},
        {"bytes": -1},
        {"kind": "unknown"},
        {"details": RunDetails.model_construct(waited_seconds=float("nan"))},
    ],
    ids=["infinite", "nan", "year 9999", "no time", "negative", "kind", "details"],
)
def test_invalid_record_is_not_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(RecordNotWrittenError) as caught:
        write_record(tmp_path, replace(make_record(), **changes))
    assert caught.value.output
    assert list(tmp_path.iterdir()) == []


texts = st.text(max_size=30) | st.binary(max_size=9).map(lambda value: value.decode("utf-8", "surrogateescape"))
numbers = st.floats() | st.integers(-(10**20), 10**20)
times = st.datetimes(timezones=st.timezones() | st.none()).map(datetime.isoformat) | texts
sizes = st.none() | st.integers(-1, 2**64)
checks = st.builds(Check, texts, st.sampled_from(Outcome), texts)
more = st.dictionaries(texts, st.none() | st.booleans() | numbers | texts | st.lists(numbers), max_size=2)
DETAILS = {
    "run": st.builds(RunDetails, waited_seconds=st.none() | st.floats(0, 1e6), job_started=st.none()) | st.just(None),
    "verification": st.builds(VerificationDetails, source_bytes=st.none() | st.integers(0, 2**63 - 1)) | st.just(None),
}


@st.composite
def any_records(draw: st.DrawFn) -> Record:
    """A record with any values, also those that a server with a wrong clock would report."""
    kind = draw(st.sampled_from(list(KINDS)))
    optional = {name: st.none() | values for name, values in {"created": times, "seconds": numbers}.items()}
    record = new_record(kind, draw(texts), draw(texts), when=draw(times))
    for name, values in optional.items():
        setattr(record, name, draw(values))
    record.bytes = draw(sizes)
    record.exit_status = draw(st.none() | st.integers(-300, 300))
    record.commands = draw(st.lists(texts, max_size=3))
    record.checks = draw(st.lists(checks, max_size=3))
    record.backup, record.error, record.who = draw(st.none() | texts), draw(st.none() | texts), draw(texts)
    if kind in DETAILS and (details := draw(DETAILS[kind])):
        record.details = details
    for name, value in draw(more).items():
        with contextlib.suppress(ValueError, TypeError):
            setattr(record.details, name, value)
    return record


@given(any_records())
@settings(derandomize=True, max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_written_record_is_read_back(record: Record) -> None:
    """Whatever is written can be read: a record with any other value is refused, and leaves no file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            path = write_record(folder, record)
        except RecordNotWrittenError:
            assert list(folder.iterdir()) == []
            return
        assert list(folder.iterdir()) == [path]
        records, invalid = read_records(folder)
        assert invalid == []
        assert [read.as_json() for read in records] == [record.as_json()]


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_record_is_private(tmp_path: Path, mask: int) -> None:
    folder = tmp_path / "a/evidence"
    with file_mode_mask(mask):
        path = write_record(folder, make_record())
    assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_record_in_open_directory_is_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with file_mode_mask(0):
        path = write_record(tmp_path, make_record())
    assert path.stat().st_mode & 0o777 == 0o600
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@root_only
def test_link_of_other_user_is_invalid(tmp_path: Path) -> None:
    """In a shared directory, it would repeat a record of this user."""
    link = tmp_path / "2099-link.json"
    link.symlink_to(write_record(tmp_path, new_record("run", "demo", "index")))
    assert len(read_records(tmp_path)[0]) == 2
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    records, invalid = read_records(tmp_path)
    assert (len(records), [item.path for item in invalid]) == (1, [link])


@root_only
def test_record_of_other_user_is_invalid(tmp_path: Path) -> None:
    own, other = (write_record(tmp_path, make_record(when=f"2024-11-2{day}T20:00:00+00:00")) for day in (1, 2))
    os.chown(other, NOBODY, NOBODY)
    records, invalid = read_records(tmp_path)
    assert [record.when for record in records] == ["2024-11-21T20:00:00+00:00"]
    assert [record.path for record in invalid] == [other]
    os.chown(tmp_path, NOBODY, NOBODY)  # who can replace every file in it
    assert len(read_records(tmp_path)[0]) == 2
    assert own.exists()


def test_failed_rename_leaves_no_file(tmp_path: Path) -> None:
    place = tmp_path / "2024-11-24T20-00-00.123456_run_demo_index.json"
    place.mkdir()
    with pytest.raises(RecordNotWrittenError):
        write_record(tmp_path, make_record())
    assert list(tmp_path.iterdir()) == [place]


def test_unwritable_directory_is_an_error(blocked_folder: Path) -> None:
    with pytest.raises(RecordNotWrittenError) as caught:
        write_record(blocked_folder, make_record())
    assert "Not a directory" in caught.value.output
    assert "evidence_dir" in caught.value.advice


# --- however a task ends --------------------------------------------------------------------------------------------


def test_success_is_recorded(tmp_path: Path) -> None:
    with record_outcome(tmp_path, make_record()) as record:
        record.backup = "/b/x.db"
    content = read_only_record(tmp_path)
    assert (content["exit_status"], content["error"], content["backup"]) == (0, None, "/b/x.db")
    assert content["seconds"] >= 0
    assert content["who"] == f"{getpass.getuser()}@{socket.gethostname()}"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            StepError("failed", host="demo", output="why", advice="do this"),
            FAILED,
            "demo: failed\n  | why\n  -> do this",
        ),
        (SettingsError("wrong"), WRONG_INPUT, "wrong"),
        (CouldNotLookError("gone"), COULD_NOT_LOOK, "gone"),
        (KeyboardInterrupt(), INTERRUPTED, "KeyboardInterrupt"),
        (ValueError("a bug"), FAILED, "a bug"),
        (SystemExit(), FAILED, "SystemExit"),
    ],
    ids=["step", "settings", "could not look", "Ctrl-C", "bug", "exit"],
)
def test_error_is_recorded_and_raised(tmp_path: Path, error: BaseException, status: int, message: str) -> None:
    with pytest.raises(type(error)) as caught, record_outcome(tmp_path, make_record(script_sha256="abc")):
        raise error
    assert caught.value is error
    content = read_only_record(tmp_path)
    assert (content["exit_status"], content["error"], content["script_sha256"]) == (status, message, "abc")


def test_known_status_and_duration_stay(tmp_path: Path) -> None:
    with pytest.raises(StepError), record_outcome(tmp_path, make_record(exit_status=13, seconds=7.5)):
        raise StepError("the script failed")
    content = read_only_record(tmp_path)
    assert (content["exit_status"], content["seconds"]) == (13, 7.5)


def test_unwritable_directory_stops_the_task(blocked_folder: Path) -> None:
    is_started = False
    with pytest.raises(StepError), record_outcome(blocked_folder, make_record()):
        is_started = True
    assert not is_started


@pytest.mark.parametrize("error", [CouldNotLookError("gone", output="no route", advice="check"), KeyboardInterrupt()])
def test_failed_write_does_not_hide_the_error(tmp_path: Path, error: BaseException) -> None:
    folder = tmp_path / "evidence"

    def fail() -> None:
        replace_by_file(folder)
        raise error

    with pytest.raises(type(error)) as caught, record_outcome(folder, make_record()):
        fail()
    assert caught.value is error
    if isinstance(error, CouldNotLookError):
        assert error.output.startswith("no route\n")
        assert str(folder) in error.output
        assert error.advice == "check"


@pytest.mark.parametrize(("exit_status", "exit_code"), [(None, INCOMPLETE), (0, INCOMPLETE), (1, 1), (3, 3)])
def test_failed_write_keeps_worse_exit_code(tmp_path: Path, exit_status: int | None, exit_code: int) -> None:
    folder = tmp_path / "evidence"
    with pytest.raises(RecordNotWrittenError) as caught, record_outcome(folder, make_record(exit_status=exit_status)):
        replace_by_file(folder)
    assert caught.value.exit_code == exit_code


def test_optional_record_does_not_stop_the_task(blocked_folder: Path) -> None:
    is_done = False
    with pytest.raises(RecordNotWrittenError), record_outcome(blocked_folder, make_record(), required=False):
        is_done = True
    assert is_done


def replace_by_file(folder: Path) -> None:
    folder.rmdir()
    folder.touch()


def test_check_of_directory_leaves_no_file(tmp_path: Path) -> None:
    with record_outcome(tmp_path / "evidence", make_record()):
        assert list((tmp_path / "evidence").iterdir()) == []


@pytest.mark.user
@root_only
def test_user_without_name_is_recorded_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert run_as_user(54321, whoami) == f"54321@{socket.gethostname()}"


# --- read -----------------------------------------------------------------------------------------------------------


def test_records_are_read_oldest_first(tmp_path: Path) -> None:
    for name, when in {
        "b": "2024-11-24T20:30:00+02:00",
        "a": "2024-11-24T20:00:00+00:00",
        "c": "2024-11-24T19:00:00+00:00",
    }.items():
        write_record(tmp_path, make_record(when=when)).rename(tmp_path / f"{name}.json")
    times = [record.when for record in read_records(tmp_path)[0]]
    assert times == ["2024-11-24T20:30:00+02:00", "2024-11-24T19:00:00+00:00", "2024-11-24T20:00:00+00:00"]


def with_values(**changes: Any) -> bytes:
    """Return a record with other values, as a file has it; a value of `...` is left out."""
    values = make_full_record().as_json() | changes
    return json.dumps({name: value for name, value in values.items() if value is not ...}).encode()


CHECK = {"name": "size", "passed": None, "detail": ""}
# The content of a file, and the field or the text with which the reason starts.
INVALID = {
    "half-written": (with_values()[:200], "it is incomplete or not JSON: "),
    "cut after the brace": (with_values()[:-1], "it is incomplete or not JSON: "),
    "two objects": (with_values() + b"{}", "it is incomplete or not JSON: "),
    "empty": (b"", "it is empty"),
    "zeros after a power cut": (bytes(500), "it is incomplete or not JSON: "),
    "not UTF-8": (with_values().replace(b"me@laptop", b"m\xff@laptop"), "it is not UTF-8 text: "),
    "a list": (b"[1]", "it is not a JSON object"),
    "null": (b"null", "it is not a JSON object"),
    "too deep": (b'{"details":' + b"[" * 100_000, "it is nested too deeply"),
    "NaN": (with_values(seconds=float("nan")), "it is not JSON: NaN"),
    "infinite number": (with_values(seconds=0.25).replace(b"0.25", b"1e999"), "seconds: "),
    "newer schema": (with_values(schema=3, more="x"), "schema 3 is of a newer version"),
    "no schema": (with_values(schema=...), "schema: "),
    "schema as text": (with_values(schema="2"), "schema: "),
    "schema as boolean": (with_values(schema=True), "schema: "),
    "schema 0": (with_values(schema=0), "schema: "),
    "no kind": (with_values(kind=...), "kind: is missing"),
    "unknown kind": (with_values(kind="\udcff"), "kind: must be one of deploy, run, "),
    "kind as number": (with_values(kind=5), "kind: "),
    "no host": (with_values(host=...), "host: is missing"),
    "no time": (with_values(when=...), "when: is missing"),
    "invalid time": (with_values(when="2024-13-24T20:00:00+00:00"), "when: must be a time with its zone"),
    "no zone": (with_values(when="2024-11-24T20:00:00"), "when: must be a time with its zone"),
    "year 1": (with_values(when="0001-01-01T00:00:00+05:00"), "when: must be a time with its zone"),
    "year 9999": (with_values(created="9999-12-31T23:00:00+00:00"), "created: must be a time with its zone"),
    "too many bytes": (with_values(bytes=10**400), "bytes: "),
    "negative size": (with_values(bytes=-1), "bytes: "),
    "too many seconds": (with_values(seconds=1e308), "seconds: "),
    "unknown field": (with_values(hots="demo"), "hots: is not a field of a record"),
    "host as number": (with_values(host=5), "host: "),
    "bytes as text": (with_values(bytes="5"), "bytes: "),
    "bytes as boolean": (with_values(bytes=True), "bytes: "),
    "seconds as text": (with_values(seconds="1.5"), "seconds: "),
    "exit status as fraction": (with_values(exit_status=0.0), "exit_status: "),
    "commands as text": (with_values(commands="ls"), "commands: "),
    "command as number": (with_values(commands=["ls", 5]), "commands.1: "),
    "checks as object": (with_values(checks={"size": True}), "checks: "),
    "check as text": (with_values(checks=["size"]), "checks.0: "),
    "check without result": (with_values(checks=[{"name": "size", "detail": ""}]), "checks.0.passed: is missing"),
    "check with number": (
        with_values(checks=[CHECK, CHECK | {"passed": 1}]),
        "checks.1.passed: must be true, false or",
    ),
    "check with unknown field": (with_values(checks=[CHECK | {"x": 1}]), "checks.0.x: is not a field of a record"),
    "long value": (with_values(bytes="5" * 100_000), "bytes: "),
    "invalid details": (with_values(details={"waited_seconds": "5"}), "details.waited_seconds: "),
}


@pytest.mark.parametrize(("content", "reason"), INVALID.values(), ids=INVALID)
def test_invalid_record_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    place = tmp_path / "2024-11-24T21-00-00_run_demo_index.json"
    place.write_bytes(content)
    write_record(tmp_path, make_full_record())
    records, (invalid,) = read_records(tmp_path)
    assert records == [make_full_record()]
    assert invalid.path == place
    assert invalid.reason.startswith(reason)
    assert len(invalid.reason) < 250


def test_special_files_are_named_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "loop.json").symlink_to("loop.json")
    (tmp_path / "gone.json").symlink_to("nowhere")
    records, invalid = read_records(tmp_path)
    assert records == []
    assert {file.path.name: file.reason for file in invalid} == dict.fromkeys(
        ["folder.json", "gone.json", "loop.json", "pipe.json"], "it is not a regular file"
    )


def test_hidden_and_other_files_are_ignored(tmp_path: Path) -> None:
    for name in (".tmpx1y2", ".half.json", "notes.txt", "old.json~"):
        (tmp_path / name).write_text("{")
    assert read_records(tmp_path) == ([], [])


def test_missing_directory_has_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path / "a/b") == ([], [])


def test_unreadable_directory_is_not_empty(tmp_path: Path, blocked_folder: Path) -> None:
    (tmp_path / "gone").symlink_to("not-mounted")
    for folder in (blocked_folder, tmp_path / "file", tmp_path / "gone"):
        with pytest.raises(CouldNotLookError) as caught:
            read_records(folder)
        assert caught.value.output
        assert "evidence_dir" in caught.value.advice


@pytest.mark.parametrize(
    ("host", "database", "selected"),
    [(None, None, "abcd"), ("demo", None, "ab"), (None, "tracker", "bd"), ("demo", "tracker", "b"), ("dem", None, "")],
)
def test_records_are_selected_by_host_and_database(host: str | None, database: str | None, selected: str) -> None:
    sources = {"a": ("demo", "index"), "b": ("demo", "tracker"), "c": ("demo2", "index"), "d": ("Demo", "tracker")}
    records = [make_record(who=name, host=host, database=database) for name, (host, database) in sources.items()]
    assert [record.who for record in filter_records(records, host, database)] == list(selected)


def test_staged_record_of_crash_is_removed(tmp_path: Path) -> None:
    left, recent = tmp_path / ".record-left", tmp_path / ".record-recent"
    for path in (left, recent):
        path.write_text("{")
    os.utime(left, (1, 1))
    write_record(tmp_path, make_record())
    assert not left.exists()
    assert recent.exists()
