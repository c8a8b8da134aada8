"""Backups are stored in the repository once and completely, or not at all."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone

import pytest

from demo_backups.errors import CopyMismatchError, NoSuchBackupError, OffsiteError
from demo_backups.offsite.result import State

from ..helpers.copies import hash_of
from ..helpers.offsite import FIRST, RESTIC, OffsiteSetup
from ..helpers.programs import shadow_program

SECOND, TRACKER = "backup_2026-01-02_00-00-00.db", "tracker_backup_2026-01-01_00-00-00.db"


def test_verified_copy_is_stored_once(machine: OffsiteSetup) -> None:
    path = machine.add_copy()
    result, _ = machine.store()
    assert [found.state for found in result.series] == [State.STORED, State.NO_COPY, State.NO_COPY]
    assert result.exit_code == 0
    (stored,) = machine.stored()
    assert (stored.name, stored.bytes, stored.sha256) == (FIRST, path.stat().st_size, hash_of(path))
    again, _ = machine.store()
    assert again.series[0].state is State.PRESENT
    assert len(machine.stored()) == 1
    first, second = machine.offsite_records()
    assert first["details"] == second["details"] | {"stored_bytes": result.series[0].stored_bytes}
    assert first["backup"] == FIRST
    assert {check["passed"] for record in (first, second) for check in record["checks"]} == {True}


def test_snapshot_has_stable_path_and_time(machine: OffsiteSetup) -> None:
    machine.add_copy()
    machine.store()
    (snapshot,) = json.loads(machine.restic("snapshots", "--json"))
    assert snapshot["time"] == "2026-01-01T00:00:00Z"
    assert snapshot["hostname"] == "demo"
    assert snapshot["paths"] == ["/demo/index.db"]


def test_newest_verified_copy_is_stored(machine: OffsiteSetup) -> None:
    machine.add_copy()
    machine.add_copy(SECOND, good=False)
    machine.add_copy(TRACKER, "tracker", good=False)
    result, output = machine.store()
    assert machine.stored_names() == [FIRST]
    assert result.series[0].unverified == [SECOND]
    assert result.series[1].state is State.NOT_VERIFIED
    assert result.exit_code == 1
    assert SECOND in output


def test_missing_copy_is_an_error(machine: OffsiteSetup) -> None:
    with pytest.raises(NoSuchBackupError):
        machine.store()
    machine.add_copy()
    with pytest.raises(NoSuchBackupError):
        machine.store("tracker")
    assert not machine.stored()


def test_changed_copy_is_not_stored(machine: OffsiteSetup) -> None:
    path = machine.add_copy()
    machine.add_copy(TRACKER, "tracker")
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"changed")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    result, _ = machine.store()
    assert isinstance(result.series[0].error, CopyMismatchError)
    assert result.exit_code == 1
    assert machine.stored_names() == [TRACKER]
    (record,) = [record for record in machine.offsite_records() if record["database"] == "index"]
    assert [check["passed"] for check in record["checks"]] == [False]


@pytest.mark.parametrize("filter_", ["head -c 5000", "cat - /etc/hostname"], ids=["cut", "longer"])
def test_wrong_input_leaves_no_snapshot(machine: OffsiteSetup, monkeypatch: pytest.MonkeyPatch, filter_: str) -> None:
    """Restic exits with 0 and makes a snapshot, whatever its standard input has."""
    machine.add_copy()
    body = f'[[ " $* " == *" backup "* ]] || exec {RESTIC} "$@"; {filter_} | {RESTIC} "$@"'
    shadow_program(machine.folder / "bin", "restic", body, monkeypatch)
    result, _ = machine.store()
    assert isinstance(result.series[0].error, OffsiteError)
    assert json.loads(machine.restic("snapshots", "--json")) == []
    (record,) = machine.offsite_records()
    assert record["exit_status"] == 1


def test_expired_backups_of_host_are_removed(machine: OffsiteSetup) -> None:
    machine.keep(daily=1)
    machine.add_copy()
    machine.store()
    machine.select_host("other")
    machine.add_copy(FIRST)
    machine.store()
    machine.add_copy(SECOND)
    result, _ = machine.store()
    assert [(backup.host, backup.name) for backup in result.removed] == [("other", FIRST)]
    assert [(backup.host, backup.name) for backup in machine.stored()] == [("other", SECOND), ("demo", FIRST)]


def test_empty_policy_removes_nothing(machine: OffsiteSetup) -> None:
    machine.keep(daily=0)
    for name in (FIRST, SECOND):
        machine.add_copy(name)
        result, _ = machine.store()
    assert not result.removed
    assert machine.stored_names() == [SECOND, FIRST]


def test_stored_time_is_that_of_backup(machine: OffsiteSetup) -> None:
    machine.add_copy(SECOND)
    machine.store()
    (stored,) = machine.stored()
    assert stored.created == datetime(2026, 1, 2, tzinfo=timezone.utc)


@pytest.mark.parametrize("end", ["kill -9 $$", "echo something new >&2; exit 1", f'{RESTIC} "$@" | head -n 1'])
def test_backup_that_cannot_be_read_back_stays(
    machine: OffsiteSetup, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    machine.add_copy()
    machine.store()
    body = f'[[ " $* " == *" ls "* ]] || exec {RESTIC} "$@"; {end}'
    shadow_program(machine.folder / "bin", "restic", body, monkeypatch)
    result, _ = machine.store()
    assert result.series[0].state is State.FAILED
    assert machine.stored_names() == [FIRST]
