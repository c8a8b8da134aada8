"""`inv fetch` from a real sshd, through sudo: cut connections, killed processes, limits and memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from demo_backups.errors import INTERRUPTED
from demo_backups.project import ROOT
from demo_backups.remote.connection import open_host
from demo_backups.remote.download import Download, Meter, PartialFile, download
from demo_backups.remote.retries import retry_when_lost
from demo_backups.settings.values import FABRIC, OPENSSH

from ..helpers.copies import hash_of, hidden_names, make_large_backup
from ..helpers.processes import wait_for_end, wait_until
from ..helpers.proxies import silent_proxy
from ..helpers.tasks import INV, InvRunner, assert_exit, read_json
from .conftest import Server
from .machine import USER

NAME = "backup_2026-01-02_00-00-00.db"
MEGABYTES = 24
TWICE = 8 * 2**20  # bytes that may be sent twice

pytestmark = pytest.mark.parametrize("transport", [FABRIC, OPENSSH])


@pytest.fixture
def backup(server: Server) -> Path:
    path = make_large_backup(server.backups, NAME, MEGABYTES)
    path.chmod(0o600)
    return path


@pytest.fixture
def part(home: Path) -> Path:
    return home / f"copies/demo/.{NAME}.part"


def start(server: Server, transport: str, *flags: str) -> subprocess.Popen[str]:
    """Start a fetch of what is not compressed, so that its progress is known."""
    runner = InvRunner(server.environment)
    return runner.start("fetch", "--no-compress", "--json", *flags, INVOKE_SSH_TRANSPORT=transport)


def finish(task: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the end of a fetch that must succeed."""
    stdout, stderr = task.communicate(timeout=240)
    assert task.returncode == 0, stderr
    value: dict[str, Any] = json.loads(stdout)
    return value


def kill_connections(server: Server) -> None:
    """Kill the processes of sshd that serve the user's connections."""
    for process in server.machine.processes(f"sshd: {USER}"):
        os.kill(process, signal.SIGKILL)


def wait_for_bytes(part: Path, count: int) -> None:
    wait_until(lambda: part.exists() and part.stat().st_size >= count, f"{count:,} bytes of the copy")


def assert_copy(server: Server, part: Path, backup: Path) -> None:
    assert hash_of(part.with_name(NAME)) == hash_of(backup)
    assert hidden_names(part.parent) == []
    assert hidden_names(server.backups) == []


