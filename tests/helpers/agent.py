"""A real ssh-agent."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .processes import wait_until


@contextmanager
def agent(folder: Path, *keys: Path) -> Iterator[Path]:
    """A real ssh-agent with some keys; yields its socket."""
    socket = folder / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(socket.exists, "the agent's socket")
            for key in keys:
                subprocess.run(
                    ["ssh-add", "-q", key], env={"SSH_AUTH_SOCK": str(socket)}, capture_output=True, check=True
                )
            yield socket
        finally:
            process.terminate()
