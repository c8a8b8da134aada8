"""Runs that go on by themselves: what is asked of a host, what its answers mean, and runs by its own /bin/sh."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.errors import BackupsError, ConnectionLostError, CouldNotLookError, InterruptedRunError, StepError
from demo_backups.rehearsal.server import processes_at_home
from demo_backups.remote.host import Host
from demo_backups.remote.jobs import (
    SUPERVISOR,
    Job,
    JobStatus,
    find_job,
    follow_job,
    hint_on_detach,
    is_job_running,
    job_dir,
    parse_job,
    parse_status,
    read_status,
    start_job,
    stop_job_command,
)
from demo_backups.settings import Database, Settings

from ..helpers.processes import wait_until

RUN = Job("backup", "tracker", "copy", "/db/it's ü.db", 4096, ["old.db"], by="me@laptop")


@pytest.fixture
def database(project_settings: Settings, tmp_path: Path) -> Database:
    """The tracker database, with a backup folder of the test's own."""
    backups = tmp_path / "backups"
    backups.mkdir()
    return project_settings.model_copy(update={"backup_dir": PurePosixPath(backups)}).database("tracker")


@pytest.fixture(autouse=True)
def nothing_goes_on(home: Path) -> Iterator[None]:
    """Leave no process behind."""
    yield
    while left := processes_at_home(home):
        for pid in left:
            kill(pid)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def folder_of(home: Path) -> Path:
    """The folder of the only run."""
    (folder,) = (home / ".demo-backups").iterdir()
    return folder


def processes(home: Path, words: str) -> list[int]:
    """The processes of the test's runs whose command line has these words in it."""
    return [pid for pid, line in command_lines(home) if words in line]


def sleepers(home: Path) -> list[int]:
    """The processes of the test's runs that are a sleep of 600 seconds or a few more, and no longer a shell."""
    return [pid for pid, line in command_lines(home) if line.startswith("sleep 60")]


def command_lines(home: Path) -> Iterator[tuple[int, str]]:
    """The processes of the test's runs, each with its command line."""
    for pid in processes_at_home(home):
        with contextlib.suppress(OSError):  # it is gone
            yield pid, Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def end(here: Host, database: Database, run: Job) -> tuple[JobStatus, str]:
    """Stay with a run to its end; returns the last look and all that it printed."""
    printed: list[str] = []
    return follow_job(here, database, run, printed.append, lambda seen: None), "".join(printed)


def says(error: pytest.ExceptionInfo[BackupsError], *words: str) -> None:
    """Check the words of an error."""
    for each in words:
        assert each in str(error.value)


# --- what answers mean ----------------------------------------------------------------------------------------------


def test_what_describes_a_run_comes_back_as_it_was() -> None:
    found = parse_job(f"1764023456.25\n{json.dumps(asdict(RUN))}")
    assert found == Job(**asdict(RUN) | {"started": 1764023456.25})
    assert found.when == "2025-11-24 22:30:56+00:00"


@pytest.mark.parametrize("printed", ["", "\n"])
def test_no_answer_is_no_run(printed: str) -> None:
    assert parse_job(printed) is None


@pytest.mark.parametrize(
    "printed",
    [
        "garbage",
        "\0" * 40,
        "1764023456.25",
        "1764023456.25\n",
        "1764023456.25\n{",
        "1764023456.25\nnull",
        "1764023456.25\n[1]",
        '1764023456.25\n"kind"',
        '1764023456.25\n{"kind": "backup"}',
        f"1764023456.25\n{json.dumps(asdict(RUN) | {'total': 'much'})}",
        f"1764023456.25\n{json.dumps(asdict(RUN) | {'more': 1})}",
        f"yesterday\n{json.dumps(asdict(RUN))}",
        f"1764023456.25\n{json.dumps(asdict(RUN))[:-9]}",
    ],
)
def test_what_describes_no_run_is_refused(printed: str) -> None:
    with pytest.raises(ValueError, match="does not describe a run"):
        parse_job(printed)


