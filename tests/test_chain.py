"""The whole chain of tasks on the throwaway server, as a user calls it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from demo_backups.backup.crontab import split_line
from demo_backups.project import ROOT
from demo_backups.rehearsal.database import make_index

from .helpers.constants import SCRIPT
from .helpers.databases import is_consistent
from .helpers.tasks import INV, Demo

CHAIN = ("deploy-index-backup", "run-index-backup", "verify", "enable-index-backup", "list-backups")
OLD = b"# mine, \xff\xe4\r\nMAILTO=me@example.org\n5 4 * * * echo 100\\% >/dev/null"  # without a line end: kept too


def crontab(demo: Demo) -> Path:
    """The server's crontab; there is none where this file is not."""
    return demo.server.home / "crontab"


def record(demo: Demo) -> dict[str, Any]:
    """The newest record of what was done."""
    return json.loads(max(Path(demo.environment["INVOKE_EVIDENCE_DIR"]).iterdir()).read_text())  # type: ignore[no-any-return]


def ok(done: subprocess.CompletedProcess[str]) -> str:
    """Check that all went well, and return what was printed."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def run_enabled_line(demo: Demo) -> None:
    """Run what stands in the crontab as cron does: unescaped, by /bin/sh, in a bare environment, from home."""
    (line,) = (each for each in crontab(demo).read_text(errors="replace").split("\n") if each.startswith("0 "))
    split = split_line(line)
    assert split
    subprocess.run(
        ["/bin/sh", "-c", re.sub(r"\\([\\%])", r"\1", split[1])],
        env={"HOME": str(demo.server.home), "LOGNAME": "root", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"},
        cwd=demo.server.home,
        check=True,
    )


def test_every_task_of_phase_1_in_order(demo: Demo) -> None:
    for task in CHAIN:
        printed = ok(demo.inv(task))
        assert printed.startswith(f"rehearsal: {task} (index database)\n")
    (name,) = demo.names()
    assert name in printed
    assert is_consistent(demo.backups / name)
    assert "index-db-backup.sh >> " in crontab(demo).read_text()

    ok(demo.inv("disable-index-backup"))
    assert not crontab(demo).exists()


def test_one_call_may_do_them_all(demo: Demo) -> None:
    printed = ok(demo.inv(*CHAIN, "disable-index-backup"))
    assert [line for line in printed.splitlines() if line.startswith("rehearsal: ")] == [
        f"rehearsal: {task} (index database)" for task in (*CHAIN, "disable-index-backup")
    ]


def test_what_is_asked_for_twice_is_done_twice(demo: Demo) -> None:
    printed = ok(demo.inv("deploy-index-backup", "run-index-backup", "verify", "verify"))
    assert printed.count("all checks passed") == 2


def test_a_task_that_fails_ends_the_chain(demo: Demo) -> None:
    done = demo.inv("run-index-backup", "enable-index-backup")
    assert done.returncode == 1
    assert "enable-index-backup (" not in done.stdout
    assert not crontab(demo).exists()


def test_this_machine_without_ssh(demo: Demo) -> None:
    """The same, with the server's PATH and home so that its stand-in for crontab is found and not this machine's."""
    here = {"PATH": demo.server.environment["PATH"], "HOME": str(demo.server.home)}
    assert shutil.which("crontab", path=here["PATH"]) == str(demo.server.folder / "bin/crontab")
    demo.server.ssh_config.unlink()
    for task in CHAIN:
        assert ok(demo.inv(task, "--host", "local", **here)).startswith(f"local: {task} (index database)\n")
    (name,) = demo.names()
    assert is_consistent(demo.backups / name)
    assert "index-db-backup.sh >> " in crontab(demo).read_text()
    ok(demo.inv("disable-index-backup", "--host", "local", **here))
    assert not crontab(demo).exists()


def test_a_flag_belongs_to_its_own_task_only_and_each_names_its_host(demo: Demo) -> None:
    printed = ok(demo.inv("deploy-index-backup", "list-backups", "--host", "local"))
    assert "rehearsal: deploy-index-backup (index database)\n" in printed
    assert "local: list-backups (index database)\n" in printed


ODD = """ it's "odd" 100% #1 back\\slash 50\\% ünï """


