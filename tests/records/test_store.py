"""Records: one file each, written whole or not at all, however what they tell of ended."""

from __future__ import annotations

import getpass
import json
import os
import socket
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import CouldNotLookError, SettingsError, StepError
from demo_backups.project import ROOT, whoami
from demo_backups.records.record import Record
from demo_backups.records.store import filter_records, read_records, record_outcome, records_dir, write_record
from demo_backups.settings import Settings

from ..helpers.processes import run_as_user


def record(**changes: Any) -> Record:
    return replace(Record("run", "demo", "index", when="2024-11-24T20:00:00.123456+00:00"), **changes)


def written(into: Path) -> dict[str, Any]:
    """The one record in a folder, where nothing else lies."""
    (path,) = into.iterdir()
    value: dict[str, Any] = json.loads(path.read_text())
    return value


# --- written whole or not at all ------------------------------------------------------------------------------------


def test_a_record_is_written_as_one_json_object(tmp_path: Path) -> None:
    given = record(bytes=5, checks=[{"name": "size", "passed": None, "detail": "ünï \udcff\n"}], details={"a": [1.5]})
    path = write_record(tmp_path / "a" / "b", given)
    assert path == tmp_path / "a/b/2024-11-24T20-00-00.123456_run_demo_index.json"
    assert written(tmp_path / "a/b") == asdict(given)
    assert path.read_text().endswith("}\n")


def test_a_record_says_when_and_in_which_form(tmp_path: Path) -> None:
    before = datetime.now(timezone.utc)
    write_record(tmp_path, Record("run", "demo", "index"))
    seen = written(tmp_path)
    assert before <= datetime.fromisoformat(seen["when"]) <= datetime.now(timezone.utc)
    assert seen["schema"] == 2
    assert {key for key, value in seen.items() if value is None} == (
        {"script_sha256", "exit_status", "backup", "bytes", "created", "seconds", "error"}
    )


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("user@host.example", "user-host.example"),
        ("[::1]", "-1-"),
        ("../../etc/x", "..-..-etc-x"),
        ("a/b", "a-b"),
        ("ünï", "-n-"),
        ("a_b", "a-b"),
    ],
)
def test_the_name_of_a_record_is_made_of_harmless_characters(tmp_path: Path, host: str, name: str) -> None:
    path = write_record(tmp_path, record(host=host))
    assert path == tmp_path / f"2024-11-24T20-00-00.123456_run_{name}_index.json"
    assert written(tmp_path)["host"] == host


def test_records_sort_by_their_names_as_they_were_made(tmp_path: Path) -> None:
    times = ("2024-11-24T20:00:00+00:00", "2024-11-24T20:00:00.000001+00:00", "2024-11-24T20:00:01+00:00")
    paths = [write_record(tmp_path, record(when=when, host=host)) for when, host in zip(times, "cba", strict=True)]
    assert len(set(paths)) == 3
    assert sorted(paths)[-1] == paths[-1]


def test_a_record_that_cannot_be_written_whole_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_record(tmp_path, record(details={"not": object()}))
    assert list(tmp_path.iterdir()) == []


def test_a_record_whose_place_is_taken_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "2024-11-24T20-00-00.123456_run_demo_index.json"
    place.mkdir()
    with pytest.raises(StepError, match="could not be written"):
        write_record(tmp_path, record())
    assert list(tmp_path.iterdir()) == [place]


def in_the_way(tmp_path: Path) -> Path:
    """A folder that nobody can make, not even root."""
    (tmp_path / "file").touch()
    return tmp_path / "file/evidence"


def test_a_folder_that_cannot_be_written_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="the record of this could not be written to") as caught:
        write_record(in_the_way(tmp_path), record())
    assert "Not a directory" in caught.value.output
    assert "evidence_dir" in caught.value.advice


@pytest.mark.parametrize(
    ("setting", "place"),
    [("evidence", ROOT / "evidence"), ("/srv/x", Path("/srv/x")), ("~/x", Path("~/x").expanduser()), (".", ROOT)],
)
def test_the_folder_of_the_records(project_settings: Settings, setting: str, place: Path) -> None:
    assert records_dir(project_settings.model_copy(update={"evidence_dir": setting})) == place


