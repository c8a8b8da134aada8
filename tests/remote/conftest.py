"""What the tests of this folder share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo_backups.rehearsal.server import Server, serve

from ..helpers.ssh_servers import Answer, jump_host, replaced_server


@pytest.fixture(autouse=True)
def default_sigint() -> Iterator[None]:
    """Let Ctrl-C have its effect, also where the tests run with SIGINT ignored, as under nohup."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A throwaway SSH server, whose alias is `rehearsal`."""
    folder = tmp_path / "ssh-server"
    folder.mkdir()
    with serve(folder) as running:
        yield running


@pytest.fixture
def replace_server(server: Server) -> Iterator[Callable[[Answer], None]]:
    """Put something else at the server's address: what is accepted there is given to a function."""
    with replaced_server(server) as start:
        yield start


@pytest.fixture
def jumps(server: Server) -> Iterator[list[object]]:
    """Put a jump host before the server; yields the connections that are open there."""
    with jump_host(server) as connections:
        yield connections
