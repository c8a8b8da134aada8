"""The records of what was done, and the task that lists them."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from demo_backups.project import ROOT, whoami
from demo_backups.records.record import Record, RecordedCheck
from demo_backups.records.store import read_records, write_record
from demo_backups.remote.host import Host
from demo_backups.remote.jobs import SUPERVISOR
from demo_backups.ui.console import make_console
from demo_backups.workflows import Session, deploy, disable, enable

from ..helpers.constants import SCRIPT
from ..helpers.tasks import INV, Demo, Inv

PASSED: RecordedCheck = {"name": "created", "passed": True, "detail": ""}
FAILED: RecordedCheck = {"name": "size", "passed": False, "detail": "it is empty"}
NOT_MADE: RecordedCheck = {"name": "source", "passed": None, "detail": "it is gone"}


def record(hour: int = 12, **changes: Any) -> Record:
    usual = {"kind": "run", "host": "demo", "database": "index", "when": f"2026-01-31T{hour:02}:00:00+00:00"}
    return Record(**{**usual, "who": "me@here", "exit_status": 0, **changes})


@pytest.fixture
def folder(home: Path) -> Path:
    """The folder of the records, which is not there yet."""
    return home / "evidence"


@pytest.fixture
def inv(inv: Inv) -> Inv:
    """The tasks, on a console that is wide enough for a row a line."""
    inv.environment["COLUMNS"] = "160"
    return inv


def shown(inv: Inv, *flags: str) -> list[dict[str, Any]]:
    """The records that the task prints as JSON."""
    done = inv("history", "--json", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    records: list[dict[str, Any]] = json.loads(done.stdout)["records"]
    return records


# --- what it shows --------------------------------------------------------------------------------------------------


def test_what_the_terminal_s_letters_have_not_is_written_out(inv: Inv, folder: Path) -> None:
    write_record(folder, record(who="mü✓"))
    done = inv("history", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"m\xfc\u2713" in done.stdout


def test_a_table_of_what_was_done_the_newest_first(inv: Inv, folder: Path) -> None:
    write_record(
        folder,
        record(
            when="2026-01-31T13:00:00.500000+02:00",
            backup="/b/backup_2026-01-31_11-00-00.db",
            bytes=2301952,
            seconds=1234.56,
        ),
    )
    write_record(folder, record(12, kind="verification", database="tracker", checks=[PASSED, FAILED], exit_status=1))
    done = inv("history", INVOKE_HOST="nowhere.invalid")  # which it does not ask
    assert (done.returncode, done.stderr) == (0, "")
    heading, _, *rows = (re.split(" {2,}", line.strip()) for line in done.stdout.splitlines() if line.strip())
    assert heading == ["when (UTC)", "host", "database", "kind", "result", "backup", "bytes", "seconds", "who"]
    run = ["demo", "index", "run", "done", "backup_2026-01-31_11-00-00.db", "2,301,952", "1,234.6", "me@here"]
    assert rows == [
        ["2026-01-31 12:00:00", "demo", "tracker", "verification", "1 of 2 checks failed: size", "me@here"],
        ["2026-01-31 11:00:00", *run],
    ]


def test_json_has_the_whole_records(inv: Inv, folder: Path) -> None:
    given = [record(11, commands=["true"], details={"a": [1]}), record(12, created="2026-01-31T12:00:00+00:00")]
    for each in given:
        write_record(folder, each)
    assert shown(inv) == [asdict(each) for each in reversed(given)]


def test_records_of_one_host_or_database_are_not_mixed_up_with_others(inv: Inv, folder: Path) -> None:
    for hour, (host, database) in enumerate(
        [("demo", "index"), ("demo", "tracker"), ("demo2", "index"), ("me@demo", "index"), ("me-demo", "tracker")]
    ):
        write_record(folder, record(hour, host=host, database=database))

    def hours(*flags: str) -> list[int]:
        return [int(each["when"][11:13]) for each in shown(inv, *flags)]

    assert hours() == [4, 3, 2, 1, 0]
    assert hours("--host", "demo") == [1, 0]
    assert hours("--host", "me@demo") == [3]  # whose file has the name of me-demo's
    assert hours("--database", "tracker") == [4, 1]
    assert hours("--database", "tracker", "--host", "demo") == [1]
    assert "me@demo" not in inv("history", "--host", "demo").stdout


def test_nothing_yet_is_said_in_words(inv: Inv, folder: Path) -> None:
    done = inv("history")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        f"there are no records in {folder} yet: every task that changes something on a host, "
    )
    assert len(done.stdout.splitlines()) == 1
    assert json.loads(inv("history", "--json").stdout) == {"records": [], "damaged": []}
    assert not folder.exists()


def test_nothing_of_that_host_is_not_nothing_at_all(inv: Inv, folder: Path) -> None:
    write_record(folder, record())
    assert inv("history", "--host", "other").stdout == f"no such record among the 1 in {folder}\n"
    assert shown(inv, "--host", "other") == []


def test_damaged_records_are_named_below_the_table_and_passed_over(inv: Inv, folder: Path) -> None:
    whole = write_record(folder, record())
    half = folder / "2026-01-31T13-00-00_run_demo_index.json"
    half.write_bytes(whole.read_bytes()[:100])
    newer = folder / "2026-01-31T14-00-00_run_demo_index.json"
    newer.write_text(json.dumps(asdict(record()) | {"schema": 3}))
    done = inv("history")
    assert (done.returncode, done.stderr) == (0, "")
    *_, first, last = done.stdout.splitlines()
    assert first.startswith(f"passed over: {half}: it is not whole, or not JSON: ")
    assert last == f"passed over: {newer}: schema 3 is not known: a newer version wrote it"
    assert len(re.findall("demo +index", done.stdout)) == 1
    damaged = json.loads(inv("history", "--json", "--host", "other").stdout)["damaged"]
    assert [each["file"] for each in damaged] == [str(half), str(newer)]
    assert damaged[1]["why"] == "schema 3 is not known: a newer version wrote it"
    whole.unlink()
    assert "no records" not in inv("history").stdout


def test_what_a_record_says_is_harmless_to_a_terminal(inv: Inv, folder: Path) -> None:
    bad = "\x1b[2J[bold]\udcff"
    write_record(folder, record(backup=f"/b/{bad}", host=bad, who=bad, kind=bad))
    (folder / "\x1b[2J\udcff.json").write_text('{"schema": "\x1b[2J"}')
    done = inv("history")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert done.stdout.count(r"\x1b[2J[bold]\udcff") == 4
    assert shown(inv)[0]["who"] == bad


def test_a_thousand_records(inv: Inv, folder: Path) -> None:
    example = write_record(folder, record(commands=["x" * 200] * 20, checks=[PASSED] * 5)).read_text()
    for number in range(1, 1000):
        (folder / f"{number:04}.json").write_text(example.replace("12:00:00", f"12:{number // 60:02}:{number % 60:02}"))
    assert [each["when"] for each in shown(inv)] == sorted(
        (each.when for each in read_records(folder)[0]), reverse=True
    )
    assert len([line for line in inv("history").stdout.splitlines() if line.strip().startswith("2026-")]) == 1000


# --- what is wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--database", "Tracker"], "no database 'Tracker' in the settings; there are: index, tracker"),
        (["--database", ""], "no database '' in the settings"),
        (["--host=-x"], "--host '-x' is no SSH alias"),
        (["--host="], "--host is empty"),
    ],
)
def test_what_can_be_no_host_or_database_is_refused(inv: Inv, flags: list[str], words: str) -> None:
    done = inv("history", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(words)
    assert json.loads(inv("history", "--json", *flags).stdout)["exit_code"] == 2


def test_a_folder_that_cannot_be_read_is_could_not_look(inv: Inv, home: Path) -> None:
    (home / "file").touch()
    done = inv("history", INVOKE_EVIDENCE_DIR=str(home / "file"))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"the records in {home / 'file'} cannot be read\n  | ")
    assert "evidence_dir" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100], ids=oct)
def test_a_folder_without_permission_is_could_not_look(inv: Inv, folder: Path, mode: int) -> None:
    write_record(folder, record())
    folder.chmod(mode)
    try:
        done = without_privileges(inv, "history", "--json")
    finally:
        folder.chmod(0o700)
    assert done.returncode == json.loads(done.stdout)["exit_code"] == 3
    assert "Permission denied" in done.stderr


def test_a_record_without_permission_is_named_and_passed_over(inv: Inv, folder: Path) -> None:
    write_record(folder, record(11))
    place = write_record(folder, record(12))
    place.chmod(0)
    done = without_privileges(inv, "history", "--json")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert [each["when"] for each in seen["records"]] == ["2026-01-31T11:00:00+00:00"]
    assert seen["damaged"] == [{"file": str(place), "why": "Permission denied"}]


def without_privileges(inv: Inv, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a task as this user, for whom permissions count even if it is root."""
    drop = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else []
    words: list[str | Path] = [*drop, INV, "--search-root", ROOT, *arguments]
    return subprocess.run(words, env=inv.environment, capture_output=True, text=True, check=False)


