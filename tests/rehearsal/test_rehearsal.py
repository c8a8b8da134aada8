"""Rehearsals: each phase runs with real parts, and nothing is left behind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from demo_backups.errors import CouldNotLookError, SettingsError, StepError
from demo_backups.project import ROOT
from demo_backups.rehearsal.options import RehearsalOptions, parse_rows, parse_traffic
from demo_backups.rehearsal.rehearse import SCENARIOS, rehearse
from demo_backups.rehearsal.server import CRONTAB, serve
from demo_backups.rehearsal.throwaway import server_settings
from demo_backups.remote.connection import open_host
from demo_backups.settings.model import Settings
from demo_backups.ui.console import make_console
from demo_backups.workflows.session import Session

from ..helpers.processes import start_program, wait_until
from ..helpers.tasks import INV, InvRunner, clean_environment

STEPS = [
    "inv deploy-index-backup",
    "inv run-index-backup",
    "inv verify",
    "inv enable-index-backup",
    "cron: the enabled line, once",
    "inv verify",
    "inv list-backups",
    "inv disable-index-backup",
]
Done = subprocess.CompletedProcess[str]
TRACKER_STEPS = [
    "inv preflight",
    "inv deploy-tracker-backup",
    "inv run-tracker-backup",
    "inv verify --database tracker",
    "inv list-backups --database tracker",
]
RECOVERY_STEPS = [
    "inv deploy",
    "inv run",
    "inv verify",
    "inv fetch",
    "inv restore-drill",
    "inv restore --backup NAME",
    "inv restore --undo",
]
DISASTER_STEPS = [
    "inv deploy-index-backup",
    "inv run-index-backup",
    "inv deploy-tracker-backup",
    "inv run-tracker-backup",
    "inv backup-config",
    "inv fetch --database index",
    "inv fetch --database tracker",
    "inv fetch --database config",
    "inv offsite --init",
    "inv offsite",
    "the server and the laptop are lost",
    "inv offsite --list",
    "inv offsite --restore backup_TIME.db",
    "inv offsite --restore tracker_backup_TIME.db",
    "inv offsite --restore config_TIME.tar",
    "inv restore --database config --backup config_TIME.tar --from here --to CONFIG",
    "ssh rehearsal: cp -a CONFIG/. APP/ && rm -r CONFIG",
    "inv deploy-index-backup",
    "inv restore --database index --backup backup_TIME.db --from here",
    "inv deploy-tracker-backup",
    "inv restore --database tracker --backup tracker_backup_TIME.db --from here",
    "compare with what was backed up",
    "inv run-index-backup",
    "inv verify",
    "inv enable-index-backup",
]
SUCCESS = "Success. "


def processes(folder: Path) -> list[str]:
    """The processes that work in a folder, or name it in their arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().replace("\0", " ")
            where = (process / "cwd").readlink()
        except OSError:
            continue
        if str(folder) in words or where.is_relative_to(folder):
            found.append(f"{process.name} {words}")
    return found


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The directory in which a rehearsal makes its own."""
    folder = tmp_path / "temporary files"
    folder.mkdir()
    return folder


@pytest.fixture
def environment(tmp_path: Path, home: Path, temporary: Path) -> dict[str, str]:
    """An environment whose first crontab command leaves a mark if it is called."""
    guard = tmp_path / "guard"
    guard.mkdir()
    (guard / "crontab").write_text(f"#!/bin/sh\ntouch '{tmp_path}/crontab-was-called'\nexit 1\n")
    (guard / "crontab").chmod(0o755)
    found = clean_environment(home)
    return found | {"TMPDIR": str(temporary), "PATH": f"{guard}:{found['PATH']}"}


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Check after every test that no directory and no process is left, and that no other crontab was called."""
    yield
    left = tmp_path / "temporary files"
    assert not left.exists() or list(left.iterdir()) == []
    wait_until(lambda: not processes(left), "the end of every process")
    assert not (tmp_path / "crontab-was-called").exists()


