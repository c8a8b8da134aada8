"""The real cron daemon runs the line that `inv enable-index-backup` adds to a crontab."""

from __future__ import annotations

from pathlib import PurePosixPath

from ..helpers.databases import is_consistent
from .conftest import Server
from .cron import run_due_jobs
from .machine import USER

SCRIPT = "index-db-backup.sh"


def run_hourly_job(server: Server, log: PurePosixPath) -> None:
    """Let cron run the job of the next full hour; it creates this log."""
    run_due_jobs(server.machine, SCRIPT, server.machine.outside(log).exists)


def test_cron_runs_enabled_line(server: Server) -> None:
    done = server.inv("deploy-index-backup", "enable-index-backup")
    assert done.returncode == 0, done.stderr
    server.add_backup(9)
    recent = server.add_backup(1)
    with server.live():
        run_hourly_job(server, server.settings.cron_log)
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
    run_hourly_job(server, PurePosixPath(f"/home/torrust/{odd}.log"))
    (backup,) = backups.glob("backup_*.db")
    assert is_consistent(backup)


def test_failure_is_logged_and_nothing_rotated(server: Server) -> None:
    done = server.inv("deploy-index-backup", "enable-index-backup")
    assert done.returncode == 0, done.stderr
    old = server.add_backup(9)
    server.source.unlink()
    run_hourly_job(server, server.settings.cron_log)
    assert str(server.database.source) in server.machine.log("cron.log")
    assert server.names() == [old]
