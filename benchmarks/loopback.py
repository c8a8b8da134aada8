"""A real sshd on 127.0.0.1 and what is put between it and its clients: a delay, a counter, a slow link."""

from __future__ import annotations

import contextlib
import getpass
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from demo_backups.rehearsal.server import processes_at_home

ALIAS = "bench"
SSHD = "/usr/sbin/sshd"
PRIVILEGE_SEPARATION = Path("/run/sshd")  # which an sshd of root needs
PIECE = 64 * 1024  # bytes that a proxy passes on at a time
AHEAD = 64  # pieces that a proxy keeps for each direction: much more than a delay needs


@dataclass
class Sshd:
    """An sshd that accepts connections; `home` is the HOME of its sessions, in `folder`."""

    folder: Path
    listening: socket.socket
    sessions: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """The HOME of all commands."""
        return self.folder / "home"

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self.listening.getsockname()[1])

    def accept(self) -> None:
        """Run one sshd for each connection, as inetd does, until the listening socket is closed."""
        command = [SSHD, "-i", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "sshd.log").open("ab") as log, contextlib.suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                with connection:
                    end = connection.fileno()
                    self.sessions.append(subprocess.Popen(command, stdin=end, stdout=end, stderr=log))

    def close(self) -> None:
        """End all sessions, and the jobs that they have started."""
        with contextlib.suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        for session in self.sessions:
            session.kill()
            session.wait()
        while left := processes_at_home(self.home):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def write_config(self, name: str, address: str = "127.0.0.1", port: int | None = None) -> Path:
        """Write an SSH configuration with the alias ALIAS, by default for the port of this sshd."""
        port = port or self.port
        known_hosts = self.folder / f"known_hosts_{name}"
        key = (self.folder / "host_key.pub").read_text()
        known_hosts.write_text(f"[{address}]:{port} {key}")
        config = self.folder / f"ssh_config_{name}"
        config.write_text(
            f"""Host {ALIAS}
    HostName {address}
    Port {port}
    User {getpass.getuser()}
    IdentityFile "{self.folder / "user_key"}"
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile "{known_hosts}"
    GlobalKnownHostsFile /dev/null
"""
        )
        return config


@contextlib.contextmanager
def serve_sshd(folder: Path, address: str = "127.0.0.1") -> Iterator[Sshd]:
    """Run an sshd on a free port; its keys and the HOME of its sessions are in a folder."""
    (folder / "home").mkdir(parents=True)
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    config = [
        f"HostKey {folder / 'host_key'}",
        f"AuthorizedKeysFile {folder / 'user_key.pub'}",
        f"SetEnv HOME={folder / 'home'}",
        "UsePAM no",
        "StrictModes no",
        "PidFile none",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "Subsystem sftp internal-sftp",
    ]
    (folder / "sshd_config").write_text("\n".join(config) + "\n")
    with _privilege_separation(), socket.create_server((address, 0)) as listening:
        sshd = Sshd(folder, listening)
        thread = threading.Thread(target=sshd.accept, name="sshd", daemon=True)
        thread.start()
        try:
            yield sshd
        finally:
            sshd.close()
            thread.join()


@contextlib.contextmanager
def _privilege_separation() -> Iterator[None]:
    """Create the folder that an sshd of root needs, where no service has created it."""
    is_missing = os.geteuid() == 0 and not PRIVILEGE_SEPARATION.exists()
    if is_missing:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755)
    try:
        yield
    finally:
        if is_missing:
            PRIVILEGE_SEPARATION.rmdir()


# --- between client and server --------------------------------------------------------------------------------------


