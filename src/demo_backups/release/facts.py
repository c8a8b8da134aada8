"""The facts that a release plan is derived from. Each is a value, or Unavailable with the reason."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from ..backup.script import InstalledScript, Script
from ..backup.script_lint import LintResult
from ..records.record import Record
from ..remote.files import File
from ..settings import ReleaseSettings
from .git_state import LocalState, MergeState, RemoteState
from .pull_request import PullRequest, PullRequestState

T = TypeVar("T")


@dataclass(frozen=True)
class Unavailable:
    """A fact that could not be determined: the reason in a few words, and the full error text."""

    reason: str
    error: str


Fact: TypeAlias = T | Unavailable


class CronState(enum.Enum):
    """Whether the crontab of the host runs a database's script."""

    ENABLED = "enabled"
    NOT_ENABLED = "not enabled"
    NOT_PUBLISHED = "not published"  # the published crontab has no line for this database


@dataclass(frozen=True)
class HostFacts:
    """What is on the host for one database: its script, its backups (newest first), and its crontab line."""

    script: Fact[InstalledScript | None]
    backups: Fact[list[File]]
    cron: Fact[CronState]


@dataclass(frozen=True)
class DatabaseFacts:
    """What is known about one database.

    `script` is the one to release, None if it could not run on a server; `lint` is the result of its check.
    """

    script: Script | None
    lint: LintResult
    on_host: HostFacts


@dataclass(frozen=True)
class ReleaseFacts:
    """All facts of a release.

    `files` are the files of each commit. `docs` has, for each documentation file, what is wrong with it, or None.
    """

    host: str
    release: ReleaseSettings
    files: dict[str, tuple[str, ...]]
    databases: dict[str, DatabaseFacts]
    docs: dict[str, str | None]
    records: Fact[list[Record]]
    local: Fact[LocalState]
    remote: Fact[RemoteState]
    pull_request: Fact[PullRequest | None]

    @property
    def is_merged(self) -> bool:
        """Whether the release is known to be in its base branch: by its commits, or by its pull request."""
        by_commits = isinstance(self.remote, RemoteState) and self.remote.merge_state is MergeState.MERGED
        request = self.pull_request
        by_request = isinstance(request, PullRequest) and request.state is PullRequestState.MERGED
        return by_commits or by_request

    def unavailable(self) -> list[str]:
        """Return the error text of each fact that is unavailable, without duplicates."""
        host_facts = (fact for database in self.databases.values() for fact in vars(database.on_host).values())
        facts = (self.records, *host_facts, self.local, self.remote, self.pull_request)
        return list(dict.fromkeys(fact.error for fact in facts if isinstance(fact, Unavailable)))