# --- what the tasks write -------------------------------------------------------------------------------------------


def test_the_records_of_the_tasks_say_who_what_and_when(demo: Demo, folder: Path) -> None:
    done = demo.inv("deploy-index-backup", "run-index-backup", "verify")
    assert done.returncode == 0, done.stderr
    (deploy, run, verification), damaged = read_records(folder)
    assert damaged == []
    assert {each.who for each in (deploy, run, verification)} == {whoami()}

    backup = demo.backups / demo.names()[0]
    written = f"{backup.stat().st_mtime:.3f}"
    assert deploy.created is None
    for each in (run, verification):
        assert each.created
        assert f"{datetime.fromisoformat(each.created).timestamp():.3f}" == written

    (put,) = (command for command in deploy.commands if "mktemp" in command)
    assert f"echo <{len(SCRIPT.read_bytes()):,} bytes of {SCRIPT.name}, base64> | base64 -d" in put
    (start,) = (command for command in run.commands if "setsid" in command)
    assert f"<{SUPERVISOR.stat().st_size:,} bytes of job.sh>" in start
    assert demo.database.script.name in start
    assert any("PRAGMA integrity_check" in command for command in verification.commands)
    for each in (deploy, run, verification):
        assert len(set(each.commands)) == len(each.commands)
        assert len(json.dumps(asdict(each), indent=2)) < 10_000, each.kind


