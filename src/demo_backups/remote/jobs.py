"""Jobs: commands on a host that keep running when the connection drops, and that can be found again.

A job runs in a session of its own. Its state directory on the host has what it is (`about`), what it printed
(`output`), how it ended (`status`), and a lock that is held for as long as any process of the job lives. The jobs of a
database and a kind are numbered, and one of them runs at a time. The state of the last ones is kept, so a job can be
followed to its end while the next one runs.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ..errors import (
    ConnectionLostError,
    CouldNotLookError,
    InterruptedRunError,
    JobNotStartedError,
    JobRunningError,
    JobStateError,
)
from ..project import whoami
from ..settings import Database
from .answers import parse_count, parse_seconds, parse_yes_no
from .host import Host, Result
from .processes import OWN_LOCK, signal_processes_command
from .shell import HOME, STATE_DIR, quote

T = TypeVar("T")
BACKUP = "backup"
CHECK = "check"
KINDS = (BACKUP, CHECK)
SUPERVISOR = Path(__file__).with_name("job.sh")
OTHERS_CAN_WRITE = "other users can write to it"
NOT_FOUND, BUSY, NOT_OURS = 66, 75, 77  # sysexits.h: no input, try again later, no permission
SHORTEST_WAIT, LONGEST_WAIT = 0.05, 1.0  # seconds between two readings of a job's status
PIECE = 256 * 1024  # bytes of a job's output that are read at a time, and from its start
TAIL = 64 * 1024  # bytes of a long output that are read from its end
MOST_JOBS = 20  # jobs of a database and a kind whose state is kept
START_TIMEOUT = 10  # seconds to wait for another start
LONGEST_DESCRIPTION = 64 * 1024  # bytes
LONGEST_PATH, LONGEST_NAME = 4096, 256  # characters; PATH_MAX, and more than a user and a host name have
FIELDS = ("kind", "database", "command", "subject", "total", "by")  # of a description

NUMBERS = "[0-9]" * 8  # the pattern of the state directories of jobs, which the shell sorts
PLANTED = f"-name lock ! \\( {OWN_LOCK} \\) -o -name '{NUMBERS}' ! -type d"

# Stops a script in a state directory that another user could have filled, or can write to.
CHECK_OWNER = (
    f'{{ [ -O . ] && [ -O .. ]; }} || {{ echo "its owner is $(stat -c %U .)" >&2; exit {NOT_OURS}; }}; '
    f'[ -z "$(find . .. -maxdepth 0 -perm /022)" ] || {{ echo {OTHERS_CAN_WRITE!r} >&2; exit {NOT_OURS}; }}; '
    f"planted=$(find . -maxdepth 2 \\( {PLANTED} \\) 2>/dev/null) || true; "
    f'[ -z "$planted" ] || {{ echo "not a regular file of this user: $planted" >&2; exit {NOT_OURS}; }}'
)

# Functions of the scripts below. `enter DIRECTORY ANSWER CODE` changes to a directory that belongs to this user. Only
# if it is missing, it prints the answer and exits with the code.
#
# `running` prints the numbers of the jobs that are running. While stop_job_command sends signals to all processes that
# have a lock open, those that only read it are killed too: the job is then not known to have ended.
FUNCTIONS = f"""\
set -eu
enter() {{
  if problem=$(stat -- "$1" 2>&1); then cd -- "$1" || exit {NOT_OURS}; else
    case "$problem" in *': No such file or directory') echo "$2"; exit "$3" ;; esac
    echo "$problem" >&2; exit {NOT_OURS}
  fi
  {CHECK_OWNER}
}}
running() {{
  for lock in {NUMBERS}/lock; do
    [ -e "$lock" ] || continue
    code=0; flock --nonblock --shared --conflict-exit-code {BUSY} "$lock" true || code=$?
    case $code in 0) ;; {BUSY} | 137 | 143) echo "${{lock%/lock}}" ;; *) [ ! -e "$lock" ] || exit 1 ;; esac
  done
}}
"""


@dataclass(frozen=True)
class Job:
    """What a job is: `kind` is one of KINDS, `subject` the file that it reads, `total` its size in bytes.

    Once it was started it has a `number`, and `started` is in seconds since 1970, by the host's clock.
    """

    kind: str
    database: str
    command: str
    subject: str
    total: int
    by: str = field(default_factory=lambda: whoami()[:LONGEST_NAME])
    started: float = 0.0
    number: int = 0

    @property
    def when(self) -> str:
        """The time at which it was started, for messages."""
        return datetime.fromtimestamp(self.started, timezone.utc).isoformat(sep=" ", timespec="seconds")


@dataclass(frozen=True)
class JobStatus:
    """A job at one moment, `now` by the host's clock; `started` tells which job it is.

    A job that is not running and has no exit `status` was killed, or the host went down. `bytes` is the size of what a
    backup has copied so far. `output` is a piece of what the job has printed, of `output_bytes` in all. `problem` is
    why output of an ended job may be missing: the disk was full.
    """

    running: bool
    status: int | None
    ended: float | None
    bytes: int | None
    now: float
    started: float
    output: str
    output_bytes: int = 0
    problem: str = ""


def jobs_dir(database: Database, kind: str) -> str:
    """Return the directory of a database's jobs of one kind, as a word of the host's shell."""
    place = hashlib.sha256(str(database.backup_dir).encode()).hexdigest()[:8]
    return f"{STATE_DIR}/{quote(f'{database.name}-{kind}-{place}')}"


def job_dir(database: Database, job: Job) -> str:
    """Return the state directory of a job, as a word of the host's shell."""
    return f"{jobs_dir(database, job.kind)}/{job.number:08}"


