"""The preflight: the verdict as a table, parsers with recorded output, and what is observed of a real database."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from demo_backups.backup.catalog import backup_processes, has_hidden_backup
from demo_backups.backup.crontab import PUBLISHED, count_daily_runs
from demo_backups.backup.preflight import (
    COPY_CEILING,
    KEPT_DAYS,
    SAMPLE_BYTES,
    Disk,
    Preflight,
    PreflightFacts,
    Verdict,
    decide_preflight,
    disks_command,
    observe_preflight,
    parse_disks,
    parse_read_speed,
    read_speed_command,
    recorded_speed,
)
from demo_backups.backup.run import birth_time_command, collect_result, lock_wait, start_backup
from demo_backups.backup.stop import active_jobs, end_backup
from demo_backups.backup.write_rate import WAL_FRAME_HEADER, WriteRate, parse_write_rate
from demo_backups.errors import BackupsError, CouldNotLookError
from demo_backups.project import ROOT
from demo_backups.records.record import Record
from demo_backups.rehearsal.database import make_index, make_tracker
from demo_backups.rehearsal.writer import live_writer
from demo_backups.remote.host import Host
from demo_backups.remote.jobs import Job, follow_job
from demo_backups.remote.processes import Process
from demo_backups.remote.shell import quote
from demo_backups.settings import Database, Settings
from demo_backups.ui.console import make_console
from demo_backups.ui.tables import print_preflight

from ..helpers.constants import NOBODY, root_only
from ..helpers.databases import is_consistent
from ..helpers.processes import wait_until
from ..helpers.tasks import Demo

# --- the verdict: pure ----------------------------------------------------------------------------------------------

FLOOR = 1_000
ROLLBACK = PreflightFacts(
    host="demo",
    database="tracker",
    sqlite="3.40.1",
    wal=False,
    source_bytes=50_000,
    wal_bytes=0,
    backup_disk=Disk("/", 10**9),
    source_disk=Disk("/", 10**9),
    state_disk=Disk("/", 10**9),
    pulse=WriteRate(200.0, 0.0),
    backup_processes=[],
    hidden_backup=False,
    leaves_files=False,
    copy_seconds=2.0,
    copy_known_from="earlier runs",
    backups=(3, 150_000),
    runs_a_day=24,
)
WAL = replace(ROLLBACK, wal=True, wal_bytes=8_000, pulse=WriteRate(200.0, 300.0), copy_seconds=60.0)  # grows by 18,000
RUNNING = [Process(12, "root", "sqlite3 -batch"), Process(13, "torrust", "bash")]


def on_one(seen: PreflightFacts, free: int) -> PreflightFacts:
    """Put the source and its backups on one file system."""
    return replace(seen, backup_disk=Disk("/", free), source_disk=Disk("/", free), state_disk=Disk("/", free))


def on_two(seen: PreflightFacts, backups: int, source: int) -> PreflightFacts:
    """Put the source on a file system of its own."""
    return replace(seen, backup_disk=Disk("/mnt/backups", backups), source_disk=Disk("/data", source))


@pytest.mark.parametrize(
    ("seen", "verdict", "reasons"),
    [
        # Writers: in rollback mode they wait for the whole copy, and give up after 5 s.
        (
            ROLLBACK,
            Verdict.WARN,
            ["writes wait for the copy, about 2.0 s; writers give up after 5 s; while one waits, new readers wait too"],
        ),
        (replace(ROLLBACK, copy_seconds=5.0), Verdict.WARN, ["writes wait for the copy, about 5.0 s"]),
        (
            replace(ROLLBACK, copy_seconds=5.1),
            Verdict.NO,
            [
                "every write would wait for about 5.1 s, and writers give up after 5 s; while one waits, new readers "
                "wait too: put the database in WAL mode"
            ],
        ),
        (WAL, Verdict.GO, []),
        (replace(WAL, copy_seconds=3600.0), Verdict.GO, []),
        # Space on one file system: the copy, what the WAL grows by meanwhile, and the margin.
        (on_one(WAL, 69_000), Verdict.GO, []),
        (on_one(WAL, 68_999), Verdict.NO, ["too little space on /: 1 bytes more are needed"]),
        (on_one(ROLLBACK, 51_000), Verdict.WARN, ["writes wait"]),
        (on_one(ROLLBACK, 50_000), Verdict.NO, ["too little space on /: 1,000 bytes more are needed", "writes wait"]),
        # On two: each for its own.
        (on_two(WAL, 51_000, 19_000), Verdict.GO, []),
        (on_two(WAL, 50_999, 19_000), Verdict.NO, ["too little space on /mnt/backups: 1 bytes more"]),
        (on_two(WAL, 51_000, 18_999), Verdict.NO, ["too little space on /data, where the source is: 1 bytes more"]),
        (on_two(WAL, 51_000 - 7, 19_000 - 8), Verdict.NO, ["/mnt/backups: 7 bytes", "/data, where the source is: 8 b"]),
        (on_two(ROLLBACK, 51_000, 999), Verdict.NO, ["/data, where the source is: 1 bytes", "writes wait"]),
        # What the run prints, and how it ended, is kept somewhere too.
        (replace(on_two(WAL, 51_000, 19_000), state_disk=Disk("/root", 1_000)), Verdict.GO, []),
        (
            replace(on_two(WAL, 51_000, 19_000), state_disk=Disk("/root", 999)),
            Verdict.NO,
            ["too little space on /root, where the run is kept: 1 bytes more"],
        ),
        (replace(on_two(WAL, 51_000, 19_000), state_disk=Disk("/data", 19_000)), Verdict.GO, []),  # the floor once
        # What would be left beside an idle database could stop its service.
        (
            replace(WAL, leaves_files=True),
            Verdict.NO,
            ["a -wal and a -shm beside the source that its service could not write"],
        ),
        # One at a time.
        (
            replace(WAL, hidden_backup=True),
            Verdict.NO,
            ["a backup of it is going on, by somebody whose processes may not be seen from here"],
        ),
        (replace(WAL, backup_processes=RUNNING[:1], hidden_backup=True), Verdict.NO, ["going on: process 12 of root"]),
        (
            replace(WAL, backup_processes=RUNNING),
            Verdict.NO,
            ["a backup of it is going on: process 12 of root, process 13 of torrust"],
        ),
        (
            on_one(replace(ROLLBACK, backup_processes=RUNNING, copy_seconds=9.0), 0),
            Verdict.NO,
            ["every write would wait", "too little space", "going on"],
        ),
    ],
)
def test_the_verdict_and_its_reasons(seen: PreflightFacts, verdict: Verdict, reasons: list[str]) -> None:
    ahead = decide_preflight(seen, 5.0, FLOOR)
    assert ahead.verdict is verdict
    assert len(ahead.reasons) == len(reasons), ahead.reasons
    for told, words in zip(ahead.reasons, reasons, strict=True):
        assert words in told
    assert ahead.exit_code == (1 if verdict is Verdict.NO else 0)


def test_the_way_out_of_a_long_hold_can_be_typed_as_it_stands() -> None:
    (reason,) = decide_preflight(replace(ROLLBACK, copy_seconds=72.0), 5.0, FLOOR).reasons
    assert "./inv enable-wal --host demo --database tracker" in reason


def test_the_json_has_the_verdict_and_every_number_it_rests_on() -> None:
    seen = on_two(replace(WAL, backup_processes=RUNNING[:1]), 10**9, 10**8)
    assert json.loads(json.dumps(decide_preflight(seen, 5.0, FLOOR).as_json())) == {
        "host": "demo",
        "database": "tracker",
        "journal": "wal",
        "source_bytes": 50_000,
        "wal_bytes": 8_000,
        "commits_per_second": 200.0,
        "free_bytes": {"backups": 10**9, "source": 10**8},
        "needed_bytes": {"backups": 51_000, "source": 19_000},
        "wal_growth_bytes": 18_000,
        "sqlite": "3.40.1",
        "running": [{"pid": 12, "user": "root", "command": "sqlite3 -batch"}],
        "running_unseen": False,
        "expected_seconds": 60.0,
        "expected_from": "earlier runs",
        "writers_held_seconds": 0,
        "backups": {"count": 3, "bytes": 150_000, "rotation_bytes": 50_000 * 24 * KEPT_DAYS},
        "verdict": "no",
        "reasons": ["a backup of it is going on: process 12 of root"],
    }


@pytest.mark.parametrize(
    ("seen", "journal", "held", "verdict"),
    [
        (WAL, "wal", 0, "go"),
        (ROLLBACK, "rollback", 2.0, "care"),
        (replace(ROLLBACK, copy_seconds=7), "rollback", 7, "no"),
    ],
)
def test_the_json_says_for_how_long_writers_are_held(
    seen: PreflightFacts, journal: str, held: float, verdict: str
) -> None:
    said = decide_preflight(seen, 5.0, FLOOR).as_json()
    assert (said["journal"], said["writers_held_seconds"], said["verdict"]) == (journal, held, verdict)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[[PreflightFacts], str]:
    """What a user reads of a preflight, on a wide terminal."""
    monkeypatch.setenv("COLUMNS", "200")

    def read(seen: PreflightFacts) -> str:
        printed = io.StringIO()
        print_preflight(make_console(printed), decide_preflight(seen, 5.0, FLOOR))
        return printed.getvalue()

    return read


@pytest.mark.parametrize(
    ("seen", "needed", "words"),
    [
        (on_one(WAL, 68_999), [69_000, 69_000], "/: 68,999 bytes free, 69,000 needed"),
        (
            on_two(WAL, 50_999, 19_000),
            [51_000, 19_000],
            "/mnt/backups: 50,999 bytes free, 51,000 needed; /data: 19,000 bytes free, 19,000 needed",
        ),
    ],
)
def test_what_is_free_is_told_against_what_the_verdict_asks_for(
    told: Callable[[PreflightFacts], str], seen: PreflightFacts, needed: list[int], words: str
) -> None:
    assert list(decide_preflight(seen, 5.0, FLOOR).as_json()["needed_bytes"].values()) == needed
    assert words in told(seen)


@pytest.mark.parametrize(
    ("seen", "words", "unseen"),
    [
        (WAL, "no other backup", False),
        (replace(WAL, backup_processes=RUNNING[:1], hidden_backup=True), "process 12 of root", True),
        (replace(WAL, hidden_backup=True), "somebody's, whose processes may not be seen", True),
    ],
)
def test_a_backup_that_may_not_be_seen_is_not_told_as_none(
    told: Callable[[PreflightFacts], str], seen: PreflightFacts, words: str, unseen: bool
) -> None:
    assert re.search(rf"running +{words}", told(seen))
    assert decide_preflight(seen, 5.0, FLOOR).as_json()["running_unseen"] is unseen


def test_how_often_a_database_is_backed_up_comes_from_the_published_crontab(project_settings: Settings) -> None:
    published = PUBLISHED.read_text()
    often = [count_daily_runs(project_settings.database(name), published) for name in ("index", "tracker")]
    assert often == [24, 1]


# --- parsers, with recorded output ----------------------------------------------------------------------------------


def test_df_says_what_is_free_and_where() -> None:
    printed = "        Avail Mounted on\n  35297091584 /\n 107374182400 /mnt/two  words\n"
    assert parse_disks(printed) == [Disk("/", 35_297_091_584), Disk("/mnt/two  words", 107_374_182_400)]


def test_df_of_this_machine_can_be_read(tmp_path: Path) -> None:
    odd = tmp_path / "it's -x"
    odd.mkdir()
    done = subprocess.run(
        disks_command(PurePosixPath(odd), PurePosixPath("/proc")),
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    found = parse_disks(done.stdout)
    assert [disk.mount for disk in found][1:2] == ["/proc"]
    assert len(found) == 3  # and the home directory's
    assert found[0].free > 0


def pulse(*looks: str) -> str:
    """What was printed by some looks, the last half a second after the first."""
    times = [1764021234.25 + 0.5 * number / max(len(looks) - 1, 1) for number in range(len(looks))]
    return "".join(f"{time:.9f}\n{look}\n" for time, look in zip(times, looks, strict=True))


def counters(commits: int, frames: int, salt: int = 7) -> str:
    """What od prints of a -shm."""
    return f" {commits:10}  268435457 {frames:10}       1024 2231123123 4123123123 {salt:10} 3141592653"


FRAME = 4096 + WAL_FRAME_HEADER
TOP = 2**32 - 1
NO_SHM = "0 0 0 0 0 0 0 0"


@pytest.mark.parametrize(
    ("before", "after", "commits", "wal_bytes"),
    [
        ("       1204", "       1304", 200, 0),
        ("       1204", "       1204", 0, 0),
        (f" {TOP - 5}", "          4", 20, 0),  # the counter has wrapped around
        ("       1204", "          1", 0, 0),  # another file in its place
        (counters(1204, 310), counters(1304, 610), 200, 600 * FRAME),
        (counters(1204, 310), counters(1204, 310), 0, 0),
        (counters(TOP - 5, 310), counters(4, 320), 20, 20 * FRAME),
        (counters(1204, 990), counters(1304, 20, salt=8), 200, 40 * FRAME),  # the WAL began anew: it was this at least
        (counters(1204, 10), counters(1304, 20, salt=8), 200, 40 * FRAME),  # also where it has come further since
        (counters(9204, 990), counters(3, 6, salt=9), 0, 0),  # the -shm was made anew
        (NO_SHM, NO_SHM, 0, 0),  # nobody has it open
        (NO_SHM, counters(2, 8), 4, 16 * FRAME),
    ],
)
def test_the_pulse_is_how_far_the_counters_moved(before: str, after: str, commits: float, wal_bytes: float) -> None:
    assert parse_write_rate(pulse(before, after), 4096) == WriteRate(commits, wal_bytes)


def test_the_wal_grows_by_whole_pages() -> None:
    assert parse_write_rate(pulse(counters(0, 0), counters(1, 1)), 65536).wal_bytes == 2 * (65536 + WAL_FRAME_HEADER)


@pytest.mark.parametrize(
    ("looks", "frames"),
    [
        # 100 commits; the 20 between which the WAL did not begin anew wrote 3 frames each.
        ([counters(100, 930), counters(110, 960), counters(190, 50, salt=8), counters(200, 80, salt=8)], 300),
        ([counters(100, 930), counters(110, 960), counters(190, 50, salt=9), counters(200, 80, salt=9)], 300),
        # One large transaction since it began anew is more than the small ones before tell.
        ([counters(100, 930), counters(110, 960), counters(111, 5000, salt=8)], 5030),
        ([counters(100, 10), counters(110, 40), counters(120, 70), counters(130, 100)], 90),
    ],
)
def test_the_growth_is_reckoned_from_what_commits_append_while_the_wal_does_not_begin_anew(
    looks: list[str], frames: int
) -> None:
    assert parse_write_rate(pulse(*looks), 4096).wal_bytes == pytest.approx(2 * frames * FRAME)


@pytest.mark.parametrize(
    "printed",
    [
        "",
        pulse("", ""),
        pulse("12", NO_SHM),
        pulse("12 3", "12 3"),
        pulse("twelve", "13"),
        "1\n2\n3\n4\n5\n",
        "2\n7\n1\n8\n",  # the clock was put back
        pulse("12"),
    ],
)
def test_a_pulse_that_cannot_be_read_is_an_error(printed: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever its words
        parse_write_rate(printed, 4096)


RECORDS = "16384+0 records in\n16384+0 records out\n"


@pytest.mark.parametrize(
    ("printed", "speed"),
    [
        (f"{RECORDS}67108864 bytes (67 MB, 64 MiB) copied, 0.25 s, 268 MB/s\n", 67_108_864 / 0.25),
        (
            "1+0 records in\n1+0 records out\n4096 bytes (4.1 kB, 4.0 KiB) copied, 5.12e-05 s, 80 MB/s\n",
            4096 / 5.12e-05,
        ),
        ("0+1 records in\n0+1 records out\n512 bytes copied, 0.000128 s, 4.0 MB/s\n", 512 / 0.000128),
        ("0+1 records in\n0+1 records out\n512 bytes copied, 0 s, Infinity B/s\n", 512 / 1e-6),
    ],
)
def test_dd_says_how_fast_it_read(printed: str, speed: float) -> None:
    assert parse_read_speed(printed) == pytest.approx(speed)


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "dd: failed to open '/x': Permission denied\n",
        "0+0 records in\n0+0 records out\n0 bytes copied, 0.000123 s, 0.0 kB/s\n",  # would divide by it
    ],
)
def test_what_was_not_read_has_no_speed(printed: str) -> None:
    with pytest.raises(ValueError, match="no rate"):
        parse_read_speed(printed)


@pytest.mark.parametrize(
    ("size", "read"),
    [(100, 100), (5000, 5000), (SAMPLE_BYTES, SAMPLE_BYTES), (SAMPLE_BYTES + 10_000, SAMPLE_BYTES)],
)
def test_a_short_file_is_read_whole_and_a_long_one_in_its_middle(tmp_path: Path, size: int, read: int) -> None:
    path = tmp_path / "it's"
    path.touch()
    os.truncate(path, size)
    printed = subprocess.run(
        ["sh", "-c", read_speed_command(PurePosixPath(path), size)],
        env=os.environ | {"LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"\n{read} bytes" in printed
    assert parse_read_speed(printed) > 0


def run_record(speed: float, minute: int, **changes: Any) -> Record:
    """The record of a run at so many bytes a second."""
    usual = {"when": f"2026-01-01T00:{minute:02}:00+00:00", "exit_status": 0, "bytes": int(speed * 4), "seconds": 4.0}
    return Record(**{"kind": "run", "host": "demo", "database": "tracker", **usual, **changes})


@pytest.mark.parametrize(
    ("records", "speed"),
    [
        ([], None),
        ([run_record(100, 1)], 100),
        ([run_record(100, 1), run_record(900, 2), run_record(200, 3)], 200),
        (
            [run_record(speed, minute) for minute, speed in enumerate([9000, 9000, 9000, 1, 2, 3, 4, 5])],
            3,
        ),  # the latest
        (
            [run_record(speed, 9 - minute) for minute, speed in enumerate([1, 2, 3, 4, 5, 9000, 9000])],
            3,
        ),  # in any order
        # Of its 4 s it waited for a lock in 3.
        ([run_record(100, 1, details={"waited_seconds": 3.0})], 400),
        ([run_record(100, 1, details={"waited_seconds": 0.0})], 100),
        ([run_record(100, 1, details={"waited_seconds": 4.0}), run_record(700, 2)], 700),
        ([run_record(100, 1, details={"waited_seconds": "long"})], 100),
        ([run_record(100, 1, kind="deploy")], None),
        ([run_record(100, 1, kind="verification")], None),
        ([run_record(100, 1, host="local")], None),
        ([run_record(100, 1, database="index")], None),
        ([run_record(100, 1, exit_status=1), run_record(700, 2)], 700),
        ([run_record(100, 1, exit_status=None)], None),
        ([run_record(100, 1, bytes=None), run_record(100, 1, seconds=None), run_record(100, 1, seconds=0.0)], None),
    ],
)
def test_the_speed_is_that_of_the_latest_good_runs_of_the_same_database_there(
    records: list[Record], speed: float | None
) -> None:
    assert recorded_speed(records, "demo", "tracker") == speed


# --- a real database on this machine --------------------------------------------------------------------------------

Look = Callable[..., PreflightFacts]


@pytest.fixture
def database(project_settings: Settings, tmp_path: Path) -> Database:
    """A small index database of the test's own, and an empty folder for its backups."""
    places = {"app_dir": PurePosixPath(tmp_path / "app"), "backup_dir": PurePosixPath(tmp_path / "backups")}
    found = project_settings.model_copy(update=places).database("index")
    Path(found.source).parent.mkdir(parents=True)
    Path(found.backup_dir).mkdir()
    make_index(Path(found.source), torrents=50)
    return found


