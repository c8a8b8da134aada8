"""The steps of a release, each evaluated from the facts alone."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import PurePosixPath
from typing import TypeAlias

from ..backup.names import parse_start_time
from ..backup.script import InstalledScript
from ..records.check import Outcome
from ..records.record import Record
from ..remote.fact import Fact, Unavailable
from ..remote.files import File
from ..settings.model import LOCAL
from .facts import CronState, ReleaseFacts
from .git_state import LocalState, RemoteState, find_part_commit
from .pull_request import PullRequest, PullRequestState, Review
from .verifications import describe_result, format_time, has_passed, is_of_file, is_partial, verifications_by_path


class State(enum.Enum):
    """The state of one step, without regard to the steps that it depends on."""

    DONE = "done"
    TO_DO = "to do"
    BLOCKED = "blocked"  # somebody else has to act
    NOT_NEEDED = "not needed"  # done once the steps that it needs are done
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Observation:
    """The state of a step, and the details that show it."""

    state: State
    details: str


NO_BACKUP = "this script has not made a backup on the server"
AFTER_MERGE = "./inv next shows how to update the checkout on the server"
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


def not_done(facts: ReleaseFacts, details: str) -> Observation:
    """Return the observation of a step in git that is not done, or unknown if the release may be merged already."""
    return Observation(State.UNKNOWN, facts.merge_doubt) if facts.merge_doubt else to_do(details)


# --- git: branch, commits, push -------------------------------------------------------------------------------------


def evaluate_branch(facts: ReleaseFacts) -> Observation:
    """Evaluate whether the branch of the release is checked out."""
    local, name = facts.local, facts.release.branch
    if isinstance(local, Unavailable):
        return unknown(local)
    if facts.is_merged:
        return done(f"merged into {facts.release.base}")
    if local.current_branch == name:
        return done("checked out")
    if local.branch_commit is None:
        on_remote = isinstance(facts.remote, RemoteState) and facts.remote.branch_commit
        return not_done(facts, f"only on {facts.release.remote}" if on_remote else f"there is no branch {name}")
    return not_done(facts, f"{local.current_branch or 'a commit without a branch'} is checked out")


def evaluate_commit(part: str) -> Evaluate:
    """Return the evaluation of the commit of a part: `index`, `tracker` or `docs`."""

    def evaluate(facts: ReleaseFacts) -> Observation:
        if isinstance(facts.local, Unavailable):
            return unknown(facts.local)
        commit = find_part_commit(facts.local, getattr(facts.release.commits, part), facts.files[part])
        changed = [file for file in facts.files[part] if file in facts.local.changed_files]
        if facts.is_merged:
            # On another branch, such as the base branch, edits belong to something else.
            on_branch = facts.local.current_branch == facts.release.branch
            changed = [file for file in changed if on_branch and facts.is_edited(file)]
            commit = commit or f"merged into {facts.release.base}"
        if commit and changed:
            return to_do(f"changed since {commit}: {', '.join(changed)}")
        if commit:
            return done(commit)
        if facts.local.branch_commit and not changed:
            return Observation(State.NOT_NEEDED, f"as in {facts.release.base}: nothing to commit")
        return to_do("not committed") if facts.local.branch_commit else not_done(facts, "not committed")

    return evaluate


def evaluate_push(facts: ReleaseFacts) -> Observation:
    """Evaluate whether the remote has the branch as it is in the checkout."""
    name = facts.release.remote
    if facts.is_merged:
        return done(f"merged into {facts.release.base}")
    if isinstance(facts.local, Unavailable):
        return unknown(facts.local)
    if isinstance(facts.remote, Unavailable):
        return unknown(facts.remote)
    return _compare_branches(facts, facts.local, facts.remote, name)


def _compare_branches(facts: ReleaseFacts, local: LocalState, remote: RemoteState, name: str) -> Observation:
    if remote.url is None:
        return to_do(f"there is no remote {name}")
    if remote.branch_commit is not None and remote.branch_commit == local.branch_commit:
        return done(f"on {name}")
    if _has_nothing_to_merge(facts):
        return Observation(State.NOT_NEEDED, "the branch has no commits: nothing to push")
    if remote.branch_commit is None:
        return not_done(facts, f"not on {name}")
    return not_done(facts, f"the branch on {name} differs from the local branch")


def _has_nothing_to_merge(facts: ReleaseFacts) -> bool:
    """Tell whether the branch has no commit that the base branch does not have, and nothing is left to commit."""
    local = facts.local
    return isinstance(local, LocalState) and local.has_no_commits and not local.changed_files


# --- scripts and docs, in the checkout ------------------------------------------------------------------------------


def evaluate_script(database: str) -> Evaluate:
    """Return the evaluation of a database's script: it uses .backup and no cp, and quotes its variables."""

    def evaluate(facts: ReleaseFacts) -> Observation:
        lint = facts.databases[database].lint
        if lint.outcome is not Outcome.PASSED and facts.is_outdated(facts.scripts[database]):
            return done(_describe_outdated(facts))
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
    problems = {file: problem for file, problem in facts.docs.items() if problem}
    if problems and all(facts.is_outdated(file) for file in problems):
        return done(_describe_outdated(facts))
    lines = [f"{file} {problem}" for file, problem in problems.items()]
    return to_do("; ".join(lines)) if lines else done(f"{', '.join(facts.docs)}: .backup is described")


