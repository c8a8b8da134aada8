"""Runs that go on when the connection drops or the maintainer's machine sleeps, and can be found again.

A run is a command on the host, started in a session of its own, with a folder of its own there: what it is (`about`),
what it printed (`output`), how it ended (`status`), and a lock that is held for as long as any process of it lives.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TypeVar

from ..errors import ConnectionLostError, CouldNotLookError, InterruptedRunError, StepError
from ..project import whoami
from ..settings import Database
from .host import Host, Result
from .processes import signal_processes_command
from .shell import HOME, STATE_DIR, quote

T = TypeVar("T")
BACKUP = "backup"
CHECK = "check"
KINDS = (BACKUP, CHECK)
SUPERVISOR = Path(__file__).with_name("job.sh")
BUSY, NOT_OURS = 75, 77  # sysexits.h: try again later, no permission
SHORTEST_WAIT, LONGEST_WAIT = 0.05, 1.0  # seconds between two looks at a run


@dataclass(frozen=True)
class Job:
    """What a run is: `kind` is one of KINDS, `subject` the file that is read, `total` its size in bytes.

    `before` names the backups that were there when it was started.
    `started` is in seconds since 1970, by the host's clock.
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
        """When it was started, for people."""
        return datetime.fromtimestamp(self.started, timezone.utc).isoformat(sep=" ", timespec="seconds")


@dataclass(frozen=True)
class JobStatus:
    """A run at one moment: which it is, whether it goes on, its exit status once it has ended, and the host's clock.

    `bytes` is the size of the file that a backup has copied so far; `output` is what was printed since the last look.
    """

    running: bool
    status: int | None
    ended: float | None
    bytes: int | None
    now: float
    started: float
    output: str


def job_dir(database: Database, kind: str) -> str:
    """Name the folder of a database's runs of one kind, as a word of the host's shell."""
    place = hashlib.sha256(str(database.backup_dir).encode()).hexdigest()[:8]
    return f"{STATE_DIR}/{quote(f'{database.name}-{kind}-{place}')}"


CHECK_OWNER = f'[ -O . ] || {{ echo "it belongs to $(stat -c %U .)" >&2; exit {NOT_OURS}; }}'


def start_command(
    where: str, run: Job, command: str, watched: Sequence[PurePosixPath], floor: int, shown: bool = False
) -> str:
    """The command that starts a run and prints what `find_command` would; exits BUSY where one is going on already.

    Where it is only `shown`, words stand for the supervisor and for what is kept of the run.
    """
    supervisor, about = SUPERVISOR.read_text(), json.dumps(asdict(run))
    if shown:
        supervisor, about = (f"<{len(supervisor):,} bytes of {SUPERVISOR.name}>", f"<{len(about):,} bytes of JSON>")
    words = ["setsid", "--fork", "bash", "-c", supervisor, SUPERVISOR.name, str(floor), command]
    words += [str(path) for path in watched]
    return "\n".join(
        [
            f"set -eu; umask 077; mkdir -p -- {where}; cd -- {where}; {CHECK_OWNER}",
            f"exec 8> lock; flock --wait 1 8 || exit {BUSY}",
            "rm -f -- status output",
            f"{{ date +%s.%N; printf %s {quote(about)}; }} > about.new",
            "sync -- about.new; mv -- about.new about",
            # Appended: who stops the run writes there too, and neither writes over the other.
            f"{' '.join(quote(word) for word in words)} >> output 2>&1 < /dev/null",
            "cat about",
        ]
    )


def find_command(where: str) -> str:
    """Ask what a run is; prints nothing where there never was one."""
    return _if_job_dir_exists(
        where, "[ ! -e about ] || { [ -s about ] || { echo 'about is empty' >&2; exit 1; }; cat about; }"
    )


def is_running_command(where: str) -> str:
    """Ask whether a run is going on: its lock alone says so."""
    return _if_job_dir_exists(where, "[ ! -e lock ] || flock --nonblock --shared lock true || echo running")


