"""Jobs: commands on a host that keep running when the connection drops, and that can be found again.

A job runs in a session of its own. Its state directory on the host has what it is (`about`), what it printed
(`output`), how it ended (`status`), and a lock that is held for as long as any process of the job lives.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ..errors import (
    ConnectionLostError,
    CouldNotLookError,
    InterruptedRunError,
    JobRunningError,
    JobStateError,
    StepError,
)
from ..project import whoami
from ..settings import Database
from .files import check_sha256
from .host import Host, Result
from .processes import own_lock, signal_processes_command
from .shell import HOME, STATE_DIR, quote

T = TypeVar("T")
BACKUP = "backup"
CHECK = "check"
KINDS = (BACKUP, CHECK)
SUPERVISOR = Path(__file__).with_name("job.sh")
OTHERS_CAN_WRITE = "other users can write to it"
BUSY, NOT_OURS = 75, 77  # sysexits.h: try again later, no permission
SHORTEST_WAIT, LONGEST_WAIT = 0.05, 1.0  # seconds between two readings of a job's status
PIECE = 256 * 1024  # bytes of a job's output that are read at a time, and from its start
TAIL = 64 * 1024  # bytes of a long output that are read from its end

# Stops a script in a state directory that another user could have filled, or can write to.
CHECK_OWNER = (
    f'{{ [ -O . ] && [ -O .. ]; }} || {{ echo "its owner is $(stat -c %U .)" >&2; exit {NOT_OURS}; }}; '
    f'[ -z "$(find . .. -maxdepth 0 -perm /022)" ] || {{ echo {OTHERS_CAN_WRITE!r} >&2; exit {NOT_OURS}; }}; '
    f'[ ! -e lock ] && [ ! -L lock ] || [ -n "$({own_lock("lock")})" ] || '
    f"{{ echo 'its lock is not a regular file of this user' >&2; exit {NOT_OURS}; }}"
)


@dataclass(frozen=True)
class Job:
    """What a job is: `kind` is one of KINDS, `subject` the file that it reads, `total` its size in bytes.

    `before` names the backups that existed when it was started; `started` is in seconds since 1970, by the host's
    clock.
    """

    kind: str
    database: str
    command: str
    subject: str
    total: int
    before: list[str] = field(default_factory=list)
    by: str = field(default_factory=whoami)
    started: float = 0.0

    @property
    def when(self) -> str:
        """The time at which it was started, for messages."""
        return datetime.fromtimestamp(self.started, timezone.utc).isoformat(sep=" ", timespec="seconds")


@dataclass(frozen=True)
class JobStatus:
    """A job at one moment, `now` by the host's clock; `started` tells which job it is.

    A job that is not running and has no exit `status` was killed, or the host went down. `bytes` is the size of what a
    backup has copied so far. `output` is a piece of what the job has printed, of `output_bytes` in all.
    """

    running: bool
    status: int | None
    ended: float | None
    bytes: int | None
    now: float
    started: float
    output: str
    output_bytes: int = 0


def job_dir(database: Database, kind: str) -> str:
    """Return the state directory of a database's jobs of one kind, as a word of the host's shell."""
    place = hashlib.sha256(str(database.backup_dir).encode()).hexdigest()[:8]
    return f"{STATE_DIR}/{quote(f'{database.name}-{kind}-{place}')}"


# --- commands and parsers -------------------------------------------------------------------------------------------


def describe_job(job: Job) -> bytes:
    """Describe a job as it is stored on the host: JSON, which `start_command` reads from its standard input."""
    return json.dumps(asdict(job)).encode()


def start_command(
    directory: str, job: Job, command: str, watched: Sequence[PurePosixPath], floor: int, *, shortened: bool = False
) -> str:
    """Build the command that starts a job, with its description on standard input, and prints what `find_command` does.

    Exits BUSY if a job of this kind is running. If `shortened`, for messages, a note replaces the supervisor's text.
    """
    supervisor = SUPERVISOR.read_text()
    if shortened:
        supervisor = f"<{len(supervisor):,} bytes of {SUPERVISOR.name}>"
    arguments = ["setsid", "--fork", "bash", "-c", supervisor, SUPERVISOR.name, str(floor), command]
    arguments += [str(path) for path in watched]
    sha256 = hashlib.sha256(describe_job(job)).hexdigest()
    return "\n".join(
        [
            f"set -eu; umask 077; mkdir -p -- {directory}; cd -- {directory}; {CHECK_OWNER}",
            f"exec 8>> lock; flock --wait 1 8 || exit {BUSY}",
            "rm -f -- status status.new output about.part about.new; : > output; cat > about.part",
            check_sha256("about.part", sha256, "the transfer of the description was damaged"),
            "{ date +%s.%N; cat about.part; } > about.new; rm -f -- about.part",
            "sync -- about.new; mv -- about.new about",
            # Appended, since stop_job_command writes to the same file.
            f"{' '.join(quote(argument) for argument in arguments)} >> output 2>&1 < /dev/null",
            "cat about",
        ]
    )


def find_command(directory: str) -> str:
    """Build the command that prints what a job is; nothing if there never was one."""
    return _in_job_dir(
        directory, "[ ! -e about ] || { [ -s about ] || { echo 'about is empty' >&2; exit 1; }; cat about; }"
    )


def is_running_command(directory: str) -> str:
    """Build the command that prints whether a job is running: only its lock decides that."""
    return _in_job_dir(directory, "[ ! -e lock ] || flock --nonblock --shared lock true || echo running")


def _in_job_dir(directory: str, query: str) -> str:
    """Run a query in the state directory of a job; prints nothing if there is none."""
    return "\n".join(
        [
            f"if cd -- {directory} 2>/dev/null; then {CHECK_OWNER}",
            f"  {query}",
            # A directory that cannot be entered is not one that is missing.
            f"elif [ -e {directory} ] || {{ [ -e {STATE_DIR} ] && [ ! -x {STATE_DIR} ]; }}; then",
            f"  echo 'it cannot be entered' >&2; exit {NOT_OURS}; fi",
        ]
    )


def parse_job(text: str) -> Job | None:
    """Parse what `find_command` printed; None if there never was a job. Raises ValueError."""
    if not text.strip():
        return None
    started, _, about = text.partition("\n")
    try:
        return replace(_parse_description(json.loads(about)), started=_parse_time(started))
    except ValueError as error:
        raise ValueError(f"this does not describe a job: {text.strip()[:200]!r} ({error})") from error


def _parse_description(value: Any) -> Job:
    """Make a Job of what `describe_job` wrote; raises ValueError for anything else."""
    if not isinstance(value, dict) or value.keys() != Job.__dataclass_fields__.keys():
        raise ValueError("its fields are not those of a job")
    texts = [value[name] for name in ("database", "command", "subject", "by")]
    if not (
        value["kind"] in KINDS
        and all(isinstance(text, str) for text in texts)
        and type(value["total"]) is int
        and value["total"] >= 0
        and isinstance(value["before"], list)
        and all(isinstance(name, str) for name in value["before"])
    ):
        raise ValueError("a field has an invalid value")
    return Job(**value)


def _parse_time(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and 0 <= seconds < 1e11):  # datetime has no later years
        raise ValueError(f"{text} s is not a time")
    return seconds


def _parse_count(text: str, largest: int = 2**63) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= largest):
        raise ValueError(f"{text[:50]!r} is not a number from 0 to {largest}")
    return int(text)


def status_command(directory: str, growing: PurePosixPath | None, offset: int, limit: int = PIECE) -> str:
    """Build the command that prints the status of a job, and `limit` bytes of its output after the first `offset`.

    `growing` is the file that a backup writes. The lock is read first: what follows is then final for an ended job.
    """
    size = f"stat -c %s -- {quote(growing)} 2>/dev/null || echo" if growing else "echo"
    return "\n".join(
        [
            f"cd -- {directory} && {CHECK_OWNER}",
            "if flock --nonblock --shared lock true; then echo ended; else echo running; fi",
            "cat status 2>/dev/null || echo",
            size,
            "date +%s.%N",
            "head -n 1 about",
            "[ -f output ] || { echo 'output is missing' >&2; exit 1; }",
            "stat -c %s output",
            f"tail -c +{offset + 1} output | head -c {limit}",
        ]
    )


def parse_status(text: str) -> JobStatus:
    """Parse what `status_command` printed; raises ValueError."""
    state, end, size, now, started, output_size, output = text.split("\n", 6)
    if state not in ("running", "ended"):
        raise ValueError(f"{state[:50]!r} is not a state of a job")
    status, ended = end.split() or (None, None)
    return JobStatus(
        running=state == "running",
        status=None if status is None else _parse_count(status, largest=255),
        ended=None if ended is None else _parse_time(ended),
        bytes=_parse_count(size) if size else None,
        now=_parse_time(now),
        started=_parse_time(started),
        output=output,
        output_bytes=_parse_count(output_size),
    )


def stop_job_command(database: Database, kind: str, message: str = "") -> str:
    """Build the command that sends SIGTERM to a job, and adds a message, if there is one, to its output."""
    terminate = signal_processes_command("lock", "TERM")
    note = f"echo {quote(message)} >> output; " if message else ""
    return f"cd -- {job_dir(database, kind)} && {CHECK_OWNER}; {note}{terminate}"


# --- on a host ------------------------------------------------------------------------------------------------------


def start_job(
    host: Host, database: Database, job: Job, command: str, watched: Sequence[PurePosixPath] = (), floor: int = 0
) -> Job:
    """Start a job, which is stopped when less than `floor` bytes are free on the disk of a `watched` directory.

    Raises StepError if one of its kind is running, or if it cannot be started.
    """
    directory = job_dir(database, job.kind)
    result = host.stream(
        f"start the {job.kind}",
        start_command(directory, job, command, watched, floor),
        root=True,
        display=start_command(directory, job, command, watched, floor, shortened=True),
        source=io.BytesIO(describe_job(job)),
    ).result
    if result.status == BUSY:
        raise _job_running(host, database, job.kind)
    _check_owner(host, directory, result)
    if not result.ok:
        raise StepError(f"the {job.kind} could not be started", host=host.name, output=result.output)
    started = _parse(host, directory, result, parse_job)
    if started is None:
        raise _damaged(host, directory, "nothing is stored about the job")
    return started


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
    """Find a database's last job of a kind; raises CouldNotLookError if its directory is damaged or another user's."""
    directory = job_dir(database, kind)
    job = _read(host, directory, host.run(f"find the last {kind}", find_command(directory), root=True), parse_job)
    if job and job.kind != kind:
        raise _damaged(host, directory, f"it describes a {job.kind}")
    return job


def is_job_running(host: Host, database: Database, kind: str) -> bool:
    """Tell whether a job of a kind is running, even if its description is damaged; raises CouldNotLookError."""
    directory = job_dir(database, kind)
    answers = {"running\n": True, "": False}
    result = host.run(f"see whether a {kind} is running", is_running_command(directory), root=True)
    return _read(host, directory, result, lambda printed: answers[printed])


def read_status(host: Host, database: Database, kind: str, offset: int = 0, limit: int = PIECE) -> JobStatus:
    """Read the status of a job, with a piece of its output; raises CouldNotLookError."""
    directory = job_dir(database, kind)
    growing = database.part if kind == BACKUP else None
    result = host.run(
        f"read the status of the {kind}",
        status_command(directory, growing, offset, limit),
        root=True,
        display=status_command(directory, growing, 0),  # recorded once, however often it is run
    )
    return _read(host, directory, result, parse_status)


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
        status = _read_same(host, database, job, offset, limit)
        printed = status.output.encode("utf-8", "surrogateescape")
        offset += len(printed)
        echo(decode(printed))
        progress(status)
        if not status.running:
            break
        if not printed or offset == status.output_bytes:
            time.sleep(wait)
            wait = min(wait * 1.5, LONGEST_WAIT)
    skipped = status.output_bytes - TAIL - offset
    if skipped > 0:
        offset += skipped
        file = f"{_displayed(job_dir(database, job.kind))}/output"
        echo(f"\n[... {skipped:,} bytes more, in {file} on {host.name}]\n")
    if offset < status.output_bytes:
        echo(decode(_read_same(host, database, job, offset, PIECE).output.encode("utf-8", "surrogateescape")))
    return status


def _read_same(host: Host, database: Database, job: Job, offset: int, limit: int) -> JobStatus:
    """Read the status of this job; raises CouldNotLookError if another one has replaced it."""
    status = read_status(host, database, job.kind, offset, limit)
    if status.started != job.started:
        raise JobStateError(
            f"another {job.kind} of the {database.name} database has been started: the result of this one is lost",
            host=host.name,
            advice=f"list the backups: {host.task('list-backups', '--database', database.name)}",
        )
    return status


@contextlib.contextmanager
def hint_on_detach(host: Host, database: Database, kind: str) -> Iterator[None]:
    """Say how to come back to a job when the user or the connection leaves it inside.

    Raises InterruptedRunError on Ctrl-C and ConnectionLostError if the connection is lost; the job keeps running.
    """
    keeps_running = f"the {kind}, once started, keeps running without this terminal"
    attach, stop = attach_command(host, database), attach_command(host, database, "stop-backup")
    advice = f"follow it again: {attach}; or stop it: {stop}"
    try:
        yield
    except (KeyboardInterrupt, InterruptedRunError, RuntimeError) as error:
        # After a Ctrl-C between taking and releasing a lock, Rich complains of the lock instead.
        if isinstance(error, RuntimeError) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        raise InterruptedRunError(f"detached: {keeps_running}", host=host.name, advice=advice) from None
    except ConnectionLostError as error:
        error.advice = f"{keeps_running} and this connection. {advice[0].upper()}{advice[1:]}"
        raise


def attach_command(host: Host, database: Database, task: str = "attach") -> str:
    """Return the command with which a user follows a job again."""
    return host.task(task, "--database", database.name)


# --- answers from a state directory, judged in one place ------------------------------------------------------------


def _read(host: Host, directory: str, result: Result, parse: Callable[[str], T]) -> T:
    """Parse the answer to a query in a state directory; raises CouldNotLookError for everything unexpected."""
    _check_owner(host, directory, result)
    if not result.ok:
        raise _damaged(host, directory, result.output)
    return _parse(host, directory, result, parse)


def _parse(host: Host, directory: str, result: Result, parse: Callable[[str], T]) -> T:
    try:
        return parse(result.stdout)
    except (ValueError, KeyError) as error:
        raise _damaged(host, directory, str(error)) from error


def _damaged(host: Host, directory: str, problem: str) -> JobStateError:
    return JobStateError(
        f"the state directory of this job, {_displayed(directory)}, is damaged",
        host=host.name,
        output=problem,
        advice=f"if nothing is running, remove it there: rm -r {directory}",
    )


def _check_owner(host: Host, directory: str, result: Result) -> None:
    if result.status == NOT_OURS:
        advice = f"ask that user; if nothing is running, remove it there: rm -r {directory}"
        if OTHERS_CAN_WRITE in result.output:
            advice = f"see what they have changed, then, on the host: chmod go-w {STATE_DIR} {directory}"
        raise JobStateError(
            f"the state directory of this job, {_displayed(directory)}, is not this user's alone: it is rejected",
            host=host.name,
            output=result.output,
            advice=advice,
        )


def _displayed(directory: str) -> str:
    return directory.replace(HOME, "~")
