"""Jobs: commands on a host that keep running when the connection drops, and that can be found again.

A job runs in a session of its own. Its state is in a directory on the host.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ..errors import (
    ConnectionLostError,
    CouldNotLookError,
    InterruptedRunError,
    JobNotStartedError,
    JobRunningError,
    JobStateError,
)
from .answers import parse_yes_no
from .host import Host, Result, is_disk_full
from .interrupts import is_interruption
from .job_state import (
    BACKUP,
    BACKUP_KINDS,
    BUSY,
    CHECK,
    DRILL,
    HASH,
    NOT_FOUND,
    NOT_OURS,
    OTHERS_CAN_WRITE,
    PIECE,
    Job,
    JobStatus,
    before_command,
    find_command,
    is_running_command,
    job_dir,
    jobs_dir,
    parse_job,
    parse_status,
    start_command,
    status_command,
    without_functions,
)
from .notify import Notify
from .page_cache import CacheUse, PageCache
from .shell import HOME, STATE_DIR

if TYPE_CHECKING:
    from ..settings.model import Database

T = TypeVar("T")
FollowJob: TypeAlias = Callable[[Job], tuple[JobStatus, str]]  # returns the last status, and all output
# By kind; SQLite's integrity check reads the pages of an index again and again.
CACHE_USES = {CHECK: CacheUse.REREAD, HASH: CacheUse.READ, DRILL: CacheUse.READ}
SHORTEST_WAIT, LONGEST_WAIT = 0.05, 1.0  # seconds between two readings of a job's status
TAIL = 64 * 1024  # bytes of a long output that are read from its end


def _run(host: Host, action: str, command: str, display: str = "") -> Result:
    return host.run(action, command, root=True, display=without_functions(display or command))


def start_job(
    host: Host,
    database: Database,
    job: Job,
    command: str,
    watched: Sequence[PurePosixPath] = (),
    floor: int = 0,
    before: str = "true",
) -> Job:
    """Start a job, which is stopped when less than `floor` bytes are free on the disk of a `watched` directory.

    `read_before` returns what the command `before` printed at its start. Raises JobRunningError if one of its kind is
    running, and JobNotStartedError if it cannot be started.
    """
    jobs, cache = jobs_dir(database, job.kind), choose_page_cache(database, job)
    result = _run(
        host,
        f"start the {job.kind}",
        start_command(jobs, job, command, watched, floor, before, cache=cache),
        start_command(jobs, job, command, watched, floor, before, cache=cache, shortened=True),
    )
    if result.status == BUSY:
        raise _job_running(host, database, job.kind)
    _check_access(host, jobs, result)
    if not result.ok:
        raise JobNotStartedError(
            f"the {job.kind} could not be started",
            host=host.name,
            output=result.output,
            advice=_advise_on_start(host, jobs, result),
        )
    started = _parse(host, jobs, result, parse_job)
    if started is None:
        raise _damaged(host, jobs, "nothing is stored about the job")
    return started


def choose_page_cache(database: Database, job: Job) -> PageCache | None:
    """Choose the file whose pages a job keeps out of the page cache: the backup that it writes or reads."""
    if job.kind == BACKUP:
        return PageCache(CacheUse.WRITTEN, database.part, database.source)
    use = CACHE_USES.get(job.kind)
    return PageCache(use, PurePosixPath(job.subject), database.source) if use else None


def start_or_join(
    host: Host,
    database: Database,
    job: Job,
    is_same: Callable[[Job], bool],
    follow: Callable[[Job], object],
    notify: Notify,
) -> Job:
    """Start a job that only reads, or return the running one if it is the same; wait for the end of any other one.

    `notify` gets a message about what is joined or waited for. Raises as `start_job` does.
    """
    while True:
        try:
            return start_job(host, database, job, job.command)
        except JobRunningError:
            running = find_job(host, database, job.kind)
            if running is None:  # its state was removed
                raise
        by = f"the {job.kind} that {running.by} started at {running.when}"
        if is_same(running):
            notify(f"joining {by}")
            return running
        notify(f"waiting for the end of {by}: it reads {running.subject}")
        follow(running)


def _advise_on_start(host: Host, jobs: str, result: Result) -> str:
    if is_disk_full(result):
        usage = host.command_line(f"df {STATE_DIR}; df -i {STATE_DIR}")
        return f"free space or inodes on the disk of {_displayed(jobs)}: {usage}"
    if "Read-only file system" in result.stderr:
        return f"the file system of {_displayed(jobs)} is read-only: see the log of the kernel (dmesg)"
    return ""


def _job_running(host: Host, database: Database, kind: str) -> JobRunningError:
    running = None
    with contextlib.suppress(CouldNotLookError):  # it is running, even if its description is damaged
        running = find_job(host, database, kind)
    since = f", started by {running.by} at {running.when}" if running else ""
    return JobRunningError(
        f"a {kind} of the {database.name} database is already running{since}",
        host=host.name,
        advice=f"follow it: {attach_command(host, database)}",
    )


def find_job(host: Host, database: Database, kind: str) -> Job | None:
    """Find a database's last job of a kind; raises CouldNotLookError if its state is damaged or another user's."""
    jobs = jobs_dir(database, kind)
    job = _read(host, jobs, _run(host, f"find the last {kind}", find_command(jobs)), parse_job)
    if job and (job.kind, job.database) != (kind, database.name):
        raise _damaged(host, job_dir(database, job), f"it describes a {job.kind} of the {job.database} database")
    return job


def is_job_running(host: Host, database: Database, kind: str) -> bool:
    """Tell whether a job of a kind is running, even if its description is damaged; raises CouldNotLookError."""
    jobs = jobs_dir(database, kind)
    result = _run(host, f"see whether a {kind} is running", is_running_command(jobs))
    return _read(host, jobs, result, parse_yes_no)


def read_status(host: Host, database: Database, job: Job, offset: int = 0, limit: int = PIECE) -> JobStatus:
    """Read the status of a job, with a piece of its output; raises CouldNotLookError."""
    growing = database.part if job.kind == BACKUP else None
    jobs = jobs_dir(database, job.kind)
    result = _run(
        host,
        f"read the status of the {job.kind}",
        status_command(jobs, job, growing, offset, limit),
        status_command(jobs, job, growing),  # recorded once, however often it is run
    )
    status = _read_of_job(host, database, job, result, parse_status)
    if status.started != job.started:
        raise _removed(host, database, job)
    return status


def read_before(host: Host, database: Database, job: Job, parse: Callable[[str], T]) -> T:
    """Parse what was kept when a job started: see `start_job`. Raises CouldNotLookError."""
    action = f"read what was kept at the start of the {job.kind}"
    result = _run(host, action, before_command(jobs_dir(database, job.kind), job))
    return _read_of_job(host, database, job, result, parse)


def _read_of_job(host: Host, database: Database, job: Job, result: Result, parse: Callable[[str], T]) -> T:
    if result.status == NOT_FOUND:
        raise _removed(host, database, job)
    return _read(host, job_dir(database, job), result, parse)


def _removed(host: Host, database: Database, job: Job) -> JobStateError:
    return JobStateError(
        f"the state directory of this {job.kind}, {_displayed(job_dir(database, job))}, was removed: "
        "it is not known how it ended",
        host=host.name,
        advice=f"list the backups: {host.task('list-backups', '--database', database.name)}",
    )


def follow_job(
    host: Host,
    database: Database,
    job: Job,
    echo: Callable[[str], None],
    progress: Callable[[JobStatus], None],
) -> JobStatus:
    """Follow a job to its end; return its last status.

    `echo` gets the job's output: all of it up to PIECE bytes, and of a longer one the start and the last TAIL bytes.
    `progress` gets each status.
    """
    offset, wait = 0, SHORTEST_WAIT
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode  # a piece may end in the middle of a character
    while True:
        # More than the start of a long output is read only when its end is known.
        limit = max(0, PIECE - offset)
        status = read_status(host, database, job, offset, limit)
        printed = status.output.encode("utf-8", "surrogateescape")
        offset += len(printed)
        echo(decode(printed))
        progress(status)
        if not status.running:
            break
        if not printed or offset == status.output_bytes:
            host.wait(wait)
            wait = min(wait * 1.5, LONGEST_WAIT)
    skipped = status.output_bytes - TAIL - offset
    if skipped > 0:
        offset += skipped
        file = f"{_displayed(job_dir(database, job))}/output"
        echo(f"\n[... {skipped:,} bytes more, in {file} on {host.name}]\n")
    if offset < status.output_bytes:
        echo(decode(read_status(host, database, job, offset, PIECE).output.encode("utf-8", "surrogateescape")))
    return status


@contextlib.contextmanager
def hint_on_detach(host: Host, database: Database, kind: str) -> Iterator[None]:
    """Say how to come back to a job when the user or the connection leaves it inside.

    Raises InterruptedRunError on Ctrl-C and ConnectionLostError if the connection is lost; the job keeps running.
    """
    advice = f"follow it again: {attach_command(host, database)}"
    if kind in BACKUP_KINDS:
        advice += f"; or stop it: {attach_command(host, database, 'stop-backup')}"
    with advise_on_detach(host, f"the {kind}, once started, keeps running without this terminal", advice):
        yield


@contextlib.contextmanager
def advise_on_detach(host: Host, keeps_running: str, advice: str) -> Iterator[None]:
    """Say that a job keeps running, and what to do, when the user or the connection leaves it inside.

    Raises as `hint_on_detach` does.
    """
    try:
        yield
    except (KeyboardInterrupt, InterruptedRunError, RuntimeError) as error:
        if not is_interruption(error):
            raise
        raise InterruptedRunError(f"detached: {keeps_running}", host=host.name, advice=advice) from None
    except ConnectionLostError as error:
        error.advice = f"{keeps_running}. {advice[0].upper()}{advice[1:]}"
        raise


def attach_command(host: Host, database: Database, task: str = "attach") -> str:
    """Return the command with which a user follows a job again."""
    return host.task(task, "--database", database.name)


# --- answers from a state directory, judged in one place ------------------------------------------------------------


def _read(host: Host, directory: str, result: Result, parse: Callable[[str], T]) -> T:
    """Parse the answer to a query in a state directory; raises CouldNotLookError for everything unexpected."""
    _check_access(host, directory, result)
    if not result.ok:
        raise _damaged(host, _narrow(directory, result), result.output)
    return _parse(host, directory, result, parse)


def _parse(host: Host, directory: str, result: Result, parse: Callable[[str], T]) -> T:
    try:
        return parse(result.stdout)
    except ValueError as error:
        raise _damaged(host, _narrow(directory, result), str(error)) from error


def _narrow(directory: str, result: Result) -> str:
    """Return the directory of the job whose number was printed first, or the directory of all jobs."""
    number, _, _ = result.stdout.partition("\n")
    return f"{directory}/{number}" if re.fullmatch(r"[0-9]{8}", number) else directory


def _damaged(host: Host, directory: str, problem: str) -> JobStateError:
    return JobStateError(
        f"the state directory of this job, {_displayed(directory)}, is damaged",
        host=host.name,
        output=problem,
        advice=f"if nothing is running, remove it there: {host.command_line(f'rm -r {directory}')}",
    )


def _check_access(host: Host, directory: str, result: Result) -> None:
    if result.status == NOT_OURS:
        advice = f"ask that user; if nothing is running, remove it there: {host.command_line(f'rm -r {directory}')}"
        if OTHERS_CAN_WRITE in result.output:
            command = host.command_line(f"chmod go-w {STATE_DIR} {directory}")
            advice = f"see what they have changed, then, on the host: {command}"
        raise JobStateError(
            f"the state directory of this job, {_displayed(directory)}, belongs to another user, "
            "or others can write to it: it is rejected",
            host=host.name,
            output=result.output,
            advice=advice,
        )


def _displayed(directory: str) -> str:
    return directory.replace(HOME, "~")
