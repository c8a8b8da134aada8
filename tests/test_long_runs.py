"""Runs of the tracker's backup that outlive the task that started them, as a user meets them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from demo_backups.rehearsal.server import processes_at_home

from .helpers.databases import is_consistent
from .helpers.processes import held_midway, start_program, stop_midway, wait_for_end, wait_until
from .helpers.tasks import Demo
from .test_faults import COULD_NOT_LOOK, FAILED, INTERRUPTED, records, start, told

OLDER = "tracker_backup_2026-01-01_00-00-00.db"


@pytest.fixture
def tracker(demo: Demo, large: Path) -> Demo:
    """A server with the tracker's database, its script, and an older backup."""
    source = Path(demo.settings.database("tracker").source)
    source.parent.mkdir(parents=True)
    shutil.copy(large, source)
    assert demo.inv("deploy-tracker-backup").returncode == 0
    (demo.backups / OLDER).write_bytes(b"older")
    return demo


def source_of(tracker: Demo) -> Path:
    return Path(tracker.settings.database("tracker").source)


def part_of(tracker: Demo) -> Path:
    return Path(tracker.settings.database("tracker").part)


def made(tracker: Demo) -> list[str]:
    """The names of new backups; the older one is there as it was, and nothing else is visible."""
    assert (tracker.backups / OLDER).read_bytes() == b"older"
    return [name for name in tracker.names() if name != OLDER]


def copies(tracker: Demo) -> list[int]:
    """The processes of sqlite3 that copy or check on this server."""
    found = []
    for pid in processes_at_home(tracker.server.home):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() == "sqlite3\n":
                found.append(pid)
    return found


def stop_copy(tracker: Demo) -> int | None:
    """Stop the copy as soon as it has begun; returns its process, None where it was faster."""
    wait_until(lambda: part_of(tracker).exists() or made(tracker), "the copy")
    return stop_midway(copies(tracker), part_of(tracker), source_of(tracker))


def by_task(tracker: Demo, *flags: str, **changes: str) -> subprocess.Popen[str]:
    """Start a backup by its task."""
    return start(tracker, "run-tracker-backup", *flags, **changes)


