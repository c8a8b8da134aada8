"""Running a backup as cron does, and finding the backup that it made."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.backup.catalog import backup_processes
from demo_backups.backup.run import (
    birth_time_command,
    clear_unfinished,
    collect_result,
    cron_command,
    lock_wait,
    start_backup,
)
from demo_backups.errors import (
    COULD_NOT_LOOK,
    BackupFailedError,
    BackupUnconfirmedError,
    CouldNotLookError,
    JobNotStartedError,
    NoNewBackupError,
)
from demo_backups.remote.files import File
from demo_backups.remote.host import Host
from demo_backups.remote.job_state import Job, JobStatus
from demo_backups.remote.jobs import follow_job
from demo_backups.remote.shell import quote
from demo_backups.settings.model import Database
from demo_backups.workflows.backups import measure_duration

from ..helpers.constants import ODD_NAMES, SCRIPT
from ..helpers.databases import opened
from ..helpers.processes import wait_until

NAME = "backup_2024-11-24_20-00-00.db"


@pytest.fixture
def folder(database: Database) -> Path:
    """The backup folder."""
    return Path(database.backup_dir)


# --- as cron does ---------------------------------------------------------------------------------------------------


def run_as_cron(command: str, environment: dict[str, str]) -> str:
    """Run a command as cron does, from a shell with some environment; return its output."""
    words = ["/bin/sh", "-c", cron_command(command)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout


def test_environment_is_that_of_cron(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": f"/opt/bin:{os.environ['PATH']}", "LANG": "de_DE.UTF-8"}
    environment |= {"DATABASE_FILE": "/wrong", "BASH_ENV": "/wrong", "LOGNAME": "wrong", "SHELL": "/bin/zsh"}
    lines = run_as_cron("exec env", environment).splitlines()
    assert sorted(line for line in lines if not line.startswith("PWD=")) == [  # the shell sets PWD itself
        f"HOME={tmp_path}",
        f"LOGNAME={pwd.getpwuid(os.geteuid()).pw_name}",
        "PATH=/usr/bin:/bin",
        "SHELL=/bin/sh",
    ]


@pytest.mark.parametrize("name", ["usual", *ODD_NAMES.values()], ids=["usual", *ODD_NAMES])
def test_job_starts_in_home_directory(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    assert run_as_cron("pwd", {"HOME": str(home), "PATH": os.environ["PATH"]}) == f"{home}\n"


def test_job_is_run_by_sh(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    assert run_as_cron("A='it'\"'\"'s 100%' sh -c 'printf %s \"$A\"' 2>&1", environment) == "it's 100%"
    assert run_as_cron("echo $0", environment) == "/bin/sh\n"


# --- the result -----------------------------------------------------------------------------------------------------


@dataclass
class FinishedJob:
    """A job that was run to its end."""

    host: Host
    database: Database
    job: Job
    status: JobStatus
    output: str

    def collect(self) -> File:
        """Return the backup that it made."""
        return collect_result(self.host, self.database, self.job, self.status, self.output)


def run_backup(host: Host, database: Database, command: str) -> FinishedJob:
    """Run a command as a task does, to its end."""
    job = start_backup(host, database, command, total=1, floor=0)
    output: list[str] = []
    status = follow_job(host, database, job, output.append, lambda status: None)
    return FinishedJob(host, database, job, status, "".join(output))


def test_result_is_the_new_backup(local_host: Host, database: Database, folder: Path) -> None:
    (folder / NAME).touch()
    new = folder / "backup_2024-11-24_21-00-00.db"
    finished = run_backup(local_host, database, f"cd {quote(str(folder))} && echo at work && echo x > {new.name}")
    assert (finished.status.status, finished.output) == (0, "at work\n")
    assert finished.status.ended is not None
    assert finished.status.ended > finished.job.started
    backup = finished.collect()
    assert (backup.path, backup.bytes) == (PurePosixPath(new), 2)


def test_failure_is_one_despite_new_file(local_host: Host, database: Database, folder: Path) -> None:
    command = f"touch {quote(str(folder / NAME))}; echo partial; echo 'disk full' >&2; exit 13"
    finished = run_backup(local_host, database, command)
    with pytest.raises(BackupFailedError, match="13") as caught:
        finished.collect()
    assert caught.value.output == "partial\ndisk full"
    assert "list-backups" in caught.value.advice


def test_killed_job_is_a_failure(local_host: Host, database: Database) -> None:
    finished = run_backup(local_host, database, "kill -9 $$")
    with pytest.raises(BackupFailedError):
        finished.collect()


def test_missing_exit_status_is_a_failure(local_host: Host, database: Database) -> None:
    finished = kill_supervisor(run_backup(local_host, database, "true"))
    with pytest.raises(BackupFailedError, match="without reporting an exit status"):
        finished.collect()


def test_new_backup_without_exit_status_is_unconfirmed(local_host: Host, database: Database, folder: Path) -> None:
    finished = kill_supervisor(run_backup(local_host, database, f"echo x > {quote(str(folder / NAME))}"))
    with pytest.raises(BackupUnconfirmedError, match=NAME) as caught:
        finished.collect()
    assert caught.value.exit_code == COULD_NOT_LOOK
    assert f"./inv verify --host local --database index --backup {NAME}" in caught.value.advice


def kill_supervisor(finished: FinishedJob) -> FinishedJob:
    """Return a job as it would be without its status, as if its supervisor had been killed."""
    return replace(finished, status=replace(finished.status, status=None, ended=None))


def test_earlier_backup_is_not_new(local_host: Host, database: Database, folder: Path) -> None:
    """The names are read when the job starts, not before."""
    for number in range(3):
        (folder / f"backup_2024-11-24_20-00-0{number}.db").touch()
    finished = run_backup(local_host, database, f"touch {quote(str(folder))}/*")
    with pytest.raises(NoNewBackupError):
        finished.collect()


def test_lost_output_is_named_as_such(local_host: Host, database: Database) -> None:
    finished = run_backup(local_host, database, "exit 9")
    finished.status = replace(finished.status, problem="No space left on device")
    with pytest.raises(BackupFailedError, match="exit status 9") as caught:
        finished.collect()
    assert "No space left on device" in caught.value.output


def test_success_without_backup_is_a_failure(local_host: Host, database: Database, folder: Path) -> None:
    (folder / NAME).touch()
    elsewhere = folder.parent / NAME
    finished = run_backup(local_host, database, f": > {quote(str(elsewhere))}")
    assert finished.status.status == 0
    with pytest.raises(NoNewBackupError, match=r"0") as caught:
        finished.collect()
    assert str(folder) in caught.value.action


def test_missing_folder_prevents_start(local_host: Host, database: Database, folder: Path) -> None:
    folder.rmdir()
    with pytest.raises(JobNotStartedError, match="No such file or directory"):
        run_backup(local_host, database, f"touch {quote(str(folder.parent / 'ran'))}")
    assert not (folder.parent / "ran").exists()


def test_unfinished_files_are_removed_unless_locked(local_host: Host, database: Database, folder: Path) -> None:
    part = Path(database.part)
    journal = folder / f"{part.name}-journal"
    for path in (part, journal, folder / NAME):
        path.touch()
    lock = Path(database.lock)
    with subprocess.Popen(
        ["flock", lock, "sh", "-c", "echo locked; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as backup:
        assert backup.stdout
        assert backup.stdout.readline() == b"locked\n"
        clear_unfinished(local_host, database)
        assert part.exists()
        assert backup.stdin
        backup.stdin.close()
    clear_unfinished(local_host, database)
    assert sorted(path.name for path in folder.iterdir()) == [lock.name, NAME]


# --- the wait for a lock --------------------------------------------------------------------------------------------


def test_lock_wait_is_not_copy_time(local_host: Host, database: Database) -> None:
    script = f"DATABASE_FILE={quote(database.source)} BACKUP_DIR={quote(database.backup_dir)} {quote(str(SCRIPT))}"
    with opened(database.source) as service:
        service.execute("BEGIN EXCLUSIVE")
        job = start_backup(local_host, database, script, total=1, floor=0)
        wait_until(lambda: time.time() > job.started + 0.5 and backup_processes(local_host, database), "the backup")
        released = time.time()
    status = follow_job(local_host, database, job, print, lambda status: None)
    backup = collect_result(local_host, database, job, status, "").path
    if local_host.query("read the creation time", birth_time_command(backup)).startswith("0"):
        pytest.skip("this file system does not record when a file was created")
    assert status.ended
    wait = lock_wait(local_host, job, backup)
    assert released - job.started - 0.1 < wait < status.ended - job.started  # file times are coarse


def test_unknown_creation_time_means_no_wait(local_host: Host) -> None:
    job = Job("backup", "index", "", "/db", 1, started=1_000.0)
    assert lock_wait(local_host, job, PurePosixPath("/proc/version")) == 0.0


@pytest.mark.parametrize("output", ["", "nan", "-"])
def test_invalid_creation_time_is_an_error(local_host: Host, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_backups.backup.run.birth_time_command", lambda path: f"echo '{output}'")
    job = Job("backup", "index", "", "/db", 1, started=1_000.0)
    with pytest.raises(CouldNotLookError):
        lock_wait(local_host, job, PurePosixPath("/proc/version"))


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_clock_that_was_set_is_no_duration(jump: float) -> None:
    job = Job("backup", "index", "", "/db", 1, started=1_000.0)
    status = JobStatus(False, 0, 1_000.5 + jump, 1, 1_001.0 + jump, 1_000.0, "")
    waited = time.clock_gettime(time.CLOCK_BOOTTIME) - 2
    assert 2 <= measure_duration(job, status, waited) < 60
    assert measure_duration(job, replace(status, ended=1_000.5), waited) == 0.5
