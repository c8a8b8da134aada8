"""Read the settings from invoke.yaml, the environment and the command line. An error names the key of a wrong value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import SettingsError
from ..project import FILE, plain, read_project_file, without_invoke_sections
from .model import Settings
from .values import parse_host_name, parse_local_path, parse_rate_value, parse_seconds_value, parse_text

LONGEST_TIMEOUT = 3600  # seconds


def load_settings(project: Mapping[str, Any], merged: Any, environ: Mapping[str, str] = os.environ) -> Settings:
    """Validate the settings: the keys of the project file, with the values that Invoke merged for them.

    Other keys of `merged` belong to Invoke or to the user and are ignored. Raises SettingsError.
    """
    values = _overlay(without_invoke_sections(project), plain(merged))
    for name in ("INVOKE_USE_SUDO", "INVOKE_KEEP_VERIFIED"):
        # Invoke takes every value except '0' and the empty one for true.
        value = environ.get(name)
        if value is not None and value not in ("0", "1"):
            raise SettingsError(f"{name} is {value!r}", advice="set it to 0 or 1")
    return validate_settings(values, environ)


def rehearsal_settings(settings: Settings) -> Settings:
    """Return the settings of the project file, with evidence_dir and release.repository of the given ones."""
    overrides = {"evidence_dir": settings.evidence_dir, "release": {"repository": settings.release.repository}}
    project = read_project_file()
    return load_settings(project, project | overrides, environ={})


def check_host(name: str) -> str:
    """Validate a host name from the command line; raises SettingsError."""
    try:
        return parse_host_name(parse_text(name))
    except ValueError as error:
        advice = "use one alias of your SSH configuration, or local"
        raise SettingsError(f"--host {error}", advice=advice) from error


def parse_rate(text: str) -> int:
    """Parse a rate from the command line, in bytes per second; raises SettingsError."""
    try:
        rate = parse_rate_value(text)
    except ValueError:
        rate = None
    if rate is None:
        raise SettingsError(f"{text!r} is not a rate of at least 1 KiB per second", advice="for example: 40MB")
    return rate


def parse_timeout(text: str) -> float:
    """Parse a timeout from the command line, in seconds; raises SettingsError."""
    try:
        seconds = parse_seconds_value(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST_TIMEOUT:
        raise SettingsError(f"--timeout {text!r} is not a number of seconds up to {LONGEST_TIMEOUT}")
    return seconds


def parse_directory(text: str) -> Path:
    """Parse the path of a directory from the command line, relative to the current one; raises SettingsError."""
    try:
        return Path(parse_local_path(parse_text(text))).expanduser().absolute()
    except ValueError as error:
        raise SettingsError(f"{text!r} is not the path of a directory: {error}") from error


def select_host(settings: Settings, name: str) -> Settings:
    """Return the settings with another host, from the command line; raises SettingsError."""
    return settings.model_copy(update={"host": check_host(name)})


def validate_settings(values: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Build Settings from plain values; raises a SettingsError that names every wrong key."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        mistakes = [_describe(details, environ or {}) for details in error.errors()]
        places = sorted({"the variable" if from_variable else str(FILE) for _, from_variable in mistakes})
        raise SettingsError(
            "wrong settings", output="\n".join(line for line, _ in mistakes), advice=f"correct {' and '.join(places)}"
        ) from error


def _overlay(own: Mapping[str, Any], merged: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of `own` with the values of `merged`."""
    values: dict[str, Any] = {}
    for key, value in own.items():
        override = merged.get(key, value)
        nested = isinstance(value, Mapping) and isinstance(override, Mapping)
        values[key] = _overlay(value, override) if nested else override
    return values


def _describe(details: Any, environ: Mapping[str, str]) -> tuple[str, bool]:
    """Describe one mistake, and whether its value came from an environment variable."""
    messages = {
        "extra_forbidden": "is not a setting",
        "missing": "is missing",
        "string_type": f"must be text, not {details['input']!r}",
        "bool_type": f"must be true or false, not {details['input']!r}",
        "model_type": f"must be a section of settings, not {details['input']!r}",
        "dict_type": f"must be a section of databases, not {details['input']!r}",
        "byte_size": f"{details['input']!r} is not a size such as 512 MB",
        "byte_size_unit": f"{details['input']!r} is not a size such as 512 MB",
    }
    key = ".".join(str(part) for part in details["loc"])
    variable = "INVOKE_" + "_".join(str(part) for part in details["loc"]).upper()
    from_variable = variable in environ and details["type"] != "missing"
    source = f" (from {variable})" if from_variable else ""
    message = messages.get(details["type"], details["msg"].removeprefix("Value error, "))
    return f"{key}{source}: {message}", from_variable
