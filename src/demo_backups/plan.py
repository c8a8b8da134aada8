"""The release plan: its phases and steps, and the mark of each, decided from facts alone."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, TypeAlias, TypeVar

from .errors import COULD_NOT_LOOK, FAILED
from .evidence import Record
from .facts import File
from .pull_request import PullRequest
from .repository import Here, There
from .scripts import Deployed, Script
from .settings import LOCAL, ReleaseSettings

T = TypeVar("T")


class Mark(enum.Enum):
    """What is to be said of a step."""

    DONE = "done"
    TO_DO = "to do"
    WAITING = "waiting"
    NOT_SEEN = "not seen"
    OUT_OF_ORDER = "out of order"


# --- facts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unseen:
    """A fact that could not be had, and why: in a few words, and in all that is to be said of it."""

    why: str
    error: str


Seen: TypeAlias = T | Unseen


@dataclass(frozen=True)
class OnHost:
    """What is on the host for a database: its script, its backups, the newest first, and its job.

    `enabled` tells whether the published job is in the crontab; None where none is published.
    """

    script: Seen[Deployed | None]
    backups: Seen[list[File]]
    enabled: Seen[bool | None]


@dataclass(frozen=True)
class DatabaseFacts:
    """What is known of a database: its script here (None: none that could run), and what that has of the old way."""

    script: Script | None
    flaws: list[str]
    there: OnHost


@dataclass(frozen=True)
class Facts:
    """All that a plan rests on.

    `files` are those of each commit, `docs` says of each file of the documentation what it lacks (None: nothing).
    """

    host: str
    release: ReleaseSettings
    files: dict[str, tuple[str, ...]]
    databases: dict[str, DatabaseFacts]
    docs: dict[str, str | None]
    records: Seen[list[Record]]
    here: Seen[Here]
    there: Seen[There]
    pull_request: Seen[PullRequest | None]


# --- steps ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Observed:
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
    see: Callable[[Facts], Observed]
    needs: tuple[str, ...] = ()
    optional: bool = False


def _branch(facts: Facts) -> Observed:
    here, there, name = facts.here, facts.there, facts.release.branch
    if isinstance(here, Unseen):
        return Observed(None, here.why)
    if _merged(facts):
        return Observed(True, "merged")
    if here.branch is None:
        on_remote = isinstance(there, There) and there.branch
        return Observed(False, f"only on {facts.release.remote}" if on_remote else f"there is no branch {name}")
    if here.current != name:
        return Observed(False, f"{here.current or 'a commit without a branch'} is checked out")
    return Observed(True, "checked out")


def _script(database: str) -> Callable[[Facts], Observed]:
    def see(facts: Facts) -> Observed:
        flaws = facts.databases[database].flaws
        return Observed(not flaws, "; ".join(flaws) or "uses .backup, no cp; variables are quoted")

    return see


def _tested(database: str) -> Callable[[Facts], Observed]:
    """A rehearsal, or a verification on this machine, of this very script, that passed."""

    def see(facts: Facts) -> Observed:
        script = facts.databases[database].script
        if script is None:
            return Observed(False, "there is no script that could run")
        if isinstance(facts.records, Unseen):
            return Observed(None, facts.records.why)
        ours = [
            record
            for record in facts.records
            if (record.database, record.script_sha256) == (database, script.sha256)
            and (record.kind == "rehearsal" or (record.kind == "verification" and record.host == LOCAL))
            and not _says_too_little(record)
        ]
        if not ours:
            return Observed(False, f"this very script ({script.sha256[:12]}) was not tried here")
        if not _passed(ours[-1]):
            return Observed(False, f"the last {ours[-1].kind} did not pass ({_when(ours[-1])})")
        return Observed(True, f"{ours[-1].kind} passed ({_when(ours[-1])})")

    return see


def _deployed(database: str) -> Callable[[Facts], Observed]:
    def see(facts: Facts) -> Observed:
        script, there = facts.databases[database].script, facts.databases[database].there.script
        if isinstance(there, Unseen):
            return Observed(None, there.why)
        if there is None:
            return Observed(False, "there is no script there")
        if script is None or there.sha256 != script.sha256:
            return Observed(False, f"another script is there ({there.sha256[:12]})")
        since = there.since.isoformat(sep=" ", timespec="seconds")
        return Observed(True, f"this very script ({there.sha256[:12]}), since {since}")

    return see


def _made(facts: Facts, database: str) -> Seen[list[File]]:
    """The backups on the host that this very script made there, the newest first.

    All times, the script's and a backup's, are by the clock of the host, so that it does not matter how that is set.
    """
    script, there = facts.databases[database].script, facts.databases[database].there
    if isinstance(there.script, Unseen):
        return there.script
    if isinstance(there.backups, Unseen):
        return there.backups
    if script is None or there.script is None or there.script.sha256 != script.sha256:
        return []
    since = there.script.since
    return [file for file in there.backups if file.modified >= since and _begun(file) > since - timedelta(seconds=1)]


def _begun(file: File) -> datetime:
    """When a backup was begun, as its name says to the second: one that was going on is not of the script put there."""
    try:
        begun = datetime.strptime(file.path.name[-22:], "%Y-%m-%d_%H-%M-%S.db")
    except ValueError:  # it has the form of a name, and no such day
        return datetime.min.replace(tzinfo=timezone.utc)
    return begun.replace(tzinfo=file.modified.tzinfo)


def _run(database: str) -> Callable[[Facts], Observed]:
    def see(facts: Facts) -> Observed:
        made = _made(facts, database)
        if isinstance(made, Unseen):
            return Observed(None, made.why)
        if not made:
            return Observed(False, "this script has made no backup there")
        if made[0].type != "f":
            return Observed(False, f"{made[0].path.name} is not a regular file")
        return Observed(True, f"{made[0].path.name}, {made[0].bytes:,} bytes")

    return see


def _verified(database: str) -> Callable[[Facts], Observed]:
    """A verification that passed, of the newest backup. Where cron makes new ones, one that is there will do."""

    def see(facts: Facts) -> Observed:
        made = _made(facts, database)
        if isinstance(made, Unseen):
            return Observed(None, made.why)
        if isinstance(facts.records, Unseen):
            return Observed(None, facts.records.why)
        if not made:
            return Observed(False, "this script has made no backup there")
        by_cron = facts.databases[database].there.enabled is True
        verifications = _verifications(facts.records, facts.host, database)
        for file in made if by_cron else made[:1]:
            record = next((each for each in verifications.get(str(file.path), ()) if _is_of(each, file)), None)
            if record:
                return Observed(_passed(record), f"{file.path.name}: {_outcome(record)} ({_when(record)})")
        return Observed(False, f"{made[0].path.name} is not verified")

    return see


def _verifications(records: Sequence[Record], host: str, database: str) -> dict[str | None, list[Record]]:
    """The verifications of a host's backups, the newest first, by the path of the backup."""
    found: dict[str | None, list[Record]] = {}
    for each in reversed(records):
        ours = (each.kind, each.host, each.database) == ("verification", host, database)
        if ours and not _says_too_little(each):
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