def _if_job_dir_exists(where: str, ask: str) -> str:
    """Ask in the folder of a run; prints nothing where there is none."""
    return "\n".join(
        [
            f"if cd -- {where} 2>/dev/null; then {CHECK_OWNER}",
            f"  {ask}",
            # What cannot be seen is not what is not there.
            f"elif [ -e {where} ] || {{ [ -e {STATE_DIR} ] && [ ! -x {STATE_DIR} ]; }}; then",
            f"  echo 'it cannot be entered' >&2; exit {NOT_OURS}; fi",
        ]
    )


def parse_job(text: str) -> Job | None:
    """Run, from what `find_command` printed; None where there never was one. Raises ValueError."""
    if not text.strip():
        return None
    started, _, about = text.partition("\n")
    try:
        described = json.loads(about)
        return Job(**described | {"total": int(described["total"]), "started": float(started)})
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"this does not describe a run: {text.strip()[:200]!r}") from error


def status_command(where: str, growing: PurePosixPath | None, offset: int) -> str:
    """Ask how a run stands, and for what it printed after the first `offset` bytes. The lock is asked first."""
    size = f"stat -c %s -- {quote(growing)} 2>/dev/null || echo" if growing else "echo"
    return "\n".join(
        [
            f"cd -- {where} && {CHECK_OWNER}",
            "if flock --nonblock --shared lock true; then echo ended; else echo running; fi",
            "cat status 2>/dev/null || echo",
            size,
            "date +%s.%N",
            "head -n 1 about",
            f"tail -c +{offset + 1} -- output",
        ]
    )


def parse_status(text: str) -> JobStatus:
    """Look, from what `look_command` printed; raises ValueError."""
    running, end, size, now, started, output = text.split("\n", 5)
    status, ended = end.split() or (None, None)
    return JobStatus(
        running=running == "running",
        status=int(status) if status else None,
        ended=float(ended) if ended else None,
        bytes=int(size) if size else None,
        now=float(now),
        started=float(started),
        output=output,
    )


def start_job(
    host: Host, database: Database, run: Job, command: str, watched: Sequence[PurePosixPath] = (), floor: int = 0
) -> Job:
    """Start a run; raises StepError where one of its kind is going on, or where it cannot be started."""
    where = job_dir(database, run.kind)
    result = host.run(
        f"start the {run.kind}",
        start_command(where, run, command, watched, floor),
        root=True,
        display=start_command(where, run, command, watched, floor, shown=True),
    )
    if result.status == BUSY:
        going = None
        with contextlib.suppress(CouldNotLookError):  # it goes on, whatever is kept of it
            going = find_job(host, database, run.kind)
        since = f", started by {going.by} at {going.when}" if going else ""
        raise StepError(
            f"a {run.kind} of the {database.name} database is going on{since}",
            host=host.name,
            advice=f"see how it goes: {attach_command(host, database)}",
        )
    _check_job_dir(host, where, result)
    started = parse_job(result.stdout) if result.ok else None
    if started is None:
        raise StepError(f"the {run.kind} could not be started", host=host.name, output=result.output)
    return started


def find_job(host: Host, database: Database, kind: str) -> Job | None:
    """Find a database's last run of a kind; raises CouldNotLookError where its folder is damaged or another user's."""
    where = job_dir(database, kind)
    return _read(host, where, host.run(f"look for a {kind}", find_command(where), root=True), parse_job)


def read_status(host: Host, database: Database, kind: str, offset: int = 0) -> JobStatus:
    """Look how a run stands, with what it printed after `offset` bytes; raises CouldNotLookError."""
    where = job_dir(database, kind)
    growing = database.part if kind == BACKUP else None
    result = host.run(
        f"look how the {kind} goes",
        status_command(where, growing, offset),
        root=True,
        display=status_command(where, growing, 0),  # kept once, however often it is asked
    )
    return _read(host, where, result, parse_status)


