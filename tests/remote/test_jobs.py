"""Jobs: what is asked of a host, what its answers mean, and jobs that its own /bin/sh runs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from demo_backups.errors import (
    BackupsError,
    ConnectionLostError,
    CouldNotLookError,
    InterruptedRunError,
    JobNotStartedError,
    JobRunningError,
    JobStateError,
    StepError,
)
from demo_backups.rehearsal.server import processes_at_home
from demo_backups.remote import job_state, jobs
from demo_backups.remote.connection import open_host
from demo_backups.remote.host import Host
from demo_backups.remote.job_state import (
    BACKUP,
    CHECK,
    KINDS,
    MOST_JOBS,
    PIECE,
    SUPERVISOR,
    Job,
    JobStatus,
    describe_job,
    jobs_dir,
    parse_job,
    parse_status,
    stop_job_command,
)
from demo_backups.remote.jobs import (
    TAIL,
    find_job,
    follow_job,
    hint_on_detach,
    is_job_running,
    read_before,
    read_status,
    start_job,
)
from demo_backups.settings.model import Database, Settings

from ..helpers.constants import root_only
from ..helpers.processes import wait_until

JOB = Job(BACKUP, "tracker", "copy", "/db/it's ü.db", 4096, by="me@laptop")


@pytest.fixture
def database(project_settings: Settings, tmp_path: Path) -> Database:
    """The tracker database, with a backup folder of the test's own."""
    backups = tmp_path / "backups"
    backups.mkdir()
    return project_settings.model_copy(update={"backup_dir": PurePosixPath(backups)}).database("tracker")


@pytest.fixture(autouse=True)
def no_process_left(home: Path) -> Iterator[None]:
    """Kill what a test has started."""
    yield
    while pids := processes_at_home(home):
        for pid in pids:
            kill(pid)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def state_dirs(home: Path) -> list[Path]:
    """The state directories of the jobs, the oldest first."""
    return sorted((home / ".demo-backups").glob("*/[0-9]*"))


def state_dir(home: Path) -> Path:
    """The state directory of the only job."""
    (directory,) = state_dirs(home)
    return directory


def wait_for_job(local_host: Host, database: Database, kind: str = BACKUP) -> None:
    """Wait until no job of a kind is running."""
    wait_until(lambda: not is_job_running(local_host, database, kind), "the end of the job")


def processes(home: Path, text: str) -> list[int]:
    """The processes of the test's jobs whose command line contains a text."""
    return [pid for pid, line in command_lines(home) if text in line]


def sleepers(home: Path) -> list[int]:
    """The processes of the test's jobs that are a sleep of 600 seconds or a few more, and no longer a shell."""
    return [pid for pid, line in command_lines(home) if line.startswith("sleep 60")]


def command_lines(home: Path) -> Iterator[tuple[int, str]]:
    """The processes of the test's jobs, each with its command line."""
    for pid in processes_at_home(home):
        with contextlib.suppress(OSError):  # it has ended
            yield pid, Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def follow(local_host: Host, database: Database, job: Job) -> tuple[JobStatus, str]:
    """Follow a job to its end; returns its last status and all that it printed."""
    printed: list[str] = []
    return follow_job(local_host, database, job, printed.append, lambda status: None), "".join(printed)


def run_job(local_host: Host, database: Database, command: str, **options: Any) -> tuple[JobStatus, str]:
    """Start a job and follow it to its end."""
    return follow(local_host, database, start_job(local_host, database, JOB, command, **options))


def stop(local_host: Host, database: Database, message: str) -> None:
    """Stop a backup job."""
    local_host.execute("stop it", stop_job_command(database, BACKUP, message))


def says(error: pytest.ExceptionInfo[BackupsError], *texts: str) -> None:
    """Check that an error contains some texts."""
    for text in texts:
        assert text in str(error.value)


# --- what answers mean ----------------------------------------------------------------------------------------------


DESCRIBED = json.loads(describe_job(JOB))


def described(**changes: Any) -> str:
    """The description of a job, with changes."""
    return f"00000012\n1764023456.25\n{json.dumps(DESCRIBED | changes)}\n"


def test_description_is_parsed_as_it_was() -> None:
    job = parse_job(described())
    assert job == replace(JOB, started=1764023456.25, number=12)
    assert job.when == "2025-11-24 22:30:56+00:00"


