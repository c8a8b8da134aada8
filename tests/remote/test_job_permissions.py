"""The state of a job: nothing that another user can write to, or has planted, is used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.errors import CouldNotLookError
from demo_backups.remote.host import Host
from demo_backups.remote.job_state import BACKUP, Job, job_dir, stop_job_command
from demo_backups.remote.jobs import find_job, follow_job, is_job_running, read_status, start_job
from demo_backups.remote.shell import HOME
from demo_backups.settings.model import Database, Settings

from ..helpers.constants import NOBODY, root_only

JOB = Job(BACKUP, "index", "copy", "/db", 1)


@pytest.fixture
def database(project_settings: Settings, tmp_path: Path) -> Database:
    """The index database, with a backup directory of the test's own."""
    return project_settings.model_copy(update={"backup_dir": PurePosixPath(tmp_path)}).database("index")


@pytest.fixture
def job(local_host: Host, database: Database) -> Job:
    """A job that has ended."""
    job = start_job(local_host, database, JOB, "true")
    follow_job(local_host, database, job, lambda text: None, lambda status: None)
    return job


@pytest.fixture
def state(database: Database, job: Job, home: Path) -> Path:
    """Its state directory."""
    return Path(job_dir(database, job).replace(HOME, str(home)))


def check_rejected(host: Host, database: Database, job: Job, message: str) -> None:
    """Check that nothing is read from the state of a job, and that no job is started or signaled there."""
    queries: list[Callable[[], object]] = [
        lambda: start_job(host, database, JOB, "true"),
        lambda: find_job(host, database, BACKUP),
        lambda: is_job_running(host, database, BACKUP),
        lambda: read_status(host, database, job),
    ]
    for query in queries:
        with pytest.raises(CouldNotLookError, match="it is rejected") as caught:
            query()
        assert message in caught.value.output
    assert message in host.run("stop it", stop_job_command(database, BACKUP), root=True).output


@pytest.mark.parametrize("mode", [0o770, 0o1777])
@pytest.mark.parametrize("levels", [1, 2])
def test_state_that_others_can_write(
    local_host: Host, database: Database, job: Job, state: Path, mode: int, levels: int
) -> None:
    [state, *state.parents][levels].chmod(mode)
    check_rejected(local_host, database, job, "other users can write to it")


def test_state_of_job_that_others_can_write(local_host: Host, database: Database, job: Job, state: Path) -> None:
    state.chmod(0o770)
    with pytest.raises(CouldNotLookError, match="it is rejected"):
        read_status(local_host, database, job)


@root_only
@pytest.mark.parametrize("levels", [1, 2])
def test_state_of_another_user(local_host: Host, database: Database, job: Job, state: Path, levels: int) -> None:
    os.chown([state, *state.parents][levels], NOBODY, -1)
    check_rejected(local_host, database, job, "its owner is")


PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "symbolic link": lambda lock, target: lock.symlink_to(target),
    "dangling link": lambda lock, target: lock.symlink_to(target.with_name("created")),
    "hard link": lambda lock, target: os.link(target, lock),
    "FIFO": lambda lock, target: os.mkfifo(lock),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
@pytest.mark.parametrize("levels", [0, 1])
def test_planted_lock_of_job(
    local_host: Host,
    database: Database,
    job: Job,
    state: Path,
    tmp_path: Path,
    plant: Callable[[Path, Path], object],
    levels: int,
) -> None:
    target = tmp_path / "target"
    target.write_text("content")
    lock = [state, *state.parents][levels] / "lock"
    lock.unlink()
    plant(lock, target)
    check_rejected(local_host, database, job, "not a regular file of this user")
    assert target.read_text() == "content"
    assert not target.with_name("created").exists()


def test_link_for_state_of_job(local_host: Host, database: Database, job: Job, state: Path, tmp_path: Path) -> None:
    state.with_name("00000007").symlink_to(tmp_path)
    check_rejected(local_host, database, job, "not a regular file of this user")


def test_lock_of_jobs_is_not_truncated(local_host: Host, database: Database, state: Path) -> None:
    (state.parent / "lock").write_text("content")
    start_job(local_host, database, JOB, "true")
    assert (state.parent / "lock").read_text() == "content"
