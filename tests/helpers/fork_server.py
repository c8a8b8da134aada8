"""A process that has imported the tasks' modules and forks for each call of a task.

A call then costs a fork instead of the start of Python and its imports, which take most of the time of a test. The
forked process is a process of its own: environment, directory, standard streams and exit status are as for `inv`. Only
its command line in /proc is that of the server.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

PRELOADED = ("invoke.main", "encodings.idna", "humanize", "jinja2", "tree_sitter", "tree_sitter_bash", "zstandard")
MAX_MESSAGE = 1 << 20
# Read when Python starts: a call that sets one of these needs a process of its own.
START_VARIABLES = ("PYTHON", "LC_", "LANG")


class ForkServer:
    """The client: starts the server at the first call, and ends it with this process."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._owner = 0

    def run(
        self, arguments: Sequence[str], env: Mapping[str, str], cwd: str, program: str = "inv"
    ) -> subprocess.CompletedProcess[str]:
        """Run `inv`, or `demo-backups-check`, with these arguments, and nothing on standard input."""
        connection = self._connect()
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            call = {"program": program, "arguments": list(arguments), "env": dict(env), "cwd": cwd}
            message = json.dumps(call).encode()
            socket.send_fds(connection, [message], [stdout.fileno(), stderr.fileno()])
            status = int(connection.recv(100))
            outputs = []
            for file in (stdout, stderr):
                file.seek(0)
                outputs.append(file.read().decode(errors="surrogateescape"))
        return subprocess.CompletedProcess([program, *arguments], status, *outputs)

    def start(self, arguments: Sequence[str], env: Mapping[str, str], cwd: str) -> ForkedTask:
        """Start `inv` with these arguments in a process group of its own, and nothing on standard input."""
        connection = self._connect()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        (stdout, stdout_end), (stderr, stderr_end) = os.pipe(), os.pipe()
        call = {"program": "inv", "arguments": list(arguments), "env": dict(env), "cwd": cwd}
        message = json.dumps(call).encode()
        ends = [stdout_end, stderr_end, theirs.detach()]
        socket.send_fds(connection, [message], ends)
        for end in ends:
            os.close(end)
        return ForkedTask(arguments, ours, stdout, stderr)

    def _connect(self) -> socket.socket:
        if self._socket is None or self._owner != os.getpid():
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                subprocess.Popen(
                    [sys.executable, __file__, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            self._socket, self._owner = ours, os.getpid()
        return self._socket


class ForkedTask(subprocess.Popen[str]):
    """A process that the server has forked: as if this process had started it."""

    def __init__(self, arguments: Sequence[str], status: socket.socket, stdout: int, stderr: int) -> None:
        self._child_created = False  # nothing that the base class must wait for
        self._status = status
        self.args = ["inv", *arguments]
        self.pid = int(status.recv(100))
        self.returncode: int | None = None
        self.stdin = None
        self.stdout, self.stderr = open(stdout), open(stderr)  # noqa: SIM115 - for as long as the task is used

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self._receive(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises TimeoutExpired."""
        status = self._receive(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        """Read both outputs to their end, and wait; raises TimeoutExpired."""
        outputs: dict[str, str] = {}

        def read(name: str, file: IO[str]) -> None:
            with file:
                outputs[name] = file.read()

        files = {"stdout": self.stdout, "stderr": self.stderr}
        opened = {name: file for name, file in files.items() if file and not file.closed}
        readers = [threading.Thread(target=read, args=item, daemon=True) for item in opened.items()]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(timeout)
        return outputs.get("stdout", ""), outputs.get("stderr", "")

    def _receive(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(self._status.recv(100))
            self._status.close()
        return self.returncode


def serve(connection: socket.socket) -> None:
    """Fork for each message, until the client is gone. Only a forked process returns otherwise, by an exception."""
    _preload()
    started: set[int] = set()
    gc.freeze()  # else the collector of each forked process copies all pages
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(connection, MAX_MESSAGE, 3)
        except ConnectionResetError:  # the client was interrupted
            return
        if not data:
            return
        pid = os.fork()
        if pid == 0:
            connection.close()
            if fds[2:]:
                _detach(socket.socket(fileno=fds.pop()))
            _run(json.loads(data), fds)
        for fd in fds:
            os.close(fd)
        if fds[2:]:
            started.add(pid)
        else:
            _send_status(connection, pid)
        started -= {pid for pid in started if os.waitpid(pid, os.WNOHANG)[0]}


def _send_status(connection: socket.socket, pid: int) -> None:
    """Wait for the end of a process, and report its exit status."""
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def _detach(connection: socket.socket) -> None:
    """Fork once more, and return in the new process: in a process group of its own, whose exit status is reported."""
    pid = os.fork()
    if pid:
        os.closerange(0, connection.fileno())
        _send_status(connection, pid)
        os._exit(0)
    os.setsid()
    connection.send(str(os.getpid()).encode())
    connection.close()


def _preload() -> None:
    """Do what each call would do again: import all modules, build the validators, parse the settings."""
    import demo_backups
    from demo_backups.project import read_project_file

    modules = [module.name for module in pkgutil.walk_packages(demo_backups.__path__, "demo_backups.")]
    for name in (*PRELOADED, *modules):
        importlib.import_module(name)
    importlib.import_module("demo_backups.records.record").record_adapter()
    _cache_yaml()
    read_project_file()


def _cache_yaml() -> None:
    """Let Invoke parse each text once; an error names the file."""
    yaml = importlib.import_module("invoke.config").yaml
    load, load_cached = yaml.safe_load, functools.cache(yaml.safe_load)

    def safe_load(file: IO[str]) -> Any:
        try:
            return copy.deepcopy(load_cached(file.read()))
        except (ValueError, yaml.YAMLError):
            file.seek(0)
            return load(file)

    yaml.safe_load = safe_load


def _run(call: dict[str, Any], fds: Sequence[int]) -> None:
    from invoke.main import program

    from demo_backups.workflows.plugin_main import main

    for source, target in zip(fds, (1, 2), strict=True):
        os.dup2(source, target)
        os.close(source)
    # Python looks once at what they are, when it starts.
    sys.stdout = open(1, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, sys.stderr.encoding, sys.stderr.errors, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(call["env"])
    os.chdir(call["cwd"])
    sys.argv = [call["program"], *call["arguments"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if call["program"] != "inv":
        main()
    program.run()
    sys.exit(0)


if __name__ == "__main__":
    sys.path.pop(0)  # the directory of this file
    serve(socket.socket(fileno=int(sys.argv[1])))