def test_missing_job_is_reported() -> None:
    assert parse_job("none\n") is None


UNEXPECTED_DESCRIPTIONS = {
    "nothing": "",
    "empty line": "\n",
    "garbage": "garbage",
    "zeros": "\0" * 40,
    "none and more": "none\nnone\n",
    "no number": described().removeprefix("00000012\n"),
    "number too long": described().replace("00000012", "1" * 30),
    "number and time only": "00000012\n1764023456.25\n",
    "open brace": "00000012\n1764023456.25\n{",
    "null": "00000012\n1764023456.25\nnull",
    "list": "00000012\n1764023456.25\n[1]",
    "text": '00000012\n1764023456.25\n"kind"',
    "one field": '00000012\n1764023456.25\n{"kind": "backup"}',
    "nested deeply": "00000012\n1764023456.25\n" + "[" * 60_000,
    "half": described()[:-9],
    "field of another version": described(before=[]),
    "escape sequence as kind": described(kind="check\033]0;title\007"),
    "list as kind": described(kind=["backup"]),
    "no database": described(database=None),
    "long database": described(database="x" * 300),
    "number as name": described(by=3),
    "long name": described(by="x" * 300),
    "half of a character": described(by="\ud800"),
    "text as size": described(total="4096"),
    "negative size": described(total=-1),
    "true as size": described(total=True),
    "fraction as size": described(total=1.5),
    "size beyond files": described(total=10**400),
    "relative subject": described(subject="db"),
    "no subject": described(subject=""),
    "NUL in subject": described(subject="/db\0"),
    "long subject": described(subject="/" * 5000),
    "NUL in command": described(command="a\0b"),
    "long command": described(command="x" * 100_000),
    "date as time": described().replace("1764023456.25", "yesterday"),
    "nan as time": described().replace("1764023456.25", "nan"),
    "negative time": described().replace("1764023456.25", "-1"),
    "time after all years": described().replace("1764023456.25", "1e300"),
}


@pytest.mark.parametrize("printed", UNEXPECTED_DESCRIPTIONS.values(), ids=UNEXPECTED_DESCRIPTIONS)
def test_unexpected_description_is_refused(printed: str) -> None:
    with pytest.raises(ValueError, match="does not describe a job"):
        parse_job(printed)


@pytest.mark.parametrize(
    ("printed", "status"),
    [
        ("running\n\n4096\n17.5\n9.5\n0\n", JobStatus(True, None, None, 4096, 17.5, 9.5, "", 0)),
        ("running\n\n\n17.5\n9.5\n7\none\ntwo", JobStatus(True, None, None, None, 17.5, 9.5, "one\ntwo", 7)),
        ("ended\n0 16.25 \n\n17.5\n9.5\n0\n", JobStatus(False, 0, 16.25, None, 17.5, 9.5, "", 0)),
        ("ended\n143 16.25 \n\n17.5\n9.5\n9\n\n\n", JobStatus(False, 143, 16.25, None, 17.5, 9.5, "\n\n", 9)),
        ("ended\n\n\n17.5\n9.5\n0\n", JobStatus(False, None, None, None, 17.5, 9.5, "", 0)),
        ("ended\n1 16.25 disk full\n\n17.5\n9.5\n0\n", JobStatus(False, 1, 16.25, None, 17.5, 9.5, "", 0, "disk full")),
    ],
    ids=["copying", "printing", "succeeded", "stopped", "killed", "disk full"],
)
def test_status_is_parsed(printed: str, status: JobStatus) -> None:
    assert parse_status(printed) == status


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "running\n",
        "walking\n\n4096\n17.5\n9.5\n0\n",
        "ended\nwell\n\n17.5\n9.5\n0\n",
        "ended\n0\n\n17.5\n9.5\n0\n",
        "ended\n0 soon \n\n17.5\n9.5\n0\n",
        "ended\n0 16.25\n\n17.5\n9.5\n0\n",
        "ended\n-1 16.25 \n\n17.5\n9.5\n0\n",
        "ended\n256 16.25 \n\n17.5\n9.5\n0\n",
        "ended\n0 nan \n\n17.5\n9.5\n0\n",
        "ended\n0 1e300 \n\n17.5\n9.5\n0\n",
        "ended\n\0\0\n\n17.5\n9.5\n0\n",
        "running\n\nlarge\n17.5\n9.5\n0\n",
        "running\n\n-5\n17.5\n9.5\n0\n",
        "running\n\n" + "9" * 30 + "\n17.5\n9.5\n0\n",
        "running\n\n\nnow\n9.5\n0\n",
        "running\n\n\n17.5\n9.5\n-3\n",
        "ended\n17.5\nit has no status and no size",
    ],
)
def test_unexpected_status_is_refused(printed: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the message
        parse_status(printed)


@given(st.text())
@settings(derandomize=True, max_examples=300, deadline=None)
@example("none\n")
@example(described())
def test_any_description_is_parsed_or_refused(printed: str) -> None:
    with contextlib.suppress(ValueError):
        job = parse_job(printed)
        assert job is None or describe_job(job)


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200)
texts = names | st.binary(max_size=200).map(lambda value: value.replace(b"\0", b"").decode("utf-8", "surrogateescape"))


