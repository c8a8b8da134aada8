"""The tasks as a user calls them: help, headings, arguments, exit codes and JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from demo_backups.errors import COULD_NOT_LOOK, FAILED, WRONG_INPUT
from demo_backups.project import ROOT
from demo_backups.rehearsal.database import make_index

from .helpers.tasks import INV, InvRunner, assert_exit, assert_success, read_json, read_records

ON_A_HOST = {  # what the heading names: the task and the database
    "attach": "attach (index database)",
    "deploy": "deploy (index database)",
    "deploy-index-backup": "deploy (index database)",
    "deploy-tracker-backup": "deploy (tracker database)",
    "disable": "disable (index database)",
    "disable-index-backup": "disable (index database)",
    "enable": "enable (index database)",
    "enable-index-backup": "enable (index database)",
    "enable-wal": "enable-wal (index database)",
    "fetch": "fetch (index database)",
    "list-backups": "list-backups (index database)",
    "preflight": "preflight (index database)",
    "restore": "restore (index database)",
    "restore-drill": "restore-drill (index database)",
    "run": "run (index database)",
    "run-index-backup": "run (index database)",
    "run-tracker-backup": "run (tracker database)",
    "stop-backup": "stop-backup (index database)",
    "verify": "verify (index database)",
}
WITHOUT_DRY_RUN = {"attach", "list-backups", "preflight", "restore-drill", "verify"}
IN_GIT = {
    f"release.{name}"
    for name in ("branch", "commit-docs", "commit-index-backup", "commit-tracker-backup", "open-pr", "push")
}
WITH_HOST = {*ON_A_HOST, "backup-config", "check", "history", "next", "offsite", "plan", "release.open-pr", "report"}
TASKS = {*WITH_HOST, *IN_GIT, "prune-copies", "battery", "bench", "rehearse", "test"}
CHANGING = {*IN_GIT, *ON_A_HOST, "backup-config", "offsite", "prune-copies"} - WITHOUT_DRY_RUN


@pytest.fixture
def local_inv(run_inv: InvRunner, home: Path) -> InvRunner:
    """The tasks on this machine, with an index database, an application and a backup directory of the test's own."""
    app = home / "the app"
    source = app / "storage/index/lib/database/sqlite3.db"
    source.parent.mkdir(parents=True)
    make_index(source, torrents=5)
    (app / "share/bin").mkdir(parents=True)
    (home / "back ups").mkdir()
    run_inv.environment |= {
        "INVOKE_HOST": "local",
        "INVOKE_USE_SUDO": "0",
        "INVOKE_APP_DIR": str(app),
        "INVOKE_BACKUP_DIR": str(home / "back ups"),
    }
    return run_inv


def make_backup(home: Path, name: str = "backup_2024-11-24_20-00-00.db") -> Path:
    path = home / "back ups" / name
    make_index(path, torrents=5)
    return path


# --- help -----------------------------------------------------------------------------------------------------------


def test_every_task_is_listed(run_inv: InvRunner) -> None:
    listing = json.loads(assert_success(run_inv("--list", "--list-format=json")))
    (release,) = listing["collections"]
    names = {task["name"] for task in listing["tasks"]}
    assert names | {f"release.{task['name']}" for task in release["tasks"]} == TASKS
    assert set(re.findall(r"^  ([a-z.-]+) ", run_inv("--list").stdout, re.MULTILINE)) == TASKS


@pytest.mark.parametrize("task", sorted(TASKS))
def test_help_explains_every_flag(run_inv: InvRunner, task: str) -> None:
    output = assert_success(run_inv("--help", task))
    assert re.search(r"^Docstring:\n  [A-Z].*\.", output, re.MULTILINE)
    flags = output.partition("Options:")[2]
    named = re.findall(r"^  (-[\w-]+)", flags, re.MULTILINE)
    explained = re.findall(r"^  (--[a-z-]+)(?:=\w+)?[ \n]+(?!-)\S", flags, re.MULTILINE)
    assert named == explained  # so none has a short form
    assert ("--host" in named) is (task in WITH_HOST)
    assert ("--dry-run" in named) is (task in CHANGING)


def test_listing_imports_no_large_package() -> None:
    program = "import sys, tasks; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "invoke" in done.stdout.split()
    assert not {"fabric", "paramiko", "asyncssh", "pydantic", "rich"} & set(done.stdout.split())


# --- headings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ON_A_HOST)
def test_heading_names_host_and_database(local_inv: InvRunner, task: str) -> None:
    flags = ["--dry-run"] if task in CHANGING else []
    done = local_inv(task, "--host", "local", *flags, INVOKE_HOST="elsewhere")
    assert done.stdout.splitlines()[0] == f"local: {ON_A_HOST[task]}"


