"""The plan of a restore is decided from its facts: method, proof, what is saved, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Any

import pytest

from demo_backups.backup.copy_speed import CopySpeed, SpeedSource
from demo_backups.backup.directory_access import DirectoryAccess
from demo_backups.backup.disk_space import Disk
from demo_backups.recovery.restore_facts import LiveAccess, LiveDatabase, RestoreFacts, RestoreSource
from demo_backups.recovery.restore_journal import Method, Proof, Save
from demo_backups.recovery.restore_plan import RestorePlan, decide_restore
from demo_backups.remote.processes import Process
from demo_backups.sqlite.inspect import Header
from demo_backups.sqlite.sharing import FileMount, Sharing

MB = 10**6
SIZE = 4096 * 250  # about 1 MB
TIMEOUT = 5.0
ROLLBACK, WAL = Header(SIZE, False, 4096), Header(SIZE, True, 4096)
OTHER_PAGES = Header(SIZE, False, 1024)
SERVICE = Process(7, "torrust", "tracker")
ALONE = Sharing(1, [], [], [], [], True)
SOURCE = RestoreSource(
    PurePosixPath("/backups/backup_2026-01-31_12-00-00.db"),
    SIZE,
    datetime(2026, 1, 31, 12, tzinfo=timezone.utc),
    ROLLBACK,
    "now",
)
LIVE = LiveDatabase(PurePosixPath("/live/sqlite3.db"), LiveAccess.READABLE, bytes=SIZE, header=ROLLBACK, sharing=ALONE)
FACTS = RestoreFacts(
    host="demo",
    database="index",
    source=SOURCE,
    live=LIVE,
    stops_service=False,
    backup_dir=PurePosixPath("/backups"),
    backup_prefix="backup_",
    backup_dir_access=DirectoryAccess.WRITABLE,
    live_dir_access=DirectoryAccess.WRITABLE,
    backup_disk=Disk("/", 100 * MB),
    live_disk=Disk("/live", 100 * MB),
    state_disk=Disk("/", 100 * MB),
    speed=CopySpeed(10 * MB, SpeedSource.SAMPLE),
    time="2026-02-01_03-04-05",
)
MISSING = LiveDatabase(LIVE.path, LiveAccess.MISSING)
NO_HEADER = replace(LIVE, access=LiveAccess.DAMAGED, header=None, problem="no header")
DAMAGED = replace(LIVE, access=LiveAccess.DAMAGED, problem="malformed")
LIVE_WAL = replace(LIVE, header=WAL)


def with_live(facts: RestoreFacts = FACTS, **changes: Any) -> RestoreFacts:
    """Return facts with changes to the live database."""
    return replace(facts, live=replace(facts.live, **changes))


def decide(facts: RestoreFacts, swap: bool = False, timeout: float = TIMEOUT, floor: int = 0) -> RestorePlan:
    """Decide a restore."""
    return decide_restore(facts, swap=swap, writer_timeout=timeout, floor=floor)


def refused(plan: RestorePlan) -> str:
    """Return the reasons and advice of a refusal on one line; empty if there is none."""
    return "; ".join(str(refusal) for refusal in plan.refusals)


STOPS = replace(FACTS, stops_service=True)
METHODS = {
    "rollback": (FACTS, Method.IN_PLACE, Proof.LOCKED, Save.COPY),
    "WAL": (replace(FACTS, live=LIVE_WAL), Method.IN_PLACE, Proof.TRANSACTION, Save.COPY),
    "rollback, stopped": (STOPS, Method.IN_PLACE, Proof.STOPPED, Save.COPY),
    "WAL, stopped": (replace(STOPS, live=LIVE_WAL), Method.IN_PLACE, Proof.STOPPED, Save.COPY),
    "damaged page": (replace(FACTS, live=DAMAGED), Method.IN_PLACE, Proof.LOCKED, Save.RAW),
    "missing": (replace(FACTS, live=MISSING), Method.SWAP, Proof.STOPPED, Save.NONE),
    "missing with sidecars": (
        replace(FACTS, live=replace(MISSING, sidecar_bytes={"-wal": 5})),
        Method.SWAP,
        Proof.STOPPED,
        Save.RAW,
    ),
    "no header": (replace(FACTS, live=NO_HEADER), Method.SWAP, Proof.STOPPED, Save.RAW),
    "other pages in rollback mode": (
        replace(FACTS, source=replace(SOURCE, header=OTHER_PAGES)),
        Method.IN_PLACE,
        Proof.LOCKED,
        Save.COPY,
    ),
    "other pages in WAL mode": (
        replace(FACTS, source=replace(SOURCE, header=OTHER_PAGES), live=LIVE_WAL),
        Method.SWAP,
        Proof.STOPPED,
        Save.COPY,
    ),
    "raw state": (replace(FACTS, source=replace(SOURCE, raw=True, header=None)), Method.SWAP, Proof.STOPPED, Save.COPY),
    "copy": (replace(STOPS, live=MISSING, is_copy=True), Method.SWAP, Proof.STOPPED, Save.NONE),
}


@pytest.mark.parametrize("name", METHODS)
def test_method_proof_and_save_are_decided(name: str) -> None:
    facts, method, proof, save = METHODS[name]
    plan = decide(facts)
    assert (plan.method, plan.proof, plan.save) == (method, proof, save)
    assert not plan.refusals, refused(plan)
    assert bool(plan.swap_reason) == (method is Method.SWAP and not facts.is_copy)


def test_swap_on_request_needs_no_reason() -> None:
    plan = decide(FACTS, swap=True)
    assert (plan.method, plan.swap_reason) == (Method.SWAP, "")


def test_saved_state_has_time_of_server() -> None:
    assert decide(FACTS).saved == PurePosixPath("/backups/saved.backup_2026-02-01_03-04-05.db")
    raw = decide(replace(FACTS, live=DAMAGED)).saved
    assert raw == PurePosixPath("/backups/saved.backup_2026-02-01_03-04-05.raw.db")


def test_copy_stops_no_service() -> None:
    assert not decide(METHODS["copy"][0]).stops_service
    assert decide(STOPS).stops_service


# --- refusals -------------------------------------------------------------------------------------------------------

BOUND = Sharing(1, [(FileMount(5, "/container/db"), [SERVICE])], [], [], [], True)
REFUSALS = {
    "damaged backup": (replace(FACTS, source=replace(SOURCE, problem="it is empty")), False, "it is empty"),
    "the live database": (replace(FACTS, source=replace(SOURCE, path=LIVE.path)), False, "the live database itself"),
    "running backup": (replace(FACTS, backup_processes=[SERVICE]), False, "a backup of this database is running"),
    "hidden backup": (replace(FACTS, hidden_backup=True), False, "a backup of this database is running"),
    "backup directory": (
        replace(FACTS, backup_dir_access=DirectoryAccess.READ_ONLY),
        False,
        "/backups is on a read-only file system",
    ),
    "live directory": (replace(FACTS, live_dir_access=DirectoryAccess.DENIED), False, "/live is not writable"),
    "directory": (with_live(type="d", access=LiveAccess.UNAVAILABLE), False, "not a regular file"),
    "damaged and in use": (replace(FACTS, live=replace(DAMAGED, processes=[SERVICE])), False, "process 7 of torrust"),
    "swap in use": (with_live(processes=[SERVICE]), True, "no process has it open: process 7 of torrust"),
    "swap with hard links": (with_live(sharing=replace(ALONE, links=2)), True, "2 hard links"),
    "swap of a mounted file": (with_live(sharing=BOUND), True, "mounted as a single file at /container/db"),
    "swap without sight": (with_live(sees_all_processes=False), True, "cannot see"),
    "WAL of a mounted file": (
        with_live(header=WAL, sharing=BOUND),
        False,
        "the service would not see the restored database",
    ),
    "deleted file": (with_live(sharing=replace(ALONE, deleted=[SERVICE])), False, "writes to a deleted file"),
    "copy over a file": (replace(FACTS, is_copy=True), False, "/live/sqlite3.db exists"),
    "copy next to a stale WAL": (
        replace(FACTS, is_copy=True, live=replace(MISSING, sidecar_bytes={"-wal": 1})),
        False,
        "sqlite3.db-wal",
    ),
    "inodes": (replace(FACTS, live_disk=Disk("/live", 100 * MB, 3)), False, "not enough free inodes on /live"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_harm_is_refused_with_an_advice(name: str) -> None:
    facts, swap, reason = REFUSALS[name]
    plan = decide(facts, swap)
    assert reason in refused(plan)
    assert all(refusal.advice for refusal in plan.refusals)


def test_stopped_service_lifts_its_refusals() -> None:
    in_use = replace(STOPS, live=replace(DAMAGED, processes=[SERVICE], sees_all_processes=False))
    assert not decide(in_use).refusals
    assert not decide(in_use, swap=True).refusals
    assert not decide(with_live(STOPS, header=WAL, sharing=BOUND)).refusals


# --- time and space -------------------------------------------------------------------------------------------------


def test_rollback_mode_counts_the_comparison() -> None:
    # The old pages go to a journal, the new ones to the database, then both files are read: 3 MB at 10 MB/s.
    plan = decide(FACTS)
    assert plan.writer_wait == pytest.approx(3 * SIZE / (10 * MB))


def test_wal_mode_counts_the_transaction() -> None:
    assert decide(replace(FACTS, live=LIVE_WAL)).writer_wait == pytest.approx(SIZE / (10 * MB))


@pytest.mark.parametrize("live", [LIVE, LIVE_WAL])
def test_long_wait_is_refused_unless_stopped(live: LiveDatabase) -> None:
    facts = replace(FACTS, live=live)
    assert "every write would wait" in refused(decide(facts, timeout=0.05))
    stopped = decide(replace(facts, stops_service=True), timeout=0.05)
    assert (stopped.writer_wait, stopped.refusals) == (0, [])


def test_space_is_needed_for_every_file() -> None:
    needed = decide(replace(FACTS, live=LIVE_WAL), floor=MB).needed_bytes
    assert needed == {"/": MB + SIZE, "/live": MB + SIZE // 4096 * (4096 + 24)}


@pytest.mark.parametrize(("disk", "purpose"), [("backup_disk", "the saved state"), ("live_disk", "a rollback journal")])
def test_missing_space_is_refused(disk: str, purpose: str) -> None:
    facts = replace(FACTS, **{disk: Disk("/small", SIZE // 2)})  # type: ignore[arg-type]
    assert f"not enough space on /small (for {purpose}" in refused(decide(facts))


def test_swap_is_proposed_where_only_it_has_room() -> None:
    # The journal would be as large as the live database, the new file is as large as the backup.
    facts = replace(with_live(bytes=10 * SIZE), live_disk=Disk("/live", 2 * SIZE))
    plan = decide(facts)
    assert plan.method is Method.SWAP
    assert "has no room for a rollback journal of full size" in plan.swap_reason
    assert not plan.refusals


def test_upload_needs_space_for_the_backup() -> None:
    facts = replace(FACTS, source=replace(SOURCE, upload=True), backup_disk=Disk("/", SIZE + SIZE // 2))
    assert "not enough space on / (for the uploaded backup)" in refused(decide(facts))