def test_short_interruption_is_resumed_by_itself(server: Server, transport: str, backup: Path, part: Path) -> None:
    task = start(server, transport, "--limit", "8MB")
    for count in (2**20, MEGABYTES // 2 * 2**20):
        wait_for_bytes(part, count)
        kill_connections(server)
    result = finish(task)
    assert result["verified"] is True
    assert result["sent_bytes"] <= backup.stat().st_size + TWICE
    assert_copy(server, part, backup)


def test_killed_sender_is_an_interruption(server: Server, transport: str, backup: Path, part: Path) -> None:
    """The channel ends without an exit status, and the connection stays."""
    task = start(server, transport, "--limit", "4MB")
    wait_for_bytes(part, 2**20)
    for process in server.machine.processes("tail -c +1"):
        os.kill(process, signal.SIGKILL)
    finish(task)
    assert_copy(server, part, backup)


def test_long_interruption_is_resumed_by_same_command(server: Server, transport: str, backup: Path, part: Path) -> None:
    """The server goes down and its backup is rotated away; the next call of the same command needs only the rest."""
    task = start(server, transport, "--limit", "8MB", "--backup", NAME)
    wait_for_bytes(part, MEGABYTES // 2 * 2**20)
    os.killpg(task.pid, signal.SIGINT)
    _, stderr = task.communicate(timeout=60)
    assert task.returncode == INTERRUPTED, stderr
    size, expected = part.stat().st_size, hash_of(backup)
    backup.unlink()
    result = finish(start(server, transport, "--backup", NAME))
    assert (result["resumed_from"], result["sha256"]) == (size, expected)
    assert size + result["sent_bytes"] == result["bytes"]
    assert list(server.backups.iterdir()) == []


def test_silent_connection_is_replaced(
    server: Server,
    transport: str,
    backup: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is closed, but packets are lost, as when this machine has got another address."""
    monkeypatch.setenv("HOME", server.environment["HOME"])
    monkeypatch.setattr("demo_backups.remote.download.STALL_TIMEOUT", 1)
    monkeypatch.setattr("demo_backups.remote.connection.CHANNEL_TIMEOUT", 2)
    wanted = Download(PurePosixPath(server.database.backup_dir) / NAME)
    with silent_proxy(server.sshd.port) as proxy:
        sshd = replace(server.sshd, port=proxy.port)
        server.machine.known_hosts.write_text(sshd.known)
        alive = ("ServerAliveInterval 1", "ServerAliveCountMax 2")
        server.machine.configure(server.machine.alias("demo", sshd, *alive))
        size = backup.stat().st_size
        pending = [proxy.silence]

        def progress(received: int) -> None:
            if pending and received > size // 2:
                pending.pop()()

        settings = server.settings.model_copy(update={"ssh_transport": transport})
        with (
            open_host(settings) as host,
            PartialFile(tmp_path / "part", size, progress) as partial,
        ):
            meter = Meter()
            retry_when_lost(lambda: download(host, wanted, partial, meter), lambda: partial.size, print)
            assert proxy.connections >= 2
            assert partial.sha256.hexdigest() == hash_of(backup)
            assert meter.count <= size + TWICE


def test_login_that_prints_does_no_harm(server: Server, transport: str, backup: Path, part: Path) -> None:
    (server.machine.home / ".bashrc").write_text("echo Welcome; echo Welcome >&2\n")
    (server.machine.home / ".profile").write_text("echo Welcome; echo Welcome >&2\n")
    finish(start(server, transport))
    assert_copy(server, part, backup)


def test_login_that_only_reads_fetches_without_hold(server: Server, transport: str, backup: Path, part: Path) -> None:
    """The login is in the group of the backups: Linux lets it not link a file that it cannot write to."""
    shutil.chown(server.backups, group=server.machine.home.stat().st_gid)
    shutil.chown(backup, group=server.machine.home.stat().st_gid)
    backup.chmod(0o640)
    done = InvRunner(server.environment)("fetch", "--json", INVOKE_SSH_TRANSPORT=transport, INVOKE_USE_SUDO="0")
    assert read_json(done)["verified"] is True
    assert "cannot be held" in done.stderr
    assert_copy(server, part, backup)


def test_rate_is_limited(server: Server, transport: str, backup: Path, part: Path) -> None:
    begin = time.monotonic()
    result = finish(start(server, transport, "--limit", "6MB"))
    assert time.monotonic() - begin > backup.stat().st_size / 6e6
    assert result["sent_bytes"] == backup.stat().st_size


def test_memory_does_not_grow_with_size(server: Server, transport: str, home: Path) -> None:
    """Zeros: one megabyte of compressed data becomes gigabytes."""
    peaks: list[int] = []
    for megabytes in (16, 200):
        path = server.backups / f"backup_2026-01-0{len(peaks) + 1}_00-00-00.db"
        with path.open("wb") as file:
            file.truncate(megabytes * 2**20)
        peaks.append(peak_memory(server, transport, path.name))
    assert peaks[1] - peaks[0] < 64 * 1024


def peak_memory(server: Server, transport: str, name: str) -> int:
    """Fetch a file, which is no database, and return the largest memory of the task in KiB."""
    program = "import os, resource, subprocess, sys; subprocess.run(sys.argv[1:]); "
    program += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    command = [sys.executable, "-c", program, str(INV), "--search-root", str(ROOT), "fetch", "--backup", name]
    environment = server.environment | {"INVOKE_SSH_TRANSPORT": transport}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "is not a good backup" in done.stderr
    return int(done.stdout.splitlines()[-1])


def test_ctrl_c_ends_the_checks_here(server: Server, transport: str, backup: Path, part: Path) -> None:
    """The copy is complete, and checked at the next call."""
    rows = f"SELECT i + {server.sshd.port} FROM n"  # no other test has this query
    slow = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL {rows}) SELECT count(*) FROM n"
    runner = InvRunner(server.environment)
    task = runner.start("fetch", INVOKE_SSH_TRANSPORT=transport, INVOKE_DATABASES_INDEX_QUERY=slow)
    wait_until(lambda: find_process(rows), "the query")
    os.killpg(task.pid, signal.SIGINT)
    assert_exit(wait_for_end(task), INTERRUPTED, f"--backup {NAME}")
    wait_until(lambda: not find_process(rows), "the end of the query")
    result = finish(start(server, transport))
    assert (result["sent_bytes"], result["resumed_from"]) == (0, backup.stat().st_size)
    assert_copy(server, part, backup)


def find_process(text: str) -> bool:
    """Tell whether sqlite3 runs on this machine with a text on its command line."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            if command.startswith(b"sqlite3\0") and text.encode() in command:
                return True
    return False
