"""The task `history`, and the records that the other tasks leave for it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import COULD_NOT_LOOK, FAILED
from demo_backups.project import ROOT, whoami
from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import RunDetails, new_record
from demo_backups.records.store import read_records, write_record
from demo_backups.remote.host import Host
from demo_backups.remote.job_state import SUPERVISOR
from demo_backups.ui.console import make_console
from demo_backups.workflows.crontab import disable, enable
from demo_backups.workflows.scripts import deploy
from demo_backups.workflows.session import Session

from ..helpers.faults import install_script
from ..helpers.records import make_full_record, make_record
from ..helpers.tasks import INV, DemoServer, InvRunner, assert_exit, assert_success, read_json

PASSED = Check("created", Outcome.PASSED, "")
FAILED_CHECK = Check("size", Outcome.FAILED, "it is empty")


@pytest.fixture
def evidence(home: Path) -> Path:
    """The directory of the records, which does not exist yet."""
    return home / "evidence"


@pytest.fixture
def wide_inv(run_inv: InvRunner) -> InvRunner:
    """The tasks, on a console that is wide enough for a table with one line per record."""
    run_inv.environment["COLUMNS"] = "160"
    return run_inv


def list_records(run_inv: InvRunner, *flags: str) -> list[dict[str, Any]]:
    """Return the records that `history` prints as JSON."""
    records: list[dict[str, Any]] = read_json(run_inv("history", "--json", *flags))["records"]
    return records


# --- output ---------------------------------------------------------------------------------------------------------


def test_table_lists_records_newest_first(wide_inv: InvRunner, evidence: Path) -> None:
    run = make_record(
        when="2026-01-31T13:00:00.500000+02:00",
        who="me@laptop",
        exit_status=0,
        backup="/b/backup_2026-01-31_11-00-00.db",
        bytes=2301952,
        seconds=1234.56,
    )
    verification = make_record(
        "verification", when="2026-01-31T12:00:00+00:00", database="tracker", checks=[PASSED, FAILED_CHECK]
    )
    write_record(evidence, run)
    write_record(evidence, verification)
    output = assert_success(wide_inv("history", INVOKE_HOST="nowhere.invalid"))  # it connects to no host
    heading, _, *rows = (re.split(" {2,}", line.strip()) for line in output.splitlines() if line.strip())
    assert heading == ["when (UTC)", "host", "database", "kind", "result", "backup", "bytes", "seconds", "who"]
    values = ["backup_2026-01-31_11-00-00.db", "2,301,952", "1,234.6", "me@laptop"]
    assert rows == [
        ["2026-01-31 12:00:00", "demo", "tracker", "verification", "1 of 2 checks failed: size"],
        ["2026-01-31 11:00:00", "demo", "index", "run", "done", *values],
    ]


@pytest.mark.parametrize("width", [60, 80])
def test_narrow_terminal_breaks_no_word(run_inv: InvRunner, evidence: Path, width: int) -> None:
    backup = "tracker_backup_2026-01-31_11-00-00.db"
    write_record(evidence, make_record("verification", backup=f"/b/{backup}", bytes=17_000_000_000, who="me@laptop"))
    output = assert_success(run_inv("history", COLUMNS=str(width)))
    assert max(len(line) for line in output.splitlines()) <= width
    for word in ("verification", backup, "17,000,000,000", "me@laptop"):
        assert word in output


def test_json_has_complete_records(run_inv: InvRunner, evidence: Path) -> None:
    records = [
        make_record(when="2026-01-31T11:00:00+00:00", commands=["true"], details=RunDetails(waited_seconds=0.5)),
        make_full_record(),
    ]
    for record in records:
        write_record(evidence, record)
    assert list_records(run_inv) == [record.as_json() for record in records]


def test_records_are_selected_exactly(run_inv: InvRunner, evidence: Path) -> None:
    sources = [("demo", "index"), ("demo", "tracker"), ("demo2", "index"), ("me@demo", "index"), ("me-demo", "tracker")]
    for hour, (host, database) in enumerate(sources):
        write_record(evidence, make_record(when=f"2026-01-31T{hour:02}:00:00+00:00", host=host, database=database))

    def hours(*flags: str) -> list[int]:
        return [int(record["when"][11:13]) for record in list_records(run_inv, *flags)]

    assert hours() == [4, 3, 2, 1, 0]
    assert hours("--host", "demo") == [1, 0]
    assert hours("--host", "me@demo") == [3]  # the name of its file is that of me-demo
    assert hours("--database", "tracker") == [4, 1]
    assert hours("--database", "tracker", "--host", "demo") == [1]


def test_no_records_is_one_line(run_inv: InvRunner, evidence: Path) -> None:
    output = assert_success(run_inv("history"))
    assert str(evidence) in output
    assert len(output.splitlines()) == 1
    assert read_json(run_inv("history", "--json")) == {"records": [], "damaged": []}
    assert not evidence.exists()


def test_no_match_is_not_no_records(run_inv: InvRunner, evidence: Path) -> None:
    empty = assert_success(run_inv("history", "--host", "other"))
    write_record(evidence, make_record())
    output = assert_success(run_inv("history", "--host", "other"))
    assert str(evidence) in output
    assert output != empty
    assert list_records(run_inv, "--host", "other") == []


def test_invalid_records_are_named(wide_inv: InvRunner, evidence: Path) -> None:
    valid = write_record(evidence, make_record())
    half = evidence / "2026-01-31T13-00-00_run_demo_index.json"
    half.write_bytes(valid.read_bytes()[:100])
    newer = evidence / "2026-01-31T14-00-00_run_demo_index.json"
    newer.write_text(json.dumps(make_record().as_json() | {"schema": 3}))
    output = assert_success(wide_inv("history"))
    *_, first, last = output.splitlines()
    assert str(half) in first
    assert str(newer) in last
    assert len(re.findall("demo +index", output)) == 1
    invalid = read_json(wide_inv("history", "--json", "--host", "other"))["damaged"]
    assert [file["file"] for file in invalid] == [str(half), str(newer)]
    assert all(file["why"] for file in invalid)


def test_control_characters_are_escaped(wide_inv: InvRunner, evidence: Path) -> None:
    bad = "\x1b[2J[bold]\udcff"
    write_record(evidence, make_record(backup=f"/b/{bad}", host=bad, who=bad))
    (evidence / "\x1b[2J\udcff.json").write_text('{"schema": "\x1b[2J"}')
    done = wide_inv("history")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert done.stdout.count(r"\x1b[2J[bold]\udcff") == 3
    assert list_records(wide_inv)[0]["who"] == bad


def test_terminal_encoding_may_be_ascii(wide_inv: InvRunner, evidence: Path) -> None:
    write_record(evidence, make_record(who="mü✓"))
    assert r"m\xfc\u2713" in assert_success(wide_inv("history", PYTHONIOENCODING="ascii"))


def test_thousand_records_are_listed(wide_inv: InvRunner, evidence: Path) -> None:
    text = write_record(evidence, make_record(commands=["x" * 200] * 20, checks=[PASSED] * 5)).read_text()
    for number in range(1, 1000):
        time = f"20:{number // 60:02}:{number % 60:02}"
        (evidence / f"{number:04}.json").write_text(text.replace("20:00:00", time))
    times = [record["when"] for record in list_records(wide_inv)]
    assert times == sorted(times, reverse=True)
    assert len(times) == 1000
    assert len(re.findall(r"^ *2024-", assert_success(wide_inv("history")), re.MULTILINE)) == 1000


# --- directories and files that cannot be read ----------------------------------------------------------------------


def test_unreadable_directory_is_could_not_look(run_inv: InvRunner, home: Path) -> None:
    (home / "file").touch()
    done = run_inv("history", INVOKE_EVIDENCE_DIR=str(home / "file"))
    assert_exit(done, COULD_NOT_LOOK, str(home / "file"), "  | ", "evidence_dir")
    assert done.stdout == ""


def run_without_privileges(run_inv: InvRunner, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a task as this user without the privileges of root, for whom permissions do not count."""
    drop = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else []
    command: list[str | Path] = [*drop, INV, "--search-root", ROOT, *arguments]
    return subprocess.run(command, env=run_inv.environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100], ids=oct)
