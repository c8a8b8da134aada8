"""The account and the crontab line of docs/unattended.md, on a real server: the commands are those of the page."""

from __future__ import annotations

import fcntl
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from demo_backups.errors import COULD_NOT_LOOK, FAILED
from demo_backups.project import ROOT

from ..helpers.agent import agent
from ..helpers.constants import IS_CI, SCRIPT
from ..helpers.faults import snapshot
from ..helpers.markdown import code_blocks, page, section
from ..helpers.restic_repository import make_repository
from ..helpers.tasks import read_json, read_records
from .conftest import Server

PAGE = page("unattended.md")
OFFSITE, REPOSITORY = "Copies off-site", "sftp:backups@storage.example.org:restic"
ACCOUNT = "backup-reader"
HOME = f"/home/{ACCOUNT}"
# What runs with the key: each line is a command that must fail, except for the first two.
ATTACKS = r"""
cat "$HOME/backups/$backup" | head -c 15 | grep -q "SQLite format 3"
touch "$HOME/.demo-backups/own"
echo x > "$HOME/backups/new.db"
echo x >> "$HOME/backups/$backup"
rm -f "$HOME/backups/$backup"
mv "$HOME/backups/$backup" "$HOME/.demo-backups/"
chmod 666 "$HOME/backups/$backup"
touch "$HOME/backups/$backup"
ln "$HOME/backups/$backup" "$HOME/backups/.fetch.$backup"
ln "$HOME/backups/$backup" "$HOME/.demo-backups/$backup"
flock --nonblock "$HOME/backups/.backup.lock" true
cat "$HOME/backups/.backup.lock"
cat "$source"
cat /home/torrust/github/public
flock --shared --nonblock "$source" true
ls /home/torrust
rm -f "/home/torrust/backups/$backup"
cat /home/torrust/.ssh/authorized_keys
cat /root/file
cat /etc/shadow
cat /var/spool/cron/crontabs/root
crontab -l
echo "* * * * * true" | crontab -
echo "* * * * * root true" > /etc/cron.d/own
echo "ssh-ed25519 AAAA" >> "$HOME/.ssh/authorized_keys"
mv "$HOME/.ssh" "$HOME/other"
touch "$HOME/.profile"
umount "$HOME/backups"
mount -o remount,rw "$HOME/backups"
sudo -n true
kill -0 1
""".strip().splitlines()


def become_account(server: Server) -> Path:
    """Run the commands of the page on the server, and log in as the account from then on; return its key."""
    machine = server.machine
    key = machine.ssh / "id_ed25519_backups"
    machine.make_key(key, known=False)
    public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    blocks = code_blocks(section(PAGE, "The account on the server"))
    assert len(blocks) == 3
    for block in blocks:
        machine.run("sh", "-e", "-c", block.replace("192.0.2.10", "127.0.0.1").replace("ssh-ed25519 AAAA...", public))
    alias = machine.alias("demo", server.sshd, key=key).replace("User torrust", f"User {ACCOUNT}")
    machine.configure(alias)
    return key


@pytest.fixture
def restricted(server: Server) -> Server:
    """A server with one backup from before the account and one since, reached by the key of the account."""
    machine, database = server.machine, server.database
    server.source.chmod(0o640)
    machine.run("sh", "-c", "echo secret > /root/file; chmod 600 /root/file; usermod --append --groups sudo torrust")
    (machine.home / "github/public").write_text("for all users who can enter the directory")
    machine.set_crontab(b"0 * * * * /bin/true\n")
    shutil.copy(SCRIPT, machine.outside(database.script))
    script = ("env", f"DATABASE_FILE={database.source}", f"BACKUP_DIR={database.backup_dir}", str(database.script))
    machine.run(*script)
    become_account(server)
    machine.run(*script)
    assert len(server.names()) == 2
    return server


