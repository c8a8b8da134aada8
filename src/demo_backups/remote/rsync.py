"""Update a file on this machine to the content of a file on a host: rsync sends the blocks that differ.

rsync runs on both sides. It uses the connection of this project, not one of its own: so it needs no second login, the
host key is the one that was accepted, root is reached as by every other command, and a `.bashrc` that prints does no
harm.
"""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from ..errors import RsyncError, StepError
from .download import CHUNK, METERED_CHUNK, Meter
from .host import Host
from .programs import has_program
from .shell import quote

BRIDGE = Path(__file__).with_name("rsync_bridge.py")
SOCKETS = "/tmp"  # TMPDIR may be too long for the path of a socket
PAGE = 4096  # bytes: the page size of most databases
MOST_BLOCKS = 2**20  # for each, rsync needs about 50 bytes of memory on the host
STALL_TIMEOUT = 600  # seconds without data: rsync reads the whole file on both sides before it sends
END_TIMEOUT = 60  # seconds for rsync to end on this machine after it has ended on the host
LONGEST_COMMAND = 64 * 1024  # bytes


def find_missing_rsync(host: Host) -> str | None:
    """Name the side on which rsync is not installed; None if it is on both."""
    if shutil.which("rsync") is None:
        return "this machine"
    return None if has_program(host, "rsync") else host.name


def choose_block_size(size: int) -> int:
    """Return the size of the blocks that are compared: a page, or more for a large file."""
    block_size = PAGE
    while size > block_size * MOST_BLOCKS:
        block_size *= 2
    return min(block_size, 128 * 1024)  # the largest that rsync takes


def update_file(host: Host, source: PurePosixPath, target: Path, size: int, meter: Meter) -> None:
    """Update a file on this machine, in place, to the content of a file of `size` bytes on the host.

    `meter` counts the bytes in both directions, and limits what is received. Raises ConnectionLostError and
    InterruptedRunError, after which the file is partly updated, and RsyncError if rsync fails on one of the sides.
    """
    action = f"send the changed pages of {source}"
    meter.restart()
    with tempfile.TemporaryDirectory(prefix="demo-backups-", dir=SOCKETS) as folder, tempfile.TemporaryFile() as errors:
        path = f"{folder}/rsync"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            with _started(path, target, size, errors) as process:
                problem = _serve(host, action, source, listener, process, meter)
                status = _wait(process)
        errors.seek(0)
        printed = errors.read(10_000).decode(errors="replace").strip()
    if problem or status:
        raise RsyncError(
            f"could not {action}", host=host.name, output="\n".join(filter(None, [printed, problem])) or f"{status}"
        )


@contextlib.contextmanager
def _started(path: str, target: Path, size: int, errors: BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
    """Start rsync on this machine; it is killed at the end, and if it writes more than `size` bytes."""
    largest = max(size, target.stat().st_size)
    bridge = " ".join(quote(word) for word in (sys.executable, "-I", str(BRIDGE), path))
    shell = Path(path).with_name("shell")
    shell.write_text(f'exec {bridge} "$@"\n')
    options = [
        "--inplace",
        "--no-whole-file",
        "--ignore-times",
        f"--block-size={choose_block_size(size)}",
        "--copy-links",
    ]
    command = ["rsync", *options, "--protect-args", "--rsh", f"/bin/sh {shell}", "--", "host:/proc/self/fd/9"]
    # In a session of its own: Ctrl-C is for this process, which decides what to do about rsync.
    with subprocess.Popen(
        [*command, str(target)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
    ) as process:
        try:
            # A few bytes from the host can stand for a block of the file that is here, again and again.
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest, largest))
            yield process
        finally:
            process.kill()


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(END_TIMEOUT)
    except subprocess.TimeoutExpired:
        return -1


def _serve(
    host: Host,
    action: str,
    source: PurePosixPath,
    listener: socket.socket,
    process: subprocess.Popen[bytes],
    meter: Meter,
) -> str:
    """Run rsync on the host, and connect it to the one on this machine; return what went wrong there, or nothing."""
    connection = _accept(listener, process)
    if connection is None:
        return ""  # rsync has ended, with a status
    with connection:
        stream = _Stream(connection, meter)
        command = stream.read_command()
        try:
            transfer = host.stream(
                action,
                _command(source, command),
                root=True,
                timeout=STALL_TIMEOUT,
                reads_only=True,
                source=cast("BinaryIO", stream),
                sink=cast("BinaryIO", stream),
                hashes=False,
            )
        except StepError as error:  # rsync has ended on this machine, with a status
            return error.output
        finally:
            meter.count += stream.sent
            with contextlib.suppress(OSError):  # ends the thread that still reads from it
                connection.shutdown(socket.SHUT_RDWR)
    return "" if transfer.result.ok else transfer.result.output


def _command(source: PurePosixPath, command: list[str]) -> str:
    """Build the command of the host: the file is open as descriptor 9, so that rsync need not quote its name.

    It has a shared lock on the file meanwhile, so that another fetch does not remove a link that is in use.
    """
    words = " ".join(quote(word) for word in command)
    return f"exec 9< {quote(source)} || exit 1; flock --nonblock --shared 9; exec {words}"


def _accept(listener: socket.socket, process: subprocess.Popen[bytes]) -> socket.socket | None:
    """Wait for the connection of rsync; None if it has ended."""
    listener.settimeout(0.1)
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            if process.poll() is not None:
                return None
        else:
            connection.settimeout(None)
            return connection


class _Stream:
    """The socket of rsync as a source and a sink."""

    def __init__(self, connection: socket.socket, meter: Meter) -> None:
        self._connection = connection
        self._meter = meter
        self.sent = 0

    def read_command(self) -> list[str]:
        """Read the command that rsync wants to run on the host; raises RsyncError."""
        line = b""
        while not line.endswith(b"\n") and len(line) < LONGEST_COMMAND:
            line += (byte := self._connection.recv(1))
            if not byte:
                break
        command = json.loads(line) if line.endswith(b"\n") else []
        if command[:3] != ["rsync", "--server", "--sender"]:
            raise RsyncError("rsync on this machine does not start as expected", output=repr(command))
        return [str(word) for word in command]

    def read(self, size: int) -> bytes:
        """Read what rsync sends to the host."""
        data = self._connection.recv(size)
        self.sent += len(data)
        return data

    def write(self, data: bytes | memoryview) -> int:
        """Write what the host sends."""
        size = METERED_CHUNK if self._meter.is_limited else CHUNK
        piece = memoryview(data)[:size]
        self._meter.add(len(piece))
        self._connection.sendall(piece)
        return len(piece)
