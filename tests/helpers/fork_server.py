"""A process that has imported the tasks' modules and forks for each call of a task.

A call then costs a fork instead of the start of Python and its imports, which take most of the time of a test. The
forked process is a process of its own: environment, directory, standard streams and exit status are as for `inv`.
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
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

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


def serve(connection: socket.socket) -> None:
    """Fork for each message, until the client is gone. Only a forked process returns otherwise, by an exception."""
    _preload()
    gc.freeze()  # else the collector of each forked process copies all pages
    while True:
        data, fds, _, _ = socket.recv_fds(connection, MAX_MESSAGE, 2)
        if not data:
            return
        pid = os.fork()
        if pid == 0:
            connection.close()
            _run(json.loads(data), fds)
        for fd in fds:
            os.close(fd)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(BrokenPipeError):
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def _preload() -> None:
    """Do what each call would do again: import all modules, build the validators, parse the settings."""
    import demo_backups
    from demo_backups.project import read_project_file

    modules = [module.name for module in pkgutil.walk_packages(demo_backups.__path__, "demo_backups.")]
    for name in (*PRELOADED, *modules):
        importlib.import_module(name)
    importlib.import_module("demo_backups.records.record").record_adapter()
    yaml = importlib.import_module("invoke.config").yaml
    load = functools.cache(yaml.safe_load)
    yaml.safe_load = lambda file: copy.deepcopy(load(file.read()))
    read_project_file()


def _run(call: dict[str, Any], fds: Sequence[int]) -> None:
    from invoke.main import program

    from demo_backups.workflows.plugin_main import main

    for source, target in zip(fds, (1, 2), strict=True):
        os.dup2(source, target)
        os.close(source)
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