def ssh(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the OpenSSH client with the key of the account."""
    command = ["ssh", "-F", str(server.machine.ssh_config), "-o", "BatchMode=yes", *arguments]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=server.environment,
    )


def test_key_only_reads_backups(restricted: Server, tmp_path: Path) -> None:
    backup = restricted.names()[-1]
    watched = [restricted.backups, restricted.machine.folder / "etc", restricted.machine.folder / "root"]
    before = [snapshot(folder) for folder in watched]
    definitions = f"backup={backup}; source={restricted.database.source}"
    lines = [f"if ( {command} ) > /dev/null; then echo {number}; fi" for number, command in enumerate(ATTACKS)]
    done = ssh(restricted, "demo", "\n".join([definitions, *lines]))
    assert [ATTACKS[int(number)] for number in done.stdout.split()] == ATTACKS[:2], done.stderr
    assert [snapshot(folder) for folder in watched] == before

    assert "prohibited" in ssh(restricted, "-W", f"127.0.0.1:{restricted.sshd.port}", "demo").stderr
    remote = ssh(restricted, "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", "demo", "echo connected")
    assert (remote.stdout, "forwarding failed" in remote.stderr) == ("", True)
    assert "PTY allocation request failed" in ssh(restricted, "-tt", "demo", "tty").stderr
    with agent(tmp_path) as socket:
        options = ("-o", f"IdentityAgent={socket}", "-A")
        assert ssh(restricted, *options, "demo", 'echo "<$SSH_AUTH_SOCK>"').stdout == "<>\n"
    assert "Permission denied" in ssh(restricted, "-b", "127.0.0.2", "demo", "true").stderr


# --- the tasks ------------------------------------------------------------------------------------------------------


def make_checkout(server: Server) -> Path:
    """Make the directory of the page in which ./inv is called."""
    checkout = Path(server.environment["HOME"]) / "demo-backups"
    if not checkout.exists():
        checkout.mkdir()
        (checkout / "inv").symlink_to(ROOT / "inv")
    return checkout


def run_crontab(server: Server, title: str = "The crontab line", **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the line of a section as cron does: its settings only, its environment, /bin/sh, and no terminal."""
    (crontab,) = code_blocks(section(PAGE, title), "crontab")
    *settings, line = crontab.splitlines()
    home = server.environment["HOME"]
    make_checkout(server)
    environment = {"HOME": home, "LOGNAME": "you", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
    environment |= dict(setting.split("=", 1) for setting in settings)
    # Where the tests keep things: not in the checkout, and not in the home directory of the user who runs them.
    names = ("INVOKE_SSH_CONFIG", "INVOKE_EVIDENCE_DIR", "INVOKE_FETCH_DIR")
    environment |= {name: server.environment[name] for name in names} | changes
    schedule, command = line.split(" ", 5)[:5], line.split(" ", 5)[5]
    assert schedule == ["40", "5", "*", "*", "*"]
    assert "%" not in command
    return subprocess.run(
        ["/bin/sh", "-c", command],
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        timeout=120,
    )


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv" and not IS_CI, reason="./inv would build .venv")
def test_line_mails_only_what_is_wrong(restricted: Server, tmp_path: Path) -> None:
    home = Path(restricted.environment["HOME"])
    backup = restricted.names()[-1]
    done = run_crontab(restricted)
    log = (home / "unattended.log").read_text()
    assert (done.stdout, done.stderr) == ("", ""), done
    assert "OK demo/index: " in log
    records = read_records(Path(restricted.environment["INVOKE_EVIDENCE_DIR"]))
    assert [(record["kind"], record["exit_status"]) for record in records] == [
        ("verification", 0),
        ("fetch", 0),
        ("drill", 0),
    ], log
    assert {Path(record["backup"]).name for record in records} == {backup}
    assert (home / f"copies/demo/{backup}").read_bytes() == (restricted.backups / backup).read_bytes()
    assert list((restricted.machine.folder / HOME[1:] / ".demo-backups/drill").iterdir()) == []

    # A second run meanwhile.
    with (home / "unattended.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "the last run has not ended" in run_crontab(restricted).stdout
    assert (home / "unattended.log").read_text() == log

    # A key that needs a passphrase: nothing waits for it.
    key = restricted.machine.ssh / "id_ed25519_backups"
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "passphrase", "-f", key], check=True)
    mail = run_crontab(restricted).stdout
    assert mail == (home / "unattended.log").read_text()
    assert "no verification of the index database is due" in mail
    assert "no drill of the index database is due" in mail
    assert mail.count("has a passphrase, and there is no terminal to ask for it") == 2
    assert "UNKNOWN demo/index: " in mail


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv" and not IS_CI, reason="./inv would build .venv")
@pytest.mark.skipif(shutil.which("restic") is None and not IS_CI, reason="restic is not installed")
def test_line_stores_copies_offsite(restricted: Server) -> None:
    home, backup = Path(restricted.environment["HOME"]), restricted.names()[-1]
    repository = home / "repository"
    (commands,) = code_blocks(section(PAGE, OFFSITE))
    done = subprocess.run(
        ["bash", "-e", "-c", commands.replace(REPOSITORY, shlex.quote(str(repository)))],
        env=restricted.environment,
        cwd=make_checkout(restricted),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(repository)  # for one with the same password that takes less time to open
    make_repository(repository, (home / ".config/demo-backups/offsite-password").read_text().strip())
    done = run_crontab(restricted, OFFSITE, INVOKE_OFFSITE_REPOSITORY=str(repository))
    log = (home / "unattended.log").read_text()
    assert (done.stdout, done.stderr) == ("", ""), log
    assert "off-site" in next(line for line in log.splitlines() if line.startswith("OK demo/index: "))
    records = read_records(Path(restricted.environment["INVOKE_EVIDENCE_DIR"]))
    assert [(record["kind"], record["details"].get("action")) for record in records] == [
        ("verification", None),
        ("fetch", None),
        ("offsite", "store"),
        ("offsite", "check"),
        ("drill", None),
    ], log
    assert records[2]["backup"] == backup


def test_both_lines_differ_by_offsite() -> None:
    (plain,), (offsite,) = (code_blocks(section(PAGE, title), "crontab") for title in ("The crontab line", OFFSITE))
    assert offsite.replace("./inv offsite || e=$?; ./inv offsite --check || e=$?; ", "").splitlines() == [
        *plain.splitlines()[:-1],
        f"INVOKE_OFFSITE_REPOSITORY={REPOSITORY}",
        "INVOKE_OFFSITE_PASSWORD_FILE=~/.config/demo-backups/offsite-password",
        plain.splitlines()[-1],
    ]


def test_unseen_is_unknown_and_changes_are_refused(restricted: Server) -> None:
    settings = {"INVOKE_USE_SUDO": "0", "INVOKE_BACKUP_DIR": f"{HOME}/backups"}
    verification = read_json(restricted.inv("verify", "--json", **settings), COULD_NOT_LOOK)
    assert {check["name"]: check["passed"] for check in verification["checks"]} == {
        **dict.fromkeys(("created", "size", "integrity"), True),
        **dict.fromkeys(("query", "source")),
    }
    check = restricted.inv("check", "--database", "index", **settings)
    assert check.returncode == COULD_NOT_LOOK
    assert "UNKNOWN demo/index: crontab line unknown" in check.stdout
    before = snapshot(restricted.backups)
    for task in ("preflight", "run", "deploy", "enable"):
        done = restricted.inv(task, **settings)
        assert done.returncode in (FAILED, COULD_NOT_LOOK), done
        assert "Permission denied" in done.stderr or "can't cd to" in done.stderr
    assert snapshot(restricted.backups) == before
