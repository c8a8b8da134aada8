"""The benchmark: its flags, how rounds become a row, and a small grid measured for real."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import SettingsError
from demo_backups.project import ROOT
from demo_backups.rehearsal.database import make_tracker

from .helpers.tasks import InvRunner

sys.path.insert(0, str(ROOT / "benchmarks"))
from bench import parse_grid
from measure import DEFAULT, FULL, MAXIMUM_RATE, METHODS, Grid, LiveDatabase, Measurement, measure_copy
from render import PICTURE, RESULTS, Row, draw, format_row, read_measurements, summarize

FILES = ("live_backup.json", "benchmarks.svg")
FLAGS = ("sizes", "journals", "rates", "methods", "caches", "memory", "rounds")


def flags_with(**flags: str) -> dict[str, str | None]:
    """Return all flags; those that are not named have no value."""
    return dict.fromkeys(FLAGS) | flags


# --- flags ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("full", "grid"), [(False, DEFAULT), (True, FULL)])
def test_default_grids_are_valid(full: bool, grid: Grid) -> None:
    assert parse_grid(full, flags_with()) == grid


@pytest.mark.parametrize(
    ("flag", "text", "value"),
    [
        ("sizes", "0.25", (0.25e9,)),
        ("sizes", "0.25, 1,4", (0.25e9, 1e9, 4e9)),
        ("journals", "delete,wal", ("delete", "wal")),
        ("rates", "0,200,max", (0, 200, MAXIMUM_RATE)),
        ("methods", "script", ("script",)),
        ("methods", "cp, fsync; VACUUM INTO", ("cp, fsync", "VACUUM INTO")),
        ("methods", ";".join(METHODS), tuple(METHODS)),
        ("caches", "cold,warm", ("cold", "warm")),
        ("memory", "0.5", 0.5e9),
        ("rounds", "7", 7),
    ],
)
def test_flag_replaces_its_part_of_grid(flag: str, text: str, value: Any) -> None:
    assert parse_grid(False, flags_with(**{flag: text})) == replace(DEFAULT, **{flag: value})


WRONG = [
    *(("sizes", text) for text in ("", "big", "1,", "1;2", "0", "-1", "0.0001", "nan", "inf", "1e300")),
    *(("journals", text) for text in ("", "WAL", "truncate", "wal,")),
    *(("rates", text) for text in ("", "fast", "-1", "nan", "inf", "200,")),
    *(("methods", text) for text in ("", "rsync", "cp", "script;", "script, VACUUM INTO")),
    *(("caches", text) for text in ("", "hot", "cold;warm")),
    *(("memory", text) for text in ("", "much", "0", "nan", "1e300")),
    *(("rounds", text) for text in ("", "0", "-1", "1.5", "many")),
]


@pytest.mark.parametrize(("flag", "text"), WRONG)
def test_invalid_flag_is_refused(flag: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_grid(False, flags_with(**{flag: text}))
    assert caught.value.exit_code == 2
    assert "see: inv --help bench" in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "text", "words"),
    [
        ("--sizes", "inf", "out of range"),
        ("--journals", "truncate", "--journals 'truncate' is not valid"),
        ("--folder", "/no/such/folder", "--folder '/no/such/folder' is not a writable folder"),
        ("--out", "/dev/null", "--out '/dev/null' is not a writable folder"),
    ],
)
def test_invalid_flag_exits_before_measuring(run_inv: InvRunner, flag: str, text: str, words: str) -> None:
    done = run_inv("bench", flag, text)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


# --- from rounds to rows --------------------------------------------------------------------------------------------

ROUND = Measurement(
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


def row(*rounds: Measurement) -> Row:
    """Return the row of the script in these rounds."""
    (found,) = (found for found in summarize(rounds) if found.method == "script")
    return found


def test_row_has_median_time_and_worst_values() -> None:
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
def test_ratio_compares_same_situation_only(change: dict[str, Any]) -> None:
    assert row(ROUND, replace(CP, **change)).ratio is None
    assert row(ROUND, CP, replace(CP, **change, seconds=50.0)).ratio == 1.5


def test_one_inconsistent_copy_marks_row() -> None:
    assert not row(ROUND, replace(ROUND, consistent=False)).consistent
    assert [copy.method for copy in summarize([ROUND, CP, ROUND])] == ["script", "cp, fsync"]


def test_stopped_copy_has_progress_and_no_ratio() -> None:
    stopped = replace(ROUND, status=-9, seconds=10.0, copied=250, consistent=False)
    found = row(stopped, CP)
    assert (found.finished, found.ratio, found.copied) == (0, None, 0.25)
    assert format_row(found)[4:7] == ["10.0 s, stopped at 25%", "", "NO"]


def test_row_without_writer_has_empty_cells() -> None:
    found = row(replace(ROUND, rate=0, alone=0.0, commits_per_second=0.0), replace(CP, rate=0))
    assert found.throughput is None
    assert format_row(found) == ["1 GB", "wal", "0", "script", "3.00 s", "1.50", "yes", "", "0", "", "8 MB", "0 MB"]


# --- the picture ----------------------------------------------------------------------------------------------------


def bar_titles(picture: Path) -> list[str]:
    return [element.text or "" for element in ET.parse(picture).getroot().iter("{http://www.w3.org/2000/svg}title")]


def test_documented_picture_shows_stored_numbers() -> None:
    titles = bar_titles(PICTURE)
    rows = summarize(read_measurements(RESULTS))
    assert rows
    for row in rows:
        assert row.throughput is not None
        rate = "maximum" if row.rate == MAXIMUM_RATE else f"{row.rate:g}"
        bar = f"{row.method}, {row.size / 1e9:g} GB, {rate} commits/s"
        assert f"{bar}: {row.seconds:.2f} s" in titles
        assert f"{bar}: {row.throughput:.0%}" in titles


@pytest.mark.parametrize("rate", [0, 200])
def test_picture_has_writer_only_where_measured(rate: float, tmp_path: Path) -> None:
    alone = 200.0 if rate else 0.0
    copies = [replace(copy, rate=rate, alone=alone) for copy in (ROUND, CP, replace(CP, journal="delete"))]
    draw(summarize(copies), tmp_path / "picture.svg")
    titles = bar_titles(tmp_path / "picture.svg")
    assert sum(title.endswith(" s") for title in titles) == 3
    assert sum(title.endswith("%") for title in titles) == (3 if rate else 0)


def test_picture_marks_inconsistent_copies(tmp_path: Path) -> None:
    for consistent in (True, False):
        draw(summarize([replace(ROUND, consistent=consistent), CP]), tmp_path / "picture.svg")
        striped = (tmp_path / "picture.svg").read_text().count("url(#")
        assert striped == (1 if consistent else 3)  # the legend, and a bar in each chart


def test_picture_loads_nothing_and_has_two_modes() -> None:
    text = PICTURE.read_text()
    assert "prefers-color-scheme: dark" in text
    assert [tag for tag in ("<script", "href", "@import", "<image", "<foreignObject") if tag in text] == []
    assert set(re.findall(r"https?://[^\"]+", text)) == {"http://www.w3.org/2000/svg"}
    assert set(re.findall(r"var\((--[\w-]+)\)", text)) <= set(re.findall(r"(--[\w-]+):", text))


# --- measurements ---------------------------------------------------------------------------------------------------


def stored_results() -> dict[str, int]:
    """Return the times of the results in the checkout, also of those of a run without --out."""
    places = [ROOT / folder / name for folder in ("benchmarks", "docs", "reports") for name in FILES]
    return {str(path): path.stat().st_mtime_ns for path in places if path.exists()}


def test_small_grid_end_to_end(run_inv: InvRunner, tmp_path: Path) -> None:
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    before = stored_results()
    grid = ("--sizes", "0.002", "--rates", "0", "--rounds", "2", "--methods", "cp, fsync;script")
    done = run_inv("bench", *grid, "--folder", str(disk), "--out", str(out), COLUMNS="200")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout

    raw = json.loads((out / "live_backup.json").read_text())
    measurements = [Measurement(**copy) for copy in raw["measured"]]
    assert [(copy.journal, copy.method) for copy in measurements] == [
        (journal, method) for journal in ("wal", "delete") for method in ("cp, fsync", "script") * 2
    ]
    assert {copy.status for copy in measurements} == {0}
    assert all(copy.copied == copy.source_bytes > 1_500_000 for copy in measurements)
    assert [copy.consistent for copy in measurements] == [True, True, None, None] * 2
    assert all(copy.peak_memory > 0 for copy in measurements if copy.seconds > 0.1)
    assert set(raw["verification"]) == {"inv verify", "integrity_check", "size"}
    assert raw["machine"]["sqlite3"].startswith("3.")

    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 4
    assert "inv verify of 0.002 GB: " in done.stdout
    for name in ("live_backup.json", "benchmarks.svg"):
        assert str(out / name) in done.stdout
    picture = ET.parse(out / "benchmarks.svg").getroot()
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert list(disk.iterdir()) == []
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert stored_results() == before


@pytest.fixture
def live(tmp_path: Path) -> LiveDatabase:
    """Make a database of about 20 MB in WAL mode; its writer makes 200 commits per second."""
    source = tmp_path / "source.db"
    make_tracker(source, "wal", 200_000)
    return LiveDatabase(source, 20e6, "wal", 200, alone=200.0)


def test_task_copy_is_consistent_under_writer(live: LiveDatabase, tmp_path: Path) -> None:
    copy = measure_copy("task", live, tmp_path / "copies", limit=60, check=True)
    assert (copy.status, copy.consistent, copy.failed_writes) == (0, True, 0)
    assert copy.copied >= copy.source_bytes
    assert copy.commits_per_second > 0
    assert copy.impact
    assert min(copy.impact.before.writes, copy.impact.during.writes, copy.impact.after.writes) > 0
    assert copy.impact.during.slowest == copy.slowest_write


@pytest.mark.parametrize("check", [True, False])
def test_endless_copy_is_stopped_after_limit(
    live: LiveDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: bool
) -> None:
    """A plain .backup of a small database may end; this method never does."""

    def endless(source: Path, folder: Path) -> list[str]:
        return ["sh", "-c", 'head -c 4096 "$0" > "$1"; sleep 600', str(source), str(folder / "copy.db")]

    monkeypatch.setitem(METHODS, "endless", endless)
    copy = measure_copy("endless", live, tmp_path / "copies", limit=0.5, check=check)
    assert (copy.status, copy.consistent, copy.copied) == (-9, False, 4096)
    assert copy.failed_writes == 0
