"""The snippets of docs/monitoring.md, word for word, and the programs that they are for.

A test is skipped where its program is not installed, in CI too: Prometheus and Icinga are large.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from invoke.vendor import yaml

from demo_backups.health.prometheus import write_metrics
from demo_backups.health.state import Finding, Health, Metrics, State
from demo_backups.project import read_project_file
from demo_backups.settings.load import load_settings

from .helpers.constants import root_only
from .helpers.markdown import code_blocks, page, section
from .helpers.node_exporter import scrape_directory
from .helpers.programs import write_program

PAGE = page("monitoring.md")
PROGRAM = "/opt/demo-backups/.venv/bin/demo-backups-check"
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
PLUGINS = Path("/usr/lib/nagios/plugins")
RULES, CONFIG = "demo-backups.rules.yml", "prometheus.yml"
HOUR = 3600


def blocks(title: str, language: str) -> list[str]:
    """Return the code blocks of a section of the page."""
    return code_blocks(section(PAGE, title), language)


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program without a shell; skip the test if it is not installed."""
    if shutil.which(command[0], path=PATH) is None:
        pytest.skip(f"not installed: {command[0]}")
    return subprocess.run(
        command, cwd=cwd, env=os.environ | {"PATH": PATH}, capture_output=True, text=True, timeout=60, check=False
    )


def assert_accepted(*command: str | Path, cwd: Path) -> str:
    """Run a program, which must succeed; return what it printed."""
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- cron -----------------------------------------------------------------------------------------------------------

CRONTAB = [line for block in code_blocks(PAGE, "crontab") for line in block.splitlines()]


@root_only
def test_cron_accepts_lines(private_mounts: list[str], tmp_path: Path) -> None:
    (tmp_path / "table").write_text("".join(f"{line}\n" for line in CRONTAB))
    install = "mount -t tmpfs tmpfs /var/spool/cron/crontabs && crontab table && crontab -l"
    assert len(CRONTAB) == 3
    assert assert_accepted(*private_mounts, "sh", "-c", install, cwd=tmp_path).splitlines() == CRONTAB


@pytest.mark.parametrize(("status", "printed"), [(0, ""), (1, "the line\n"), (3, "the line\n")])
def test_cron_line_prints_only_problems(status: int, printed: str, tmp_path: Path) -> None:
    program = write_program(tmp_path / "check", f"#!/bin/sh\necho the line >&2\nexit {status}\n")
    command = CRONTAB[0].split(maxsplit=5)[5].replace(PROGRAM, str(program))
    assert run("/bin/sh", "-c", command, cwd=tmp_path).stdout == printed


# --- systemd --------------------------------------------------------------------------------------------------------


