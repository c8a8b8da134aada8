"""Restore drills on a throwaway server: the checks, what is left, interruptions, and when the next one is due."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import COULD_NOT_LOOK, FAILED, INTERRUPTED, WRONG_INPUT
from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import DrillRecord, Record, RunRecord
from demo_backups.records.search import find_recent
from demo_backups.recovery.drill_result import parse_steps

from ..helpers.backups import make_backup
from ..helpers.databases import damage_index, execute
from ..helpers.faults import snapshot
from ..helpers.processes import wait_for_end, wait_until
from ..helpers.tasks import CompletedTask, DemoServer, assert_exit, assert_success, read_json

CHECKS = ["content", "integrity", "foreign_keys", "query"]
KEYS = ["host", "database", "due", "source", "backup", "checks", "passed"]


@pytest.fixture
def backup(demo_server: DemoServer) -> Path:
    """The only backup on the server."""
    return make_backup(demo_server.source, demo_server.backups)


def drill(demo_server: DemoServer, *arguments: str, command: str = "", **changes: str) -> CompletedTask:
    """Run a drill with a drill_command."""
    return demo_server.inv("restore-drill", *arguments, INVOKE_DRILL_COMMAND=command, **changes)


def results(result: dict[str, Any]) -> dict[str, bool | None]:
    """Return the outcomes of a drill by the names of its checks."""
    return {check["name"]: check["passed"] for check in result["checks"]}


def details(result: dict[str, Any], name: str) -> str:
    """Return the details of a check of a drill."""
    (detail,) = (check["detail"] for check in result["checks"] if check["name"] == name)
    assert isinstance(detail, str)
    return detail


def drill_dir(demo_server: DemoServer) -> Path:
    """Return the directory of the drills."""
    return demo_server.server.home / ".demo-backups/drill"


def assert_nothing_left(demo_server: DemoServer, *backups: Path) -> None:
    """Check that there are no scratch directories, no further files next to the backups, and no processes."""
    assert list(drill_dir(demo_server).iterdir()) == []
    assert {path.name for path in demo_server.backups.iterdir()} == {*(path.name for path in backups), ".backup.lock"}
    wait_until(lambda: not find_processes(drill_dir(demo_server)), "the end of the processes of the drill")


def find_processes(folder: Path) -> list[str]:
    """Find the processes with a directory in their environment, their arguments or their open files."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):
            texts = [(process / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")]
            links = [str(link.readlink()) for link in (process / "fd").iterdir()]
            if any(str(folder) in text for text in [*texts, *links]):
                found.append(f"{process.name}: {texts[0]}")
    return found


# --- the checks -----------------------------------------------------------------------------------------------------


def test_good_backup_passes_all_checks(demo_server: DemoServer, backup: Path) -> None:
    before = snapshot(demo_server.backups)
    result = read_json(drill(demo_server, "--json"))
    assert list(result) == KEYS
    assert (result["host"], result["database"], result["due"], result["source"]) == (
        "rehearsal",
        "index",
        True,
        "server",
    )
    assert result["backup"]["path"] == str(backup)
    assert results(result) == dict.fromkeys(CHECKS, True)
    assert result["passed"] is True
    assert snapshot(demo_server.backups) == before
    assert_nothing_left(demo_server, backup)
    (record,) = demo_server.records()
    assert (record["kind"], record["exit_status"], record["backup"]) == ("drill", 0, str(backup))
    assert record["integrity_check"] == ["ok"]
    assert [check["name"] for check in record["checks"]] == CHECKS
    assert record["details"] == {"source": "server", "command_status": None}
    assert drill_dir(demo_server).stat().st_mode & 0o777 == 0o700


def test_older_backup_can_be_selected(demo_server: DemoServer, backup: Path) -> None:
    older = demo_server.backups / "backup_2026-01-01_00-00-00.db"
    shutil.copy(backup, older)
    verified = older.with_name(f"verified.{older.name}")
    verified.hardlink_to(older)
    elsewhere = Path(shutil.copy(backup, demo_server.server.folder / "it's one.db"))
    for argument, path in ((older.name, older), (verified.name, verified), (str(elsewhere), elsewhere)):
        result = read_json(drill(demo_server, "--json", "--backup", argument))
        assert (result["backup"]["path"], result["passed"]) == (str(path), True)
    assert_nothing_left(demo_server, backup, older, verified)
    assert {path.name for path in demo_server.server.folder.glob("*.db")} == {elsewhere.name}


def test_damaged_backup_fails(demo_server: DemoServer, backup: Path) -> None:
    damage_index(backup)
    result = read_json(drill(demo_server, "--json"), FAILED)
    assert results(result) == {"content": True, "integrity": False, "foreign_keys": True, "query": True}
    assert result["passed"] is False
    assert_nothing_left(demo_server, backup)
    (record,) = demo_server.records()
    assert (record["exit_status"], len(record["integrity_check"]) > 0) == (FAILED, True)


@pytest.mark.parametrize("content", [b"", b"SQLite", os.urandom(100_000)])
def test_file_that_is_no_database_fails(demo_server: DemoServer, backup: Path, content: bytes) -> None:
    backup.write_bytes(content)
    result = read_json(drill(demo_server, "--json"), FAILED)
    assert results(result) == {"content": False, "integrity": None, "foreign_keys": None, "query": None}
    assert_nothing_left(demo_server, backup)


def test_violated_foreign_key_fails(demo_server: DemoServer) -> None:
    execute(
        demo_server.source,
        "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
        "CREATE TABLE child (parent REFERENCES parent)",
        "INSERT INTO child VALUES (7)",
    )
    backup = make_backup(demo_server.source, demo_server.backups)
    result = read_json(drill(demo_server, "--json"), FAILED)
    assert results(result) == dict.fromkeys(CHECKS, True) | {"foreign_keys": False}
    assert "child, row 1 has no parent in parent" in details(result, "foreign_keys")
    assert_nothing_left(demo_server, backup)


def test_query_must_return_a_row(demo_server: DemoServer, backup: Path) -> None:
    changes = {"INVOKE_DATABASES_INDEX_QUERY": "SELECT 1 WHERE 0"}
    assert results(read_json(drill(demo_server, "--json", **changes), FAILED))["query"] is False
    changes = {"INVOKE_DATABASES_INDEX_QUERY": "SELECT * FROM missing"}
    assert results(read_json(drill(demo_server, "--json", **changes), FAILED))["query"] is False
    assert_nothing_left(demo_server, backup)


@pytest.mark.parametrize("case", ["none", "missing", "unfinished", "link"])
def test_wrong_backup_is_refused(demo_server: DemoServer, case: str) -> None:
    arguments = []
    if case != "none":
        backup = make_backup(demo_server.source, demo_server.backups)
        arguments = ["--backup", "missing.db" if case == "missing" else backup.name]
    if case == "unfinished":
        Path(f"{backup}-wal").touch()
    if case == "link":
        backup.symlink_to(backup.rename(backup.with_name("other.db")))
    messages = {
        "none": "there is no backup",
        "missing": "does not exist",
        "unfinished": "-wal",
        "link": "not a regular",
    }
    assert_exit(drill(demo_server, *arguments), FAILED, messages[case])
    assert not drill_dir(demo_server).exists()
    (record,) = demo_server.records()
    assert (record["kind"], record["exit_status"]) == ("drill", FAILED)


def test_wrong_place_is_wrong_input(demo_server: DemoServer) -> None:
    error = read_json(drill(demo_server, "--json", "--from", "elsewhere"), WRONG_INPUT)
    assert "--from" in error["error"]
    assert demo_server.records() == []


def test_too_little_space_is_refused(demo_server: DemoServer, backup: Path) -> None:
    done = drill(demo_server, INVOKE_FREE_SPACE_FLOOR="1 EB")
    assert_exit(done, FAILED, "the drill was not started", "more needed")
    assert_nothing_left(demo_server, backup)


def test_directory_with_odd_name(demo_server: DemoServer, backup: Path) -> None:
    folder = demo_server.server.folder / " it's [odd]* \\dir? $x"
    result = read_json(drill(demo_server, "--json", command="test -s {file}", INVOKE_DRILL_DIR=str(folder)))
    assert results(result) == dict.fromkeys([*CHECKS, "command"], True)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_directory_of_others_is_refused(demo_server: DemoServer, backup: Path, mode: int) -> None:
    folder = demo_server.server.folder / "shared"
    folder.mkdir()
    folder.chmod(mode)
    assert_exit(drill(demo_server, INVOKE_DRILL_DIR=str(folder)), FAILED, "refused", "install -d -m 700")
    assert list(folder.iterdir()) == []


def test_passed_backup_is_kept(demo_server: DemoServer, backup: Path) -> None:
    damaged = demo_server.backups / "backup_2026-01-01_00-00-00.db"
    shutil.copy(backup, damaged)
    damage_index(damaged)
    keep = {"INVOKE_KEEP_VERIFIED": "1"}
    assert drill(demo_server, "--backup", damaged.name, **keep).returncode == FAILED
    assert not list(demo_server.backups.glob("verified.*"))
    assert "kept: " in assert_success(drill(demo_server, "--backup", backup.name, **keep))
    assert (demo_server.backups / f"verified.{backup.name}").samefile(backup)


# --- the command ----------------------------------------------------------------------------------------------------


def test_command_runs_in_scratch_directory(demo_server: DemoServer, backup: Path) -> None:
    mark = demo_server.server.folder / "seen"
    command = (
        f"{{ pwd; ls -A; sqlite3 {{file}} 'SELECT count(*) FROM torrust_torrents'; env; }} > {shlex.quote(str(mark))}"
    )
    result = read_json(drill(demo_server, "--json", command=f"{command}; rm {{file}}; mkdir locked; chmod 0 locked"))
    assert results(result) == dict.fromkeys([*CHECKS, "command"], True)
    folder, name, count, *variables = mark.read_text().splitlines()
    assert Path(folder).parent == drill_dir(demo_server)
    assert (name, count) == (demo_server.source.name, "50")
    assert f"HOME={demo_server.server.home}" in variables
    assert_nothing_left(demo_server, backup)


def test_failed_command_fails_with_bounded_output(demo_server: DemoServer, backup: Path) -> None:
    noise = "head -c 50000000 /dev/zero | tr '\\0' x; echo; echo at the end >&2; exit 3"
    result = read_json(drill(demo_server, "--json", command=f"echo at the start; {noise}"), FAILED)
    detail = details(result, "command")
    assert detail.startswith("drill_command: exit status 3\n")
    assert detail.endswith("xx\nat the end")
    assert len(detail) < 5_000
    (record,) = demo_server.records()
    assert record["details"]["command_status"] == 3
    assert_nothing_left(demo_server, backup)


DAEMON = (
    "import os, signal, time; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); "
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); os.closerange(0, 100); os.chdir('/'); time.sleep(300)"
)
HANGING = {
    "ignores SIGTERM": "trap '' TERM; sleep 300; sleep 300",
    "with children": "sleep 300 & sleep 300 & wait",
    "stopped": "kill -STOP $$",
    "prints": "while :; do echo more; done",
}
LEAVING = {
    "background": "sleep 300 &",
    "other sessions": "setsid sleep 300 > /dev/null 2>&1 < /dev/null & nohup sleep 300 & echo started",
    "daemon": f"{sys.executable} -c {shlex.quote(DAEMON)}",
    "without environment": "env -i sleep 300 > /dev/null 2>&1 &",
    "with the file open": "env -i setsid tail -f {file} > /dev/null 2>&1 &",
}


@pytest.mark.parametrize("command", HANGING.values(), ids=HANGING)
def test_hanging_command_is_ended(demo_server: DemoServer, backup: Path, command: str) -> None:
    command, mark = with_mark(f"echo started; : {{file}}; {command}")
    result = read_json(drill(demo_server, "--json", command=command, INVOKE_DRILL_TIMEOUT="0.5 s"), FAILED)
    assert "did not end within" in details(result, "command")
    assert "started" in details(result, "command") or "more" in details(result, "command")
    assert_nothing_left(demo_server, backup)
    assert find_marked(mark) == []


@pytest.mark.parametrize("command", LEAVING.values(), ids=LEAVING)
def test_process_of_command_is_not_left(demo_server: DemoServer, backup: Path, command: str) -> None:
    command, mark = with_mark(command)
    result = read_json(drill(demo_server, "--json", command=command))
    assert "left processes running" in details(result, "command")
    assert_nothing_left(demo_server, backup)
    assert find_marked(mark) == []


def with_mark(command: str) -> tuple[str, str]:
    """Return the command with a duration of its own, by which its processes can be found, and that duration."""
    duration = f"300.{secrets.randbelow(10**9)}"
    return command.replace("300", duration), duration


def find_marked(mark: str) -> list[str]:
    """Find the processes with a mark in their arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
    return found


# --- interruptions --------------------------------------------------------------------------------------------------


def start_drill(demo_server: DemoServer, go: Path, started: Path) -> subprocess.Popen[str]:
    """Start a drill whose command waits for a file; return it when the command runs."""
    process = demo_server.start("restore-drill", INVOKE_DRILL_COMMAND=waiting_command(go, started))
    wait_until(started.exists, "the command of the drill")
    return process


def waiting_command(go: Path, started: Path) -> str:
    """Return a command that waits for a file."""
    return f"touch {shlex.quote(str(started))}; until [ -e {shlex.quote(str(go))} ]; do sleep 0.1; done"


def test_detached_drill_can_be_joined(demo_server: DemoServer, backup: Path, tmp_path: Path) -> None:
    go, started = tmp_path / "go", tmp_path / "started"
    first = start_drill(demo_server, go, started)
    os.killpg(first.pid, signal.SIGINT)
    assert_exit(wait_for_end(first), INTERRUPTED, "detached: the drill", "restore-drill")
    # Another drill waits for its turn, and the same one is joined.
    assert_exit(drill(demo_server), FAILED, "a drill of the index database is already running", "wait for")
    second = demo_server.start("restore-drill", INVOKE_DRILL_COMMAND=waiting_command(go, started))
    assert second.stdout
    wait_until(lambda: "joining" in second.stdout.readline(), "the second drill")  # type: ignore[union-attr]
    go.touch()
    done = wait_for_end(second)
    assert done.returncode == 0, done.stderr
    assert_nothing_left(demo_server, backup)
    assert [record["exit_status"] for record in demo_server.records()] == [INTERRUPTED, FAILED, 0]


def test_drill_without_connection_cleans_up(demo_server: DemoServer, backup: Path, tmp_path: Path) -> None:
    go, started = tmp_path / "go", tmp_path / "started"
    task = start_drill(demo_server, go, started)
    os.killpg(task.pid, signal.SIGKILL)
    wait_for_end(task)
    go.touch()
    wait_until(lambda: not list(drill_dir(demo_server).iterdir()), "the end of the drill")
    wait_until(lambda: not find_processes(drill_dir(demo_server)), "the end of its processes")
    assert_nothing_left(demo_server, backup)


def test_next_drill_removes_what_a_kill_left(demo_server: DemoServer, backup: Path, tmp_path: Path) -> None:
    task = start_drill(demo_server, tmp_path / "go", tmp_path / "started")
    (script,) = [
        entry for entry in find_processes(drill_dir(demo_server)) if "work=" in entry and "job.sh" not in entry
    ][:1]
    kill_job(demo_server, script)
    assert_exit(wait_for_end(task), COULD_NOT_LOOK, "")
    assert find_processes(drill_dir(demo_server))
    assert list(drill_dir(demo_server).iterdir())
    assert_success(drill(demo_server))
    assert_nothing_left(demo_server, backup)


def kill_job(demo_server: DemoServer, script: str) -> None:
    """Kill the process group of drill.sh, but not the processes of its command, which have their own session."""
    pid = int(script.partition(":")[0])
    os.killpg(os.getpgid(pid), signal.SIGKILL)


# --- the output of the script ---------------------------------------------------------------------------------------


def test_printed_text_is_not_a_result() -> None:
    output = (
        "-- restore\n| result: x\n| == integrity 0\n\n== restore 0\n-- integrity\n| == integrity 0\n== integrity 1\n"
    )
    steps, others = parse_steps(f"{output}== integrity 0\nstopped: 5 bytes are free\n")
    assert {name: step.status for name, step in steps.items()} == {"restore": 0, "integrity": 1}
    assert steps["integrity"].output == "== integrity 0"
    assert others == "stopped: 5 bytes are free"


# --- when the next one is due ---------------------------------------------------------------------------------------

NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)
PASSED = [Check("content", Outcome.PASSED, ""), Check("integrity", Outcome.PASSED, "")]


def make_record(days: float, **values: Any) -> DrillRecord:
    """Make the record of a good drill, so many days ago."""
    when = (NOW - timedelta(days=days)).isoformat()
    return DrillRecord(**({"host": "demo", "database": "index", "when": when, "checks": PASSED} | values))


@pytest.mark.parametrize(
    ("record", "is_recent"),
    [
        (make_record(29), True),
        (make_record(0), True),
        (make_record(30), False),
        (make_record(31), False),
        (make_record(-1), False),
        (make_record(1, host="other"), False),
        (make_record(1, database="tracker"), False),
        (make_record(1, checks=[]), False),
        (make_record(1, checks=[*PASSED, Check("query", Outcome.UNKNOWN, "")]), False),
        (make_record(1, checks=[*PASSED, Check("query", Outcome.FAILED, "")]), False),
        (RunRecord(host="demo", database="index", when=NOW.isoformat(), checks=PASSED), False),
    ],
)
def test_recent_drill_is_found(record: Record, is_recent: bool) -> None:
    others = [make_record(40), make_record(2, checks=[])]
    found = find_recent([*others, record], DrillRecord, "demo", "index", 30 * 86400, NOW)
    assert found == (record if is_recent else None)


def test_due_drill_runs_once(demo_server: DemoServer, backup: Path) -> None:
    due = [read_json(drill(demo_server, "--due", "--json")) for _ in range(2)]
    assert [(list(result), result["due"], result["passed"]) for result in due] == [
        (KEYS, True, True),
        (KEYS, False, True),
    ]
    assert due[1]["backup"]["path"] == str(backup)
    assert len(demo_server.records()) == 1
    # Nothing is looked at on the host.
    output = assert_success(drill(demo_server, "--due", INVOKE_SSH_CONFIG="/dev/null"))
    assert "the last good one was at" in output
    assert read_json(drill(demo_server, "--due", "--json", INVOKE_DRILL_EVERY="0"))["due"] is True


def test_failed_drill_stays_due(demo_server: DemoServer, backup: Path) -> None:
    damage_index(backup)
    for _ in range(2):
        assert read_json(drill(demo_server, "--due", "--json"), FAILED)["due"] is True


# --- a fetched backup -----------------------------------------------------------------------------------------------


@pytest.fixture
def copy(demo_server: DemoServer, backup: Path) -> Path:
    """The only fetched backup on this machine."""
    folder = Path(demo_server.environment["HOME"]) / "copies"
    assert_success(demo_server.inv("fetch", INVOKE_FETCH_DIR=str(folder)))
    (copy,) = folder.glob("*/backup_*.db")
    return copy


def drill_copy(demo_server: DemoServer, copy: Path, *arguments: str, **changes: str) -> CompletedTask:
    """Run a drill with a fetched backup."""
    fetch_dir = str(Path(demo_server.environment["HOME"]) / "copies")
    done = drill(demo_server, "--from", "here", *arguments, INVOKE_FETCH_DIR=fetch_dir, **changes)
    # The command that receives an upload leaves a sleep of some seconds.
    wait_until(lambda: not find_processes(drill_dir(demo_server)), "the end of what belongs to the upload")
    return done


def test_fetched_backup_is_uploaded_and_checked(demo_server: DemoServer, backup: Path, copy: Path) -> None:
    backup.unlink()
    result = read_json(drill_copy(demo_server, copy, "--json"))
    assert results(result) == dict.fromkeys(CHECKS, True)
    assert (result["source"], result["backup"]["path"]) == ("here", str(copy))
    assert_nothing_left(demo_server)
    record = demo_server.records()[-1]
    assert (record["kind"], record["details"]["source"]) == ("drill", "here")


def test_changed_copy_is_refused(demo_server: DemoServer, copy: Path, backup: Path) -> None:
    damage_index(copy)
    assert_exit(drill_copy(demo_server, copy), FAILED, "its SHA-256 is not that of its record")
    assert_exit(drill_copy(demo_server, copy, "--backup", "missing.db"), FAILED, "there is no file")
    assert not drill_dir(demo_server).exists()


def test_damaged_copy_fails(demo_server: DemoServer, copy: Path, backup: Path) -> None:
    damaged = Path(shutil.copy(copy, copy.parent / "another.db"))
    damage_index(damaged)
    result = read_json(drill_copy(demo_server, copy, "--json", "--backup", str(damaged)), FAILED)
    assert results(result) == dict.fromkeys(CHECKS, True) | {"integrity": False}
    assert_nothing_left(demo_server, backup)


def test_interrupted_upload_is_continued(demo_server: DemoServer, copy: Path, backup: Path) -> None:
    size = copy.stat().st_size
    task = demo_server.start(
        *("restore-drill", "--from", "here"),
        INVOKE_FETCH_DIR=str(copy.parent.parent),
        INVOKE_FETCH_LIMIT=f"{size // 100}",
    )
    part = wait_until(lambda: next(drill_dir(demo_server).glob("*-upload/.upload.*"), None), "the upload")
    wait_until(lambda: part.stat().st_size, "some bytes of it")
    os.killpg(task.pid, signal.SIGINT)
    assert_exit(wait_for_end(task), INTERRUPTED)
    # A drill of a backup on the server leaves it alone. It may be complete by now.
    assert_success(drill(demo_server))
    assert list(part.parent.iterdir())
    assert_success(drill_copy(demo_server, copy))
    assert_nothing_left(demo_server, backup)
