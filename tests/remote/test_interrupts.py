"""Ctrl-C while a host is in use: never lost, raised once, and only where that does no harm."""

from __future__ import annotations

import select
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from demo_backups.errors import InterruptedRunError
from demo_backups.remote.host import Host
from demo_backups.remote.interrupts import DEFERRAL_LIMIT, watch_interrupts
from demo_backups.remote.runners import LocalRunner

pytestmark = pytest.mark.user


def interrupt() -> None:
    """Press Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


def interrupt_in_finalizer() -> None:
    """Press Ctrl-C while an object is deleted."""

    class Dying:
        def __del__(self) -> None:
            interrupt()

    Dying()


def interrupt_in_weak_reference() -> None:
    """Press Ctrl-C while a set of weak references drops one."""

    class Removals(list[Any]):
        def append(self, item: Any) -> None:
            interrupt()

    weak: Any = weakref.WeakSet()
    item = threading.Event()
    weak.add(item)
    weak._iterating, weak._pending_removals = {1}, Removals()
    del item


def press_and_wait(press: Callable[[], None], again: bool = False) -> None:
    """Press Ctrl-C, once or again and again, and wait until KeyboardInterrupt is raised; fail if it is not."""
    deadline = time.monotonic() + 20
    press()
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if again:
            press()
    pytest.fail("the Ctrl-C was lost")


SWALLOWING = pytest.mark.parametrize("press", [interrupt_in_finalizer, interrupt_in_weak_reference])


@SWALLOWING
def test_swallowed_interrupt_is_raised_later(monkeypatch: pytest.MonkeyPatch, press: Callable[[], None]) -> None:
    dropped: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    with pytest.raises(KeyboardInterrupt), watch_interrupts():
        press_and_wait(press)
    assert dropped == []


@SWALLOWING
def test_swallowed_interrupt_is_raised_at_end(monkeypatch: pytest.MonkeyPatch, press: Callable[[], None]) -> None:
    monkeypatch.setattr("demo_backups.remote.interrupts.RETRY_INTERVAL", 600)
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    with pytest.raises(KeyboardInterrupt), watch_interrupts():
        press()


@SWALLOWING
def test_swallowed_interrupt_stops_next_command(monkeypatch: pytest.MonkeyPatch, press: Callable[[], None]) -> None:
    monkeypatch.setattr("demo_backups.remote.interrupts.RETRY_INTERVAL", 600)
    with watch_interrupts() as interrupts:
        host = Host("local", LocalRunner(), False, interrupts)
        press()
        with pytest.raises(InterruptedRunError, match="interrupted while trying to look"):
            host.run("look", "true")


def test_interrupt_is_raised_at_once() -> None:
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), watch_interrupts():
        press_and_wait(interrupt)
    assert time.monotonic() - begin < DEFERRAL_LIMIT


def test_deferred_interrupt_is_only_noted() -> None:
    with watch_interrupts() as interrupts:
        with interrupts.deferred():
            assert select.select(interrupts.filenos(), [], [], 0)[0] == []
            interrupt()
            assert interrupts.pending
            assert select.select(interrupts.filenos(), [], [], 0)[0] == interrupts.filenos()
            with pytest.raises(KeyboardInterrupt):
                interrupts.raise_pending()
        time.sleep(0.2)  # it is not raised a second time


def test_deferral_has_a_limit() -> None:
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), watch_interrupts() as interrupts, interrupts.deferred():
        press_and_wait(interrupt)
    assert time.monotonic() - begin >= DEFERRAL_LIMIT


def test_impatient_user_does_not_prolong_deferral() -> None:
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), watch_interrupts() as interrupts, interrupts.deferred():
        press_and_wait(interrupt, again=True)
    assert time.monotonic() - begin < 10


def test_second_interrupt_is_raised_too() -> None:
    with watch_interrupts():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                interrupt()


def test_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with watch_interrupts() as interrupts:
        interrupt()
        assert not interrupts.pending
        assert interrupts.filenos() == []


def test_nothing_is_left_behind() -> None:
    threads = threading.active_count()
    with watch_interrupts():
        assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_watch_nothing() -> None:
    watched: list[list[int]] = []

    def watch() -> None:
        with watch_interrupts() as interrupts:
            watched.append(interrupts.filenos())

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert watched == [[]]