def test_systemd_accepts_units(tmp_path: Path) -> None:
    service, timer = blocks("systemd", "ini")
    program = write_program(tmp_path / "demo-backups-check", "#!/bin/sh\n")
    assert PROGRAM in service
    (tmp_path / "demo-backups-check.service").write_text(service.replace(PROGRAM, str(program)))
    (tmp_path / "demo-backups-check.timer").write_text(timer)
    units = [tmp_path / "demo-backups-check.service", tmp_path / "demo-backups-check.timer"]
    assert assert_accepted("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units, cwd=tmp_path) == ""


# --- Icinga ---------------------------------------------------------------------------------------------------------


def test_sudo_accepts_rule(tmp_path: Path) -> None:
    (rule,) = blocks("Icinga 2", "sudoers")
    (tmp_path / "rule").write_text(rule)
    assert_accepted("visudo", "--check", "--strict", "--file=rule", cwd=tmp_path)


@root_only
def test_icinga_accepts_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (configuration,) = blocks("Icinga 2", "icinga")
    (tmp_path / "icinga2.conf").write_text(f"include <itl>\ninclude <plugins>\n{configuration}")
    monkeypatch.setenv("ICINGA2_USER", "root")
    monkeypatch.setenv("ICINGA2_GROUP", "root")
    places = [f"-D{name}={tmp_path}" for name in ("DataDir", "LogDir", "CacheDir", "InitRunDir", "SpoolDir")]
    command = ["icinga2", "daemon", "--validate", "--config", "icinga2.conf", *places, f"-DPluginDir={PLUGINS}"]
    output = assert_accepted(*command, cwd=tmp_path)
    assert "Instantiated 2 Services." in output
    assert "warning" not in output


# --- Prometheus -----------------------------------------------------------------------------------------------------


def write_configuration(folder: Path) -> None:
    configuration, rules = blocks("Prometheus", "yaml")
    (folder / CONFIG).write_text(configuration)
    (folder / RULES).write_text(rules)


def test_prometheus_accepts_configuration(tmp_path: Path) -> None:
    write_configuration(tmp_path)
    assert "6 rules found" in assert_accepted("promtool", "check", "config", CONFIG, cwd=tmp_path)


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    """Return a series of one value each minute; a value is `VALUExREPEATS` or `_xREPEATS` for none."""
    pairs = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {"series": f"{name}{{{pairs}}}", "values": values}


INDEX = {"host": "demo", "database": "index"}
FILE = {"instance": "backups:9100", "file": "/var/lib/prometheus/node-exporter/demo-backups.prom"}
TIMESTAMP, STATE, UP = (f"demo_backups_{name}" for name in ("last_backup_timestamp_seconds", "state", "up"))
MTIME = "node_textfile_mtime_seconds"
# Each alert with a series, and the times in minutes at which it must not fire yet, and must fire.
ALERTS = {
    "too old": ("BackupTooOld", series(TIMESTAMP, "0x600", **INDEX), 239, 241),
    "too old and unreachable": ("BackupTooOld", series(TIMESTAMP, "0x60 stale", **INDEX), 239, 241),
    "critical": ("BackupsCritical", series(STATE, "0x60 2x60", **INDEX), 60, 72),
    "warning": ("BackupsWarning", series(STATE, "0x60 1x120", **INDEX), 60, 122),
    "unknown": ("BackupsWarning", series(STATE, "0x60 3x120", **INDEX), 60, 122),
    "unreachable": ("BackupServerUnreachable", series(UP, "1x60 0x60", **INDEX), 60, 92),
    "check does not run": ("BackupCheckStopped", series(MTIME, "0x60", **FILE), 29, 31),
    "exporter is dead": ("BackupMetricsMissing", series(UP, "1x60 stale", **INDEX), 61, 77),
}


def alert_test(name: str, alert: str, data: dict[str, str], before: int, after: int) -> dict[str, object]:
    """Return a test for promtool: how often an alert fires, whatever its labels and annotations are."""
    expression = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
    counts = [
        {"expr": expression, "eval_time": f"{time}m", "exp_samples": [{"labels": "{}", "value": count}]}
        for time, count in ((before, 0), (after, 1))
    ]
    return {"name": name, "interval": "1m", "input_series": [data], "promql_expr_test": counts}


def test_alerts_fire_in_time(tmp_path: Path) -> None:
    write_configuration(tmp_path)
    rules = yaml.safe_load((tmp_path / RULES).read_text())["groups"][0]["rules"]  # type: ignore[no-untyped-call]
    assert {rule["alert"] for rule in rules} == {alert for alert, *_ in ALERTS.values()}
    tests = [alert_test(name, *values) for name, values in ALERTS.items()]
    content = {"rule_files": [RULES], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(json.dumps(content))
    assert_accepted("promtool", "test", "rules", "tests.yml", cwd=tmp_path)


def test_node_exporter_reads_metrics(tmp_path: Path) -> None:
    name = Path(CRONTAB[1].split("--prometheus ")[1].split()[0]).name
    metrics = Metrics(now=2000.0, backup_time=1000.0, backup_bytes=500, backups_listed=True)
    finding = Finding("backup", State.OK, "backup 17 min old")
    write_metrics(tmp_path / name, [Health('de"mo\\', "index", (finding,), metrics)])
    text = scrape_directory(tmp_path)
    labels = 'database="index",host="de\\"mo\\\\"'
    assert f"{TIMESTAMP}{{{labels}}} 1000\n" in text
    assert f"{UP}{{{labels}}} 1\n" in text
    assert "node_textfile_scrape_error 0\n" in text
    assert f'{MTIME}{{file="{tmp_path / name}"}}' in text


# --- a dead man's switch --------------------------------------------------------------------------------------------


def test_ping_settings_are_valid() -> None:
    (block,) = blocks("A dead man's switch", "yaml")
    project = read_project_file()
    values = yaml.safe_load(block)["check"]  # type: ignore[no-untyped-call]
    changed = project | {"check": project["check"] | values}
    assert load_settings(project, changed, environ={}).check.ping_file == "~/.demo-backups-ping"


def test_ping_file_is_private(home: Path) -> None:
    (block,) = blocks("A dead man's switch", "bash")
    url = "https://example.org/a-secret"
    subprocess.run(["bash", "-c", block], input=f"{url}\n", env=os.environ | {"HOME": str(home)}, text=True, check=True)
    file = home / ".demo-backups-ping"
    assert file.read_text() == f"{url}\n"
    assert file.stat().st_mode & 0o777 == 0o600