@pytest.fixture
def look(here: Host, database: Database) -> Look:
    """Observe that database."""
    return lambda records=(): observe_preflight(here, database, "3.40.1", 24, records)


SCRIPT = ROOT / "share/bin/index-db-backup.sh"


def set_journal(source: PurePosixPath, mode: str) -> None:
    """Put a database in a journal mode."""
    with contextlib.closing(sqlite3.connect(source)) as opened:
        assert opened.execute(f"PRAGMA journal_mode = {mode}").fetchone() == (mode,)


@contextlib.contextmanager
def held_open(source: PurePosixPath) -> Iterator[sqlite3.Connection]:
    """Let somebody have a database open."""
    with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as opened:
        opened.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield opened


def everything(*folders: PurePosixPath) -> dict[str, tuple[int, bytes]]:
    """All files of some folders, with when they were written; of a -shm only that it is there: readers mark it."""
    files = [path for folder in folders for path in Path(folder).rglob("*") if path.is_file()]
    return {
        str(path): (0, b"") if path.name.endswith("-shm") else (path.stat().st_mtime_ns, path.read_bytes())
        for path in files
    }


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_commits_are_seen_while_there_are_any_and_none_where_there_are_none(
    look: Look, database: Database, journal: str
) -> None:
    set_journal(database.source, journal)
    assert look().pulse == WriteRate(0, 0)
    with held_open(database.source):
        assert look().pulse == WriteRate(0, 0)
    with live_writer(Path(database.source), rate=200) as wrote:
        seen = look()
    assert wrote.failed == 0
    assert seen.pulse.commits > 0
    assert (seen.pulse.wal_bytes > 0) == (journal == "wal")
    assert seen.wal == (journal == "wal")
    assert (seen.wal_bytes > 0) == (journal == "wal")


