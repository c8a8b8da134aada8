"""The settings, from invoke.yaml and the environment; every mistake is named with its key."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, ValidationError, model_validator

from .errors import SettingsError
from .project import FILE, ROOT, plain, read_project_file

LOCAL = "local"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {value!r}")
    if not value or not value.isprintable():
        raise ValueError("is empty" if not value else f"holds a control character: {value!r}")
    return value


def _host(name: str) -> str:
    if name.startswith("-") or re.search(r"\s", name):
        raise ValueError(f"{name!r} is no SSH alias: it starts with '-' or holds a blank")
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
        raise ValueError(f"{text!r} begins with the home of a user who is not here") from error
    return text


def _paths(value: Any) -> tuple[str, ...]:
    """Take a list of paths, or split a line of them as a shell does: only text can come from the environment."""
    try:
        paths = list(value) if isinstance(value, (list, tuple)) else shlex.split(_text(value))
    except ValueError as error:
        raise ValueError(f"{value!r} is no list of paths: {error}") from error
    if not paths:
        raise ValueError("names no file")
    for path in paths:
        _relative(path)
    return tuple(paths)


def _message(text: str) -> str:
    if text != text.strip():  # git takes them away, and the commit would never be found by its message
        raise ValueError(f"{text!r} begins or ends with a blank")
    return text


def _git_name(text: str) -> str:
    if not re.fullmatch(r"[^-\s][^\s~^:?*\[\\]*", text):
        raise ValueError(f"{text!r} is no name that git allows")
    return text


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", text):
        raise ValueError(f"{text!r} is not made of letters, digits, '_' and '-'")
    return text


def _query(text: str) -> str:
    # A first '.' would make it a command of the sqlite3 shell, and those can run programs.
    if not re.match(r"(SELECT|WITH|VALUES)\b", text, re.IGNORECASE):
        raise ValueError(f"{text!r} is not a SELECT")
    return text


def _share(value: Any) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", str(value).strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else -1
    if not 0 <= share <= 1:
        raise ValueError(f"{value!r} is not a share such as 10% or 0.1")
    return share


def _seconds(value: Any) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*s?", str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is not a number of seconds such as 5 s")
    return float(match[1])


Text = Annotated[str, BeforeValidator(_text)]
HostName = Annotated[Text, AfterValidator(_host)]
AbsolutePath = Annotated[PurePosixPath, BeforeValidator(_absolute)]
RelativePath = Annotated[PurePosixPath, BeforeValidator(_relative)]
LocalPath = Annotated[Text, AfterValidator(_local_path)]
Share = Annotated[float, BeforeValidator(_share)]
Seconds = Annotated[float, BeforeValidator(_seconds)]
Paths = Annotated[tuple[str, ...], BeforeValidator(_paths)]
Message = Annotated[Text, AfterValidator(_message)]
GitName = Annotated[Text, AfterValidator(_git_name)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DatabaseSettings(_Model):
    """The settings below `databases.NAME`."""

    file: RelativePath
    script: RelativePath
    backup_prefix: Annotated[Text, AfterValidator(_prefix)]
    query: Annotated[Text, AfterValidator(_query)]


class CommitSettings(_Model):
    """The settings below `release.commits`: the message of each commit."""

    index: Message
    tracker: Message
    docs: Message

    @model_validator(mode="after")
    def _each_is_found_by_its_own(self) -> CommitSettings:
        if len({self.index, self.tracker, self.docs}) < 3:
            raise ValueError("two messages are the same: the plan tells the commits apart by them")
        return self


class ReleaseSettings(_Model):
    """The settings below `release`."""

    repository: LocalPath | None
    remote: GitName
    base: GitName
    branch: GitName
    title: Text
    commits: CommitSettings
    docs: Paths

    @model_validator(mode="after")
    def _has_a_branch_of_its_own(self) -> ReleaseSettings:
        if self.branch == self.base:
            raise ValueError(f"branch and base are both {self.base!r}: the commits would go there without a review")
        return self


@dataclass(frozen=True)
class Database:
    """One database: where it and its script stand on the server, and what its backups are called."""

    name: str
    source: PurePosixPath
    script: PurePosixPath
    local_script: Path
    backup_dir: PurePosixPath
    backup_prefix: str
    query: str

    @property
    def part(self) -> PurePosixPath:
        """The file that the script copies into, before it gets its name."""
        return self.backup_dir / f".{self.backup_prefix.rstrip('_')}.part"

    @property
    def lock(self) -> PurePosixPath:
        """The file that the script keeps open, locked, while it is at work."""
        return self.part.with_suffix(".lock")


class Settings(_Model):
    """All settings, checked."""

    host: HostName
    ssh_config: LocalPath | None
    use_sudo: bool
    app_dir: AbsolutePath
    backup_dir: AbsolutePath
    cron_log: AbsolutePath
    size_tolerance: Share
    writer_timeout: Seconds
    free_space_floor: ByteSize
    evidence_dir: LocalPath
    databases: dict[str, DatabaseSettings]
    release: ReleaseSettings

    @property
    def repository(self) -> Path:
        """The checkout that is being released: this one, unless the setting names another."""
        return ROOT / Path(self.release.repository or "").expanduser()

    def given(self, name: str) -> DatabaseSettings:
        """Look up what is set for a database; raises SettingsError for a name that is not in the settings."""
        if name not in self.databases:
            raise SettingsError(f"no database {name!r} in the settings; there are: {', '.join(self.databases)}")
        return self.databases[name]

    def database(self, name: str) -> Database:
        """Look a database up; raises SettingsError for a name that is not in the settings."""
        given = self.given(name)
        return Database(
            name=name,
            source=self.app_dir / given.file,
            script=self.app_dir / given.script,
            local_script=self.repository / given.script,
            backup_dir=self.backup_dir,
            backup_prefix=given.backup_prefix,
            query=given.query,
        )


def load_settings(project: Mapping[str, Any], merged: Any, environ: Mapping[str, str] = os.environ) -> Settings:
    """Check the settings: the keys of the project's file, with the values that Invoke merged for them.

    Other keys of `merged` are Invoke's own sections and the user's; they are left alone. Raises SettingsError.
    """
    from invoke.config import Config

    own = {
        key: value
        for key, value in project.items()
        if key in Settings.model_fields or key not in Config.global_defaults()
    }
    values = _overlay(own, plain(merged))
    # Invoke takes every word but '0' and the empty one for true.
    word = environ.get("INVOKE_USE_SUDO")
    if word is not None and word not in ("0", "1"):
        raise SettingsError(f"INVOKE_USE_SUDO is {word!r}", advice="say 0 or 1")
    return validate_settings(values, environ)


def rehearsal_settings(given: Settings) -> Settings:
    """The project file's own settings: of the environment only the place of the records and the released checkout."""
    kept = {"evidence_dir": given.evidence_dir, "release": {"repository": given.release.repository}}
    project = read_project_file()
    return load_settings(project, project | kept, environ={})