# --- commands and parsers -------------------------------------------------------------------------------------------


def describe_job(job: Job) -> str:
    """Describe a job as it is stored on the host: one line of JSON. Raises ValueError if it could not be read back."""
    description = json.dumps({name: getattr(job, name) for name in FIELDS})
    _parse_description(description)
    return description


def start_command(
    jobs: str,
    job: Job,
    command: str,
    watched: Sequence[PurePosixPath],
    floor: int,
    before: str = "true",
    *,
    shortened: bool = False,
) -> str:
    """Build the command that starts a job in the directory `jobs`, and prints what `find_command` does.

    What the command `before` prints is kept with the job. Exits BUSY if a job of this kind is running. If `shortened`,
    for messages, notes replace the text of the supervisor and the description.
    """
    supervisor, description = SUPERVISOR.read_text(), f"'%s\\n' {quote(describe_job(job))}"
    if shortened:
        supervisor, description = f"<{len(supervisor):,} bytes of {SUPERVISOR.name}>", "<description>"
    arguments = ["setsid", "--fork", "bash", "-c", supervisor, SUPERVISOR.name, str(floor), command]
    arguments += [str(path) for path in watched]
    return FUNCTIONS + "\n".join(
        [
            f"umask 077; mkdir -p -- {jobs}; enter {jobs} missing 1",
            # One start at a time. A job of an earlier version of this project holds this lock until it ends.
            f"exec 9>> lock; flock --wait {START_TIMEOUT} 9 ||",
            "  { echo 'another start, or a job of an earlier version, has locked this directory' >&2; exit 1; }",
            f'running=$(running); [ -z "$running" ] || exit {BUSY}',
            "rm -rf -- .new about output status status.new",  # left by a start that was killed, or an earlier version
            f'set -- {NUMBERS}; last=0; for number; do [ ! -d "$number" ] || last=$number; done',
            f'while [ $# -ge {MOST_JOBS} ]; do rm -rf -- "$1"; shift; done',
            'number=$(printf %08d "$(expr "$last" + 1)")',
            "trap 'rm -rf -- .new \"$number\"' EXIT; mkdir .new; : > .new/output",
            "head -c 4096 /dev/zero > .new/status.new",  # room for the status, also on a disk that is full by then
            f"( {before}; ) > .new/before",
            f"{{ date +%s.%N; printf {description}; }} > .new/about",
            "sync -- .new/status.new .new/before .new/about",
            "exec 8> .new/lock; flock --nonblock 8",
            'mv --no-target-directory -- .new "$number"; echo "$number"; cat -- "$number/about"',
            # The output is appended, since stop_job_command writes to the same file.
            f'( cd -- "$number"; exec {" ".join(map(quote, arguments))} >> output 2>&1 < /dev/null 9>&- )',
            "trap - EXIT",
        ]
    )