def test_the_growth_of_the_wal_is_not_underestimated_where_it_begins_anew_all_the_time(
    look: Look, database: Database
) -> None:
    """Against what a commit of the same writer appends while a snapshot is pinned."""
    set_journal(database.source, "wal")
    with live_writer(Path(database.source), rate=100_000):
        with checkpoints(database.source):
            seen = min((look().pulse for _ in range(3)), key=lambda pulse: pulse.wal_bytes / pulse.commits)
        with held_open(database.source) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
            start = wait_until(lambda: shm(database.source), "the counters")
            end = wait_until(lambda: (now := shm(database.source))[0] > start[0] + 1000 and now, "1,000 commits")
    appended = (end[1] - start[1]) * FRAME / (end[0] - start[0])
    assert seen.wal_bytes / seen.commits > 0.8 * appended


@contextlib.contextmanager
def checkpoints(source: PurePosixPath) -> Iterator[None]:
    """Write the WAL back into its database again and again, so that the next commit begins it anew."""
    end = threading.Event()

    def write_back() -> None:
        with contextlib.closing(sqlite3.connect(source)) as opened:
            while not end.wait(0.02):
                opened.execute("PRAGMA wal_checkpoint")

    thread = threading.Thread(target=write_back)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def shm(source: PurePosixPath) -> tuple[int, int]:
    """Commits and frames, as the -shm counts them."""
    commits, _, frames = struct.unpack("=3I", Path(f"{source}-shm").read_bytes()[8:20])
    return commits, frames


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_nothing_is_written_beside_the_source_or_the_backups(
    look: Look, database: Database, journal: str, is_open: bool
) -> None:
    set_journal(database.source, journal)
    with held_open(database.source) if is_open else contextlib.nullcontext():
        before = everything(database.source.parent, database.backup_dir)
        assert len(before) == (3 if journal == "wal" and is_open else 1)
        look()
        assert everything(database.source.parent, database.backup_dir) == before


