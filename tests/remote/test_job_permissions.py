"""The state of a job: nothing that another user can write to, or has planted, is used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.errors import CouldNotLookError
from demo_backups.remote.host import Host
from demo_backups.remote.jobs import (
    BACKUP,
    Job,
    find_job,
    follow_job,
    is_job_running,
    job_dir,
    read_status,
    start_job,
    stop_job_command,
)
from demo_backups.remote.shell import HOME
from demo_backups.settings import Database, Settings

from ..helpers.constants import NOBODY, root_only

JOB = Job(BACKUP, "index", "copy", "/db", 1, [])


@pytest.fixture
def database(project_settings: Settings, tmp_path: Path) -> Database:
    """The index database, with a backup directory of the test's own."""
    return project_settings.model_copy(update={"backup_dir": PurePosixPath(tmp_path)}).database("index")


@pytest.fixture
def state(local_host: Host, database: Database, home: Path) -> Path:
    """The state directory of a job that has ended."""
    job = start_job(local_host, database, JOB, "true")
    follow_job(local_host, database, job, lambda text: None, lambda status: None)
    return Path(job_dir(database, BACKUP).replace(HOME, str(home)))


def check_rejected(host: Host, database: Database, message: str) -> None:
    """Check that nothing is read from the state directory of a job, started in it or signaled."""
    queries: list[Callable[[], object]] = [
        lambda: start_job(host, database, JOB, "true"),
        lambda: find_job(host, database, BACKUP),
        lambda: is_job_running(host, database, BACKUP),
        lambda: read_status(host, database, BACKUP),
    ]
    for query in queries:
        with pytest.raises(CouldNotLookError, match="it is rejected") as caught:
            query()
        assert message in caught.value.output
    assert message in host.run("stop it", stop_job_command(database, BACKUP), root=True).output


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
@pytest.mark.parametrize("above", [False, True])
def test_state_that_others_can_write(local_host: Host, database: Database, state: Path, mode: int, above: bool) -> None:
    (state.parent if above else state).chmod(mode)
    check_rejected(local_host, database, "other users can write to it")


@root_only
@pytest.mark.parametrize("above", [False, True])
def test_state_of_another_user(local_host: Host, database: Database, state: Path, above: bool) -> None:
    os.chown(state.parent if above else state, NOBODY, -1)
    check_rejected(local_host, database, "its owner is")


PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "symbolic link": lambda lock, target: lock.symlink_to(target),
    "dangling link": lambda lock, target: lock.symlink_to(target.with_name("created")),
    "hard link": lambda lock, target: os.link(target, lock),
    "FIFO": lambda lock, target: os.mkfifo(lock),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_planted_lock_of_job(
    local_host: Host, database: Database, state: Path, tmp_path: Path, plant: Callable[[Path, Path], object]
) -> None:
    target = tmp_path / "target"
    target.write_text("content")
    (state / "lock").unlink()
    plant(state / "lock", target)
    check_rejected(local_host, database, "its lock is not a regular file")
    assert target.read_text() == "content"
    assert not target.with_name("created").exists()


@pytest.mark.parametrize("name", ["about.new", "about.part", "output", "status", "status.new"])
def test_planted_link_in_state_is_replaced(
    local_host: Host, database: Database, state: Path, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "target"
    target.write_text("content")
    (state / name).unlink(missing_ok=True)
    (state / name).symlink_to(target)
    job = start_job(local_host, database, JOB, "echo done")
    output: list[str] = []
    status = follow_job(local_host, database, job, output.append, lambda status: None)
    assert (status.status, "".join(output)) == (0, "done\n")
    assert target.read_text() == "content"


def test_lock_of_job_is_not_truncated(local_host: Host, database: Database, state: Path) -> None:
    (state / "lock").write_text("content")
    start_job(local_host, database, JOB, "true")
    assert (state / "lock").read_text() == "content"