class Proxy:
    """Pass connections on to a port, each piece after `delay` seconds, and count what the server sends."""

    def __init__(self, port: int, delay: float, listening: socket.socket) -> None:
        self.sent = 0  # bytes that the server has sent, passed on or not
        self._passed_on = 0
        self._limit = sys.maxsize
        self._at_limit: Callable[[], object] = self.cut
        self._port = port
        self._delay = delay
        self._listening = listening
        self._open: list[socket.socket] = []

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self._listening.getsockname()[1])

    def accept(self) -> None:
        """Serve each connection until the listening socket is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._open += [client, server]
                for connection in (client, server):
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pass_on(client, server, counted=False)
                self._pass_on(server, client, counted=True)

    def call_after(self, count: int, action: Callable[[], object]) -> None:
        """Do something once, when so many bytes more have been passed on; meanwhile, nothing is passed on."""
        self._at_limit = action
        self._limit = self._passed_on + count

    def cut(self) -> None:
        """Cut all connections."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close everything."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self.cut()
        for connection in (self._listening, *self._open):
            connection.close()

    def _pass_on(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        pieces: queue.Queue[tuple[float, bytes]] = queue.Queue(AHEAD)
        for work in (self._read, self._write):
            connection = source if work == self._read else target
            threading.Thread(target=work, args=(connection, pieces, counted), name="proxy", daemon=True).start()

    def _read(self, source: socket.socket, pieces: queue.Queue[tuple[float, bytes]], counted: bool) -> None:
        data = b"."
        while data:
            try:
                data = source.recv(PIECE)
            except OSError:
                data = b""
            if counted:
                self.sent += len(data)
            pieces.put((time.monotonic() + self._delay, data))

    def _write(self, target: socket.socket, pieces: queue.Queue[tuple[float, bytes]], counted: bool) -> None:
        data = b"."
        while data:
            due, data = pieces.get()
            time.sleep(max(0.0, due - time.monotonic()))
            with contextlib.suppress(OSError):  # of a client that has gone
                target.sendall(data) if data else target.shutdown(socket.SHUT_WR)
            if counted:
                self._count(len(data))

    def _count(self, count: int) -> None:
        self._passed_on += count
        if self._passed_on >= self._limit:
            self._limit = sys.maxsize
            self._at_limit()


@contextlib.contextmanager
def proxy_to(port: int, delay: float = 0.0, address: str = "127.0.0.1") -> Iterator[Proxy]:
    """Run a proxy to a port of this machine; `delay` is in seconds, for each direction."""
    with socket.create_server((address, 0)) as listening:
        proxy = Proxy(port, delay, listening)
        thread = threading.Thread(target=proxy.accept, name="proxy", daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.close()
            thread.join()


# --- a slow link ----------------------------------------------------------------------------------------------------

HERE, SERVER = "10.99.0.2", "10.99.0.1"  # the addresses of the two ends, in private namespaces


@contextlib.contextmanager
def slow_link(rate: str) -> Iterator[list[str]]:
    """Connect this network namespace, whose end is SERVER, with another one, by a link of limited rate.

    Yields what to put before a command to run it at the other end. This process must be root in a network namespace of
    its own: see `unshare --net`.
    """
    command = ["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout
            holder.stdout.readline()
            enter = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--"]
            ends = ((), "bench-server", SERVER), (enter, "bench-here", HERE)
            _run("ip", "link", "add", "bench-server", "type", "veth", "peer", "name", "bench-here")
            _run("ip", "link", "set", "bench-here", "netns", str(holder.pid))
            for prefix, device, address in ends:
                _run(*prefix, "ip", "link", "set", "lo", "up")
                _run(*prefix, "ip", "address", "add", f"{address}/24", "dev", device)
                _run(*prefix, "ip", "link", "set", device, "up")
                _run(*prefix, *f"tc qdisc add dev {device} root tbf rate {rate} burst 64kb latency 50ms".split())
            yield enter
        finally:
            holder.kill()


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def missing_for_link() -> str | None:
    """Say why there can be no slow link on this machine; None if there can."""
    if os.geteuid() != 0:
        return "needs root"
    for command in (["ip", "-V"], ["tc", "-V"], ["unshare", "--net", "true"], ["nsenter", "--version"]):
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            return f"{' '.join(command)}: {error}"
    return None


# --- memory ---------------------------------------------------------------------------------------------------------


def read_memory(pids: Sequence[int]) -> int:
    """Return the resident memory in bytes of some processes; what they share is counted once for each."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def find_descendants(pid: int) -> list[int]:
    """Return a process and all of its descendants.

    A child with the same command line has the memory of its parent until it runs another program: it is left out.
    """
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                arguments = _read_arguments(parent)
                found += [
                    child for child in map(int, children.read_text().split()) if _read_arguments(child) != arguments
                ]
    return found


def _read_arguments(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
