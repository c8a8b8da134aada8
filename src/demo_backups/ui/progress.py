"""The progress of a job, and of a download or an upload."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from rich import progress

from ..remote.job_state import BACKUP
from ..units import escape_controls, format_short_size

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..remote.job_state import Job, JobStatus
    from .console import Console


SECONDS_BETWEEN_LINES = 1  # where there is no terminal: a short transfer needs none


class JobProgress:
    """Show the progress of a job: a bar on a terminal, elsewhere a line for every tenth of a copy."""

    def __init__(self, out: Console, job: Job) -> None:
        self._out = out
        self._job = job
        self._printed_tenths = 0
        total = job.total if job.kind == BACKUP else None
        self._bar = progress.Progress(*_columns(job), console=out, transient=True, disable=not out.shows_progress)
        self._task = self._bar.add_task(job.kind, total=total, elapsed="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def show(self, status: JobStatus) -> None:
        """Show the status of the running job."""
        if not status.running:
            return
        # Since the start of the job, which may be long before the start of this task.
        elapsed = status.now - self._job.started
        self._bar.update(self._task, completed=status.bytes, elapsed=str(timedelta(seconds=int(elapsed))))
        if self._bar.disable and status.bytes is not None:
            self._print_tenth(status.bytes, elapsed)

    def _print_tenth(self, copied: int, elapsed: float) -> None:
        tenths = 10 * copied // max(self._job.total, 1)
        if tenths > self._printed_tenths:
            self._printed_tenths = tenths
            self._out.say(_describe_progress(copied, self._job.total, copied / max(elapsed, 0.001)))


def _describe_progress(count: int, total: int, rate: float) -> str:
    """Describe how many bytes are done, at how many bytes per second."""
    left = max(0, total - count) / max(rate, 1)
    return f"{count:,} of {total:,} bytes, {format_short_size(rate)}/s, about {left:.0f} s left"


def _columns(job: Job) -> list[progress.ProgressColumn]:
    copied = [
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        _text("left, after"),
    ]
    return [
        _text("{task.description}"),
        progress.BarColumn(),
        *(copied if job.kind == BACKUP else []),
        _text("{task.fields[elapsed]}"),
    ]


def _text(template: str) -> progress.TextColumn:
    return progress.TextColumn(template, markup=False)


class TransferProgress:
    """Show the progress of a download or an upload: a bar on a terminal, elsewhere a line for every tenth of it."""

    def __init__(self, out: Console, name: str, total: int, action: str = "fetching") -> None:
        self._out = out
        self._action = action
        self._name = name
        self._total = total
        self._printed_tenths: int | None = None  # None: what was transferred before is still being read
        self._offset = 0
        self._begin = self._last_line = 0.0
        columns = [
            _text("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        ]
        self._bar = progress.Progress(*columns, console=out, transient=True, disable=not out.shows_progress)
        self._task = self._bar.add_task(f"reading {name}", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the bar."""
        self._bar.stop()

    def start_transfer(self, offset: int) -> None:
        """Measure the rate from now on: `offset` bytes were transferred before."""
        self._bar.reset(self._task, total=self._total, completed=offset, description=f"{self._action} {self._name}")
        self._offset, self._begin = offset, time.monotonic()
        self._last_line = self._begin
        self._printed_tenths = 10 * offset // max(self._total, 1)

    def show(self, size: int) -> None:
        """Show how many bytes are transferred, or before `start_transfer`, read."""
        self._bar.update(self._task, completed=size)
        if not self._bar.disable or self._printed_tenths is None:
            return
        tenths, now = 10 * size // max(self._total, 1), time.monotonic()
        if tenths > self._printed_tenths and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._printed_tenths, self._last_line = tenths, now
            rate = (size - self._offset) / max(now - self._begin, 0.001)
            self._out.say(_describe_progress(size, self._total, rate))


class HostsProgress:
    """Show on a terminal which hosts are still in use, and for how long."""

    def __init__(self, out: Console, names: Sequence[str]) -> None:
        columns = [progress.SpinnerColumn(), _text("{task.description}"), progress.TimeElapsedColumn()]
        self._bar = progress.Progress(
            *columns, console=out, transient=True, disable=not out.shows_progress, refresh_per_second=4
        )
        self._tasks = {name: self._bar.add_task(escape_controls(name)) for name in names}
        self._has_ended = False

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> None:
        """Remove it for good."""
        self._has_ended = True
        self._bar.stop()

    def remove(self, names: Iterable[str]) -> None:
        """Remove hosts that have ended."""
        for name in self._tasks.keys() & set(names):
            self._bar.remove_task(self._tasks.pop(name))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Remove it inside, where something else uses the terminal."""
        self._bar.stop()
        try:
            yield
        finally:
            if not self._has_ended:
                self._bar.start()
