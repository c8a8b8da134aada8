"""Backups: their names, the list of them, running one as cron would, and finding what it made."""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.backup.catalog import find_new_backup, is_backup_name, list_backups
from demo_backups.backup.run import collect_result, cron_command, start_backup
from demo_backups.backup.stop import active_jobs, end_backup
from demo_backups.errors import CouldNotLookError, StepError
from demo_backups.remote.files import File
from demo_backups.remote.host import Host
from demo_backups.remote.jobs import Job, JobStatus, follow_job, read_status
from demo_backups.remote.shell import quote
from demo_backups.settings import Database, Settings

from ..helpers.constants import ODD_NAMES
from ..helpers.processes import wait_until

NAME = "backup_2024-11-24_20-00-00.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / 'it\'s a "folder" with 100% \\t'
    path.mkdir()
    return path


@pytest.fixture
def database(project_settings: Settings, folder: Path) -> Database:
    """The index database, with a backup folder of the test's own."""
    return replace(project_settings.database("index"), backup_dir=PurePosixPath(folder))


def file(name: str, minutes: int = 0) -> File:
    return File(PurePosixPath("/b") / name, 1, datetime(2024, 1, 1, tzinfo=timezone.utc) + timedelta(minutes=minutes))


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "of"),
    [
        (NAME, "index"),
        (f"tracker_{NAME}", "tracker"),
        (f"{NAME}-journal", None),
        (f"{NAME}.part", None),
        (f".{NAME}", None),
        (f"my_{NAME}", None),
        (f"{NAME}\n", None),
        ("backup_2024-11-24.db", None),
        ("backup_2024-11-24_20-00-0x.db", None),
        ("backup_2024-11-24_20-00-00xdb", None),
        ("backup_.db", None),
        ("", None),
    ],
)
def test_a_backup_is_told_by_its_name(project_settings: Settings, name: str, of: str | None) -> None:
    taken = {each for each in ("index", "tracker") if is_backup_name(project_settings.database(each), name)}
    assert taken == ({of} if of else set())


# --- the list -------------------------------------------------------------------------------------------------------


def test_the_backups_of_a_database_are_listed_the_newest_first(here: Host, database: Database, folder: Path) -> None:
    for number, day in enumerate(("23", "25", "24")):
        path = folder / f"backup_2024-11-{day}_00-00-00.db"
        path.write_bytes(bytes(number))
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    for other in (f"tracker_{NAME}", f"{NAME}-journal", ".backup.part", "backup_by_hand.db", "notes.txt"):
        (folder / other).touch()
    (folder / "below").mkdir()
    (folder / "below" / NAME).touch()
    seen = list_backups(here, database)
    assert [(backup.path.name[15:17], backup.bytes) for backup in seen] == [("24", 2), ("25", 1), ("23", 0)]
    assert {backup.path.parent for backup in seen} == {PurePosixPath(folder)}


def test_backups_of_one_moment_are_listed_by_their_names(here: Host, database: Database, folder: Path) -> None:
    names = [f"backup_2024-11-24_20-00-{second:02}.db" for second in range(20)]
    for name in names:
        (folder / name).touch()
        os.utime(folder / name, (1_700_000_000, 1_700_000_000))
    assert [backup.path.name for backup in list_backups(here, database)] == names[::-1]


def test_an_empty_folder_is_told_from_one_that_cannot_be_seen(here: Host, database: Database, folder: Path) -> None:
    assert list_backups(here, database) == []
    folder.rmdir()
    with pytest.raises(CouldNotLookError, match="could not list the backups in") as caught:
        list_backups(here, database)
    assert "No such file or directory" in caught.value.output


# --- running one ----------------------------------------------------------------------------------------------------


