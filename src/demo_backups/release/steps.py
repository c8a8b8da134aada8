"""The steps of a release, each evaluated from the facts alone."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TypeAlias

from ..records.check import Outcome
from ..records.record import Record, VerificationRecord
from ..remote.files import File
from ..settings import LOCAL
from .facts import CronState, Fact, ReleaseFacts, Unavailable
from .git_state import LocalState, MergeState, RemoteState
from .pull_request import PullRequest, PullRequestState, Review


class State(enum.Enum):
    """The state of one step, without regard to the steps that it depends on."""

    DONE = "done"
    TO_DO = "to do"
    BLOCKED = "blocked"  # somebody else has to act
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Observation:
    """The state of a step, and the details that show it."""

    state: State
    details: str


Evaluate: TypeAlias = Callable[[ReleaseFacts], Observation]


@dataclass(frozen=True)
class Step:
    """A step: how it is evaluated, and the names of the steps that must be done before it."""

    name: str
    title: str
    evaluate: Evaluate
    needs: tuple[str, ...] = ()
    optional: bool = False


def done(details: str) -> Observation:
    """Return the observation of a step that is done."""
    return Observation(State.DONE, details)


def to_do(details: str) -> Observation:
    """Return the observation of a step that is not done."""
    return Observation(State.TO_DO, details)


def unknown(fact: Unavailable) -> Observation:
    """Return the observation of a step whose fact is unavailable."""
    return Observation(State.UNKNOWN, fact.reason)


# --- git: branch, commits, push -------------------------------------------------------------------------------------


def evaluate_branch(facts: ReleaseFacts) -> Observation:
    """Evaluate whether the branch of the release is checked out."""
    local, name = facts.local, facts.release.branch
    if isinstance(local, Unavailable):
        return unknown(local)
    if facts.is_merged:
        return done("merged")
    if local.branch_commit is None:
        on_remote = isinstance(facts.remote, RemoteState) and facts.remote.branch_commit
        return to_do(f"only on {facts.release.remote}" if on_remote else f"there is no branch {name}")
    if local.current_branch != name:
        return to_do(f"{local.current_branch or 'a commit without a branch'} is checked out")
    return done("checked out")


def evaluate_commit(part: str) -> Evaluate:
    """Return the evaluation of the commit of a part: `index`, `tracker` or `docs`."""

    def evaluate(facts: ReleaseFacts) -> Observation:
        if isinstance(facts.local, Unavailable):
            return unknown(facts.local)
        commit = facts.local.commits.get(getattr(facts.release.commits, part))
        if commit is None:
            # A merge as one commit has another message.
            return done("merged") if facts.is_merged else to_do("not committed")
        changed = [file for file in facts.files[part] if file in facts.local.changed_files]
        return to_do(f"changed since {commit}: {', '.join(changed)}") if changed else done(commit)

    return evaluate


def evaluate_push(facts: ReleaseFacts) -> Observation:
    """Evaluate whether the remote has the branch as it is in the checkout."""
    name = facts.release.remote
    if facts.is_merged:
        return done("merged")
    if isinstance(facts.local, Unavailable):
        return unknown(facts.local)
    if isinstance(facts.remote, Unavailable):
        return unknown(facts.remote)
    return _compare_branches(facts.local, facts.remote, name)


def _compare_branches(local: LocalState, remote: RemoteState, name: str) -> Observation:
    if remote.url is None:
        return to_do(f"there is no remote {name}")
    if remote.branch_commit is None:
        return to_do(f"not on {name}")
    if remote.branch_commit != local.branch_commit:
        return to_do(f"the branch on {name} differs from the local branch")
    return done(f"on {name}")


# --- scripts and docs, in the checkout ------------------------------------------------------------------------------


def evaluate_script(database: str) -> Evaluate:
    """Return the evaluation of a database's script: it uses .backup and no cp, and quotes its variables."""

    def evaluate(facts: ReleaseFacts) -> Observation:
        lint = facts.databases[database].lint
        match lint.outcome:
            case Outcome.PASSED:
                return done("uses .backup, no cp; variables are quoted")
            case Outcome.FAILED:
                return to_do("; ".join(lint.findings))
            case Outcome.UNKNOWN:
                return Observation(State.UNKNOWN, "; ".join(lint.findings))

    return evaluate