def test_the_size_counts_what_stands_in_the_wal_only(look: Look, database: Database) -> None:
    set_journal(database.source, "wal")
    with held_open(database.source) as service:
        service.execute("PRAGMA wal_autocheckpoint = 0")
        service.execute("CREATE TABLE more AS SELECT zeroblob(9000000) AS x")
        assert Path(database.source).stat().st_size < 2_000_000
        seen = look()
    assert seen.source_bytes > 9_000_000
    assert seen.wal_bytes > 9_000_000


def test_a_large_wal_before_a_small_file_still_has_a_speed(look: Look, database: Database) -> None:
    """The sample is taken from the middle of the file, which is not the middle of the database."""
    set_journal(database.source, "wal")
    with held_open(database.source) as service:
        service.execute("PRAGMA wal_autocheckpoint = 0")
        service.execute("CREATE TABLE more AS SELECT zeroblob(90000000) AS x")
        assert Path(database.source).stat().st_size < (90_000_000 - SAMPLE_BYTES) // 2
        assert 0 < look().copy_seconds < float("inf")


def test_the_duration_comes_from_earlier_runs_where_there_are_any(look: Look) -> None:
    first = look()
    assert first.copy_known_from == "a short read of the source"
    assert first.copy_seconds >= first.source_bytes / COPY_CEILING
    runs = [run_record(first.source_bytes / 8, 1, host="local", database="index")]
    later = look(runs)
    assert later.copy_known_from == "earlier runs"
    assert later.copy_seconds == pytest.approx(8, rel=0.01)


