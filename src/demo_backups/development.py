"""What `./inv test` runs: lint, types, shell scripts and tests, one after the other."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from .errors import SettingsError
from .ui.console import make_console

PROCESSES_PER_CORE = 3  # of pytest: most tests wait for other processes


def list_checks(root: Path, pytest_arguments: str) -> list[list[str]]:
    """Return the command of each check, the fastest first.

    Raises SettingsError if the arguments for pytest cannot be split as a shell does.
    """
    python = [sys.executable, "-m"]
    try:
        arguments = shlex.split(pytest_arguments)
    except ValueError as error:
        raise SettingsError(f"--pytest {pytest_arguments!r}: {error}") from error
    processes = PROCESSES_PER_CORE * (os.cpu_count() or 1)
    return [
        [*python, "ruff", "check", "."],
        [*python, "ruff", "format", "--check", "."],
        [*python, "mypy"],
        ["shellcheck", *find_shell_scripts(root)],
        [*python, "pytest", "-n", str(processes), "--dist", "worksteal", *arguments],
    ]


def find_shell_scripts(root: Path) -> list[str]:
    """Return the shell scripts of the project: files with a shell in their first line."""
    files = [file for pattern in ("*", ".ci/*", "share/**/*", "src/**/*") for file in root.glob(pattern)]
    return sorted(str(file.relative_to(root)) for file in files if file.is_file() and _is_shell_script(file))


def _is_shell_script(file: Path) -> bool:
    with file.open("rb") as script:
        return bool(re.match(rb"#!.*\b(?:ba|da)?sh\b", script.readline(200)))


def require_test_tools() -> None:
    """Raise SettingsError if the packages of requirements-test.lock are not installed."""
    missing = [name for name in ("ruff", "mypy", "pytest") if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"the test tools are not installed: {', '.join(missing)}", advice="./inv test installs them in .venv"
        )


def run_checks(root: Path, pytest_arguments: str) -> int:
    """Run all checks, also after one has failed, and return 1 if any failed, else 0.

    A check whose program is not installed is skipped; with CI=true in the environment, that is a failure.
    """
    require_test_tools()
    failed = [shlex.join(command) for command in list_checks(root, pytest_arguments) if not _passes(command, root)]
    for command_line in failed:
        make_console().say(f"FAILED: {command_line}")
    return 1 if failed else 0


def _passes(command: list[str], root: Path) -> bool:
    out = make_console()
    out.say(f"$ {shlex.join(command)}")
    sys.stdout.flush()
    if shutil.which(command[0]) is None:
        out.say(f"skipped: {command[0]} is not installed; ./inv test --install installs it")
        return os.environ.get("CI") != "true"
    return subprocess.run(command, cwd=root, check=False).returncode == 0
