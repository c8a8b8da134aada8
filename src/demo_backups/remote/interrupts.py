"""Ctrl-C while a host is in use: never lost, and not raised where it does harm."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FrameType
from typing import TypeVar

from .private_api import is_exception_swallowed

T = TypeVar("T")
RETRY_INTERVAL = 0.05  # seconds between two tries to raise a KeyboardInterrupt
DEFERRAL_LIMIT = 1.0  # seconds for which a KeyboardInterrupt is deferred at most


def is_interruption(error: BaseException) -> bool:
    """Tell whether a KeyboardInterrupt, an InterruptedRunError or a RuntimeError is due to a Ctrl-C.

    After a Ctrl-C between taking and releasing a lock, Rich complains of the lock instead, by a RuntimeError.
    """
    return not isinstance(error, RuntimeError) or isinstance(error.__context__, KeyboardInterrupt)


class Interrupts:
    """What became of a Ctrl-C.

    Python raises KeyboardInterrupt wherever the main thread is. Two places are bad for that. In the callback of a weak
    reference or in a `__del__` Python prints the exception and drops it. Inside Paramiko it can leave a lock taken,
    for which closing the connection then waits. So a SIGINT that arrives in such a callback is sent again a moment
    later; and while a command runs it is only noted, and `raise_pending` raises it between two reads.

    This class does nothing until `watch_interrupts` connects it to the signal.
    """

    def __init__(self) -> None:
        self.pending = False
        self._raised = False
        self._is_retry = False
        self._noted = 0.0
        self._deferrals = 0
        self._handler: Callable[[int, FrameType | None], object] | None = None
        self._wakeup: tuple[int, int] | None = None  # readable as soon as a Ctrl-C is pending
        self._retry: tuple[int, int] | None = None  # a byte asks the thread to send the signal again
        self._closed = threading.Event()

    def filenos(self) -> list[int]:
        """File descriptors that become readable with a Ctrl-C, for select and poll."""
        return [self._wakeup[0]] if self._wakeup else []

    def raise_pending(self) -> None:
        """Raise KeyboardInterrupt if there was a Ctrl-C since the host was opened."""
        if self.pending:
            self._raised = True
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note a Ctrl-C inside; what runs there calls `raise_pending` often.

        After DEFERRAL_LIMIT it is raised in any case, so that nothing that blocks holds it up.
        """
        self._deferrals += 1
        try:
            yield
        finally:
            self._deferrals -= 1

    def wait(self, seconds: float) -> None:
        """Sleep; raises KeyboardInterrupt."""
        time.sleep(seconds)

    def call(self, function: Callable[[], T], discard: Callable[[T], object]) -> T:
        """Call a function that may block; `discard` gets a result that comes too late, after a Ctrl-C."""
        return function()

    @contextlib.contextmanager
    def _connected(self, handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
        self._handler = handler
        self._wakeup, self._retry = os.pipe(), os.pipe()
        os.set_blocking(self._wakeup[1], False)
        os.set_blocking(self._retry[1], False)
        thread = threading.Thread(target=self._send_again, name="interrupts", daemon=True)
        thread.start()
        signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            self._closed.set()
            signal.signal(signal.SIGINT, handler)
            os.close(self._retry[1])  # ends the thread
            thread.join()
            for descriptor in (self._retry[0], *self._wakeup):
                os.close(descriptor)
            self._wakeup = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT: raise now, or later where an exception would be dropped or is deferred."""
        is_retry, self._is_retry = self._is_retry, False
        if is_retry and self._raised:
            return
        now = time.monotonic()
        if not self.pending or self._raised:
            self._noted, self._raised = now, False
        self.pending = True
        self._write(self._wakeup)
        if is_exception_swallowed(frame) or (self._deferrals and now - self._noted < DEFERRAL_LIMIT):
            self._write(self._retry)
            return
        self._raised = True
        assert self._handler
        self._handler(number, frame)

    def _write(self, pipe: tuple[int, int] | None) -> None:
        if pipe and not self._closed.is_set():
            with contextlib.suppress(BlockingIOError):
                os.write(pipe[1], b"\0")

    def _send_again(self) -> None:
        """Send SIGINT to the main thread until its handler could raise (in a thread of its own)."""
        assert self._retry
        main = threading.main_thread().ident
        assert main is not None
        while os.read(self._retry[0], 4096):
            if not (self._closed.wait(RETRY_INTERVAL) or self._raised):
                self._is_retry = True
                signal.pthread_kill(main, signal.SIGINT)


# In a thread of `workflows/hosts.py`: what the main thread passes a Ctrl-C on to.
SHARED_INTERRUPTS: ContextVar[Interrupts | None] = ContextVar("SHARED_INTERRUPTS", default=None)


@contextlib.contextmanager
def watch_interrupts() -> Iterator[Interrupts]:
    """Watch for Ctrl-C inside.

    Nothing is watched where SIGINT is ignored, as under nohup, and outside the main thread, which gets no signals; the
    threads of several hosts have SHARED_INTERRUPTS. Raises KeyboardInterrupt at the end if one was noted and could not
    be raised before.
    """
    if shared := SHARED_INTERRUPTS.get():
        yield shared
        return
    interrupts = Interrupts()
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    with interrupts._connected(handler):
        yield interrupts
    if interrupts.pending and not interrupts._raised:
        interrupts.raise_pending()
