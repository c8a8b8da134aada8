"""What a maintainer reads at night: every fault ends with its exit code, and says where, what and what next."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from demo_backups.project import ROOT

from .helpers.processes import start_program, wait_for_end, wait_until
from .helpers.tasks import INV, Demo

FAILED, WRONG_INPUT, COULD_NOT_LOOK, INTERRUPTED = 1, 2, 3, 130
Done = subprocess.CompletedProcess[str]


def told(done: Done, code: int, *words: str) -> str:
    """Check that a task ended with a code, and in words rather than in a traceback; return them."""
    print(done.stdout, done.stderr, sep="")
    assert done.returncode == code
    assert "Traceback" not in done.stdout + done.stderr
    for each in words:
        assert each in done.stderr
    return done.stderr


def executable(path: Path, text: str) -> Path:
    """Write a program."""
    path.write_text(text)
    path.chmod(0o755)
    return path


def script_there(demo: Demo, body: str) -> Path:
    """Put another backup script in the place of ours."""
    return executable(Path(demo.database.script), f"#!/bin/sh\n{body}\n")


def stand_in(demo: Demo, program: str, body: str) -> None:
    """Put a program of the test's own before the server's."""
    executable(demo.server.folder / "bin" / program, f"#!/bin/sh\n{body}\n")


def records(demo: Demo) -> list[dict[str, Any]]:
    """The records of what was done, in order."""
    return [json.loads(path.read_text()) for path in sorted(Path(demo.environment["INVOKE_EVIDENCE_DIR"]).iterdir())]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """All that is in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# --- no way in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task", ["deploy-index-backup", "run-index-backup", "verify", "enable-index-backup", "list-backups"]
)
def test_a_server_that_cannot_be_reached(demo: Demo, task: str) -> None:
    demo.server.ssh_config.write_text(demo.server.ssh_config.read_text().replace(f"Port {demo.server.port}", "Port 1"))
    done = demo.inv(task)
    words = told(
        done, COULD_NOT_LOOK, "rehearsal: no SSH connection to 127.0.0.1 port 1", "Connection refused", "ssh -v"
    )
    assert done.stdout == f"rehearsal: {task} (index database)\n"
    kinds = {"deploy-index-backup": "deploy", "run-index-backup": "run", "verify": "verification"}
    seen = (
        [(record["kind"], record["exit_status"], record["error"]) for record in records(demo)] if task in kinds else []
    )
    assert seen == ([(kinds[task], COULD_NOT_LOOK, words.strip())] if task in kinds else [])


def test_a_host_key_that_nobody_has_accepted(demo: Demo) -> None:
    demo.server.known_hosts.unlink()
    told(demo.inv("verify"), COULD_NOT_LOOK, "is unknown: refused", "SHA256:", "accept it: ssh -o")


def test_json_of_a_failure_is_one_object_and_nothing_else(demo: Demo) -> None:
    demo.server.known_hosts.unlink()
    for task in ("verify", "list-backups"):
        done = demo.inv(task, "--json")
        told(done, COULD_NOT_LOOK, "is unknown: refused")
        said = json.loads(done.stdout)
        assert said["exit_code"] == COULD_NOT_LOOK
        assert "is unknown: refused" in said["error"]


def test_sudo_that_asks_for_a_password_nobody_can_type(demo: Demo) -> None:
    stand_in(demo, "id", "echo 1000")
    stand_in(demo, "sudo", "echo 'sudo: a password is required' >&2; exit 1")
    for task in ("deploy-index-backup", "list-backups"):
        told(
            demo.inv(task, INVOKE_USE_SUDO="1"),
            COULD_NOT_LOOK,
            "rehearsal: sudo asks for a password, and there is no terminal to ask for it",
            "  | sudo: a password is required",
            "  -> allow it in sudoers, run this task on a terminal, or set use_sudo to false",
        )


# --- the server is not as it should be ------------------------------------------------------------------------------