def test_a_wait_for_a_lock_is_told_from_the_copy_since_it_holds_nobody_back(here: Host, database: Database) -> None:
    script = f"DATABASE_FILE={quote(database.source)} BACKUP_DIR={quote(database.backup_dir)} {quote(str(SCRIPT))}"
    with held_open(database.source) as service:
        service.execute("BEGIN EXCLUSIVE")
        run = start_backup(here, database, script, total=1, floor=0)
        wait_until(lambda: time.time() > run.started + 1 and backup_processes(here, database), "the run")
        released = time.time()
    seen = follow_job(here, database, run, print, lambda look: None)
    backup = collect_result(here, database, run, seen, "").path
    if here.query("see whether that is kept", birth_time_command(backup)).startswith("0"):
        pytest.skip("this disk does not keep when a file was made")
    assert seen.ended
    assert (
        released - run.started - 0.1 < lock_wait(here, run, backup) < seen.ended - run.started
    )  # file times are coarse


def test_where_it_is_not_kept_when_a_file_was_made_no_wait_is_told(here: Host) -> None:
    run = Job("backup", "index", "", "", 1, started=1_000.0)
    assert lock_wait(here, run, PurePosixPath("/proc/version")) == 0.0


def test_the_backups_that_are_held_are_counted(look: Look, database: Database) -> None:
    for name, size in (("backup_2026-01-01_00-00-00.db", 10), ("backup_2026-01-02_00-00-00.db", 20), ("else.db", 40)):
        Path(database.backup_dir, name).write_bytes(b"x" * size)
    assert look().backups == (2, 30)


