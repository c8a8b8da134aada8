"""How `./inv` starts Invoke: Ctrl-C and a closed pipe end it silently, and --debug shows nothing of Invoke itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo_backups.project import ROOT

from .helpers.processes import wait_until
from .helpers.tasks import clean_environment

START = re.search(r"^start='\n(.*?)^'$", (ROOT / "inv").read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def command() -> list[str]:
    """The command with which `./inv` starts Invoke, by the Python that runs this test."""
    assert START
    return [sys.executable, "-c", START[1], "--search-root", str(ROOT)]


def test_closed_pipe_ends_list_silently(command: list[str], home: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*command, "--list"], stdout=write, stderr=subprocess.PIPE, env=clean_environment(home), check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize("module", ["invoke", "invoke.program"])
def test_ctrl_c_during_imports_is_silent(command: list[str], home: Path, module: str) -> None:
    # The import of the module is held up by a hook, so that the signal arrives in the middle of it.
    (home / "sitecustomize.py").write_text(HOLD)
    environment = clean_environment(home) | {"PYTHONPATH": str(home), "HELD_MODULE": module}
    process = subprocess.Popen(
        [*command, "--list"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=home,
        start_new_session=True,
    )
    wait_until((home / "held").exists, "the import")
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (-signal.SIGINT, b"")


HOLD = """
import importlib.abc, os, sys, time
class Hold(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == os.environ["HELD_MODULE"]:
            open("held", "w").close()
            time.sleep(60)
sys.meta_path.insert(0, Hold())
"""


def test_module_of_current_directory_is_not_imported(command: list[str], home: Path) -> None:
    for name in ("signal", "logging", "invoke"):
        (home / f"{name}.py").write_text("raise SystemExit('imported from the current directory')")
    done = subprocess.run(
        [*command, "--list"], cwd=home, env=clean_environment(home), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_debug_has_no_line_of_invoke(command: list[str], home: Path) -> None:
    done = subprocess.run(
        [*command, "--debug", "list-backups", "--host", "local"],
        env=clean_environment(home) | {"INVOKE_USE_SUDO": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "debug: local: exit status " in done.stderr
    assert "invoke." not in done.stderr
