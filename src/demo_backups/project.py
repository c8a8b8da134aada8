"""This checkout: its root, its settings file as written, and who uses it.

Every start imports this module, so it imports little.
"""

from __future__ import annotations

import getpass
import os
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import SettingsError

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "invoke.yaml"


def plain(value: Any) -> Any:
    """Convert the configuration objects of Invoke to plain dictionaries."""
    from invoke.config import DataProxy

    if isinstance(value, DataProxy):
        value = {str(key): value[str(key)] for key in value}
    return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def without_invoke_sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the sections that configure Invoke itself, such as `tasks` and `run`."""
    from invoke.config import Config

    return {key: value for key, value in values.items() if key not in Config.global_defaults()}


def read_project_file() -> dict[str, Any]:
    """Read the settings of this project in invoke.yaml, with the reader of Invoke.

    Raises SettingsError if it is missing or not valid YAML, or if Invoke cannot convert an environment variable.
    """
    from invoke.config import Config
    from invoke.exceptions import AmbiguousEnvVar, UncastableEnvVar
    from invoke.vendor.yaml import YAMLError

    config = Config(defaults={}, lazy=True)
    config.set_project_location(FILE.parent)
    try:
        config.load_project()
        values = without_invoke_sections(plain(config))
    except (YAMLError, OSError, UnicodeError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise SettingsError(f"{FILE.name} cannot be read", output=str(error), advice=f"correct {FILE}") from error
    try:
        config.load_shell_env()
    except (AmbiguousEnvVar, UncastableEnvVar, ValueError, TypeError) as error:
        raise SettingsError(
            f"an INVOKE_* variable does not fit its setting in {FILE.name}",
            output=str(error),
            advice=f"quote the value in {FILE.name}: a text setting accepts any variable",
        ) from error
    if not values:
        raise SettingsError(f"{FILE.name} is missing or empty", advice=f"restore {FILE}: git checkout -- {FILE.name}")
    return values


def find_unknown_variables(config: Any, environ: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """Find INVOKE_* variables without effect, each with the most similar name that has one.

    `config` is the configuration that Invoke has merged: a variable has an effect only if its key is in there.
    """
    from difflib import get_close_matches

    from invoke.config import Config

    sections = tuple(f"{section.upper()}_" for section in Config.global_defaults())
    known = {"DEBUG", "RUNTIME_CONFIG", *_variable_names(plain(config))}
    found: dict[str, str | None] = {}
    for variable in sorted(environ):
        name = variable.removeprefix("INVOKE_")
        if name == variable or name in known or name.startswith(sections):
            continue
        similar = get_close_matches(name, known, n=1)
        found[variable] = f"INVOKE_{similar[0]}" if similar else None
    return found


def _variable_names(value: Any, path: tuple[str, ...] = ()) -> set[str]:
    """Return the variables of a setting, or of all in a section, as Invoke names them, without INVOKE_."""
    if isinstance(value, Mapping):
        return {name for key, item in value.items() for name in _variable_names(item, (*path, str(key)))}
    return {"_".join(path).upper()}


def task_command(name: str, host: str, *flags: str) -> str:
    """Return the command line that runs a task on a host, for the user to type."""
    return shlex.join(["./inv", name, "--host", host, *flags])


def whoami() -> str:
    """Return user@machine of the maintainer; a user ID stands for a user without a name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
