"""The steps of the plan, each evaluated from the facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from ..records.record import Record
from ..remote.files import File
from ..settings import LOCAL
from .facts import Fact, ReleaseFacts, Unavailable
from .pull_request import PullRequest
from .repository import RemoteState


@dataclass(frozen=True)
class Observation:
    """What was seen of a step, in a few words: it is done, or not, or that could not be seen (None).

    `held` says that it is others who have to act.
    """

    done: bool | None
    words: str
    held: bool = False


@dataclass(frozen=True)
class Step:
    """One step: the names of those that come before it, and how it is seen in the facts."""

    name: str
    title: str
    see: Callable[[ReleaseFacts], Observation]
    needs: tuple[str, ...] = ()
    optional: bool = False


def _branch(facts: ReleaseFacts) -> Observation:
    here, there, name = facts.here, facts.there, facts.release.branch
    if isinstance(here, Unavailable):
        return Observation(None, here.why)
    if _merged(facts):
        return Observation(True, "merged")
    if here.branch is None:
        on_remote = isinstance(there, RemoteState) and there.branch
        return Observation(False, f"only on {facts.release.remote}" if on_remote else f"there is no branch {name}")
    if here.current != name:
        return Observation(False, f"{here.current or 'a commit without a branch'} is checked out")
    return Observation(True, "checked out")


def _script(database: str) -> Callable[[ReleaseFacts], Observation]:
    def see(facts: ReleaseFacts) -> Observation:
        flaws = facts.databases[database].flaws
        return Observation(not flaws, "; ".join(flaws) or "uses .backup, no cp; variables are quoted")

    return see


def _tested(database: str) -> Callable[[ReleaseFacts], Observation]:
    """A rehearsal, or a verification on this machine, of this very script, that passed."""

    def see(facts: ReleaseFacts) -> Observation:
        script = facts.databases[database].script
        if script is None:
            return Observation(False, "there is no script that could run")
        if isinstance(facts.records, Unavailable):
            return Observation(None, facts.records.why)
        ours = [
            record
            for record in facts.records
            if (record.database, record.script_sha256) == (database, script.sha256)
            and (record.kind == "rehearsal" or (record.kind == "verification" and record.host == LOCAL))
            and not _is_quick_only(record)
        ]
        if not ours:
            return Observation(False, f"this very script ({script.sha256[:12]}) was not tried here")
        if not _passed(ours[-1]):
            return Observation(False, f"the last {ours[-1].kind} did not pass ({_when(ours[-1])})")
        return Observation(True, f"{ours[-1].kind} passed ({_when(ours[-1])})")

    return see


def _deployed(database: str) -> Callable[[ReleaseFacts], Observation]:
    def see(facts: ReleaseFacts) -> Observation:
        script, there = facts.databases[database].script, facts.databases[database].there.script
        if isinstance(there, Unavailable):
            return Observation(None, there.why)
        if there is None:
            return Observation(False, "there is no script there")
        if script is None or there.sha256 != script.sha256:
            return Observation(False, f"another script is there ({there.sha256[:12]})")
        since = there.changed.isoformat(sep=" ", timespec="seconds")
        return Observation(True, f"this very script ({there.sha256[:12]}), since {since}")

    return see


def _backups_of_script(facts: ReleaseFacts, database: str) -> Fact[list[File]]:
    """The backups on the host that this very script made there, the newest first.

    All times, the script's and a backup's, are by the clock of the host, so that it does not matter how that is set.
    """
    script, there = facts.databases[database].script, facts.databases[database].there
    if isinstance(there.script, Unavailable):
        return there.script
    if isinstance(there.backups, Unavailable):
        return there.backups
    if script is None or there.script is None or there.script.sha256 != script.sha256:
        return []
    since = there.script.changed
    return [
        file for file in there.backups if file.modified >= since and _start_time(file) > since - timedelta(seconds=1)
    ]


def _start_time(file: File) -> datetime:
    """When a backup was begun, as its name says to the second: one that was going on is not of the script put there."""
    try:
        begun = datetime.strptime(file.path.name[-22:], "%Y-%m-%d_%H-%M-%S.db")
    except ValueError:  # it has the form of a name, and no such day
        return datetime.min.replace(tzinfo=timezone.utc)
    return begun.replace(tzinfo=file.modified.tzinfo)


def _run(database: str) -> Callable[[ReleaseFacts], Observation]:
    def see(facts: ReleaseFacts) -> Observation:
        made = _backups_of_script(facts, database)
        if isinstance(made, Unavailable):
            return Observation(None, made.why)
        if not made:
            return Observation(False, "this script has made no backup there")
        if made[0].type != "f":
            return Observation(False, f"{made[0].path.name} is not a regular file")
        return Observation(True, f"{made[0].path.name}, {made[0].bytes:,} bytes")

    return see


def _verified(database: str) -> Callable[[ReleaseFacts], Observation]:
    """A verification that passed, of the newest backup. Where cron makes new ones, one that is there will do."""

    def see(facts: ReleaseFacts) -> Observation:
        made = _backups_of_script(facts, database)
        if isinstance(made, Unavailable):
            return Observation(None, made.why)
        if isinstance(facts.records, Unavailable):
            return Observation(None, facts.records.why)
        if not made:
            return Observation(False, "this script has made no backup there")
        by_cron = facts.databases[database].there.enabled is True
        verifications = _verifications(facts.records, facts.host, database)
        for file in made if by_cron else made[:1]:
            record = next((each for each in verifications.get(str(file.path), ()) if _is_of(each, file)), None)
            if record:
                return Observation(_passed(record), f"{file.path.name}: {_outcome(record)} ({_when(record)})")
        return Observation(False, f"{made[0].path.name} is not verified")

    return see


def _verifications(records: Sequence[Record], host: str, database: str) -> dict[str | None, list[Record]]:
    """The verifications of a host's backups, the newest first, by the path of the backup."""
    found: dict[str | None, list[Record]] = {}
    for each in reversed(records):
        ours = (each.kind, each.host, each.database) == ("verification", host, database)
        if ours and not _is_quick_only(each):
            found.setdefault(each.backup, []).append(each)
    return found