def test_flag_applies_to_its_task_only(local_inv: InvRunner) -> None:
    done = local_inv("list-backups", "--host", "local", "verify", INVOKE_HOST="nowhere.invalid")
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("local: list-backups (index database)", "nowhere.invalid: verify (index database)")
    assert done.returncode == COULD_NOT_LOOK


# --- wrong arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "host"),
    [
        *((task, "-oProxyCommand=touch ran") for task in sorted(WITH_HOST - {"check"})),
        *(("verify", host) for host in ("", "a b", "\x1b[2Jx")),
    ],
)
def test_wrong_host_is_refused(local_inv: InvRunner, home: Path, task: str, host: str) -> None:
    done = local_inv(task, f"--host={host}")
    assert_exit(done, WRONG_INPUT, "--host ")
    assert done.stdout == ""
    assert "\x1b" not in done.stderr
    assert not (home / "ran").exists()
    assert read_records(home / "evidence") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list-backups", "--database", "Tracker"], "'Tracker'"),
        (["verify", "--database", "../index"], "'../index'"),
        (["history", "--database", ""], "''"),
        (["enable", "--database", "grafana"], "'grafana'"),
        (["rehearse", "--traffic", "many"], "--traffic 'many'"),
        (["rehearse", "--traffic", "nan"], "--traffic 'nan'"),
        (["rehearse", "--journal", "off"], "--journal 'off'"),
        (["report", "--format", "pdf"], "--format 'pdf'"),
        (["report", "--open", "--format", "markdown"], "--open"),
        (["plan", "--json", "--svg", "plan.svg"], "--svg"),
        (["--dry", "deploy-index-backup"], "--dry-run"),
        (["--dry", "test"], "--dry-run"),
    ],
)
def test_wrong_argument_is_refused(local_inv: InvRunner, home: Path, arguments: list[str], message: str) -> None:
    done = local_inv(*arguments)
    assert_exit(done, WRONG_INPUT, message)
    if "--json" not in arguments:
        assert done.stdout == ""
    assert sorted(path.name for path in home.iterdir()) == ["back ups", "the app"]