def test_the_applications_folder_is_missing(demo: Demo) -> None:
    folder = Path(demo.database.script).parent
    shutil.rmtree(folder)
    for task in ("deploy-index-backup", "run-index-backup", "enable-index-backup"):
        told(demo.inv(task), COULD_NOT_LOOK, f"can't cd to {folder}", "app_dir")
    assert not folder.exists()


def test_the_backup_folder_is_missing(demo: Demo) -> None:
    demo.inv("deploy-index-backup")
    demo.backups.rmdir()
    for task in ("run-index-backup", "verify", "list-backups"):
        told(
            demo.inv(task),
            COULD_NOT_LOOK,
            f"rehearsal: could not list the backups in {demo.backups}",
            "No such file or directory",
            f"mkdir -m 750 {demo.backups}",
        )
    assert not demo.backups.exists()


@pytest.fixture
def no_override(demo: Demo) -> None:
    """Let the server's user be held by modes, even where that is root."""
    if os.geteuid() == 0:
        drop = "setpriv --bounding-set -dac_override,-dac_read_search"
        demo.server.shell = str(executable(demo.server.folder / "shell", f'#!/bin/sh\nexec {drop} /bin/sh "$@"\n'))


@pytest.fixture
def locked(demo: Demo) -> Iterator[Callable[[Path, int], None]]:
    """Take modes away, and give them back in the end."""
    taken: list[Path] = []

    def lock(path: Path, mode: int) -> None:
        path.chmod(mode)
        taken.append(path)

    yield lock
    for path in taken:
        path.chmod(0o755)


@pytest.mark.usefixtures("no_override")
def test_backups_that_may_not_be_read_are_not_taken_for_none(demo: Demo, locked: Callable[[Path, int], None]) -> None:
    demo.inv("deploy-index-backup", "run-index-backup")
    locked(demo.backups, 0o000)
    for task in ("run-index-backup", "verify", "list-backups"):
        told(demo.inv(task), COULD_NOT_LOOK, "Permission denied", "set use_sudo to true (INVOKE_USE_SUDO=1)")


@pytest.mark.usefixtures("no_override")
def test_a_folder_that_may_not_be_written_keeps_its_script(demo: Demo, locked: Callable[[Path, int], None]) -> None:
    script_there(demo, "exit 0")
    folder = Path(demo.database.script).parent
    before = snapshot(folder)
    locked(folder, 0o555)
    done = demo.inv("deploy-index-backup")
    told(done, FAILED, "could not put index-db-backup.sh in its place", "Permission denied", "set use_sudo to true")
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    ("reads", "words"),
    [
        ("head -c 100", "it was damaged on the way"),
        ("head -c 100; echo 'cat: write error: No space left on device' >&2; exit 1", "No space left on device"),
        ("kill -TERM $PPID; sleep 1", ""),
    ],
    ids=["damaged", "disk full", "killed"],
)
def test_an_upload_that_goes_wrong_leaves_the_old_script_and_nothing_else(demo: Demo, reads: str, words: str) -> None:
    script_there(demo, "exit 0")
    folder = Path(demo.database.script).parent
    before = snapshot(folder)
    stand_in(demo, "cat", f'[ "$#" = 0 ] || exec /bin/cat "$@"\n{reads}')
    told(demo.inv("deploy-index-backup"), FAILED, "rehearsal: could not put index-db-backup.sh in its place", words)
    assert snapshot(folder) == before


def test_a_script_that_may_not_run_there_is_not_made_to(demo: Demo) -> None:
    script_there(demo, "exit 0").chmod(0o644)
    told(demo.inv("deploy-index-backup"), FAILED, "mode 644", "chmod 755 ")
    told(demo.inv("run-index-backup"), FAILED, "the backup of the index database failed", "Permission denied")


def test_a_login_shell_that_prints_spoils_nothing(demo: Demo) -> None:
    greeting = "echo 'Welcome to the demo'; echo 'You have mail.' >&2"
    demo.server.shell = str(executable(demo.server.folder / "shell", f'#!/bin/sh\n{greeting}\nexec /bin/sh "$@"\n'))
    done = demo.inv("deploy-index-backup", "run-index-backup", "verify", "enable-index-backup", "disable-index-backup")
    assert done.returncode == 0, done.stderr
    assert "Welcome" not in done.stdout
    assert "all checks passed" in done.stdout