def test_a_backup_that_goes_on_is_named(look: Look, database: Database) -> None:
    assert look().backup_processes == []
    with subprocess.Popen(["flock", database.lock, "cat"], stdin=subprocess.PIPE) as backup:
        wait_until(lambda: look().backup_processes, "the lock")
        seen = look().backup_processes
        assert backup.pid in [each.pid for each in seen]
        assert any("flock" in each.command for each in seen)
        assert decide_preflight(replace(WAL, backup_processes=seen), 5, FLOOR).verdict is Verdict.NO
        assert backup.stdin
        backup.stdin.close()
    assert look().backup_processes == []  # the lock file is still there; nobody holds it


@pytest.fixture
def theirs(database: Database, public: Path) -> Database:
    """Root's WAL database, and a folder for its backups, that any user may read and write by their modes."""
    source, backups = public / "sqlite3.db", public / "backups"
    set_journal(database.source, "wal")
    shutil.copy(database.source, source)
    source.chmod(0o666)
    backups.mkdir()
    backups.chmod(0o777)
    return replace(database, source=PurePosixPath(source), backup_dir=PurePosixPath(backups))


@root_only
def test_a_backup_that_would_leave_files_that_the_service_could_not_write_is_told(
    here: Host, theirs: Database, as_nobody: None
) -> None:
    def seen() -> PreflightFacts:
        return observe_preflight(here, theirs, "3.40.1", 24, ())

    ahead = decide_preflight(seen(), 5, FLOOR)
    assert (ahead.verdict, len(ahead.reasons)) == (Verdict.NO, 1)
    assert "INVOKE_USE_SUDO=1" in ahead.reasons[0]
    assert {path.name for path in Path(theirs.source).parent.iterdir()} == {"sqlite3.db", "backups"}
    with held_open(theirs.source):  # its service is up, and has made them
        assert not seen().leaves_files
    os.chown(theirs.source, NOBODY, NOBODY)
    assert not seen().leaves_files
    os.chown(theirs.source, 0, 0)
    set_journal(theirs.source, "delete")
    assert not seen().leaves_files


