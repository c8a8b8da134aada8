"""The index phase on a server like the demo: backups owned by root, root's crontab, sudo, the shipped settings."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from demo_backups.project import ROOT

from ..helpers.constants import SCRIPT
from ..helpers.databases import is_consistent
from ..helpers.tasks import INV
from .conftest import Server
from .machine import USER

COMMENT = "# demo-backups: index database (inv enable --database index)\n"
LINE = "0  * * * * /home/torrust/github/torrust/torrust-demo/share/bin/index-db-backup.sh >> /var/log/cron.log 2>&1\n"
CHAIN = ["deploy-index-backup", "run-index-backup", "verify", "enable-index-backup", "list-backups"]
OTHERS = (
    b"MAILTO=ops@example.org\n# \xe9t\xe9, 100\\%\n@daily /usr/local/bin/report\\% 'a  b'\n\n5 4 * * 1\t/bin/true\n"
)


def test_index_phase_with_live_database(server: Server) -> None:
    server.machine.set_crontab(OTHERS)
    server.machine.set_crontab(OTHERS, USER)
    with server.live():
        done = server.inv(*CHAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(" (")[0] for line in done.stdout.splitlines() if line.startswith("demo: ")] == [
        f"demo: {task.removesuffix('-index-backup')}" for task in CHAIN
    ]
    assert "all checks passed" in done.stdout

    (name,) = server.names()
    backup = server.backups / name
    assert is_consistent(backup)
    assert (backup.owner(), server.backups.stat().st_mode & 0o777) == ("root", 0o750)
    script = server.machine.outside(server.database.script)
    assert script.read_bytes() == SCRIPT.read_bytes()
    assert (script.stat().st_uid, script.stat().st_mode & 0o777) == (server.machine.home.stat().st_uid, 0o755)
    assert server.machine.crontab() == (COMMENT + LINE).encode() + OTHERS
    assert server.machine.crontab(USER) == OTHERS

    again = server.inv("deploy-index-backup", "enable-index-backup")
    assert again.stdout.count("nothing to do") == 2
    disabled = server.inv("disable-index-backup")
    assert disabled.returncode == 0, disabled.stderr
    assert server.machine.crontab() == OTHERS


def test_disable_removes_new_crontab(server: Server) -> None:
    done = server.inv("deploy-index-backup", "enable-index-backup", "disable-index-backup")
    assert done.returncode == 0, done.stderr
    assert server.machine.crontab() is None


def test_no_sudo_uses_crontab_of_user(server: Server) -> None:
    server.machine.allow_sudo(None)
    backups = server.machine.home / "my backups"
    backups.mkdir()
    server.machine.own(backups)
    changes = {
        "INVOKE_USE_SUDO": "0",
        "INVOKE_BACKUP_DIR": "/home/torrust/my backups",
        "INVOKE_CRON_LOG": "/home/torrust/cron.log",
    }
    done = server.inv(*CHAIN, **changes)
    assert done.returncode == 0, done.stdout + done.stderr
    (backup,) = backups.glob("backup_*.db")
    assert backup.stat().st_uid == backups.stat().st_uid
    line = LINE.replace("/home", "BACKUP_DIR='/home/torrust/my backups' /home", 1)
    line = line.replace("/var/log/cron.log", "/home/torrust/cron.log")
    assert server.machine.crontab(USER) == (COMMENT + line).encode()
    assert server.machine.crontab() is None


@pytest.mark.parametrize("task", ["list-backups", "verify", "run-index-backup"])
def test_unreadable_backups_are_not_missing(server: Server, task: str) -> None:
    server.add_backup(1)
    server.inv("deploy-index-backup")
    done = server.inv(task, INVOKE_USE_SUDO="0")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "/home/torrust/backups" in done.stderr
    assert "Permission denied" in done.stderr
    assert "INVOKE_USE_SUDO=1" in done.stderr
    assert "no backup" not in done.stdout + done.stderr


def test_json_reports_unreadable_backups(server: Server) -> None:
    done = server.inv("verify", "--json", INVOKE_USE_SUDO="0")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["exit_code"]) == (3, 3)
    assert "Permission denied" in answer["error"]


def test_startup_files_change_nothing(server: Server) -> None:
    for home in (server.machine.home, server.machine.folder / "root"):
        (home / ".bashrc").write_text("echo Welcome; echo 'system notice' >&2; printf 'no line end'; cd /\n")
        (home / ".sqliterc").write_text(".mode box\n.headers on\n.print hello\n")
    quiet = subprocess.run(
        ["ssh", "-F", server.machine.ssh_config, "demo", "true"], capture_output=True, text=True, check=True
    )
    assert quiet.stdout.startswith("Welcome\n")
    done = server.inv(*CHAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Welcome" not in done.stdout
    verification = json.loads(server.inv("verify", "--json").stdout)
    assert verification["checks"][2]["detail"] == "integrity_check: ok"


@pytest.mark.parametrize("shell", ["/bin/dash", "/bin/rbash"])
def test_other_login_shells(server: Server, shell: str) -> None:
    server.machine.run("usermod", "--shell", shell, USER)
    done = server.inv(*CHAIN)
    if shell == "/bin/rbash":  # it takes no command with a path
        assert done.returncode == 3
        assert "did not start" in done.stderr
        assert "restricted" in done.stderr
    else:
        assert done.returncode == 0, done.stdout + done.stderr


def test_nologin_shell_is_reported(server: Server) -> None:
    server.machine.run("usermod", "--shell", "/usr/sbin/nologin", USER)
    done = server.inv("list-backups")
    assert done.returncode == 3
    assert "This account is currently not available." in done.stderr


def test_one_session_is_enough(server: Server) -> None:
    sshd = server.machine.sshd("MaxSessions 1")
    server.machine.known_hosts.write_text(sshd.known)
    server.machine.configure(server.machine.alias("demo", sshd))
    done = server.inv(*CHAIN)
    assert done.returncode == 0, done.stdout + done.stderr


def test_refused_session_is_reported(server: Server) -> None:
    sshd = server.machine.sshd("MaxSessions 0")
    server.machine.known_hosts.write_text(sshd.known)
    server.machine.configure(server.machine.alias("demo", sshd))
    done = server.inv("list-backups")
    assert done.returncode == 3
    assert "the server opens no session" in done.stderr
    assert "may still be running" not in done.stderr


def test_shipped_settings_and_user_ssh_files(server: Server, tmp_path: Path) -> None:
    """OpenSSH takes the home directory from passwd, so `inv` gets a passwd with the home of the test."""
    passwd = tmp_path / "passwd"
    home = Path(server.environment["HOME"])
    passwd.write_text(f"root:x:0:0:root:{home}:/bin/bash\n")
    aliases = server.machine.ssh_config.read_text()
    (server.machine.ssh / "more").write_text(aliases)
    server.machine.ssh_config.write_text("Include more\n")
    environment = {name: value for name, value in server.environment.items() if name != "INVOKE_SSH_CONFIG"}
    script = f'mount --bind {shlex.quote(str(passwd))} /etc/passwd; exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script, "sh", INV, "--search-root", ROOT, *CHAIN],
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.machine.crontab() == (COMMENT + LINE).encode()
