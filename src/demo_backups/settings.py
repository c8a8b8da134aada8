"""The settings, from invoke.yaml and the environment. An error names the key of every wrong value."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from .errors import SettingsError
from .project import FILE, ROOT, plain, read_project_file, without_invoke_sections

LOCAL = "local"
FABRIC, OPENSSH = "fabric", "openssh"  # ssh_transport


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {value!r}")
    if not value or not value.isprintable():
        raise ValueError("must not be empty" if not value else f"must not contain control characters: {value!r}")
    return value


def _host(name: str) -> str:
    # The user and the host: an option of ssh in either of them could run a command here.
    if any(part.startswith("-") for part in name.removeprefix("ssh://").split("@")) or re.search(r"\s", name):
        raise ValueError(f"{name!r} is not an SSH alias: it starts with '-' or contains whitespace")
    return name


def _absolute(value: Any) -> PurePosixPath:
    path = PurePosixPath(_text(value))
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{value!r} is not an absolute path")
    return path


def _relative(value: Any) -> PurePosixPath:
    path = PurePosixPath(_text(value))
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise ValueError(f"{value!r} is not a relative path")
    return path


def _local_path(text: str) -> str:
    try:
        Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text!r} starts with the home directory of an unknown user") from error
    return text


def _paths(value: Any) -> tuple[str, ...]:
    """Accept a list of paths, or text that is split as a shell does: an environment variable can only be text."""
    try:
        paths = list(value) if isinstance(value, (list, tuple)) else shlex.split(_text(value))
    except ValueError as error:
        raise ValueError(f"{value!r} is not a list of paths: {error}") from error
    if not paths:
        raise ValueError("must name at least one file")
    for path in paths:
        _relative(path)
    return tuple(paths)


def _message(text: str) -> str:
    if text != text.strip():  # git strips it, and the plan would not find the commit by its message
        raise ValueError(f"{text!r} starts or ends with whitespace")
    return text


def _git_name(text: str) -> str:
    if not re.fullmatch(r"[^-\s][^\s~^:?*\[\\]*", text):
        raise ValueError(f"{text!r} is not a valid name for git")
    return text


def _issue_number(value: Any) -> int | None:
    if value is None or value == "":  # the text is for the environment variable
        return None
    match = re.fullmatch(r"#?([1-9][0-9]{0,9})", str(value))
    if match is None:
        raise ValueError(f"{value!r} is not the number of an issue")
    return int(match[1])


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", text):
        raise ValueError(f"{text!r} must consist of letters, digits, '_' and '-'")
    return text


def _query(text: str) -> str:
    # Text that starts with '.' is a command of the sqlite3 shell, and such commands can run programs.
    if not re.match(r"(SELECT|WITH|VALUES)\b", text, re.IGNORECASE):
        raise ValueError(f"{text!r} is not a SELECT")
    return text


def _transport(value: Any) -> str:
    if value not in (FABRIC, OPENSSH):
        raise ValueError(f"{value!r} is neither {FABRIC} nor {OPENSSH}")
    return str(value)


def _share(value: Any) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", str(value).strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else -1
    if not 0 <= share <= 1:
        raise ValueError(f"{value!r} is not a fraction such as 10% or 0.1")
    return share


def _seconds(value: Any) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*s?", str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is not a number of seconds such as 5 s")
    return float(match[1])


def _command(value: Any) -> str | None:
    """Accept a shell command; null or an empty text, for the environment variable, is none."""
    return None if value is None or value == "" else _text(value)


def _duration(value: Any) -> float:
    """Accept seconds, minutes, hours or days; return seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s?|min|h|d)", str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is not a duration such as 90 s, 10 min, 12 h or 30 d")
    return float(match[1]) * {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400}[match[2]]


def _rate(value: Any) -> int | None:
    if value is None or value == "":
        return None
    rate = int(TypeAdapter(ByteSize).validate_python(str(value).strip().removesuffix("/s")))
    if rate < 1024:
        raise ValueError(f"{value!r} is not a rate of at least 1 KiB per second, such as 40 MB")
    return rate


def _count(value: Any) -> int:
    match = re.fullmatch(r"[0-9]{1,4}", str(value))
    if not match:
        raise ValueError(f"{value!r} is not a number of copies")
    return int(match[0])


def _owner(value: Any) -> str | None:
    text = _command(value)
    if text is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*:[A-Za-z0-9_][A-Za-z0-9_.-]*", text):
        raise ValueError(f"{value!r} is not an owner such as torrust:torrust")
    return text


def _mode(value: Any) -> str | None:
    text = _command(value)
    if text is not None and not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError(f"{value!r} is not a mode such as '644', in quotes")
    return text