@pytest.mark.parametrize(
    "arguments", [["verfy"], ["verify", "--hots", "x"], ["verify", "--host"], ["verify", "-h", "elsewhere"]]
)
def test_unknown_argument_is_an_error(local_inv: InvRunner, arguments: list[str]) -> None:
    done = local_inv(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr


# --- exit codes and JSON --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [["--json"], ["--json", "--quick"]], ids=["integrity_check", "quick_check"])
def test_good_backup_exits_0(local_inv: InvRunner, home: Path, flags: list[str]) -> None:
    path = make_backup(home)
    verification = read_json(local_inv("verify", *flags))
    assert verification["passed"] is True
    assert (verification["host"], verification["database"]) == ("local", "index")
    assert verification["backup"]["path"] == str(path)
    assert verification["backup"]["bytes"] == path.stat().st_size
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d:\d\d", verification["backup"]["created"])
    assert [check["name"] for check in verification["checks"]] == ["created", "size", "integrity", "query", "source"]
    assert all(set(check) == {"name", "passed", "detail"} for check in verification["checks"])
    pragma = "quick_check" if "--quick" in flags else "integrity_check"
    assert verification["checks"][2]["detail"] == f"{pragma}: ok"


@pytest.mark.parametrize("backup", [None, "missing.db", "/nowhere/missing.db", ""])
def test_failed_check_exits_1(local_inv: InvRunner, home: Path, backup: str | None) -> None:
    if backup is not None:
        make_backup(home)  # which is not the one that was asked for
    arguments = ["verify", *(["--backup", backup] if backup is not None else [])]
    verification = read_json(local_inv(*arguments, "--json"), FAILED)
    assert verification["passed"] is False
    assert {check["name"]: check["passed"] for check in verification["checks"]}["created"] is False


def test_unknown_check_exits_3(local_inv: InvRunner, home: Path) -> None:
    make_backup(home)
    (home / "the app/storage/index/lib/database/sqlite3.db").unlink()
    assert read_json(local_inv("verify", "--json"), COULD_NOT_LOOK)["passed"] is None


@pytest.mark.parametrize("state", ["good", "failed", "unknown"])
def test_table_and_json_exit_alike(local_inv: InvRunner, home: Path, state: str) -> None:
    if state != "failed":
        make_backup(home)
    if state == "unknown":
        (home / "the app/storage/index/lib/database/sqlite3.db").unlink()
    assert local_inv("verify").returncode == local_inv("verify", "--json").returncode


UNAVAILABLE = {
    "no backup directory": ({"INVOKE_BACKUP_DIR": "/no/such/folder"}, COULD_NOT_LOOK, "could not list the backups"),
    "no such host": ({"INVOKE_HOST": "nowhere.invalid"}, COULD_NOT_LOOK, "no such host"),
    "wrong setting": ({"INVOKE_BACKUP_DIR": "relative"}, WRONG_INPUT, "backup_dir (from INVOKE_BACKUP_DIR)"),
    "not a boolean": ({"INVOKE_USE_SUDO": "no"}, WRONG_INPUT, "INVOKE_USE_SUDO is 'no'"),
    "no configuration": ({"INVOKE_HOST": "x", "INVOKE_SSH_CONFIG": "/no/such/file"}, WRONG_INPUT, "ssh_config: "),
}


@pytest.mark.parametrize(("changes", "code", "message"), UNAVAILABLE.values(), ids=UNAVAILABLE)
def test_error_is_one_json_object(local_inv: InvRunner, changes: dict[str, str], code: int, message: str) -> None:
    done = local_inv("verify", "--json", **changes)
    error = read_json(done, code)
    assert error["exit_code"] == code
    assert message in error["error"]
    assert_exit(done, code, message)


@pytest.mark.parametrize("arguments", [["verify", "--database", "none"], ["list-backups", "--host=-x"]])
def test_wrong_argument_is_one_json_object(local_inv: InvRunner, arguments: list[str]) -> None:
    assert read_json(local_inv(*arguments, "--json"), WRONG_INPUT)["exit_code"] == WRONG_INPUT


def test_list_shows_own_backups_newest_first(local_inv: InvRunner, home: Path) -> None:
    assert read_json(local_inv("list-backups", "--json")) == {"host": "local", "database": "index", "backups": []}
    names = ["backup_2024-01-02_00-00-00.db", "backup_2024-01-01_00-00-00.db"]
    others = ["other.db", "tracker_backup_2024-11-24_20-00-00.db"]
    for age, name in enumerate([*names, *others]):
        path = home / "back ups" / name
        path.write_bytes(b"x" * (2000 + age))
        os.utime(path, (1_700_000_000 - age,) * 2)
    listing = read_json(local_inv("list-backups", "--json"))
    assert [(Path(backup["path"]).name, backup["bytes"]) for backup in listing["backups"]] == [
        (names[0], 2000),
        (names[1], 2001),
    ]
    output = assert_success(local_inv("list-backups", COLUMNS="300"))
    assert re.findall(r"(\S+\.db) +([\d,]+)", output) == [
        (f"ups/{names[0]}", "2,000"),
        (f"ups/{names[1]}", "2,001"),
    ]


def test_backup_name_need_not_be_utf_8(local_inv: InvRunner, home: Path) -> None:
    path = make_backup(home).rename(home / "back ups" / "backup_\udcff.db")
    verification = read_json(local_inv("verify", "--json", "--backup", str(path)), FAILED)
    checks = {check["name"]: check["passed"] for check in verification["checks"]}
    assert checks == {"created": False, "size": True, "integrity": True, "query": True, "source": True}
    assert local_inv("verify", "--backup", path.name).stdout.count(r"backup_\udcff.db") == 1


# --- output that cannot be written ----------------------------------------------------------------------------------


def run_program(
    run_inv: InvRunner, *arguments: str, stdout: int | str = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run a task in a new process, since it ends in a way of its own; `stdout` may be a redirection of the shell."""
    command: list[str | Path] = [INV, "--search-root", ROOT, *arguments]
    if isinstance(stdout, str):
        command = ["sh", "-c", f'exec "$@" {stdout}', "sh", *command]
    return subprocess.run(
        command,
        env=run_inv.environment,
        stdout=subprocess.PIPE if isinstance(stdout, str) else stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def test_closed_pipe_gives_no_traceback(local_inv: InvRunner) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run_program(local_inv, "list-backups", "--json", stdout=write)
    os.close(write)
    assert done.returncode == FAILED
    assert done.stderr == "local: list-backups (index database)\n"


@pytest.mark.parametrize("flags", [["history"], ["history", "--json"], ["history", "--json", "--host", ""]])
def test_full_disk_is_reported(local_inv: InvRunner, flags: list[str]) -> None:
    done = run_program(local_inv, *flags, stdout=">/dev/full")
    assert done.returncode == FAILED
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_closed_standard_output_is_refused(local_inv: InvRunner, home: Path) -> None:
    done = run_program(local_inv, "deploy-index-backup", stdout=">&-")
    assert done.returncode == FAILED
    assert done.stderr.startswith("standard output is closed")
    assert "Traceback" not in done.stderr
    assert list((home / "the app/share/bin").iterdir()) == []


def test_closed_standard_error_leaves_output_clean(local_inv: InvRunner) -> None:
    done = run_program(local_inv, "verify", "--json", stdout="2>&-")
    assert json.loads(done.stdout)["passed"] is False
    assert done.returncode == FAILED
