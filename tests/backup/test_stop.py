"""Stopping a backup: what ignores SIGTERM is killed, and what this user cannot see is left alone."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.backup.catalog import has_hidden_backup
from demo_backups.backup.run import start_backup
from demo_backups.backup.stop import ActiveJobs, active_jobs, end_backup
from demo_backups.errors import HiddenBackupError
from demo_backups.remote.host import Host
from demo_backups.remote.job_state import BACKUP, Job
from demo_backups.remote.jobs import read_status
from demo_backups.remote.shell import quote
from demo_backups.settings.model import Database

from ..helpers.constants import root_only
from ..helpers.processes import wait_until


def start(host: Host, database: Database, command: str) -> Job:
    """Start a backup that has the lock, and has copied a part, and then runs a command."""
    part = quote(database.part)
    job = start_backup(host, database, f"exec 9> {quote(database.lock)}; echo x > {part}; {command}", 1, 0)
    wait_until(Path(database.part).exists, "the backup")
    return job


def test_stopped_backup_leaves_no_part(local_host: Host, database: Database) -> None:
    job = start(local_host, database, "sleep 60; echo never")
    assert active_jobs(local_host, database).kinds == [BACKUP]
    assert end_backup(local_host, database, "stopped by me")
    assert active_jobs(local_host, database).is_idle
    assert not Path(database.part).exists()
    status = read_status(local_host, database, job)
    assert (status.running, status.output) == (False, "stopped by me\n")


def test_process_that_ignores_sigterm_is_killed(
    local_host: Host, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo_backups.backup.stop.STOP_TIMEOUT", 2)
    job = start(local_host, database, "trap '' TERM; sleep 60; echo never")
    assert end_backup(local_host, database, "stopped by me")
    assert active_jobs(local_host, database).is_idle
    assert not Path(database.part).exists()
    status = read_status(local_host, database, job)
    assert (status.running, status.output) == (False, "stopped by me\n")
    assert status.status in (137, None)  # its supervisor is killed too, before or after it has kept the status


def test_nothing_to_stop_is_no_error(local_host: Host, database: Database) -> None:
    assert active_jobs(local_host, database) == ActiveJobs([], [])
    assert not end_backup(local_host, database, "stopped by me")


@root_only
def test_hidden_backup_is_left_running(
    local_host: Host, database: Database, public_folder: Path, as_nobody: None
) -> None:
    database = replace(database, backup_dir=PurePosixPath(public_folder))
    with subprocess.Popen(["flock", database.lock, "cat"], stdin=subprocess.PIPE) as backup:
        wait_until(lambda: has_hidden_backup(local_host, database), "the lock")
        with pytest.raises(HiddenBackupError) as caught:
            active_jobs(local_host, database)
        assert "INVOKE_USE_SUDO=1" in caught.value.advice
        with pytest.raises(HiddenBackupError):
            end_backup(local_host, database, "stopped by me")
        assert backup.poll() is None
        assert backup.stdin
        backup.stdin.close()
    assert active_jobs(local_host, database).is_idle  # the lock file exists, unlocked