# --- however it ends ------------------------------------------------------------------------------------------------


def test_what_went_well_is_recorded(tmp_path: Path) -> None:
    with record_outcome(tmp_path, record()) as kept:
        kept.backup = "/b/x.db"
    seen = written(tmp_path)
    assert (seen["exit_status"], seen["error"], seen["backup"]) == (0, None, "/b/x.db")
    assert seen["seconds"] >= 0


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (
            StepError("it failed", host="demo", output="why", advice="do this"),
            1,
            "demo: it failed\n  | why\n  -> do this",
        ),
        (SettingsError("wrong"), 2, "wrong"),
        (CouldNotLookError("gone"), 3, "gone"),
        (KeyboardInterrupt(), 130, "KeyboardInterrupt"),
        (ValueError("a bug"), 1, "a bug"),
        (SystemExit(), 1, "SystemExit"),
    ],
    ids=["step", "settings", "could not look", "Ctrl-C", "bug", "exit"],
)
def test_what_went_wrong_is_recorded_and_goes_on(tmp_path: Path, error: BaseException, status: int, words: str) -> None:
    with pytest.raises(type(error)) as caught, record_outcome(tmp_path, record(script_sha256="abc")):
        raise error
    assert caught.value is error
    seen = written(tmp_path)
    assert (seen["exit_status"], seen["error"], seen["script_sha256"]) == (status, words, "abc")


def test_what_a_step_found_out_by_itself_is_kept(tmp_path: Path) -> None:
    with pytest.raises(StepError), record_outcome(tmp_path, record(exit_status=13, seconds=7.5)):
        raise StepError("the script failed")
    seen = written(tmp_path)
    assert (seen["exit_status"], seen["seconds"]) == (13, 7.5)


def test_a_folder_that_cannot_be_written_stops_it_before_anything_is_done(tmp_path: Path) -> None:
    done = False
    with pytest.raises(StepError, match="could not be written"), record_outcome(in_the_way(tmp_path), record()):
        done = True
    assert not done


@pytest.mark.parametrize(
    "error", [CouldNotLookError("gone", output="no route", advice="look at the cable"), KeyboardInterrupt(), None]
)
def test_a_folder_that_goes_away_meanwhile_does_not_hide_what_went_wrong(
    tmp_path: Path, error: BaseException | None
) -> None:
    into = tmp_path / "evidence"

    def go_wrong() -> None:
        into.rmdir()
        into.touch()
        if error:
            raise error

    with pytest.raises(type(error) if error else StepError) as caught, record_outcome(into, record()):
        go_wrong()
    if isinstance(error, CouldNotLookError):
        assert error.output.startswith("no route\nthe record of this could not be written")
        assert error.advice == "look at the cable"
    if error is None:
        assert "the record of this could not be written" in str(caught.value)


def test_the_folder_is_tried_without_a_trace(tmp_path: Path) -> None:
    with record_outcome(tmp_path / "evidence", record()):
        assert list((tmp_path / "evidence").iterdir()) == []


@pytest.mark.user
def test_who_did_it_is_recorded(tmp_path: Path) -> None:
    with record_outcome(tmp_path, record()):
        pass
    assert written(tmp_path)["who"] == f"{getpass.getuser()}@{socket.gethostname()}"


@pytest.mark.user
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without a name")
def test_user_without_name_is_recorded_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert run_as_user(54321, whoami) == f"54321@{socket.gethostname()}"


# --- read again -----------------------------------------------------------------------------------------------------

