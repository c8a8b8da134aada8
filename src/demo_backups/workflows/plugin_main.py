"""The program `demo-backups-check`: the task `check` for monitoring systems.

Invoke's parser ends with 1 for a wrong flag, which a monitoring system takes for WARNING. This program ends with 3 for
everything that prevents the check. It imports other packages only where an error of the import can be reported.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import SettingsError
from ..health.options import HELP, VALUES, CheckOptions
from ..health.state import State
from ..project import ROOT, read_project_file

UNKNOWN = State.UNKNOWN.value
NAME = "demo-backups-check"


def main() -> NoReturn:
    """Run the program, and end it with the exit code of a monitoring plugin."""
    try:
        code = _run(sys.argv[1:])
    except (Exception, KeyboardInterrupt) as error:  # not even the module that reports errors could be imported
        text = " ".join(f"{type(error).__name__}: {error}".replace("|", "/").split())
        print(f"UNKNOWN: {NAME} could not start: {text}")
        code = UNKNOWN
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    """Parse the flags, read the settings and check; return the exit code."""
    from invoke import Exit

    from ..ui.debug import limit_debug_output
    from ..ui.plugin import exit_as_plugin, print_exit

    limit_debug_output()
    try:
        with exit_as_plugin("--json" in arguments):
            require_own_checkout()
            options = parse_options(arguments)
            return UNKNOWN if options is None else _check(options)
    except Exit as ended:
        print_exit(ended)
        return UNKNOWN


def _check(options: CheckOptions) -> int:
    from ..settings.load import load_settings
    from ..ui.cli import warn_about_variables
    from .check_command import run_check

    project = read_project_file()
    config = read_config()
    try:
        return run_check(load_settings(project, config), options)
    finally:
        warn_about_variables(config)  # last: Icinga shows standard error too


def require_own_checkout() -> None:
    """Raise SettingsError if this package is a copy, or belongs to another checkout than the environment does."""
    advice = "run ./inv there, or 'pip install -e .'; unset PYTHONPATH"
    if not (ROOT / "tasks.py").is_file():
        raise SettingsError(f"the package demo_backups is not in a checkout, but in {ROOT}", advice=advice)
    owner = Path(sys.prefix).parent
    if (owner / "src/demo_backups").is_dir() and not (owner / "src").samefile(ROOT / "src"):
        raise SettingsError(f"demo_backups is imported from {ROOT}, not from {owner}", advice=advice)


def read_config() -> Any:
    """Read the configuration as Invoke does for a task: its files, invoke.yaml, and the environment."""
    from invoke import Config

    try:
        config = Config()
        config.set_project_location(ROOT)
        config.load_project()
        runtime = os.environ.get("INVOKE_RUNTIME_CONFIG")
        config.set_runtime_path(Path(runtime) if runtime else None)
        config.load_runtime()
        config.load_shell_env()
    except Exception as error:  # of YAML, of a file in Python, of a variable that fits no setting
        raise SettingsError("the configuration of Invoke cannot be read", output=str(error)) from error
    return config


# --- flags ----------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message, advice=f"see {NAME} --help")


class _StoreOnce(argparse.Action):
    """Refuse a flag that is repeated, as Invoke does: argparse would ignore the first value without a message."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if getattr(namespace, self.dest, None) is not None:
            parser.error(f"{option_string} is repeated")
        setattr(namespace, self.dest, values)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the flags: those of the task, and those that every plugin has."""
    parser = _Parser(
        prog=NAME,
        description="Check the backups of all databases, and print one line for each as a monitoring plugin.",
        epilog="Exit codes: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.",
        allow_abbrev=False,
        add_help=False,
    )
    for name, text in HELP.items():
        flags = [f"--{name}", *(["-t"] if name == "timeout" else [])]
        if name in VALUES:
            parser.add_argument(*flags, action=_StoreOnce, metavar=VALUES[name], help=text)
        else:
            parser.add_argument(*flags, action="store_true", help=text)
    parser.add_argument("-h", "--help", action="store_true", help="print this text")
    parser.add_argument("-V", "--version", action="store_true", help="print the version")
    return parser


def parse_options(arguments: Sequence[str]) -> CheckOptions | None:
    """Parse the flags; None if only the help or the version was printed. Raises SettingsError."""
    parser = make_parser()
    flags = vars(parser.parse_args(arguments))
    wants_help, wants_version = flags.pop("help"), flags.pop("version")
    if wants_help or wants_version:
        from ..ui.plugin import print_lines

        print_lines([parser.format_help() if wants_help else f"{NAME} {_read_version()}"])
        return None
    return CheckOptions(**{name: value for name, value in flags.items() if value is not None})


def _read_version() -> str:
    """Read the version of this checkout: an environment of ./inv has no metadata of the package."""
    match = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else "of unknown version"