def evaluate_docs(facts: ReleaseFacts) -> Observation:
    """Evaluate whether every documentation file describes the backup method."""
    problems = [f"{file} {problem}" for file, problem in facts.docs.items() if problem]
    return to_do("; ".join(problems)) if problems else done(f"{', '.join(facts.docs)}: .backup is described")


def evaluate_test(database: str) -> Evaluate:
    """Return the evaluation of the local test: a rehearsal, or a local verification, of the same script passed."""

    def evaluate(facts: ReleaseFacts) -> Observation:
        script = facts.databases[database].script
        if script is None:
            return to_do("there is no script that can run")
        if isinstance(facts.records, Unavailable):
            return unknown(facts.records)
        tests = [record for record in facts.records if _is_test_of(record, database, script.sha256)]
        if not tests:
            return to_do(f"this version of the script ({script.sha256[:12]}) has not been tested")
        last = tests[-1]
        if not _has_passed(last):
            return to_do(f"the last {last.kind} did not pass ({_format_time(last)})")
        return done(f"{last.kind} passed ({_format_time(last)})")

    return evaluate


def _is_test_of(record: Record, database: str, sha256: str) -> bool:
    is_test = record.kind == "rehearsal" or (record.kind == "verification" and record.host == LOCAL)
    return is_test and (record.database, record.script_sha256) == (database, sha256) and not _is_quick_only(record)


# --- the host: deployed, run, verified, enabled ---------------------------------------------------------------------


def evaluate_deployment(database: str) -> Evaluate:
    """Return the evaluation of the deployment: the host has the script of the checkout."""

    def evaluate(facts: ReleaseFacts) -> Observation:
        script, installed = facts.databases[database].script, facts.databases[database].on_host.script
        if isinstance(installed, Unavailable):
            return unknown(installed)
        if installed is None:
            return to_do("the server has no script")
        if script is None or installed.sha256 != script.sha256:
            return to_do(f"the server has another version ({installed.sha256[:12]})")
        since = installed.changed.isoformat(sep=" ", timespec="seconds")
        return done(f"same version ({installed.sha256[:12]}), since {since}")

    return evaluate


def evaluate_run(database: str) -> Evaluate:
    """Return the evaluation of the run: the deployed script has made a backup on the host."""

    def evaluate(facts: ReleaseFacts) -> Observation:
        backups = _backups_of_script(facts, database)
        if isinstance(backups, Unavailable):
            return unknown(backups)
        if not backups:
            return to_do("this script has not made a backup on the server")
        newest = backups[0]
        if newest.type != "f":
            return to_do(f"{newest.path.name} is not a regular file")
        return done(f"{newest.path.name}, {newest.bytes:,} bytes")

    return evaluate


def evaluate_verification(database: str) -> Evaluate:
    """Return the evaluation of the verification: it passed for the newest backup of the deployed script.

    While cron makes new backups, a verification of any backup of this script counts.
    """

    def evaluate(facts: ReleaseFacts) -> Observation:
        backups = _backups_of_script(facts, database)
        if isinstance(backups, Unavailable):
            return unknown(backups)
        if isinstance(facts.records, Unavailable):
            return unknown(facts.records)
        if not backups:
            return to_do("this script has not made a backup on the server")
        by_cron = facts.databases[database].on_host.cron is CronState.ENABLED
        verifications = _verifications_by_path(facts.records, facts.host, database)
        for file in backups if by_cron else backups[:1]:
            records = verifications.get(str(file.path), [])
            record = next((record for record in records if _is_of_file(record, file)), None)
            if record:
                details = f"{file.path.name}: {_describe_result(record)} ({_format_time(record)})"
                return done(details) if _has_passed(record) else to_do(details)
        return to_do(f"{backups[0].path.name} is not verified")

    return evaluate


def evaluate_cron(database: str) -> Evaluate:
    """Return the evaluation of the crontab: it has the published line of the database."""

    def evaluate(facts: ReleaseFacts) -> Observation:
        cron = facts.databases[database].on_host.cron
        if isinstance(cron, Unavailable):
            return unknown(cron)
        return done("in the crontab") if cron is CronState.ENABLED else to_do("not in the crontab")

    return evaluate


