"""Faults: every task ends with the right exit code, and its message has the evidence and the way out."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from demo_backups.errors import COULD_NOT_LOOK, FAILED, INCOMPLETE, INTERRUPTED

from .helpers.backups import make_backup
from .helpers.faults import install_program, install_script, snapshot
from .helpers.processes import wait_for_end, wait_until
from .helpers.programs import link_programs, set_login_shell
from .helpers.tasks import DemoServer, assert_exit, assert_success, read_json

# --- no connection --------------------------------------------------------------------------------------------------

RECORD_KINDS = {
    "deploy-index-backup": "deploy",
    "run-index-backup": "run",
    "verify": "verification",
    "enable-index-backup": "enable",
    "list-backups": None,
}


@pytest.mark.parametrize(("task", "kind"), RECORD_KINDS.items(), ids=RECORD_KINDS)
def test_unreachable_server_is_reported(demo_server: DemoServer, task: str, kind: str | None) -> None:
    config = demo_server.server.ssh_config
    config.write_text(config.read_text().replace(f"Port {demo_server.server.port}", "Port 1"))
    done = demo_server.inv(task)
    message = assert_exit(done, COULD_NOT_LOOK, "rehearsal: ", "127.0.0.1 port 1", "Connection refused", "ssh -v")
    assert len(done.stdout.splitlines()) == 1  # the heading
    records = [(record["kind"], record["exit_status"], record["error"]) for record in demo_server.records()]
    assert records == ([(kind, COULD_NOT_LOOK, message.strip())] if kind else [])


@pytest.mark.parametrize("task", ["verify", "list-backups"])
def test_unknown_host_key_is_refused(demo_server: DemoServer, task: str) -> None:
    demo_server.server.known_hosts.unlink()
    done = demo_server.inv(task, "--json")
    message = assert_exit(done, COULD_NOT_LOOK, "SHA256:", "ssh -o")
    assert read_json(done, COULD_NOT_LOOK)["error"] in message


def test_sudo_password_without_terminal(demo_server: DemoServer) -> None:
    install_program(demo_server, "id", "echo 1000")
    install_program(demo_server, "sudo", "echo 'sudo: a password is required' >&2; exit 1")
    done = demo_server.inv("list-backups", INVOKE_USE_SUDO="1")
    assert_exit(done, COULD_NOT_LOOK, "  | sudo: a password is required", "sudoers", "use_sudo")


# --- the rotation ---------------------------------------------------------------------------------------------------


def test_failed_rotation_is_not_failed_backup(demo_server: DemoServer) -> None:
    name = "backup_2026-02-02_00-00-00.db"
    refused = "find: cannot delete './backup_2020-01-01_00-00-00.db': Operation not permitted"
    install_script(demo_server, f'cd "{demo_server.backups}"; echo x > {name}; echo "{refused}" >&2; exit 4')
    messages = (refused, "could not be deleted", "chattr -i")
    for task in (("run", "--force-unsafe"), ("attach",)):
        done = demo_server.inv(*task)
        assert "untouched" not in assert_exit(done, INCOMPLETE, *messages)
        assert f"created {demo_server.backups / name} (2 bytes" in done.stdout
    (record,) = demo_server.records()
    assert (record["kind"], record["exit_status"]) == ("run", INCOMPLETE)
    assert (record["backup"], record["bytes"]) == (str(demo_server.backups / name), 2)
    assert refused in record["error"]


def test_status_4_without_backup_is_failure(demo_server: DemoServer) -> None:
    install_script(demo_server, "exit 4")
    assert_exit(demo_server.inv("run", "--force-unsafe"), FAILED, "exit status 4")


@pytest.mark.parametrize(("status", "claims"), [(1, True), (127, True), (137, False), (143, False)])
def test_killed_script_may_have_rotated(demo_server: DemoServer, status: int, claims: bool) -> None:
    install_script(demo_server, f"exit {status}")
    message = assert_exit(demo_server.inv("run", "--force-unsafe"), FAILED, f"exit status {status}")
    assert ("older backups untouched" in message) is claims


# --- the server is not as expected ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["deploy-index-backup", "run-index-backup", "enable-index-backup"])
def test_missing_app_directory(demo_server: DemoServer, task: str) -> None:
    folder = demo_server.script.parent
    shutil.rmtree(folder)
    assert_exit(demo_server.inv(task), COULD_NOT_LOOK, f"can't cd to {folder}", "app_dir")
    assert not folder.exists()


def test_missing_backup_directory(demo_server: DemoServer) -> None:
    demo_server.deploy()
    demo_server.backups.rmdir()
    for task in ("run-index-backup", "verify", "list-backups"):
        messages = ("No such file or directory", "backup_dir", f"install -d -m 750 {demo_server.backups}")
        assert_exit(demo_server.inv(task), COULD_NOT_LOOK, *messages)
    assert not demo_server.backups.exists()


@pytest.fixture
def no_override(demo_server: DemoServer) -> None:
    """Make modes apply to the user of the server, even if that is root."""
    if os.geteuid() == 0:
        set_login_shell(demo_server, 'exec setpriv --bounding-set -dac_override,-dac_read_search /bin/sh "$@"')


@pytest.fixture
def set_mode(demo_server: DemoServer) -> Iterator[Callable[[Path, int], None]]:
    """Change the modes of directories until the end of the test."""
    changed: list[Path] = []

    def set_mode(path: Path, mode: int) -> None:
        path.chmod(mode)
        changed.append(path)

    yield set_mode
    for path in changed:
        path.chmod(0o755)


@pytest.mark.usefixtures("no_override")
def test_unreadable_backups_are_not_none(demo_server: DemoServer, set_mode: Callable[[Path, int], None]) -> None:
    demo_server.deploy()
    make_backup(demo_server.source, demo_server.backups)
    set_mode(demo_server.backups, 0o000)
    for task in ("run-index-backup", "verify", "list-backups"):
        assert_exit(demo_server.inv(task), COULD_NOT_LOOK, "Permission denied", "INVOKE_USE_SUDO=1")


@pytest.mark.usefixtures("no_override")
def test_unwritable_directory_keeps_its_script(demo_server: DemoServer, set_mode: Callable[[Path, int], None]) -> None:
    install_script(demo_server, "exit 0")
    before = snapshot(demo_server.script.parent)
    set_mode(demo_server.script.parent, 0o555)
    assert_exit(demo_server.inv("deploy-index-backup"), FAILED, "Permission denied", "use_sudo")
    assert snapshot(demo_server.script.parent) == before


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        ("head -c 100", "index-db-backup.sh"),
        ("head -c 100; echo 'cat: write error: No space left on device' >&2; exit 1", "No space left on device"),
        ("kill -TERM $PPID; sleep 1", "index-db-backup.sh"),
    ],
    ids=["damaged", "disk full", "killed"],
)
def test_failed_upload_keeps_the_old_script(demo_server: DemoServer, reads: str, message: str) -> None:
    install_script(demo_server, "exit 0")
    before = snapshot(demo_server.script.parent)
    install_program(demo_server, "cat", f'[ "$#" = 0 ] || exec /bin/cat "$@"\n{reads}')
    assert_exit(demo_server.inv("deploy-index-backup"), FAILED, message)
    assert snapshot(demo_server.script.parent) == before


@pytest.mark.parametrize("task", ["deploy-index-backup", "enable-index-backup"])
def test_next_task_clears_staged_files(demo_server: DemoServer, task: str) -> None:
    if task == "enable-index-backup":
        demo_server.deploy()
    before = set(snapshot(demo_server.server.folder))
    cat = install_program(demo_server, "cat", '[ "$#" = 0 ] || exec /bin/cat "$@"\nhead -c 100; kill -KILL $PPID')
    assert demo_server.inv(task).returncode != 0
    cat.unlink()
    staged = {name for name in set(snapshot(demo_server.server.folder)) - before if name[-7] == "."}
    assert staged
    assert_success(demo_server.inv(task))
    assert not staged & set(snapshot(demo_server.server.folder))


def test_staged_file_of_other_task_stays(demo_server: DemoServer) -> None:
    folder = demo_server.script.parent
    with subprocess.Popen(
        ["flock", folder, "sh", "-c", "echo locked; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"locked\n"
        staged = folder / ".index-db-backup.sh.abcdef"  # by the other one
        staged.touch()
        assert_success(demo_server.inv("deploy"))
        assert staged.exists()
        demo_server.script.write_text("#!/bin/sh\n")
        assert other.stdin
        other.stdin.close()
    assert_success(demo_server.inv("deploy"))
    assert not staged.exists()


def test_script_without_execute_permission(demo_server: DemoServer) -> None:
    install_script(demo_server, "exit 0").chmod(0o644)
    assert_exit(demo_server.inv("deploy-index-backup"), FAILED, "mode 644", "chmod 755 ")
    assert_exit(demo_server.inv("run-index-backup", "--force-unsafe"), FAILED, "Permission denied")


def test_login_shell_that_prints(demo_server: DemoServer) -> None:
    set_login_shell(demo_server, "echo 'Welcome to the demo'; echo 'You have mail.' >&2; exec /bin/sh \"$@\"")
    tasks = ("deploy-index-backup", "run-index-backup", "verify", "enable-index-backup", "disable-index-backup")
    assert "Welcome" not in assert_success(demo_server.inv(*tasks))


# --- the backup fails -----------------------------------------------------------------------------------------------


def test_run_without_deployed_script(demo_server: DemoServer) -> None:
    advice = "./inv deploy --host rehearsal --database index"
    assert_exit(demo_server.inv("run-index-backup"), FAILED, str(demo_server.script), advice)


def test_failed_script_is_reported_and_recorded(demo_server: DemoServer) -> None:
    install_script(demo_server, "echo working; echo 'the disk is full' >&2; exit 7")
    done = demo_server.inv("run-index-backup", "--force-unsafe")
    assert_exit(done, FAILED, "exit status 7", "  | the disk is full", "  | working")
    assert "not the script of this checkout" in done.stdout
    assert "\nworking\n" in done.stdout
    (record,) = demo_server.records()
    assert (record["kind"], record["exit_status"], record["backup"]) == ("run", 7, None)
    assert "the disk is full" in record["error"]


def test_script_that_makes_no_backup(demo_server: DemoServer) -> None:
    install_script(demo_server, "exit 0")
    assert_exit(demo_server.inv("run-index-backup", "--force-unsafe"), FAILED, str(demo_server.backups), "--dry-run")
    (record,) = demo_server.records()
    assert record["exit_status"] == 0  # of the script
    assert record["error"]


def test_missing_source_is_reported(demo_server: DemoServer) -> None:
    demo_server.deploy()
    make_backup(demo_server.source, demo_server.backups)
    demo_server.source.rename(demo_server.source.with_name("moved"))
    before = snapshot(demo_server.backups)
    assert_exit(demo_server.inv("run-index-backup"), FAILED, str(demo_server.source), "app_dir")
    assert not demo_server.source.exists()
    assert set(snapshot(demo_server.backups)) == set(before)
    verification = read_json(demo_server.inv("verify", "--json"), COULD_NOT_LOOK)
    assert verification["passed"] is None
    assert verification["source"] == {"path": str(demo_server.source), "bytes": None}


def test_existing_backup_is_never_replaced(demo_server: DemoServer) -> None:
    demo_server.deploy()
    now = datetime.now()
    for seconds in range(120):
        path = demo_server.backups / f"backup_{now + timedelta(seconds=seconds):%Y-%m-%d_%H-%M-%S}.db"
        path.write_text("the first")
    assert_exit(demo_server.inv("run-index-backup"), FAILED, f"{demo_server.backups}/backup_")
    assert {path.read_text() for path in demo_server.backups.glob("*.db")} == {"the first"}
    assert {path.name for path in demo_server.backups.iterdir() if path.name.startswith(".")} == {".backup.lock"}


def test_second_run_is_refused(demo_server: DemoServer) -> None:
    demo_server.deploy()
    with (demo_server.backups / ".backup.lock").open("w") as lock:
        subprocess.run(["flock", "--nonblock", str(lock.fileno())], pass_fds=[lock.fileno()], check=True)
        assert_exit(demo_server.inv("run-index-backup"), FAILED, "process ", "./inv attach")
        assert_exit(demo_server.inv("run-index-backup", "--force"), FAILED, "another run")  # by the script
    assert demo_server.names() == []
    assert_success(demo_server.inv("run-index-backup"))


# --- the crontab ----------------------------------------------------------------------------------------------------

OLD_CRONTAB = "# mine\nMAILTO=me@example.org\n5 4 * * * echo 100\\% >/dev/null"  # without a last line end


@pytest.fixture
def crontab(demo_server: DemoServer) -> Path:
    """The crontab of a server to which the script is deployed."""
    demo_server.deploy()
    demo_server.crontab.write_text(OLD_CRONTAB)
    return demo_server.crontab


def replace_crontab_command(demo_server: DemoServer, body: str) -> None:
    """Let the server's `crontab` only list the crontab, and else run this body."""
    program = (demo_server.server.folder / "bin/crontab").rename(demo_server.server.folder / "real-crontab")
    install_program(demo_server, "crontab", f'[ "$1" = -l ] && exec {program} -l\n{body}')


