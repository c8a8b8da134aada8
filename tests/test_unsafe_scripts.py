"""No task deploys, runs or schedules an unsafe script without --force-unsafe."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo_backups.errors import COULD_NOT_LOOK, FAILED
from demo_backups.project import ROOT

from .helpers.faults import install_script
from .helpers.programs import write_program
from .helpers.tasks import DemoServer, assert_exit, assert_success, read_json

NAME = "index-db-backup.sh"
SAFE = (ROOT / "share/bin" / NAME).read_text()
UNSAFE = '#!/bin/bash\nDATABASE_FILE="/srv/a.db"\nBACKUP_DIR="/srv"\ncp "$DATABASE_FILE" "$BACKUP_DIR"\n'
UNREADABLE = SAFE.replace("sqlite3 -batch", '"$SQLITE" -batch')


@pytest.fixture
def checkout(demo_server: DemoServer, tmp_path: Path) -> Path:
    """Another checkout to release, with the crontab of this one; the test writes its script."""
    checkout = tmp_path / "checkout"
    (checkout / "share/bin").mkdir(parents=True)
    demo_server.environment = {**demo_server.environment, "INVOKE_RELEASE_REPOSITORY": str(checkout)}
    return checkout


@pytest.mark.parametrize(
    ("text", "exit_code", "finding"),
    [(UNSAFE, FAILED, "uses cp"), (UNREADABLE, COULD_NOT_LOOK, "in a variable")],
    ids=["unsafe", "not readable"],
)
def test_deploy_refuses_unsafe_script(
    demo_server: DemoServer, checkout: Path, text: str, exit_code: int, finding: str
) -> None:
    assert_success(demo_server.inv("deploy-index-backup", INVOKE_RELEASE_REPOSITORY=str(ROOT)))
    local = write_program(checkout / "share/bin" / NAME, text)
    for flags in ([], ["--dry-run"]):
        done = demo_server.inv("deploy-index-backup", *flags)
        assert_exit(done, exit_code, str(local), finding, "--force-unsafe")
        assert demo_server.script.read_text() == SAFE
    output = assert_success(demo_server.inv("deploy-index-backup", "--force-unsafe"))
    assert finding in output
    assert demo_server.script.read_text() == text


def test_unsafe_script_is_never_up_to_date(demo_server: DemoServer, checkout: Path) -> None:
    write_program(demo_server.script, UNSAFE)
    write_program(checkout / "share/bin" / NAME, UNSAFE)
    assert_exit(demo_server.inv("deploy-index-backup"), FAILED, "uses cp")


def test_run_refuses_unsafe_script(demo_server: DemoServer) -> None:
    marker = demo_server.server.folder / "was-run"
    install_script(demo_server, f"touch '{marker}'; cp a b; exit 7")
    for flags in ([], ["--dry-run"], ["--force"]):
        done = demo_server.inv("run-index-backup", *flags)
        assert_exit(done, FAILED, str(demo_server.script), "uses cp", "./inv deploy ", "--force-unsafe")
    assert not marker.exists()
    assert_exit(demo_server.inv("run-index-backup", "--force-unsafe"), FAILED, "exit status 7")
    assert marker.exists()


def test_enable_refuses_unsafe_script(demo_server: DemoServer, checkout: Path) -> None:
    write_program(checkout / "share/bin" / NAME, UNSAFE)
    assert_success(demo_server.inv("deploy-index-backup", "--force-unsafe"))
    for flags in ([], ["--dry-run"]):
        assert_exit(demo_server.inv("enable-index-backup", *flags), FAILED, "uses cp", "--force-unsafe")
    assert not demo_server.crontab.exists()
    assert_success(demo_server.inv("enable-index-backup", "--force-unsafe"))
    assert str(demo_server.script) in demo_server.crontab.read_text()


def test_preflight_warns_of_unsafe_script(demo_server: DemoServer) -> None:
    write_program(demo_server.script, UNSAFE)
    prediction = read_json(demo_server.inv("preflight", "--json"))
    assert any("uses cp" in reason and "./inv deploy" in reason for reason in prediction["reasons"])
    assert_success(demo_server.inv("deploy-index-backup"))
    prediction = read_json(demo_server.inv("preflight", "--json"))
    assert not any("installed script" in reason for reason in prediction["reasons"])