CHECK = {"name": "size", "passed": None, "detail": "ünï \udcff\n"}
FULL = record(
    who="me@here",
    script_sha256="ab" * 32,
    commands=["echo \udcff", "true"],
    exit_status=0,
    backup="/b/\udcff.db",
    bytes=5,
    created="2024-11-24T20:00:00+05:30",
    seconds=7.5,
    checks=[{"name": "size", "passed": None, "detail": "ünï \udcff\n"}],
    integrity_check=["ok"],
    error="what \udcff",
    details={"a": [1.5], "b": {"c": None}},
)
# As the first version wrote it.
SCHEMA_1 = """{
  "kind": "verification",
  "host": "demo",
  "database": "index",
  "when": "2024-11-24T20:00:00.123456+00:00",
  "schema": 1,
  "script_sha256": "597064330babc080a24a92737873a57e8df25c6c7e04583e14a87b943ac621e7",
  "exit_status": 1,
  "backup": "/home/torrust/backups/backup_2024-11-24_20-00-00.db",
  "bytes": 2301952,
  "seconds": 3,
  "checks": [{"name": "size", "passed": false, "detail": "it is empty"}],
  "integrity_check": ["ok"],
  "error": null,
  "details": {}
}
"""


@pytest.mark.parametrize("given", [record(), FULL], ids=["least", "full"])
def test_what_is_written_is_read_again(tmp_path: Path, given: Record) -> None:
    write_record(tmp_path, given)
    assert read_records(tmp_path) == ([given], [])


