"""The tasks as a user calls them: what they say of themselves, their words, their JSON, their exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demo_backups.project import ROOT
from demo_backups.rehearsal.database import make_index

from .helpers.constants import SCRIPT
from .helpers.tasks import INV, Demo, Inv

ON_A_HOST = [
    "attach",
    "deploy-index-backup",
    "deploy-tracker-backup",
    "disable-index-backup",
    "enable-index-backup",
    "enable-wal",
    "list-backups",
    "preflight",
    "run-index-backup",
    "run-tracker-backup",
    "stop-backup",
    "verify",
]
IN_GIT = ["branch", "commit-docs", "commit-index-backup", "commit-tracker-backup", "open-pr", "push"]
TASKS = sorted([*ON_A_HOST, *IN_GIT, "bench", "history", "next", "plan", "rehearse", "report", "test"])
CHANGING = [*IN_GIT, *(name for name in ON_A_HOST if name.endswith("-backup") or name == "enable-wal")]

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def local(inv: Inv, home: Path) -> Inv:
    """The tasks on this machine, with a live index database, an application and a backup folder of the test's own."""
    app = home / "the app"
    source = app / "storage/index/lib/database/sqlite3.db"
    source.parent.mkdir(parents=True)
    make_index(source, torrents=5)
    (app / "share/bin").mkdir(parents=True)
    (home / "back ups").mkdir()
    inv.environment |= {
        "INVOKE_HOST": "local",
        "INVOKE_USE_SUDO": "0",
        "INVOKE_APP_DIR": str(app),
        "INVOKE_BACKUP_DIR": str(home / "back ups"),
    }
    return inv


def records(home: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((home / "evidence").glob("*.json"))]


def only_object(done: Done) -> dict[str, Any]:
    """The one JSON object that was printed, and nothing beside it."""
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


# --- what they say of themselves ------------------------------------------------------------------------------------


def test_every_task_is_listed_with_a_line_of_its_own(inv: Inv) -> None:
    done = inv("--list", "--list-format=json")
    assert done.returncode == 0
    listed = {task["name"]: task["help"] for task in json.loads(done.stdout)["tasks"]}
    assert sorted(listed) == TASKS
    assert all(words[0].isupper() and words.endswith(".") for words in listed.values()), listed
    assert set(re.findall(r"^  ([a-z-]+) ", inv("--list").stdout, re.MULTILINE)) == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_the_help_of_a_task_explains_each_of_its_flags(inv: Inv, task: str) -> None:
    done = inv("--help", task)
    assert done.returncode == 0
    assert re.search(r"^Docstring:\n  [A-Z].*\.", done.stdout, re.MULTILINE)
    flags = done.stdout.partition("Options:")[2].rstrip()
    assert flags
    for line in flags.splitlines()[1:]:
        assert re.match(r"  --[a-z][a-z-]+(=\w+)?\s{2,}\S|\s{10,}\S", line) or re.match(r"  --", line), line
        assert not re.match(r"\s+-\w\b", line), f"a flag of one letter: {line}"
    assert ("--host=STRING" in flags) is (task in [*ON_A_HOST, "history", "next", "open-pr", "plan", "report"])
    assert ("--dry-run" in flags) is (task in CHANGING)  # all that changes something can be looked at first
    named = re.findall(r"^  --([a-z-]+)", flags, re.MULTILINE)
    explained = re.findall(r"^  --([a-z-]+)(?:=\w+)?[ \n]+(?!--)\S", flags, re.MULTILINE)
    assert named == explained


def test_a_plan_is_drawn_or_printed_as_json(inv: Inv, tmp_path: Path) -> None:
    done = inv("plan", "--json", "--svg", str(tmp_path / "x.svg"))
    assert (done.returncode, list(tmp_path.glob("*.svg"))) == (2, [])
    assert only_object(done)["exit_code"] == 2


def test_one_letter_is_never_taken_for_the_host(inv: Inv) -> None:
    done = inv("verify", "-h", "elsewhere")
    assert done.returncode != 0
    assert "elsewhere: " not in done.stdout


@pytest.mark.parametrize("task", ON_A_HOST)
def test_the_first_line_names_the_host_and_the_task(local: Inv, task: str) -> None:
    flags = ["--dry-run"] if task in CHANGING else []
    done = local(task, "--host", "local", *flags, INVOKE_HOST="elsewhere")
    assert done.stdout.splitlines()[0] == f"local: {task} ({'tracker' if 'tracker' in task else 'index'} database)"