def test_directory_without_permission(run_inv: InvRunner, evidence: Path, mode: int) -> None:
    write_record(evidence, make_record())
    evidence.chmod(mode)
    try:
        done = run_without_privileges(run_inv, "history", "--json")
    finally:
        evidence.chmod(0o700)
    assert read_json(done, COULD_NOT_LOOK)["exit_code"] == COULD_NOT_LOOK
    assert "Permission denied" in done.stderr


def test_record_without_permission_is_named(run_inv: InvRunner, evidence: Path) -> None:
    write_record(evidence, make_record(when="2026-01-31T11:00:00+00:00"))
    place = write_record(evidence, make_record(when="2026-01-31T12:00:00+00:00"))
    place.chmod(0)
    history = read_json(run_without_privileges(run_inv, "history", "--json"))
    assert [record["when"] for record in history["records"]] == ["2026-01-31T11:00:00+00:00"]
    assert history["damaged"] == [{"file": str(place), "why": "Permission denied"}]


# --- what the tasks write -------------------------------------------------------------------------------------------


def test_records_say_who_and_what_ran(demo_server: DemoServer, evidence: Path) -> None:
    assert_success(demo_server.inv("deploy-index-backup", "run-index-backup", "verify"))
    (deployment, run, verification), invalid = read_records(evidence)
    assert invalid == []
    assert {record.who for record in (deployment, run, verification)} == {whoami()}

    modified = f"{(demo_server.backups / demo_server.names()[0]).stat().st_mtime:.3f}"
    assert deployment.created is None
    for record in (run, verification):
        assert record.created
        assert f"{datetime.fromisoformat(record.created).timestamp():.3f}" == modified

    (start,) = (command for command in run.commands if "setsid" in command)
    assert SUPERVISOR.name in start
    assert SUPERVISOR.read_text() not in start
    assert any("PRAGMA integrity_check" in command for command in verification.commands)
    for record in (deployment, run, verification):
        assert len(set(record.commands)) == len(record.commands)
        assert len(json.dumps(record.as_json(), indent=2)) < 14_000, record.kind


