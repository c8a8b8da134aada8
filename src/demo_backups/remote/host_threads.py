"""Hosts in threads: Ctrl-C, and questions on the terminal, which only the main thread can handle."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any, Generic, TypeAlias, TypeVar, cast

from .interrupts import SHARED_INTERRUPTS, Interrupts
from .terminal import SHARED_TERMINAL, SharedTerminal

T = TypeVar("T")
POLL_INTERVAL = 0.1  # seconds between two checks for Ctrl-C
Answer: TypeAlias = tuple[Any, BaseException | None]  # of another thread: a value, or an exception to raise


def wait_for_answer(answers: queue.SimpleQueue[Answer], check: Callable[[], object]) -> Any:
    """Return the value or raise the exception that another thread puts into a queue, or what `check` raises before."""
    while True:
        try:
            value, error = answers.get(timeout=POLL_INTERVAL)
            break
        except queue.Empty:
            check()
    if error is not None:
        raise error
    return value


class SharedInterrupts(Interrupts):
    """One Ctrl-C for several threads, which get no signals: the main thread calls `interrupt`.

    Each thread then raises KeyboardInterrupt: at its next command, while it waits for one, and out of what `call`
    calls. The pipe is never closed, since a thread that does not end may still wait for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._wakeup = os.pipe()
        os.set_blocking(self._wakeup[1], False)

    def interrupt(self) -> None:
        """Let each thread raise KeyboardInterrupt."""
        self.pending = True
        self._write(self._wakeup)

    def wait(self, seconds: float) -> None:
        """Sleep; raises KeyboardInterrupt."""
        select.select(self.filenos(), [], [], seconds)
        self.raise_pending()

    def call(self, function: Callable[[], T], discard: Callable[[T], object]) -> T:
        """Call a function that may block, in a thread of its own, which is left behind after a Ctrl-C."""
        self.raise_pending()
        return _Call(function, discard).wait(self.raise_pending)


class _Call(Generic[T]):
    """A function that is called in a thread of its own."""

    def __init__(self, function: Callable[[], T], discard: Callable[[T], object]) -> None:
        self._function = function
        self._discard = discard
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._is_abandoned = False
        context = copy_context()
        threading.Thread(target=lambda: context.run(self._run), name="call", daemon=True).start()

    def wait(self, check: Callable[[], object]) -> T:
        """Return the result or raise the error of the function, or what `check` raises before it has ended."""
        return cast("T", wait_for_answer(self._answers, lambda: self._check(check)))

    def _check(self, check: Callable[[], object]) -> None:
        try:
            check()
        except BaseException:
            self._is_abandoned = True
            self._discard_result()
            raise

    def _run(self) -> None:
        try:
            self._answers.put((self._function(), None))
        except BaseException as error:
            self._answers.put((None, error))
        if self._is_abandoned:
            self._discard_result()

    def _discard_result(self) -> None:
        """Discard a result that nobody waits for; the thread that takes it from the queue does."""
        with contextlib.suppress(queue.Empty):
            value, error = self._answers.get_nowait()
            if error is None:
                self._discard(cast("T", value))


@contextlib.contextmanager
def in_host_thread(interrupts: SharedInterrupts, terminal: SharedTerminal) -> Iterator[None]:
    """Use a shared Ctrl-C and a shared terminal inside, in this thread and in those that it starts by `call`."""
    interrupts_token = SHARED_INTERRUPTS.set(interrupts)
    terminal_token = SHARED_TERMINAL.set(terminal)
    try:
        yield
    finally:
        SHARED_TERMINAL.reset(terminal_token)
        SHARED_INTERRUPTS.reset(interrupts_token)
