"""The real node_exporter, as far as its textfile collector."""

from __future__ import annotations

import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from .processes import wait_until

PROGRAM = "prometheus-node-exporter"


def scrape_directory(folder: Path) -> str:
    """Return what node_exporter serves of the files in a directory; skip the test if it is not installed."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"not installed: {PROGRAM}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = ["--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={folder}"]
    command = [PROGRAM, *flags, f"--web.listen-address={address}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as exporter:
        try:
            return str(wait_until(lambda: _scrape(f"http://{address}/metrics"), "node_exporter to answer"))
        finally:
            exporter.terminate()


def _scrape(url: str) -> str:
    """Return the metrics of an exporter; empty if it does not listen yet."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""
