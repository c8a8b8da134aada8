"""A lock of a killed process is removed and reported; one of a living process is named and stays."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from demo_backups.errors import OffsiteRetentionError, RepositoryLockedError
from demo_backups.offsite.result import State

from ..helpers.offsite import FIRST, OffsiteSetup

SECOND = "backup_2026-01-02_00-00-00.db"


@contextlib.contextmanager
def restic_with_lock(machine: OffsiteSetup, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run restic, and stop it as soon as it has a lock."""
    for _ in range(20):
        process = subprocess.Popen(
            ["restic", *arguments],
            env=os.environ | machine.restic_environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 60
            while not machine.locks() and process.poll() is None:
                assert time.monotonic() < deadline
            process.send_signal(signal.SIGSTOP)
            if process.poll() is None and machine.locks():
                yield process
                return
        finally:
            process.kill()
            process.communicate()
    pytest.fail("restic always ends before it can be stopped")


def test_lock_of_killed_process_is_removed(machine: OffsiteSetup) -> None:
    machine.add_copy()
    with restic_with_lock(machine, "backup", "--stdin") as process:
        pass
    assert len(machine.locks()) == 1
    result, output = machine.store()
    assert result.series[0].state is State.STORED
    assert [lock.process for lock in result.removed_locks] == [process.pid]
    assert f"process {process.pid}" in output
    assert machine.locks() == []


def test_lock_of_running_backup_stops_removal_only(machine: OffsiteSetup) -> None:
    machine.keep(daily=1)
    machine.add_copy()
    machine.store()
    machine.add_copy(SECOND)
    with restic_with_lock(machine, "backup", "--stdin") as process:
        result, _ = machine.store()
        with pytest.raises(RepositoryLockedError) as caught:
            machine.check()
        assert len(machine.locks()) == 1
    assert result.series[0].state is State.STORED
    assert isinstance(result.retention_error, OffsiteRetentionError)
    assert result.exit_code == 4
    assert machine.stored_names() == [SECOND, FIRST]
    assert f"process {process.pid}" in caught.value.output


def test_exclusive_lock_stops_everything(machine: OffsiteSetup) -> None:
    machine.add_copy()
    with restic_with_lock(machine, "check") as process:
        result, _ = machine.store()
        assert len(machine.locks()) == 1
    assert isinstance(result.series[0].error, RepositoryLockedError)
    assert f"process {process.pid}" in result.series[0].error.output
    assert machine.stored_names() == []


def test_remains_of_locks_stop_nothing(machine: OffsiteSetup) -> None:
    """A crash of the machine that the repository is on can leave them."""
    machine.add_copy()
    for name in ("a" * 64, f"{'b' * 64}-tmp-123"):
        (machine.repository / "locks" / name).touch()
    result, _ = machine.store()
    assert result.series[0].state is State.STORED
