"""A file is uploaded to a directory of root, with OpenSSH and sudo; sessions are killed, and the disk is full."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.errors import StepError
from demo_backups.project import ROOT
from demo_backups.remote.connection import open_host
from demo_backups.remote.host import Host
from demo_backups.remote.upload import Uploaded, upload
from demo_backups.settings.values import FABRIC, OPENSSH

from ..helpers.constants import PLAIN_AND_ZSTD, needs_zstd
from ..helpers.processes import wait_until
from .conftest import Server

DATA = os.urandom(3_000_000) + b"compressible" * 500_000


@pytest.fixture(params=[FABRIC, OPENSSH])
def host(request: pytest.FixtureRequest, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """The server, by each transport; root owns the backups, and its login shell prints something."""
    monkeypatch.setenv("HOME", server.environment["HOME"])
    (server.machine.home / ".bashrc").write_text("echo Welcome; echo 'You have mail' >&2\n")
    with open_host(server.settings.model_copy(update={"ssh_transport": request.param}), "demo") as opened:
        yield opened


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A file on this machine."""
    path = tmp_path / "new.db"
    path.write_bytes(DATA)
    return path


def target_of(server: Server) -> PurePosixPath:
    return server.database.backup_dir / "new.db"


def part_of(server: Server) -> Path:
    return server.machine.inside(server.database.backup_dir) / ".upload.new.db"


def start_uploads(server: Server, limit: int, *paths: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.helpers.upload_files", server.environment["INVOKE_SSH_CONFIG"], str(limit)]
    return subprocess.Popen(
        [*command, *map(str, paths)], env=server.environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def read_peak_memory(process: int) -> int:
    """Return the largest memory of a process, in KiB; 0 if it has ended."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{process}/status").read_text().split("VmHWM:")[1].split()[0])
    return 0


def assert_published(server: Server, uploaded: Uploaded) -> None:
    path = server.machine.inside(target_of(server))
    assert path.read_bytes() == DATA
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (0, 0o600)
    assert uploaded.bytes == len(DATA)
    assert not part_of(server).exists()


@PLAIN_AND_ZSTD
def test_killed_session_is_resumed(server: Server, host: Host, local: Path, compress: bool) -> None:
    """All sessions of the user are killed in the middle."""
    killed: list[int] = []

    def kill(position: int) -> None:
        if position > 2_000_000 and not killed:
            killed.extend(server.machine.processes("sshd: torrust"))
            for process in killed:
                os.kill(process, signal.SIGKILL)

    uploaded = upload(host, local, target_of(server), progress=kill, limit=3_000_000, compress=compress, notify=print)
    assert killed
    assert_published(server, uploaded)


def test_upload_continues_in_new_process(server: Server, host: Host, local: Path) -> None:
    """The first one is killed here."""
    with start_uploads(server, 1_000_000, local) as process:
        wait_until(lambda: part_of(server).exists() and part_of(server).stat().st_size > 10**6, "bytes to arrive")
        process.kill()
    assert part_of(server).stat().st_mode & 0o777 == 0o600
    uploaded = upload(host, local, target_of(server), notify=print)
    assert uploaded.resumed_from > 10**6
    assert uploaded.sent_bytes == len(DATA) - uploaded.resumed_from
    assert_published(server, uploaded)


@PLAIN_AND_ZSTD
def test_full_disk_of_server_is_an_error(server: Server, host: Host, local: Path, compress: bool) -> None:
    """The disk is filled after the free space was read."""
    folder = str(server.database.backup_dir)
    server.machine.run("mount", "-t", "tmpfs", "-o", "size=10m,mode=750", "tmpfs", folder)

    def fill(position: int) -> None:
        fill_command = "exec 2>/dev/null; [ -e full ] || cat /dev/zero > full || true"
        server.machine.run("sh", "-c", f"cd {folder}; {fill_command}")

    with pytest.raises(StepError) as caught:
        upload(host, local, target_of(server), progress=fill, compress=compress)
    assert "No space left on device" in caught.value.output
    assert "free space" in caught.value.advice
    assert not server.machine.inside(target_of(server)).exists()
    server.machine.run("rm", f"{folder}/full")
    assert_published(server, upload(host, local, target_of(server)))


@needs_zstd
def test_memory_does_not_grow_with_upload(server: Server, tmp_path: Path) -> None:
    paths = [tmp_path / "small.db", tmp_path / "large.db"]
    for path, size in zip(paths, (24 * 2**20, 120 * 2**20), strict=True):
        with path.open("wb") as file:
            file.truncate(size)
    receivers = {"cat": 0, "zstd --decompress": 0}
    with start_uploads(server, 0, *paths) as process:
        while process.poll() is None:
            for command, peak in receivers.items():
                receivers[command] = max([peak, *map(read_peak_memory, server.machine.processes(command))])
        assert process.stdout
        small, large = map(int, process.stdout.read().split())
    print(small, large, receivers)
    assert large - small < 8 * 1024
    assert all(0 < peak < 16 * 1024 for peak in receivers.values())