def test_refused_crontab_keeps_the_old_one(demo_server: DemoServer, crontab: Path) -> None:
    replace_crontab_command(demo_server, """echo '"./crontab.new":1: bad minute' >&2; exit 1""")
    assert_exit(demo_server.inv("enable-index-backup"), FAILED, "bad minute")
    assert crontab.read_text() == OLD_CRONTAB


def test_crontab_without_effect_is_noticed(demo_server: DemoServer, crontab: Path) -> None:
    replace_crontab_command(demo_server, "exit 0")
    assert_exit(demo_server.inv("enable-index-backup"), FAILED, "crontab -l")
    assert crontab.read_text() == OLD_CRONTAB


@pytest.mark.parametrize("task", ["enable-index-backup", "disable-index-backup"])
def test_unreadable_crontab_is_not_empty(demo_server: DemoServer, crontab: Path, task: str) -> None:
    message = "You (rehearsal) are not allowed to use this program (crontab)"
    install_program(demo_server, "crontab", f"echo '{message}' >&2; exit 1")
    assert_exit(demo_server.inv(task), COULD_NOT_LOOK, message)
    assert crontab.read_text() == OLD_CRONTAB


@pytest.mark.usefixtures("crontab")
def test_server_without_cron(demo_server: DemoServer) -> None:
    (demo_server.server.folder / "bin/crontab").unlink()
    programs = link_programs(demo_server.server.folder / "programs", "crontab")
    demo_server.server.environment["PATH"] = str(programs)
    for task in ("enable-index-backup", "disable-index-backup"):
        assert_exit(demo_server.inv(task), COULD_NOT_LOOK, "cron is not installed")


