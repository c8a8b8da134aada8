"""A limit for the time that something takes, whatever it waits for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import CheckTimeoutError, InterruptedRunError

GRACE = 3.0  # seconds in which connections are closed after an interruption


@contextmanager
def time_limit(seconds: float, give_up: Callable[[], None]) -> Iterator[None]:
    """Interrupt what is inside after some seconds, as Ctrl-C does; raises CheckTimeoutError then.

    An interruption closes connections and ends programs. It has no effect in the lookup of a host's name, and where
    SIGINT is ignored. If it has not worked after GRACE, a thread calls `give_up`, which has to end the process.

    To be called in the main thread.
    """
    main = threading.main_thread().ident
    assert main is not None
    ended, expired = threading.Event(), threading.Event()
    lock = threading.Lock()  # either the body ends, or the thread ends the process

    def watch() -> None:
        if ended.wait(seconds):
            return
        with lock:
            if ended.is_set():
                return
            expired.set()
            signal.pthread_kill(main, signal.SIGINT)
        if ended.wait(GRACE):
            return
        with lock:
            if not ended.is_set():
                give_up()

    thread = threading.Thread(target=watch, name="time limit", daemon=True)
    thread.start()
    try:
        try:
            yield
        finally:
            with lock:
                ended.set()
    except (KeyboardInterrupt, InterruptedRunError):
        if expired.is_set():
            raise CheckTimeoutError(f"no result within {seconds:g} s") from None
        raise
