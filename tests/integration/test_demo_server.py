"""Phase 1 on a server as published: backups that root owns, root's crontab, sudo, the settings as shipped."""

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

COMMENT = "# demo-backups: index database (inv enable-index-backup)\n"
LINE = "0  * * * * /home/torrust/github/torrust/torrust-demo/share/bin/index-db-backup.sh >> /var/log/cron.log 2>&1\n"
CHAIN = ["deploy-index-backup", "run-index-backup", "verify", "enable-index-backup", "list-backups"]
OTHERS = (
    b"MAILTO=ops@example.org\n# \xe9t\xe9, 100\\%\n@daily /usr/local/bin/report\\% 'a  b'\n\n5 4 * * 1\t/bin/true\n"
)


def test_the_whole_of_phase_1_with_a_live_database(server: Server) -> None:
    server.machine.set_crontab(OTHERS)
    server.machine.set_crontab(OTHERS, USER)
    with server.live():
        done = server.inv(*CHAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(" (")[0] for line in done.stdout.splitlines() if line.startswith("demo: ")] == [
        f"demo: {task}" for task in CHAIN
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
    gone = server.inv("disable-index-backup")
    assert gone.returncode == 0, gone.stderr
    assert server.machine.crontab() == OTHERS


def test_a_crontab_that_was_not_there_is_gone_again_after_disabling(server: Server) -> None:
    done = server.inv("deploy-index-backup", "enable-index-backup", "disable-index-backup")
    assert done.returncode == 0, done.stderr
    assert server.machine.crontab() is None


def test_without_sudo_the_users_own_crontab_and_folder_are_used(server: Server) -> None:
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
def test_backups_that_may_not_be_read_are_never_no_backups(server: Server, task: str) -> None:
    server.add_backup(1)
    server.inv("deploy-index-backup")
    done = server.inv(task, INVOKE_USE_SUDO="0")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "/home/torrust/backups" in done.stderr
    assert "Permission denied" in done.stderr
    assert "INVOKE_USE_SUDO=1" in done.stderr
    assert "no backup" not in done.stdout + done.stderr


def test_json_says_that_the_backups_may_not_be_read(server: Server) -> None:
    done = server.inv("verify", "--json", INVOKE_USE_SUDO="0")
    said = json.loads(done.stdout)
    assert (done.returncode, said["exit_code"]) == (3, 3)
    assert "Permission denied" in said["error"]


def test_what_the_users_start_up_files_print_changes_nothing(server: Server) -> None:
    for home in (server.machine.home, server.machine.folder / "root"):
        (home / ".bashrc").write_text("echo Welcome; echo 'mind the gap' >&2; printf 'no line end'; cd /\n")
        (home / ".sqliterc").write_text(".mode box\n.headers on\n.print hello\n")
    quiet = subprocess.run(
        ["ssh", "-F", server.machine.ssh_config, "demo", "true"], capture_output=True, text=True, check=True
    )
    assert quiet.stdout.startswith("Welcome\n")
    done = server.inv(*CHAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Welcome" not in done.stdout
    seen = json.loads(server.inv("verify", "--json").stdout)
    assert seen["checks"][2]["detail"] == "integrity_check: ok"


@pytest.mark.parametrize("shell", ["/bin/dash", "/bin/rbash"])
def test_the_login_shell_may_be_another(server: Server, shell: str) -> None:
    server.machine.run("usermod", "--shell", shell, USER)
    done = server.inv(*CHAIN)
    if shell == "/bin/rbash":  # it takes no command with a path
        assert done.returncode == 3
        assert "did not start" in done.stderr
        assert "restricted" in done.stderr
    else:
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_user_who_may_not_log_in_is_an_answer_with_the_servers_words(server: Server) -> None:
    server.machine.run("usermod", "--shell", "/usr/sbin/nologin", USER)
    done = server.inv("list-backups")
    assert done.returncode == 3
    assert "This account is currently not available." in done.stderr


def test_one_session_at_a_time_is_enough(server: Server) -> None:
    sshd = server.machine.sshd("MaxSessions 1")
    server.machine.known_hosts.write_text(sshd.known)
    server.machine.configure(server.machine.alias("demo", sshd))
    done = server.inv(*CHAIN)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_server_that_opens_no_session_is_not_a_lost_connection(server: Server) -> None:
    sshd = server.machine.sshd("MaxSessions 0")
    server.machine.known_hosts.write_text(sshd.known)
    server.machine.configure(server.machine.alias("demo", sshd))
    done = server.inv("list-backups")
    assert done.returncode == 3
    assert "the server opens no session" in done.stderr
    assert "may still be running" not in done.stderr


def test_the_settings_as_shipped_and_the_users_own_ssh_files_are_enough(server: Server, tmp_path: Path) -> None:
    """OpenSSH finds the user's files by passwd's home, so `inv` gets a passwd in which root's home is the test's."""
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
