"""The cost of off-site copies: flags, the files that are stored, how steps become rows, and small runs."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import SettingsError
from demo_backups.project import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import tracker_file
from bench import measure_offsite_to_files, parse_offsite_scale
from offsite import FULL, NAME, SMALL, Scale, Trial, cp_method, find_programs, restic_method
from offsite_figures import HEADINGS, format_table, summarize
from recovery import count_changed_pages
from tracker_file import PAGE, change_pages, make_tracker_file

from demo_backups.ui.console import make_console

FLAGS = ("sizes", "journals", "rates", "methods", "caches", "memory", "rounds")
STORED = ("offsite.json", "offsite_17_gb.json")
STEPS = ["init", "first copy", "second copy", "restore", "check of 1/10", "prune"]


# --- flags ----------------------------------------------------------------------------------------------------------


def scale_of(flags: dict[str, str], full: bool = False) -> Scale:
    return parse_offsite_scale(full, dict.fromkeys(FLAGS) | flags)


@pytest.mark.parametrize(
    ("full", "flags", "scale"),
    [
        (False, {}, SMALL),
        (True, {}, FULL),
        (True, {"sizes": "4"}, replace(FULL, sizes=(4e9,))),
        (False, {"rounds": "5"}, replace(SMALL, rounds=5)),
        (False, {"methods": "cp; borg fixed,4096"}, replace(SMALL, methods=("cp", "borg fixed,4096"))),
    ],
)
def test_flags_replace_parts_of_scale(full: bool, flags: dict[str, str], scale: Scale) -> None:
    assert scale_of(flags, full) == scale


@pytest.mark.parametrize(
    "flags", [{"sizes": "0"}, {"sizes": "1,big"}, {"rounds": "0"}, {"rates": "200"}, {"journals": "wal"}]
)
def test_invalid_flag_of_offsite_is_refused(flags: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        scale_of(flags)
    assert caught.value.exit_code == 2


def test_unknown_method_is_refused(tmp_path: Path) -> None:
    flags = dict.fromkeys(FLAGS) | {"methods": "tape", "sizes": "0.001"}
    with pytest.raises(SettingsError, match="tape") as caught:
        measure_offsite_to_files(False, flags, str(tmp_path), str(tmp_path), make_console())
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


# --- the file that is stored ----------------------------------------------------------------------------------------


def read_pages(path: Path) -> list[bytes]:
    content = path.read_bytes()
    return [content[offset : offset + PAGE] for offset in range(0, len(content), PAGE)]


def test_small_file_is_a_database(tmp_path: Path) -> None:
    make_tracker_file(tmp_path / NAME, 1e6)
    with sqlite3.connect(tmp_path / NAME) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_variants_repeat_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_file, "BASE", 1e6)
    make_tracker_file(tmp_path / NAME, 4e6)
    pages = read_pages(tmp_path / NAME)
    assert 3.4e6 < len(pages) * PAGE < 4.6e6
    assert len(set(pages)) > 0.98 * len(pages)  # the few others are the empty tables


def test_share_of_pages_is_changed(tmp_path: Path) -> None:
    path, copy = tmp_path / NAME, tmp_path / "copy"
    path.write_bytes(bytes(1000 * PAGE))
    shutil.copyfile(path, copy)
    assert change_pages(path, 0.01, seed=1) == 10
    assert count_changed_pages(path, copy) == 10


# --- from raw numbers to rows ---------------------------------------------------------------------------------------


def step_of(name: str, **fields: Any) -> dict[str, Any]:
    usual = {"method": "restic 1", "size": 1e9, "seconds": 20.0, "cpu": 5.0, "memory": 80e6, "status": 0, "stored": 0}
    return usual | {"step": name, "cache": 0, "intact": None} | fields


def row_of(*steps: dict[str, Any]) -> dict[str, str]:
    (row,) = summarize(steps)
    return dict(zip(HEADINGS, row, strict=True))


def test_rounds_become_medians() -> None:
    rounds = [(20.0, 5e8, 9e8), (90.0, 6e8, 11e8), (30.0, 7e8, 9e8)]
    steps = []
    for seconds, first, second in rounds:
        steps += [step_of("first copy", seconds=seconds, stored=first), step_of("second copy", stored=second)]
    row = row_of(*steps, step_of("check of all", memory=2e9, cache=3e6))
    assert row["first copy"] == "30 s (5.0 s)"
    assert (row["stored"], row["added"]) == ("600 MB", "400 MB")
    assert row["check"] == "20 s (5.0 s)"
    assert (row["memory"], row["cache"]) == ("2.00 GB", "3.0 MB")
    assert (row["restore"], row["prune"]) == ("", "")


@pytest.mark.parametrize(("fields", "text"), [({"status": 1}, "failed"), ({"intact": False}, "DIFFERS")])
def test_failed_round_is_not_hidden(fields: dict[str, Any], text: str) -> None:
    good = step_of("restore", intact=True)
    assert row_of(good, step_of("restore", **fields), good)["restore"] == text


@pytest.mark.parametrize("name", STORED)
def test_documented_rows_show_stored_numbers(name: str) -> None:
    stored = json.loads((ROOT / "benchmarks" / name).read_text())["measured"]
    page = (ROOT / "docs/benchmarks.md").read_text().splitlines()
    lines = format_table(stored)
    assert len(lines) > 2
    assert [line for line in lines if line not in page] == []


# --- what is measured -----------------------------------------------------------------------------------------------


def test_failed_step_ends_trial(tmp_path: Path) -> None:
    make_tracker_file(tmp_path / NAME, 1e6)
    command = ["sh", "-c", "echo no space >&2; exit 7"]
    method = replace(cp_method(tmp_path), restore=command)
    steps = list(Trial(method, tmp_path, 1e6, 0).run_all())
    assert [step.step for step in steps] == STEPS[:4]
    assert (steps[-1].status, steps[-1].error, steps[-1].intact) == (7, "no space", False)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.skipif(shutil.which("restic") is None, reason="needs restic")
def test_restic_and_cp_end_to_end(tmp_path: Path) -> None:
    make_tracker_file(tmp_path / NAME, 2e6)
    version, program = next(iter(find_programs("restic").items()))
    copied, stored = (
        list(Trial(method, tmp_path, 2e6, 0).run_all())
        for method in (cp_method(tmp_path), restic_method(program, version, tmp_path))
    )
    assert [step.step for step in stored] == STEPS
    assert [step.step for step in copied] == [name for name in STEPS if not name.startswith("check")]
    assert {step.status for step in (*copied, *stored)} == {0}
    assert [step.intact for step in (*copied, *stored) if step.step == "restore"] == [True, True]
    by_name = {step.step: step for step in stored}
    assert 0 < by_name["first copy"].stored < copied[1].stored
    assert by_name["prune"].stored < by_name["second copy"].stored
    assert by_name["first copy"].memory > 10e6
    assert by_name["first copy"].cpu > 0
