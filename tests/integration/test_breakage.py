"""What breaks on a server: a session that dies, programs that are missing, a disk that is full."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from pathlib import PurePosixPath

import pytest

from demo_backups.project import ROOT

from ..conftest import INV, wait_until
from .conftest import Server


def test_a_session_killed_midway_says_what_may_still_be_running(server: Server) -> None:
    """A writer that holds the database makes the script wait; meanwhile its session on the server is killed."""
    assert server.inv("deploy-index-backup").returncode == 0
    holder = sqlite3.connect(server.source, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with subprocess.Popen(
        [INV, "--search-root", ROOT, "run-index-backup"],
        env=server.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as task:
        wait_until(lambda: server.machine.processes("sqlite3 -batch"), "the script to wait for the database")
        for process in server.machine.processes("sshd: torrust"):
            os.kill(process, signal.SIGKILL)
        _, printed = task.communicate(timeout=60)
    assert task.returncode == 3, printed
    assert "the connection was lost while trying to run the backup" in printed
    assert "it may still be running on demo" in printed
    assert "the connection was lost" in server.evidence()
    assert server.names() == []

    holder.close()
    wait_until(lambda: not server.machine.processes("index-db-backup.sh"), "the script to end")
    wait_until(lambda: not server.machine.processes("sqlite3 -batch"), "the copy to end")
    done = server.inv("run-index-backup", "verify")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_server_that_is_down_could_not_be_looked_at(server: Server) -> None:
    for process in server.machine.processes("sshd"):
        os.kill(process, signal.SIGTERM)
    server.sshd.process.wait()
    done = server.inv("list-backups")
    assert done.returncode == 3
    assert f"127.0.0.1 port {server.sshd.port}" in done.stderr


@pytest.mark.parametrize("program", ["sqlite3", "flock"])
def test_a_script_is_not_deployed_where_a_program_is_missing(server: Server, program: str) -> None:
    server.machine.remove(program)
    done = server.inv("deploy-index-backup")
    assert done.returncode == 3
    assert f"not installed, or not on cron's PATH: {program}\n" in done.stderr
    assert not server.machine.outside(server.database.script).exists()


def test_without_sqlite3_a_backup_fails_and_a_verification_could_not_be_made(server: Server) -> None:
    assert server.inv("deploy-index-backup", "run-index-backup").returncode == 0
    before = server.names()
    server.add_backup(9)
    server.machine.remove("sqlite3")
    done = server.inv("run-index-backup")
    assert done.returncode == 1
    assert "sqlite3" in done.stderr
    assert set(before) < set(server.names())

    done = server.inv("verify", "--backup", before[0], "--json")
    seen = json.loads(done.stdout)
    assert (done.returncode, seen["passed"]) == (3, None)
    assert {check["name"]: check["passed"] for check in seen["checks"]} == {
        "created": True,
        "size": True,
        "integrity": None,
        "query": None,
        "source": None,
    }


@pytest.mark.parametrize("task", ["enable-index-backup", "disable-index-backup"])
def test_without_cron_a_crontab_is_not_empty_but_could_not_be_read(server: Server, task: str) -> None:
    assert server.inv("deploy-index-backup").returncode == 0
    server.machine.remove("crontab")
    done = server.inv(task)
    assert done.returncode == 3
    assert "cron is not installed" in done.stderr
    assert "nothing to do" not in done.stdout


def test_a_user_whom_cron_denies_a_crontab_is_told_so(server: Server) -> None:
    (server.machine.folder / "etc/cron.allow").write_text("root\n")
    assert server.inv("deploy-index-backup").returncode == 0
    done = server.inv("enable-index-backup", INVOKE_USE_SUDO="0", INVOKE_CRON_LOG="/home/torrust/cron.log")
    assert done.returncode == 3, done.stdout
    assert "not allowed to use this program" in done.stderr


def test_a_full_disk_fails_and_keeps_every_older_backup(server: Server) -> None:
    assert server.inv("deploy-index-backup").returncode == 0
    folder = str(server.settings.backup_dir)
    server.machine.run("mount", "-t", "tmpfs", "-o", "size=64k,mode=750", "tmpfs", folder)
    old = f"{folder}/backup_2020-01-01_00-00-00.db"
    server.machine.run("sh", "-c", f"echo old > {old}; touch -d '9 days ago' {old}")
    done = server.inv("run-index-backup")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "full" in done.stderr
    assert "leaves older backups untouched" in done.stderr
    left = server.machine.inside(PurePosixPath(folder))
    assert sorted(path.name for path in left.iterdir()) == [".backup.lock", "backup_2020-01-01_00-00-00.db"]


def test_a_full_disk_leaves_the_old_script_in_place(server: Server) -> None:
    folder = str(server.database.script.parent)
    server.machine.run("mount", "-t", "tmpfs", "-o", "size=4k,mode=755", "tmpfs", folder)
    server.machine.run("sh", "-c", f"echo '#!/bin/sh' > {server.database.script}; chmod 755 {server.database.script}")
    done = server.inv("deploy-index-backup")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "No space left on device" in done.stderr
    left = server.machine.inside(server.database.script)
    assert left.read_text() == "#!/bin/sh\n"
    assert [path.name for path in left.parent.iterdir()] == [left.name]


def test_a_crontab_that_cron_refuses_leaves_the_old_one_in_force(server: Server) -> None:
    """Cron's spool is full: a real reason for crontab(1) to fail after it was told to install."""
    old = b"5 4 * * 1 /bin/true\n"
    assert server.inv("deploy-index-backup").returncode == 0
    server.machine.run(
        "mount", "-t", "tmpfs", "-o", "size=4k,mode=1730,gid=crontab", "tmpfs", "/var/spool/cron/crontabs"
    )
    server.machine.set_crontab(old)
    done = server.inv("enable-index-backup")
    assert done.returncode == 1, done.stdout + done.stderr
    assert server.machine.crontab() == old
