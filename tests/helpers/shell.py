"""Commands run by /bin/sh, as a Host runs them."""

from __future__ import annotations

import os
import subprocess

from demo_backups.remote.host import Result


def run_sh(command: str) -> Result:
    """Run a command by /bin/sh, in the C locale, and keep every byte of its output."""
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, env=environment, check=False)
    stdout = done.stdout.decode("utf-8", "surrogateescape")
    stderr = done.stderr.decode("utf-8", "surrogateescape")
    return Result(done.returncode, stdout, stderr)