def test_folders_with_odd_names_through_the_whole_chain(demo: Demo) -> None:
    """The script, its environment, verification, crontab line and log: each quotes in a way of its own."""
    places = {name: demo.server.folder / f"{name}{ODD}" for name in ("app", "backups", "log")}
    for path in places.values():
        path.mkdir()
    settings = demo.settings.model_copy(
        update={
            "app_dir": PurePosixPath(places["app"]),
            "backup_dir": PurePosixPath(places["backups"]),
            "cron_log": PurePosixPath(places["log"] / "cron %Y.log"),
        }
    )
    environment = dict(demo.environment) | {
        f"INVOKE_{name.upper()}": str(getattr(settings, name)) for name in ("app_dir", "backup_dir", "cron_log")
    }
    odd = dataclasses.replace(demo, settings=settings, environment=environment)
    odd.source.parent.mkdir(parents=True)
    Path(odd.database.script).parent.mkdir(parents=True)
    make_index(odd.source, torrents=20)
    crontab(odd).write_bytes(OLD)

    for task in CHAIN:
        ok(odd.inv(task))
    (first,) = odd.names()
    (odd.backups / first).rename(odd.backups / "backup_2024-01-01_00-00-00.db")  # it may be the same second still
    run_enabled_line(odd)
    assert len(odd.names()) == 2
    assert Path(settings.cron_log).read_text() == ""
    assert all(is_consistent(odd.backups / name) for name in odd.names())
    seen = json.loads(ok_json(odd, "verify"))
    assert seen["backup"]["path"] == str(odd.backups / odd.names()[-1])

    assert "nothing to do" in ok(odd.inv("enable-index-backup"))
    ok(odd.inv("disable-index-backup"))
    assert crontab(odd).read_bytes() == OLD
    assert not demo.names()


