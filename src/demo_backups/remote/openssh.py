"""Run the programs of the OpenSSH client, with limits on their time and output."""

from __future__ import annotations

import os
import selectors
import shlex
import shutil
import subprocess
import time

from ..errors import CouldNotLookError, SettingsError

TIMEOUT = 60.0  # seconds; `Match exec` in a configuration may run slow programs
OUTPUT_LIMIT = 4 * 1024 * 1024  # bytes
INSTALL = "install the OpenSSH client: sudo apt install openssh-client (Fedora: sudo dnf install openssh-clients)"


class _TooMuchOutputError(Exception):
    pass


def run_openssh(*command: str, host: str) -> subprocess.CompletedProcess[str]:
    """Run `ssh` or `ssh-keygen` without standard input and return what it printed, whatever its exit status.

    Raises SettingsError if the program is not installed, and CouldNotLookError if it runs longer than TIMEOUT or
    prints more than OUTPUT_LIMIT.
    """
    if shutil.which(command[0]) is None:
        raise SettingsError(f"{command[0]} is not installed on this machine", host=host, advice=INSTALL)
    deadline = time.monotonic() + TIMEOUT
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            stdout, stderr = _read_output(process, deadline)
            process.wait(max(0.0, deadline - time.monotonic()))
        except BaseException as error:
            process.kill()
            if reason := _limit_reached(error):
                raise CouldNotLookError(f"{shlex.join(command)} {reason}", host=host) from error
            raise
    return subprocess.CompletedProcess(
        command, process.returncode, os.fsdecode(stdout), stderr.decode(errors="replace")
    )


def _limit_reached(error: BaseException) -> str | None:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"did not finish within {TIMEOUT:g} s"
    return f"printed more than {OUTPUT_LIMIT} bytes" if isinstance(error, _TooMuchOutputError) else None


def _read_output(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes]:
    """Read both outputs to their end; a child that keeps them open cannot delay the deadline."""
    assert process.stdout
    assert process.stderr
    output = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    with selectors.DefaultSelector() as selector:
        for descriptor in output:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired(process.args, TIMEOUT)
            for key, _ in ready:
                chunk = os.read(key.fd, 65536)
                output[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
                if len(output[key.fd]) > OUTPUT_LIMIT:
                    raise _TooMuchOutputError
    stdout, stderr = output.values()
    return bytes(stdout), bytes(stderr)
