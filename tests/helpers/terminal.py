"""A terminal with a program in it, as a user uses one."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest


class Terminal:
    """The output of a program on a terminal, and its keyboard."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self.shown = ""
        self._master = master
        self._process = process
        self._position = 0

    def _read(self) -> bool:
        """Read what is available; return False at the end of the output."""
        if select.select([self._master], [], [], 0.05)[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # EIO: no process has the terminal open
                return False
            self.shown += data.decode(errors="replace").replace("\r\n", "\n")
            return bool(data)
        return True

    def expect(self, text: str, seconds: float = 60) -> None:
        """Wait for a text after the one of the last `expect`."""
        self.expect_any([text], seconds)

    def expect_any(self, texts: Iterable[str], seconds: float = 60) -> str:
        """Wait for one of some texts after the one of the last `expect`, and return it."""
        texts = list(texts)
        deadline = time.monotonic() + seconds
        while not (found := {text: at for text in texts if (at := self.shown.find(text, self._position)) >= 0}):
            if not self._read() or time.monotonic() > deadline:
                pytest.fail(f"waited for {texts}; the output was:\n{self.shown}")
        first = min(found, key=lambda text: found[text])
        self._position = found[first] + len(first)
        return first

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._master, f"{line}\n".encode())

    def press_ctrl_c(self) -> None:
        """Press Ctrl-C, of which the terminal makes a SIGINT."""
        os.write(self._master, b"\x03")

    def echoes(self) -> bool:
        """Tell whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    def end(self, seconds: float = 60) -> int:
        """Wait for the program to end, and return its exit code."""
        deadline = time.monotonic() + seconds
        while self._read():
            if time.monotonic() > deadline:
                pytest.fail(f"the program does not end; the output was:\n{self.shown}")
        return self._process.wait(seconds)


@contextmanager
def terminal(command: Sequence[str | Path], environment: Mapping[str, str]) -> Iterator[Terminal]:
    """Run a program on a new terminal that is also its controlling terminal: passwords are asked for on that one."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave, env=dict(environment)
    )
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)