def record(environment: dict[str, str]) -> dict[str, Any]:
    """The record that it leaves, and only one."""
    (path,) = Path(environment["INVOKE_EVIDENCE_DIR"]).iterdir()
    return json.loads(path.read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_index_rehearsal_runs_every_step(environment: dict[str, str], journal: str) -> None:
    done = InvRunner(environment)("rehearse", "--journal", journal, "--traffic", "50")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line[3:] for line in lines if line[:1].isdigit() and line[1:3] == "  "] == STEPS
    assert f"journal mode {journal}, 50 commits per second" in lines[1]
    assert lines.count("all checks passed") == 2
    assert lines[-1].startswith(SUCCESS)
    assert lines[-2].startswith("writer: ")
    assert " 0 failed" in lines[-2]

    data = record(environment)
    assert (data["kind"], data["exit_status"], data["error"]) == ("rehearsal", 0, None)
    assert data["details"]["journal"] == journal
    assert data["details"]["source_bytes"] > 0
    assert data["details"]["traffic"]["commits"] > 0
    assert [check["passed"] for check in data["checks"]] == [True] * 5


@pytest.mark.parametrize(("journal", "proof"), [("wal", "transaction"), ("delete", "released its lock")])
def test_recovery_is_rehearsed(environment: dict[str, str], journal: str, proof: str) -> None:
    flags = ("--scenario", "recovery", "--journal", journal, "--traffic", "50")
    done = InvRunner(environment)("rehearse", *flags)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line[3:] for line in lines if line[:1].isdigit() and line[1:3] == "  "] == RECOVERY_STEPS
    assert [proof in line for line in lines if line.startswith("proof: ")] == [True, True]
    assert " 0 failed" in lines[-2]
    assert lines[-1].startswith(SUCCESS)
    data = record(environment)
    assert (data["kind"], data["exit_status"], data["error"]) == ("rehearsal", 0, None)


@pytest.mark.parametrize(
    ("journal", "verdict"),
    [("wal", "go"), ("delete", "warn")],
)
def test_tracker_rehearsal_runs_every_step(environment: dict[str, str], journal: str, verdict: str) -> None:
    flags = ("--database", "tracker", "--journal", journal, "--traffic", "50", "--rows", "5000")
    done = InvRunner(environment)("rehearse", *flags)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line[3:] for line in lines if line[:1].isdigit() and line[1:3] == "  "] == TRACKER_STEPS
    assert "tracker database: " in lines[1]
    assert f"journal mode {journal}, 50 commits per second" in lines[1]
    assert f"preflight: {verdict}\n" in done.stdout
    assert len(re.findall(r"^created .*/tracker_backup_[0-9_-]+\.db \(", done.stdout, re.MULTILINE)) == 1
    assert lines.count("all checks passed") == 1
    assert " 0 failed" in lines[-2]
    assert lines[-1].startswith(SUCCESS)

    data = record(environment)
    assert (data["kind"], data["database"], data["exit_status"], data["error"]) == ("rehearsal", "tracker", 0, None)
    assert data["details"]["traffic"]["commits"] > 0
    assert data["details"]["traffic"]["failed"] == 0
    assert [check["passed"] for check in data["checks"]] == [True] * 5