def _describe_outdated(facts: ReleaseFacts) -> str:
    base = facts.release.base
    return f"merged into {base}; this checkout has an older version: git pull on {base}"


def evaluate_test(database: str) -> Evaluate:
    """Return the evaluation of the local test: a rehearsal, or a local verification, of the same script passed."""

    def evaluate(facts: ReleaseFacts) -> Observation:
        script = facts.databases[database].script
        if script is None:
            return to_do("there is no script that can run")
        if isinstance(facts.records, Unavailable):
            return unknown(facts.records)
        tests = [record for record in facts.records if _is_test_of(record, database, _released_hashes(facts, database))]
        if not tests:
            details = f"this version of the script ({script.sha256[:12]}) has not been tested"
            return _not_recorded(details) if _is_unchanged_release(facts, database) else to_do(details)
        last = tests[-1]
        if not has_passed(last):
            return to_do(f"the last {last.kind} did not pass ({format_time(last)})")
        return done(f"{last.kind} passed ({format_time(last)})")

    return evaluate


def _released_hashes(facts: ReleaseFacts, database: str) -> set[str]:
    """Return the SHA-256 of the script in the checkout, and of the one on the host if that is of the same release."""
    script, installed = facts.databases[database].script, facts.databases[database].on_host.script
    hashes = {script.sha256} if script else set()
    if isinstance(installed, InstalledScript) and facts.is_deployed(database):
        hashes.add(installed.sha256)
    return hashes


def _is_unchanged_release(facts: ReleaseFacts, database: str) -> bool:
    """Tell whether the release is merged, and the checkout has its script, a later one of its base, or an older one.

    What is not recorded here may then be recorded elsewhere, and is no reason to start again.
    """
    return facts.is_merged and not facts.is_edited(facts.scripts[database])


def _not_recorded(details: str) -> Observation:
    return Observation(State.UNKNOWN, f"{details}, by the records on this machine; the release is merged")


def _is_test_of(record: Record, database: str, hashes: set[str]) -> bool:
    is_test = record.kind == "rehearsal" or (record.kind == "verification" and record.host == LOCAL)
    is_of_script = record.database == database and record.script_sha256 in hashes
    return is_test and is_of_script and not is_partial(record)


# --- the host: deployed, run, verified, enabled ---------------------------------------------------------------------


def evaluate_deployment(database: str) -> Evaluate:
    """Return the evaluation of the deployment: the host has the script of the checkout."""

    def evaluate(facts: ReleaseFacts) -> Observation:
        installed = facts.databases[database].on_host.script
        if isinstance(installed, Unavailable):
            return unknown(installed)
        if installed is None:
            return to_do("the server has no script")
        if not facts.is_released(database, installed.content):
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
            return _evaluate_recorded_run(facts, database)
        newest = backups[0]
        if newest.type != "f":
            return to_do(f"{newest.path.name} is not a regular file")
        return done(f"{newest.path.name}, {newest.bytes:,} bytes")

    return evaluate


def _evaluate_recorded_run(facts: ReleaseFacts, database: str) -> Observation:
    """Evaluate the run if no backup on the host was made by the script, as far as times show it."""
    record = _find_recorded(facts, database, ("run", "verification"))
    if record and (record.exit_status == 0 or record.kind == "verification"):
        return done(f"{PurePosixPath(record.backup or '').name} ({format_time(record)})")
    return _not_recorded(NO_BACKUP) if facts.is_merged and facts.is_deployed(database) else to_do(NO_BACKUP)


def evaluate_verification(database: str) -> Evaluate:
    """Return the evaluation of the verification: it passed for the newest backup of the deployed script.

    While cron makes new backups, and once the release is merged, a verification of any backup of this script counts.
    """

    def evaluate(facts: ReleaseFacts) -> Observation:
        backups = _backups_of_script(facts, database)
        if isinstance(backups, Unavailable):
            return unknown(backups)
        if isinstance(facts.records, Unavailable):
            return unknown(facts.records)
        record = find_relied_verification(facts, database)
        if record:
            details = _describe_verification(record)
            return done(details) if has_passed(record) else to_do(details)
        details = f"{backups[0].path.name} is not verified" if backups else NO_BACKUP
        return _not_recorded(details) if facts.is_merged and facts.is_deployed(database) else to_do(details)

    return evaluate