@pytest.mark.parametrize(
    ("printed", "seen"),
    [
        ("running\n\n4096\n17.5\n9.5\n", JobStatus(True, None, None, 4096, 17.5, 9.5, "")),
        ("running\n\n\n17.5\n9.5\none\ntwo", JobStatus(True, None, None, None, 17.5, 9.5, "one\ntwo")),
        ("ended\n0 16.25\n\n17.5\n9.5\n", JobStatus(False, 0, 16.25, None, 17.5, 9.5, "")),
        ("ended\n143 16.25\n\n17.5\n9.5\n\n\n", JobStatus(False, 143, 16.25, None, 17.5, 9.5, "\n\n")),
        ("ended\n\n\n17.5\n9.5\n", JobStatus(False, None, None, None, 17.5, 9.5, "")),
    ],
    ids=["copying", "printing", "ended well", "stopped", "killed"],
)
def test_a_look_at_a_run(printed: str, seen: JobStatus) -> None:
    assert parse_status(printed) == seen


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "running\n",
        "ended\nwell\n\n17.5\n",
        "ended\n0\n\n17.5\n",
        "ended\n0 soon\n\n17.5\n",
        "ended\n0 16.25 9\n\n17.5\n",
        "ended\n\0\0\n\n17.5\n",
        "running\n\nlarge\n17.5\n",
        "running\n\n\nnow\n",
        "ended\n17.5\nit has no status and no size",
    ],
)
def test_a_look_that_cannot_be_read_is_refused(printed: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever its words
        parse_status(printed)


def test_a_folder_is_of_one_database_one_kind_and_one_place(database: Database, project_settings: Settings) -> None:
    names = {
        job_dir(database, "backup"),
        job_dir(database, "check"),
        job_dir(project_settings.database("tracker"), "backup"),
        job_dir(project_settings.database("index"), "backup"),
    }
    assert len(names) == 4


# --- a run and its end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "status", "printed"),
    [
        ("echo one; echo two >&2", 0, "one\ntwo\n"),
        ("printf 'no line end'; exit 7", 7, "no line end"),
        ("printf 'ünï…\\n'", 0, "ünï…\n"),
        ("no-such-program 2>/dev/null", 127, ""),
        ("read -r line || echo 'nobody answers'", 0, "nobody answers\n"),
    ],
    ids=["well", "failed", "beyond ASCII", "no program", "no input"],
)
def test_a_run_keeps_its_exit_status_and_what_it_printed(
    here: Host, database: Database, command: str, status: int, printed: str
) -> None:
    run = start_job(here, database, RUN, command)
    seen, said = end(here, database, run)
    assert (seen.running, seen.status, said) == (False, status, printed)
    assert seen.ended is not None
    assert run.started <= seen.ended <= seen.now
    again, said_again = end(here, database, run)  # and to whoever asks later
    assert (again.status, again.ended, said_again) == (seen.status, seen.ended, said)


def test_a_command_that_is_killed_is_told_from_one_that_fails(here: Host, database: Database) -> None:
    seen, printed = end(here, database, start_job(here, database, RUN, "echo so far; kill -9 $$"))
    assert seen.status == 128 + signal.SIGKILL
    assert printed == "so far\n"


def test_a_run_is_found_as_it_was_started(here: Host, database: Database) -> None:
    assert find_job(here, database, "backup") is None
    run = start_job(here, database, RUN, "true")
    assert find_job(here, database, "backup") == run
    assert (run.subject, run.before, run.by) == (RUN.subject, RUN.before, RUN.by)
    assert find_job(here, database, "check") is None


def test_nobody_else_can_read_what_is_kept(here: Host, database: Database, home: Path) -> None:
    end(here, database, start_job(here, database, RUN, "true"))
    kept = [home / ".demo-backups", folder_of(home), *folder_of(home).iterdir()]
    assert {path.name for path in kept[2:]} == {"about", "lock", "output", "status"}
    assert [path.name for path in kept if path.stat().st_mode & 0o077] == []


def test_a_new_run_takes_the_place_of_one_that_has_ended(here: Host, database: Database) -> None:
    end(here, database, start_job(here, database, RUN, "echo first; exit 7"))
    seen, printed = end(here, database, start_job(here, database, RUN, "echo second"))
    assert (seen.status, printed) == (0, "second\n")


