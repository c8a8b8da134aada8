"""The real cron daemon runs the line that `inv enable-index-backup` puts into a crontab."""

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

MISSED = 20  # seconds; cron looks at a crontab within a second of the full minute


def run_due_jobs(server: Server, log: PurePosixPath) -> None:
    """Start cron a moment before the full hour, and wait until it has run a job that writes this log.

    Nobody waits for the hour: cron gets a time zone in which it is near. It takes the zone's offset to the second.
    """
    file = server.machine.outside(log)
    for _ in range(5):  # where the machine is so busy that cron starts too late, the hour is missed
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


def test_cron_runs_the_line_that_enabling_put_into_roots_crontab(server: Server) -> None:
    done = server.inv("deploy-index-backup", "enable-index-backup")
    assert done.returncode == 0, done.stderr
    server.add_backup(9)
    recent = server.add_backup(1)
    with server.live():
        run_due_jobs(server, server.settings.cron_log)
    assert server.machine.log("cron.log") == ""
    (made,) = set(server.names()) - {recent}  # the oldest is rotated away
    assert is_consistent(server.backups / made)
    done = server.inv("verify")
    assert done.returncode == 0, done.stdout
    assert made in done.stdout


def test_under_cron_too_a_path_may_hold_what_cron_and_the_shell_take_for_their_own(server: Server) -> None:
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
    (made,) = backups.glob("backup_*.db")
    assert is_consistent(made)


def test_under_cron_a_failure_is_in_the_log_and_no_backup_is_rotated_away(server: Server) -> None:
    done = server.inv("deploy-index-backup", "enable-index-backup")
    assert done.returncode == 0, done.stderr
    old = server.add_backup(9)
    server.source.unlink()
    run_due_jobs(server, server.settings.cron_log)
    assert str(server.database.source) in server.machine.log("cron.log")
    assert server.names() == [old]
