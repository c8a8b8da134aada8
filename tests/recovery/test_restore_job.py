"""Restores as jobs on a host: their result, their journal, and what happens when all of a job is killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.errors import (
    BackupsError,
    CouldNotLookError,
    RestoreFailedError,
    RestoreNotRevertedError,
    RestorePendingError,
    RestoreRevertedError,
    RestoreUncleanError,
    RestoreUnconfirmedError,
)
from demo_backups.recovery.restore_job import (
    RestoreResult,
    collect_restore,
    parse_result,
    start_recovery,
    start_restore,
)
from demo_backups.recovery.restore_journal import (
    FIELDS,
    Method,
    Proof,
    parse_pending,
    read_pending,
    require_no_restore,
)
from demo_backups.rehearsal.server import processes_at_home
from demo_backups.remote.host import Host
from demo_backups.remote.job_state import RESTORE, Job, JobStatus
from demo_backups.remote.jobs import follow_job, is_job_running

from ..helpers.constants import root_only
from ..helpers.databases import leave_wal
from ..helpers.processes import wait_until
from ..helpers.restores import NEW, OLD, RestoreSetup, read_content

RANDOM_KILLS = 12
SERVICE_TIMEOUT = 10.0  # seconds


@pytest.fixture(autouse=True)
def no_process_left(home: Path) -> Iterator[None]:
    """Kill what a test has started."""
    yield
    kill_job(home)


def kill_job(home: Path) -> None:
    """Kill all processes of the jobs, their supervisors too."""
    while pids := processes_at_home(home):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def finish(host: Host, setup: RestoreSetup, job: Job) -> RestoreResult:
    """Follow a job to its end; return the result."""
    printed: list[str] = []
    status = follow_job(host, setup.database, job, printed.append, lambda status: None)
    return collect_restore(host, setup.database, job, status, "".join(printed))


def recover(host: Host, setup: RestoreSetup, revert: bool) -> RestoreResult:
    """Complete or revert the pending restore."""
    pending = read_pending(host, setup.database)
    assert pending
    folder = PurePosixPath(setup.folder)
    job = start_recovery(
        host, setup.database, pending, revert, service_directory=folder, service_timeout=SERVICE_TIMEOUT
    )
    return finish(host, setup, job)


# --- the result -----------------------------------------------------------------------------------------------------


def test_restore_runs_as_job(local_host: Host, restore_setup: RestoreSetup) -> None:
    job = start_restore(local_host, restore_setup.database, restore_setup.request(Method.IN_PLACE, Proof.LOCKED))
    result = finish(local_host, restore_setup, job)
    assert (result.proof, result.identical, result.reverted) == (Proof.LOCKED, True, False)
    assert read_content(restore_setup.target) == {NEW}
    require_no_restore(local_host, restore_setup.database)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (4, RestoreUncleanError),
        (20, RestoreFailedError),
        (21, RestoreRevertedError),
        (22, RestoreNotRevertedError),
        (137, RestoreUnconfirmedError),
        (None, RestoreUnconfirmedError),
    ],
)
def test_exit_status_becomes_error(
    local_host: Host, restore_setup: RestoreSetup, status: int | None, error: type[BackupsError]
) -> None:
    job = Job(RESTORE, "tracker", "restore", str(restore_setup.target), 0)
    end = JobStatus(False, status, 1.0, None, 1.0, 1.0, "")
    with pytest.raises(error):
        collect_restore(local_host, restore_setup.database, job, end, "failed: /b/.lock is locked")


@pytest.mark.parametrize("output", ["", "done\n", "result: proof guessed\nresult: identical yes\n"])
def test_success_without_proof_is_rejected(output: str) -> None:
    with pytest.raises(ValueError, match=r"proof|guessed"):
        parse_result(output)


# --- the journal ----------------------------------------------------------------------------------------------------


def valid_journal(**changes: str) -> str:
    """Return what is read of a restore that was killed."""
    values = dict.fromkeys(FIELDS, "") | {"started": "1.5", "backup": "/b/x.db", "target": "/d/l.db"}
    values |= {"method": "in-place", "proof": "locked", "save": "none", "stage": "restoring"}
    return "ended\n" + "".join(f"{key}={value}\n" for key, value in (values | changes).items()) + "end\n"


def test_journal_is_parsed() -> None:
    pending = parse_pending(valid_journal(backup="/b/a=b.db"))
    assert pending
    assert (pending.backup, pending.method) == (PurePosixPath("/b/a=b.db"), Method.IN_PLACE)
    assert not pending.running


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ended\n",
        valid_journal().removesuffix("end\n"),
        valid_journal() + "end\n",
        valid_journal(stage="unknown"),
        valid_journal(backup="relative"),
        valid_journal(method="guess"),
        valid_journal(started="soon"),
        valid_journal().replace("target=", "targets="),
    ],
)
def test_other_journals_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"journal|line|stage|path|Method|float"):
        parse_pending(text)


@root_only
@pytest.mark.parametrize("planted", ["owner", "mode", "link"])
def test_journal_of_another_user_is_rejected(local_host: Host, restore_setup: RestoreSetup, planted: str) -> None:
    restore_setup.journal.mkdir(mode=0o700)
    file = restore_setup.journal / "journal"
    file.write_text(valid_journal().removeprefix("ended\n"))
    if planted == "owner":
        os.chown(restore_setup.journal, 1234, 1234)
    elif planted == "mode":
        restore_setup.journal.chmod(0o777)
    else:
        file.rename(restore_setup.folder / "elsewhere")
        file.symlink_to(restore_setup.folder / "elsewhere")
    with pytest.raises(CouldNotLookError):
        read_pending(local_host, restore_setup.database)
    done = restore_setup.restore(restore_setup.request(Method.SWAP))
    assert done.returncode == 20, done.stdout
    assert read_content(restore_setup.target) == {OLD}


def test_running_restore_is_pending(local_host: Host, restore_setup: RestoreSetup) -> None:
    begin = restore_setup.folder / "begin"
    restore_setup.set_service(stop=f"touch '{begin}'; sleep 600")
    start_restore(local_host, restore_setup.database, replace(restore_setup.request(Method.SWAP), service_timeout=600))
    wait_until(begin.exists, "the restore")
    pending = read_pending(local_host, restore_setup.database)
    assert pending
    assert (pending.running, pending.stage) == (True, "stopping")
    with pytest.raises(RestorePendingError, match="running"):
        require_no_restore(local_host, restore_setup.database)
    kill_job(restore_setup.folder / "home of the test")
    with pytest.raises(RestorePendingError, match="was killed"):
        require_no_restore(local_host, restore_setup.database)
    # A new restore does not start either.
    done = restore_setup.restore(restore_setup.request(Method.SWAP))
    assert "complete or revert it first" in done.stdout
    restore_setup.set_service()
    assert recover(local_host, restore_setup, revert=True).reverted
    assert read_content(restore_setup.target) == {OLD}


# --- kills ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(RANDOM_KILLS))
def test_kill_at_random_moment(local_host: Host, restore_setup: RestoreSetup, home: Path, seed: int) -> None:
    chance = random.Random(seed)
    method = chance.choice(list(Method))
    leave_wal(restore_setup.target, "UPDATE content SET origin = 'last'")
    restore_setup.set_service()
    job = start_restore(local_host, restore_setup.database, restore_setup.request(method))
    stage = chance.choice(["none", "preparing", "saving", "restoring", "aside", "linking", "starting", "cleaning"])
    journal = restore_setup.journal / "journal"
    deadline = time.monotonic() + chance.uniform(0.2, 3)
    while time.monotonic() < deadline and is_job_running(local_host, restore_setup.database, RESTORE):
        with contextlib.suppress(OSError):
            if f"stage={stage}\n" in journal.read_text():
                break
    kill_job(home)
    pending = read_pending(local_host, restore_setup.database)
    if pending is None:
        assert read_content(restore_setup.target) in ({"last"}, {NEW}), job
        return
    revert = chance.random() < 0.5 and not pending.is_judged
    result = recover(local_host, restore_setup, revert)
    assert result.reverted == revert
    assert read_content(restore_setup.target) == ({"last"} if revert else {NEW}), (seed, pending.stage)
    assert read_pending(local_host, restore_setup.database) is None
