"""Programs that tests start, wait for and stop in the middle."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import pytest


def wait_until(condition: Callable[[], Any], name: str, seconds: float = 60) -> Any:
    """Wait for a condition and return its value; the test fails with the name if it does not come true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s for {name}")
        time.sleep(0.01)
    return value


def start_program(
    *command: str | PurePath, env: Mapping[str, str], cwd: str | Path | None = None
) -> subprocess.Popen[str]:
    """Start a program in a process group of its own, as a shell does, with nothing on its standard input."""
    return subprocess.Popen(
        command,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_end(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for the end of a program."""
    stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def stop_midway(copies: Iterable[int], part: Path, source: Path) -> int | None:
    """Stop the one of some processes that copies; return it, or None if the copy is complete already."""
    for pid in copies:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it ended before it could be stopped
            os.kill(pid, signal.SIGSTOP)
            if part.stat().st_size < source.stat().st_size:
                return pid
            os.kill(pid, signal.SIGCONT)
    return None


@contextlib.contextmanager
def stopped_midway(
    start: Callable[[], subprocess.Popen[str]], stop: Callable[[], int | None], undo: Callable[[], None]
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a backup and stop its copy in the middle; yield the program that was started and the copying process.

    If the copy was complete before it could be stopped, undo it and start again.
    """
    for _ in range(20):
        task = start()
        if pid := stop():
            try:
                yield task, pid
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                task.kill()
                task.communicate()
            return
        wait_for_end(task)
        undo()
    pytest.fail("could not stop the copy in the middle")


def restore_sigint() -> None:
    """Handle SIGINT as Python does by default, in this process and in those that it starts.

    A shell without job control starts programs in the background with SIGINT ignored, and so does nohup in a script:
    without this, Ctrl-C would have no effect in a test.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run_as_user(uid: int, function: Callable[[], str]) -> str:
    """Call a function in a copy of this process that belongs to another user; only root can.

    Nothing is executed: this interpreter may be in a folder that the other user cannot enter.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setuid(uid)
            os.write(write, function().encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


@contextlib.contextmanager
def file_mode_mask(mask: int) -> Iterator[None]:
    """Set the umask of this process."""
    previous = os.umask(mask)
    try:
        yield
    finally:
        os.umask(previous)
