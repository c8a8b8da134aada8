"""Records: one file each, written whole or not at all, however what they tell of ended."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from demo_backups import evidence
from demo_backups.errors import CouldNotLookError, SettingsError, StepError
from demo_backups.evidence import Record, recording, write
from demo_backups.project import ROOT
from demo_backups.settings import Settings


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
    path = write(tmp_path / "a" / "b", given)
    assert path == tmp_path / "a/b/2024-11-24T20-00-00.123456_run_demo_index.json"
    assert written(tmp_path / "a/b") == asdict(given)
    assert path.read_text().endswith("}\n")


def test_a_record_says_when_and_in_which_form(tmp_path: Path) -> None:
    before = datetime.now(timezone.utc)
    write(tmp_path, Record("run", "demo", "index"))
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
    path = write(tmp_path, record(host=host))
    assert path == tmp_path / f"2024-11-24T20-00-00.123456_run_{name}_index.json"
    assert written(tmp_path)["host"] == host


def test_records_sort_by_their_names_as_they_were_made(tmp_path: Path) -> None:
    times = ("2024-11-24T20:00:00+00:00", "2024-11-24T20:00:00.000001+00:00", "2024-11-24T20:00:01+00:00")
    paths = [write(tmp_path, record(when=when, host=host)) for when, host in zip(times, "cba", strict=True)]
    assert len(set(paths)) == 3
    assert sorted(paths)[-1] == paths[-1]


def test_a_record_that_cannot_be_written_whole_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write(tmp_path, record(details={"not": object()}))
    assert list(tmp_path.iterdir()) == []


def test_a_record_whose_place_is_taken_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "2024-11-24T20-00-00.123456_run_demo_index.json"
    place.mkdir()
    with pytest.raises(StepError, match="could not be written"):
        write(tmp_path, record())
    assert list(tmp_path.iterdir()) == [place]


def in_the_way(tmp_path: Path) -> Path:
    """A folder that nobody can make, not even root."""
    (tmp_path / "file").touch()
    return tmp_path / "file/evidence"


def test_a_folder_that_cannot_be_written_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="the record of this could not be written to") as caught:
        write(in_the_way(tmp_path), record())
    assert "Not a directory" in caught.value.printed
    assert "evidence_dir" in caught.value.advice


@pytest.mark.parametrize(
    ("setting", "place"),
    [("evidence", ROOT / "evidence"), ("/srv/x", Path("/srv/x")), ("~/x", Path("~/x").expanduser()), (".", ROOT)],
)
def test_the_folder_of_the_records(project_settings: Settings, setting: str, place: Path) -> None:
    assert evidence.folder(project_settings.model_copy(update={"evidence_dir": setting})) == place


# --- however it ends ------------------------------------------------------------------------------------------------


def test_what_went_well_is_recorded(tmp_path: Path) -> None:
    with recording(tmp_path, record()) as kept:
        kept.backup = "/b/x.db"
    seen = written(tmp_path)
    assert (seen["exit_status"], seen["error"], seen["backup"]) == (0, None, "/b/x.db")
    assert seen["seconds"] >= 0


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (
            StepError("it failed", host="demo", printed="why", advice="do this"),
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
    with pytest.raises(type(error)) as caught, recording(tmp_path, record(script_sha256="abc")):
        raise error
    assert caught.value is error
    seen = written(tmp_path)
    assert (seen["exit_status"], seen["error"], seen["script_sha256"]) == (status, words, "abc")


def test_what_a_step_found_out_by_itself_is_kept(tmp_path: Path) -> None:
    with pytest.raises(StepError), recording(tmp_path, record(exit_status=13, seconds=7.5)):
        raise StepError("the script failed")
    seen = written(tmp_path)
    assert (seen["exit_status"], seen["seconds"]) == (13, 7.5)


def test_a_folder_that_cannot_be_written_stops_it_before_anything_is_done(tmp_path: Path) -> None:
    done = False
    with pytest.raises(StepError, match="could not be written"), recording(in_the_way(tmp_path), record()):
        done = True
    assert not done


@pytest.mark.parametrize(
    "error", [CouldNotLookError("gone", printed="no route", advice="look at the cable"), KeyboardInterrupt(), None]
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

    with pytest.raises(type(error) if error else StepError) as caught, recording(into, record()):
        go_wrong()
    if isinstance(error, CouldNotLookError):
        assert error.printed.startswith("no route\nthe record of this could not be written")
        assert error.advice == "look at the cable"
    if error is None:
        assert "the record of this could not be written" in str(caught.value)


def test_the_folder_is_tried_without_a_trace(tmp_path: Path) -> None:
    with recording(tmp_path / "evidence", record()):
        assert list((tmp_path / "evidence").iterdir()) == []
