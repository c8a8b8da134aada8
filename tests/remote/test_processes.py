"""Processes on a host: who has a file open or locked, and signals to them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.remote.answers import parse_yes_no
from demo_backups.remote.host import Host
from demo_backups.remote.processes import (
    Process,
    is_locked_command,
    lock_holders_command,
    parse_lock_holders,
    parse_processes,
    processes_with_open,
    signal_processes_command,
)
from demo_backups.remote.shell import quote

from ..helpers.constants import EVERY_ODD_NAME, NOBODY, root_only
from ..helpers.processes import wait_until
from ..helpers.shell import run_sh


@contextlib.contextmanager
def locked(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Let a process hold a lock on a file."""
    command = ["flock", str(path), "sh", "-c", "echo locked; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"locked\n"
        yield process
        assert process.stdin
        process.stdin.close()


def test_parse_processes_output() -> None:
    output = "12 root sqlite3 -batch  x.db \n13 torrust bash \n14 1000  \nend\n"
    assert parse_processes(output) == [
        Process(12, "root", "sqlite3 -batch  x.db"),
        Process(13, "torrust", "bash"),
        Process(14, "1000", ""),
    ]


@pytest.mark.parametrize("output", ["", "12\nend\n", "12 root\nend\n", "pid root x\nend\n", "\nend\n", "12 root x\n"])
def test_parse_processes_rejects_other_output(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_processes(output)


@EVERY_ODD_NAME
def test_processes_with_open_file_are_found(local_host: Host, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.touch()
    assert processes_with_open(local_host, PurePosixPath(path)) == []
    with locked(path) as process:
        found = processes_with_open(local_host, PurePosixPath(path))
    assert process.pid in [process.pid for process in found]
    assert any("cat" in process.command for process in found)


@EVERY_ODD_NAME
def test_lock_is_found_while_held(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    command = is_locked_command(PurePosixPath(path))
    assert parse_yes_no(run_sh(command).stdout) is False  # there is no such file
    path.touch()
    assert parse_yes_no(run_sh(command).stdout) is False
    with locked(path):
        assert parse_yes_no(run_sh(command).stdout) is True
    assert parse_yes_no(run_sh(command).stdout) is False


def test_lock_in_overlay_is_found(private_mounts: list[str], public_folder: Path) -> None:
    """In an overlay of two file systems, stat reports another device than /proc/locks."""
    for name in ("lower", "upper", "root"):
        (public_folder / name).mkdir()
    (public_folder / "lower/lock").touch()
    path = PurePosixPath(public_folder / "root/lock")
    mounts = (
        "mount -t tmpfs tmpfs upper; mkdir upper/upper upper/work\n"
        "mount -t overlay -o lowerdir=lower,upperdir=upper/upper,workdir=upper/work overlay root\n"
    )
    holders = lock_holders_command([path])
    script = f"cd '{public_folder}'; {mounts}{is_locked_command(path)}\nexec 9< '{path}'; flock 9\n"
    script += f"({is_locked_command(path)}); {holders}"
    done = subprocess.run([*private_mounts, "sh", "-euc", script], capture_output=True, text=True, check=True)
    before, locked_, *rest = done.stdout.splitlines(keepends=True)
    assert (parse_yes_no(before), parse_yes_no(locked_)) == (False, True)
    assert [holder.file for holder in parse_lock_holders("".join(rest))] == [0]


@root_only
def test_lock_that_cannot_be_reached_is_no_answer(as_nobody: None, local_host: Host, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    result = local_host.run("look", is_locked_command(PurePosixPath(tmp_path / "private/lock")))
    assert (result.ok, result.stdout) == (False, "")


def test_signal_reaches_stopped_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path) as process:
        os.kill(process.pid, signal.SIGSTOP)
        assert run_sh(signal_processes_command(quote(str(path)), "TERM")).ok
        wait_until(lambda: process.poll() is not None, "the end of the process")
        assert process.returncode == -signal.SIGTERM


def test_processes_of_linked_file_are_found(local_host: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    (tmp_path / "link").symlink_to("file")
    with locked(path) as process:
        found = processes_with_open(local_host, PurePosixPath(tmp_path / "link"))
    assert process.pid in [process.pid for process in found]


def give_away(lock: Path, target: Path) -> None:
    target.rename(lock)
    os.chown(lock, NOBODY, -1)


PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "symbolic link": lambda lock, target: lock.symlink_to(target),
    "hard link": lambda lock, target: os.link(target, lock),
    "file of another user": give_away,
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_planted_lock_signals_nobody(tmp_path: Path, plant: Callable[[Path, Path], object]) -> None:
    if plant is give_away and os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    target, lock = tmp_path / "opened by a service", tmp_path / "lock"
    with locked(target) as service:
        plant(lock, target)
        assert run_sh(signal_processes_command(quote(str(lock)), "KILL")).ok
        service.communicate(b"", timeout=20)
    assert service.returncode == 0


def test_pipe_for_lock_signals_nobody(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    os.mkfifo(lock)
    descriptor = os.open(lock, os.O_RDWR)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[descriptor]) as service:
        assert run_sh(signal_processes_command(quote(str(lock)), "KILL")).ok
        service.communicate(b"", timeout=20)
    os.close(descriptor)
    assert service.returncode == 0