@given(
    st.builds(
        Job,
        st.sampled_from(KINDS),
        names,
        texts,
        texts.map(lambda value: f"/{value}"),
        st.integers(0, 2**63 - 1),
        texts,
        st.floats(0, 1e11, exclude_max=True),
        st.integers(1, 10**8 - 1),
    )
)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_described_job_is_read_back(job: Job) -> None:
    assert parse_job(f"{job.number:08}\n{job.started!r}\n{describe_job(job)}\n") == job


@given(st.text())
@settings(derandomize=True, max_examples=300, deadline=None)
@example("ended\n0 16.25 \n\n17.5\n9.5\n0\n")
@example("ended\n" + "9" * 5000 + " 1 \n\n17.5\n9.5\n0\n")
def test_any_status_is_parsed_or_refused(printed: str) -> None:
    with contextlib.suppress(ValueError):
        status = parse_status(printed)
        assert status.status is None or 0 <= status.status <= 255
        assert math.isfinite(status.now)


@pytest.mark.parametrize("answer", ["", "garbage\n", "walking\n\n\n1\n1\n0\n", "yes", "yes\nno\n"])
def test_unexpected_answer_is_neither_yes_nor_no(
    local_host: Host, database: Database, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    command = f"printf {json.dumps(answer)}"
    for name in ("start_command", "find_command", "status_command", "is_running_command"):
        monkeypatch.setattr(jobs, name, lambda *words, **options: command)
    queries: list[Callable[[], object]] = [
        lambda: start_job(local_host, database, JOB, "true"),
        lambda: find_job(local_host, database, BACKUP),
        lambda: read_status(local_host, database, JOB),
        lambda: is_job_running(local_host, database, BACKUP),
    ]
    for query in queries:
        with pytest.raises(JobStateError) as caught:
            query()
        says(caught, 'rm -r "$HOME"/.demo-backups/tracker-backup-')


@pytest.mark.parametrize(
    "change", [('"kind": "backup"', '"kind": "check"'), ('"database": "tracker"', '"database": "index"')]
)
def test_description_of_other_job_is_damage(
    local_host: Host, database: Database, home: Path, change: tuple[str, str]
) -> None:
    run_job(local_host, database, "true")
    about = state_dir(home) / "about"
    assert change[0] in about.read_text()
    about.write_text(about.read_text().replace(*change))
    with pytest.raises(JobStateError, match="is damaged"):
        find_job(local_host, database, BACKUP)


def test_job_directories_differ(database: Database, project_settings: Settings) -> None:
    """There is one for each database, kind and backup folder."""
    directories = {
        jobs_dir(database, BACKUP),
        jobs_dir(database, CHECK),
        jobs_dir(project_settings.database("tracker"), BACKUP),
        jobs_dir(project_settings.database("index"), BACKUP),
    }
    assert len(directories) == 4


# --- a job and its end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "exit_status", "output"),
    [
        ("echo one; echo two >&2", 0, "one\ntwo\n"),
        ("printf 'no line end'; exit 7", 7, "no line end"),
        ("printf 'ünï…\\n'", 0, "ünï…\n"),
        ("no-such-program 2>/dev/null", 127, ""),
        ("read -r line || echo 'no input'", 0, "no input\n"),
    ],
    ids=["success", "failure", "beyond ASCII", "no program", "no input"],
)
def test_job_keeps_status_and_output(
    local_host: Host, database: Database, command: str, exit_status: int, output: str
) -> None:
    job = start_job(local_host, database, JOB, command)
    status, printed = follow(local_host, database, job)
    assert (status.running, status.status, printed) == (False, exit_status, output)
    assert status.ended is not None
    assert job.started <= status.ended <= status.now
    later, printed_later = follow(local_host, database, job)
    assert (later.status, later.ended, printed_later) == (status.status, status.ended, printed)