def test_line_of_another_job_is_reported(demo_server: DemoServer, crontab: Path) -> None:
    line = f"30 2 * * * nice {demo_server.script} >/dev/null 2>&1"
    crontab.write_text(f"{OLD_CRONTAB}\n{line}\n")
    assert_exit(demo_server.inv("enable-index-backup"), FAILED, "  | the crontab of ", f": {line}")
    assert crontab.read_text() == f"{OLD_CRONTAB}\n{line}\n"


def test_changed_line_is_not_removed(demo_server: DemoServer, crontab: Path) -> None:
    assert_success(demo_server.inv("enable-index-backup"))
    changed = crontab.read_text().replace("0  * * * *", "30 * * * *")
    crontab.write_text(changed)
    assert_exit(demo_server.inv("disable-index-backup"), FAILED, ": 30 * * * *", "--yes")
    assert crontab.read_text() == changed


def test_unwritable_log_is_refused(demo_server: DemoServer, crontab: Path) -> None:
    log = demo_server.server.folder / "no such folder/cron.log"
    assert_exit(demo_server.inv("enable-index-backup", INVOKE_CRON_LOG=str(log)), FAILED, str(log), "cron_log")
    assert crontab.read_text() == OLD_CRONTAB


@pytest.mark.parametrize("body", [None, "exit 0"], ids=["missing", "another"])
def test_enable_needs_the_deployed_script(demo_server: DemoServer, crontab: Path, body: str | None) -> None:
    demo_server.script.unlink()
    if body:
        install_script(demo_server, body)
    assert_exit(demo_server.inv("enable-index-backup"), FAILED, str(demo_server.script), "./inv deploy ")
    assert crontab.read_text() == OLD_CRONTAB