# --- a backup that is none ------------------------------------------------------------------------------------------


def test_there_is_no_script_to_run(demo: Demo) -> None:
    told(
        demo.inv("run-index-backup"),
        FAILED,
        f"rehearsal: there is no {demo.database.script}",
        "  -> put it there: ./inv deploy-index-backup --host rehearsal",
    )


def test_a_script_that_fails_is_told_with_what_it_printed(demo: Demo) -> None:
    script_there(demo, "echo working; echo 'the disk is full' >&2; exit 7")
    done = demo.inv("run-index-backup")
    told(done, FAILED, "rehearsal: the backup of the index database failed", "  | the disk is full", "  | working")
    assert "note: " in done.stdout
    assert "is not the script of this checkout" in done.stdout
    assert "working\n" in done.stdout
    (record,) = records(demo)
    assert (record["kind"], record["exit_status"], record["backup"]) == ("run", 7, None)
    assert "the disk is full" in record["error"]


def test_a_script_that_says_it_went_well_and_made_nothing(demo: Demo) -> None:
    script_there(demo, "exit 0")
    told(
        demo.inv("run-index-backup"),
        FAILED,
        f"no new backup in {demo.backups}",
        "another folder",
    )
    assert records(demo)[0]["exit_status"] == 0
    assert records(demo)[0]["error"]


def test_a_source_that_is_gone(demo: Demo) -> None:
    demo.inv("deploy-index-backup", "run-index-backup")
    demo.source.rename(demo.source.with_name("moved"))
    before = snapshot(demo.backups)
    told(demo.inv("run-index-backup"), FAILED, str(demo.source), "app_dir")
    assert not demo.source.exists()
    assert set(snapshot(demo.backups)) == set(before)
    done = demo.inv("verify", "--json")
    assert done.returncode == COULD_NOT_LOOK
    seen = json.loads(done.stdout)
    assert seen["passed"] is None
    assert f"the source {demo.source} does not exist" in {check["detail"] for check in seen["checks"]}


def test_a_second_run_within_a_second_never_takes_the_place_of_the_first(demo: Demo) -> None:
    demo.inv("deploy-index-backup")
    now = datetime.now()
    for seconds in range(120):
        taken = demo.backups / f"backup_{now + timedelta(seconds=seconds):%Y-%m-%d_%H-%M-%S}.db"
        taken.write_text("the first")
    told(demo.inv("run-index-backup"), FAILED, "the backup of the index database failed", "is there already")
    assert {path.read_text() for path in demo.backups.glob("*.db")} == {"the first"}
    assert {path.name for path in demo.backups.iterdir() if path.name.startswith(".")} == {".backup.lock"}


def test_two_runs_at_once_make_one_backup_and_one_failure(demo: Demo) -> None:
    """The second says that another one is at work; the lock is what cron's run would meet too."""
    demo.inv("deploy-index-backup")
    with (demo.backups / ".backup.lock").open("w") as lock:
        subprocess.run(["flock", "--nonblock", str(lock.fileno())], pass_fds=[lock.fileno()], check=True)
        told(demo.inv("run-index-backup"), FAILED, "process ", "--force")
        told(demo.inv("run-index-backup", "--force"), FAILED, f"another run is at work in {demo.backups}")
    assert demo.names() == []
    assert demo.inv("run-index-backup").returncode == 0


# --- the crontab ----------------------------------------------------------------------------------------------------

OLD = "# mine\nMAILTO=me@example.org\n5 4 * * * echo 100\\% >/dev/null"  # without a line end: that is kept too


@pytest.fixture
def deployed(demo: Demo) -> Path:
    """The server's crontab file; the script is there."""
    assert demo.inv("deploy-index-backup").returncode == 0
    crontab = demo.server.home / "crontab"
    crontab.write_text(OLD)
    return crontab