def _says_too_little(record: Record) -> bool:
    """Tell whether it passed by quick_check alone, which is blind to wrong indexes (pragma.html#pragma_quick_check)."""
    return _passed(record) and any(each["detail"].startswith("quick_check:") for each in record.checks)


def _when(record: Record) -> str:
    return f"{datetime.fromisoformat(record.when).astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def _enabled(database: str) -> Callable[[Facts], Observed]:
    def see(facts: Facts) -> Observed:
        enabled = facts.databases[database].there.enabled
        if isinstance(enabled, Unseen):
            return Observed(None, enabled.why)
        return Observed(bool(enabled), "in the crontab" if enabled else "not in the crontab")

    return see


def _committed(part: str) -> Callable[[Facts], Observed]:
    def see(facts: Facts) -> Observed:
        if isinstance(facts.here, Unseen):
            return Observed(None, facts.here.why)
        commit = facts.here.commits.get(getattr(facts.release.commits, part))
        if commit is None:
            merged = _merged(facts)  # as one commit, of another name
            return Observed(merged, "merged" if merged else "not committed")
        changed = [file for file in facts.files[part] if file in facts.here.changed]
        return Observed(not changed, f"changed since {commit}: {', '.join(changed)}" if changed else commit)

    return see


def _docs(facts: Facts) -> Observed:
    lacking = [f"{file} {lacks}" for file, lacks in facts.docs.items() if lacks]
    return Observed(not lacking, "; ".join(lacking) or f"{', '.join(facts.docs)} tell of .backup")


