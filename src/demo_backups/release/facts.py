"""The facts that a release plan rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from ..backup.script import InstalledScript, Script
from ..records.record import Record
from ..remote.files import File
from ..settings import ReleaseSettings
from .pull_request import PullRequest
from .repository import LocalState, RemoteState

T = TypeVar("T")


@dataclass(frozen=True)
class Unavailable:
    """A fact that could not be had, and why: in a few words, and in all that is to be said of it."""

    why: str
    error: str


Fact: TypeAlias = T | Unavailable


@dataclass(frozen=True)
class HostFacts:
    """What is on the host for a database: its script, its backups, the newest first, and its job.

    `enabled` tells whether the published job is in the crontab; None where none is published.
    """

    script: Fact[InstalledScript | None]
    backups: Fact[list[File]]
    enabled: Fact[bool | None]


@dataclass(frozen=True)
class DatabaseFacts:
    """What is known of a database: its script here (None: none that could run), and what that has of the old way."""

    script: Script | None
    flaws: list[str]
    there: HostFacts


@dataclass(frozen=True)
class ReleaseFacts:
    """All that a plan rests on.

    `files` are those of each commit, `docs` says of each file of the documentation what it lacks (None: nothing).
    """

    host: str
    release: ReleaseSettings
    files: dict[str, tuple[str, ...]]
    databases: dict[str, DatabaseFacts]
    docs: dict[str, str | None]
    records: Fact[list[Record]]
    here: Fact[LocalState]
    there: Fact[RemoteState]
    pull_request: Fact[PullRequest | None]