def _is_of(record: Record, file: File) -> bool:
    """Tell whether the record of a verification of a file of this name is of this very file."""
    written = record.created is None or datetime.fromisoformat(record.created) == file.modified  # older ones do not say
    return record.bytes == file.bytes and written


def _passed(record: Record) -> bool:
    return record.exit_status == 0 and bool(record.checks) and record.passed is True


def _outcome(record: Record) -> str:
    if _passed(record):
        return "passed"
    return "not all checks could be made" if record.passed is None else "FAILED"


def _is_quick_only(record: Record) -> bool:
    """Tell whether it passed by quick_check alone, which is blind to wrong indexes (pragma.html#pragma_quick_check)."""
    return _passed(record) and any(each["detail"].startswith("quick_check:") for each in record.checks)


def _when(record: Record) -> str:
    return f"{datetime.fromisoformat(record.when).astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def _enabled(database: str) -> Callable[[ReleaseFacts], Observation]:
    def see(facts: ReleaseFacts) -> Observation:
        enabled = facts.databases[database].there.enabled
        if isinstance(enabled, Unavailable):
            return Observation(None, enabled.why)
        return Observation(bool(enabled), "in the crontab" if enabled else "not in the crontab")

    return see


def _committed(part: str) -> Callable[[ReleaseFacts], Observation]:
    def see(facts: ReleaseFacts) -> Observation:
        if isinstance(facts.here, Unavailable):
            return Observation(None, facts.here.why)
        commit = facts.here.commits.get(getattr(facts.release.commits, part))
        if commit is None:
            merged = _merged(facts)  # as one commit, of another name
            return Observation(merged, "merged" if merged else "not committed")
        changed = [file for file in facts.files[part] if file in facts.here.changed]
        return Observation(not changed, f"changed since {commit}: {', '.join(changed)}" if changed else commit)

    return see


def _docs(facts: ReleaseFacts) -> Observation:
    lacking = [f"{file} {lacks}" for file, lacks in facts.docs.items() if lacks]
    return Observation(not lacking, "; ".join(lacking) or f"{', '.join(facts.docs)} tell of .backup")


def _pushed(facts: ReleaseFacts) -> Observation:
    remote = facts.release.remote
    if _merged(facts):
        return Observation(True, "merged")
    if isinstance(facts.here, Unavailable):
        return Observation(None, facts.here.why)
    if isinstance(facts.there, Unavailable):
        return Observation(None, facts.there.why)
    if facts.there.url is None:
        return Observation(False, f"there is no remote {remote}")
    if facts.there.branch is None:
        return Observation(False, f"not on {remote}")
    same = facts.there.branch == facts.here.branch
    return Observation(same, f"on {remote}" if same else f"what is on {remote} is not what is here")


def _requested(see: Callable[[PullRequest], Observation]) -> Callable[[ReleaseFacts], Observation]:
    """See a step in the pull request, where there is one."""

    def see_it(facts: ReleaseFacts) -> Observation:
        request = facts.pull_request
        if isinstance(request, Unavailable):
            return Observation(None, request.why)
        return Observation(False, "there is no pull request") if request is None else see(request)

    return see_it


def _opened(request: PullRequest) -> Observation:
    return Observation(request.state != "closed", f"{request.url} ({request.state})")


def _reviewed(request: PullRequest) -> Observation:
    if request.state == "merged":
        return Observation(True, "merged")
    words = {"approved": "approved", "changes": "changes are asked for", "none": "not approved yet"}[request.review]
    return Observation(request.review == "approved", words, held=request.review == "none")


def _is_merged(facts: ReleaseFacts) -> Observation:
    base = facts.release.base
    if _merged(facts):
        return Observation(True, f"merged into {base}")
    if isinstance(facts.there, Unavailable):
        return Observation(None, facts.there.why)
    if facts.there.merged is None and isinstance(facts.pull_request, Unavailable):
        remote = facts.release.remote
        return Observation(
            None, f"{base} on {remote} is not all here: git fetch {remote}, --unshallow in a shallow clone"
        )
    return Observation(False, f"not in {base}")


def _merged(facts: ReleaseFacts) -> bool:
    """Tell whether the release is seen to be in its base: by its commits, or by what became of the pull request."""
    there, request = facts.there, facts.pull_request
    return bool(
        (isinstance(there, RemoteState) and there.merged)
        or (isinstance(request, PullRequest) and request.state == "merged")
    )
