"""Let the cron of a private machine run what is due, without waiting for the hour or the minute."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from ..helpers.processes import wait_until
from .machine import Machine

MISSED = 20  # seconds; cron reads a crontab within a second of the full minute


def run_due_jobs(machine: Machine, script: str, has_started: Callable[[], bool], period: int = 3600) -> None:
    """Start cron just before the end of a period, wait until it has run a script, and stop it.

    `period` is an hour or a minute, in seconds. Cron gets a time zone in which its end is two seconds away; the offset
    of a zone may have seconds. Its jobs do not get that zone.
    """
    for _ in range(5):  # on a busy machine, cron may start too late
        east = (period - int(time.time()) - 2) % period
        zone = f"TZ=NEAR-{east // 3600}:{east // 60 % 60}:{east % 60}"
        cron = machine.start("env", zone, "cron", "-f", log="cron.out")
        give_up = time.monotonic() + MISSED
        wait_until(lambda: has_started() or time.monotonic() > give_up, "cron to run the job, or the hour to pass")  # noqa: B023
        started = has_started()
        if started:
            wait_until(lambda: not machine.processes(script), "the job to end")
        for process in machine.processes("cron -f"):
            os.kill(process, signal.SIGKILL)
        cron.wait()
        if started:
            return
    pytest.fail(f"cron ran nothing: {machine.log('cron.out')}")
