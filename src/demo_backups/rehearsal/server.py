"""A throwaway SSH server on 127.0.0.1 that runs commands in a directory of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncssh

ALIAS = "rehearsal"
CRONTAB = Path(__file__).with_name("crontab")


class Server:
    """A running server: its directories, keys and port."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.ssh_config = folder / "ssh_config"
        self.known_hosts = folder / "known_hosts"
        self.port = 0
        self.shell = "/bin/sh"  # the login shell
        self.environment = {
            "HOME": str(self.home),
            "PATH": f"{folder / 'bin'}:{environment['PATH']}",
            "LANG": "C.UTF-8",
        }
        self._processes: set[asyncio.subprocess.Process] = set()

    async def start(self) -> asyncssh.SSHAcceptor:
        """Create keys and listen on a free port."""
        for path in (self.home, self.folder / "bin"):
            path.mkdir()
        # If this file were not executable, the shell would find the crontab command of this machine instead.
        shutil.copyfile(CRONTAB, self.folder / "bin/crontab")
        (self.folder / "bin/crontab").chmod(0o755)
        host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        user_key.write_private_key(self.folder / "user_key")
        (self.folder / "user_key").chmod(0o600)  # OpenSSH ignores a key that others can read
        user_key.write_public_key(self.folder / "user_key.pub")
        acceptor = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host_key],
            authorized_client_keys=str(self.folder / "user_key.pub"),
            process_factory=self._serve,
            encoding=None,
            allow_scp=False,
        )
        self.port = acceptor.get_port()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {host_key.export_public_key().decode()}")
        self.ssh_config.write_text(
            f"""Host {ALIAS}
    HostName 127.0.0.1
    Port {self.port}
    User {ALIAS}
    IdentityFile "{self.folder / "user_key"}"
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile "{self.known_hosts}"
    GlobalKnownHostsFile /dev/null
"""
        )
        return acceptor

    async def _serve(self, session: asyncssh.SSHServerProcess[bytes]) -> None:
        """Run one command as sshd does: with a shell, in the home directory, in a process group of its own."""
        process = await asyncio.create_subprocess_exec(
            self.shell,
            "-c",
            session.command or "exit 1",
            cwd=self.home,
            env=self.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._processes.add(process)
        sending = asyncio.create_task(_feed(session.stdin, process.stdin))
        try:
            await asyncio.gather(_copy(process.stdout, session.stdout), _copy(process.stderr, session.stderr))
            status = await process.wait()
        finally:
            sending.cancel()
            await process.communicate()  # read the pipes to their end, or asyncio complains when the loop has closed
            self._processes.discard(process)
        with contextlib.suppress(OSError, asyncssh.Error):
            if status < 0:
                session.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
            else:
                session.exit(status)

    async def end_processes(self) -> None:
        """Kill what still runs for a client, and wait until it has ended."""
        for process in list(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        while left := processes_at_home(self.home):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.01)


def processes_at_home(home: Path) -> list[int]:
    """Find the processes whose HOME is a directory: detached jobs have nothing else in common."""
    variable = b"\0HOME=" + os.fsencode(home) + b"\0"
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            if variable in b"\0" + (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


async def _copy(reader: Any, writer: Any) -> None:
    """Copy to the end, even when the client is gone: unread data keeps a pipe open."""
    while data := await reader.read(65536):
        with contextlib.suppress(OSError, asyncssh.Error):
            writer.write(data)
            await writer.drain()


async def _feed(reader: Any, writer: Any) -> None:
    """Send a client's input to a command, to its end or until the command takes no more."""
    with contextlib.suppress(OSError, asyncssh.Error):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def serve(folder: Path, environment: Mapping[str, str] = os.environ) -> Iterator[Server]:
    """Run a server in a thread; all of its files are in `folder`."""
    server = Server(folder, environment)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="rehearsal server", daemon=True)
    thread.start()

    async def close(acceptor: asyncssh.SSHAcceptor) -> None:
        await server.end_processes()
        acceptor.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    try:
        acceptor = asyncio.run_coroutine_threadsafe(server.start(), loop).result()
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(close(acceptor), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