def by_cron(tracker: Demo) -> subprocess.Popen[str]:
    """Start a backup as cron does."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tracker.server.home),
        "DATABASE_FILE": str(source_of(tracker)),
        "BACKUP_DIR": str(tracker.backups),
    }
    return start_program(tracker.settings.database("tracker").script, env=environment)


def held(
    tracker: Demo, start: Callable[[Demo], subprocess.Popen[str]] = by_task
) -> contextlib.AbstractContextManager[tuple[subprocess.Popen[str], int]]:
    """Start a backup and stop its copy in the middle; yields who started it, and the process of the copy."""

    def undo() -> None:
        for name in made(tracker):
            (tracker.backups / name).unlink()

    return held_midway(lambda: start(tracker), lambda: stop_copy(tracker), undo)


def test_ctrl_c_detaches_and_attach_ends_as_the_run_does(tracker: Demo) -> None:
    with held(tracker) as (task, pid):
        os.killpg(task.pid, signal.SIGINT)
        told(
            wait_for_end(task),
            INTERRUPTED,
            "keeps running without this terminal",
            "./inv attach --host rehearsal --database tracker",
        )
        again = start(tracker, "attach", "--database", "tracker")
        os.kill(pid, signal.SIGCONT)
        done = wait_for_end(again)
        assert done.returncode == 0, done.stderr
    (name,) = made(tracker)
    assert f"made {tracker.backups / name}" in done.stdout
    assert "started by " in done.stdout
    assert is_consistent(tracker.backups / name)
    assert not part_of(tracker).exists()


def test_without_a_terminal_the_progress_is_lines_and_nothing_is_asked(tracker: Demo) -> None:
    with held(tracker) as (task, pid):
        assert task.stdout
        total = source_of(tracker).stat().st_size
        while part_of(tracker).stat().st_size < total / 5:
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGSTOP)
        for line in task.stdout:
            if " bytes, " in line:
                break
        os.kill(pid, signal.SIGCONT)
        assert re.match(r"[\d,]+ of [\d,]+ bytes, [\d,]+ MB/s, about \d+ s left\n", line)
        assert wait_for_end(task).returncode == 0


def test_a_client_that_is_gone_for_good_costs_nothing(tracker: Demo, tmp_path: Path) -> None:
    with held(tracker) as (task, pid):
        os.killpg(task.pid, signal.SIGKILL)
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: made(tracker) and not copies(tracker), "the end of the run")
    other = tmp_path / "another maintainer"
    other.mkdir()
    done = tracker.inv("attach", "--database", "tracker", HOME=str(other), INVOKE_EVIDENCE_DIR=str(other / "evidence"))
    assert done.returncode == 0, done.stderr
    assert f"made {tracker.backups / made(tracker)[0]}" in done.stdout


def test_a_second_run_is_refused_by_task_and_by_cron(tracker: Demo) -> None:
    with held(tracker):
        told(tracker.inv("run-tracker-backup"), FAILED, "a backup of this database is running: process ")
        done = tracker.inv("run-tracker-backup", "--force")
        told(
            done,
            FAILED,
            "a backup of the tracker database is already running, started by ",
            "./inv attach --host rehearsal",
        )
        as_cron = wait_for_end(by_cron(tracker))
        assert (as_cron.returncode, made(tracker)) == (1, [])
        assert "another run is at work" in as_cron.stderr
        preflight = json.loads(tracker.inv("preflight", "--database", "tracker", "--json").stdout)
        assert preflight["verdict"] == "no"


def test_stop_backup_ends_a_task_s_run_and_says_by_whom(tracker: Demo) -> None:
    with held(tracker) as (task, pid):
        shown = tracker.inv("stop-backup", "--database", "tracker", "--dry-run")
        assert (shown.returncode, copies(tracker)) == (0, [pid])
        done = tracker.inv("stop-backup", "--database", "tracker")
        assert done.returncode == 0, done.stderr
        told(wait_for_end(task), FAILED, "the backup of the tracker database failed", "stopped by ")
    assert made(tracker) == []
    assert not part_of(tracker).exists()
    assert copies(tracker) == []


def test_stop_backup_ends_cron_s_run_too(tracker: Demo) -> None:
    with held(tracker, by_cron) as (script, pid):
        done = tracker.inv("stop-backup", "--database", "tracker")
        assert done.returncode == 0, done.stderr
        assert wait_for_end(script).returncode != 0
        assert pid not in copies(tracker)
    assert (made(tracker), part_of(tracker).exists()) == ([], False)


@pytest.mark.parametrize("task", ["attach", "stop-backup"])
def test_with_nothing_to_find_they_say_so(tracker: Demo, task: str) -> None:
    told(tracker.inv(task, "--database", "tracker"), FAILED, "tracker database")


def test_a_run_that_is_killed_on_the_server_is_told_as_such(tracker: Demo) -> None:
    with held(tracker) as (task, _):
        for pid in processes_at_home(tracker.server.home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        done = wait_for_end(task)
    assert done.returncode in (FAILED, COULD_NOT_LOOK)
    told(tracker.inv("attach", "--database", "tracker"), FAILED, "without reporting an exit status")
    assert made(tracker) == []
    assert tracker.inv("run-tracker-backup").returncode == 0
    assert len(made(tracker)) == 1


def test_a_source_that_is_truncated_meanwhile_fails_the_run(tracker: Demo) -> None:
    with held(tracker) as (task, pid):
        os.truncate(source_of(tracker), 1_000_000)
        os.kill(pid, signal.SIGCONT)
        told(
            wait_for_end(task),
            FAILED,
            "the backup of the tracker database failed",
            "became smaller while it was copied",
        )
    assert (made(tracker), part_of(tracker).exists()) == ([], False)


def test_too_little_space_stops_it_before_and_in_the_middle(tracker: Demo) -> None:
    disk = os.statvfs(tracker.backups)
    floor = str(disk.f_blocks * disk.f_frsize)
    told(tracker.inv("run-tracker-backup", INVOKE_FREE_SPACE_FLOOR=floor), FAILED, "too little space on ", "--force")
    assert part_of(tracker).exists() is False
    with held(tracker, lambda there: by_task(there, "--force", INVOKE_FREE_SPACE_FLOOR=floor)) as (task, _):
        done = wait_for_end(task)
        told(done, FAILED, "the backup of the tracker database failed")
        assert "must stay free" in done.stdout + done.stderr
        wait_until(lambda: not copies(tracker), "the end of the copy")
        assert not part_of(tracker).exists()


def test_a_run_is_recorded_with_its_end(tracker: Demo) -> None:
    assert tracker.inv("run-tracker-backup").returncode == 0
    record = records(tracker)[-1]
    assert (record["kind"], record["database"], record["exit_status"]) == ("run", "tracker", 0)
    assert record["bytes"] == (tracker.backups / made(tracker)[0]).stat().st_size
    assert 0 <= record["details"]["waited_seconds"] < record["seconds"]


def state(tracker: Demo) -> Path:
    """The folder of the run."""
    (folder,) = (tracker.server.home / ".demo-backups").glob("tracker-backup-*")
    return folder


def test_a_damaged_folder_is_not_believed(tracker: Demo) -> None:
    assert tracker.inv("run-tracker-backup").returncode == 0
    (state(tracker) / "about").write_text("{")
    told(tracker.inv("attach", "--database", "tracker"), COULD_NOT_LOOK, "is damaged", "rm -r ")
    (state(tracker) / "about").unlink()
    told(tracker.inv("attach", "--database", "tracker"), FAILED)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_the_folder_of_another_user_is_not_believed(tracker: Demo) -> None:
    assert tracker.inv("run-tracker-backup").returncode == 0
    os.chown(state(tracker), 65534, 65534)
    for task in ("attach", "stop-backup", "run-tracker-backup"):
        flags = ["--database", "tracker"] if task != "run-tracker-backup" else []
        told(tracker.inv(task, *flags), COULD_NOT_LOOK, "is another user's")


def check_midway(tracker: Demo) -> tuple[subprocess.Popen[str], int]:
    """Start a verification and stop its integrity check in the middle; returns the task and the process."""
    for _ in range(20):
        task = start(tracker, "verify", "--database", "tracker")
        while task.poll() is None:
            for pid in copies(tracker):
                with contextlib.suppress(OSError):
                    if b"integrity_check" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGSTOP)
                        return task, pid
        wait_for_end(task)  # it was faster than this test
    pytest.fail("could not stop the check in the middle")


def test_a_long_check_goes_on_too(tracker: Demo) -> None:
    assert tracker.inv("run-tracker-backup").returncode == 0
    (tracker.backups / OLDER).unlink()
    task, pid = check_midway(tracker)
    os.killpg(task.pid, signal.SIGINT)
    told(wait_for_end(task), INTERRUPTED, "detached: the check, once started, keeps running", "./inv attach")
    again = start(tracker, "attach", "--database", "tracker")
    os.kill(pid, signal.SIGCONT)
    done = wait_for_end(again)
    assert done.returncode == 0, done.stderr
    assert "all checks passed" in done.stdout
    assert tracker.names()[0] in done.stdout