def test_a_look_hands_on_only_what_is_new_and_never_half_a_character(
    here: Host, database: Database, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    run = start_job(
        here, database, RUN, f"printf 'first \\303'; until [ -e '{go}' ]; do sleep 0.01; done; printf '\\274'"
    )
    printed: list[str] = []

    def progress(seen: JobStatus) -> None:
        if "".join(printed) == "first ":
            go.touch()

    follow_job(here, database, run, printed.append, progress)
    assert "".join(printed) == "first ü"
    assert "�" not in printed


def test_how_much_is_copied_is_the_size_of_the_part(here: Host, database: Database) -> None:
    start_job(here, database, RUN, "sleep 600")
    assert read_status(here, database, "backup").bytes is None
    Path(database.part).write_bytes(b"x" * 5000)
    assert read_status(here, database, "backup").bytes == 5000


# --- one at a time --------------------------------------------------------------------------------------------------


def test_a_second_run_is_refused_and_told_of_the_first(here: Host, database: Database) -> None:
    first = start_job(here, database, RUN, "sleep 600")
    with pytest.raises(StepError) as error:
        start_job(here, database, Job("backup", "tracker", "copy", "/db", 1, by="you@desk"), "touch never")
    says(error, f"a backup of the tracker database is going on, started by me@laptop at {first.when}", "./inv attach")
    assert find_job(here, database, "backup") == first
    start_job(here, database, Job("check", "tracker", "check", "/db", 1), "true")  # another kind is another matter


def test_the_lock_outlives_the_supervisor_for_as_long_as_the_command_goes_on(
    here: Host, database: Database, home: Path
) -> None:
    run = start_job(here, database, RUN, "sleep 600")
    (command,) = wait_until(lambda: sleepers(home), "the command")

    def killed() -> bool:
        """Kill the supervisor and its watcher, which may begin a moment later; tell whether none was left."""
        left = processes(home, "job.sh")
        for pid in left:
            kill(pid)
        return not left

    wait_until(killed, "the end of the supervisor")
    assert read_status(here, database, "backup").running
    with pytest.raises(StepError) as error:
        start_job(here, database, RUN, "true")
    says(error, "is going on")
    kill(command)
    wait_until(lambda: not sleepers(home), "the end of the command")
    seen, _ = end(here, database, run)
    assert (seen.running, seen.status, seen.ended) == (False, None, None)
    assert end(here, database, start_job(here, database, RUN, "true"))[0].status == 0


# --- its end from outside -------------------------------------------------------------------------------------------


def test_stopping_ends_all_of_it_and_keeps_the_words_and_the_status(here: Host, database: Database, home: Path) -> None:
    run = start_job(here, database, RUN, "sleep 601 & sleep 602 | sleep 603; echo never")
    wait_until(lambda: len(sleepers(home)) == 3, "the command")
    here.execute("stop it", stop_job_command(database, "backup", "stopped by it's me"))
    seen, printed = end(here, database, run)
    assert (seen.status, printed) == (143, "stopped by it's me\n")
    assert sleepers(home) == []


def test_a_command_may_tidy_up_after_the_signal_that_stops_it_and_the_status_is_its_own(
    here: Host, database: Database, home: Path
) -> None:
    for _ in range(5):  # the command may end before its supervisor has seen the signal, and after it
        run = start_job(here, database, RUN, "trap 'echo tidy; exit 9' TERM; sleep 600 & wait")
        # A process that is just being made still has the trap of the shell that makes it, and loses the signal.
        wait_until(lambda: sleepers(home), "the command")
        here.execute("stop it", stop_job_command(database, "backup", "stopped"))
        seen, printed = end(here, database, run)
        assert (seen.status, printed) == (9, "stopped\ntidy\n")


def test_a_run_is_stopped_where_too_little_space_stays_free(here: Host, database: Database, tmp_path: Path) -> None:
    floor = 2**62
    run = start_job(here, database, RUN, "sleep 600", [PurePosixPath("/"), PurePosixPath(tmp_path)], floor)
    seen, printed = end(here, database, run)
    assert seen.status == 143
    assert printed.startswith("stopped: ")
    assert printed.endswith(f" bytes are free on the disk of /, and {floor} are to stay free\n")


def test_the_disk_that_the_run_itself_is_kept_on_is_watched_too(here: Host, database: Database, home: Path) -> None:
    seen, printed = end(here, database, start_job(here, database, RUN, "sleep 600", [], 2**62))
    assert seen.status == 143
    assert f" bytes are free on the disk of {folder_of(home)}, and " in printed


def test_a_disk_that_cannot_be_seen_is_not_taken_for_one_with_space(
    here: Host, database: Database, tmp_path: Path
) -> None:
    gone = PurePosixPath(tmp_path / "gone")
    run = start_job(here, database, RUN, "sleep 600", [PurePosixPath(tmp_path), gone], 1)
    seen, printed = end(here, database, run)
    assert seen.status == 143
    assert "No such file or directory" in printed
    assert printed.endswith(f"stopped: how much is free on the disk of {gone} cannot be seen\n")


def test_a_command_that_is_stopped_by_a_signal_can_be_ended_too(here: Host, database: Database, home: Path) -> None:
    run = start_job(here, database, RUN, "exec sleep 600")
    (pid,) = wait_until(lambda: sleepers(home), "the command")
    kill(pid, signal.SIGSTOP)
    wait_until(lambda: ") T " in Path(f"/proc/{pid}/stat").read_text(), "the signal")
    here.execute("stop it", stop_job_command(database, "backup", "stopped by me"))
    seen, printed = end(here, database, run)
    assert (seen.status, printed) == (143, "stopped by me\n")


def test_a_connection_or_a_user_that_leaves_is_told_the_way_back(here: Host, database: Database) -> None:
    for leaves, raised in (
        (KeyboardInterrupt(), InterruptedRunError),
        (ConnectionLostError("lost"), ConnectionLostError),
    ):
        with pytest.raises(raised) as error, hint_on_detach(here, database, "check"):
            raise leaves
        says(
            error,
            "the check, once started, goes on without this terminal",
            "./inv attach --host local --database tracker",
            "./inv stop-backup --host local --database tracker",
        )


# --- a folder that cannot be believed -------------------------------------------------------------------------------


def is_empty(path: Path) -> None:
    path.write_bytes(b"")


def is_garbage(path: Path) -> None:
    path.write_bytes(b"\x00\xff{garbage")


def is_missing(path: Path) -> None:
    path.unlink()


def is_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("about", is_empty),
        ("about", is_garbage),
        ("about", is_a_folder),
        ("status", is_empty),
        ("status", is_garbage),
        ("output", is_missing),
        ("output", is_a_folder),
    ],
)
def test_a_damaged_folder_is_named_and_nothing_is_made_of_it(
    here: Host, database: Database, home: Path, name: str, damage: Callable[[Path], None]
) -> None:
    run = start_job(here, database, RUN, "true")
    end(here, database, run)
    damage(folder_of(home) / name)

    def attach() -> None:
        if found := find_job(here, database, "backup"):
            end(here, database, found)

    with pytest.raises(CouldNotLookError) as error:
        attach()
    shown = f"~/.demo-backups/{folder_of(home).name}"
    says(error, f"the folder of this run, {shown}, is damaged", f'rm -r "$HOME"/.demo-backups/{folder_of(home).name}')
    # What is advised mends it.
    shutil.rmtree(folder_of(home))
    assert end(here, database, start_job(here, database, RUN, "true"))[0].status == 0