def test_killed_command_is_no_failure(local_host: Host, database: Database) -> None:
    status, printed = run_job(local_host, database, "echo so far; kill -9 $$")
    assert (status.status, printed) == (128 + signal.SIGKILL, "so far\n")


def test_job_is_found_as_it_was_started(local_host: Host, database: Database) -> None:
    assert find_job(local_host, database, BACKUP) is None
    job = start_job(local_host, database, JOB, "true")
    assert find_job(local_host, database, BACKUP) == job
    assert job == replace(JOB, started=job.started, number=1)
    assert find_job(local_host, database, CHECK) is None


def test_stored_output_exceeds_argument_limit(local_host: Host, database: Database) -> None:
    job = start_job(local_host, database, JOB, "true", before="seq 100000")
    assert read_before(local_host, database, job, str.split) == [str(number) for number in range(1, 100_001)]


def test_failed_preparation_starts_nothing(local_host: Host, database: Database, home: Path) -> None:
    with pytest.raises(JobNotStartedError) as caught:
        start_job(local_host, database, JOB, "touch never", before="echo gone >&2; false")
    says(caught, "gone")
    assert state_dirs(home) == []
    assert [path.name for path in (home / ".demo-backups").glob("*/*")] == ["lock"]


def test_state_is_private(local_host: Host, database: Database, home: Path) -> None:
    run_job(local_host, database, "true")
    paths = [home / ".demo-backups", state_dir(home).parent, state_dir(home), *state_dir(home).iterdir()]
    assert {path.name for path in paths[3:]} == {"about", "before", "lock", "output", "status"}
    assert [path.name for path in paths if path.stat().st_mode & 0o077] == []


def test_each_job_has_its_own_result(local_host: Host, database: Database) -> None:
    first = start_job(local_host, database, JOB, "echo first; exit 7")
    wait_for_job(local_host, database)
    second = start_job(local_host, database, JOB, "echo second")
    assert find_job(local_host, database, BACKUP) == second
    for job, result in {first: (7, "first\n"), second: (0, "second\n")}.items():
        status, printed = follow(local_host, database, job)
        assert (status.status, printed) == result


def test_state_of_last_jobs_is_left(local_host: Host, database: Database, home: Path) -> None:
    for _ in range(MOST_JOBS + 2):
        run_job(local_host, database, "true")
    assert [directory.name for directory in state_dirs(home)] == [f"{3 + n:08}" for n in range(MOST_JOBS)]


def test_removed_state_cannot_be_followed(local_host: Host, database: Database, home: Path) -> None:
    first = start_job(local_host, database, JOB, "true")
    wait_for_job(local_host, database)
    shutil.rmtree(state_dir(home).parent)
    with pytest.raises(JobStateError, match="was removed"):
        follow(local_host, database, first)
    run_job(local_host, database, "true")  # which gets the same number
    assert state_dir(home).name == "00000001"
    with pytest.raises(JobStateError, match="was removed"):
        follow(local_host, database, first)


def test_leftovers_are_cleared_by_next_job(local_host: Host, database: Database, home: Path) -> None:
    """A start that was killed leaves a staged directory; earlier versions left files of one job."""
    run_job(local_host, database, "true")
    base = state_dir(home).parent
    (base / ".new").mkdir()
    (base / ".new/about").write_text("half")
    (base / "about").write_text("1.5\n{}")
    job = start_job(local_host, database, JOB, "true")
    assert job.number == 2
    assert sorted(path.name for path in base.iterdir()) == ["00000001", "00000002", "lock"]