def test_a_crontab_that_is_refused_leaves_the_old_one_in_force(demo: Demo, deployed: Path) -> None:
    real = (demo.server.folder / "bin/crontab").rename(demo.server.folder / "real-crontab")
    refusal = """echo '"./crontab.new":1: bad minute' >&2; echo "errors in crontab file, can't install." >&2; exit 1"""
    stand_in(demo, "crontab", f'[ "$1" = -l ] && exec {real} -l\n{refusal}')
    told(
        demo.inv("enable-index-backup"),
        FAILED,
        "rehearsal: could not install the crontab",
        "bad minute",
        "errors in crontab file, can't install.",
    )
    assert deployed.read_text() == OLD


def test_a_crontab_that_did_not_take_is_noticed(demo: Demo, deployed: Path) -> None:
    real = (demo.server.folder / "bin/crontab").rename(demo.server.folder / "real-crontab")
    stand_in(demo, "crontab", f'[ "$1" = -l ] && exec {real} -l\nexit 0')
    told(demo.inv("enable-index-backup"), FAILED, "the crontab in force is not the one that was installed", "compare: ")
    assert deployed.read_text() == OLD


def test_a_crontab_that_cannot_be_read_is_not_taken_for_an_empty_one(demo: Demo, deployed: Path) -> None:
    stand_in(demo, "crontab", "echo 'You (rehearsal) are not allowed to use this program (crontab)' >&2; exit 1")
    for task in ("enable-index-backup", "disable-index-backup"):
        told(demo.inv(task), COULD_NOT_LOOK, "could not read the crontab", "are not allowed to use this program")
    assert deployed.read_text() == OLD


def test_a_server_without_cron(demo: Demo, deployed: Path) -> None:
    (demo.server.folder / "bin/crontab").unlink()
    programs = demo.server.folder / "programs"
    programs.mkdir()
    for program in Path("/usr/bin").iterdir():
        if program.name != "crontab":
            (programs / program.name).symlink_to(program)
    demo.server.environment["PATH"] = str(programs)
    for task in ("enable-index-backup", "disable-index-backup"):
        told(demo.inv(task), COULD_NOT_LOOK, "cron is not installed", "  -> install it")


def test_another_line_that_runs_the_script_is_pointed_at(demo: Demo, deployed: Path) -> None:
    line = f"30 2 * * * nice {demo.database.script} >/dev/null 2>&1"
    deployed.write_text(f"{OLD}\n{line}\n")
    told(demo.inv("enable-index-backup"), FAILED, "another line of the crontab runs this script already", f"  | {line}")
    assert deployed.read_text() == f"{OLD}\n{line}\n"


def test_our_line_that_somebody_changed_is_left_to_them(demo: Demo, deployed: Path) -> None:
    demo.inv("enable-index-backup")
    changed = deployed.read_text().replace("0  * * * *", "30 * * * *")
    deployed.write_text(changed)
    told(demo.inv("disable-index-backup"), FAILED, "crontab -e", "  | 30 * * * *")
    assert deployed.read_text() == changed


def test_a_log_that_cannot_be_written_would_keep_the_job_from_running(demo: Demo, deployed: Path) -> None:
    log = demo.server.folder / "no such folder/cron.log"
    done = demo.inv("enable-index-backup", INVOKE_CRON_LOG=str(log))
    told(done, FAILED, f"the job could not write its log {log}", "  -> set cron_log")
    assert deployed.read_text() == OLD


@pytest.mark.parametrize(
    ("body", "words"),
    [(None, "there is no "), ("exit 0", "is not the script of this checkout")],
    ids=["missing", "another"],
)
def test_only_the_script_of_this_checkout_is_put_into_the_crontab(
    demo: Demo, deployed: Path, body: str | None, words: str
) -> None:
    if body:
        script_there(demo, body)
    else:
        Path(demo.database.script).unlink()
    told(demo.inv("enable-index-backup"), FAILED, words, "inv deploy-index-backup")
    assert deployed.read_text() == OLD