Text = Annotated[str, BeforeValidator(_text)]
Command = Annotated[str | None, BeforeValidator(_command)]
DurationText = Annotated[float, BeforeValidator(_duration)]
Rate = Annotated[int | None, BeforeValidator(_rate)]
Count = Annotated[int, BeforeValidator(_count)]
OptionalPath = Annotated[PurePosixPath | None, BeforeValidator(lambda value: _absolute(value) if value else None)]
Owner = Annotated[str | None, BeforeValidator(_owner)]
Mode = Annotated[str | None, BeforeValidator(_mode)]
HostName = Annotated[Text, AfterValidator(_host)]
AbsolutePath = Annotated[PurePosixPath, BeforeValidator(_absolute)]
RelativePath = Annotated[PurePosixPath, BeforeValidator(_relative)]
LocalPath = Annotated[Text, AfterValidator(_local_path)]
Share = Annotated[float, BeforeValidator(_share)]
Seconds = Annotated[float, BeforeValidator(_seconds)]
Paths = Annotated[tuple[str, ...], BeforeValidator(_paths)]
Message = Annotated[Text, AfterValidator(_message)]
GitName = Annotated[Text, AfterValidator(_git_name)]
IssueNumber = Annotated[int | None, BeforeValidator(_issue_number)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DatabaseSettings(_Model):
    """The settings below `databases.NAME`."""

    file: RelativePath
    script: RelativePath
    backup_prefix: Annotated[Text, AfterValidator(_prefix)]
    query: Annotated[Text, AfterValidator(_query)]
    stop: Command = None
    start: Command = None
    healthy: Command = None
    owner: Owner = None
    mode: Mode = None

    @model_validator(mode="after")
    def _check_service(self) -> DatabaseSettings:
        if (self.stop is None) != (self.start is None):
            raise ValueError("stop and start must both be set, or neither of them")
        return self


class CopiesSettings(_Model):
    """The settings below `copies`: how many fetched backups of a database to keep."""

    daily: Count
    weekly: Count
    monthly: Count


class CommitSettings(_Model):
    """The settings below `release.commits`: the message of each commit."""

    index: Message
    tracker: Message
    docs: Message

    @model_validator(mode="after")
    def _check_messages_differ(self) -> CommitSettings:
        if len({self.index, self.tracker, self.docs}) < 3:
            raise ValueError("two messages are equal: the plan distinguishes the commits by their messages")
        return self


class ReleaseSettings(_Model):
    """The settings below `release`."""

    repository: LocalPath | None
    remote: GitName
    base_remote: GitName | None
    base: GitName
    branch: GitName
    title: Text
    closes: IssueNumber
    commits: CommitSettings
    docs: Paths

    @model_validator(mode="after")
    def _check_branch_differs(self) -> ReleaseSettings:
        if self.branch == self.base:
            raise ValueError(f"branch and base are both {self.base!r}: the commits would skip the review")
        return self


@dataclass(frozen=True)
class Database:
    """One database: its path and that of its script on the server, and the names of its backups."""

    name: str
    source: PurePosixPath
    script: PurePosixPath
    local_script: Path
    backup_dir: PurePosixPath
    backup_prefix: str
    query: str
    stop: str | None = None
    start: str | None = None
    healthy: str | None = None
    owner: str | None = None
    mode: str | None = None

    @property
    def part(self) -> PurePosixPath:
        """The partial file that the script copies to; it is renamed when the copy is complete."""
        return self.backup_dir / f".{self.backup_prefix.rstrip('_')}.part"

    @property
    def lock(self) -> PurePosixPath:
        """The lock file of the script, locked while the script runs."""
        return self.part.with_suffix(".lock")

    @property
    def restore_journal(self) -> PurePosixPath:
        """The directory in which a restore keeps its journal; it is removed when the restore has ended."""
        return self.part.with_suffix(".restore")


class Settings(_Model):
    """All settings, validated."""

    host: HostName
    ssh_config: LocalPath | None
    ssh_transport: Annotated[str, BeforeValidator(_transport)]
    use_sudo: bool
    app_dir: AbsolutePath
    backup_dir: AbsolutePath
    cron_log: AbsolutePath
    size_tolerance: Share
    writer_timeout: Seconds
    free_space_floor: ByteSize
    evidence_dir: LocalPath
    fetch_dir: LocalPath
    fetch_limit: Rate
    service_timeout: Seconds
    keep_verified: bool
    drill_dir: OptionalPath
    drill_command: Command
    drill_timeout: DurationText
    drill_every: DurationText
    copies: CopiesSettings
    databases: dict[str, DatabaseSettings]
    release: ReleaseSettings

    @property
    def repository(self) -> Path:
        """The checkout to release (release.repository); default: this one."""
        return ROOT / Path(self.release.repository or "").expanduser()

    def database_settings(self, name: str) -> DatabaseSettings:
        """Return the section `databases.NAME`; raises SettingsError for an unknown name."""
        if name not in self.databases:
            raise SettingsError(
                f"there is no database {name!r} in the settings", advice=f"use one of: {', '.join(self.databases)}"
            )
        return self.databases[name]

    def database(self, name: str) -> Database:
        """Return a database; raises SettingsError for an unknown name."""
        section = self.database_settings(name)
        return Database(
            name=name,
            source=self.app_dir / section.file,
            script=self.app_dir / section.script,
            local_script=self.repository / section.script,
            backup_dir=self.backup_dir,
            backup_prefix=section.backup_prefix,
            query=section.query,
            stop=section.stop,
            start=section.start,
            healthy=section.healthy,
            owner=section.owner,
            mode=section.mode,
        )


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
        return _host(_text(name))
    except ValueError as error:
        raise SettingsError(f"--host {error}", advice="use an alias of your SSH configuration, or local") from error


def parse_rate(text: str) -> int:
    """Parse a rate from the command line, in bytes per second; raises SettingsError."""
    try:
        rate = _rate(text)
    except ValueError:
        rate = None
    if rate is None:
        raise SettingsError(f"{text!r} is not a rate of at least 1 KiB per second", advice="for example: 40MB")
    return rate


def parse_directory(text: str) -> Path:
    """Parse the path of a directory from the command line, relative to the current one; raises SettingsError."""
    try:
        return Path(_local_path(_text(text))).expanduser().absolute()
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