def test_in_a_chain_a_flag_belongs_to_its_own_task_only(local: Inv) -> None:
    done = local("list-backups", "--host", "local", "verify", INVOKE_HOST="nowhere.invalid")
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("local: list-backups (index database)", "nowhere.invalid: verify (index database)")
    assert done.returncode == 3


# --- arguments that are wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "host"),
    [
        *((task, "-oProxyCommand=touch ran") for task in ON_A_HOST),
        *(("verify", host) for host in ("", "a b", "\x1b[2Jx")),
    ],
)
def test_what_can_be_no_host_is_refused_before_anything_is_done(local: Inv, home: Path, task: str, host: str) -> None:
    done = local(task, f"--host={host}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("--host ")
    assert "\x1b" not in done.stderr
    assert not (home / "ran").exists()
    assert records(home) == []


def test_a_database_that_is_not_in_the_settings_is_refused_with_those_that_are(local: Inv) -> None:
    done = local("list-backups", "--database", "Tracker")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "no database 'Tracker' in the settings; there are: index, tracker\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rehearse", "--traffic", "many"], "--traffic 'many' is no number of commits a second"),
        (["rehearse", "--traffic", "0"], "--traffic '0' is no number"),
        (["rehearse", "--traffic", "nan"], "--traffic 'nan' is no number"),
        (["rehearse", "--journal", "off"], "--journal 'off' is no journal mode"),
    ],
)
def test_a_wrong_value_of_a_flag_is_named_with_the_flag(inv: Inv, arguments: list[str], words: str) -> None:
    done = inv(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(words)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["verfy"], ["verify", "--hots", "x"], ["verify", "--host"]])