def _backups_of_script(facts: ReleaseFacts, database: str) -> Fact[list[File]]:
    """Return the backups on the host that the deployed script made, newest first.

    The times of the script and of the backups are those of the host's clock, so it need not be right.
    """
    script, on_host = facts.databases[database].script, facts.databases[database].on_host
    if isinstance(on_host.script, Unavailable):
        return on_host.script
    if isinstance(on_host.backups, Unavailable):
        return on_host.backups
    if script is None or on_host.script is None or on_host.script.sha256 != script.sha256:
        return []
    since = on_host.script.changed
    return [
        file for file in on_host.backups if file.modified >= since and _start_time(file) > since - timedelta(seconds=1)
    ]


def _start_time(file: File) -> datetime:
    """Return when a backup was started, by its name, to the second.

    A backup that was running when the script was deployed is not a backup of that script.
    """
    try:
        started = datetime.strptime(file.path.name[-22:], "%Y-%m-%d_%H-%M-%S.db")
    except ValueError:  # the name has the right form, but there is no such date
        return datetime.min.replace(tzinfo=timezone.utc)
    return started.replace(tzinfo=file.modified.tzinfo)


# --- records --------------------------------------------------------------------------------------------------------


def _verifications_by_path(records: Sequence[Record], host: str, database: str) -> dict[str | None, list[Record]]:
    """Group the verifications of a host's backups by the path of the backup, newest first."""
    groups: dict[str | None, list[Record]] = {}
    for record in reversed(records):
        is_verification = (record.kind, record.host, record.database) == ("verification", host, database)
        if is_verification and not _is_quick_only(record):
            groups.setdefault(record.backup, []).append(record)
    return groups


def _is_of_file(record: Record, file: File) -> bool:
    """Tell whether the verification of a path is of the file that is there now; old records have no time."""
    same_time = record.created is None or datetime.fromisoformat(record.created) == file.modified
    return record.bytes == file.bytes and same_time


def _has_passed(record: Record) -> bool:
    return record.exit_status == 0 and bool(record.checks) and record.outcome is Outcome.PASSED


def _describe_result(record: Record) -> str:
    if _has_passed(record):
        return "passed"
    return "not all checks could be made" if record.outcome is Outcome.UNKNOWN else "FAILED"


def _is_quick_only(record: Record) -> bool:
    """Tell whether it passed only by quick_check, which does not verify indexes (pragma.html#pragma_quick_check)."""
    return isinstance(record, VerificationRecord) and record.details.quick and _has_passed(record)


def _format_time(record: Record) -> str:
    return f"{datetime.fromisoformat(record.when).astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


# --- the pull request -----------------------------------------------------------------------------------------------


def evaluate_opened(facts: ReleaseFacts) -> Observation:
    """Evaluate whether the pull request is open or merged."""
    return _evaluate_request(facts, _evaluate_open_request)


def evaluate_review(facts: ReleaseFacts) -> Observation:
    """Evaluate whether the pull request is approved."""
    return _evaluate_request(facts, _evaluate_reviewed_request)


def evaluate_merge(facts: ReleaseFacts) -> Observation:
    """Evaluate whether the release is in its base branch."""
    base, remote = facts.release.base, facts.release.remote
    if facts.is_merged:
        return done(f"merged into {base}")
    if isinstance(facts.remote, Unavailable):
        return unknown(facts.remote)
    if facts.remote.merge_state is MergeState.UNKNOWN and isinstance(facts.pull_request, Unavailable):
        advice = f"git fetch {remote}, with --unshallow in a shallow clone"
        return Observation(State.UNKNOWN, f"the checkout does not have all commits of {base} on {remote}: {advice}")
    return to_do(f"not in {base}")


def _evaluate_request(facts: ReleaseFacts, evaluate: Callable[[PullRequest], Observation]) -> Observation:
    request = facts.pull_request
    if isinstance(request, Unavailable):
        return unknown(request)
    return to_do("there is no pull request") if request is None else evaluate(request)


def _evaluate_open_request(request: PullRequest) -> Observation:
    details = f"{request.url} ({request.state.value})"
    return to_do(details) if request.state is PullRequestState.CLOSED else done(details)


def _evaluate_reviewed_request(request: PullRequest) -> Observation:
    if request.state is PullRequestState.MERGED:
        return done("merged")
    match request.review:
        case Review.APPROVED:
            return done("approved")
        case Review.CHANGES_REQUESTED:
            return to_do("changes are requested")
        case Review.NONE:
            return Observation(State.BLOCKED, "not approved yet")
