"""The real cron daemon runs the line that `inv enable-index-backup` adds to a crontab."""

from __future__ import annotations

import os
import signal
import time
from pathlib import PurePosixPath

import pytest

from ..helpers.databases import is_consistent
from ..helpers.processes import wait_until
from .conftest import Server
from .machine import USER

MISSED = 20  # seconds; cron reads a crontab within a second of the full minute


def run_due_jobs(server: Server, log: PurePosixPath) -> None:
    """Start cron just before a full hour, and wait until it has run a job that writes this log.

    Cron gets a time zone in which the full hour is two seconds away; the offset of a zone may have seconds.
    """
    file = server.machine.outside(log)
    for _ in range(5):  # on a busy machine, cron may start too late
        east = 3600 - int(time.time()) % 3600 - 2
        zone = f"TZ=NEAR-{east // 3600}:{east // 60 % 60}:{east % 60}"
        cron = server.machine.start("env", zone, "cron", "-f", log="cron.out")
        give_up = time.monotonic() + MISSED
        wait_until(lambda: file.exists() or time.monotonic() > give_up, "cron to run the job, or the hour to pass")  # noqa: B023
        if file.exists():
            wait_until(lambda: not server.machine.processes("index-db-backup.sh"), "the job to end")
            return
        for process in server.machine.processes("cron -f"):
            os.kill(process, signal.SIGKILL)
        cron.wait()
    pytest.fail(f"cron ran nothing: {server.machine.log('cron.out')}")


def test_cron_runs_enabled_line(server: Server) -> None:
    done = server.inv("deploy-index-backup", "enable-index-backup")
    assert done.returncode == 0, done.stderr
    server.add_backup(9)
    recent = server.add_backup(1)
    with server.live():
        run_due_jobs(server, server.settings.cron_log)
    assert server.machine.log("cron.log") == ""
    (backup,) = set(server.names()) - {recent}  # the oldest was rotated
    assert is_consistent(server.backups / backup)
    done = server.inv("verify")
    assert done.returncode == 0, done.stdout
    assert backup in done.stdout


def test_cron_runs_line_with_odd_paths(server: Server) -> None:
    odd = "50% 'of' \"it\" $HOME a\\tb \\%"
    backups = server.machine.home / odd
    backups.mkdir()
    server.machine.own(backups)
    changes = {
        "INVOKE_USE_SUDO": "0",
        "INVOKE_BACKUP_DIR": f"/home/torrust/{odd}",
        "INVOKE_CRON_LOG": f"/home/torrust/{odd}.log",
    }
    done = server.inv("deploy-index-backup", "enable-index-backup", **changes)
    assert done.returncode == 0, done.stderr
    assert server.machine.crontab(USER)
    run_due_jobs(server, PurePosixPath(f"/home/torrust/{odd}.log"))
    (backup,) = backups.glob("backup_*.db")
    assert is_consistent(backup)


def test_failure_is_logged_and_nothing_rotated(server: Server) -> None:
    done = server.inv("deploy-index-backup", "enable-index-backup")
    assert done.returncode == 0, done.stderr
    old = server.add_backup(9)
    server.source.unlink()
    run_due_jobs(server, server.settings.cron_log)
    assert str(server.database.source) in server.machine.log("cron.log")
    assert server.names() == [old]