def find_command(jobs: str) -> str:
    """Build the command that prints the number of the last job in a directory, and its description; or `none`."""
    return FUNCTIONS + "\n".join(
        [
            f"enter {jobs} none 0",
            f'last=; for number in {NUMBERS}; do [ ! -d "$number" ] || last=$number; done',
            '[ -n "$last" ] || { echo none; exit; }',
            'echo "$last"; cd -- "$last"; [ -s about ] || { echo "about is missing or empty" >&2; exit 1; }',
            f"head -c {LONGEST_DESCRIPTION + 100} about",
        ]
    )


def is_running_command(jobs: str) -> str:
    """Build the command that prints `yes` if a job is running, else `no`: only the locks of the jobs decide that."""
    return FUNCTIONS + "\n".join(
        [f"enter {jobs} no 0", 'running=$(running); if [ -n "$running" ]; then echo yes; else echo no; fi']
    )


def _enter_job(jobs: str, job: Job) -> str:
    return f"enter {jobs} '' {NOT_FOUND}; enter {job.number:08} '' {NOT_FOUND}"


def parse_job(text: str) -> Job | None:
    """Parse what `find_command` printed; None if there never was a job. Raises ValueError."""
    if text == "none\n":
        return None
    number, started, description = [*text.split("\n", 2), "", ""][:3]
    try:
        return replace(
            _parse_description(description), started=parse_seconds(started), number=parse_count(number, 10**8 - 1)
        )
    except ValueError as error:
        raise ValueError(f"this does not describe a job: {text.strip()[:200]!r} ({error})") from error


def _parse_description(text: str) -> Job:
    """Make a Job of what `describe_job` wrote; raises ValueError for anything else."""
    if len(text) > LONGEST_DESCRIPTION:
        raise ValueError(f"it has more than {LONGEST_DESCRIPTION:,} characters")
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict) or value.keys() != set(FIELDS):
        raise ValueError("its fields are not those of a job")
    for name in ("database", "command", "subject", "by"):
        _check_text(name, value[name])
    if value["kind"] not in KINDS:
        raise ValueError(f"kind is not one of {', '.join(KINDS)}")
    if type(value["total"]) is not int or not 0 <= value["total"] < 2**63:
        raise ValueError("total is not a number of bytes")
    if not value["subject"].startswith("/") or len(value["subject"]) > LONGEST_PATH:
        raise ValueError("subject is not an absolute path")
    if max(len(value["by"]), len(value["database"])) > LONGEST_NAME:
        raise ValueError(f"a name has more than {LONGEST_NAME} characters")
    return Job(**value)


