"""The project's own checks, one after the other: lint, types, shell scripts, tests."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path


def commands(pytest: str) -> list[list[str]]:
    """The checks as commands, in the order of how fast they fail."""
    python = [sys.executable, "-m"]
    return [
        [*python, "ruff", "check", "."],
        [*python, "ruff", "format", "--check", "."],
        [*python, "mypy"],
        ["shellcheck", "inv", ".ci/run", *shell_scripts()],
        [*python, "pytest", "-n", str(os.cpu_count() or 2), *shlex.split(pytest)],
    ]


def shell_scripts() -> list[str]:
    """The shell scripts of the project, below share/ and src/."""
    return ["share/bin/index-db-backup.sh", "src/demo_backups/rehearsal/crontab"]


def run_checks(root: Path, pytest: str) -> int:
    """Run all checks, also after one failed; return 1 if one did. A tool that is missing fails only under CI=true."""
    failed = []
    for command in commands(pytest):
        print(f"$ {shlex.join(command)}", flush=True)
        if shutil.which(command[0]) is None:
            print(f"skipped: {command[0]} is not installed (Debian: sudo apt install {command[0]})")
            code = int(os.environ.get("CI") == "true")
        else:
            code = subprocess.run(command, cwd=root, check=False).returncode
        if code:
            failed.append(shlex.join(command))
    for command_line in failed:
        print(f"FAILED: {command_line}")
    return 1 if failed else 0
