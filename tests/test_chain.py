"""The tasks in order on the throwaway server, from the first deployment to a disabled job."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.backup.cron_syntax import split_line, unescape_command
from demo_backups.errors import FAILED
from demo_backups.project import ROOT
from demo_backups.rehearsal.database import make_index

from .helpers.constants import SCRIPT
from .helpers.databases import is_consistent
from .helpers.faults import install_script, snapshot
from .helpers.tasks import INV, DemoServer, assert_exit, assert_success, read_json

CHAIN = ("deploy-index-backup", "run-index-backup", "verify", "enable-index-backup", "list-backups")
HEADINGS = ("deploy", "run", "verify", "enable", "list-backups")
# Not UTF-8, with a carriage return, and without a last line end: every byte must stay.
OLD_CRONTAB = b"# mine, \xff\xe4\r\nMAILTO=me@example.org\n5 4 * * * echo 100\\% >/dev/null\n"


def run_crontab_line(demo_server: DemoServer) -> None:
    """Run the enabled line as cron does: unescaped, by /bin/sh, in a bare environment, from home."""
    lines = demo_server.crontab.read_text(errors="replace").split("\n")
    (line,) = (line for line in lines if "db-backup.sh" in line and not line.startswith("#"))
    split = split_line(line)
    assert split
    subprocess.run(
        ["/bin/sh", "-c", unescape_command(split[1])],
        env={"HOME": str(demo_server.server.home), "LOGNAME": "root", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"},
        cwd=demo_server.server.home,
        check=True,
    )


def set_time(demo_server: DemoServer, name: str) -> None:
    """Rename the only backup, so that another one of the same second does not collide with it."""
    (backup,) = demo_server.names()
    (demo_server.backups / backup).rename(demo_server.backups / name)


# --- the whole chain ------------------------------------------------------------------------------------------------


def test_one_command_line_runs_all_tasks(demo_server: DemoServer) -> None:
    output = assert_success(demo_server.inv(*CHAIN, "disable-index-backup"))
    headings = [line for line in output.splitlines() if line.startswith("rehearsal: ")]
    assert headings == [f"rehearsal: {task} (index database)" for task in (*HEADINGS, "disable")]
    (name,) = demo_server.names()
    assert name in output
    assert is_consistent(demo_server.backups / name)
    assert not demo_server.crontab.exists()


def test_repeated_task_runs_twice(demo_server: DemoServer) -> None:
    output = assert_success(demo_server.inv("deploy-index-backup", "run-index-backup", "verify", "verify"))
    assert output.count("all checks passed") == 2


def test_failed_task_ends_the_chain(demo_server: DemoServer) -> None:
    done = demo_server.inv("run-index-backup", "enable-index-backup")
    assert done.returncode == FAILED
    assert "enable (" not in done.stdout
    assert not demo_server.crontab.exists()


def test_chain_works_without_ssh(demo_server: DemoServer) -> None:
    """Run it on this machine, with the server's PATH and home: its crontab must not be this machine's."""
    environment = {"PATH": demo_server.server.environment["PATH"], "HOME": str(demo_server.server.home)}
    assert shutil.which("crontab", path=environment["PATH"]) == str(demo_server.server.folder / "bin/crontab")
    demo_server.server.ssh_config.unlink()
    for task in (*CHAIN, "disable-index-backup"):
        output = assert_success(demo_server.inv(task, "--host", "local", **environment))
        assert output.startswith("local: ")
    (name,) = demo_server.names()
    assert is_consistent(demo_server.backups / name)


@pytest.fixture
def odd_server(demo_server: DemoServer) -> DemoServer:
    """The server with names of directories and of the log that every careless quotation breaks."""
    suffix = """ it's "odd" 100% #1 back\\slash 50\\% ünï """
    folders = {name: demo_server.server.folder / f"{name}{suffix}" for name in ("app", "backups", "log")}
    for folder in folders.values():
        folder.mkdir()
    paths = {
        "app_dir": PurePosixPath(folders["app"]),
        "backup_dir": PurePosixPath(folders["backups"]),
        "cron_log": PurePosixPath(folders["log"] / "cron %Y.log"),
    }
    variables = {f"INVOKE_{name.upper()}": str(path) for name, path in paths.items()}
    settings = demo_server.settings.model_copy(update=paths)
    environment = dict(demo_server.environment) | variables
    odd_server = dataclasses.replace(demo_server, settings=settings, environment=environment)
    odd_server.source.parent.mkdir(parents=True)
    odd_server.script.parent.mkdir(parents=True)
    make_index(odd_server.source, torrents=20)
    return odd_server