def ok_json(demo: Demo, *arguments: str) -> str:
    """Run a task with --json, check that it went well, and return what it printed on standard output."""
    done = demo.inv(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- deploy ---------------------------------------------------------------------------------------------------------


def test_the_deployed_script_is_the_one_of_this_checkout(demo: Demo) -> None:
    ok(demo.inv("deploy-index-backup"))
    there = Path(demo.database.script)
    assert there.read_bytes() == SCRIPT.read_bytes()
    assert there.stat().st_mode & 0o7777 == 0o755
    assert [path.name for path in there.parent.iterdir()] == [there.name]


def test_a_dry_run_of_a_deployment_shows_what_would_change_and_changes_nothing(demo: Demo) -> None:
    there = Path(demo.database.script)
    for old, removed in ((None, None), ("#!/bin/sh\ncp the database\n", "-cp the database")):
        if old:
            there.write_text(old)
            there.chmod(0o755)
        before = sorted(there.parent.iterdir())
        lines = ok(demo.inv("deploy-index-backup", "--dry-run")).splitlines()
        assert "+set -euo pipefail" in lines
        assert (f"--- {there} (there)" in lines) == bool(old)
        assert ("--- /dev/null" in lines) != bool(old)
        assert removed is None or removed in lines
        assert "would run on rehearsal:" in lines
        assert any(line.startswith("  mv --force") for line in lines)
        assert sorted(there.parent.iterdir()) == before
        assert old is None or there.read_text() == old
    assert not Path(demo.environment["INVOKE_EVIDENCE_DIR"]).exists()


def test_what_is_there_already_is_left_alone(demo: Demo) -> None:
    ok(demo.inv("deploy-index-backup"))
    there = Path(demo.database.script)
    before = there.stat()
    for flags in ([], ["--dry-run"]):
        assert "is this very script already" in ok(demo.inv("deploy-index-backup", *flags))
    after = there.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [path.name for path in there.parent.iterdir()] == [there.name]


def test_the_old_script_is_kept_and_its_mode_carried_over(demo: Demo) -> None:
    there = Path(demo.database.script)
    there.write_text("#!/bin/sh\necho old\n")
    there.chmod(0o750)
    assert f"the old one is {there.name}.previous" in ok(demo.inv("deploy-index-backup"))
    previous = there.with_name(f"{there.name}.previous")
    assert there.read_bytes() == SCRIPT.read_bytes()
    assert previous.read_text() == "#!/bin/sh\necho old\n"
    assert there.stat().st_mode & 0o7777 == previous.stat().st_mode & 0o7777 == 0o750
    assert sorted(path.name for path in there.parent.iterdir()) == [there.name, previous.name]


# --- run and verify -------------------------------------------------------------------------------------------------


def test_a_dry_run_of_a_backup_shows_the_command_and_makes_none(demo: Demo) -> None:
    ok(demo.inv("deploy-index-backup"))
    printed = ok(demo.inv("run-index-backup", "--dry-run"))
    assert "would run on rehearsal:" in printed
    assert "env -i" in printed
    assert f"BACKUP_DIR={demo.backups}" in printed
    assert demo.names() == []
    assert record(demo)["kind"] == "deploy"


def test_a_run_shows_what_the_script_prints_as_it_prints_it(demo: Demo) -> None:
    """The script goes on only when its first line was seen, and has cron's environment."""
    there, seen = Path(demo.database.script), demo.server.folder / "seen"
    body = (
        f"env\npwd\nuntil [ -e '{seen}' ]; do sleep 0.01; done\necho ü >'{demo.backups}/backup_2024-01-01_00-00-00.db'"
    )
    there.write_text(f"#!/bin/sh\n{body}\n")
    there.chmod(0o755)
    lines: list[str] = []
    with subprocess.Popen(
        [INV, "--search-root", ROOT, "run-index-backup"],
        env=dict(demo.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("PWD="):
                seen.touch()
    assert process.returncode == 0
    environment = dict(line.split("=", 1) for line in lines if "=" in line)
    assert environment["PATH"] == "/usr/bin:/bin"
    assert environment["HOME"] == environment["PWD"] == str(demo.server.home)
    assert not {"LANG", "LC_ALL", "SSH_CONNECTION"} & set(environment)


def test_json_of_a_verification(demo: Demo) -> None:
    ok(demo.inv("deploy-index-backup", "run-index-backup"))
    (name,) = demo.names()
    for arguments in (["--backup", str(demo.backups / name)], ["--backup", name, "--quick"]):
        seen = json.loads(ok_json(demo, "verify", *arguments))
        assert (seen["host"], seen["database"], seen["passed"]) == ("rehearsal", "index", True)
        assert [check["name"] for check in seen["checks"]] == ["created", "size", "integrity", "query", "source"]
        assert seen["backup"]["path"] == str(demo.backups / name)
        assert seen["backup"]["bytes"] == (demo.backups / name).stat().st_size
        assert seen["source"]["path"] == str(demo.source)
    assert "quick_check" in seen["checks"][2]["detail"]


def test_a_backup_that_is_not_there_fails_its_check(demo: Demo) -> None:
    for arguments in ([], ["--backup", "backup_2024-01-01_00-00-00.db"]):
        done = demo.inv("verify", *arguments, "--json")
        assert done.returncode == 1
        seen = json.loads(done.stdout)
        assert seen["passed"] is False
        assert (seen["checks"][0]["name"], seen["checks"][0]["passed"]) == ("created", False)


def test_backups_are_listed_the_newest_first(demo: Demo) -> None:
    for number, name in enumerate(["backup_2024-01-02_00-00-00.db", "backup_2024-01-01_00-00-00.db", "other.db"]):
        (demo.backups / name).write_bytes(b"x" * number)
        os.utime(demo.backups / name, (1_700_000_000 + number,) * 2)
    seen = json.loads(ok_json(demo, "list-backups"))
    assert [(Path(each["path"]).name, each["bytes"]) for each in seen["backups"]] == [
        ("backup_2024-01-01_00-00-00.db", 1),
        ("backup_2024-01-02_00-00-00.db", 0),
    ]
    assert json.loads(ok_json(demo, "list-backups", "--database", "tracker"))["backups"] == []


# --- the crontab ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [None, OLD], ids=["none", "odd"])
def test_enabling_adds_a_block_and_disabling_gives_back_what_was_there(demo: Demo, old: bytes | None) -> None:
    ok(demo.inv("deploy-index-backup"))
    if old is not None:
        crontab(demo).write_bytes(old)
    before = ok(demo.inv("enable-index-backup", "--dry-run"))
    assert "+0  * * * * " in before
    assert (crontab(demo).read_bytes() if crontab(demo).exists() else None) == old

    ok(demo.inv("enable-index-backup"))
    there = crontab(demo).read_bytes()
    assert there.endswith(old or b"")
    assert there.removesuffix(old or b"").count(b"\n") == 2
    assert "in the crontab, and active: nothing to do" in ok(demo.inv("enable-index-backup"))
    assert crontab(demo).read_bytes() == there

    assert "-0  * * * * " in ok(demo.inv("disable-index-backup", "--dry-run"))
    assert crontab(demo).read_bytes() == there
    ok(demo.inv("disable-index-backup"))
    assert (crontab(demo).read_bytes() if crontab(demo).exists() else b"") == (old or b"")
    assert "not in the crontab: nothing to do" in ok(demo.inv("disable-index-backup"))
    assert (demo.server.home / ".demo-backups/crontab.previous").read_bytes() == there


def test_the_enabled_line_makes_a_backup(demo: Demo) -> None:
    ok(demo.inv("deploy-index-backup", "enable-index-backup"))
    run_enabled_line(demo)
    assert len(demo.names()) == 1
    assert Path(demo.settings.cron_log).read_text() == ""
    assert "all checks passed" in ok(demo.inv("verify"))


# --- records --------------------------------------------------------------------------------------------------------


def test_what_was_done_is_recorded(demo: Demo) -> None:
    ok(demo.inv("deploy-index-backup"))
    deployed = record(demo)
    assert (deployed["kind"], deployed["host"], deployed["exit_status"]) == ("deploy", "rehearsal", 0)
    ok(demo.inv("run-index-backup"))
    ran = record(demo)
    (name,) = demo.names()
    assert (ran["kind"], ran["backup"], ran["exit_status"]) == ("run", str(demo.backups / name), 0)
    assert ran["bytes"] == (demo.backups / name).stat().st_size
    ok(demo.inv("verify"))
    verified = record(demo)
    assert (verified["kind"], verified["backup"], verified["exit_status"]) == ("verification", ran["backup"], 0)
    assert [check["passed"] for check in verified["checks"]] == [True] * 5
    assert verified["integrity_check"] == ["ok"]
    assert verified["details"] == {"source_bytes": demo.source.stat().st_size}
    assert deployed["script_sha256"] == ran["script_sha256"] == verified["script_sha256"]
    assert all(each["seconds"] >= 0 and each["error"] is None for each in (deployed, ran, verified))

    ok(demo.inv("deploy-index-backup", "run-index-backup", "--dry-run"))
    ok(demo.inv("list-backups", "preflight"))
    assert record(demo)["kind"] == "deploy"  # what only looks leaves none
    for kind in ("enable", "disable"):
        ok(demo.inv(f"{kind}-index-backup"))
        assert record(demo)["kind"] == kind
        assert "crontab" in record(demo)["commands"][-1]
