"""The progress of a job."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from rich import progress

from ..remote.job_state import BACKUP
from ..units import format_short_size

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..remote.job_state import Job, JobStatus
    from .console import Console


class JobProgress:
    """Show the progress of a job: a bar on a terminal, elsewhere a line for every tenth of a copy."""

    def __init__(self, out: Console, job: Job) -> None:
        self._out = out
        self._job = job
        self._printed_tenths = 0
        total = job.total if job.kind == BACKUP else None
        self._bar = progress.Progress(*_columns(job), console=out, transient=True, disable=not out.is_terminal)
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
        if tenths <= self._printed_tenths:
            return
        self._printed_tenths = tenths
        rate = copied / max(elapsed, 0.001)
        left = max(0, self._job.total - copied) / max(rate, 1)
        self._out.say(
            f"{copied:,} of {self._job.total:,} bytes, {format_short_size(rate)}/s, about {left:.0f} s left",
        )


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