@pytest.mark.skipif(shutil.which("restic") is None, reason="restic is not installed")
def test_lost_server_and_laptop_are_rehearsed(environment: dict[str, str]) -> None:
    flags = ("--scenario", "disaster", "--traffic", "20", "--rows", "2000")
    done = InvRunner(environment)("rehearse", *flags, INVOKE_OFFSITE_REPOSITORY="/nowhere")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    lines = done.stdout.splitlines()
    steps = [line.split("  ", 1)[1] for line in lines if re.match(r"\d+  ", line)]
    path = r"(?:'[^']*|/\S*)"  # a path with a blank is quoted
    names = {r"\d{4}-[\d_-]+": "TIME", rf"{path}/server/config'?": "CONFIG", rf"{path}/app'?": "APP"}
    for pattern, name in names.items():
        steps = [re.sub(pattern, name, step) for step in steps]
    assert steps == DISASTER_STEPS
    assert "what is left: off-site" in lines
    assert "2 databases and 3 files are as they were backed up" in lines
    assert " 0 failed" in lines[-2]
    assert lines[-1].startswith(SUCCESS)
    data = record(environment)  # the only one: those of the laptop are lost
    assert (data["kind"], data["exit_status"], data["error"]) == ("rehearsal", 0, None)
    assert data["details"]["traffic"]["commits"] > 0


def test_environment_does_not_change_rehearsal(environment: dict[str, str], home: Path) -> None:
    hostile = {
        "INVOKE_HOST": "production",
        "INVOKE_SSH_CONFIG": "/nowhere",
        "INVOKE_USE_SUDO": "1",
        "INVOKE_APP_DIR": "/nowhere",
        "INVOKE_BACKUP_DIR": "/nowhere",
        "INVOKE_CRON_LOG": "/nowhere/log",
        "INVOKE_DATABASES_INDEX_QUERY": "SELECT 1 WHERE 0",
        "INVOKE_SIZE_TOLERANCE": "0%",
        "INVOKE_RUN_ECHO": "1",
        "DATABASE_FILE": "/nowhere",
        "BACKUP_DIR": "/nowhere",
        "SSH_AUTH_SOCK": "/nowhere",
    }
    (home / ".invoke.yaml").write_text("run:\n  shell: /nowhere\napp_dir: /nowhere\n")
    command = [str(INV), "--search-root", str(ROOT), "rehearse"]
    # With this umask, others could write to every new directory, and the tasks and the script would refuse that.
    done = subprocess.run(command, env=environment | hostile, umask=0, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith(SUCCESS)


def test_server_crontab_ignores_file_mode(
    environment: dict[str, str], tmp_path: Path, project_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = tmp_path / "crontab-not-executable"
    lost.write_bytes(CRONTAB.read_bytes())
    lost.chmod(0o644)
    monkeypatch.setattr("demo_backups.rehearsal.server.CRONTAB", lost)
    folder = tmp_path / "server"
    folder.mkdir()
    with serve(folder, environment) as server:
        settings = project_settings.model_copy(update={"ssh_config": str(server.ssh_config), "use_sudo": False})
        with open_host(settings, "rehearsal") as host:
            assert "no crontab for rehearsal" in host.run("look", "crontab -l").stderr
            host.execute("write", "echo '# ours' >new && crontab new")
            assert host.query("look", "crontab -l") == "# ours\n"
            host.execute("remove", "crontab -r")
            assert not host.run("look", "crontab -l").ok


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "rate"), [("200", 200.0), ("0.5", 0.5), ("1e3", 1000.0), ("100000", 100_000.0)])
def test_traffic_is_parsed(text: str, rate: float) -> None:
    assert parse_traffic(text) == rate


@pytest.mark.parametrize("text", ["", "many", "0", "-1", "nan", "inf", "100001", "1e9", "0x10", "10/s"])
def test_invalid_traffic_is_refused(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_traffic(text)
    assert f"--traffic {text!r}" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("text", "rows"), [("1", 1), ("500000", 500_000), ("200000000", 200_000_000)])
def test_rows_are_parsed(text: str, rows: int) -> None:
    assert parse_rows(text) == rows