def test_odd_names_work_in_every_task(odd_server: DemoServer) -> None:
    """The script, its environment, verification, crontab line and log: each quotes in a way of its own."""
    odd_server.crontab.write_bytes(OLD_CRONTAB)
    assert_success(odd_server.inv(*CHAIN))
    set_time(odd_server, "backup_2024-01-01_00-00-00.db")
    run_crontab_line(odd_server)
    assert len(odd_server.names()) == 2
    assert Path(odd_server.settings.cron_log).read_text() == ""
    verification = read_json(odd_server.inv("verify", "--json"))
    assert verification["backup"]["path"] == str(odd_server.backups / odd_server.names()[-1])
    assert_success(odd_server.inv("disable-index-backup"))
    assert odd_server.crontab.read_bytes() == OLD_CRONTAB


# --- deploy ---------------------------------------------------------------------------------------------------------


def test_deploy_copies_the_script(demo_server: DemoServer) -> None:
    assert_success(demo_server.inv("deploy-index-backup"))
    assert demo_server.script.read_bytes() == SCRIPT.read_bytes()
    assert demo_server.script.stat().st_mode & 0o7777 == 0o755
    assert list(demo_server.script.parent.iterdir()) == [demo_server.script]


def test_deploy_is_idempotent(demo_server: DemoServer) -> None:
    assert_success(demo_server.inv("deploy-index-backup"))
    before = demo_server.script.stat()
    for flags in ([], ["--dry-run"]):
        assert "nothing to do" in assert_success(demo_server.inv("deploy-index-backup", *flags))
    after = demo_server.script.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(demo_server.script.parent.iterdir()) == [demo_server.script]


def test_deploy_keeps_old_script_and_mode(demo_server: DemoServer) -> None:
    install_script(demo_server, "echo old").chmod(0o750)
    assert_success(demo_server.inv("deploy-index-backup"))
    previous = demo_server.script.with_name(f"{demo_server.script.name}.previous")
    assert demo_server.script.read_bytes() == SCRIPT.read_bytes()
    assert previous.read_text() == "#!/bin/sh\necho old\n"
    assert demo_server.script.stat().st_mode & 0o7777 == previous.stat().st_mode & 0o7777 == 0o750
    assert sorted(demo_server.script.parent.iterdir()) == [demo_server.script, previous]


@pytest.mark.parametrize("old", [None, "cp the database"], ids=["no script", "old script"])
def test_deploy_dry_run_changes_nothing(demo_server: DemoServer, old: str | None) -> None:
    if old:
        install_script(demo_server, old)
    before = snapshot(demo_server.server.folder)
    lines = assert_success(demo_server.inv("deploy-index-backup", "--dry-run")).splitlines()
    assert "+set -euo pipefail" in lines
    assert (f"-{old}" in lines) == bool(old)
    assert "would run on rehearsal:" in lines
    assert any(line.startswith("  mv --force") for line in lines)
    assert snapshot(demo_server.server.folder) == before
    assert demo_server.records() == []


# --- run ------------------------------------------------------------------------------------------------------------


def test_run_dry_run_changes_nothing(demo_server: DemoServer) -> None:
    assert_success(demo_server.inv("deploy-index-backup"))
    before = snapshot(demo_server.server.folder)
    output = assert_success(demo_server.inv("run-index-backup", "--dry-run"))
    assert "env -i" in output
    assert f"BACKUP_DIR={demo_server.backups}" in output
    assert snapshot(demo_server.server.folder) == before
    assert [record["kind"] for record in demo_server.records()] == ["deploy"]


