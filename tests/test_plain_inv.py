"""Plain `inv`: the same as `./inv` where it can work, else one sentence; and the variables that it reads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from invoke import Config

from demo_backups.project import ROOT, find_unknown_variables

from .helpers.tasks import INV, InvRunner

pytestmark = pytest.mark.user


def run_in_checkout(*words: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the root of this checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INVOKE_")}
    return subprocess.run(words, cwd=ROOT, env=environment | changes, capture_output=True, text=True, check=False)


def is_refused(done: subprocess.CompletedProcess[str]) -> bool:
    """Tell whether a call ended with exit code 2 and one line that names a way out."""
    return (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and "run ./inv" in done.stderr


def test_plain_inv_runs_tasks() -> None:
    assert "verify" in run_in_checkout(INV, "--list").stdout.split()


def test_task_named_twice_runs_twice(run_inv: InvRunner) -> None:
    done = run_inv("history", "history")
    assert done.returncode == 0
    assert done.stdout.count("no records") == 2


def test_package_installed_as_copy_is_refused(tmp_path: Path) -> None:
    site = tmp_path / "lib/python3/site-packages"
    shutil.copytree(ROOT / "src", site)
    assert is_refused(run_in_checkout(INV, "verify", PYTHONPATH=str(site)))


def test_invoke_without_package_is_refused() -> None:
    # Without the module `site`, nothing reads the .pth file that leads to this package.
    invoke = run_in_checkout(sys.executable, "-S", "-m", "invoke", "verify", PYTHONPATH=sysconfig.get_path("purelib"))
    assert is_refused(invoke)


def test_missing_dependency_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text("raise ModuleNotFoundError(name='pydantic')")
    done = run_in_checkout(INV, "list-backups", "--host", "local", PYTHONPATH=str(tmp_path))
    assert is_refused(done)
    assert "pydantic" in done.stderr


# --- variables ------------------------------------------------------------------------------------------------------


def find_unknown(*names: str, **settings: Any) -> dict[str, str | None]:
    values = {"host": "demo", "release": {"repository": None, "commits": {"index": "x"}}} | settings
    config = Config(defaults=Config.global_defaults() | values, lazy=True)
    return find_unknown_variables(config, dict.fromkeys(names, "secret"))


@pytest.mark.parametrize(
    "name",
    [
        *("INVOKE_HOST", "INVOKE_RELEASE_REPOSITORY", "INVOKE_RELEASE_COMMITS_INDEX"),
        *("INVOKE_RUN_ECHO", "INVOKE_SUDO_PASSWORD", "INVOKE_TASKS_DEDUPE", "INVOKE_TIMEOUTS_COMMAND"),
        *("INVOKE_DEBUG", "INVOKE_RUNTIME_CONFIG", "HOST", "NOT_INVOKE_HOST"),
    ],
)
def test_known_variables_are_accepted(name: str) -> None:
    assert find_unknown(name) == {}


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("INVOKE_HOSTS", "INVOKE_HOST"),
        ("INVOKE_RELEASE_REPO", "INVOKE_RELEASE_REPOSITORY"),
        ("INVOKE_RELEASE", None),
        ("INVOKE_XYZ", None),
        ("INVOKE_", None),
    ],
)
def test_unknown_variables_are_found(name: str, similar: str | None) -> None:
    assert find_unknown(name) == {name: similar}


def test_variables_of_further_database_are_accepted() -> None:
    assert find_unknown("INVOKE_DATABASES_GRAFANA_FILE", databases={"grafana": {"file": "x"}}) == {}


def test_unknown_variable_causes_one_warning(run_inv: InvRunner) -> None:
    done = run_inv("history", "history", INVOKE_APP_DIRS="/secret", INVOKE_DATABASES_INDEX_QUERY="SELECT 1")
    assert done.returncode == 0
    assert done.stderr == "warning: INVOKE_APP_DIRS is not a setting; did you mean INVOKE_APP_DIR?\n"
