"""An OpenSSH server of this user on 127.0.0.1, in a directory of its own, without a private machine.

What it runs has the environment and the directories of `Server`. Each connection is a process of its own, which can be
killed.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import asyncssh

from demo_backups.rehearsal.server import ALIAS, CRONTAB, Server, processes_at_home
from demo_backups.remote.shell import CRON_PATH

from .processes import wait_until
from .programs import write_program

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
# sshd of root needs this directory, which a container may lack.
# The login shell: `environment` may change the environment. What runs with the PATH of cron finds the programs in `bin`
# first, as in the PATH of the login.
LOGIN = """#!/bin/sh
[ ! -e {folder}/environment ] || . {folder}/environment
cd "$HOME" || exit
command="$SSH_ORIGINAL_COMMAND"
case "$command" in
  *" PATH={cron_path} "*)
    command="$(printf '%s\\n' "$command" | sed 's| PATH={cron_path} | PATH={folder}/bin:{cron_path} |')" ;;
esac
exec /bin/sh -c "$command"
"""
START_AS_ROOT = 'mount -t tmpfs -o mode=755 tmpfs /run && mkdir -m 755 /run/sshd && exec "$@"'


class OpenSshServer(Server):
    """A server whose sshd is the one of OpenSSH."""

    def __init__(self, folder: Path, home: Path, environment: Mapping[str, str]) -> None:
        super().__init__(folder, environment)
        self.home = home
        self.environment["HOME"] = str(home)
        self._process: subprocess.Popen[bytes] | None = None

    def listen(self) -> None:
        """Create keys and start sshd on a free port."""
        (self.folder / "bin").mkdir()
        shutil.copyfile(CRONTAB, self.folder / "bin/crontab")
        (self.folder / "bin/crontab").chmod(0o755)
        for name in ("host_key", "user_key"):
            key = asyncssh.generate_private_key("ssh-ed25519")
            key.write_private_key(self.folder / name)
            key.write_public_key(self.folder / f"{name}.pub")
            (self.folder / name).chmod(0o600)
        self._write_config()
        wait_until(self._start, "sshd to listen")
        self._write_client_files()

    @property
    def sessions(self) -> list[int]:
        """The processes of the connections that are open."""
        assert self._process
        found, parents = [], [self._process.pid]
        while parents:
            parents = [child for pid in parents for child in children(pid) if command_name(child).startswith("sshd")]
            found += parents
        return found

    def stop(self) -> None:
        """End sshd, and what runs for its clients."""
        assert self._process
        sessions = self.sessions
        self._process.kill()
        self._process.wait()
        kill_all(sessions)
        end_processes(self.home)

    def _start(self) -> bool:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [str(SSHD), "-D", "-e", "-f", str(self.folder / "sshd_config"), "-p", str(self.port)]
        if os.geteuid() == 0 and not Path("/run/sshd").exists():
            command = ["unshare", "--mount", "--", "sh", "-c", START_AS_ROOT, "sh", *command]
        log = self.folder / "sshd.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        wait_until(lambda: "listening on" in log.read_text() or self._process.poll() is not None, "sshd to start")  # type: ignore[union-attr]
        if self._process.poll() is not None and "Address already in use" not in log.read_text():
            raise RuntimeError(f"sshd did not start: {log.read_text()}")
        return self._process.poll() is None

    def _write_config(self) -> None:
        variables = " ".join(f'"{name}={value}"' for name, value in self.environment.items())
        login = write_program(self.folder / "login", LOGIN.format(folder=self.folder, cron_path=CRON_PATH))
        (self.folder / "sshd_config").write_text(
            f"""ListenAddress 127.0.0.1
HostKey "{self.folder / "host_key"}"
AuthorizedKeysFile "{self.folder / "user_key.pub"}"
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
MaxStartups 100
SetEnv {variables}
ForceCommand {login}
Subsystem sftp /usr/lib/openssh/sftp-server
"""
        )

    def _write_client_files(self) -> None:
        key = (self.folder / "host_key.pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {key}")
        self.ssh_config.write_text(
            f"""Host {ALIAS}
    HostName 127.0.0.1
    Port {self.port}
    User {pwd.getpwuid(os.geteuid()).pw_name}
    IdentityFile "{self.folder / "user_key"}"
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile "{self.known_hosts}"
    GlobalKnownHostsFile /dev/null
"""
        )


@contextlib.contextmanager
def serve_openssh(folder: Path, home: Path, environment: Mapping[str, str] = os.environ) -> Iterator[OpenSshServer]:
    """Run an OpenSSH server; its files are in `folder`, and what it runs has the home directory `home`."""
    server = OpenSshServer(folder, home, environment)
    server.listen()
    try:
        yield server
    finally:
        server.stop()


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, path.read_text().split())
    return found


def command_name(pid: int) -> str:
    """Return the name of the program that a process runs; none if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def kill_all(pids: list[int]) -> None:
    """Kill some processes."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end_processes(home: Path) -> None:
    """Kill the processes that have a home directory, and wait until all have ended."""

    def are_gone() -> bool:
        pids = processes_at_home(home)
        kill_all(pids)
        return not pids

    wait_until(are_gone, f"the processes of {home} to end")
