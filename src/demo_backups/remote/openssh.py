"""Run the programs of the OpenSSH client, with limits on their time and output."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time

from ..errors import CouldNotLookError, SettingsError

TIMEOUT = 60.0  # seconds; `Match exec` in a configuration may run slow programs
OUTPUT_LIMIT = 4 * 1024 * 1024  # bytes
INSTALL = "install the OpenSSH client: sudo apt install openssh-client (Fedora: sudo dnf install openssh-clients)"


def run_openssh(*command: str, host: str) -> subprocess.CompletedProcess[str]:
    """Run `ssh` or `ssh-keygen` without standard input and return what it printed, whatever its exit status.

    Raises SettingsError if the program is not installed, and CouldNotLookError if it runs longer than TIMEOUT or
    prints more than OUTPUT_LIMIT.
    """
    if shutil.which(command[0]) is None:
        raise SettingsError(f"{command[0]} is not installed on this machine", host=host, advice=INSTALL)
    started = time.monotonic()
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        assert process.stdout
        timer = threading.Timer(TIMEOUT, process.kill)
        timer.start()
        try:
            stdout = process.stdout.read(OUTPUT_LIMIT + 1)
            if len(stdout) <= OUTPUT_LIMIT:
                process.wait()
        finally:
            timer.cancel()
            process.kill()
        stderr.seek(0)
        errors = stderr.read(10_000).decode(errors="replace")
    if time.monotonic() - started >= TIMEOUT:
        raise CouldNotLookError(f"{shlex.join(command)} did not finish within {TIMEOUT:g} s", host=host, output=errors)
    if len(stdout) > OUTPUT_LIMIT:
        raise CouldNotLookError(f"{shlex.join(command)} printed more than {OUTPUT_LIMIT} bytes", host=host)
    return subprocess.CompletedProcess(command, process.returncode, os.fsdecode(stdout), errors)
