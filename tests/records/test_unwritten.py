"""Tasks whose record cannot be written: what is done is shown all the same."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from demo_backups.errors import FAILED, INCOMPLETE
from demo_backups.project import ROOT

from ..helpers.databases import damage_pages
from ..helpers.tasks import INV, DemoServer, assert_exit, assert_success, read_json


@pytest.fixture
def blocked(home: Path) -> dict[str, str]:
    """The setting of a directory of records that nobody can create, not even root."""
    (home / "file").touch()
    return {"INVOKE_EVIDENCE_DIR": str(home / "file/evidence")}


@pytest.fixture
def backup(demo_server: DemoServer) -> Path:
    """A backup on the server."""
    assert_success(demo_server.inv("deploy-index-backup", "run-index-backup"))
    (name,) = demo_server.names()
    return demo_server.backups / name


def test_verification_is_shown_without_record(demo_server: DemoServer, backup: Path, blocked: dict[str, str]) -> None:
    done = demo_server.inv("verify", **blocked)
    assert_exit(done, INCOMPLETE, "the task is done, but ", blocked["INVOKE_EVIDENCE_DIR"], "INVOKE_EVIDENCE_DIR")
    assert backup.name in done.stdout
    assert "all checks passed" in done.stdout


@pytest.mark.usefixtures("backup")
def test_json_stays_one_object(demo_server: DemoServer, blocked: dict[str, str]) -> None:
    done = demo_server.inv("verify", "--json", **blocked)
    assert read_json(done, INCOMPLETE)["passed"] is True
    assert blocked["INVOKE_EVIDENCE_DIR"] in done.stderr


def test_failed_check_outweighs_missing_record(demo_server: DemoServer, backup: Path, blocked: dict[str, str]) -> None:
    damage_pages(backup)
    done = demo_server.inv("verify", "--json", **blocked)
    assert read_json(done, FAILED)["passed"] is False
    assert blocked["INVOKE_EVIDENCE_DIR"] in done.stderr


@pytest.mark.usefixtures("backup")
def test_attach_shows_result_without_record(demo_server: DemoServer, blocked: dict[str, str]) -> None:
    done = demo_server.inv("attach", **blocked)
    assert_exit(done, INCOMPLETE, blocked["INVOKE_EVIDENCE_DIR"])
    assert "created " in done.stdout
    assert demo_server.inv("verify", **blocked).returncode == INCOMPLETE
    done = demo_server.inv("attach", **blocked)
    assert_exit(done, INCOMPLETE, blocked["INVOKE_EVIDENCE_DIR"])
    assert "all checks passed" in done.stdout


@pytest.mark.usefixtures("backup")
def test_backup_needs_a_place_for_its_record(demo_server: DemoServer, blocked: dict[str, str]) -> None:
    before = demo_server.names()
    assert_exit(demo_server.inv("run", **blocked), FAILED, blocked["INVOKE_EVIDENCE_DIR"])
    assert demo_server.names() == before


def test_backup_is_shown_without_record(demo_server: DemoServer, home: Path) -> None:
    """The directory of the records cannot be written any more at the end."""
    evidence = home / "evidence"
    backup = demo_server.backups / "backup_2026-01-31_04-00-00.db"
    demo_server.script.write_text(
        "#!/bin/sh\n"
        f"mv {shlex.quote(str(evidence))} {shlex.quote(f'{evidence}.old')}; touch {shlex.quote(str(evidence))}\n"
        f"echo x > {shlex.quote(str(backup))}\n"
    )
    demo_server.script.chmod(0o755)
    done = demo_server.inv("run", "--force-unsafe")
    assert_exit(done, INCOMPLETE, str(evidence), "File exists")
    assert f"created {backup}" in done.stdout


def test_full_disk_of_records_is_named(
    demo_server: DemoServer, backup: Path, private_mounts: list[str], home: Path
) -> None:
    evidence = home / "evidence"
    full = f"mount -t tmpfs -o size=4k tmpfs {shlex.quote(str(evidence))}; : > {shlex.quote(str(evidence))}/file"
    fill = f"head -c 4096 /dev/zero > {shlex.quote(str(evidence))}/file"
    done = subprocess.run(
        [*private_mounts, "sh", "-euc", f'{full}; {fill}; exec "$@"', "sh", INV, "--search-root", ROOT, "verify"],
        env=dict(demo_server.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert_exit(done, INCOMPLETE, "No space left on device", "free space there")
    assert backup.name in done.stdout
    assert "all checks passed" in done.stdout