def test_a_record_of_schema_1_is_read(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(SCHEMA_1)
    ((seen,), damaged) = read_records(tmp_path)
    assert damaged == []
    assert (seen.schema, seen.who, seen.commands, seen.created) == (1, "", [], None)
    assert asdict(seen) == asdict(Record("", "", "")) | json.loads(SCHEMA_1)


def test_records_are_read_the_oldest_first_whatever_their_files_and_zones(tmp_path: Path) -> None:
    for name, when in {
        "b": "2024-11-24T20:30:00+02:00",
        "a": "2024-11-24T20:00:00+00:00",
        "c": "2024-11-24T19:00:00+00:00",
    }.items():
        write_record(tmp_path, record(when=when)).rename(tmp_path / f"{name}.json")
    assert [each.when[11:13] for each in read_records(tmp_path)[0]] == ["20", "19", "20"]
    assert read_records(tmp_path)[0][0].when.endswith("+02:00")


def changed(**changes: Any) -> bytes:
    """A record with other values, as a file has it; one that is `...` is left out."""
    values = asdict(FULL) | changes
    return json.dumps({name: value for name, value in values.items() if value is not ...}).encode()


DAMAGED = {
    "half-written": (changed()[:200], "it is not whole, or not JSON: "),
    "cut after the brace": (changed()[:-1], "it is not whole, or not JSON: "),
    "followed by something": (changed() + b"{}", "it is not whole, or not JSON: "),
    "empty": (b"", "it is empty"),
    "zeros after a power cut": (bytes(500), "it is not whole, or not JSON: "),
    "not UTF-8": (changed().replace(b"me@here", b"m\xff@here"), "it is not UTF-8 text: "),
    "a list": (b"[1]", "it is not a JSON object"),
    "null": (b"null", "it is not a JSON object"),
    "too deep": (b'{"details":' + b"[" * 100_000, "it is nested too deeply"),
    "no number": (changed(seconds=float("nan")), "it is not JSON: NaN is no number there"),
    "a number that is too large": (
        changed(seconds=0.25).replace(b"0.25", b"1e999"),
        "seconds: must be a finite number",
    ),
    "a newer schema": (changed(schema=3, more="x"), "schema 3 is not known: a newer version wrote it"),
    "no schema": (changed(schema=...), "schema: must be a number from 1 to 2, not None"),
    "schema as text": (changed(schema="2"), "schema: must be a number from 1 to 2, not '2'"),
    "schema as truth": (changed(schema=True), "schema: must be a number from 1 to 2, not True"),
    "schema 0": (changed(schema=0), "schema: must be a number from 1 to 2, not 0"),
    "no host": (changed(host=...), "host: is missing"),
    "no time": (changed(when=...), "when: is missing"),
    "no such time": (changed(when="2024-13-24T20:00:00+00:00"), "when: must be a time with its zone"),
    "no zone": (changed(when="2024-11-24T20:00:00"), "when: must be a time with its zone"),
    "before all time": (changed(when="0001-01-01T00:00:00+05:00"), "when: must be a time with its zone"),
    "after all time": (changed(created="9999-12-31T23:00:00+00:00"), "created: must be a time with its zone"),
    "more than any disk holds": (changed(bytes=10**400), "bytes: must be less than"),
    "less than nothing": (changed(bytes=-1), "bytes: must be greater than or equal to 0"),
    "longer than anything": (changed(seconds=1e308), "seconds: must be less than"),
    "created yesterday": (changed(created="yesterday"), "created: must be a time with its zone"),
    "unknown field": (changed(hots="demo"), "hots: is not a field of a record"),
    "host as number": (changed(host=5), "host: must be a valid string, not 5"),
    "bytes as text": (changed(bytes="5"), "bytes: must be a valid integer, not '5'"),
    "bytes as truth": (changed(bytes=True), "bytes: must be a valid integer, not True"),
    "seconds as text": (changed(seconds="1.5"), "seconds: must be a valid number, not '1.5'"),
    "exit status as fraction": (changed(exit_status=0.0), "exit_status: must be a valid integer, not 0.0"),
    "commands as text": (changed(commands="ls"), "commands: must be a valid list, not 'ls'"),
    "command as number": (changed(commands=["ls", 5]), "commands.1: must be a valid string, not 5"),
    "checks as object": (changed(checks={"size": True}), "checks: must be a valid list, not {'size': True}"),
    "check as text": (changed(checks=["size"]), "checks.0: must be a valid dictionary, not 'size'"),
    "check without result": (changed(checks=[{"name": "size", "detail": ""}]), "checks.0.passed: is missing"),
    "check with 1": (changed(checks=[CHECK, CHECK | {"passed": 1}]), "checks.1.passed: must be a valid boolean, not 1"),
    "check with more": (changed(checks=[CHECK | {"x": 1}]), "checks.0.x: is not a field of a record"),
    "long": (changed(bytes="5" * 100_000), "bytes: must be a valid integer, not '555555"),
}


@pytest.mark.parametrize(("content", "why"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_named_with_what_is_wrong_and_passed_over(tmp_path: Path, content: bytes, why: str) -> None:
    place = tmp_path / "2024-11-24T21-00-00_run_demo_index.json"
    place.write_bytes(content)
    write_record(tmp_path, FULL)
    records, (damaged,) = read_records(tmp_path)
    assert records == [FULL]
    assert damaged.path == place
    assert damaged.why.startswith(why)
    assert len(damaged.why) < 200


def test_what_is_no_file_is_named_and_waited_for_by_nobody(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "round.json").symlink_to("round.json")
    (tmp_path / "gone.json").symlink_to("nowhere")
    records, damaged = read_records(tmp_path)
    assert records == []
    assert {each.path.name: each.why for each in damaged} == dict.fromkeys(
        ["folder.json", "gone.json", "pipe.json", "round.json"], "it is not a regular file"
    )


def test_what_is_hidden_or_no_json_is_passed_over_in_silence(tmp_path: Path) -> None:
    for name in (".tmpx1y2", ".half.json", "notes.txt", "old.json~"):
        (tmp_path / name).write_text("{")
    assert read_records(tmp_path) == ([], [])


def test_a_folder_that_is_missing_has_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path / "a/b") == ([], [])


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to("not-mounted")
    for folder in (in_the_way(tmp_path), tmp_path / "file", tmp_path / "gone"):
        with pytest.raises(CouldNotLookError, match=f"the records in {folder} cannot be read") as caught:
            read_records(folder)
        assert caught.value.output
        assert "evidence_dir" in caught.value.advice


@pytest.mark.parametrize(
    ("host", "database", "chosen"),
    [(None, None, "abcd"), ("demo", None, "ab"), (None, "tracker", "bd"), ("demo", "tracker", "b"), ("dem", None, "")],
)
def test_records_are_chosen_by_host_and_database(host: str | None, database: str | None, chosen: str) -> None:
    places = {"a": ("demo", "index"), "b": ("demo", "tracker"), "c": ("demo2", "index"), "d": ("Demo", "tracker")}
    given = [record(who=name, host=where, database=what) for name, (where, what) in places.items()]
    assert [each.who for each in filter_records(given, host, database)] == list(chosen)