def test_output_is_read_piece_by_piece(local_host: Host, database: Database, tmp_path: Path) -> None:
    """A piece may end in the middle of a character."""
    go = tmp_path / "go"
    waiting = f"until [ -e '{go}' ]; do sleep 0.01; done"
    job = start_job(local_host, database, JOB, f"printf 'first \\303'; {waiting}; printf '\\274'")
    printed: list[str] = []

    def progress(status: JobStatus) -> None:
        if "".join(printed) == "first ":
            go.touch()

    follow_job(local_host, database, job, printed.append, progress)
    assert "".join(printed) == "first ü"
    assert "�" not in printed


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, PIECE + TAIL])
def test_output_of_usual_size_is_complete(local_host: Host, database: Database, size: int) -> None:
    status, printed = run_job(local_host, database, f"head -c {size} /dev/zero | tr '\\0' x")
    assert (status.output_bytes, len(printed), set(printed)) == (size, size, {"x"})


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "running"])
def test_middle_of_long_output_is_left_out(local_host: Host, database: Database, home: Path, ended: bool) -> None:
    job = start_job(local_host, database, JOB, "echo first; head -c 20000000 /dev/zero | tr '\\0' x; echo last")
    if ended:
        wait_for_job(local_host, database)
    status, printed = follow(local_host, database, job)
    left_out = 20_000_011 - PIECE - TAIL
    assert (status.status, status.output_bytes) == (0, 20_000_011)
    assert printed.startswith("first\nxxx")
    assert printed.endswith("xxxlast\n")
    name = state_dir(home).relative_to(home / ".demo-backups")
    assert f"[... {left_out:,} bytes more, in ~/.demo-backups/{name}/output on local]" in printed
    assert len(printed) < PIECE + TAIL + 200


def test_copied_bytes_are_size_of_part(local_host: Host, database: Database) -> None:
    job = start_job(local_host, database, JOB, "sleep 600")
    assert read_status(local_host, database, job).bytes is None
    Path(database.part).write_bytes(b"x" * 5000)
    assert read_status(local_host, database, job).bytes == 5000


# --- one at a time --------------------------------------------------------------------------------------------------


def test_second_job_of_kind_is_refused(local_host: Host, database: Database) -> None:
    first = start_job(local_host, database, JOB, "sleep 600")
    with pytest.raises(StepError) as error:
        start_job(local_host, database, Job(BACKUP, "tracker", "copy", "/db", 1, by="you@desk"), "touch never")
    says(error, f"a backup of the tracker database is already running, started by me@laptop at {first.when}")
    says(error, "./inv attach")
    assert find_job(local_host, database, BACKUP) == first
    start_job(local_host, database, Job(CHECK, "tracker", "check", "/db", 1), "true")


def test_lock_outlives_supervisor(local_host: Host, database: Database, home: Path) -> None:
    job = start_job(local_host, database, JOB, "sleep 600")
    (command,) = wait_until(lambda: sleepers(home), "the command")

    def is_supervisor_gone() -> bool:
        """Kill the supervisor and its watcher, which may start a moment later; tell whether there was none."""
        pids = processes(home, "job.sh")
        for pid in pids:
            kill(pid)
        return not pids

    wait_until(is_supervisor_gone, "the end of the supervisor")
    assert read_status(local_host, database, job).running
    with pytest.raises(StepError, match="is already running"):
        start_job(local_host, database, JOB, "true")
    kill(command)
    wait_until(lambda: not sleepers(home), "the end of the command")
    status, _ = follow(local_host, database, job)
    assert (status.running, status.status, status.ended) == (False, None, None)
    assert run_job(local_host, database, "true")[0].status == 0


def test_simultaneous_starts_run_one_job(local_host: Host, database: Database, project_settings: Settings) -> None:
    """Each of them either starts a job or is refused, and each job has its own result."""
    local = project_settings.model_copy(update={"use_sudo": False})

    def start(number: int) -> Job | None:
        with open_host(local, "local") as host:
            try:
                return start_job(host, database, replace(JOB, by=f"user {number}"), f"echo {number}; sleep 0.2")
            except JobRunningError:
                return None

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(start, range(24)))
    started = {number: job for number, job in enumerate(results) if job}
    assert started
    assert len({job.number for job in started.values()}) == len(started)
    for number, job in started.items():
        status, printed = follow(local_host, database, job)
        assert (job.by, status.status, printed) == (f"user {number}", 0, f"{number}\n")


