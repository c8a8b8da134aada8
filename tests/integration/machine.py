"""A machine of its own inside this one: OpenSSH, cron, sudo, users and crontabs are real, and all of it is private.

Its processes live in mount and pid namespaces (unshare(1)) in which /etc, /home, /root, /var/log and cron's spool are
folders of the test, what is written by the way goes to memory, and all the rest is read-only. So nothing that is done
there, as root too, can touch this machine; tests need not take turns; and when the first process of the machine ends,
the kernel ends every other and takes the mounts away, however the test ended. Its files can be seen from outside below
`Machine.folder`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.rehearsal.database import make_index
from demo_backups.settings.model import Settings

from ..helpers.processes import wait_until

USER = "torrust"
PASSWORD = "correct horse ' \\ battery ü %s"
PLACES = {"etc": "/etc", "log": "/var/log", "crontabs": "/var/spool/cron/crontabs", "root": "/root", "home": "/home"}
PROGRAMS = (
    "sshd",
    "ssh",
    "ssh-keygen",
    "ssh-agent",
    "cron",
    "crontab",
    "sudo",
    "unshare",
    "nsenter",
    "setsid",
    "useradd",
)
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
MARK = "private-machine"  # a file in its /etc: where it is not seen, nothing is run
# Runs as the machine's first process: it makes the private places, and lives for as long as its standard input is open.
INIT = r"""
set -eu
while read -r device place rest; do
  case "$place" in
    /proc* | /sys* | /dev*) ;;
    /) mount -o remount,bind,ro / ;;
    *) mount -o remount,bind,ro "$place" || echo "still writable: $place" >&2 ;;
  esac
done < /proc/self/mounts
while [ "$#" != 0 ]; do mount --bind "$1" "$2"; mount -o remount,bind,rw "$2"; shift 2; done
for place in /run /tmp /var/tmp /var/mail /var/lib/sudo; do mount -t tmpfs -o mode=1777 tmpfs "$place"; done
chmod 755 /run; chmod 711 /var/lib/sudo; mkdir /run/sshd
echo ready
while read -r line; do :; done
"""


def missing_requirement() -> str | None:
    """Say why such a machine cannot be made here; None where it can."""
    # In a user namespace root may be root in name only, with no other user to become.
    if os.geteuid() != 0 or int(Path("/proc/self/uid_map").read_text().split()[2]) < 65536:
        return "needs root: the tests make users, mounts and crontabs in a private namespace"
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "mount", "-o", "remount,bind,ro", "/"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no private mounts can be made here: {tried.stderr.strip()}" if tried.returncode else None


@dataclass
class Sshd:
    """An sshd that listens: its port, its host key's public half, and its process as this machine counts them."""

    port: int
    host_key: str
    process: subprocess.Popen[bytes]

    @property
    def known(self) -> str:
        """Its line in known_hosts."""
        return f"[127.0.0.1]:{self.port} {self.host_key}\n"