def test_what_invoke_does_not_know_is_an_error(inv: Inv, arguments: list[str]) -> None:
    done = inv(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr


@pytest.mark.parametrize("task", ["deploy-index-backup", "test"])
def test_the_dry_run_of_invoke_itself_is_refused_and_not_passed_over(local: Inv, home: Path, task: str) -> None:
    done = local("--dry", task)
    assert done.returncode == 2
    assert "--dry-run" in done.stderr
    assert list((home / "the app/share/bin").iterdir()) == []


# --- exit codes and JSON --------------------------------------------------------------------------------------------


def make_backup(home: Path, name: str = "backup_2024-11-24_20-00-00.db") -> Path:
    path = home / "back ups" / name
    make_index(path, torrents=5)
    return path


def test_0_is_all_passed(local: Inv, home: Path) -> None:
    path = make_backup(home)
    seen = only_object(local("verify", "--json"))
    assert seen["passed"] is True
    assert (seen["host"], seen["database"], seen["backup"]["path"]) == ("local", "index", str(path))
    assert set(seen) == {"host", "database", "backup", "source", "checks", "passed"}
    assert set(seen["backup"]) == {"path", "bytes", "created"}
    assert set(seen["source"]) == {"path", "bytes"}
    assert all(set(check) == {"name", "passed", "detail"} for check in seen["checks"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d:\d\d", seen["backup"]["created"])
    done = local("verify")
    assert done.returncode == 0
    assert done.stdout.endswith("all checks passed\n")


@pytest.mark.parametrize(
    ("backup", "as_json"), [(None, True), ("missing.db", True), ("/nowhere/missing.db", False), ("", True)]
)
def test_1_is_a_check_that_failed(local: Inv, backup: str | None, as_json: bool) -> None:
    arguments = ["verify", *(["--backup", backup] if backup is not None else []), *(["--json"] if as_json else [])]
    done = local(*arguments)
    assert done.returncode == 1
    if as_json:
        seen = only_object(done)
        assert seen["passed"] is False
        assert {check["name"]: check["passed"] for check in seen["checks"]}["created"] is False
    else:
        assert done.stdout.endswith("NOT a good backup\n")


def test_an_empty_name_is_not_taken_for_the_newest_backup(local: Inv, home: Path) -> None:
    make_backup(home)
    assert local("verify", "--backup", "").returncode == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_3_is_a_check_that_could_not_be_made(local: Inv, home: Path, as_json: bool) -> None:
    make_backup(home)
    (home / "the app/storage/index/lib/database/sqlite3.db").unlink()
    done = local("verify", *(["--json"] if as_json else []))
    assert done.returncode == 3, done.stdout
    if as_json:
        assert only_object(done)["passed"] is None
    else:
        assert done.stdout.endswith("not all checks could be made\n")


NOT_TO_BE_SEEN = {
    # What is given, the exit code, the words of it.
    "no folder": ({"INVOKE_BACKUP_DIR": "/no/such/folder"}, 3, "could not list the backups"),
    "no such host": ({"INVOKE_HOST": "nowhere.invalid"}, 3, "no such host"),
    "wrong setting": ({"INVOKE_BACKUP_DIR": "relative"}, 2, "backup_dir (from INVOKE_BACKUP_DIR)"),
    "no boolean": ({"INVOKE_USE_SUDO": "no"}, 2, "INVOKE_USE_SUDO is 'no'"),
    "no configuration": ({"INVOKE_HOST": "x", "INVOKE_SSH_CONFIG": "/no/such/file"}, 2, "ssh_config: there is no file"),
}


@pytest.mark.parametrize(("changes", "code", "words"), NOT_TO_BE_SEEN.values(), ids=NOT_TO_BE_SEEN)
def test_json_is_one_object_after_an_error_too(local: Inv, changes: dict[str, str], code: int, words: str) -> None:
    done = local("verify", "--json", **changes)
    seen = only_object(done)
    assert done.returncode == seen["exit_code"] == code
    assert words in seen["error"]
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_json_of_a_wrong_argument_is_one_object_too(local: Inv) -> None:
    for arguments in ["verify", "--database", "none"], ["list-backups", "--host=-x"]:
        done = local(*arguments, "--json")
        assert only_object(done)["exit_code"] == done.returncode == 2


def test_the_list_of_backups_is_the_same_in_both_forms(local: Inv, home: Path) -> None:
    assert only_object(local("list-backups", "--json")) == {"host": "local", "database": "index", "backups": []}
    path = make_backup(home)
    make_backup(home, "tracker_backup_2024-11-24_20-00-00.db")
    (seen,) = only_object(local("list-backups", "--json"))["backups"]
    assert (seen["path"], seen["bytes"]) == (str(path), path.stat().st_size)
    done = local("list-backups")
    assert path.name in done.stdout
    assert f"{path.stat().st_size:,}" in done.stdout
    assert "tracker" not in done.stdout


def test_a_backup_whose_name_is_no_utf_8_is_looked_at(local: Inv, home: Path) -> None:
    path = make_backup(home).rename(home / "back ups" / "backup_\udcff.db")
    done = local("verify", "--json", "--backup", str(path))
    checks = {check["name"]: check["passed"] for check in only_object(done)["checks"]}
    assert checks == {"created": False, "size": True, "integrity": True, "query": True, "source": True}
    assert local("verify", "--backup", path.name).stdout.count(r"backup_\udcff.db") == 1


# --- on the throwaway server ----------------------------------------------------------------------------------------


def test_a_dry_run_shows_what_would_be_done_and_changes_nothing(demo: Demo, home: Path) -> None:
    def state() -> dict[Path, float]:
        folders = (demo.server.folder / "app", demo.backups, demo.server.home)
        return {path: path.lstat().st_mtime for folder in folders for path in folder.rglob("*")}

    before = state()
    done = demo.inv("deploy-index-backup", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "\n+set -euo pipefail\n" in done.stdout  # the script, as a difference
    assert "would run on rehearsal:" in done.stdout
    assert "base64" in done.stdout
    assert (state(), records(home)) == (before, [])

    assert demo.inv("deploy-index-backup").returncode == 0
    before, kept = state(), len(records(home))
    done = demo.inv("run-index-backup", "--dry-run")
    assert (done.returncode, "env -i HOME=" in done.stdout) == (0, True), done.stderr
    done = demo.inv("enable-index-backup", "--dry-run")
    assert (done.returncode, "\n+0  * * * * " in done.stdout) == (0, True), done.stderr
    done = demo.inv("disable-index-backup", "--dry-run")
    assert (done.returncode, "nothing to do" in done.stdout) == (0, True), done.stderr
    assert (state(), len(records(home))) == (before, kept)


def test_what_is_done_already_is_said_and_nothing_is_changed(demo: Demo) -> None:
    done = demo.inv("deploy-index-backup", "enable-index-backup")
    assert done.returncode == 0, done.stderr
    (crontab,) = demo.server.home.glob("crontab")
    target = Path(demo.database.script)
    before = (crontab.stat(), target.stat())
    done = demo.inv("deploy-index-backup", "enable-index-backup")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nothing to do") == 2
    assert (crontab.stat(), target.stat()) == before
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("task", ["run-index-backup", "enable-index-backup"])
def test_a_step_says_which_one_must_come_before_it(demo: Demo, task: str) -> None:
    done = demo.inv(task)
    assert done.returncode == 1
    assert f"there is no {demo.database.script}" in done.stderr
    assert "inv deploy-index-backup" in done.stderr
    assert not (demo.server.home / "crontab").exists()


def test_a_script_that_is_not_this_checkouts_is_not_enabled_and_run_with_a_note(demo: Demo, home: Path) -> None:
    target = Path(demo.database.script)
    target.write_bytes(SCRIPT.read_bytes() + b"echo 'of somebody else'\n")
    target.chmod(0o755)
    done = demo.inv("enable-index-backup")
    assert done.returncode == 1
    assert "is not the script of this checkout" in done.stderr
    assert not (demo.server.home / "crontab").exists()

    done = demo.inv("run-index-backup")
    assert done.returncode == 0, done.stderr
    assert "is not the script of this checkout" in done.stdout
    assert "of somebody else" in done.stdout
    assert [record["kind"] for record in records(home)] == ["enable", "run"]


def test_a_failed_run_ends_with_1_and_is_recorded_with_the_status_of_the_script(demo: Demo, home: Path) -> None:
    assert demo.inv("deploy-index-backup").returncode == 0
    script = Path(demo.database.script)
    script.write_text(f"#!/bin/sh\necho {demo.source} is not to be had >&2; exit 23\n")
    done = demo.inv("run-index-backup")
    assert done.returncode == 1
    assert "the backup of the index database failed" in done.stderr
    assert str(demo.source) in done.stderr  # what the script said
    assert demo.names() == []
    record = records(home)[-1]
    assert (record["kind"], record["backup"]) == ("run", None)
    assert record["exit_status"] == 23
    assert str(demo.source) in record["error"]


def test_each_deploy_run_and_verification_leaves_a_record(demo: Demo, home: Path) -> None:
    done = demo.inv("deploy-index-backup", "run-index-backup", "verify", "list-backups", "enable-index-backup")
    assert done.returncode == 0, done.stderr
    deploy, run, verification, enable = records(home)
    assert (enable["kind"], enable["exit_status"]) == ("enable", 0)
    assert [record["kind"] for record in (deploy, run, verification)] == ["deploy", "run", "verification"]
    assert {record["exit_status"] for record in (deploy, run, verification)} == {0}
    assert len({record["script_sha256"] for record in (deploy, run, verification)}) == 1
    assert run["backup"] == verification["backup"] == str(demo.backups / demo.names()[0])
    assert run["bytes"] == verification["bytes"] == (demo.backups / demo.names()[0]).stat().st_size
    assert [check["passed"] for check in verification["checks"]] == [True] * 5
    assert verification["integrity_check"] == ["ok"]


def test_records_that_cannot_be_kept_stop_a_task_before_anything_is_done(demo: Demo, home: Path) -> None:
    (home / "file").touch()
    done = demo.inv("deploy-index-backup", INVOKE_EVIDENCE_DIR=str(home / "file/x"))
    assert done.returncode == 1
    assert "the record of this could not be written" in done.stderr
    assert not Path(demo.database.script).exists()


# --- what is loaded -------------------------------------------------------------------------------------------------


def test_listing_the_tasks_loads_none_of_the_large_packages() -> None:
    loaded = "import sys, tasks; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "invoke" in done.stdout.split()
    assert not {"fabric", "paramiko", "asyncssh", "pydantic", "rich"} & set(done.stdout.split())


def test_a_reader_that_has_gone_ends_in_no_traceback(local: Inv) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [INV, "--search-root", ROOT, "list-backups", "--host", "local", "--json"],
        env=local.environment,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert "BrokenPipe" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("flags", [("history",), ("history", "--json"), ("history", "--json", "--host", "")])
def test_a_disk_that_is_full_of_what_is_printed_is_told_in_words(local: Inv, flags: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [INV, "--search-root", ROOT, *flags],
            env=local.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    words = "not all could be written\n  | [Errno 28] No space left on device\n  -> make room; see ./inv history\n"
    assert (done.returncode, done.stderr) == (1, words)
