"""The OpenSSH client as transport, where no server is needed."""

from __future__ import annotations

import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from demo_backups.errors import HostUnreachableError
from demo_backups.remote.interrupts import Interrupts
from demo_backups.remote.openssh_runner import open_openssh


def test_advice_selects_the_same_configuration(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # without listen: connections are refused
        port = unused.getsockname()[1]
        config = tmp_path / "config"
        config.write_text(f"Host demo\n  HostName 127.0.0.1\n  Port {port}\n")
        with pytest.raises(HostUnreachableError) as caught, open_openssh("demo", config, Interrupts()):
            pass
        command = shlex.split(caught.value.advice.rpartition(": ")[2])
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert f"port {port}: Connection refused" in done.stderr
