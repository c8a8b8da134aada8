"""What breaks on a server: sessions, missing programs, full disks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import PurePosixPath

import pytest

from demo_backups.project import ROOT

from ..helpers.processes import wait_until
from ..helpers.tasks import INV
from .conftest import Server


def test_backup_survives_its_session(server: Server) -> None:
    """The script waits, while all sessions on the server are killed."""
    assert server.inv("deploy-index-backup").returncode == 0
    script, go = server.database.script, "/home/torrust/go"
    waiting = f"#!/bin/sh\nuntil [ -e {go} ]; do sleep 0.05; done\nexec {script}.real\n"
    server.machine.run("mv", str(script), f"{script}.real")
    server.machine.run("sh", "-c", f"printf '{waiting}' > {script}; chmod 755 {script}")
    with subprocess.Popen(
        [INV, "--search-root", ROOT, "run-index-backup", "--force-unsafe"],
        env=server.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as task:
        wait_until(lambda: server.machine.processes(f"/bin/sh {script}"), "the script to wait")
        for process in server.machine.processes("sshd: torrust"):
            os.kill(process, signal.SIGKILL)
        assert server.names() == []
        server.machine.run("touch", go)
        _, printed = task.communicate(timeout=60)
    # Between two commands, the task connects again; during one, it ends and says how to come back.
    assert task.returncode in (0, 3), printed
    if task.returncode == 3:
        assert "the connection was lost while trying to read the status of the backup" in printed
        assert "./inv attach --host demo --database index" in printed
    done = server.inv("attach", "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"created {server.settings.backup_dir}/{server.names()[0]}" in done.stdout


def test_server_that_is_down(server: Server) -> None:
    for process in server.machine.processes("sshd"):
        os.kill(process, signal.SIGTERM)
    server.sshd.process.wait()
    done = server.inv("list-backups")
    assert done.returncode == 3
    assert f"127.0.0.1 port {server.sshd.port}" in done.stderr


@pytest.mark.parametrize("program", ["sqlite3", "flock"])
def test_missing_program_prevents_deployment(server: Server, program: str) -> None:
    server.machine.remove(program)
    done = server.inv("deploy-index-backup")
    assert done.returncode == 3
    assert f"not installed, or not on cron's PATH: {program}\n" in done.stderr
    assert not server.machine.outside(server.database.script).exists()


def test_missing_sqlite3_is_no_failed_verification(server: Server) -> None:
    assert server.inv("deploy-index-backup", "run-index-backup").returncode == 0
    before = server.names()
    server.add_backup(9)
    server.machine.remove("sqlite3")
    done = server.inv("run-index-backup")
    assert done.returncode == 3
    assert "not installed, or not on cron's PATH: sqlite3" in done.stderr
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
def test_missing_cron_is_no_empty_crontab(server: Server, task: str) -> None:
    assert server.inv("deploy-index-backup").returncode == 0
    server.machine.remove("crontab")
    done = server.inv(task)
    assert done.returncode == 3
    assert "cron is not installed" in done.stderr
    assert "nothing to do" not in done.stdout


def test_user_without_right_to_a_crontab(server: Server) -> None:
    (server.machine.folder / "etc/cron.allow").write_text("root\n")
    assert server.inv("deploy-index-backup").returncode == 0
    server.machine.run("install", "-d", "-m", "750", "-o", "torrust", "/home/torrust/own")
    own = {"INVOKE_BACKUP_DIR": "/home/torrust/own", "INVOKE_CRON_LOG": "/home/torrust/cron.log"}
    done = server.inv("enable-index-backup", INVOKE_USE_SUDO="0", **own)
    assert done.returncode == 3, done.stdout
    assert "not allowed to use this program" in done.stderr


def test_full_disk_keeps_older_backups(server: Server) -> None:
    assert server.inv("deploy-index-backup").returncode == 0
    folder = str(server.settings.backup_dir)
    server.machine.run("mount", "-t", "tmpfs", "-o", "size=64k,mode=750", "tmpfs", folder)
    old = f"{folder}/backup_2020-01-01_00-00-00.db"
    server.machine.run("sh", "-c", f"echo old > {old}; touch -d '9 days ago' {old}")
    done = server.inv("run-index-backup")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"not enough space on {folder}" in done.stderr
    done = server.inv("run-index-backup", "--force", INVOKE_FREE_SPACE_FLOOR="0 B")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "full" in done.stderr
    assert "leaves older backups untouched" in done.stderr
    left = server.machine.inside(PurePosixPath(folder))
    assert sorted(path.name for path in left.iterdir()) == [".backup.lock", "backup_2020-01-01_00-00-00.db"]


def test_full_disk_keeps_old_script(server: Server) -> None:
    folder = str(server.database.script.parent)
    server.machine.run("mount", "-t", "tmpfs", "-o", "size=4k,mode=755", "tmpfs", folder)
    server.machine.run("sh", "-c", f"echo '#!/bin/sh' > {server.database.script}; chmod 755 {server.database.script}")
    done = server.inv("deploy-index-backup")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "No space left on device" in done.stderr
    assert "df -i" in done.stderr
    left = server.machine.inside(server.database.script)
    assert left.read_text() == "#!/bin/sh\n"
    assert [path.name for path in left.parent.iterdir()] == [left.name]


def test_refused_crontab_keeps_old_one(server: Server) -> None:
    """Cron's spool is full, so crontab(1) fails to install."""
    old = b"5 4 * * 1 /bin/true\n"
    assert server.inv("deploy-index-backup").returncode == 0
    server.machine.run(
        "mount", "-t", "tmpfs", "-o", "size=4k,mode=1730,gid=crontab", "tmpfs", "/var/spool/cron/crontabs"
    )
    server.machine.set_crontab(old)
    done = server.inv("enable-index-backup")
    assert done.returncode == 1, done.stdout + done.stderr
    assert server.machine.crontab() == old