def _read(host: Host, where: str, result: Result, parse: Callable[[str], T]) -> T:
    """Read what was asked in the folder of a run; raises CouldNotLookError where it cannot be believed."""
    _check_job_dir(host, where, result)
    printed = result.output
    if result.ok:
        try:
            return parse(result.stdout)
        except ValueError as error:
            printed = str(error)
    raise CouldNotLookError(
        f"the folder of this run, {_displayed(where)}, is damaged",
        host=host.name,
        output=printed,
        advice=f"if nothing runs, remove it there: rm -r {where}",
    )


@contextlib.contextmanager
def hint_on_detach(host: Host, database: Database, kind: str) -> Iterator[None]:
    """Say how to come back where the user or the connection leaves a run that is started or followed inside.

    Raises InterruptedRunError on Ctrl-C and ConnectionLostError where the connection is lost; both leave the run going.
    """
    goes_on = f"the {kind}, once started, goes on without this terminal"
    way = (
        f"come back to it: {attach_command(host, database)}; or end it: {attach_command(host, database, 'stop-backup')}"
    )
    try:
        yield
    except (KeyboardInterrupt, InterruptedRunError, RuntimeError) as error:
        # A lock that Ctrl-C meets while it is being taken or let go complains of that instead.
        if isinstance(error, RuntimeError) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        raise InterruptedRunError(f"detached: {goes_on}", host=host.name, advice=way) from None
    except ConnectionLostError as error:
        error.advice = f"{goes_on} and this connection. {way[0].upper()}{way[1:]}"
        raise


def follow_job(
    host: Host,
    database: Database,
    run: Job,
    echo: Callable[[str], None],
    progress: Callable[[JobStatus], None],
) -> JobStatus:
    """Stay with a run to its end, handing on what it prints and how far it is; return the last look."""
    offset, wait = 0, SHORTEST_WAIT
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode  # a look may end in the middle of a character
    while True:
        seen = read_status(host, database, run.kind, offset)
        _check_same_job(host, database, run, seen)
        printed = seen.output.encode("utf-8", "surrogateescape")
        offset += len(printed)
        echo(decode(printed))
        progress(seen)
        if not seen.running:
            return seen
        time.sleep(wait)
        wait = min(wait * 1.5, LONGEST_WAIT)


def _check_same_job(host: Host, database: Database, run: Job, seen: JobStatus) -> None:
    if seen.started != run.started:
        raise CouldNotLookError(
            f"another {run.kind} of the {database.name} database has begun since: how this one ended is not kept",
            host=host.name,
            advice=f"see what there is: {host.task('list-backups', '--database', database.name)}",
        )


def is_job_running(host: Host, database: Database, kind: str) -> bool:
    """Tell whether a run of a kind is going on, whatever is kept of it; raises CouldNotLookError."""
    where = job_dir(database, kind)
    result = host.run(f"look for a {kind}", is_running_command(where), root=True)
    return _read(host, where, result, lambda printed: printed == "running\n")


def stop_job_command(database: Database, kind: str, words: str = "") -> str:
    """The command that tells a run to end, and keeps some words, if there are any, with what it printed."""
    end = signal_processes_command("lock", "TERM")
    kept = f"echo {quote(words)} >> output; " if words else ""
    return f"cd -- {job_dir(database, kind)} && {CHECK_OWNER}; {kept}{end}"


def attach_command(host: Host, database: Database, task: str = "attach") -> str:
    """The command with which a run is found again."""
    return host.task(task, "--database", database.name)


def _check_job_dir(host: Host, where: str, result: Result) -> None:
    if result.status == NOT_OURS:
        raise CouldNotLookError(
            f"the folder of this run, {_displayed(where)}, is another user's: nothing in it is believed",
            host=host.name,
            output=result.output,
            advice=f"ask that user; if nothing runs, remove it there: rm -r {where}",
        )


def _displayed(where: str) -> str:
    return where.replace(HOME, "~")
