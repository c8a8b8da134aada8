"""The pages of a job's file in the page cache: real jobs, seen by fincore."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.rehearsal.server import processes_at_home
from demo_backups.remote.host import Host
from demo_backups.remote.job_state import BACKUP, CHECK, HASH, RESTORE, Job
from demo_backups.remote.jobs import choose_page_cache, follow_job, read_status, start_job
from demo_backups.settings.model import Database, Settings

from ..helpers.processes import wait_until

pytestmark = pytest.mark.skipif(not shutil.which("fincore"), reason="needs fincore")
SIZE = 20_000_000
CONTROL = "control"  # a file that nothing uses: it shows whether other programs have dropped pages meanwhile


@pytest.fixture
def database(project_settings: Settings, tmp_path: Path) -> Database:
    """The tracker database, with a directory of backups and a live file whose pages are cached."""
    (tmp_path / "backups").mkdir(mode=0o700)
    live = tmp_path / "live.db"
    write(live)
    write(tmp_path / CONTROL)
    settings = project_settings.model_copy(update={"backup_dir": PurePosixPath(tmp_path / "backups")})
    return replace(settings.database("tracker"), source=PurePosixPath(live))


@pytest.fixture(autouse=True)
def no_process_left(home: Path) -> Iterator[None]:
    """Wait for the end of what a test has started."""
    yield
    wait_until(lambda: not processes_at_home(home), "the end of the processes of the job")


def write(path: Path) -> None:
    """Write a file whose pages are on the disk, and cached."""
    path.write_bytes(os.urandom(SIZE))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while file.read(2**20):
            pass


def cached(path: PurePosixPath | Path) -> int:
    """The bytes of a file that are in the page cache, at most its size."""
    found = subprocess.run(["fincore", "-bnro", "RES", str(path)], capture_output=True, text=True, check=True)
    return min(int(found.stdout), Path(path).stat().st_size)


def is_still_cached(path: PurePosixPath | Path, tmp_path: Path) -> bool:
    """Tell whether no more pages of a file were dropped than of one that nothing uses, with some tolerance."""
    return cached(path) >= 0.8 * cached(tmp_path / CONTROL)


def wait_for(path: Path) -> str:
    """Build the command that waits for a file."""
    return f"while [ ! -e {shlex.quote(str(path))} ]; do sleep 0.05; done"


def start(host: Host, database: Database, kind: str, command: str, subject: PurePosixPath) -> Job:
    """Start a job."""
    return start_job(host, database, Job(kind, database.name, command, str(subject), 1), command)


def follow(host: Host, database: Database, job: Job) -> tuple[int | None, str]:
    """Follow a job to its end; return its exit status and its output."""
    printed: list[str] = []
    status = follow_job(host, database, job, printed.append, lambda status: None)
    return status.status, "".join(printed)


def test_growing_part_is_flushed_and_dropped(local_host: Host, database: Database, tmp_path: Path) -> None:
    part, backup, go = Path(database.part), tmp_path / "backups/done.db", tmp_path / "go"
    quoted = {name: shlex.quote(str(path)) for name, path in (("part", part), ("backup", backup))}
    command = "head -c {size} /dev/urandom > {part}; {wait}; "
    command += "head -c {size} /dev/urandom >> {part}; mv {part} {backup}; echo published; exit 4"
    job = start(local_host, database, BACKUP, command.format(size=SIZE, wait=wait_for(go), **quoted), database.source)
    wait_until(lambda: part.exists() and part.stat().st_size == SIZE, "the first half")
    wait_until(lambda: cached(part) == 0, "dropping the first half while the job runs")
    assert read_status(local_host, database, job).running
    go.touch()
    assert follow(local_host, database, job) == (4, "published\n")
    wait_until(lambda: cached(backup) == 0, "dropping the end of the renamed file")
    assert backup.stat().st_size == 2 * SIZE
    assert is_still_cached(database.source, tmp_path)


@pytest.mark.parametrize("kind", [CHECK, HASH])
def test_read_backup_is_dropped(local_host: Host, database: Database, tmp_path: Path, kind: str) -> None:
    backup = tmp_path / "backups/tracker.db"
    write(backup)
    before = backup.stat()
    job = start(local_host, database, kind, f"cat {shlex.quote(str(backup))} | wc -c", PurePosixPath(backup))
    assert follow(local_host, database, job) == (0, f"{SIZE}\n")
    wait_until(lambda: cached(backup) == 0, "dropping the backup")
    after = backup.stat()
    assert (after.st_mtime_ns, after.st_ctime_ns, after.st_size) == (before.st_mtime_ns, before.st_ctime_ns, SIZE)
    assert is_still_cached(database.source, tmp_path)


def test_hashed_backup_is_dropped_meanwhile(local_host: Host, database: Database, tmp_path: Path) -> None:
    backup, go = tmp_path / "backups/tracker.db", tmp_path / "go"
    write(backup)
    job = start(local_host, database, HASH, wait_for(go), PurePosixPath(backup))
    wait_until(lambda: cached(backup) == 0, "dropping the backup while the job runs")
    go.touch()
    assert follow(local_host, database, job) == (0, "")


@pytest.mark.parametrize("planted", ["symlink", "hard link", "pipe", "directory", "other users"])
def test_planted_part_is_left_alone(
    local_host: Host, database: Database, home: Path, tmp_path: Path, planted: str
) -> None:
    """Of a file of the service, no page is dropped, and nothing waits for the other end of a pipe."""
    part, go = Path(database.part), tmp_path / "go"
    if planted == "symlink":
        part.symlink_to(database.source)
    elif planted == "hard link":
        part.hardlink_to(database.source)
    elif planted == "pipe":
        os.mkfifo(part)
    elif planted == "directory":
        part.mkdir()
    else:
        write(part)
        part.parent.chmod(0o777)
    job = start(local_host, database, BACKUP, wait_for(go), database.source)
    if planted != "other users":
        wait_until(lambda: is_entered(home, part.parent), "the supervisor in the directory")
    go.touch()
    assert follow(local_host, database, job) == (0, "")
    wait_until(lambda: not processes_at_home(home), "the end of the supervisor")
    assert is_still_cached(database.source, tmp_path)
    if planted == "other users":
        assert is_still_cached(part, tmp_path)


def is_entered(home: Path, directory: Path) -> bool:
    """Tell whether a process of a job works in a directory."""
    return directory in map(read_working_directory, processes_at_home(home))


def read_working_directory(pid: int) -> Path | None:
    """Return the working directory of a process; None if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cwd").readlink()
    return None


def test_replaced_part_is_no_error(local_host: Host, database: Database, home: Path, tmp_path: Path) -> None:
    part, go = shlex.quote(str(database.part)), tmp_path / "go"
    command = f"while [ ! -e {go} ]; do : > {part}; rm {part}; mkdir {part}; rmdir {part}; done; echo ok"
    job = start(local_host, database, BACKUP, command, database.source)
    wait_until(lambda: is_entered(home, Path(database.backup_dir)), "the supervisor in the directory")
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in processes_at_home(home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
    go.touch()
    assert follow(local_host, database, job) == (0, "ok\n")


def test_restore_drops_no_pages(database: Database) -> None:
    job = Job(RESTORE, database.name, "restore", str(database.source), 0)
    assert choose_page_cache(database, job) is None
