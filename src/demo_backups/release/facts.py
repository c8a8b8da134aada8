"""The facts that a release plan is derived from. Each is a value, or Unavailable with the reason."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from ..backup.script import InstalledScript, Script
from ..backup.script_lint import LintResult
from ..records.record import Record
from ..remote.fact import Fact, Unavailable
from ..remote.files import File
from ..settings.model import ReleaseSettings
from .git_state import LocalState, RemoteState, normalize_path
from .merge import Merge, MergeState, is_object
from .pull_request import PullRequest, PullRequestState


class CronState(enum.Enum):
    """Whether the crontab of the host runs a database's script."""

    ENABLED = "enabled"
    DIFFERENT = "different"  # a line runs the script, but not as published
    NOT_ENABLED = "not enabled"
    NOT_PUBLISHED = "not published"  # the published crontab has no line for this database


@dataclass(frozen=True)
class HostFacts:
    """What is on the host for one database: its script, its backups (newest first), and its crontab line.

    `cron_lines` are the lines that run the script, other than the one that the task adds; their secrets are masked.
    `restore` is Unavailable while a restore of the database is running or was interrupted: other tasks are refused.
    """

    script: Fact[InstalledScript | None]
    backups: Fact[list[File]]
    cron: Fact[CronState]
    cron_lines: tuple[str, ...] = ()
    restore: Fact[None] = None


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

    `checkout` is the directory that they are about. `files` are the files of each commit, and `scripts` the script of
    each database. `docs` has, for each documentation file, what is wrong with it, or None.
    """

    host: str
    checkout: Path
    release: ReleaseSettings
    files: dict[str, tuple[str, ...]]
    scripts: dict[str, str]
    databases: dict[str, DatabaseFacts]
    docs: dict[str, str | None]
    records: Fact[list[Record]]
    local: Fact[LocalState]
    remote: Fact[RemoteState]
    merge: Fact[Merge]
    pull_request: Fact[PullRequest | None]

    @property
    def is_merged(self) -> bool:
        """Whether the release is known to be in its base branch: by contents, or by its pull request.

        A merged pull request that is not known to have the commits of the branch may be one of an earlier release.
        """
        state = self.merge.state if isinstance(self.merge, Merge) else MergeState.UNKNOWN
        request = self.pull_request
        if not isinstance(request, PullRequest) or request.state is not PullRequestState.MERGED:
            return state is MergeState.MERGED
        return request.has_branch or state is not MergeState.NOT_MERGED

    @property
    def merge_doubt(self) -> str:
        """Why it is unknown whether the release is merged; empty if it is known.

        GitHub's answer that there is no pull request, or an open one, settles it.
        """
        if self.is_merged or not isinstance(self.pull_request, Unavailable):
            return ""
        if isinstance(self.merge, Unavailable):
            return self.merge.reason
        return self.merge.reason if self.merge.state is MergeState.UNKNOWN else ""

    def is_outdated(self, file: str) -> bool:
        """Tell whether the work tree has an older version of a file than the merged release."""
        return self.is_merged and isinstance(self.merge, Merge) and normalize_path(file) in self.merge.outdated_files

    def is_edited(self, file: str) -> bool:
        """Tell whether the work tree has a version of a file that was never committed in the release or its base."""
        return not isinstance(self.merge, Merge) or normalize_path(file) in self.merge.edited_files

    def is_released(self, database: str, content: bytes) -> bool:
        """Tell whether this is the script of a database in the checkout, or in the merged release or since."""
        script = self.databases[database].script
        if script is not None and script.content == content:
            return True
        if not self.is_merged or not isinstance(self.merge, Merge):
            return False
        released = self.merge.released.get(normalize_path(self.scripts[database]), frozenset())
        return any(is_object(content, name) for name in released)

    def is_deployed(self, database: str) -> bool:
        """Tell whether the host is known to have such a script of a database."""
        installed = self.databases[database].on_host.script
        return isinstance(installed, InstalledScript) and self.is_released(database, installed.content)

    def unavailable(self) -> list[str]:
        """Return the error text of each fact that is unavailable, without duplicates."""
        facts = (self.records, self.local, self.remote, self.merge, self.pull_request)
        errors = [fact.error for fact in facts if isinstance(fact, Unavailable)]
        return list(dict.fromkeys([*self.host_errors(), *errors]))

    def host_errors(self) -> tuple[str, ...]:
        """Return the error text of each fact of the host that is unavailable, without duplicates."""
        facts = (fact for database in self.databases.values() for fact in vars(database.on_host).values())
        return tuple(dict.fromkeys(fact.error for fact in facts if isinstance(fact, Unavailable)))