def test_start_during_locked_directory_is_refused(
    local_host: Host, database: Database, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(local_host, database, "true")
    monkeypatch.setattr(job_state, "START_TIMEOUT", 0)
    with (state_dir(home).parent / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(JobNotStartedError, match="has locked this directory"):
            start_job(local_host, database, JOB, "true")
    assert run_job(local_host, database, "true")[0].status == 0


# --- stopped from outside -------------------------------------------------------------------------------------------


def test_stop_ends_all_processes(local_host: Host, database: Database, home: Path) -> None:
    job = start_job(local_host, database, JOB, "sleep 601 & sleep 602 | sleep 603; echo never")
    wait_until(lambda: len(sleepers(home)) == 3, "the command")
    stop(local_host, database, "stopped by it's me")
    status, printed = follow(local_host, database, job)
    assert (status.status, printed) == (143, "stopped by it's me\n")
    assert sleepers(home) == []


def test_stopped_command_may_clean_up(local_host: Host, database: Database, home: Path) -> None:
    for _ in range(5):  # the command may end before its supervisor has got the signal, and after it
        job = start_job(local_host, database, JOB, "trap 'echo tidy; exit 9' TERM; sleep 600 & wait")
        # A process that is just being created still has the trap of the shell that creates it, and loses the signal.
        wait_until(lambda: sleepers(home), "the command")
        stop(local_host, database, "stopped")
        status, printed = follow(local_host, database, job)
        assert (status.status, printed) == (9, "stopped\ntidy\n")


def test_suspended_command_is_stopped_too(local_host: Host, database: Database, home: Path) -> None:
    job = start_job(local_host, database, JOB, "exec sleep 600")
    (pid,) = wait_until(lambda: sleepers(home), "the command")
    kill(pid, signal.SIGSTOP)
    wait_until(lambda: ") T " in Path(f"/proc/{pid}/stat").read_text(), "the signal")
    stop(local_host, database, "stopped by me")
    status, printed = follow(local_host, database, job)
    assert (status.status, printed) == (143, "stopped by me\n")


def test_full_disk_stops_job(local_host: Host, database: Database, tmp_path: Path) -> None:
    watched = [PurePosixPath("/"), PurePosixPath(tmp_path)]
    status, printed = run_job(local_host, database, "sleep 600", watched=watched, floor=2**62)
    assert status.status == 143
    assert printed.startswith("stopped: ")
    assert printed.endswith(f" bytes are free on the disk of /, and {2**62} must stay free\n")


def test_disk_of_state_directory_is_watched(local_host: Host, database: Database, home: Path) -> None:
    status, printed = run_job(local_host, database, "sleep 600", floor=2**62)
    assert status.status == 143
    assert f" bytes are free on the disk of {state_dir(home)}, and " in printed


def test_unreadable_free_space_stops_job(local_host: Host, database: Database, tmp_path: Path) -> None:
    gone = PurePosixPath(tmp_path / "gone")
    status, printed = run_job(local_host, database, "sleep 600", watched=[PurePosixPath(tmp_path), gone], floor=1)
    assert status.status == 143
    assert "No such file or directory" in printed
    assert printed.endswith(f"stopped: the free space on the disk of {gone} cannot be read\n")


@pytest.mark.parametrize(
    ("cause", "error"),
    [(KeyboardInterrupt(), InterruptedRunError), (ConnectionLostError("lost"), ConnectionLostError)],
    ids=["Ctrl-C", "connection lost"],
)
def test_detaching_says_how_to_come_back(
    local_host: Host, database: Database, cause: BaseException, error: type[BackupsError]
) -> None:
    with pytest.raises(error) as caught, hint_on_detach(local_host, database, CHECK):
        raise cause
    says(caught, "the check, once started, keeps running without this terminal")
    says(caught, "./inv attach --host local --database tracker", "./inv stop-backup --host local --database tracker")


# --- a state directory that cannot be trusted -----------------------------------------------------------------------


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fill_with_garbage(path: Path) -> None:
    path.write_bytes(b"\x00\xff{garbage")


def remove(path: Path) -> None:
    path.unlink()


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("about", empty),
        ("about", fill_with_garbage),
        ("about", replace_by_directory),
        ("status", empty),
        ("status", fill_with_garbage),
        ("output", remove),
        ("output", replace_by_directory),
    ],
)
def test_damaged_state_is_named(
    local_host: Host, database: Database, home: Path, name: str, damage: Callable[[Path], None]
) -> None:
    run_job(local_host, database, "true")
    damage(state_dir(home) / name)

    def attach() -> None:
        if job := find_job(local_host, database, BACKUP):
            follow(local_host, database, job)

    with pytest.raises(CouldNotLookError) as error:
        attach()
    directory = state_dir(home)
    place = directory.relative_to(home / ".demo-backups")
    says(error, f"the state directory of this job, ~/.demo-backups/{place}, is damaged")
    says(error, f'rm -r "$HOME"/.demo-backups/{place}')
    shutil.rmtree(directory)  # the advice helps
    assert run_job(local_host, database, "true")[0].status == 0


