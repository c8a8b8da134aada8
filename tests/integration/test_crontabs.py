"""All crontabs of a server: root's, those of users and packages, run-parts; and what its cron could not execute."""

from __future__ import annotations

import os
import subprocess

import pytest

from ..helpers.processes import wait_for_end
from ..helpers.tasks import InvRunner, assert_exit, assert_success
from .conftest import Server
from .machine import USER

ENABLE, DISABLE = "enable-index-backup", "disable-index-backup"


@pytest.fixture
def deployed(server: Server) -> Server:
    """The demo server with the script."""
    server.deploy()
    return server


def write_table(server: Server, path: str, text: str, mode: int = 0o644) -> None:
    """Write a file of cron in /etc; SCRIPT is replaced by the path of the script."""
    file = server.machine.folder / "etc" / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(text.replace("SCRIPT", str(server.database.script)))
    file.chmod(mode)


@pytest.mark.parametrize(
    ("path", "text", "mode"),
    [
        ("crontab", "SHELL=/bin/sh\n17 * * * * root SCRIPT\n", 0o644),
        ("cron.d/backup", "@daily torrust cd /home/torrust/github/torrust/torrust-demo && SCRIPT\n", 0o600),
        ("cron.hourly/backup", "#!/bin/sh\nexec SCRIPT\n", 0o755),
        ("anacrontab", "1 5 backup SCRIPT\n", 0o644),
    ],
)
def test_line_of_system_is_found(deployed: Server, path: str, text: str, mode: int) -> None:
    write_table(deployed, path, text, mode)
    assert_exit(deployed.inv(ENABLE), 1, f"/etc/{path}")
    assert deployed.machine.crontab() is None
    for arguments in ([DISABLE], [DISABLE, "--yes"]):
        assert_exit(deployed.inv(*arguments), 1, f"remove it from /etc/{path}")
    (deployed.machine.folder / "etc" / path).unlink()
    assert_success(deployed.inv(DISABLE))


@pytest.mark.parametrize("path", ["cron.d/backup.dpkg-old", "cron.d/.backup", "cron.hourly/backup"])
def test_inactive_file_of_system_is_ignored(deployed: Server, path: str) -> None:
    write_table(deployed, path, "@hourly root SCRIPT\n")
    assert_success(deployed.inv(ENABLE, DISABLE))


def test_line_in_package_table_satisfies_tasks(deployed: Server) -> None:
    write_table(deployed, "cron.d/backup", "0 * * * * root SCRIPT\n")
    assert "/etc/cron.d/backup" in assert_success(deployed.inv(ENABLE))
    assert deployed.machine.crontab() is None


def test_line_of_login_is_found(deployed: Server) -> None:
    line = f"@hourly {deployed.database.script}"
    deployed.machine.set_crontab(f"{line}\n".encode(), USER)
    deployed.machine.set_crontab(b"5 4 * * * /bin/true\n")
    assert_exit(deployed.inv(ENABLE), 1, f"the crontab of {USER}", line)
    assert_exit(deployed.inv(DISABLE, "--yes"), 1, f"the crontab of {USER}", line)
    assert deployed.machine.crontab(USER) == f"{line}\n".encode()
    assert deployed.machine.crontab() == b"5 4 * * * /bin/true\n"


def test_relative_line_of_login_is_found(deployed: Server) -> None:
    folder = deployed.database.script.parent.relative_to(f"/home/{USER}")
    line = f"@hourly cd {folder} && ./{deployed.database.script.name}"
    deployed.machine.set_crontab(f"{line}\n".encode(), USER)
    assert_exit(deployed.inv(DISABLE), 1, line)


def test_unread_tables_are_named(deployed: Server) -> None:
    write_table(deployed, "cron.d/private", "@daily root /bin/true\n", 0o600)
    output = assert_success(deployed.inv(DISABLE, INVOKE_USE_SUDO="0", INVOKE_BACKUP_DIR=f"/home/{USER}"))
    assert "/var/spool/cron/crontabs" in output
    assert "/etc/cron.d/private" in output
    assert "not read" not in assert_success(deployed.inv(DISABLE))


def test_missing_line_end_is_added_for_cron(deployed: Server) -> None:
    spool = deployed.machine.folder / "crontabs/root"
    spool.write_text("MAILTO=x\n5 4 * * * /bin/true")
    spool.chmod(0o600)
    assert "no line end" in assert_success(deployed.inv(ENABLE))
    assert (deployed.machine.crontab() or b"").endswith(b"\nMAILTO=x\n5 4 * * * /bin/true\n")


def test_simultaneous_tasks_agree_on_cron(deployed: Server) -> None:
    deployed.machine.set_crontab(b"5 4 * * * /bin/true\n")
    for task, expected in ((ENABLE, 1), (DISABLE, 0)):
        processes = [InvRunner(deployed.environment).start(task) for _ in range(2)]
        outputs = [assert_success(wait_for_end(process)) for process in processes]
        assert any("nothing to do" in output for output in outputs)
        assert (deployed.machine.crontab() or b"").count(b"index-db-backup.sh") == expected
    assert deployed.machine.crontab() == b"5 4 * * * /bin/true\n"


# --- what cron could not execute ------------------------------------------------------------------------------------


def test_noexec_file_system_is_refused(deployed: Server) -> None:
    folder = str(deployed.database.script.parent)
    deployed.machine.run("mount", "--bind", folder, folder)
    deployed.machine.run("mount", "-o", "remount,bind,noexec", folder)
    script = str(deployed.database.script)
    entered = [*deployed.machine.enter, script]
    assert subprocess.run(entered, capture_output=True, check=False).returncode == 126  # the mount has the effect
    assert_exit(deployed.inv(ENABLE), 1, "noexec")
    assert deployed.machine.crontab() is None
    deployed.machine.run("mount", "-o", "remount,bind,exec", folder)
    assert_success(deployed.inv(ENABLE))


def test_script_for_other_user_is_refused(deployed: Server) -> None:
    script = deployed.machine.outside(deployed.database.script)
    script.chmod(0o744)
    os.chown(script, 0, 0)
    changes = {
        "INVOKE_USE_SUDO": "0",
        "INVOKE_CRON_LOG": f"/home/{USER}/cron.log",
        "INVOKE_BACKUP_DIR": f"/home/{USER}",
    }
    assert_exit(deployed.inv(ENABLE, **changes), 1, str(deployed.database.script), USER)
    assert_success(deployed.inv(ENABLE))


def test_closed_directory_is_refused(deployed: Server) -> None:
    folder = deployed.machine.folder / "home/private"
    folder.mkdir(mode=0o700)
    application = deployed.settings.app_dir
    moved = deployed.machine.outside(application).rename(folder / application.name)
    changes = {"INVOKE_USE_SUDO": "0", "INVOKE_APP_DIR": f"/home/private/{moved.name}"}
    assert deployed.inv(ENABLE, **changes).returncode != 0
    assert deployed.machine.crontab(USER) is None
