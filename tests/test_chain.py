"""The whole chain of tasks on the throwaway server, as a user calls it."""

from __future__ import annotations

import json

from demo_backups.project import ROOT

from .conftest import Demo


def test_every_task_of_phase_1_in_order(demo: Demo) -> None:
    for arguments in (
        ["deploy-index-backup"],
        ["run-index-backup"],
        ["verify"],
        ["enable-index-backup"],
        ["list-backups"],
    ):
        done = demo.inv(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith("rehearsal: ")
    assert len(demo.names()) == 1
    crontab = (demo.server.home / "crontab").read_text()
    assert "index-db-backup.sh >> " in crontab

    done = demo.inv("disable-index-backup")
    assert done.returncode == 0, done.stderr
    assert not (demo.server.home / "crontab").exists()


def test_json_of_a_verification(demo: Demo) -> None:
    demo.inv("deploy-index-backup", "run-index-backup")
    done = demo.inv("verify", "--json")
    seen = json.loads(done.stdout)
    assert done.returncode == 0
    assert seen["passed"] is True
    assert [check["name"] for check in seen["checks"]] == ["created", "size", "integrity", "query", "source"]
    assert seen["host"] == "rehearsal"


def test_the_deployed_script_is_the_one_of_this_checkout(demo: Demo) -> None:
    demo.inv("deploy-index-backup")
    assert (demo.server.folder / "app/share/bin/index-db-backup.sh").read_bytes() == (
        ROOT / "share/bin/index-db-backup.sh"
    ).read_bytes()