# --- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify", "--database", "nope"], "no database 'nope' in the settings; there are: index, tracker"),
        (["list-backups", "--database", "../index"], "no database '../index' in the settings"),
        (["verify", "--host", "-oProxyCommand=touch x"], "is no SSH alias"),
        (["verify", "--host", ""], "--host is empty"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_connected_to(
    demo: Demo, arguments: list[str], words: str
) -> None:
    demo.server.ssh_config.unlink()  # nothing could be
    done = demo.inv(*arguments)
    told(done, WRONG_INPUT, words)
    assert done.stdout == ""


# --- Ctrl-C, and a server that dies ---------------------------------------------------------------------------------


@pytest.fixture
def slow(demo: Demo) -> Iterator[Path]:
    """Make the script one that goes on for ever; its process id stands in this file once it runs."""
    pid = demo.server.folder / "pid"
    script_there(demo, f"echo $$ >'{pid}.new'; mv '{pid}.new' '{pid}'; echo copying; exec sleep 600")
    yield pid
    if pid.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


def start(demo: Demo, *arguments: str, **changes: str) -> subprocess.Popen[str]:
    """Start a task on the server."""
    there = dict(demo.environment)
    return start_program(INV, "--search-root", ROOT, *arguments, env=there | changes, cwd=there["HOME"])


def test_ctrl_c_ends_at_once_and_says_what_goes_on_there(demo: Demo, slow: Path) -> None:
    process = start(demo, "run-index-backup")
    wait_until(slow.exists, "the script to run")
    os.killpg(process.pid, signal.SIGINT)
    told(
        wait_for_end(process),
        INTERRUPTED,
        "rehearsal: detached: the backup, once started, keeps running without this terminal",
        "  -> follow it again: ./inv attach --host rehearsal --database index; or stop it: ./inv stop-backup",
    )
    os.kill(int(slow.read_text()), 0)  # and it does
    assert [(record["kind"], record["exit_status"]) for record in records(demo)] == [("run", INTERRUPTED)]


@pytest.mark.parametrize("group", [True, False], ids=["on a terminal", "only us"])
def test_ctrl_c_on_this_machine_ends_at_once_too(demo: Demo, slow: Path, group: bool) -> None:
    process = start(demo, "run-index-backup", "--host", "local")
    wait_until(slow.exists, "the script to run")
    os.kill(-process.pid if group else process.pid, signal.SIGINT)
    told(
        wait_for_end(process),
        INTERRUPTED,
        "local: detached: the backup, once started, keeps running",
        "inv attach --host local",
    )
    os.kill(int(slow.read_text()), 0)  # whatever the terminal sends


def test_ctrl_c_while_waiting_for_a_server_that_says_nothing(demo: Demo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text = demo.server.ssh_config.read_text()
        demo.server.ssh_config.write_text(text.replace(str(demo.server.port), str(silent.getsockname()[1])))
        process = start(demo, "verify")
        with silent.accept()[0]:
            os.killpg(process.pid, signal.SIGINT)
            told(wait_for_end(process), INTERRUPTED, "interrupted")


def test_a_server_that_dies_during_a_run(demo: Demo, slow: Path) -> None:
    # The same folder, served by a process that can be killed.
    for name in ("home", "bin"):
        shutil.rmtree(demo.server.folder / name)
    program = (
        "import pathlib, sys; from demo_backups.rehearsal.server import serve\n"
        "with serve(pathlib.Path(sys.argv[1])): print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, demo.server.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        process = start(demo, "run-index-backup")
        wait_until(slow.exists, "the script to run")
        server.kill()
        told(
            wait_for_end(process),
            COULD_NOT_LOOK,
            "rehearsal: the connection was lost while trying to ",  # start it, or look how it goes
            "  -> the backup, once started, keeps running without this terminal and this connection. Follow it again",
        )
    os.kill(int(slow.read_text()), signal.SIGKILL)