def test_run_shows_output_while_script_runs(demo_server: DemoServer) -> None:
    """The script waits until its first lines were printed here; it has cron's environment."""
    printed = demo_server.server.folder / "printed"
    install_script(
        demo_server,
        f"env\npwd\nuntil [ -e '{printed}' ]; do sleep 0.01; done\n"
        f"echo ü >'{demo_server.backups}/backup_2024-01-01_00-00-00.db'",
    )
    lines: list[str] = []
    with subprocess.Popen(
        [INV, "--search-root", ROOT, "run-index-backup", "--force-unsafe"],
        env=dict(demo_server.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("PWD="):
                printed.touch()
    assert process.returncode == 0
    environment = dict(line.split("=", 1) for line in lines if "=" in line)
    assert environment["PATH"] == "/usr/bin:/bin"
    assert environment["HOME"] == environment["PWD"] == str(demo_server.server.home)
    assert not {"LANG", "LC_ALL", "SSH_CONNECTION"} & set(environment)


# --- enable and disable ---------------------------------------------------------------------------------------------


def crontab_bytes(demo_server: DemoServer) -> bytes | None:
    return demo_server.crontab.read_bytes() if demo_server.crontab.exists() else None


@pytest.mark.parametrize("old", [None, OLD_CRONTAB], ids=["none", "odd"])
def test_disable_restores_the_crontab(demo_server: DemoServer, old: bytes | None) -> None:
    assert_success(demo_server.inv("deploy-index-backup"))
    if old is not None:
        demo_server.crontab.write_bytes(old)
    assert "\n+0  * * * * " in assert_success(demo_server.inv("enable-index-backup", "--dry-run"))
    assert crontab_bytes(demo_server) == old

    assert_success(demo_server.inv("enable-index-backup"))
    enabled = demo_server.crontab.read_bytes()
    assert enabled.endswith(old or b"")
    assert enabled.removesuffix(old or b"").count(b"\n") == 2
    assert "nothing to do" in assert_success(demo_server.inv("enable-index-backup"))
    assert "\n-0  * * * * " in assert_success(demo_server.inv("disable-index-backup", "--dry-run"))
    assert crontab_bytes(demo_server) == enabled

    assert_success(demo_server.inv("disable-index-backup"))
    assert crontab_bytes(demo_server) == old
    assert "nothing to do" in assert_success(demo_server.inv("disable-index-backup"))
    assert (demo_server.server.home / ".demo-backups/crontab.previous").read_bytes() == enabled


def test_enabled_line_makes_a_backup(demo_server: DemoServer) -> None:
    assert_success(demo_server.inv("deploy-index-backup", "enable-index-backup"))
    run_crontab_line(demo_server)
    assert len(demo_server.names()) == 1
    assert Path(demo_server.settings.cron_log).read_text() == ""
    assert_success(demo_server.inv("verify"))


def test_enable_refuses_database_without_schedule(demo_server: DemoServer) -> None:
    assert_exit(demo_server.inv("enable", "--database", "tracker"), FAILED, "tracker", "crontab.conf")
    assert not demo_server.crontab.exists()


# --- records --------------------------------------------------------------------------------------------------------


def test_changing_tasks_write_records(demo_server: DemoServer) -> None:
    assert_success(demo_server.inv(*CHAIN, "disable-index-backup", "preflight"))
    deploy, run, verification, enable, disable = demo_server.records()
    kinds = [record["kind"] for record in demo_server.records()]
    assert kinds == ["deploy", "run", "verification", "enable", "disable"]
    for record in demo_server.records():
        assert (record["host"], record["database"], record["exit_status"]) == ("rehearsal", "index", 0)
        assert record["error"] is None
        assert record["seconds"] >= 0
    (name,) = demo_server.names()
    backup = demo_server.backups / name
    assert run["backup"] == verification["backup"] == str(backup)
    assert run["bytes"] == verification["bytes"] == backup.stat().st_size
    assert [check["passed"] for check in verification["checks"]] == [True] * 5
    assert verification["integrity_check"] == ["ok"]
    assert verification["details"]["source_bytes"] == demo_server.source.stat().st_size
    assert deploy["script_sha256"] == run["script_sha256"] == verification["script_sha256"]
    assert all("crontab" in record["commands"][-1] for record in (enable, disable))


def test_records_directory_is_checked_first(demo_server: DemoServer, home: Path) -> None:
    (home / "file").touch()
    done = demo_server.inv("deploy-index-backup", INVOKE_EVIDENCE_DIR=str(home / "file/x"))
    assert_exit(done, FAILED, "evidence_dir")
    assert not demo_server.script.exists()


# --- a third database -----------------------------------------------------------------------------------------------

GRAFANA = """\
  grafana:
    file: storage/grafana/grafana.db
    script: share/bin/grafana-db-backup.sh
    backup_prefix: grafana_backup_
    query: SELECT id FROM dashboard LIMIT 1
"""
GRAFANA_NAMES = {  # what differs in its script from that of the index
    "storage/index/lib/database/sqlite3.db": "storage/grafana/grafana.db",
    ".backup.part": ".grafana_backup.part",
    ".backup.lock": ".grafana_backup.lock",
    '"backup_': '"grafana_backup_',
    "'backup_": "'grafana_backup_",
}


@pytest.fixture
def grafana_project(tmp_path: Path) -> Path:
    """A copy of this project with a third database: a section of invoke.yaml, a script and a line for cron."""
    project = tmp_path / "project"
    for name in ("src", "share"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tasks.py", project)
    settings = (ROOT / "invoke.yaml").read_text()
    (project / "invoke.yaml").write_text(re.sub(r"(?m)^databases:.*\n", rf"\g<0>{GRAFANA}", settings))
    text = SCRIPT.read_text()
    for name, other in GRAFANA_NAMES.items():
        text = text.replace(name, other)
    script = project / "share/bin/grafana-db-backup.sh"
    script.write_text(text)
    script.chmod(0o755)
    with (project / "share/container/default/config/crontab.conf").open("a") as crontab:
        crontab.write("30 3 * * * /app/share/bin/grafana-db-backup.sh >> /var/log/cron.log 2>&1\n")
    return project


def test_third_database_needs_settings_and_script(demo_server: DemoServer, grafana_project: Path) -> None:
    source = demo_server.source.parents[3] / "grafana/grafana.db"
    source.parent.mkdir()
    with sqlite3.connect(source) as database:
        database.executescript("CREATE TABLE dashboard (id); INSERT INTO dashboard VALUES (1)")
    tasks = ("deploy", "run", "verify", "enable", "disable")
    arguments = [argument for task in tasks for argument in (task, "--database", "grafana")]
    done = subprocess.run(
        [INV, "--search-root", grafana_project, *arguments],
        env=dict(demo_server.environment) | {"PYTHONPATH": str(grafana_project / "src")},
        cwd=grafana_project,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    output = assert_success(done)
    headings = [line for line in output.splitlines() if line.startswith("rehearsal: ")]
    assert headings == [f"rehearsal: {task} (grafana database)" for task in tasks]
    assert "30 3 * * * " in output
    (backup,) = demo_server.backups.glob("grafana_backup_*.db")
    assert is_consistent(backup)
    assert "all checks passed" in output
    assert {record["database"] for record in demo_server.records()} == {"grafana"}


def test_only_the_release_knows_database_names() -> None:
    names = re.compile(r"\"(?:index|tracker)[\"-]|-(?:index|tracker)-backup")
    known = {"release", "rehearsal"}
    found = []
    for path in (ROOT / "src/demo_backups").rglob("*.py"):
        module = path.relative_to(ROOT / "src/demo_backups")
        if module.parts[0] not in known and names.search(path.read_text()):
            found.append(str(module))
    assert found == []