# --- Ctrl-C, and a server that dies ---------------------------------------------------------------------------------


@pytest.fixture
def pid_file(demo_server: DemoServer) -> Iterator[Path]:
    """The file with the process ID of the script, once it runs; the script runs until the end of the test."""
    file = demo_server.server.folder / "pid"
    install_script(demo_server, f"echo $$ >'{file}.new'; mv '{file}.new' '{file}'; echo copying; exec sleep 600")
    yield file
    if file.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)


def assert_is_running(pid_file: Path) -> None:
    os.kill(int(pid_file.read_text()), 0)


@pytest.mark.user
def test_ctrl_c_detaches_from_the_run(demo_server: DemoServer, pid_file: Path) -> None:
    process = demo_server.start("run-index-backup", "--force-unsafe")
    wait_until(pid_file.exists, "the script")
    os.killpg(process.pid, signal.SIGINT)
    attach = "./inv attach --host rehearsal --database index"
    assert_exit(wait_for_end(process), INTERRUPTED, "rehearsal: ", attach, "./inv stop-backup")
    assert_is_running(pid_file)
    assert [(record["kind"], record["exit_status"]) for record in demo_server.records()] == [("run", INTERRUPTED)]


@pytest.mark.user
@pytest.mark.parametrize("group", [True, False], ids=["process group", "task only"])
def test_ctrl_c_detaches_on_this_machine(demo_server: DemoServer, pid_file: Path, group: bool) -> None:
    process = demo_server.start("run-index-backup", "--force-unsafe", "--host", "local")
    wait_until(pid_file.exists, "the script")
    os.kill(-process.pid if group else process.pid, signal.SIGINT)
    assert_exit(wait_for_end(process), INTERRUPTED, "local: ", "./inv attach --host local")
    assert_is_running(pid_file)


@pytest.mark.user
def test_ctrl_c_while_server_is_silent(demo_server: DemoServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = demo_server.server.ssh_config
        config.write_text(config.read_text().replace(str(demo_server.server.port), str(silent.getsockname()[1])))
        process = demo_server.start("verify")
        with silent.accept()[0]:
            os.killpg(process.pid, signal.SIGINT)
            assert_exit(wait_for_end(process), INTERRUPTED, "interrupted")


def test_server_dies_during_run(demo_server: DemoServer, pid_file: Path) -> None:
    # The same directory, served by a process that can be killed.
    for name in ("home", "bin"):
        shutil.rmtree(demo_server.server.folder / name)
    program = (
        "import pathlib, sys; from demo_backups.rehearsal.server import serve\n"
        "with serve(pathlib.Path(sys.argv[1])): print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(demo_server.server.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        process = demo_server.start("run-index-backup", "--force-unsafe")
        wait_until(pid_file.exists, "the script")
        server.kill()
        assert_exit(wait_for_end(process), COULD_NOT_LOOK, "rehearsal: ", "./inv attach --host rehearsal")
    assert_is_running(pid_file)
