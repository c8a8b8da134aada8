"""How Invoke and Fabric run a command, and what they lack for that."""

from __future__ import annotations

import _weakrefset
import contextlib
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import invoke
from invoke.exceptions import ThreadException

ANSWER_TIMEOUT = 30  # seconds, for the server to take a command, or to give a sign of life


def connection_errors() -> tuple[type[BaseException], ...]:
    """What a connection that breaks may raise; Paramiko's own only where it is loaded at all."""
    paramiko = sys.modules.get("paramiko")
    return (ThreadException, EOFError, OSError, *((paramiko.SSHException,) if paramiko else ()))


@contextlib.contextmanager
def watch_interrupts() -> Iterator[threading.Event]:
    """Note every Ctrl-C: Python loses one that meets a callback of its own, and prints a traceback instead."""
    noted = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.set()
        if not _exception_is_swallowed(frame):
            before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _exception_is_swallowed(frame: FrameType | None) -> bool:
    """Tell whether what is raised here goes nowhere: in the callback of a weak reference, or in a `__del__`."""
    while frame:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename in (weakref.__file__, _weakrefset.__file__):
            return True
        frame = frame.f_back
    return False


def local_context() -> invoke.Context:
    """Make the context that runs commands on this machine."""
    # Neither files nor environment: what the user set for other projects' tasks does not reach these commands.
    config = invoke.Config(lazy=True, overrides={"run": {"shell": "/bin/sh"}, "runners": {"local": _LocalRunner}})
    return invoke.Context(config)


class NoSessionError(Exception):
    """The server refused a session: the command did not start."""


class _AbandonableRunner(invoke.Runner):
    """Know for sure that a command was given up, and then wait for nothing: what it started may hold its outputs."""

    _given_up = False

    def kill(self) -> None:
        """End the command, as far as that can be done from here."""
        self._given_up = True
        with contextlib.suppress(*connection_errors()):  # where the connection is gone, that has ended it
            super().kill()

    @property
    def timed_out(self) -> bool:
        """Tell whether it was the timer that ended it."""
        return self._given_up

    def _thread_join_timeout(self, target: Callable[..., Any]) -> int | None:
        return 0 if self._given_up else super()._thread_join_timeout(target)


class _LocalRunner(_AbandonableRunner, invoke.Local):
    def send_interrupt(self, interrupt: KeyboardInterrupt) -> None:
        """End at once on Ctrl-C; by itself Invoke waits for the command."""
        self.kill()
        raise interrupt


@contextlib.contextmanager
def _close_after(seconds: float, close: Callable[[], object]) -> Iterator[None]:
    """Bound a wait that Paramiko does not: after so many seconds, close what is waited for, which ends it."""

    def give_up() -> None:
        with contextlib.suppress(*connection_errors()):  # who waited goes on at once, and may be first to end it all
            close()

    timer = threading.Timer(seconds, give_up)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def remote_runner() -> Any:
    """Make the class that runs commands over SSH; Fabric is imported only here."""
    import fabric.runners
    import paramiko

    class RemoteRunner(_AbandonableRunner, fabric.runners.Remote):
        def start(self, *args: Any, **kwargs: Any) -> None:
            """Start the command; where MaxSessions is 1, sshd refuses it until it has forgotten the one before."""
            for pause in (0.05, 0.2, 1, None):
                try:
                    super().start(*args, **kwargs)
                except paramiko.ChannelException as error:  # comes from opening the session: nothing has started
                    if pause is None:
                        raise NoSessionError(str(error)) from error
                    time.sleep(pause)
                else:
                    return

        def send_start_message(self, command: str) -> None:
            """Send the very bytes: a name of a file need not be UTF-8."""
            with _close_after(ANSWER_TIMEOUT, self.channel.close):
                self.channel.exec_command(command.encode("utf-8", "surrogateescape"))

        def returncode(self) -> Any:
            """The exit status, -1 after a signal; raises EOFError where it was the connection that ended."""
            status = super().returncode()
            if status == -1 and not self.timed_out:
                # A lost connection looks the same at first. One that answers is there.
                with _close_after(ANSWER_TIMEOUT, self.context.transport.close):
                    self.context.transport.global_request("keepalive@openssh.com", wait=True)
                if not self.context.is_connected:
                    raise EOFError
            return status

        def send_interrupt(self, interrupt: KeyboardInterrupt) -> None:
            """End at once on Ctrl-C; by itself Fabric waits for the threads that read the command's output."""
            self.channel.close()
            raise interrupt

    return RemoteRunner