@pytest.mark.parametrize("name", ["about", "status", "output"])
@pytest.mark.parametrize("damage", [fill_with_garbage, empty, replace_by_directory])
def test_only_the_lock_tells_a_running_job(
    local_host: Host, database: Database, home: Path, name: str, damage: Callable[[Path], None]
) -> None:
    assert not is_job_running(local_host, database, BACKUP)
    job = start_job(local_host, database, JOB, "sleep 600")
    wait_until(lambda: sleepers(home), "the command")
    (state_dir(home) / name).touch()
    damage(state_dir(home) / name)
    assert is_job_running(local_host, database, BACKUP)
    with pytest.raises(StepError, match="a backup of the tracker database is already running"):
        start_job(local_host, database, job, "true")
    stop(local_host, database, "stopped")
    wait_until(lambda: not is_job_running(local_host, database, BACKUP), "its end")


def test_job_without_status_was_killed(local_host: Host, database: Database, home: Path) -> None:
    job = start_job(local_host, database, JOB, "echo so far")
    wait_for_job(local_host, database)
    (state_dir(home) / "status").unlink()
    status = read_status(local_host, database, job)
    assert (status.running, status.status, status.output) == (False, None, "so far\n")


@root_only
def test_state_of_other_user_is_rejected(local_host: Host, database: Database, home: Path) -> None:
    job = start_job(local_host, database, JOB, "true")
    wait_for_job(local_host, database)
    base = state_dir(home).parent
    os.chown(base, 65534, 65534)
    before = snapshot(base)
    for query in (
        lambda: start_job(local_host, database, JOB, "true"),
        lambda: find_job(local_host, database, BACKUP),
        lambda: read_status(local_host, database, job),
        lambda: is_job_running(local_host, database, BACKUP),
    ):
        with pytest.raises(CouldNotLookError) as error:
            query()
        says(error, "it is rejected", "its owner is nobody", "rm -r ")
    with pytest.raises(StepError, match="could not stop it") as refused:
        stop(local_host, database, "stopped")
    says(refused, "its owner is nobody")
    assert snapshot(base) == before


def test_inaccessible_state_is_not_missing(local_host: Host, database: Database, home: Path) -> None:
    (home / ".demo-backups").mkdir()
    name = jobs_dir(database, BACKUP).rpartition("/")[2]
    (home / ".demo-backups" / name).write_text("a file")
    with pytest.raises(CouldNotLookError, match="rejected") as error:
        find_job(local_host, database, BACKUP)
    says(error, "can't cd to")
    with pytest.raises(StepError) as refused:
        start_job(local_host, database, JOB, "true")
    says(refused, "the backup could not be started", "exists")


def snapshot(folder: Path) -> dict[Path, bytes]:
    """The files below a folder, with their content."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_supervisor_adds_nothing_to_output(tmp_path: Path) -> None:
    """Bash reports a job that ends at once: in one of a dozen runs, on an idle machine."""
    command = ["bash", "-c", SUPERVISOR.read_text(), "job.sh", "0", "", "", "", "echo ok"]
    for _ in range(100):
        with (tmp_path / "output").open("w") as output:
            subprocess.run(command, cwd=tmp_path, stdout=output, stderr=output, check=True)
        assert (tmp_path / "output").read_text() == "ok\n"
