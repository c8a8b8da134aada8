"""The progress of a job, on a terminal and without one."""

from __future__ import annotations

import io

import pytest

from demo_backups.remote.job_state import BACKUP, CHECK, Job, JobStatus
from demo_backups.ui.console import Console, make_console
from demo_backups.ui.progress import JobProgress

from ..helpers.consoles import print_to_text

START = 5_000.0


def make_job(kind: str) -> Job:
    return Job(kind, "tracker", "", "/app/sqlite3.db", 1000, started=START)


def make_status(seconds: float, copied: int | None, running: bool = True) -> JobStatus:
    return JobStatus(running, None, None, copied, now=START + seconds, started=START, output="")


@pytest.mark.parametrize(("kind", "copied"), [(BACKUP, 400), (CHECK, None)])
def test_terminal_shows_time_since_job_start(kind: str, copied: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    with JobProgress(make_console(screen), make_job(kind)) as progress:
        progress.show(make_status(3_725, copied))
    assert "1:02:05" in screen.getvalue()


def test_every_tenth_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def show_copy(out: Console) -> None:
        with JobProgress(out, make_job(BACKUP)) as progress:
            for copied in (None, 0, 50, 100, 150, 300, 310, 1000):
                progress.show(make_status(10, copied))
            progress.show(make_status(10, 1000, running=False))

    lines = print_to_text(monkeypatch, show_copy).splitlines()
    assert [line.split(" of ")[0] for line in lines] == ["100", "300", "1,000"]


def test_check_without_terminal_prints_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def show_check(out: Console) -> None:
        with JobProgress(out, make_job(CHECK)) as progress:
            progress.show(make_status(10, None))

    assert print_to_text(monkeypatch, show_check) == ""
