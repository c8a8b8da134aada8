"""The table of a preflight: the numbers that the verdict rests on."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from demo_backups.backup.copy_speed import SpeedSource
from demo_backups.backup.directory_access import DirectoryAccess
from demo_backups.backup.disk_space import Disk
from demo_backups.backup.preflight import PreflightFacts, decide_preflight
from demo_backups.backup.write_rate import WriteRate
from demo_backups.remote.processes import Process
from demo_backups.sqlite.sharing import Sharing
from demo_backups.ui.console import make_console
from demo_backups.ui.tables import print_preflight

FACTS = PreflightFacts(
    host="demo",
    database="tracker",
    sqlite="3.40.1",
    wal=True,
    source_bytes=50_000,
    wal_bytes=8_000,
    backup_disk=Disk("/mnt/backups", 50_999),
    source_disk=Disk("/data", 19_000),
    state_disk=Disk("/data", 19_000),
    backup_dir=PurePosixPath("/backups"),
    backup_dir_access=DirectoryAccess.WRITABLE,
    source_dir=PurePosixPath("/data"),
    source_dir_access=None,
    write_rate=WriteRate(200.0, 300.0),
    backup_processes=[],
    hidden_backup=False,
    leaves_sidecars=False,
    sharing=Sharing(1, [], [], [], [], sees_all=True),
    copy_seconds=60.0,
    speed_source=SpeedSource.EARLIER_RUNS,
    backup_count=3,
    backup_bytes=150_000,
    runs_a_day=24,
)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def render(facts: PreflightFacts) -> dict[str, str]:
    """Return the rows of the table, by their first word, and the lines of the verdict."""
    out = io.StringIO()
    print_preflight(make_console(out), decide_preflight(facts, 5.0, 1_000))
    rows = (line.strip().partition(" ") for line in out.getvalue().splitlines() if line.strip())
    return {name: text.strip() for name, _, text in rows}


def test_table_compares_free_and_needed_space() -> None:
    space = render(FACTS)["space"]
    assert "/mnt/backups: 50,999 bytes free, 51,000 needed" in space
    assert "/data: 19,000 bytes free, 19,000 needed" in space


@pytest.mark.parametrize("verdict", ["go", "warn", "no"])
def test_table_ends_with_verdict(verdict: str) -> None:
    facts = replace(FACTS, backup_disk=Disk("/", 10**9), source_disk=Disk("/", 10**9), state_disk=Disk("/", 10**9))
    facts = {
        "go": facts,
        "warn": replace(facts, wal=False, copy_seconds=1.0),
        "no": replace(facts, wal=False),
    }[verdict]
    assert verdict in render(facts)


def test_table_names_running_backup() -> None:
    assert "process 12 of root" in render(replace(FACTS, backup_processes=[Process(12, "root", "sqlite3")]))["running"]


def test_table_mentions_hidden_backup() -> None:
    assert render(replace(FACTS, hidden_backup=True))["running"] != render(FACTS)["running"]