def test_failed_preflight_is_recorded(demo_server: DemoServer, evidence: Path) -> None:
    demo_server.source.unlink()
    assert demo_server.inv("deploy-index-backup", "run-index-backup").returncode == FAILED
    _, run = read_records(evidence)[0]
    assert run.error
    assert any(f"realpath -e -- {demo_server.source}" in command for command in run.commands)
    assert not any("setsid" in command for command in run.commands)


def test_unreachable_host_has_no_commands(run_inv: InvRunner, evidence: Path) -> None:
    assert run_inv("verify", "--host", "nowhere.invalid").returncode == COULD_NOT_LOOK
    ((record,), _) = read_records(evidence)
    assert (record.host, record.commands, record.who) == ("nowhere.invalid", [], whoami())


def test_followed_run_is_recorded_once(demo_server: DemoServer, evidence: Path) -> None:
    install_script(demo_server, "for word in a b c; do echo $word; sleep 0.3; done; exit 3")
    assert demo_server.inv("run-index-backup", "--force-unsafe").returncode == FAILED
    ((run,), _) = read_records(evidence)
    assert run.exit_status == 3
    assert len([command for command in run.commands if "tail -c +" in command]) == 1


def test_attach_records_a_job_once(demo_server: DemoServer, evidence: Path, tmp_path: Path) -> None:
    assert_success(demo_server.inv("deploy-index-backup", "run-index-backup", "verify"))
    before = read_records(evidence)
    assert "all checks passed" in assert_success(demo_server.inv("attach"))
    assert read_records(evidence) == before

    other = {"INVOKE_EVIDENCE_DIR": str(tmp_path / "evidence of another maintainer")}
    for _ in range(2):
        assert_success(demo_server.inv("attach", **other))
    ((verification,), _) = read_records(Path(other["INVOKE_EVIDENCE_DIR"]))
    assert (verification.kind, verification.outcome) == ("verification", Outcome.PASSED)


def test_attach_records_a_failed_job_once(demo_server: DemoServer, evidence: Path) -> None:
    install_script(demo_server, "exit 7")
    assert demo_server.inv("run-index-backup", "--force-unsafe").returncode == FAILED
    for _ in range(2):
        assert_exit(demo_server.inv("attach"), FAILED, "exit status 7")
    ((run,), _) = read_records(evidence)
    assert (run.kind, run.exit_status) == ("run", 7)


def test_crontab_content_is_not_recorded(demo_server: DemoServer, host: Host) -> None:
    demo_server.crontab.write_text("0 0 * * * /bin/login --with=a-secret\n")
    record = new_record("enable", "rehearsal", "index")
    work = Session(host, demo_server.settings, demo_server.database, record, make_console(io.StringIO()))
    deploy(work)
    enable(work)
    disable(work)
    assert "a-secret" in demo_server.crontab.read_text()
    assert any("crontab " in command for command in work.record.commands)
    assert "a-secret" not in json.dumps(work.record.commands)


def test_rehearsal_is_recorded_with_its_commands(run_inv: InvRunner, evidence: Path) -> None:
    assert_success(run_inv("rehearse"))
    ((record,), _) = read_records(evidence)
    for text in ("setsid", "PRAGMA integrity_check", 'crontab "$new"', "crontab -r"):
        assert any(text in command for command in record.commands), text
    assert record.created
    assert record.who == whoami()
    assert record.details.model_dump()["traffic"]["failed"] == 0
    assert len(json.dumps(record.commands)) < 30_000