@root_only
def test_a_backup_of_another_user_is_told_where_its_processes_may_not_be_seen(
    here: Host, theirs: Database, as_nobody: None
) -> None:
    with held_open(theirs.source), subprocess.Popen(["flock", theirs.lock, "cat"], stdin=subprocess.PIPE) as backup:
        wait_until(lambda: has_hidden_backup(here, theirs), "the lock")
        seen = observe_preflight(here, theirs, "3.40.1", 24, ())
        assert seen.backup_processes == []
        assert decide_preflight(seen, 5, FLOOR).verdict is Verdict.NO
        for do in (lambda: active_jobs(here, theirs), lambda: end_backup(here, theirs, "stopped")):
            with pytest.raises(CouldNotLookError, match="by somebody whose processes may not be seen") as caught:
                do()
            assert "INVOKE_USE_SUDO=1" in str(caught.value)
        assert backup.poll() is None
        assert backup.stdin
        backup.stdin.close()
    assert not has_hidden_backup(here, theirs)  # the lock file is still there; nobody holds it
    assert active_jobs(here, theirs) == ([], [])


# --- what cannot be looked at ---------------------------------------------------------------------------------------


def leave_hot_journal(source: PurePosixPath) -> None:
    """Let a writer die in the middle of a transaction that has reached the file."""
    code = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.executescript("PRAGMA cache_size = 1; BEGIN; UPDATE torrust_torrents SET name = name || hex(randomblob(2000))")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code, source], check=True)
    assert Path(f"{source}-journal").stat().st_size


def remove(path: PurePosixPath) -> None:
    Path(path).unlink()


def empty(path: PurePosixPath) -> None:
    os.truncate(path, 0)


def write_text(path: PurePosixPath) -> None:
    Path(path).write_text("not a database\n" * 100)


def leave_wal_alone(path: PurePosixPath) -> None:
    set_journal(path, "wal")
    Path(f"{path}-wal").touch()


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (remove, 1, ["there is no", "see the settings: app_dir"]),
        (empty, 1, ["is not a database", "see the settings"]),
        (write_text, 1, ["is not a database", "see the settings"]),
        (leave_hot_journal, 3, ["a journal of a dead writer is beside it", "the service must be started once"]),
        (leave_wal_alone, 3, ["has a -wal without a -shm", "start its service once"]),
    ],
)
def test_a_source_that_cannot_be_looked_at(
    look: Look, database: Database, spoil: Callable[[PurePosixPath], None], code: int, words: list[str]
) -> None:
    spoil(database.source)
    before = everything(database.source.parent, database.backup_dir)
    with pytest.raises(BackupsError) as caught:
        look()
    assert caught.value.exit_code == code
    assert all(each in str(caught.value) for each in [*words, str(database.source)])
    assert everything(database.source.parent, database.backup_dir) == before