class Machine:
    """A demo server as published, and a user's SSH files to reach it with, all below `folder`."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.ssh = home / ".ssh"
        self.ssh_config = self.ssh / "config"
        self.known_hosts = self.ssh / "known_hosts"
        self.key = self.ssh / "id_ed25519"
        self._first: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []

    def boot(self) -> None:
        """Make the private places, start the first process, make the user and its key."""
        # What this machine has in /etc is as good as any, but not its jobs and its rules for sudo.
        subprocess.run(["cp", "-a", "/etc", self.folder / "etc"], check=True)
        for pattern in ("crontab", "cron.d/*", "sudoers.d/*"):
            for path in (self.folder / "etc").glob(pattern):
                path.unlink()
        (self.folder / "etc" / MARK).touch()
        for name in PLACES.keys() - {"etc"}:
            (self.folder / name).mkdir()
        (self.folder / "crontabs").chmod(0o1730)
        shutil.chown(self.folder / "crontabs", group="crontab")
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", INIT, "init"]
        for name, place in PLACES.items():
            command += [str(self.folder / name), place]
        self._first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._first.stdout
        if self._first.stdout.readline() != b"ready\n":
            pytest.fail(f"the private machine did not start: {command}")
        self.run("test", "-e", f"/etc/{MARK}")
        self._make_user()
        self.ssh.mkdir(mode=0o700)
        self.make_key(self.key)

    def close(self) -> None:
        """End the machine, and with it all that runs in it."""
        if self._first:
            assert self._first.stdin
            self._first.stdin.close()
            self._first.wait()
        for process in self._started:
            process.wait()

    @property
    def init(self) -> int:
        """Its first process, as this machine counts them."""
        assert self._first
        return int(Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text())

    @property
    def enter(self) -> list[str]:
        """What goes before a command to run it there."""
        # Its root too: a namespace's own is another where the tests run in a chroot.
        return ["nsenter", f"--target={self.init}", "--mount", "--pid", "--root", "--wd=/", "--"]

    # --- what is on it ---

    def _make_user(self) -> None:
        self.run("useradd", "--create-home", "--shell", "/bin/bash", USER)
        self.run("chpasswd", given=f"{USER}:{PASSWORD}\n")
        (self.home / ".ssh").mkdir(mode=0o700)
        (self.home / ".ssh/authorized_keys").touch()
        self.own(self.home / ".ssh")
        self.allow_sudo("NOPASSWD: ALL")

    def make_demo(self, settings: Settings) -> None:
        """Make the published places: a live index database, a folder for its script, the backups that root owns."""
        database = settings.database("index")
        source, script, backups = (
            self.outside(path) for path in (database.source, database.script, database.backup_dir)
        )
        for folder in (source.parent, script.parent):
            folder.mkdir(parents=True)
        make_index(source, torrents=50)
        self.own(self.home)
        backups.mkdir()
        backups.chmod(0o750)

    @property
    def home(self) -> Path:
        """The user's home there, seen from here."""
        return self.folder / "home" / USER

    def outside(self, path: PurePosixPath) -> Path:
        """Where a path of the machine is seen from here."""
        for name, place in PLACES.items():
            if path.is_relative_to(place):
                return self.folder / name / path.relative_to(place)
        raise ValueError(f"{path} is not private to the machine")

    def own(self, path: Path) -> None:
        """Give a folder, and all in it, to the user."""
        passwd = next(line for line in (self.folder / "etc/passwd").read_text().splitlines() if line.startswith(USER))
        uid, gid = passwd.split(":")[2:4]
        subprocess.run(["chown", "-R", f"{uid}:{gid}", path], check=True)

    def allow_sudo(self, what: str | None, *defaults: str) -> None:
        """Write sudoers as Debian ships it, with what the user may: `ALL` asks for the password; None is nothing."""
        lines = ["Defaults env_reset", "Defaults use_pty", "Defaults !mailerpath", "root ALL=(ALL:ALL) ALL"]
        lines += ['Defaults secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"']
        lines += [f"Defaults {each}" for each in defaults]
        lines += [f"{USER} ALL=(ALL:ALL) {what}"] if what else []
        (self.folder / "etc/sudoers").write_text("\n".join(lines) + "\n")
        self.run("visudo", "--check", "--quiet")

    def crontab(self, user: str = "root") -> bytes | None:
        """A user's crontab; None where there is none."""
        done = subprocess.run([*self.enter, "crontab", "-u", user, "-l"], capture_output=True, check=False)
        return None if done.stderr.startswith(b"no crontab for") else done.stdout

    def set_crontab(self, content: bytes, user: str = "root") -> None:
        """Install a user's crontab."""
        subprocess.run([*self.enter, "crontab", "-u", user, "-"], input=content, check=True)

    def remove(self, program: str) -> None:
        """Take a program off the machine, by a layer over its folder."""
        path = shutil.which(program, path=PATH)
        assert path
        folder = Path(path).resolve().parent
        self.run("mkdir", "-p", "/run/layer/upper", "/run/layer/work")
        self.run(
            *("mount", "-t", "overlay", "-o", f"lowerdir={folder},upperdir=/run/layer/upper,workdir=/run/layer/work"),
            *("overlay", str(folder)),
        )
        self.run("rm", "--", str(folder / Path(path).name))

    def inside(self, path: PurePosixPath) -> Path:
        """Where a path of the machine is seen from here, with what was mounted there since."""
        return Path(f"/proc/{self.init}/root{path}")

    # --- what runs on it ---

    def run(self, *command: str, given: str = "") -> str:
        """Run a program there as root and return what it printed; fails the test if it fails."""
        done = subprocess.run(
            [*self.enter, *command],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": PATH, "HOME": "/root"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, *command: str, log: str) -> subprocess.Popen[bytes]:
        """Start a program there as root; what it prints goes to a file in /var/log."""
        with (self.folder / "log" / log).open("wb") as output:
            process = subprocess.Popen(
                [*self.enter, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": PATH, "HOME": "/root"},
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def log(self, name: str) -> str:
        """What a program printed that `start` started."""
        return (self.folder / "log" / name).read_text(errors="replace")

    def processes(self, name: str) -> list[int]:
        """The processes of the machine whose command line holds some words, as this machine counts them."""
        namespace = Path(f"/proc/{self.init}/ns/pid").readlink()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it may be gone by now
                words = (process / "cmdline").read_text(errors="replace").replace("\0", " ")
                if (process / "ns/pid").readlink() == namespace and name in words:
                    found.append(int(process.name))
        return found

    def make_key(self, path: Path, passphrase: str = "", known: bool = True) -> None:
        """Make a user's key, known to the server or not."""
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", path], check=True)
        if known:
            with (self.home / ".ssh/authorized_keys").open("a") as file:
                file.write(path.with_suffix(".pub").read_text())

    def sshd(self, *lines: str, kinds: tuple[str, ...] = ("ed25519",)) -> Sshd:
        """Start an sshd on a free port of 127.0.0.1, with fresh host keys and further lines for its configuration."""
        number = len(self._started)
        keys = []
        for kind in kinds:
            keys.append(f"/etc/ssh/test_{number}_{kind}")
            self.run("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", keys[-1])
        config = ["ListenAddress 127.0.0.1", "UsePAM no", "PidFile none", "PasswordAuthentication no"]
        config += ["KbdInteractiveAuthentication no", *(f"HostKey {key}" for key in keys)]
        # The first line that sets something holds.
        (self.folder / f"etc/ssh/test_{number}_config").write_text("\n".join([*lines, *config]) + "\n")
        for attempt in range(10):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            log = f"sshd-{number}-{attempt}.log"
            command = ["/usr/sbin/sshd", "-D", "-e", "-f", f"/etc/ssh/test_{number}_config", "-p", str(port)]
            process = self.start(*command, log=log)
            wait_until(lambda: "listening on" in self.log(log) or process.poll() is not None, "sshd to listen")  # noqa: B023
            if process.poll() is None:
                public = (self.folder / f"etc/ssh/test_{number}_{kinds[0]}.pub").read_text()
                return Sshd(port, " ".join(public.split()[:2]), process)
            if "Address already in use" not in self.log(log):
                break
        pytest.fail(f"sshd did not start: {self.log(log)}")
        raise AssertionError

    def configure(self, *sections: str) -> None:
        """Write the user's SSH configuration."""
        general = f"""Host *
    UserKnownHostsFile "{self.known_hosts}"
    GlobalKnownHostsFile /dev/null
    IdentityAgent none
"""
        self.ssh_config.write_text("\n".join([*sections, general]))

    def alias(self, name: str, sshd: Sshd, *lines: str, key: Path | None = None) -> str:
        """A section of the SSH configuration: how to reach an sshd of the machine."""
        words = [f"HostName 127.0.0.1\nPort {sshd.port}\nUser {USER}", *lines]
        words += [f'IdentityFile "{key or self.key}"\nIdentitiesOnly yes']
        return f"Host {name}\n" + "".join(f"    {line}\n" for word in words for line in word.splitlines())