def _check_text(name: str, value: Any) -> None:
    """Raise ValueError unless a value can be part of a command of the host."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{name} is not a text")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not a text: {error}") from error


def status_command(
    jobs: str, job: Job, growing: PurePosixPath | None = None, offset: int = 0, limit: int = PIECE
) -> str:
    """Build the command that prints the status of a job, and `limit` bytes of its output after the first `offset`.

    `growing` is the file that a backup writes. The lock is read first: what follows is then final for an ended job.
    Exits NOT_FOUND if the state of the job was removed.
    """
    size = f"stat -c %s -- {quote(growing)} 2>/dev/null || echo" if growing else "echo"
    return FUNCTIONS + "\n".join(
        [
            _enter_job(jobs, job),
            "if flock --nonblock --shared lock true; then echo ended; else echo running; fi",
            "if [ -e status ]; then head -n 1 status; else echo; fi",
            size,
            "date +%s.%N",
            "head -n 1 about",
            "[ -f output ] || { echo 'output is missing' >&2; exit 1; }",
            "stat -c %s output",
            f"tail -c +{offset + 1} output | head -c {limit}",
        ]
    )


def before_command(jobs: str, job: Job) -> str:
    """Build the command that prints what was kept when a job started. Exits NOT_FOUND if its state was removed."""
    return f"{FUNCTIONS}{_enter_job(jobs, job)}; cat before"


def parse_status(text: str) -> JobStatus:
    """Parse what `status_command` printed; raises ValueError."""
    state, end, size, now, started, output_size, output = text.split("\n", 6)
    if state not in ("running", "ended"):
        raise ValueError(f"{state[:50]!r} is not a state of a job")
    status, ended, problem = end.split(" ", 2) if end else (None, None, "")
    return JobStatus(
        running=state == "running",
        status=None if status is None else parse_count(status, largest=255),
        ended=None if ended is None else parse_seconds(ended),
        bytes=parse_count(size) if size else None,
        now=parse_seconds(now),
        started=parse_seconds(started),
        output=output,
        output_bytes=parse_count(output_size),
        problem=problem,
    )


def stop_job_command(database: Database, kind: str, message: str = "") -> str:
    """Build the command that sends SIGTERM to the running job, and adds a message, if there is one, to its output."""
    terminate = signal_processes_command('"$number"/lock', "TERM")
    note = f'echo {quote(message)} >> "$number"/output; ' if message else ""
    return FUNCTIONS + "\n".join(
        [
            f"enter {jobs_dir(database, kind)} '' {NOT_FOUND}",
            "running=$(running); set +e",  # a full disk, which takes no message, must not prevent the signal
            f"for number in $running; do {note}{terminate}; done",
        ]
    )


# --- on a host ------------------------------------------------------------------------------------------------------


def _run(host: Host, action: str, command: str, display: str = "") -> Result:
    return host.run(action, command, root=True, display=without_functions(display or command))


def without_functions(command: str) -> str:
    """Return a command of this module as it is shown: without the functions that all of them have."""
    return command.replace(FUNCTIONS, "")


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
    jobs = jobs_dir(database, job.kind)
    result = _run(
        host,
        f"start the {job.kind}",
        start_command(jobs, job, command, watched, floor, before),
        start_command(jobs, job, command, watched, floor, before, shortened=True),
    )
    if result.status == BUSY:
        raise _job_running(host, database, job.kind)
    _check_access(host, jobs, result)
    if not result.ok:
        raise JobNotStartedError(
            f"the {job.kind} could not be started",
            host=host.name,
            output=result.output,
            advice=_advise_on_start(jobs, result),
        )
    started = _parse(host, jobs, result, parse_job)
    if started is None:
        raise _damaged(host, jobs, "nothing is stored about the job")
    return started


def _advise_on_start(jobs: str, result: Result) -> str:
    if "No space left on device" in result.stderr or "Disk quota exceeded" in result.stderr:
        return f"free space or inodes on the disk of {_displayed(jobs)}: df {STATE_DIR}; df -i {STATE_DIR}"
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
            time.sleep(wait)
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
        advice=f"if nothing is running, remove it there: rm -r {directory}",
    )


def _check_access(host: Host, directory: str, result: Result) -> None:
    if result.status == NOT_OURS:
        advice = f"ask that user; if nothing is running, remove it there: rm -r {directory}"
        if OTHERS_CAN_WRITE in result.output:
            advice = f"see what they have changed, then, on the host: chmod go-w {STATE_DIR} {directory}"
        raise JobStateError(
            f"the state directory of this job, {_displayed(directory)}, belongs to another user, "
            "or others can write to it: it is rejected",
            host=host.name,
            output=result.output,
            advice=advice,
        )


def _displayed(directory: str) -> str:
    return directory.replace(HOME, "~")