def _pushed(facts: Facts) -> Observed:
    remote = facts.release.remote
    if _merged(facts):
        return Observed(True, "merged")
    if isinstance(facts.here, Unseen):
        return Observed(None, facts.here.why)
    if isinstance(facts.there, Unseen):
        return Observed(None, facts.there.why)
    if facts.there.url is None:
        return Observed(False, f"there is no remote {remote}")
    if facts.there.branch is None:
        return Observed(False, f"not on {remote}")
    same = facts.there.branch == facts.here.branch
    return Observed(same, f"on {remote}" if same else f"what is on {remote} is not what is here")


def _requested(see: Callable[[PullRequest], Observed]) -> Callable[[Facts], Observed]:
    """See a step in the pull request, where there is one."""

    def see_it(facts: Facts) -> Observed:
        request = facts.pull_request
        if isinstance(request, Unseen):
            return Observed(None, request.why)
        return Observed(False, "there is no pull request") if request is None else see(request)

    return see_it


def _opened(request: PullRequest) -> Observed:
    return Observed(request.state != "closed", f"{request.url} ({request.state})")


def _reviewed(request: PullRequest) -> Observed:
    if request.state == "merged":
        return Observed(True, "merged")
    words = {"approved": "approved", "changes": "changes are asked for", "none": "not approved yet"}[request.review]
    return Observed(request.review == "approved", words, held=request.review == "none")


def _is_merged(facts: Facts) -> Observed:
    base = facts.release.base
    if _merged(facts):
        return Observed(True, f"merged into {base}")
    if isinstance(facts.there, Unseen):
        return Observed(None, facts.there.why)
    if facts.there.merged is None and isinstance(facts.pull_request, Unseen):
        remote = facts.release.remote
        return Observed(None, f"{base} on {remote} is not all here: git fetch {remote}, --unshallow in a shallow clone")
    return Observed(False, f"not in {base}")


def _merged(facts: Facts) -> bool:
    """Tell whether the release is seen to be in its base: by its commits, or by what became of the pull request."""
    there, request = facts.there, facts.pull_request
    return bool(
        (isinstance(there, There) and there.merged) or (isinstance(request, PullRequest) and request.state == "merged")
    )


PHASES = {
    "Index database": [
        Step("branch", "Make the branch", _branch),
        Step("index-script", "Replace cp in the index script", _script("index")),
        Step("index-test", "Try it here", _tested("index"), ("index-script",)),
        Step("index-deploy", "Put it on the server", _deployed("index"), ("index-test",)),
        Step("index-run", "Run it there", _run("index"), ("index-deploy",)),
        Step("index-verify", "Verify what it made", _verified("index"), ("index-run",)),
        Step("index-enable", "Enable it in the crontab", _enabled("index"), ("index-verify",)),
        Step("index-commit", "Commit it", _committed("index"), ("branch", "index-enable")),
    ],
    "Tracker database": [
        Step("tracker-script", "Replace cp in the tracker script", _script("tracker")),
        Step("tracker-deploy", "Put it on the server", _deployed("tracker"), ("tracker-script", "index-verify"), True),
        Step("tracker-test", "Run it there and verify", _verified("tracker"), ("tracker-deploy",), True),
        Step("tracker-commit", "Commit it", _committed("tracker"), ("tracker-script", "index-commit")),
    ],
    "Documentation": [
        Step("docs", "Update the documentation", _docs),
        Step("docs-commit", "Commit it", _committed("docs"), ("docs", "tracker-commit")),
    ],
    "Pull request": [
        Step("push", "Push the branch", _pushed, ("docs-commit",)),
        Step("open-pr", "Open the pull request", _requested(_opened), ("push",)),
        Step("review", "Address what reviewers say", _requested(_reviewed), ("open-pr",)),
        Step("merge", "Merge it", _is_merged, ("review",)),
    ],
}