@pytest.mark.parametrize("name", ["about", "status", "output"])
@pytest.mark.parametrize("damage", [is_garbage, is_empty, is_a_folder])
def test_whether_a_run_goes_on_is_asked_of_its_lock_alone(
    here: Host, database: Database, home: Path, name: str, damage: Callable[[Path], None]
) -> None:
    assert not is_job_running(here, database, "backup")
    run = start_job(here, database, RUN, "sleep 600")
    wait_until(lambda: sleepers(home), "the command")
    (folder_of(home) / name).touch()
    damage(folder_of(home) / name)
    assert is_job_running(here, database, "backup")
    with pytest.raises(StepError, match="a backup of the tracker database is going on"):
        start_job(here, database, run, "true")
    here.execute("stop it", stop_job_command(database, "backup", "stopped"))
    wait_until(lambda: not is_job_running(here, database, "backup"), "its end")


def test_a_run_without_a_status_was_killed(here: Host, database: Database, home: Path) -> None:
    end(here, database, start_job(here, database, RUN, "echo so far"))
    (folder_of(home) / "status").unlink()
    seen = read_status(here, database, "backup")
    assert (seen.running, seen.status, seen.output) == (False, None, "so far\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_the_folder_of_another_user_is_not_believed_and_not_written(here: Host, database: Database, home: Path) -> None:
    end(here, database, start_job(here, database, RUN, "true"))
    os.chown(folder_of(home), 65534, 65534)
    before = {path.name: path.read_bytes() for path in folder_of(home).iterdir()}
    for do in (
        lambda: start_job(here, database, RUN, "true"),
        lambda: find_job(here, database, "backup"),
        lambda: read_status(here, database, "backup"),
    ):
        with pytest.raises(CouldNotLookError) as error:
            do()
        says(error, "is another user's: nothing in it is believed", "it belongs to nobody", "rm -r ")
    with pytest.raises(StepError) as refused:
        here.execute("stop it", stop_job_command(database, "backup", "stopped"))
    says(refused, "it belongs to nobody")
    assert {path.name: path.read_bytes() for path in folder_of(home).iterdir()} == before


def test_what_is_there_and_cannot_be_entered_is_not_taken_for_nothing(
    here: Host, database: Database, home: Path
) -> None:
    (home / ".demo-backups").mkdir()
    place = job_dir(database, "backup").rpartition("/")[2]
    (home / ".demo-backups" / place).write_text("a file")
    with pytest.raises(CouldNotLookError) as error:
        find_job(here, database, "backup")
    says(error, "it cannot be entered")
    with pytest.raises(StepError) as refused:
        start_job(here, database, RUN, "true")
    says(refused, "the backup could not be started", "exists")


def test_nothing_but_what_the_command_prints_is_its_output(tmp_path: Path) -> None:
    """Bash itself tells of a job that ends at once: in one of a dozen tries, on an idle machine."""
    words = ["bash", "-c", SUPERVISOR.read_text(), "job.sh", "0", "echo ok"]
    for _ in range(100):
        with (tmp_path / "output").open("w") as output:
            subprocess.run(words, cwd=tmp_path, stdout=output, stderr=output, check=True)
        assert (tmp_path / "output").read_text() == "ok\n"
