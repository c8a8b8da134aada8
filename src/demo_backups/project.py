"""This checkout, and its own settings file as it was written. Imported at every start, so it imports little."""

from __future__ import annotations

import getpass
import os
import shlex
import socket
from pathlib import Path
from typing import Any

from .errors import SettingsError

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "invoke.yaml"


def plain(value: Any) -> Any:
    """Make plain dictionaries of Invoke's configuration objects."""
    from invoke.config import DataProxy

    if isinstance(value, DataProxy):
        value = {str(key): value[str(key)] for key in value}
    return {key: plain(each) for key, each in value.items()} if isinstance(value, dict) else value


def read_project_file() -> dict[str, Any]:
    """Read the project's own file, by Invoke's reader.

    Raises SettingsError where it is missing or not YAML, and for an environment variable that Invoke could not read.
    """
    from invoke.config import Config
    from invoke.exceptions import AmbiguousEnvVar, UncastableEnvVar
    from invoke.vendor.yaml import YAMLError

    config = Config(defaults={}, lazy=True)
    config.set_project_location(FILE.parent)
    try:
        config.load_project()
        values = plain(config)
    except (YAMLError, OSError, UnicodeError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise SettingsError(f"{FILE.name} cannot be read", output=str(error), advice=f"correct {FILE}") from error
    try:
        config.load_shell_env()
    except (AmbiguousEnvVar, UncastableEnvVar, ValueError, TypeError) as error:
        raise SettingsError(
            f"an environment variable INVOKE_... does not fit its setting in {FILE.name}",
            output=str(error),
            advice=f"what is text in {FILE.name} takes any value: write it there in quotes",
        ) from error
    if not values:
        raise SettingsError(f"{FILE.name} is missing or empty", advice=f"restore {FILE}: git checkout -- {FILE.name}")
    return dict(values)


def task_command(name: str, host: str, *flags: str) -> str:
    """The command with which a task is done on a host, for a user to type."""
    return shlex.join(["./inv", name, "--host", host, *flags])


def whoami() -> str:
    """Say who the maintainer is, for the others: user@machine; a user without a name by its number."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
