"""The plan: every mark of every step, derived from facts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import pytest

from demo_backups.backup.script import InstalledScript, Script
from demo_backups.backup.script_lint import LintResult
from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import Record, VerificationDetails, new_record
from demo_backups.release.facts import CronState, DatabaseFacts, HostFacts, ReleaseFacts
from demo_backups.release.git_state import LocalState, RemoteState
from demo_backups.release.merge import Merge, MergeState
from demo_backups.release.plan import PHASES, Mark, Plan, make_plan, mark_steps
from demo_backups.release.pull_request import PullRequest, PullRequestState, Review
from demo_backups.release.steps import Observation, State, Step
from demo_backups.remote.fact import Unavailable
from demo_backups.remote.files import File
from demo_backups.settings.model import Settings

DONE, TO_DO, BLOCKED, UNKNOWN, OUT_OF_ORDER = Mark
HOST = "demo"
SINCE = datetime(2026, 11, 24, 20, 0, 0, 250000, tzinfo=timezone(timedelta(hours=1)))  # by the clock of the server
CREATED = SINCE + timedelta(minutes=5)
UNAVAILABLE = Unavailable("cannot connect", "demo: cannot connect\n  -> is it up?")
URL = "https://github.com/torrust/demo/pull/90"
DATABASES = ("index", "tracker")
Change: TypeAlias = Callable[[ReleaseFacts], ReleaseFacts]


# --- facts: all is done, and changes to that ------------------------------------------------------------------------


def script_of(database: str, text: str = "new") -> Script:
    return Script(Path(f"share/bin/{database}-db-backup.sh"), f"# {database}: {text}\n".encode())


def backup_of(database: str, modified: datetime = CREATED, size: int = 4096) -> File:
    prefix = {"index": "backup", "tracker": "tracker_backup"}[database]
    return File(PurePosixPath(f"/srv/backups/{prefix}_{modified:%Y-%m-%d_%H-%M-%S}.db"), size, modified)


def checks(*passed: bool | None) -> list[Check]:
    return [Check(f"check {number}", Outcome(value), "") for number, value in enumerate(passed)]


def verification(database: str, file: File | None = None, /, **changes: Any) -> Record:
    file = file or backup_of(database)
    record = new_record("verification", HOST, database, when="2026-11-24T19:10:00+00:00")
    record.exit_status, record.checks = 0, checks(True, True)
    record.backup, record.bytes, record.created = str(file.path), file.bytes, file.modified.isoformat()
    return replace(record, **changes)


def rehearsal(database: str, **changes: Any) -> Record:
    record = new_record("rehearsal", "rehearsal", database, when="2026-11-24T18:10:00+00:00", exit_status=0)
    record.checks, record.script_sha256 = checks(True), script_of(database).sha256
    return replace(record, **changes)


def all_done(settings: Settings) -> ReleaseFacts:
    release = settings.release
    files = {"index": ("index.sh",), "tracker": ("tracker.sh",), "docs": release.docs}
    local = LocalState(
        release.branch, "a" * 40, dict.fromkeys(release.commits.model_dump().values(), "abc1234"), frozenset()
    )

    def database(name: str) -> DatabaseFacts:
        cron = CronState.ENABLED if name == "index" else CronState.NOT_PUBLISHED
        installed = InstalledScript("755", script_of(name).content, SINCE)
        return DatabaseFacts(script_of(name), LintResult(Outcome.PASSED), HostFacts(installed, [backup_of(name)], cron))

    return ReleaseFacts(
        host=HOST,
        checkout=Path("/srv/checkout"),
        release=release,
        files=files,
        scripts={"index": "index.sh", "tracker": "tracker.sh"},
        databases={name: database(name) for name in DATABASES},
        docs=dict.fromkeys(release.docs),
        records=[rehearsal("index"), *(verification(name) for name in DATABASES)],
        local=local,
        remote=RemoteState("git@github.com:torrust/demo.git", local.branch_commit),
        merge=Merge(MergeState.MERGED),
        pull_request=PullRequest(URL, PullRequestState.MERGED, Review.APPROVED),
    )


@pytest.fixture
def facts(project_settings: Settings) -> ReleaseFacts:
    """The facts of a complete release."""
    return all_done(project_settings)


def local(**changes: Any) -> Change:
    """Change the local state of a release that is not merged."""

    def change(facts: ReleaseFacts) -> ReleaseFacts:
        assert isinstance(facts.local, LocalState)
        return replace(not_merged(facts), local=replace(facts.local, **changes))

    return change


def remote(**changes: Any) -> Change:
    def change(facts: ReleaseFacts) -> ReleaseFacts:
        facts = not_merged(facts)
        assert isinstance(facts.remote, RemoteState)
        return replace(facts, remote=replace(facts.remote, **changes))

    return change


def not_merged(facts: ReleaseFacts) -> ReleaseFacts:
    return replace(
        facts,
        merge=Merge(MergeState.NOT_MERGED),
        pull_request=PullRequest(URL, PullRequestState.OPEN, Review.APPROVED),
    )


DOUBT = "merged, or not started"


def merge(state: MergeState, **changes: Any) -> Change:
    return fact("merge", Merge(state, DOUBT if state is MergeState.UNKNOWN else "", **changes))


def request(state: str, review: str) -> Change:
    """Set a pull request, by the names of its state and its review."""
    request = PullRequest(URL, PullRequestState[state.upper()], Review[review.upper()])
    # By contents alone, a merge with changes is unknown.
    by_content = Merge(MergeState.UNKNOWN if state == "merged" else MergeState.NOT_MERGED, DOUBT)
    return lambda facts: replace(not_merged(facts), pull_request=request, merge=by_content)


def fact(name: str, value: Any) -> Change:
    return lambda facts: replace(facts, **{name: value})


def database(name: str, **changes: Any) -> Change:
    return lambda facts: replace(facts, databases=facts.databases | {name: replace(facts.databases[name], **changes)})


def failed(*findings: str) -> LintResult:
    return LintResult(Outcome.FAILED, findings)


def on_host(name: str, **changes: Any) -> Change:
    return lambda facts: database(name, on_host=replace(facts.databases[name].on_host, **changes))(facts)


def records(*stored: Record) -> Change:
    return fact("records", list(stored))


def without_commit(part: str) -> Change:
    def change(facts: ReleaseFacts) -> ReleaseFacts:
        assert isinstance(facts.local, LocalState)
        left = dict(facts.local.commits)
        del left[getattr(facts.release.commits, part)]
        changed = facts.local.changed_files | set(facts.files[part])
        return local(commits=left, changed_files=changed)(facts)

    return change


def combine(*changes: Change) -> Change:
    def apply_all(facts: ReleaseFacts) -> ReleaseFacts:
        for change in changes:
            facts = change(facts)
        return facts

    return apply_all


def server_unavailable(facts: ReleaseFacts) -> ReleaseFacts:
    for name in DATABASES:
        facts = on_host(name, script=UNAVAILABLE, backups=UNAVAILABLE, cron=UNAVAILABLE)(facts)
    return facts


def marks(plan: Plan) -> dict[str, Mark]:
    return {step.name: step.mark for step in plan.steps}


def others(plan: Plan) -> dict[str, Mark]:
    """The steps that are not done."""
    return {name: mark for name, mark in marks(plan).items() if mark is not DONE}


# --- deciding, whatever the steps are -------------------------------------------------------------------------------


def step(name: str, state: State, *needs: str, optional: bool = False) -> Step:
    return Step(name, name.title(), lambda facts: Observation(state, f"{name} details"), needs, optional)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (State.DONE, State.DONE, [DONE, DONE]),
        (State.DONE, State.TO_DO, [DONE, TO_DO]),
        (State.DONE, State.UNKNOWN, [DONE, UNKNOWN]),
        (State.TO_DO, State.DONE, [TO_DO, OUT_OF_ORDER]),
        (State.TO_DO, State.TO_DO, [TO_DO, BLOCKED]),
        (State.TO_DO, State.UNKNOWN, [TO_DO, UNKNOWN]),
        (State.UNKNOWN, State.DONE, [UNKNOWN, DONE]),
        (State.UNKNOWN, State.TO_DO, [UNKNOWN, BLOCKED]),
        (State.UNKNOWN, State.UNKNOWN, [UNKNOWN, UNKNOWN]),
        (State.BLOCKED, State.TO_DO, [BLOCKED, BLOCKED]),
        (State.DONE, State.BLOCKED, [DONE, BLOCKED]),
    ],
)
def test_mark_follows_state_and_needs(facts: ReleaseFacts, first: State, second: State, expected: list[Mark]) -> None:
    marked = mark_steps([step("first", first), step("second", second, "first")], facts)
    assert [step.mark for step in marked.values()] == expected
    blocked = "; blocked by first" if expected[1] is BLOCKED and first is not State.DONE else ""
    assert [step.details for step in marked.values()] == ["first details", f"second details{blocked}"]


@pytest.mark.parametrize(
    ("needs", "state", "mark"),
    [
        ((State.DONE, State.DONE), State.DONE, DONE),
        ((State.DONE, State.TO_DO), State.DONE, OUT_OF_ORDER),
        ((State.UNKNOWN, State.TO_DO), State.DONE, OUT_OF_ORDER),
        ((State.UNKNOWN, State.DONE), State.DONE, DONE),
        ((State.DONE, State.DONE), State.TO_DO, TO_DO),
        ((State.DONE, State.TO_DO), State.TO_DO, BLOCKED),
        ((State.DONE, State.UNKNOWN), State.TO_DO, BLOCKED),
    ],
)
def test_step_needs_all_earlier_steps(facts: ReleaseFacts, needs: tuple[State, ...], state: State, mark: Mark) -> None:
    earlier = [step(str(number), need) for number, need in enumerate(needs)]
    marked = mark_steps([*earlier, step("last", state, *(need.name for need in earlier))], facts)
    assert marked["last"].mark is mark


def test_marks_pass_along_chain(facts: ReleaseFacts) -> None:
    states = [("a", State.TO_DO), ("b", State.DONE), ("c", State.DONE), ("d", State.TO_DO), ("e", State.TO_DO)]
    needs: tuple[str, ...] = ()
    steps = []
    for name, state in states:
        steps.append(step(name, state, *needs))
        needs = (name,)
    expected = [TO_DO, OUT_OF_ORDER, OUT_OF_ORDER, BLOCKED, BLOCKED]
    assert [step.mark for step in mark_steps(steps, facts).values()] == expected


def test_steps_need_earlier_required_steps() -> None:
    known: dict[str, Step] = {}
    for step in (step for steps in PHASES.values() for step in steps):
        assert set(step.needs) <= set(known)
        assert step.optional or not any(known[name].optional for name in step.needs)
        known[step.name] = step


# --- the plan -------------------------------------------------------------------------------------------------------


def test_plan_has_four_phases(facts: ReleaseFacts) -> None:
    plan = make_plan(facts)
    assert [(phase.name, len(phase.steps)) for phase in plan.phases] == [
        ("Index database", 8),
        ("Tracker database", 4),
        ("Documentation", 2),
        ("Pull request", 4),
    ]
    assert len({step.name for step in plan.steps}) == 18
    assert [step.name for step in plan.steps if step.optional] == ["tracker-deploy", "tracker-test"]


def test_json_has_documented_shape(facts: ReleaseFacts) -> None:
    facts = combine(server_unavailable, remote(branch_commit="b" * 40), request("open", "none"))(facts)
    printed = json.loads(json.dumps(make_plan(facts).as_json()))
    assert set(printed) == {"host", "checkout", "phases"}
    assert printed["host"] == HOST
    steps = [step for phase in printed["phases"] for step in phase["steps"]]
    assert len(steps) == 18
    assert all(set(phase) == {"name", "steps"} for phase in printed["phases"])
    assert all(set(step) == {"name", "mark", "optional", "observed"} for step in steps)
    assert {step["mark"] for step in steps} == {"done", "to do", "blocked", "unknown", "out of order"}
    assert all(isinstance(step["optional"], bool) and step["observed"] for step in steps)


def test_complete_release_has_no_next_step(facts: ReleaseFacts) -> None:
    plan = make_plan(facts)
    assert others(plan) == {}
    assert (plan.next, plan.exit_code, plan.notes) == (None, 0, [])


def test_new_release_starts_with_unblocked_steps(facts: ReleaseFacts) -> None:
    facts = combine(
        local(current_branch="main", branch_commit=None, commits={}, changed_files=frozenset({"index.sh"})),
        remote(branch_commit=None),
        *(database(name, lint=failed("uses cp")) for name in DATABASES),
        *(on_host(name, script=None, backups=[], cron=CronState.NOT_PUBLISHED) for name in DATABASES),
        on_host("index", script=None, backups=[], cron=CronState.NOT_ENABLED),
        fact("docs", {"AGENTS.md": "is missing"}),
        records(),
        fact("pull_request", None),
    )(facts)
    plan = make_plan(facts)
    to_do = ["branch", "index-script", "tracker-script", "docs"]
    assert [name for name, mark in marks(plan).items() if mark is TO_DO] == to_do
    assert {mark for name, mark in marks(plan).items() if name not in to_do} == {BLOCKED}
    assert plan.next
    assert (plan.next.name, plan.exit_code) == ("branch", 1)


NOT_ENABLED = on_host("index", cron=CronState.NOT_ENABLED)
NO_COMMITS = local(has_no_commits=True, commits={})
QUICK, NOT_COMPARED = VerificationDetails(quick=True), VerificationDetails(compared=False)
NO_BACKUP = ("index-run", TO_DO, "not made a backup")
STARTED_BEFORE = replace(backup_of("index", SINCE - timedelta(seconds=2)), modified=CREATED)
NO_SUCH_DAY = "/srv/backups/backup_2026-02-31_20-05-00.db"
# A change to the facts of a complete release; a step, its mark, and a part of its details.
STEPS: list[tuple[Change, str, Mark, str]] = [
    (fact("local", UNAVAILABLE), "branch", UNKNOWN, "cannot connect"),
    (local(), "branch", DONE, "checked out"),
    (local(current_branch="main"), "branch", TO_DO, "main is checked out"),
    (local(current_branch=None), "branch", TO_DO, "a commit without a branch is checked out"),
    (local(current_branch="main", branch_commit=None), "branch", TO_DO, "only on origin"),
    (
        combine(local(current_branch="main", branch_commit=None), fact("remote", RemoteState("u"))),
        "branch",
        TO_DO,
        "no branch",
    ),
    (
        combine(local(current_branch="main", branch_commit=None), fact("remote", UNAVAILABLE)),
        "branch",
        TO_DO,
        "no branch",
    ),
    (combine(local(current_branch="main"), request("merged", "none")), "branch", DONE, "merged"),
    (
        combine(local(current_branch="main"), merge(MergeState.MERGED)),
        "branch",
        DONE,
        "merged",
    ),
    (database("index", lint=failed("uses cp", "not quoted: $A")), "index-script", TO_DO, "uses cp; not quoted: $A"),
    (database("tracker", lint=failed("uses cp")), "tracker-script", TO_DO, "uses cp"),
    (database("index", lint=LintResult(Outcome.UNKNOWN, ("line 7",))), "index-script", UNKNOWN, "line 7"),
    (combine(records(), database("index", lint=LintResult(Outcome.UNKNOWN))), "index-test", BLOCKED, "not been tested"),
    (lambda facts: facts, "index-script", DONE, "uses .backup, no cp"),
    (database("index", lint=failed("x")), "index-test", OUT_OF_ORDER, "rehearsal passed (2026-11-24 18:10 UTC)"),
    (fact("records", UNAVAILABLE), "index-test", UNKNOWN, "cannot connect"),
    (records(), "index-test", TO_DO, "not been tested"),
    (combine(records(), database("index", lint=failed("x"))), "index-test", BLOCKED, "not been tested"),
    (database("index", script=None), "index-test", TO_DO, "no script"),
    (records(rehearsal("index", exit_status=1)), "index-test", TO_DO, "the last rehearsal did not pass"),
    (lambda facts: facts, "index-deploy", DONE, ", since 2026-11-24 20:00:00+01:00"),
    (records(), "index-deploy", OUT_OF_ORDER, "same version"),
    (on_host("index", script=UNAVAILABLE), "index-deploy", UNKNOWN, "cannot connect"),
    (on_host("index", script=None), "index-deploy", TO_DO, "no script"),
    (combine(records(), on_host("index", script=None)), "index-deploy", BLOCKED, "no script"),
    (on_host("index", script=InstalledScript("755", b"old", SINCE)), "index-deploy", TO_DO, "another version"),
    (database("index", script=script_of("index", "newer")), "index-deploy", BLOCKED, "another version"),
    (database("index", script=None), "index-deploy", BLOCKED, "another version"),
    (fact("records", UNAVAILABLE), "index-deploy", DONE, "same version"),
    (on_host("index", backups=UNAVAILABLE), "index-run", UNKNOWN, "cannot connect"),
    (on_host("index", backups=[]), "index-run", TO_DO, "not made a backup"),
    (on_host("index", script=None), "index-run", BLOCKED, "not made a backup"),
    # Started by the previous script, and finished after this one was deployed.
    (
        on_host("index", backups=[STARTED_BEFORE]),
        *NO_BACKUP,
    ),
    (on_host("index", backups=[replace(backup_of("index"), path=PurePosixPath(NO_SUCH_DAY))]), *NO_BACKUP),
    (on_host("index", backups=[replace(backup_of("index"), type="l")]), "index-run", TO_DO, "is not a regular file"),
    (
        on_host("index", script=InstalledScript("755", b"old", SINCE)),
        "index-run",
        BLOCKED,
        "not made a backup",
    ),
    (records(), "index-run", OUT_OF_ORDER, "backup_2026-11-24_20-05-00.db"),
    (on_host("index", script=UNAVAILABLE), "index-run", UNKNOWN, "cannot connect"),
    (lambda facts: facts, "index-run", DONE, "backup_2026-11-24_20-05-00.db, 4,096 bytes"),
    (on_host("index", backups=[]), "index-verify", BLOCKED, "not made a backup"),
    (on_host("index", backups=UNAVAILABLE), "index-verify", UNKNOWN, "cannot connect"),
    (fact("records", UNAVAILABLE), "index-verify", UNKNOWN, "cannot connect"),
    (records(rehearsal("index")), "index-verify", TO_DO, "backup_2026-11-24_20-05-00.db is not verified"),
    (lambda facts: facts, "index-verify", DONE, "backup_2026-11-24_20-05-00.db: passed (2026-11-24 19:10 UTC)"),
    (records(verification("index")), "index-verify", OUT_OF_ORDER, "passed"),
    (NOT_ENABLED, "index-enable", TO_DO, "not in the crontab"),
    (on_host("index", cron=CronState.NOT_PUBLISHED), "index-enable", TO_DO, "not in the crontab"),
    (on_host("index", cron=CronState.DIFFERENT, cron_lines=("5 * * * * x",)), "index-enable", TO_DO, "5 * * * * x"),
    (on_host("index", cron=CronState.ENABLED, cron_lines=("@hourly x",)), "index-enable", DONE, "@hourly x"),
    (on_host("index", cron=UNAVAILABLE), "index-enable", UNKNOWN, "cannot connect"),
    (records(rehearsal("index")), "index-enable", OUT_OF_ORDER, "in the crontab"),
    (combine(records(), NOT_ENABLED), "index-enable", BLOCKED, "not in the crontab"),
    (fact("local", UNAVAILABLE), "index-commit", UNKNOWN, "cannot connect"),
    (without_commit("index"), "index-commit", TO_DO, "not committed"),
    (local(changed_files=frozenset({"index.sh"})), "index-commit", TO_DO, "changed since abc1234: index.sh"),
    (local(changed_files=frozenset({"tracker.sh"})), "index-commit", DONE, "abc1234"),
    (local(current_branch="main"), "index-commit", OUT_OF_ORDER, "abc1234"),
    (
        combine(without_commit("index"), NOT_ENABLED),
        "index-commit",
        BLOCKED,
        "not committed",
    ),
    (server_unavailable, "index-commit", DONE, "abc1234"),
    (combine(server_unavailable, without_commit("index")), "index-commit", BLOCKED, "not committed"),
    (on_host("tracker", script=None), "tracker-deploy", TO_DO, "no script"),
    (on_host("tracker", script=UNAVAILABLE), "tracker-deploy", UNKNOWN, "cannot connect"),
    (database("tracker", lint=failed("x")), "tracker-deploy", OUT_OF_ORDER, "same version"),
    (combine(on_host("tracker", script=None), records()), "tracker-deploy", BLOCKED, "no script"),
    (on_host("tracker", backups=[]), "tracker-test", TO_DO, "not made a backup"),
    (on_host("tracker", script=None), "tracker-test", BLOCKED, "not made a backup"),
    (on_host("tracker", backups=UNAVAILABLE), "tracker-test", UNKNOWN, "cannot connect"),
    (database("tracker", lint=failed("x")), "tracker-test", OUT_OF_ORDER, "passed"),
    (without_commit("tracker"), "tracker-commit", TO_DO, "not committed"),
    (combine(without_commit("tracker"), without_commit("index")), "tracker-commit", BLOCKED, "not committed"),
    (without_commit("index"), "tracker-commit", OUT_OF_ORDER, "abc1234"),
    (local(changed_files=frozenset({"tracker.sh"})), "tracker-commit", TO_DO, "changed since abc1234: tracker.sh"),
    (on_host("tracker", script=None), "tracker-commit", DONE, "abc1234"),
    (fact("local", UNAVAILABLE), "tracker-commit", UNKNOWN, "cannot connect"),
    (fact("docs", {"a.md": None, "b.md": "is missing"}), "docs", TO_DO, "b.md is missing"),
    (lambda facts: facts, "docs", DONE, "AGENTS.md, docs/backups.md"),
    (without_commit("docs"), "docs-commit", TO_DO, "not committed"),
    (combine(without_commit("docs"), fact("docs", {"a.md": "is missing"})), "docs-commit", BLOCKED, "not committed"),
    (
        local(changed_files=frozenset({"docs/backups.md"})),
        "docs-commit",
        TO_DO,
        "changed since abc1234: docs/backups.md",
    ),
    (fact("docs", {"a.md": "is missing"}), "docs-commit", OUT_OF_ORDER, "abc1234"),
    (fact("local", UNAVAILABLE), "docs-commit", UNKNOWN, "cannot connect"),
    (combine(without_commit("docs"), local(changed_files=frozenset())), "docs-commit", DONE, "nothing to commit"),
    (
        combine(NOT_ENABLED, without_commit("index"), local(changed_files=frozenset())),
        "index-commit",
        BLOCKED,
        "nothing to commit",
    ),
    (
        combine(
            without_commit("docs"), local(file_commits={"AGENTS.md": ("def5678", "wip")}, changed_files=frozenset())
        ),
        "docs-commit",
        DONE,
        "def5678 'wip'",
    ),
    (combine(NO_COMMITS, remote(branch_commit=None)), "push", DONE, "nothing to push"),
    (combine(NO_COMMITS, fact("pull_request", None)), "open-pr", DONE, "nothing to merge"),
    (combine(NO_COMMITS, fact("pull_request", None)), "merge", DONE, "nothing to merge"),
    *(
        (combine(change, fact("pull_request", UNAVAILABLE), merge(MergeState.UNKNOWN)), name, UNKNOWN, DOUBT)
        for change, name in [
            (local(current_branch="main"), "branch"),
            (local(current_branch="main", branch_commit=None), "branch"),
            (local(current_branch="main", branch_commit=None, commits={}), "index-commit"),
            (remote(branch_commit=None), "push"),
            (remote(branch_commit="b" * 40), "push"),
        ]
    ),
    (combine(request("merged", "none"), merge(MergeState.NOT_MERGED)), "open-pr", TO_DO, f"{URL} is merged"),
    (combine(request("merged", "none"), merge(MergeState.NOT_MERGED)), "review", BLOCKED, f"{URL} is merged"),
    (combine(merge(MergeState.MERGED), fact("pull_request", None)), "open-pr", DONE, "merged into main"),
    (combine(merge(MergeState.MERGED), fact("pull_request", UNAVAILABLE)), "review", DONE, "merged into main"),
    (combine(request("closed", "none"), merge(MergeState.MERGED)), "open-pr", DONE, "merged into main"),
    (local(), "push", DONE, "on origin"),
    (combine(local(), fact("local", UNAVAILABLE)), "push", UNKNOWN, "cannot connect"),
    (combine(request("open", "none"), fact("remote", UNAVAILABLE)), "push", UNKNOWN, "cannot connect"),
    (combine(request("open", "none"), fact("remote", RemoteState(None))), "push", TO_DO, "there is no remote origin"),
    (remote(branch_commit=None), "push", TO_DO, "not on origin"),
    (remote(branch_commit="b" * 40), "push", TO_DO, "differs"),
    (combine(without_commit("docs"), remote(branch_commit=None)), "push", BLOCKED, "not on origin"),
    (without_commit("docs"), "push", OUT_OF_ORDER, "on origin"),
    (request("merged", "approved"), "push", DONE, "merged"),
    (combine(not_merged, fact("pull_request", UNAVAILABLE)), "open-pr", UNKNOWN, "cannot connect"),
    (combine(not_merged, fact("pull_request", None)), "open-pr", TO_DO, "there is no pull request"),
    (combine(remote(branch_commit=None), fact("pull_request", None)), "open-pr", BLOCKED, "there is no pull request"),
    (request("closed", "none"), "open-pr", TO_DO, f"{URL} (closed without a merge)"),
    (request("open", "none"), "open-pr", DONE, f"{URL} (open)"),
    (remote(branch_commit=None), "open-pr", OUT_OF_ORDER, f"{URL} (open)"),
    (combine(not_merged, fact("pull_request", UNAVAILABLE)), "review", UNKNOWN, "cannot connect"),
    (combine(not_merged, fact("pull_request", None)), "review", BLOCKED, "there is no pull request"),
    (request("open", "none"), "review", BLOCKED, "not approved yet"),
    (request("open", "changes_requested"), "review", TO_DO, "changes"),
    (request("open", "approved"), "review", DONE, "approved"),
    (request("closed", "approved"), "review", OUT_OF_ORDER, "approved"),
    (request("merged", "none"), "review", DONE, "merged"),
    (request("open", "approved"), "merge", TO_DO, "not in main"),
    (request("open", "none"), "merge", BLOCKED, "not in main"),
    (request("merged", "none"), "merge", DONE, "merged into main"),
    (
        combine(request("open", "none"), merge(MergeState.UNKNOWN)),
        "merge",
        BLOCKED,
        "not in main",
    ),
    (combine(request("open", "approved"), fact("remote", UNAVAILABLE)), "merge", TO_DO, "not in main"),
    (combine(request("merged", "approved"), fact("remote", UNAVAILABLE)), "merge", DONE, "merged into main"),
    (
        combine(request("open", "approved"), merge(MergeState.UNKNOWN)),
        "merge",
        TO_DO,
        "not in main",
    ),
    (
        combine(merge(MergeState.UNKNOWN), fact("pull_request", UNAVAILABLE)),
        "merge",
        UNKNOWN,
        DOUBT,
    ),
    (combine(merge(MergeState.MERGED), fact("pull_request", UNAVAILABLE)), "merge", DONE, "merged into main"),
    (
        combine(request("open", "none"), merge(MergeState.MERGED)),
        "merge",
        OUT_OF_ORDER,
        "merged into main",
    ),
]


@pytest.mark.parametrize(
    ("change", "name", "mark", "details"),
    STEPS,
    ids=[f"{number}-{name}-{mark.value}" for number, (_, name, mark, _) in enumerate(STEPS)],
)
def test_facts_decide_mark(facts: ReleaseFacts, change: Change, name: str, mark: Mark, details: str) -> None:
    step = make_plan(change(not_merged(facts))).step(name)
    assert (step.mark, details in step.details) == (mark, True), step


def test_table_covers_every_mark() -> None:
    needless = {"branch", "index-script", "tracker-script", "docs"}  # neither waiting nor out of order
    here_only = {"index-script", "tracker-script", "docs"}  # read from the work tree: always seen
    expected = {
        (each.name, mark)
        for phase in PHASES.values()
        for each in phase
        for mark in Mark
        if not (each.name in needless and mark in (BLOCKED, OUT_OF_ORDER))
        if not (each.name in here_only and mark is UNKNOWN)
    }
    covered = {(name, mark) for _, name, mark, _ in STEPS}
    # Done is covered by the plan in which all is.
    assert {(name, mark) for name, mark in expected - covered if mark is not DONE} == set()


# --- what is not seen -----------------------------------------------------------------------------------------------


def test_no_network_makes_remote_steps_unknown(
    facts: ReleaseFacts,
) -> None:
    unavailable = (fact(name, UNAVAILABLE) for name in ("remote", "merge", "pull_request"))
    facts = combine(server_unavailable, *unavailable)(facts)
    plan = make_plan(facts)
    on_the_server = {"index-deploy", "index-run", "index-verify", "index-enable", "tracker-deploy", "tracker-test"}
    unseen = {*on_the_server, "push", "open-pr", "review", "merge"}
    assert others(plan) == dict.fromkeys(unseen, UNKNOWN)
    assert (plan.next, plan.exit_code) == (None, 3)


def test_notes_have_each_error_once(facts: ReleaseFacts) -> None:
    plan = make_plan(server_unavailable(facts), ["passed over: x.json: it is empty"])
    assert plan.notes == [UNAVAILABLE.error, "passed over: x.json: it is empty"]


@pytest.mark.parametrize("name", ["records", "local", "remote", "merge", "pull_request"])
def test_unavailable_fact_is_noted(facts: ReleaseFacts, name: str) -> None:
    assert make_plan(fact(name, UNAVAILABLE)(facts)).notes == [UNAVAILABLE.error]


def test_to_do_takes_precedence_over_unknown(facts: ReleaseFacts) -> None:
    plan = make_plan(combine(server_unavailable, database("tracker", lint=failed("uses cp")))(facts))
    assert plan.next
    assert (plan.next.name, plan.exit_code) == ("tracker-script", 1)


@pytest.mark.parametrize(
    "change",
    [on_host("tracker", script=None), on_host("tracker", script=UNAVAILABLE, backups=UNAVAILABLE, cron=UNAVAILABLE)],
)
def test_optional_steps_do_not_count(facts: ReleaseFacts, change: Change) -> None:
    plan = make_plan(change(facts))
    assert set(others(plan)) == {"tracker-deploy", "tracker-test"}
    assert (plan.next, plan.exit_code) == (None, 0)
    assert plan.skipped == [step for step in plan.steps if step.optional and step.mark is TO_DO]


def test_optional_steps_after_next_are_not_skipped(facts: ReleaseFacts) -> None:
    plan = make_plan(combine(on_host("tracker", script=None), NOT_ENABLED)(facts))
    assert plan.next
    assert (plan.next.name, plan.step("tracker-deploy").mark, plan.skipped) == ("index-enable", TO_DO, [])


def test_open_review_blocks_release(facts: ReleaseFacts) -> None:
    plan = make_plan(request("open", "none")(facts))
    assert others(plan) == {"review": BLOCKED, "merge": BLOCKED}
    assert (plan.next, plan.exit_code) == (None, 0)


# --- a trial of this very script ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "mark"),
    [
        ([rehearsal("index")], DONE),
        ([rehearsal("index", script_sha256=script_of("index", "old").sha256)], TO_DO),
        ([rehearsal("index", script_sha256=None)], TO_DO),
        ([rehearsal("tracker", script_sha256=script_of("index").sha256)], TO_DO),
        ([rehearsal("index", kind="run")], TO_DO),
        ([rehearsal("index", kind="verification")], TO_DO),  # on another host
        ([rehearsal("index", kind="verification", host="local")], DONE),
        ([rehearsal("index", kind="run", host="local")], TO_DO),
        ([rehearsal("index"), rehearsal("index", exit_status=1)], TO_DO),
        ([rehearsal("index", exit_status=1), rehearsal("index")], DONE),
        ([rehearsal("index", exit_status=130)], TO_DO),
        ([rehearsal("index", exit_status=None)], TO_DO),
        ([rehearsal("index"), rehearsal("index", exit_status=1, script_sha256="0" * 64)], DONE),
        ([rehearsal("index", checks=[])], TO_DO),
        ([rehearsal("index", checks=checks(True, None))], TO_DO),
        ([rehearsal("index", checks=checks(True, False))], TO_DO),
    ],
)
def test_only_passed_test_of_script_counts(facts: ReleaseFacts, stored: list[Record], mark: Mark) -> None:
    others_of_it = [verification(name) for name in DATABASES]
    assert make_plan(records(*stored, *others_of_it)(not_merged(facts))).step("index-test").mark is mark


# --- the backup that this script made, and its verification ----------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "mark"),
    [
        (timedelta(0), DONE),
        (timedelta(microseconds=1), DONE),
        (timedelta(microseconds=-1), TO_DO),
        (timedelta(days=-3), TO_DO),
    ],
)
def test_backup_must_follow_deployment(facts: ReleaseFacts, after: timedelta, mark: Mark) -> None:
    file = backup_of("index", SINCE + after)
    plan = make_plan(
        combine(not_merged, on_host("index", backups=[file]), records(rehearsal("index"), verification("index", file)))(
            facts
        )
    )
    assert plan.step("index-run").mark is mark
    assert plan.step("index-verify").mark is (DONE if mark is DONE else BLOCKED)


def test_new_deployment_invalidates_older_backups(facts: ReleaseFacts) -> None:
    again = InstalledScript("755", script_of("index").content, CREATED + timedelta(seconds=1))
    plan = make_plan(on_host("index", script=again)(not_merged(facts)))
    assert (plan.step("index-deploy").mark, plan.step("index-run").mark) == (DONE, TO_DO)
    assert plan.step("index-verify").mark is BLOCKED
    assert plan.step("index-enable").mark is OUT_OF_ORDER


@pytest.mark.parametrize(
    ("stored", "mark", "details"),
    [
        ([verification("index")], DONE, "passed"),
        ([verification("index", created=None)], DONE, "passed"),  # of schema 1
        ([verification("index", created=CREATED.astimezone(timezone.utc).isoformat())], DONE, "passed"),
        ([verification("index", host="other")], TO_DO, "is not verified"),
        ([verification("index", details=QUICK)], TO_DO, "is not verified"),
        ([verification("index", details=NOT_COMPARED)], TO_DO, "is not verified"),
        ([verification("index"), verification("index", details=QUICK)], DONE, "passed"),
        ([verification("index", details=QUICK, exit_status=1)], TO_DO, "FAILED"),
        ([verification("index", host="local")], TO_DO, "is not verified"),
        ([verification("index", database="tracker")], TO_DO, "is not verified"),
        ([verification("index", kind="run")], TO_DO, "is not verified"),
        ([verification("index", backup="/elsewhere/backup_2026-11-24_20-05-00.db")], TO_DO, "is not verified"),
        ([verification("index", backup=None)], TO_DO, "is not verified"),
        ([verification("index", bytes=4097)], TO_DO, "is not verified"),
        ([verification("index", bytes=None, created=None)], TO_DO, "is not verified"),
        ([verification("index", created=(CREATED + timedelta(microseconds=1)).isoformat())], TO_DO, "is not verified"),
        ([verification("index", exit_status=1)], TO_DO, "FAILED"),
        ([verification("index", exit_status=3, checks=checks(True, None))], TO_DO, "not all checks could be made"),
        ([verification("index", checks=checks(True, False))], TO_DO, "FAILED"),
        ([verification("index", checks=[])], TO_DO, "FAILED"),
        ([verification("index"), verification("index", exit_status=1)], TO_DO, "FAILED"),
        ([verification("index", exit_status=1), verification("index")], DONE, "passed"),
        ([verification("index"), verification("index", exit_status=1, host="other")], DONE, "passed"),
    ],
)
def test_last_verification_of_file_counts(facts: ReleaseFacts, stored: list[Record], mark: Mark, details: str) -> None:
    facts = combine(not_merged, NOT_ENABLED, records(rehearsal("index"), *stored))(facts)
    step = make_plan(facts).step("index-verify")
    assert (step.mark, details in step.details) == (mark, True), step


NEWER = backup_of("index", CREATED + timedelta(hours=1))


@pytest.mark.parametrize(
    ("cron", "stored", "mark"),
    [
        (CronState.NOT_ENABLED, [verification("index")], TO_DO),
        (CronState.NOT_PUBLISHED, [verification("index")], TO_DO),
        (UNAVAILABLE, [verification("index")], TO_DO),
        (CronState.ENABLED, [verification("index")], DONE),
        (CronState.DIFFERENT, [verification("index")], DONE),
        (CronState.ENABLED, [], TO_DO),
        (CronState.NOT_ENABLED, [verification("index", NEWER)], DONE),
        (CronState.ENABLED, [verification("index"), verification("index", NEWER, exit_status=1)], TO_DO),
        (CronState.ENABLED, [verification("index", NEWER, exit_status=1), verification("index")], TO_DO),
        (CronState.ENABLED, [verification("index", exit_status=1), verification("index", NEWER)], DONE),
    ],
)
def test_newest_backup_needs_verification_without_cron(
    facts: ReleaseFacts, cron: CronState | Unavailable, stored: list[Record], mark: Mark
) -> None:
    facts = combine(
        not_merged,
        on_host("index", backups=[NEWER, backup_of("index")], cron=cron),
        records(rehearsal("index"), *stored),
    )(facts)
    assert make_plan(facts).step("index-verify").mark is mark


def shifted_records(facts: ReleaseFacts, by: timedelta) -> ReleaseFacts:
    """The same records, written on a machine whose clock is off."""
    assert not isinstance(facts.records, Unavailable)
    moved = [replace(each, when=(datetime.fromisoformat(each.when) + by).isoformat()) for each in facts.records]
    return replace(facts, records=moved)


@pytest.mark.parametrize("hours", [-1, 1, -24 * 400, 24 * 400])
@pytest.mark.parametrize(
    "change",
    [lambda facts: facts, on_host("index", backups=[NEWER, backup_of("index")], cron=CronState.NOT_ENABLED), records()],
    ids=["all done", "a newer backup", "nothing kept"],
)
def test_wrong_local_clock_changes_no_mark(facts: ReleaseFacts, change: Change, hours: int) -> None:
    facts = change(facts)
    assert marks(make_plan(shifted_records(facts, timedelta(hours=hours)))) == marks(make_plan(facts))


# --- merged ---------------------------------------------------------------------------------------------------------


def ways_to_be_merged() -> Iterator[Change]:
    yield combine(
        local(),
        merge(MergeState.MERGED),
        fact("pull_request", UNAVAILABLE),
        merge(MergeState.MERGED),
    )
    yield request("merged", "approved")
    yield combine(request("merged", "approved"), fact("remote", UNAVAILABLE))


@pytest.mark.parametrize(
    "way", list(ways_to_be_merged()), ids=["by its commits", "by the pull request", "remote unseen"]
)
@pytest.mark.parametrize("branch", [None, "a" * 40], ids=["branch deleted", "branch kept"])
def test_merged_release_needs_no_branch(facts: ReleaseFacts, way: Change, branch: str | None) -> None:
    plan = make_plan(way(local(current_branch="main", branch_commit=branch)(facts)))
    assert {plan.step(name).mark for name in ("branch", "push", "merge")} == {DONE}
    assert plan.next is None


def merged_later(facts: ReleaseFacts, **changes: Any) -> ReleaseFacts:
    """A merged release without its branch and without gh, on the base branch."""
    start = combine(local(current_branch="main", branch_commit=None, commits={}), fact("pull_request", UNAVAILABLE))
    return merge(MergeState.MERGED, **changes)(start(facts))


AGAIN = InstalledScript("755", script_of("index").content, CREATED + timedelta(days=9))
OF_SCRIPT = {"script_sha256": script_of("index").sha256}
VERIFIED = verification("index", **OF_SCRIPT)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (on_host("index", script=AGAIN), {}),
        (on_host("index", backups=[]), {}),
        (on_host("index", backups=[backup_of("index", CREATED + timedelta(days=9))]), {}),
        (
            on_host("index", backups=[backup_of("index", CREATED + timedelta(days=9))], cron=CronState.NOT_ENABLED),
            {"index-enable": TO_DO},
        ),
        (
            combine(on_host("index", script=AGAIN), records(rehearsal("index"), verification("tracker"))),
            {"index-run": UNKNOWN, "index-verify": UNKNOWN},
        ),
        (
            combine(on_host("index", script=AGAIN), records(rehearsal("index"), replace(VERIFIED, exit_status=1))),
            {"index-verify": TO_DO, "index-enable": OUT_OF_ORDER},
        ),
        (records(VERIFIED, verification("tracker")), {"index-test": UNKNOWN}),
        (fact("docs", {"AGENTS.md": "is missing"}), {"docs": TO_DO, "docs-commit": OUT_OF_ORDER}),
    ],
    ids=["newer script", "rotated", "newer backup", "disabled", "no record", "failed", "no test", "docs"],
)
def test_only_contents_reopen_merged_release(facts: ReleaseFacts, change: Change, expected: dict[str, Mark]) -> None:
    stored = records(rehearsal("index"), VERIFIED, verification("tracker"))(facts)
    plan = make_plan(merged_later(change(stored)))
    required = {step.name: step.mark for step in plan.steps if not step.optional and step.mark is not DONE}
    assert {name: mark for name, mark in required.items() if name in expected or mark is TO_DO} == expected


def test_outdated_checkout_of_merged_release_is_done(facts: ReleaseFacts) -> None:
    changes = (
        database("index", script=script_of("index", "old"), lint=failed("uses cp")),
        fact("docs", {"AGENTS.md": "does not describe .backup"}),
        records(rehearsal("index"), verification("index"), verification("tracker")),
    )
    name = hashlib.sha1(b"blob 13\0" + script_of("index").content, usedforsecurity=False).hexdigest()
    assert len(script_of("index").content) == 13
    released = {"index.sh": frozenset({name})}
    facts = merged_later(
        combine(*changes)(facts), outdated_files=frozenset({"index.sh", "AGENTS.md"}), released=released
    )
    plan = make_plan(facts)
    assert others(plan) == {}
    assert "git pull" in plan.step("index-script").details


def test_edit_on_branch_reopens_its_commit(facts: ReleaseFacts) -> None:
    edited = local(changed_files=frozenset({"index.sh"}))(facts)
    plan = make_plan(merge(MergeState.MERGED, edited_files=frozenset({"index.sh"}))(edited))
    assert plan.step("index-commit").mark is TO_DO
    on_main = local(current_branch="main", changed_files=frozenset({"index.sh"}))(facts)
    plan = make_plan(merge(MergeState.MERGED, edited_files=frozenset({"index.sh"}))(on_main))
    assert plan.step("index-commit").mark is DONE


def test_earlier_pull_request_does_not_count(facts: ReleaseFacts) -> None:
    facts = combine(request("merged", "approved"), merge(MergeState.NOT_MERGED))(facts)
    assert not facts.is_merged
    assert isinstance(facts.pull_request, PullRequest)
    assert replace(facts, pull_request=replace(facts.pull_request, has_branch=True)).is_merged


def test_squash_merge_completes_release(facts: ReleaseFacts) -> None:
    plan = make_plan(
        combine(local(current_branch="main", branch_commit=None, commits={}), request("merged", "approved"))(facts)
    )
    assert others(plan) == {}
