"""The state directory of a job on a host: what is in it, the commands that work on it, and the parsers of their output.

It has what the job is (`about`), what it printed (`output`), how it ended (`status`), and a lock that is held for as
long as any process of the job lives. The jobs of a database and a kind are numbered, and one of them runs at a time.
The state of the last ones is kept, so a job can be followed to its end while the next one runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..project import whoami
from .answers import parse_count, parse_seconds
from .page_cache import PageCache
from .processes import OWN_LOCK, signal_processes_command
from .shell import STATE_DIR, quote

if TYPE_CHECKING:
    from ..settings.model import Database

BACKUP = "backup"
CHECK = "check"
HASH, RESTORE, DRILL = "hash", "restore", "drill"
KINDS = (BACKUP, CHECK, HASH, RESTORE, DRILL)
BACKUP_KINDS = (BACKUP, CHECK)  # those that attach follows and stop-backup stops
SUPERVISOR = Path(__file__).with_name("job.sh")
OTHERS_CAN_WRITE = "other users can write to it"
NOT_FOUND, BUSY, NOT_OURS = 66, 75, 77  # sysexits.h: no input, try again later, no permission
PIECE = 256 * 1024  # bytes of a job's output that are read at a time, and from its start
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
    cache: PageCache | None = None,
    shortened: bool = False,
) -> str:
    """Build the command that starts a job in the directory `jobs`, and prints what `find_command` does.

    `cache` is what the supervisor keeps out of the page cache. What the command `before` prints is kept with the job.
    Exits BUSY if a job of this kind is running. If `shortened`, for messages, notes replace the text of the supervisor
    and the description.
    """
    supervisor, description = SUPERVISOR.read_text(), f"'%s\\n' {quote(describe_job(job))}"
    if shortened:
        supervisor, description = f"<{len(supervisor):,} bytes of {SUPERVISOR.name}>", "<description>"
    arguments = ["setsid", "--fork", *supervised_command(command, watched, floor, cache, supervisor)]
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


def supervised_command(
    command: str, watched: Sequence[PurePosixPath], floor: int, cache: PageCache | None, supervisor: str = ""
) -> list[str]:
    """Return the arguments that run a command under the supervisor: see job.sh."""
    files = cache.arguments() if cache else ["", "", ""]
    text = supervisor or SUPERVISOR.read_text()
    return ["bash", "-c", text, SUPERVISOR.name, str(floor), *files, command, *map(str, watched)]


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


def without_functions(command: str) -> str:
    """Return a command of this module as it is shown: without the functions that all of them have."""
    return command.replace(FUNCTIONS, "")