def check_host(name: str) -> str:
    """Return a host name as given on a command line, if it can be one; raises SettingsError."""
    try:
        return _host(_text(name))
    except ValueError as error:
        raise SettingsError(f"--host {error}", advice="give an alias of your SSH configuration, or local") from error


def validate_settings(values: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Build Settings from plain values; raises SettingsError that names every wrong key."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [_sentence(details, environ or {}) for details in error.errors()]
        places = {"the variable" if " (from INVOKE_" in line.partition(": ")[0] else str(FILE) for line in lines}
        advice = f"correct {' and '.join(sorted(places))}"
        raise SettingsError("wrong settings", output="\n".join(lines), advice=advice) from error


def _overlay(own: Mapping[str, Any], merged: Mapping[str, Any]) -> dict[str, Any]:
    """Take the keys of `own` with the values of `merged`."""
    values: dict[str, Any] = {}
    for key, value in own.items():
        over = merged.get(key, value)
        nested = isinstance(value, Mapping) and isinstance(over, Mapping)
        values[key] = _overlay(value, over) if nested else over
    return values


def _sentence(details: Any, environ: Mapping[str, str]) -> str:
    words = {
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
    where = f" (from {variable})" if variable in environ and details["type"] != "missing" else ""
    return f"{key}{where}: {words.get(details['type'], details['msg'].removeprefix('Value error, '))}"
