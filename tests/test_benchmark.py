"""The benchmark: what may be asked of it, how rounds become a row, and a small grid measured for real."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import SettingsError
from demo_backups.project import ROOT
from demo_backups.rehearsal.database import make_tracker

from .helpers.tasks import Inv

sys.path.insert(0, str(ROOT / "benchmarks"))
from live_backup import choose
from measuring import AS_MANY_AS_IT_CAN, DEFAULT, FULL, METHODS, Grid, Measured, Situation, copy
from showing import Row, cells, summarize

RESULTS = ("live_backup.json", "benchmarks.svg")
FLAGS = ("sizes", "journals", "rates", "methods", "rounds")


def given(**flags: str) -> dict[str, str | None]:
    """All flags, with those that were given."""
    return dict.fromkeys(FLAGS) | flags


# --- what may be asked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("full", "grid"), [(False, DEFAULT), (True, FULL)])
def test_without_flags_a_grid_is_as_documented(full: bool, grid: Grid) -> None:
    assert choose(full, given()) == grid


@pytest.mark.parametrize(
    ("flag", "text", "value"),
    [
        ("sizes", "0.25", (0.25e9,)),
        ("sizes", "0.25, 1,4", (0.25e9, 1e9, 4e9)),
        ("journals", "delete,wal", ("delete", "wal")),
        ("rates", "0,200,max", (0, 200, AS_MANY_AS_IT_CAN)),
        ("methods", "script", ("script",)),
        ("methods", "cp, fsync; VACUUM INTO", ("cp, fsync", "VACUUM INTO")),
        ("methods", ";".join(METHODS), tuple(METHODS)),
        ("rounds", "7", 7),
    ],
)
def test_a_flag_changes_its_own_part_of_the_grid_only(flag: str, text: str, value: Any) -> None:
    assert choose(False, given(**{flag: text})) == replace(DEFAULT, **{flag: value})


WRONG = [
    *(("sizes", text) for text in ("", "big", "1,", "1;2", "0", "-1", "0.0001", "nan", "inf", "1e300")),
    *(("journals", text) for text in ("", "WAL", "truncate", "wal,")),
    *(("rates", text) for text in ("", "fast", "-1", "nan", "inf", "200,")),
    *(("methods", text) for text in ("", "rsync", "cp", "script;", "script, VACUUM INTO")),
    *(("rounds", text) for text in ("", "0", "-1", "1.5", "many")),
]


@pytest.mark.parametrize(("flag", "text"), WRONG)
def test_what_cannot_be_measured_is_a_wrong_argument(flag: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        choose(False, given(**{flag: text}))
    assert caught.value.exit_code == 2
    assert "see: inv --help bench" in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "text", "words"),
    [
        ("--sizes", "inf", "there is nothing to measure in that"),
        ("--journals", "truncate", "--journals 'truncate' cannot be measured"),
        ("--folder", "/no/such/folder", "--folder '/no/such/folder' is not a folder that can be written"),
        ("--out", "/dev/null", "--out '/dev/null' is not a folder that can be written"),
    ],
)
def test_it_is_refused_in_words_before_anything_is_measured(inv: Inv, flag: str, text: str, words: str) -> None:
    done = inv("bench", flag, text)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


# --- from rounds to rows --------------------------------------------------------------------------------------------

ROUND = Measured(
    method="script",
    size=1e9,
    journal="wal",
    rate=200,
    seconds=3.0,
    source_bytes=1000,
    copied=1000,
    status=0,
    consistent=True,
    commits_per_second=150.0,
    alone=200.0,
    failed_writes=0,
    slowest_write=0.1,
    peak_memory=8_000_000,
    wal_growth=500,
)
CP = replace(ROUND, method="cp, fsync", seconds=2.0)


def row(*rounds: Measured) -> Row:
    """The row of the script in these rounds."""
    (found,) = (each for each in summarize(rounds) if each.method == "script")
    return found


def test_a_row_has_the_median_time_and_the_worst_of_the_rest() -> None:
    rounds = [
        replace(ROUND, seconds=9.0, commits_per_second=100.0, failed_writes=1, slowest_write=0.7),
        replace(ROUND, seconds=3.0, consistent=None, peak_memory=9_000_000),
        replace(ROUND, seconds=4.0, consistent=None, commits_per_second=180.0, failed_writes=2, wal_growth=900),
    ]
    found = row(*rounds, CP, replace(CP, seconds=20.0), replace(CP, seconds=1.0))
    assert found == Row(
        size=1e9,
        journal="wal",
        rate=200,
        method="script",
        seconds=4.0,
        ratio=2.0,
        finished=3,
        consistent=True,
        rounds=3,
        copied=1.0,
        throughput=0.75,
        failed_writes=3,
        slowest_write=0.7,
        peak_memory=9_000_000,
        wal_growth=900,
    )


@pytest.mark.parametrize("change", [{"size": 2e9}, {"journal": "delete"}, {"rate": 0}])
def test_only_what_was_measured_in_the_same_situation_is_compared(change: dict[str, Any]) -> None:
    assert row(ROUND, replace(CP, **change)).ratio is None
    assert row(ROUND, CP, replace(CP, **change, seconds=50.0)).ratio == 1.5


def test_one_copy_that_was_not_whole_is_told_and_the_order_stays() -> None:
    assert not row(ROUND, replace(ROUND, consistent=False)).consistent
    assert [each.method for each in summarize([ROUND, CP, ROUND])] == ["script", "cp, fsync"]


def test_a_copy_that_was_given_up_has_no_ratio_and_says_how_far_it_came() -> None:
    given_up = replace(ROUND, status=-9, seconds=10.0, copied=250, consistent=False)
    found = row(given_up, CP)
    assert (found.finished, found.ratio, found.copied) == (0, None, 0.25)
    assert cells(found)[4:7] == ["10.0 s, gave up at 25%", "", "NO"]


def test_without_a_writer_there_is_nothing_to_say_of_one() -> None:
    found = row(replace(ROUND, rate=0, alone=0.0, commits_per_second=0.0), replace(CP, rate=0))
    assert found.throughput is None
    assert cells(found) == ["1 GB", "wal", "0", "script", "3.00 s", "1.50", "yes", "", "0", "", "8 MB", "0 MB"]


# --- measured for real ----------------------------------------------------------------------------------------------


def kept() -> dict[str, int]:
    """When the numbers and the pictures in the checkout were written, those of a run without --out too."""
    places = [ROOT / folder / name for folder in ("benchmarks", "docs", "reports") for name in RESULTS]
    return {str(path): path.stat().st_mtime_ns for path in places if path.exists()}


def test_a_small_grid_from_end_to_end(inv: Inv, tmp_path: Path) -> None:
    place, out = tmp_path / "disk", tmp_path / "out"
    place.mkdir()
    out.mkdir()
    before = kept()
    grid = ("--sizes", "0.002", "--rates", "0", "--rounds", "2", "--methods", "cp, fsync;script")
    done = inv("bench", *grid, "--folder", str(place), "--out", str(out), COLUMNS="200")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout

    raw = json.loads((out / "live_backup.json").read_text())
    seen = [Measured(**each) for each in raw["measured"]]
    assert [(each.journal, each.method) for each in seen] == [
        (journal, method) for journal in ("wal", "delete") for method in ("cp, fsync", "script") * 2
    ]
    assert {each.status for each in seen} == {0}
    assert all(each.copied == each.source_bytes > 1_500_000 for each in seen)
    assert [each.consistent for each in seen] == [True, True, None, None] * 2
    assert all(each.peak_memory > 0 for each in seen if each.seconds > 0.1)
    assert set(raw["verification"]) == {"inv verify", "integrity_check", "size"}
    assert raw["machine"]["sqlite3"].startswith("3.")

    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 4
    assert "inv verify of 0.002 GB: " in done.stdout
    assert f"the numbers are in {out / 'live_backup.json'}, the picture is {out / 'benchmarks.svg'}" in done.stdout
    picture = ET.parse(out / "benchmarks.svg").getroot()
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert list(place.iterdir()) == []
    assert sorted(path.name for path in out.iterdir()) == sorted(RESULTS)
    assert kept() == before


@pytest.fixture
def live(tmp_path: Path) -> Situation:
    """A database of about 20 MB in WAL mode, and a writer of 200 commits a second."""
    source = tmp_path / "source.db"
    make_tracker(source, "wal", 200_000)
    return Situation(source, 20e6, "wal", 200, alone=200.0)


def test_the_script_under_a_writer_is_consistent_and_no_write_fails(live: Situation, tmp_path: Path) -> None:
    seen = copy("script", live, tmp_path / "copies", limit=60, check=True)
    assert (seen.status, seen.consistent, seen.failed_writes) == (0, True, 0)
    assert seen.copied >= seen.source_bytes
    assert seen.commits_per_second > 0


@pytest.mark.parametrize("check", [True, False])
def test_a_copy_that_does_not_end_is_given_up_after_the_limit_in_whatever_round(
    live: Situation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: bool
) -> None:
    """Whether a plain .backup ends is a matter of luck where the database is small; this one does not."""

    def endless(source: Path, folder: Path) -> list[str]:
        return ["sh", "-c", 'head -c 4096 "$0" > "$1"; sleep 600', str(source), str(folder / "copy.db")]

    monkeypatch.setitem(METHODS, "endless", endless)
    seen = copy("endless", live, tmp_path / "copies", limit=0.5, check=check)
    assert (seen.status, seen.consistent, seen.copied) == (-9, False, 4096)
    assert seen.failed_writes == 0
