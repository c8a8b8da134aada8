"""A tracker is backed up and fetched, damaged in three ways, and brought back from the server and from this machine."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo_backups.rehearsal.database import make_tracker
from demo_backups.rehearsal.writer import Traffic, live_writer
from demo_backups.settings.model import Database

from .helpers.databases import dump, execute, is_consistent, overwrite
from .helpers.tasks import DemoServer, assert_success, read_json

TRACKER = ("--database", "tracker")
DAMAGED_BYTES = 40_000


@dataclass
class Tracker:
    """A tracker database in a journal mode, its verified and fetched backup, and the content of that."""

    server: DemoServer
    journal: str
    backup: Path
    copy: Path
    content: list[str]

    @property
    def database(self) -> Database:
        return self.server.settings.database("tracker")

    @property
    def source(self) -> Path:
        return Path(self.database.source)

    def restore(self, place: str) -> str:
        """Restore the backup from a place, and return what was printed."""
        flags = (*TRACKER, "--backup", self.backup.name, "--from", place)
        plan = assert_success(self.server.inv("restore", *flags, "--dry-run"))
        output = assert_success(self.server.inv("restore", *flags, "--yes"))
        assert rows(plan, "method", "service", "proof", "verified") == rows(
            output, "method", "service", "proof", "verified"
        )
        return output

    def last_record(self) -> dict[str, Any]:
        """Return the newest record of a restore, which `history` shows first."""
        record = self.server.records()[-1]
        (newest, *_) = read_json(self.server.inv("history", *TRACKER, "--json"))["records"]
        assert newest == record
        assert (record["kind"], record["exit_status"], record["error"]) == ("restore", 0, None)
        assert (record["backup"], record["bytes"]) == (str(self.backup), self.copy.stat().st_size)
        return record

    def tested(self) -> str:
        """Return what the release plan says about the test of the tracker's backup."""
        phases = json.loads(self.server.inv("plan", "--json").stdout)["phases"]  # the exit code depends on GitHub
        (step,) = [step for phase in phases for step in phase["steps"] if step["name"] == "tracker-test"]
        return str(step["observed"])


def rows(output: str, *names: str) -> list[list[str]]:
    """Return rows of the table that shows what a restore will do."""
    lines = [line.split() for line in output.splitlines()]
    return [line for line in lines if line and line[0] in names]


@pytest.fixture
def tracker(demo_server: DemoServer, request: pytest.FixtureRequest) -> Tracker:
    """A tracker database; the parameter is its journal mode."""
    source = Path(demo_server.settings.database("tracker").source)
    source.parent.mkdir(parents=True)
    make_tracker(source, request.param, rows=20_000)
    content = dump(source)
    demo_server.deploy("tracker")
    assert_success(demo_server.inv("run-tracker-backup"))
    assert_success(demo_server.inv("verify", *TRACKER))
    fetched = read_json(demo_server.inv("fetch", *TRACKER, "--json"))
    backup = Path(fetched["backup"])
    return Tracker(demo_server, request.param, backup, Path(fetched["file"]), content)


def drop_table(source: Path) -> None:
    execute(source, "DROP TABLE whitelist")


def overwrite_middle(source: Path) -> None:
    overwrite(source, source.stat().st_size // 2 // 4096 * 4096, b"\xff" * DAMAGED_BYTES)


def delete_file(source: Path) -> None:
    for path in source.parent.iterdir():
        path.unlink()


DAMAGES = {"dropped": drop_table, "overwritten": overwrite_middle, "deleted": delete_file}


@pytest.mark.parametrize(("tracker", "place"), [("wal", "server"), ("delete", "here")], indirect=["tracker"])
def test_tracker_comes_back_from_three_damages(tracker: Tracker, place: str) -> None:
    assert f"{tracker.backup.name}: passed" in tracker.tested()
    if place == "here":
        tracker.backup.unlink()
        assert "passed" not in tracker.tested()
    for name, damage in DAMAGES.items():
        damage(tracker.source)
        # The service ends at the first damaged page that it reads, and has no file to write to.
        context = live_writer(tracker.source, 50) if name == "dropped" else nullcontext(Traffic())
        with context as traffic:
            output = tracker.restore(place)
        assert traffic.failed == 0
        assert_restored(tracker, name, output)
        assert tracker.last_record()["details"]["source"] == place
    assert tracker.backup.read_bytes() == tracker.copy.read_bytes()
    assert f"{tracker.backup.name}: passed" in tracker.tested()


def assert_restored(tracker: Tracker, damage: str, output: str) -> None:
    """Check the content, and what the output and the record say about the restore."""
    details = tracker.last_record()["details"]
    assert is_consistent(tracker.source)
    assert details["target"] == str(tracker.source)
    assert f"restored {tracker.source}" in output
    if damage == "dropped":  # the service has written since
        assert "whitelist" in tables(tracker.source)
        assert details["proof"] == ("transaction" if tracker.journal == "wal" else "locked")
    else:
        assert dump(tracker.source) == tracker.content
        assert details["identical"]
    assert details["method"] == ("swap" if damage == "deleted" else "in place")
    if damage == "deleted":
        assert details["saved"] is None
        return
    saved = Path(details["saved"])
    assert str(saved) in output
    if damage == "dropped":
        assert is_consistent(saved)
        assert "whitelist" not in tables(saved)
    else:
        assert b"\xff" * 4096 in saved.read_bytes()


def tables(path: Path) -> set[str]:
    """Return the names of the tables of a database, creating no file next to it."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
        return {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
