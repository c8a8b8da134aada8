"""The project's own checks, one after the other: lint, types, shell scripts, tests."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path


def commands(root: Path, pytest: str) -> list[list[str]]:
    """The checks as commands, in the order of how fast they fail."""
    python = [sys.executable, "-m"]
    return [
        [*python, "ruff", "check", "."],
        [*python, "ruff", "format", "--check", "."],
        [*python, "mypy"],
        ["shellcheck", *shell_scripts(root)],
        [*python, "pytest", "-n", str(os.cpu_count() or 2), *shlex.split(pytest)],
    ]


def shell_scripts(root: Path) -> list[str]:
    """The shell scripts of the project: what says so in its first line, here, in .ci/ and below share/ and src/."""
    files = [file for pattern in ("*", ".ci/*", "share/**/*", "src/**/*") for file in root.glob(pattern)]
    return sorted(str(file.relative_to(root)) for file in files if file.is_file() and _is_shell_script(file))


def _is_shell_script(file: Path) -> bool:
    with file.open("rb") as opened:
        return bool(re.match(rb"#!.*\b(?:ba|da)?sh\b", opened.readline(200)))


def run_checks(root: Path, pytest: str) -> int:
    """Run all checks, also after one failed; return 1 if one did. A tool that is missing fails only under CI=true."""
    failed = []
    for command in commands(root, pytest):
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