def test_what_was_run_is_recorded_also_where_it_failed(demo: Demo, folder: Path) -> None:
    demo.source.unlink()
    assert demo.inv("deploy-index-backup", "run-index-backup").returncode == 1
    _, run = read_records(folder)[0]
    assert run.error
    assert any(f"find {demo.source}" in command for command in run.commands)
    assert not any("setsid" in command for command in run.commands)


def test_a_host_that_is_not_reached_was_asked_nothing(inv: Inv, folder: Path) -> None:
    assert inv("verify", "--host", "nowhere.invalid").returncode == 3
    ((seen,), _) = read_records(folder)
    assert (seen.host, seen.commands, seen.who) == ("nowhere.invalid", [], whoami())


def test_a_run_that_is_followed_is_recorded_without_every_look_at_it(demo: Demo, folder: Path) -> None:
    script = Path(demo.database.script)
    script.write_text("#!/bin/sh\nfor word in a b c; do echo $word; sleep 0.3; done; exit 3\n")
    script.chmod(0o755)
    assert demo.inv("run-index-backup").returncode == 1
    ((run,), _) = read_records(folder)
    assert run.exit_status == 3
    assert len([command for command in run.commands if "tail -c +" in command]) == 1


def test_no_other_line_of_a_crontab_is_recorded(demo: Demo, host: Host) -> None:
    crontab = demo.server.home / "crontab"
    crontab.write_text("0 0 * * * /bin/login --with=a-secret\n")
    work = Session(host, demo.settings, demo.database, record(), make_console(io.StringIO()))
    deploy(work)
    enable(work)
    disable(work)
    assert "a-secret" in crontab.read_text()
    commands = work.record.commands
    assert len([command for command in commands if 'crontab "$new"' in command and "bytes, base64>" in command]) == 1
    assert "a-secret" not in json.dumps(commands)


def test_a_rehearsal_s_record_has_what_its_steps_ran(inv: Inv, folder: Path) -> None:
    done = inv("rehearse")
    assert done.returncode == 0, done.stdout + done.stderr
    ((seen,), _) = read_records(folder)
    for words in ("base64>", "setsid", "PRAGMA integrity_check", 'crontab "$new"', "crontab -r"):
        assert any(words in command for command in seen.commands), words
    assert seen.created
    assert seen.who == whoami()
    assert len(json.dumps(seen.commands)) < 20_000