def as_cron(command: str, environment: dict[str, str]) -> str:
    """What a command prints, run as cron would from a shell with some environment."""
    words = ["/bin/sh", "-c", cron_command(command)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_job_gets_the_bare_environment_of_cron(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": f"/opt/bin:{os.environ['PATH']}", "LANG": "de_DE.UTF-8"}
    environment |= {"DATABASE_FILE": "/wrong", "BASH_ENV": "/wrong", "LOGNAME": "wrong", "SHELL": "/bin/zsh"}
    printed = as_cron("exec env", environment).splitlines()
    assert sorted(line for line in printed if not line.startswith("PWD=")) == [  # the shell's own
        f"HOME={tmp_path}",
        f"LOGNAME={pwd.getpwuid(os.geteuid()).pw_name}",
        "PATH=/usr/bin:/bin",
        "SHELL=/bin/sh",
    ]


@pytest.mark.parametrize("name", ["usual", *ODD_NAMES.values()], ids=["usual", *ODD_NAMES])
def test_a_job_starts_in_the_home_directory(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    assert as_cron("pwd", {"HOME": str(home), "PATH": os.environ["PATH"]}) == f"{home}\n"


def test_a_job_is_run_by_sh_and_not_by_the_shell_that_asks(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    assert as_cron("A='it'\"'\"'s 100%' sh -c 'printf %s \"$A\"' 2>&1", environment) == "it's 100%"
    assert as_cron("echo $0", environment) == "/bin/sh\n"


def run_backup(host: Host, database: Database, command: str) -> tuple[Job, JobStatus, str]:
    """Run a command as a task does, and stay with it to its end."""
    run = start_backup(host, database, command, total=1, floor=0)
    printed: list[str] = []
    seen = follow_job(host, database, run, printed.append, lambda look: None)
    return run, seen, "".join(printed)


def test_a_run_finds_what_it_made_and_hands_on_what_is_printed(here: Host, database: Database, folder: Path) -> None:
    (folder / NAME).touch()
    new = folder / "backup_2024-11-24_21-00-00.db"
    run, seen, printed = run_backup(here, database, f"cd {quote(str(folder))} && echo at work && echo x > {new.name}")
    assert (seen.status, printed) == (0, "at work\n")
    assert seen.ended is not None
    assert seen.ended > run.started
    file = collect_result(here, database, run, seen, printed)
    assert (file.path, file.bytes) == (PurePosixPath(new), 2)


def test_a_run_that_fails_is_a_failure_even_if_it_made_a_file(here: Host, database: Database, folder: Path) -> None:
    command = f"touch {quote(str(folder / NAME))}; echo half done; echo 'disk full' >&2; exit 13"
    run, seen, printed = run_backup(here, database, command)
    with pytest.raises(StepError, match="local: the backup of the index database failed") as caught:
        collect_result(here, database, run, seen, printed)
    assert caught.value.output == "half done\ndisk full"
    assert "older backups untouched" in caught.value.advice


def test_a_run_that_is_killed_is_a_failure(here: Host, database: Database) -> None:
    run, seen, printed = run_backup(here, database, "kill -9 $$")
    with pytest.raises(StepError, match="failed"):
        collect_result(here, database, run, seen, printed)


def test_a_run_that_ends_well_and_makes_nothing_is_a_failure(here: Host, database: Database, folder: Path) -> None:
    (folder / NAME).touch()
    run, seen, printed = run_backup(
        here, database, f": > {quote(str(folder.parent / NAME))}"
    )  # it wrote somewhere else
    assert seen.status == 0
    with pytest.raises(StepError, match="the script ended well but made no new backup in") as caught:
        collect_result(here, database, run, seen, printed)
    assert "another folder" in caught.value.advice


def test_what_heeds_no_sigterm_is_killed_and_what_it_left_is_cleared(
    here: Host, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo_backups.backup.stop.STOP_TIMEOUT", 0.2)
    part = Path(database.part)
    command = f"trap '' TERM; exec 9> {quote(database.lock)}; echo half > {quote(str(part))}; sleep 60; echo never"
    run = start_backup(here, database, command, 1, 0)
    wait_until(part.exists, "the command")
    end_backup(here, database, "stopped by me")
    assert active_jobs(here, database) == ([], [])
    assert not part.exists()
    seen = read_status(here, database, run.kind)
    assert (seen.running, seen.output) == (False, "stopped by me\n")
    assert seen.status in (137, None)  # its supervisor is killed too, before it has kept the status or afterwards


def test_a_folder_that_cannot_be_seen_stops_a_run_before_it_starts(
    here: Host, database: Database, folder: Path
) -> None:
    folder.rmdir()
    with pytest.raises(CouldNotLookError):
        run_backup(here, database, f"touch {quote(str(folder.parent / 'ran'))}")
    assert not (folder.parent / "ran").exists()


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ([], [], None),
        ([], ["a"], "a"),
        (["a"], ["a"], None),
        (["a"], ["b", "a"], "b"),
        (["a", "b"], ["c"], "c"),  # the rotation took two
        (["a", "b"], ["b"], None),
        (["a"], ["c", "b", "a"], "b"),  # cron ran afterwards: the first
        (["a"], ["a", "b"], "b"),  # whatever the clock says
    ],
)
def test_what_was_made_is_the_first_that_was_not_there_before(
    before: list[str], after: list[str], new: str | None
) -> None:
    found = find_new_backup(
        before, [file(name, -number) for number, name in enumerate(after)], file("now", 1).modified.timestamp()
    )
    assert (found.path.name if found else None) == new


def test_a_backup_that_was_only_written_again_is_no_new_one() -> None:
    assert find_new_backup([NAME], [replace(file(NAME, 5), bytes=9)], file("now", 9).modified.timestamp()) is None


def test_a_backup_that_was_made_after_the_end_of_a_run_is_not_its_own() -> None:
    ended = file("ended", 5).modified.timestamp()
    assert find_new_backup([], [file("b", 6)], ended) is None
    assert find_new_backup([], [file("b", 6), file("a", 5)], ended) == file("a", 5)