def find_relied_verification(facts: ReleaseFacts, database: str) -> Record | None:
    """Return the record of the verification that the plan relies on, None if there is none."""
    backups = _backups_of_script(facts, database)
    if isinstance(backups, Unavailable) or isinstance(facts.records, Unavailable):
        return None
    cron = facts.databases[database].on_host.cron
    by_cron = facts.is_merged or cron in (CronState.ENABLED, CronState.DIFFERENT)
    verifications = verifications_by_path(facts.records, facts.host, database)
    for file in backups if by_cron else backups[:1]:
        record = _find_of_file(verifications.get(str(file.path), []), file)
        if record:
            return record
    return _find_recorded(facts, database, ("verification",))


def _find_of_file(records: Sequence[Record], file: File) -> Record | None:
    return next((record for record in records if is_of_file(record, file)), None)


def _describe_verification(record: Record) -> str:
    return f"{PurePosixPath(record.backup or '').name}: {describe_result(record)} ({format_time(record)})"


def _find_recorded(facts: ReleaseFacts, database: str, kinds: Sequence[str]) -> Record | None:
    """Return the last record of these kinds that is of the script of a merged release.

    Then the times of the files do not matter: the backups may have been deleted since, and a `git pull` on the server
    may have changed the time of the script.
    """
    installed = facts.databases[database].on_host.script
    if not facts.is_merged or not facts.is_deployed(database) or not isinstance(installed, InstalledScript):
        return None
    if isinstance(facts.records, Unavailable):
        return None
    for record in reversed(facts.records):
        is_of_script = (record.host, record.database, record.script_sha256) == (facts.host, database, installed.sha256)
        if is_of_script and record.kind in kinds and record.backup and not is_partial(record):
            return record
    return None


def evaluate_cron(database: str) -> Evaluate:
    """Return the evaluation of the crontab: a line runs the database's script as published."""

    def evaluate(facts: ReleaseFacts) -> Observation:
        on_host = facts.databases[database].on_host
        if isinstance(on_host.cron, Unavailable):
            return unknown(on_host.cron)
        lines = "; ".join(on_host.cron_lines)
        match on_host.cron:
            case CronState.ENABLED:
                return done(f"in the crontab: {lines}" if lines else "in the crontab")
            case CronState.DIFFERENT:
                return to_do(f"active, but not as published: {lines}")
            case CronState.NOT_ENABLED | CronState.NOT_PUBLISHED:
                return to_do("not in the crontab")

    return evaluate


def _backups_of_script(facts: ReleaseFacts, database: str) -> Fact[list[File]]:
    """Return the backups on the host that the deployed script made, newest first.

    The times of the script and of the backups are those of the host's clock, so it need not be right.
    """
    on_host = facts.databases[database].on_host
    if isinstance(on_host.script, Unavailable):
        return on_host.script
    if isinstance(on_host.backups, Unavailable):
        return on_host.backups
    if on_host.script is None or not facts.is_deployed(database):
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
        started = parse_start_time(file.path.name)
    except ValueError:  # the name has the right form, but there is no such date
        return datetime.min.replace(tzinfo=timezone.utc)
    return started.replace(tzinfo=file.modified.tzinfo)


# --- the pull request -----------------------------------------------------------------------------------------------


def evaluate_opened(facts: ReleaseFacts) -> Observation:
    """Evaluate whether the pull request is open or merged."""
    return _evaluate_request(facts, _evaluate_open_request)


def evaluate_review(facts: ReleaseFacts) -> Observation:
    """Evaluate whether the pull request is approved."""
    return _evaluate_request(facts, _evaluate_reviewed_request)


def evaluate_merge(facts: ReleaseFacts) -> Observation:
    """Evaluate whether the release is in its base branch."""
    base = facts.release.base
    if facts.is_merged:
        return done(f"merged into {base}; {AFTER_MERGE}")
    if facts.merge_doubt:
        return Observation(State.UNKNOWN, facts.merge_doubt)
    if _has_nothing_to_merge(facts):
        return Observation(State.NOT_NEEDED, "nothing to merge")
    if isinstance(facts.remote, Unavailable) and isinstance(facts.pull_request, Unavailable):
        return unknown(facts.remote)
    return to_do(f"not in {base}")


def _evaluate_request(facts: ReleaseFacts, evaluate: Callable[[PullRequest], Observation]) -> Observation:
    request = facts.pull_request
    if isinstance(request, PullRequest) and request.state is PullRequestState.MERGED and not facts.is_merged:
        return to_do(f"there is no pull request of these commits; {request.url} is merged")
    if isinstance(request, PullRequest) and request.state is not PullRequestState.CLOSED:
        return evaluate(request)
    if facts.is_merged:
        return done(f"merged into {facts.release.base}")
    if _has_nothing_to_merge(facts):
        return Observation(State.NOT_NEEDED, "nothing to merge")
    if isinstance(request, Unavailable):
        return unknown(request)
    return to_do("there is no pull request") if request is None else evaluate(request)


def _evaluate_open_request(request: PullRequest) -> Observation:
    if request.state is PullRequestState.CLOSED:
        return to_do(f"{request.url} (closed without a merge)")
    return done(f"{request.url} ({request.state.value})")


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