# --- the plan -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Marked:
    """A step with its mark, and the observation that it rests on."""

    name: str
    title: str
    mark: Mark
    optional: bool
    observed: str


@dataclass(frozen=True)
class Phase:
    """A phase of the plan as it stands."""

    name: str
    steps: list[Marked]


@dataclass(frozen=True)
class Plan:
    """The plan as it stands for a host; `notes` say in full what could not be seen, and which records are damaged."""

    host: str
    phases: list[Phase]
    notes: list[str]

    @property
    def steps(self) -> list[Marked]:
        """All steps, in order."""
        return [step for phase in self.phases for step in phase.steps]

    @property
    def next(self) -> Marked | None:
        """The first step that is to do and not optional."""
        return next((step for step in self.steps if step.mark is Mark.TO_DO and not step.optional), None)

    @property
    def passed_over(self) -> list[Marked]:
        """The optional steps that are to do before the next one."""
        before = itertools.takewhile(lambda step: step is not self.next, self.steps)
        return [step for step in before if step.optional and step.mark is Mark.TO_DO]

    @property
    def exit_code(self) -> int:
        """1 where something is to do, else 3 where something is not seen, else 0; optional steps do not count."""
        marks = {step.mark for step in self.steps if not step.optional}
        return FAILED if Mark.TO_DO in marks else COULD_NOT_LOOK if Mark.NOT_SEEN in marks else 0

    def step(self, name: str) -> Marked:
        """Look a step up by its name."""
        return next(step for step in self.steps if step.name == name)

    def as_json(self) -> dict[str, Any]:
        """The object that `inv plan --json` prints."""
        return {"host": self.host, "phases": [{"name": phase.name, "steps": _as_json(phase)} for phase in self.phases]}


def _as_json(phase: Phase) -> list[dict[str, Any]]:
    return [
        {"name": step.name, "mark": step.mark.value, "optional": step.optional, "observed": step.observed}
        for step in phase.steps
    ]


def make_plan(facts: Facts, damaged: Iterable[str] = ()) -> Plan:
    """Mark all steps; `damaged` are words on each record that could not be read."""
    steps = [step for phase in PHASES.values() for step in phase]
    marks = decide(steps, facts)
    phases = [Phase(name, [marks[step.name] for step in of_phase]) for name, of_phase in PHASES.items()]
    return Plan(facts.host, phases, [*dict.fromkeys(_unseen(facts)), *damaged])


def _unseen(facts: Facts) -> Iterator[str]:
    on_host = (fact for each in facts.databases.values() for fact in vars(each.there).values())
    for fact in (facts.records, *on_host, facts.here, facts.there, facts.pull_request):
        if isinstance(fact, Unseen):
            yield fact.error


def decide(steps: Sequence[Step], facts: Facts) -> dict[str, Marked]:
    """Mark every step from what was observed; steps come in dependency order.

    One that is done before another that it needs is out of order; not where that other could not be seen.
    """
    marked: dict[str, Marked] = {}
    for step in steps:
        seen = step.see(facts)
        mark = _mark(seen, [marked[name].mark for name in step.needs])
        marked[step.name] = Marked(step.name, step.title, mark, step.optional, seen.words)
    return marked


def _mark(seen: Observed, needs: Iterable[Mark]) -> Mark:
    missing = {mark for mark in needs if mark is not Mark.DONE}
    if seen.done is None:
        return Mark.NOT_SEEN
    if seen.done:
        return Mark.OUT_OF_ORDER if missing - {Mark.NOT_SEEN} else Mark.DONE
    return Mark.WAITING if missing or seen.held else Mark.TO_DO