@pytest.mark.parametrize("text", ["", "many", "0", "-1", "1.5", "1e3", "200000001", "0x10", "1_000", "٣", "²"])
def test_invalid_rows_are_refused(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_rows(text)
    assert f"--rows {text!r}" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "flags",
    [
        ("--database", "nonsense"),
        ("--database", "tracker", "--journal", "WAL"),
        ("--scenario", "nonsense"),
        ("--scenario", "disaster", "--database", "tracker"),
        ("--database", "tracker", "--rows", "many"),
        ("--database", "tracker", "--traffic", "0"),
    ],
)
def test_wrong_flag_stops_before_server_starts(environment: dict[str, str], flags: tuple[str, ...]) -> None:
    done = InvRunner(environment)("rehearse", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert " ".join(flags[-2:-1]) in done.stderr
    assert "  -> " in done.stderr
    assert not Path(environment["INVOKE_EVIDENCE_DIR"]).exists()


# --- what fails -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run_rehearsal(
    project_settings: Settings, home: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Rehearse in this process, with changed settings; return what was printed, or raise what is raised."""
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def run(**changes: Any) -> str:
        out = make_console(io.StringIO())
        settings = project_settings.model_copy(update={"evidence_dir": str(home / "evidence"), **changes})
        rehearse(settings, RehearsalOptions("index", 200, "delete", 1), False, out)
        return out.file.getvalue()  # type: ignore[attr-defined,no-any-return]

    return run


def test_failed_step_fails_rehearsal(
    run_rehearsal: Callable[..., str], project_settings: Settings, environment: dict[str, str]
) -> None:
    index = project_settings.databases["index"].model_copy(update={"query": "SELECT 1 WHERE 0"})
    with pytest.raises(StepError, match="the backup did not pass its checks") as caught:
        run_rehearsal(databases={"index": index})
    assert caught.value.exit_code == 1
    assert record(environment)["exit_status"] == 1


def writer_of(folder: Path) -> Path:
    """The rehearsal's writer, in /proc."""
    (found,) = (line for line in processes(folder) if "demo_backups.rehearsal.writer" in line)
    return Path("/proc") / found.split()[0]


def test_failed_write_fails_rehearsal(
    run_rehearsal: Callable[..., str], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(work: Session) -> str:
        with sqlite3.connect(work.database.source, timeout=120) as database:
            database.execute("DROP TABLE torrust_torrent_tracker_stats")
        errors = writer_of(temporary) / "fd/2"
        wait_until(lambda: errors.stat().st_size, "a write that fails")
        return "rehearsed."

    monkeypatch.setitem(SCENARIOS, "index", spoil)
    with pytest.raises(StepError, match=r"\d+ writes of the live service failed") as caught:
        run_rehearsal()
    assert "write failed: no such table" in caught.value.output


def test_dead_writer_fails_rehearsal(
    run_rehearsal: Callable[..., str], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(work: Session) -> str:
        os.kill(int(writer_of(temporary).name), signal.SIGKILL)
        return "rehearsed."

    monkeypatch.setitem(SCENARIOS, "index", kill)
    with pytest.raises(StepError, match="the live writer died"):
        run_rehearsal()


def test_changed_crontab_fails_rehearsal(run_rehearsal: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_backups.rehearsal.rehearse.disable", lambda work: None)
    with pytest.raises(StepError, match="crontab"):
        run_rehearsal()


# --- its end --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running_rehearsal(environment: dict[str, str], *flags: str) -> Iterator[subprocess.Popen[str]]:
    """Start a rehearsal in a process group of its own, as a shell does; it ends with the test."""
    with start_program(
        INV, "--search-root", ROOT, "rehearse", *flags, env=environment, cwd=environment["HOME"]
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """Read what a rehearsal prints up to a line that starts with a text."""
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith(text):
            return lines
    pytest.fail(f"{text!r} was not printed, but: {lines}")


@pytest.mark.user
@pytest.mark.parametrize(
    ("number", "whom", "line"),
    [
        (signal.SIGINT, "group", "2  inv run-index-backup"),
        (signal.SIGTERM, "process", "1  inv deploy-index-backup"),
        (signal.SIGHUP, "process", "4  inv enable-index-backup"),
    ],
)
def test_signal_leaves_nothing_behind(
    environment: dict[str, str], number: signal.Signals, whom: str, line: str
) -> None:
    with running_rehearsal(environment) as process:
        read_until(process, line)
        os.kill(-process.pid if whom == "group" else process.pid, number)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "interrupted\n")
    assert SUCCESS not in stdout
    assert record(environment)["exit_status"] == 130


def tasks_with_exports(exports: list[str], environment: dict[str, str]) -> Callable[..., Done]:
    """Return a function that runs tasks with the variables that `--keep` printed."""
    script = "\n".join([*exports, 'exec "$0" "$@"'])

    def inv(*arguments: str) -> Done:
        return subprocess.run(
            ["sh", "-c", script, INV, "--search-root", ROOT, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return inv


@pytest.mark.user
def test_keep_runs_until_ctrl_c(environment: dict[str, str]) -> None:
    with running_rehearsal(environment, "--keep") as process:
        exports = [line for line in read_until(process, "./inv verify") if line.startswith("export ")]
        names = ["HOST", "SSH_CONFIG", "USE_SUDO", "APP_DIR", "BACKUP_DIR", "CRON_LOG", "CONFIG_PATHS", "FETCH_DIR"]
        names += ["EVIDENCE_DIR", *(f"OFFSITE_{key}" for key in ("REPOSITORY", "PASSWORD_FILE", "PASSWORD_COMMAND"))]
        names.append("RELEASE_REPOSITORY")
        names += [f"DATABASES_{name}_{key}" for name in ("INDEX", "TRACKER") for key in ("STOP", "START", "HEALTHY")]
        assert [line.split("=")[0] for line in exports] == [f"export INVOKE_{name}" for name in names]
        inv = tasks_with_exports(exports, environment)
        done = inv("enable-index-backup", "run-index-backup", "verify", "disable-index-backup")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "all checks passed" in done.stdout
        assert json.loads(inv("list-backups", "--json").stdout)["host"] == "rehearsal"
        steps = [step for phase in json.loads(inv("plan", "--json").stdout)["phases"] for step in phase["steps"]]
        marks = {step["name"]: step["mark"] for step in steps}
        names = ["index-test", "index-deploy", "index-run", "index-verify"]
        assert [marks[name] for name in names] == ["done"] * len(names)  # the rehearsal counts while it is kept

        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
    assert stdout.splitlines()[-1].startswith(SUCCESS)
    assert inv("list-backups").returncode == 2  # its SSH configuration is gone


def test_server_processes_end_with_it(tmp_path: Path, project_settings: Settings) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    with serve(folder) as server:
        settings = project_settings.model_copy(update={"ssh_config": str(server.ssh_config), "use_sudo": False})
        with open_host(settings, "rehearsal") as host, pytest.raises(CouldNotLookError):
            host.run("wait", "sleep 600 & wait", timeout=1)
        assert processes(folder)
    wait_until(lambda: not processes(folder), "the end of every process")


def test_server_settings_stay_in_its_directory(project_settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    with serve(folder) as server:
        changed = server_settings(server, project_settings)
        assert server.folder == folder
    assert changed.use_sudo is False
    for path in (changed.app_dir, changed.backup_dir, changed.cron_log, changed.database("index").source):
        assert PurePosixPath(folder) in path.parents
    assert Path(changed.ssh_config or "").parent == folder


def test_server_ends_quietly_without_client(tmp_path: Path) -> None:
    program = """if True:
        import gc, pathlib, subprocess, sys, time
        from demo_backups.rehearsal.server import serve
        folder = pathlib.Path(sys.argv[1])
        with serve(folder) as server:
            prints_much = "head -c 20000000 /dev/zero; touch printed; exec sleep 600"
            command = ["ssh", "-F", server.ssh_config, "rehearsal", prints_much]
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as client:
                client.stdout.read(1)
                client.kill()
            while not (server.home / "printed").exists():
                time.sleep(0.01)
        gc.collect()
    """
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
