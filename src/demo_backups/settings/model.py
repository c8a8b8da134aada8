"""The settings as a model: one class per section of invoke.yaml."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from pydantic import BaseModel, ByteSize, ConfigDict, model_validator

from ..errors import SettingsError
from ..project import ROOT
from .values import (
    AbsolutePath,
    Command,
    Count,
    DurationText,
    GitName,
    HostName,
    IssueNumber,
    LocalPath,
    Message,
    Mode,
    OptionalDuration,
    OptionalLocalPath,
    OptionalPath,
    OptionalPaths,
    OptionalText,
    Owner,
    Parts,
    Paths,
    Prefix,
    Query,
    Rate,
    RelativePath,
    Seconds,
    Share,
    Text,
    Transport,
)

LOCAL = "local"
CONFIG = "config"  # the name of the archives of the configuration, where --database selects backups


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DatabaseSettings(_Model):
    """The settings below `databases.NAME`."""

    file: RelativePath
    script: RelativePath
    backup_prefix: Prefix
    query: Query
    stop: Command = None
    start: Command = None
    healthy: Command = None
    owner: Owner = None
    mode: Mode = None
    warn_age: OptionalDuration = None
    critical_age: OptionalDuration = None

    @model_validator(mode="after")
    def _check_consistent(self) -> DatabaseSettings:
        if (self.stop is None) != (self.start is None):
            raise ValueError("stop and start must both be set, or neither of them")
        _check_ages(self.warn_age, self.critical_age)
        return self


def _unknown_database(name: str, known: Iterable[str]) -> SettingsError:
    return SettingsError(f"there is no database {name!r} in the settings", advice=f"use one of: {', '.join(known)}")


def _check_ages(warn: float | None, critical: float | None) -> None:
    if warn is not None and critical is not None and warn > critical:
        raise ValueError("warn_age is longer than critical_age")


def _check_one_source(name: str, file: str | None, command: str | None) -> None:
    """Raise ValueError if a secret comes from a file and from a command."""
    if file is not None and command is not None:
        raise ValueError(f"{name}_file and {name}_command are both set: use one of them")


class CopiesSettings(_Model):
    """The settings below `copies`: how many fetched backups of a database to keep."""

    daily: Count
    weekly: Count
    monthly: Count

    @property
    def is_empty(self) -> bool:
        """Whether all numbers are 0: nothing is deleted then."""
        return not (self.daily or self.weekly or self.monthly)


class CheckSettings(_Model):
    """The settings below `check`: the limits of `inv check`, and where the URL of its ping comes from.

    The ages are those of databases that have none of their own. Without any, they follow from the crontab line of the
    backup.
    """

    warn_age: OptionalDuration
    critical_age: OptionalDuration
    size_change: Share
    ping_file: OptionalLocalPath
    ping_command: Command

    @model_validator(mode="after")
    def _check_consistent(self) -> CheckSettings:
        _check_ages(self.warn_age, self.critical_age)
        _check_one_source("ping", self.ping_file, self.ping_command)
        return self


class OffsiteSettings(_Model):
    """The settings below `offsite`: the restic repository, and where its password comes from."""

    repository: OptionalText
    password_file: OptionalLocalPath
    password_command: Command
    check_parts: Parts
    every: DurationText

    @model_validator(mode="after")
    def _check_password(self) -> OffsiteSettings:
        _check_one_source("password", self.password_file, self.password_command)
        return self


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
class BackupSeries:
    """Backups of one thing, made one after the other: where they are on the server, and how they are named."""

    name: str
    backup_dir: PurePosixPath
    backup_prefix: str

    suffix: ClassVar[str]

    @property
    def part(self) -> PurePosixPath:
        """The partial file or directory in which a backup is made; a complete one is published under its name."""
        return self.backup_dir / f".{self.backup_prefix.rstrip('_')}.part"

    @property
    def lock(self) -> PurePosixPath:
        """The lock file, which is locked while a backup is made."""
        return self.part.with_suffix(".lock")


@dataclass(frozen=True)
class ConfigArchives(BackupSeries):
    """The archives of the configuration of the application: which paths they have, relative to `app_dir`."""

    app_dir: PurePosixPath
    paths: tuple[str, ...]

    suffix: ClassVar[str] = ".tar"

    @property
    def part(self) -> PurePosixPath:
        """The directory in which an archive is made; a database may have the same prefix."""
        return self.backup_dir / ".config.tar.part"


@dataclass(frozen=True)
class Database(BackupSeries):
    """One database: its path and that of its script on the server, and the names of its backups."""

    source: PurePosixPath
    script: PurePosixPath
    local_script: Path
    query: str
    stop: str | None = None
    start: str | None = None
    healthy: str | None = None
    owner: str | None = None
    mode: str | None = None

    suffix: ClassVar[str] = ".db"

    @property
    def restore_journal(self) -> PurePosixPath:
        """The directory in which a restore keeps its journal; it is removed when the restore has ended."""
        return self.part.with_suffix(".restore")


class Settings(_Model):
    """All settings, validated."""

    host: HostName
    ssh_config: LocalPath | None
    ssh_transport: Transport
    use_sudo: bool
    app_dir: AbsolutePath
    backup_dir: AbsolutePath
    cron_log: AbsolutePath
    config_paths: OptionalPaths
    size_tolerance: Share
    writer_timeout: Seconds
    free_space_floor: ByteSize
    evidence_dir: LocalPath
    fetch_dir: LocalPath
    fetch_limit: Rate
    fetch_every: DurationText
    service_timeout: Seconds
    keep_verified: bool
    verify_every: DurationText
    drill_dir: OptionalPath
    drill_command: Command
    drill_timeout: DurationText
    drill_every: DurationText
    copies: CopiesSettings
    offsite: OffsiteSettings
    check: CheckSettings
    databases: dict[str, DatabaseSettings]
    release: ReleaseSettings

    @model_validator(mode="after")
    def _check_names(self) -> Settings:
        if CONFIG in self.databases:
            raise ValueError(f"no database may be named {CONFIG}: that is the name of the configuration archives")
        return self

    @property
    def repository(self) -> Path:
        """The checkout to release (release.repository); default: this one."""
        return ROOT / Path(self.release.repository or "").expanduser()

    def database_settings(self, name: str) -> DatabaseSettings:
        """Return the section `databases.NAME`; raises SettingsError for an unknown name."""
        if name == CONFIG:
            raise SettingsError(
                f"this task does not work on {CONFIG}: that is the configuration, not a database",
                advice=f"use one of: {', '.join(self.databases)}",
            )
        if name not in self.databases:
            raise _unknown_database(name, self.databases)
        return self.databases[name]

    def check_settings(self, name: str) -> CheckSettings:
        """Return the section `check` for a database: with its own ages if it has any; raises SettingsError."""
        section = self.database_settings(name)
        ages = {"warn_age": section.warn_age, "critical_age": section.critical_age}
        return self.check if set(ages.values()) == {None} else self.check.model_copy(update=ages)

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

    def series(self, name: str) -> BackupSeries:
        """Return the backups of a database, or with the name CONFIG the archives of the configuration.

        Raises SettingsError for an unknown name.
        """
        if name == CONFIG:
            return ConfigArchives(
                name=CONFIG,
                backup_dir=self.backup_dir,
                backup_prefix=f"{CONFIG}_",
                app_dir=self.app_dir,
                paths=tuple(dict.fromkeys(str(PurePosixPath(path)) for path in self.config_paths)),
            )
        if name not in self.databases:
            raise _unknown_database(name, (*self.databases, CONFIG))
        return self.database(name)

    def all_series(self) -> list[BackupSeries]:
        """Return the backups of all databases and, last, the archives of the configuration."""
        return [self.series(name) for name in (*self.databases, CONFIG)]
