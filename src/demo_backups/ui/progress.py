"""Progress of a job."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from ..remote.jobs import BACKUP

if TYPE_CHECKING:
    from rich.console import Console
    from typing_extensions import Self

    from ..remote.jobs import Job, JobStatus


class JobProgress:
    """Show how far a run is: a bar on a terminal, elsewhere a line for every tenth of a copy."""

    def __init__(self, out: Console, run: Job) -> None:
        from rich import progress

        self.out, self.run, self.tenths = out, run, 0
        self.bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            *(
                [
                    progress.DownloadColumn(),
                    progress.TransferSpeedColumn(),
                    progress.TimeRemainingColumn(),
                    progress.TextColumn("left, after"),
                ]
                if run.kind == BACKUP
                else []
            ),
            progress.TextColumn("{task.fields[elapsed]}"),  # of the run itself, which may be older than this task
            console=out,
            transient=True,
            disable=not out.is_terminal,
        )
        self.task = self.bar.add_task(run.kind, total=run.total if run.kind == BACKUP else None, elapsed="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def show(self, seen: JobStatus) -> None:
        """Show one look at the run."""
        if not seen.running:
            return
        elapsed = timedelta(seconds=int(seen.now - self.run.started))
        self.bar.update(self.task, completed=seen.bytes, elapsed=str(elapsed))
        if seen.bytes is None:
            return
        tenths = 10 * seen.bytes // max(self.run.total, 1)
        if self.bar.disable and tenths > self.tenths:
            rate = seen.bytes / max(seen.now - self.run.started, 0.001)
            left = max(0, self.run.total - seen.bytes) / max(rate, 1)
            words = f"{seen.bytes:,} of {self.run.total:,} bytes, {rate / 1e6:,.0f} MB/s, about {left:.0f} s left"
            self.out.print(words, soft_wrap=True)
            self.tenths = tenths