def test_a_source_that_stays_locked_could_not_be_looked_at(
    look: Look, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a sqlite3 that waits for a lock less long than the two minutes it is told to."""
    programs = tmp_path / "bin"
    programs.mkdir()
    real = shlex.quote(shutil.which("sqlite3") or "")
    (programs / "sqlite3").write_text(f'#!/bin/bash\nexec {real} "${{@/#.timeout 120000/.timeout 50}}"\n')
    (programs / "sqlite3").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    assert look().source_bytes
    with held_open(database.source) as service:
        service.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BackupsError, match="database is locked") as caught:
            look()
    assert caught.value.exit_code == 3


def test_a_backup_folder_that_is_missing_could_not_be_looked_at(look: Look, database: Database) -> None:
    Path(database.backup_dir).rmdir()
    with pytest.raises(BackupsError, match="No such file") as caught:
        look()
    assert caught.value.exit_code == 3
    assert f"make the folder there: mkdir -m 750 {database.backup_dir}" in str(caught.value)
    assert not Path(database.backup_dir).exists()


def test_an_answer_that_cannot_be_read_could_not_be_looked_at(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "df").write_text("#!/bin/sh\necho Verfügbar; echo viel\n")
    (programs / "df").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with pytest.raises(BackupsError, match="could not look at the free space: the answer cannot be read") as caught:
        look()
    assert caught.value.exit_code == 3


# --- as a user calls it ---------------------------------------------------------------------------------------------

Done = subprocess.CompletedProcess[str]
IMPATIENT = {"INVOKE_WRITER_TIMEOUT": "0 s"}


@pytest.fixture
def tracker(demo: Demo) -> Database:
    """The throwaway server's tracker database, with the script that backs it up."""
    found = demo.settings.database("tracker")
    Path(found.source).parent.mkdir(parents=True)
    make_tracker(Path(found.source), "delete", 2_000)
    done = demo.inv("deploy-tracker-backup")
    assert done.returncode == 0, done.stderr
    return found


def verdict(done: Done) -> Any:
    """The one JSON object that is all of the standard output."""
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def test_preflight_ends_with_0_for_care_and_go_and_with_1_for_no(demo: Demo, tracker: Database) -> None:
    flags = ("preflight", "--database", "tracker", "--json")
    care = demo.inv(*flags)
    assert care.returncode == 0, care.stderr
    assert verdict(care)["verdict"] == "care"
    assert "preflight (tracker database)" in care.stderr
    no = demo.inv(*flags, **IMPATIENT)
    assert (no.returncode, verdict(no)["verdict"]) == (1, "no")
    space = demo.inv(*flags, INVOKE_FREE_SPACE_FLOOR="1 EB")
    assert (space.returncode, verdict(space)["verdict"]) == (1, "no")
    assert "too little space" in verdict(space)["reasons"][0]
    set_journal(tracker.source, "wal")
    go = demo.inv(*flags, **IMPATIENT)
    said = verdict(go)
    assert (go.returncode, said["verdict"], said["writers_held_seconds"]) == (0, "go", 0)


def test_preflight_says_it_in_words_too(demo: Demo, tracker: Database) -> None:
    done = demo.inv("preflight", "--database", "tracker", **IMPATIENT)
    assert (done.returncode, done.stderr) == (1, "")
    for words in ("rollback: writers wait for the whole copy", "no other backup", "./inv enable-wal --host rehearsal"):
        assert words in done.stdout


def test_what_could_not_be_looked_at_is_one_object_too(demo: Demo) -> None:
    done = demo.inv("preflight", "--database", "tracker", "--json")
    assert done.returncode == 1
    assert verdict(done) == {"error": done.stderr.split("\n", 1)[1].rstrip("\n"), "exit_code": 1}


def test_a_run_refuses_on_no_and_goes_on_if_told_to(demo: Demo, tracker: Database) -> None:
    refused = demo.inv("run-tracker-backup", **IMPATIENT)
    assert refused.returncode == 1
    assert "the tracker database was not backed up: it would not go well" in refused.stderr
    assert "every write would wait" in refused.stderr
    assert "--force" in refused.stderr
    assert demo.names() == []
    forced = demo.inv("run-tracker-backup", "--force", **IMPATIENT)
    assert forced.returncode == 0, forced.stderr
    assert "preflight: no" in forced.stdout
    (name,) = demo.names()
    assert name.startswith("tracker_backup_")
    assert is_consistent(demo.backups / name)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("writer_timeout", "soon", "'soon' is not a number of seconds such as 5 s"),
        ("writer_timeout", "-1", "'-1' is not a number of seconds"),
        ("writer_timeout", "", "'' is not a number of seconds"),
        ("free_space_floor", "plenty", "'plenty' is not a size such as 512 MB"),
        ("free_space_floor", "5 boxes", "'5 boxes' is not a size such as 512 MB"),
    ],
)
def test_a_wrong_setting_is_named_with_its_key(demo: Demo, key: str, value: str, words: str) -> None:
    variable = f"INVOKE_{key.upper()}"
    done = demo.inv("preflight", **{variable: value})
    assert done.returncode == 2
    assert f"{key} (from {variable}): {words}" in done.stderr


def test_a_preflight_s_numbers_are_those_of_its_observation(look: Look) -> None:
    seen = look()
    ahead: Preflight = decide_preflight(seen, 5.0, FLOOR)
    assert ahead.needed_bytes[seen.backup_disk.mount] == seen.source_bytes + FLOOR
    assert ahead.rotation_bytes == seen.source_bytes * 24 * KEPT_DAYS
