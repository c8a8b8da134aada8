"""What is tried again when the connection is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import ConnectionLostError, HostUnreachableError
from .notify import Notify

T = TypeVar("T")
RETRY_SECONDS = 300.0  # how long a lost connection is tried again without progress
RETRY_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds before each try; the last one is repeated
LOST = (ConnectionLostError, HostUnreachableError)


def retry_when_lost(operation: Callable[[], T], position: Callable[[], int], notify: Notify) -> T:
    """Do something again when the connection is lost, until it succeeds.

    `position` returns a number that changes with progress. Raises ConnectionLostError or HostUnreachableError after
    RETRY_SECONDS without progress.
    """
    pauses = iter(RETRY_PAUSES)
    last_position, failing_since = position(), None
    while True:
        begin = time.monotonic()
        try:
            return operation()
        except LOST as error:
            now = time.monotonic()
            if failing_since is None or position() != last_position or now - begin > RETRY_SECONDS:
                last_position, failing_since, pauses = position(), now, iter(RETRY_PAUSES)
            if now - failing_since > RETRY_SECONDS:
                raise
            notify(f"{error.action}: trying again")
        time.sleep(next(pauses, RETRY_PAUSES[-1]))
