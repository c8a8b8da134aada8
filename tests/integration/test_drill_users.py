"""Restore drills where root restores for the login user: real sudo, and attempts of that user to deceive root."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from demo_backups.errors import FAILED
from demo_backups.recovery.drill import SCRIPT

from ..helpers.backups import make_backup
from ..helpers.faults import snapshot
from ..helpers.tasks import CompletedTask, assert_exit, read_json
from .conftest import Server
from .machine import USER

CHECKS = ["content", "integrity", "foreign_keys", "query", "command"]
HOME = f"/home/{USER}"
SECRET = "/root/secret"


@pytest.fixture
def backup(server: Server) -> Path:
    """A backup that only root can read."""
    backup = make_backup(server.source, server.backups)
    backup.chmod(0o600)
    return backup


def drill(server: Server, command: str = "", *arguments: str, **changes: str) -> CompletedTask:
    """Run a drill with a drill_command."""
    return server.inv("restore-drill", "--json", *arguments, INVOKE_DRILL_COMMAND=command, **changes)


def assert_nothing_left(server: Server) -> None:
    """Check that there are no scratch directories, neither of the user nor of root."""
    assert list((server.machine.home / ".demo-backups/drill").iterdir()) == []
    assert list(server.machine.home.parent.glob(".demo*")) == []


def test_root_restores_and_login_user_checks(server: Server, backup: Path) -> None:
    before = snapshot(server.backups)
    command = "{ id -un; id -Gn; echo $HOME; stat -c '%U %a %h' {file} .; ls -A; } > ~/out; sqlite3 {file} VACUUM"
    result = read_json(drill(server, command))
    assert {check["name"]: check["passed"] for check in result["checks"]} == dict.fromkeys(CHECKS, True), result
    user, groups, home, file, folder, names = (server.machine.home / "out").read_text().splitlines()
    assert (user, groups, home) == (USER, USER, HOME)
    assert (file, folder, names) == (f"{USER} 600 1", f"{USER} 700 2", server.source.name)
    assert snapshot(server.backups) == before
    assert_nothing_left(server)


def test_command_cannot_become_root(server: Server, backup: Path) -> None:
    ids = read_json(drill(server, "grep -E '^(Uid|Gid|Groups|CapEff):' /proc/self/status; exit 1"), FAILED)
    (detail,) = (check["detail"] for check in ids["checks"] if check["name"] == "command")
    uid = int(server.machine.run("id", "-u", USER))
    fields = {line.split(":")[0]: line.split()[1:] for line in detail.splitlines()[1:]}
    assert fields["Uid"] == [str(uid)] * 4
    assert fields["Gid"] == [server.machine.run("id", "-g", USER).strip()] * 4
    assert fields["Groups"] == server.machine.run("id", "-G", USER).split()
    assert fields["CapEff"] == ["0" * 16]


def test_backup_in_directory_of_user_is_refused(server: Server, backup: Path) -> None:
    copy = server.machine.home / "mine" / backup.name
    copy.parent.mkdir()
    shutil.copy(backup, copy)
    server.machine.own(copy.parent)
    done = drill(server, "", "--backup", f"{HOME}/mine/{backup.name}")
    assert_exit(done, FAILED, "refused: others than root can write")
    assert_nothing_left(server)


def test_drill_without_sudo_by_owner_of_backups(server: Server, backup: Path) -> None:
    server.machine.own(server.backups)
    command = "stat -c '%U %a %h' {file} > ~/out; ls -A >> ~/out"
    assert read_json(drill(server, command, INVOKE_USE_SUDO="0"))["passed"] is True
    assert (server.machine.home / "out").read_text() == f"{USER} 600 1\n{server.source.name}\n"
    assert_nothing_left(server)


def test_directory_above_is_of_root(server: Server, backup: Path) -> None:
    server.machine.run("install", "-d", "-m", "711", "/home/disk")
    server.machine.run("install", "-d", "-m", "700", "-o", USER, "/home/disk/drill")
    assert read_json(drill(server, "pwd > ~/out", INVOKE_DRILL_DIR="/home/disk/drill"))["passed"] is True
    assert (server.machine.home / "out").read_text().startswith("/home/disk/drill/index-")
    assert list((server.machine.folder / "home/disk").iterdir()) == [server.machine.folder / "home/disk/drill"]


def test_directory_of_root_is_refused(server: Server, backup: Path) -> None:
    assert_exit(drill(server, INVOKE_DRILL_DIR="/home/new"), FAILED, "install -d -m 700")
    server.machine.run("install", "-d", "-m", "755", "/home/new")
    assert_exit(drill(server, INVOKE_DRILL_DIR="/home/new"), FAILED, "refused", f"install -d -m 700 -o {USER}")


# --- a user who replaces files and directories while root is at work ------------------------------------------------

# By a shell of the user, while the restore runs: $run is the directory of the user.
ATTACKS = {
    "directory is a link to that of root": f'rmdir "$run"; ln -s {SECRET} "$run"',
    "directory is gone": 'rmdir "$run"',
    "directory is a file": 'rmdir "$run"; touch "$run"',
    "file is a link": f'ln -s {SECRET}/new "$run/sqlite3.db"',
    "file is a link to a file": f'ln -s {SECRET}/file "$run/sqlite3.db"',
    "file exists": 'echo mine > "$run/sqlite3.db"',
}


def run_script(server: Server, restore: str, backup: str, *arguments: str) -> str:
    """Run drill.sh as root for the user, with another command that restores; return what it printed."""
    run, work = f"{HOME}/drill/run", "/home/.work"
    ids = {name: server.machine.run("id", flag, USER).strip() for name, flag in (("uid", "-u"), ("gid", "-g"))}
    values = {
        **ids,
        **{"run": run, "work": work, "name": "sqlite3.db", "user": USER, "home": HOME, "path": "/usr/bin:/bin"},
        **{"backup": backup, "link": f"{work}/.backup.db", "limit": "1000", "restore": restore},
        **dict.fromkeys(("integrity", "foreign_keys", "query"), 'cat "$HOME"/drill/run/sqlite3.db; true'),
    }
    pairs = [f"{key}={value}" for key, value in values.items()]
    return server.machine.run("sh", "-c", 'bash -c "$@" 2>&1; true', "sh", SCRIPT.read_text(), "drill.sh", *pairs)


@pytest.fixture
def secret(server: Server) -> Path:
    """A directory of root with a secret file, and a directory of the user for drills."""
    server.machine.run("sh", "-c", f"umask 077; mkdir {SECRET}; echo 'SQLite format 3 top secret' > {SECRET}/file")
    server.machine.run("install", "-d", "-m", "700", "-o", USER, f"{HOME}/drill")
    return server.machine.folder / "root/secret"


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_root_follows_no_link_of_the_user(server: Server, secret: Path, backup: Path, attack: str) -> None:
    before = snapshot(secret)
    inside = f'run="{HOME}/drill/run"; {attack}'
    restore = f"cp /home/.work/.backup.db /home/.work/sqlite3.db; runuser -u {USER} -- sh -c {shlex.quote(inside)}"
    output = run_script(server, restore, f"/home/torrust/backups/{backup.name}")
    assert "== restore 0" in output
    assert "== give 1" in output
    assert "== cleanup 0" in output
    assert snapshot(secret) == before
    assert secret.stat().st_uid == 0
    assert "top secret" not in output
    assert not (server.machine.folder / "home/.work").exists()


def test_replaced_backup_directory_is_not_read(server: Server, secret: Path, backup: Path) -> None:
    name = "backup_2026-01-01_00-00-00.db"
    for attack in (f"ln -s {SECRET}/file {name}", f"ln {HOME}/own {name}"):
        inside = f"cd; rm -rf mine own; echo own > own; mkdir mine; cd mine; {attack}"
        server.machine.run("runuser", "-u", USER, "--", "sh", "-c", inside)
        output = run_script(server, "cp /home/.work/.backup.db /home/.work/sqlite3.db", f"{HOME}/mine/{name}")
        assert "refused: others than root can write" in output
        assert "== create 1" in output
        assert "top secret" not in output
    assert not (server.machine.folder / "home/.work").exists()


def test_link_in_place_of_backup_is_not_read(server: Server, secret: Path) -> None:
    name = "backup_2026-01-01_00-00-00.db"
    (server.backups / name).symlink_to(f"{SECRET}/file")
    output = run_script(server, "cat /home/.work/.backup.db", f"/home/torrust/backups/{name}")
    assert "is not a regular file" in output
    assert "top secret" not in output
    assert (secret / "file").stat().st_nlink == 1
