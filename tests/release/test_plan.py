"""The plan: every mark that a step can have, from facts alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import pytest

from demo_backups.backup.script import InstalledScript, Script
from demo_backups.records.record import Record, RecordedCheck
from demo_backups.release.facts import DatabaseFacts, HostFacts, ReleaseFacts, Unavailable
from demo_backups.release.plan import PHASES, Mark, Plan, make_plan, mark_steps
from demo_backups.release.pull_request import PullRequest
from demo_backups.release.repository import LocalState, RemoteState
from demo_backups.release.steps import Observation, Step
from demo_backups.remote.files import File
from demo_backups.settings import Settings

DONE, TO_DO, WAITING, NOT_SEEN, OUT_OF_ORDER = Mark
HOST = "demo"
SINCE = datetime(2026, 11, 24, 20, 0, 0, 250000, tzinfo=timezone(timedelta(hours=1)))  # by the clock of the server
MADE = SINCE + timedelta(minutes=5)
UNSEEN = Unavailable("cannot connect", "demo: cannot connect\n  -> is it up?")
URL = "https://github.com/torrust/demo/pull/90"
DATABASES = ("index", "tracker")
Change: TypeAlias = Callable[[ReleaseFacts], ReleaseFacts]


# --- facts: all is done, and changes to that ------------------------------------------------------------------------


def script_of(database: str, text: str = "new") -> Script:
    return Script(Path(f"share/bin/{database}-db-backup.sh"), f"# {database}: {text}\n".encode())


def backup_of(database: str, modified: datetime = MADE, size: int = 4096) -> File:
    prefix = {"index": "backup", "tracker": "tracker_backup"}[database]
    return File(PurePosixPath(f"/srv/backups/{prefix}_{modified:%Y-%m-%d_%H-%M-%S}.db"), size, modified)


def checks(*passed: bool | None) -> list[RecordedCheck]:
    return [{"name": f"check {number}", "passed": each, "detail": ""} for number, each in enumerate(passed)]


def verification(database: str, file: File | None = None, /, **changes: Any) -> Record:
    file = file or backup_of(database)
    record = Record("verification", HOST, database, when="2026-11-24T19:10:00+00:00")
    record.exit_status, record.checks = 0, checks(True, True)
    record.backup, record.bytes, record.created = str(file.path), file.bytes, file.modified.isoformat()
    return replace(record, **changes)


def rehearsal(database: str, **changes: Any) -> Record:
    record = Record("rehearsal", "rehearsal", database, when="2026-11-24T18:10:00+00:00", exit_status=0)
    record.checks, record.script_sha256 = checks(True), script_of(database).sha256
    return replace(record, **changes)


def all_done(settings: Settings) -> ReleaseFacts:
    release = settings.release
    files = {"index": ("index.sh",), "tracker": ("tracker.sh",), "docs": release.docs}
    here = LocalState(
        release.branch, "a" * 40, dict.fromkeys(release.commits.model_dump().values(), "abc1234"), frozenset()
    )

    def database(name: str) -> DatabaseFacts:
        there = HostFacts(
            InstalledScript("755", script_of(name).content, SINCE), [backup_of(name)], name == "index" or None
        )
        return DatabaseFacts(script_of(name), [], there)

    return ReleaseFacts(
        host=HOST,
        release=release,
        files=files,
        databases={name: database(name) for name in DATABASES},
        docs=dict.fromkeys(release.docs),
        records=[rehearsal("index"), *(verification(name) for name in DATABASES)],
        here=here,
        there=RemoteState("git@github.com:torrust/demo.git", here.branch, merged=True),
        pull_request=PullRequest(URL, "merged", "approved"),
    )


@pytest.fixture
def facts(project_settings: Settings) -> ReleaseFacts:
    """Facts with which every step is done."""
    return all_done(project_settings)


def here(**changes: Any) -> Change:
    """Change what is here, and take it out of the base that it is merged into."""

    def change(facts: ReleaseFacts) -> ReleaseFacts:
        assert isinstance(facts.here, LocalState)
        return replace(not_merged(facts), here=replace(facts.here, **changes))

    return change


def there(**changes: Any) -> Change:
    def change(facts: ReleaseFacts) -> ReleaseFacts:
        facts = not_merged(facts)
        assert isinstance(facts.there, RemoteState)
        return replace(facts, there=replace(facts.there, **changes))

    return change


def not_merged(facts: ReleaseFacts) -> ReleaseFacts:
    assert isinstance(facts.there, RemoteState)
    return replace(facts, there=replace(facts.there, merged=False), pull_request=PullRequest(URL, "open", "approved"))


def request(state: str, review: str) -> Change:
    return lambda facts: replace(not_merged(facts), pull_request=PullRequest(URL, state, review))


def fact(name: str, value: Any) -> Change:
    return lambda facts: replace(facts, **{name: value})


def database(name: str, **changes: Any) -> Change:
    return lambda facts: replace(facts, databases=facts.databases | {name: replace(facts.databases[name], **changes)})


def on_host(name: str, **changes: Any) -> Change:
    return lambda facts: database(name, there=replace(facts.databases[name].there, **changes))(facts)


def records(*kept: Record) -> Change:
    return fact("records", list(kept))


def without_commit(part: str) -> Change:
    def change(facts: ReleaseFacts) -> ReleaseFacts:
        assert isinstance(facts.here, LocalState)
        left = dict(facts.here.commits)
        del left[getattr(facts.release.commits, part)]
        return here(commits=left)(facts)

    return change


def both(*changes: Change) -> Change:
    def change(facts: ReleaseFacts) -> ReleaseFacts:
        for each in changes:
            facts = each(facts)
        return facts

    return change


def server_unseen(facts: ReleaseFacts) -> ReleaseFacts:
    for name in DATABASES:
        facts = on_host(name, script=UNSEEN, backups=UNSEEN, enabled=UNSEEN)(facts)
    return facts


def marks(plan: Plan) -> dict[str, Mark]:
    return {step.name: step.mark for step in plan.steps}


def others(plan: Plan) -> dict[str, Mark]:
    """The steps that are not done."""
    return {name: mark for name, mark in marks(plan).items() if mark is not DONE}


# --- deciding, whatever the steps are -------------------------------------------------------------------------------


def step(name: str, done: bool | None, *needs: str, held: bool = False, optional: bool = False) -> Step:
    return Step(name, name.title(), lambda facts: Observation(done, f"{name} seen", held), needs, optional)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (True, True, [DONE, DONE]),
        (True, False, [DONE, TO_DO]),
        (True, None, [DONE, NOT_SEEN]),
        (False, True, [TO_DO, OUT_OF_ORDER]),
        (False, False, [TO_DO, WAITING]),
        (False, None, [TO_DO, NOT_SEEN]),
        (None, True, [NOT_SEEN, DONE]),
        (None, False, [NOT_SEEN, WAITING]),
        (None, None, [NOT_SEEN, NOT_SEEN]),
    ],
)
def test_a_step_is_marked_by_what_is_seen_of_it_and_by_the_mark_of_what_it_needs(
    facts: ReleaseFacts, first: bool | None, second: bool | None, expected: list[Mark]
) -> None:
    marked = mark_steps([step("first", first), step("second", second, "first")], facts)
    assert [each.mark for each in marked.values()] == expected
    assert [each.observed for each in marked.values()] == ["first seen", "second seen"]


@pytest.mark.parametrize(
    ("needs", "done", "mark"),
    [
        ((True, True), True, DONE),
        ((True, False), True, OUT_OF_ORDER),
        ((None, False), True, OUT_OF_ORDER),
        ((None, True), True, DONE),
        ((True, True), False, TO_DO),
        ((True, False), False, WAITING),
        ((True, None), False, WAITING),
    ],
)
def test_a_step_needs_all_that_come_before_it(
    facts: ReleaseFacts, needs: tuple[bool | None, ...], done: bool, mark: Mark
) -> None:
    before = [step(str(number), each) for number, each in enumerate(needs)]
    marked = mark_steps([*before, step("it", done, *(each.name for each in before))], facts)
    assert marked["it"].mark is mark


def test_what_needs_a_step_that_is_out_of_order_or_waits_is_so_too(facts: ReleaseFacts) -> None:
    steps = [step("a", False), step("b", True, "a"), step("c", True, "b"), step("d", False, "c"), step("e", False, "d")]
    expected = [TO_DO, OUT_OF_ORDER, OUT_OF_ORDER, WAITING, WAITING]
    assert [each.mark for each in mark_steps(steps, facts).values()] == expected


def test_a_step_that_others_have_to_do_waits(facts: ReleaseFacts) -> None:
    marked = mark_steps([step("review", False, held=True), step("merge", False, "review")], facts)
    assert [each.mark for each in marked.values()] == [WAITING, WAITING]


def test_every_step_needs_only_steps_before_it_and_only_such_as_are_not_optional() -> None:
    known: dict[str, Step] = {}
    for each in (each for phase in PHASES.values() for each in phase):
        assert set(each.needs) <= set(known)
        assert each.optional or not any(known[name].optional for name in each.needs)
        known[each.name] = each


# --- the plan -------------------------------------------------------------------------------------------------------


def test_the_plan_has_four_phases_and_eighteen_steps(facts: ReleaseFacts) -> None:
    plan = make_plan(facts)
    assert [(phase.name, len(phase.steps)) for phase in plan.phases] == [
        ("Index database", 8),
        ("Tracker database", 4),
        ("Documentation", 2),
        ("Pull request", 4),
    ]
    assert len({step.name for step in plan.steps}) == 18
    assert [step.name for step in plan.steps if step.optional] == ["tracker-deploy", "tracker-test"]


def test_the_json_of_the_plan_has_the_shape_and_the_words_that_are_documented(facts: ReleaseFacts) -> None:
    facts = both(server_unseen, there(branch="b" * 40), request("open", "none"))(facts)
    printed = json.loads(json.dumps(make_plan(facts).as_json()))
    assert set(printed) == {"host", "phases"}
    assert printed["host"] == HOST
    steps = [step for phase in printed["phases"] for step in phase["steps"]]
    assert len(steps) == 18
    assert all(set(phase) == {"name", "steps"} for phase in printed["phases"])
    assert all(set(step) == {"name", "mark", "optional", "observed"} for step in steps)
    assert {step["mark"] for step in steps} == {"done", "to do", "waiting", "not seen", "out of order"}
    assert all(isinstance(step["optional"], bool) and step["observed"] for step in steps)


def test_all_is_done_where_all_is_seen_to_be_done(facts: ReleaseFacts) -> None:
    plan = make_plan(facts)
    assert others(plan) == {}
    assert (plan.next, plan.exit_code, plan.notes) == (None, 0, [])


def test_at_the_beginning_only_what_needs_nothing_is_to_do(facts: ReleaseFacts) -> None:
    facts = both(
        here(current="main", branch=None, commits={}, changed=frozenset({"index.sh"})),
        there(branch=None),
        *(database(name, flaws=["uses cp"]) for name in DATABASES),
        *(on_host(name, script=None, backups=[], enabled=None) for name in DATABASES),
        on_host("index", script=None, backups=[], enabled=False),
        fact("docs", {"AGENTS.md": "is missing"}),
        records(),
        fact("pull_request", None),
    )(facts)
    plan = make_plan(facts)
    to_do = ["branch", "index-script", "tracker-script", "docs"]
    assert [name for name, mark in marks(plan).items() if mark is TO_DO] == to_do
    assert {mark for name, mark in marks(plan).items() if name not in to_do} == {WAITING}
    assert plan.next
    assert (plan.next.name, plan.exit_code) == ("branch", 1)


QUICK: list[RecordedCheck] = [{"name": "integrity", "passed": True, "detail": "quick_check: ok"}]
NONE_MADE = ("index-run", TO_DO, "this script has made no backup there")
NO_SUCH_DAY = "/srv/backups/backup_2026-02-31_20-05-00.db"
# What is changed of facts in which all is done; the step that is looked at, its mark, and a part of what is said of it.
STEPS: list[tuple[Change, str, Mark, str]] = [
    (fact("here", UNSEEN), "branch", NOT_SEEN, "cannot connect"),
    (here(), "branch", DONE, "checked out"),
    (here(current="main"), "branch", TO_DO, "main is checked out"),
    (here(current=None), "branch", TO_DO, "a commit without a branch is checked out"),
    (here(current="main", branch=None), "branch", TO_DO, "only on origin"),
    (
        both(here(current="main", branch=None), fact("there", RemoteState("u"))),
        "branch",
        TO_DO,
        "there is no branch 85-",
    ),
    (both(here(current="main", branch=None), fact("there", UNSEEN)), "branch", TO_DO, "there is no branch 85-"),
    (both(here(current="main"), request("merged", "none")), "branch", DONE, "merged"),
    (both(here(current="main"), fact("there", RemoteState("u", None, True))), "branch", DONE, "merged"),
    (database("index", flaws=["uses cp", "not quoted: $A"]), "index-script", TO_DO, "uses cp; not quoted: $A"),
    (database("tracker", flaws=["uses cp"]), "tracker-script", TO_DO, "uses cp"),
    (lambda facts: facts, "index-script", DONE, "uses .backup, no cp"),
    (database("index", flaws=["x"]), "index-test", OUT_OF_ORDER, "rehearsal passed (2026-11-24 18:10 UTC)"),
    (fact("records", UNSEEN), "index-test", NOT_SEEN, "cannot connect"),
    (records(), "index-test", TO_DO, "was not tried here"),
    (both(records(), database("index", flaws=["x"])), "index-test", WAITING, "was not tried here"),
    (database("index", script=None), "index-test", TO_DO, "there is no script that could run"),
    (records(rehearsal("index", exit_status=1)), "index-test", TO_DO, "the last rehearsal did not pass"),
    (lambda facts: facts, "index-deploy", DONE, ", since 2026-11-24 20:00:00+01:00"),
    (records(), "index-deploy", OUT_OF_ORDER, "this very script"),
    (on_host("index", script=UNSEEN), "index-deploy", NOT_SEEN, "cannot connect"),
    (on_host("index", script=None), "index-deploy", TO_DO, "there is no script there"),
    (both(records(), on_host("index", script=None)), "index-deploy", WAITING, "there is no script there"),
    (on_host("index", script=InstalledScript("755", b"old", SINCE)), "index-deploy", TO_DO, "another script is there"),
    (database("index", script=script_of("index", "newer")), "index-deploy", WAITING, "another script is there"),
    (database("index", script=None), "index-deploy", WAITING, "another script is there"),
    (fact("records", UNSEEN), "index-deploy", DONE, "this very script"),
    (on_host("index", backups=UNSEEN), "index-run", NOT_SEEN, "cannot connect"),
    (on_host("index", backups=[]), "index-run", TO_DO, "this script has made no backup there"),
    (on_host("index", script=None), "index-run", WAITING, "this script has made no backup there"),
    # Begun by the script that was there before, and finished by it when this one had been put there.
    (on_host("index", backups=[replace(backup_of("index", SINCE - timedelta(seconds=2)), modified=MADE)]), *NONE_MADE),
    (on_host("index", backups=[replace(backup_of("index"), path=PurePosixPath(NO_SUCH_DAY))]), *NONE_MADE),
    (on_host("index", backups=[replace(backup_of("index"), type="l")]), "index-run", TO_DO, "is not a regular file"),
    (
        on_host("index", script=InstalledScript("755", b"old", SINCE)),
        "index-run",
        WAITING,
        "this script has made no backup there",
    ),
    (records(), "index-run", OUT_OF_ORDER, "backup_2026-11-24_20-05-00.db"),
    (on_host("index", script=UNSEEN), "index-run", NOT_SEEN, "cannot connect"),
    (lambda facts: facts, "index-run", DONE, "backup_2026-11-24_20-05-00.db, 4,096 bytes"),
    (on_host("index", backups=[]), "index-verify", WAITING, "this script has made no backup there"),
    (on_host("index", backups=UNSEEN), "index-verify", NOT_SEEN, "cannot connect"),
    (fact("records", UNSEEN), "index-verify", NOT_SEEN, "cannot connect"),
    (records(rehearsal("index")), "index-verify", TO_DO, "backup_2026-11-24_20-05-00.db is not verified"),
    (lambda facts: facts, "index-verify", DONE, "backup_2026-11-24_20-05-00.db: passed (2026-11-24 19:10 UTC)"),
    (records(verification("index")), "index-verify", OUT_OF_ORDER, "passed"),
    (on_host("index", enabled=False), "index-enable", TO_DO, "not in the crontab"),
    (on_host("index", enabled=None), "index-enable", TO_DO, "not in the crontab"),
    (on_host("index", enabled=UNSEEN), "index-enable", NOT_SEEN, "cannot connect"),
    (records(rehearsal("index")), "index-enable", OUT_OF_ORDER, "in the crontab"),
    (both(records(), on_host("index", enabled=False)), "index-enable", WAITING, "not in the crontab"),
    (fact("here", UNSEEN), "index-commit", NOT_SEEN, "cannot connect"),
    (without_commit("index"), "index-commit", TO_DO, "not committed"),
    (here(changed=frozenset({"index.sh"})), "index-commit", TO_DO, "changed since abc1234: index.sh"),
    (here(changed=frozenset({"tracker.sh"})), "index-commit", DONE, "abc1234"),
    (here(current="main"), "index-commit", OUT_OF_ORDER, "abc1234"),
    (both(without_commit("index"), on_host("index", enabled=False)), "index-commit", WAITING, "not committed"),
    (server_unseen, "index-commit", DONE, "abc1234"),
    (both(server_unseen, without_commit("index")), "index-commit", WAITING, "not committed"),
    (on_host("tracker", script=None), "tracker-deploy", TO_DO, "there is no script there"),
    (on_host("tracker", script=UNSEEN), "tracker-deploy", NOT_SEEN, "cannot connect"),
    (database("tracker", flaws=["x"]), "tracker-deploy", OUT_OF_ORDER, "this very script"),
    (both(on_host("tracker", script=None), records()), "tracker-deploy", WAITING, "there is no script there"),
    (on_host("tracker", backups=[]), "tracker-test", TO_DO, "this script has made no backup there"),
    (on_host("tracker", script=None), "tracker-test", WAITING, "this script has made no backup there"),
    (on_host("tracker", backups=UNSEEN), "tracker-test", NOT_SEEN, "cannot connect"),
    (database("tracker", flaws=["x"]), "tracker-test", OUT_OF_ORDER, "passed"),
    (without_commit("tracker"), "tracker-commit", TO_DO, "not committed"),
    (both(without_commit("tracker"), without_commit("index")), "tracker-commit", WAITING, "not committed"),
    (without_commit("index"), "tracker-commit", OUT_OF_ORDER, "abc1234"),
    (here(changed=frozenset({"tracker.sh"})), "tracker-commit", TO_DO, "changed since abc1234: tracker.sh"),
    (on_host("tracker", script=None), "tracker-commit", DONE, "abc1234"),
    (fact("here", UNSEEN), "tracker-commit", NOT_SEEN, "cannot connect"),
    (fact("docs", {"a.md": None, "b.md": "is missing"}), "docs", TO_DO, "b.md is missing"),
    (lambda facts: facts, "docs", DONE, "AGENTS.md, docs/backups.md tell of .backup"),
    (without_commit("docs"), "docs-commit", TO_DO, "not committed"),
    (both(without_commit("docs"), fact("docs", {"a.md": "is missing"})), "docs-commit", WAITING, "not committed"),
    (here(changed=frozenset({"docs/backups.md"})), "docs-commit", TO_DO, "changed since abc1234: docs/backups.md"),
    (fact("docs", {"a.md": "is missing"}), "docs-commit", OUT_OF_ORDER, "abc1234"),
    (fact("here", UNSEEN), "docs-commit", NOT_SEEN, "cannot connect"),
    (here(), "push", DONE, "on origin"),
    (both(here(), fact("here", UNSEEN)), "push", NOT_SEEN, "cannot connect"),
    (both(request("open", "none"), fact("there", UNSEEN)), "push", NOT_SEEN, "cannot connect"),
    (both(request("open", "none"), fact("there", RemoteState(None))), "push", TO_DO, "there is no remote origin"),
    (there(branch=None), "push", TO_DO, "not on origin"),
    (there(branch="b" * 40), "push", TO_DO, "what is on origin is not what is here"),
    (both(without_commit("docs"), there(branch=None)), "push", WAITING, "not on origin"),
    (without_commit("docs"), "push", OUT_OF_ORDER, "on origin"),
    (request("merged", "approved"), "push", DONE, "merged"),
    (both(not_merged, fact("pull_request", UNSEEN)), "open-pr", NOT_SEEN, "cannot connect"),
    (both(not_merged, fact("pull_request", None)), "open-pr", TO_DO, "there is no pull request"),
    (both(there(branch=None), fact("pull_request", None)), "open-pr", WAITING, "there is no pull request"),
    (request("closed", "none"), "open-pr", TO_DO, f"{URL} (closed)"),
    (request("open", "none"), "open-pr", DONE, f"{URL} (open)"),
    (there(branch=None), "open-pr", OUT_OF_ORDER, f"{URL} (open)"),
    (both(not_merged, fact("pull_request", UNSEEN)), "review", NOT_SEEN, "cannot connect"),
    (both(not_merged, fact("pull_request", None)), "review", WAITING, "there is no pull request"),
    (request("open", "none"), "review", WAITING, "not approved yet"),
    (request("open", "changes"), "review", TO_DO, "changes are asked for"),
    (request("open", "approved"), "review", DONE, "approved"),
    (request("closed", "approved"), "review", OUT_OF_ORDER, "approved"),
    (request("merged", "none"), "review", DONE, "merged"),
    (request("open", "approved"), "merge", TO_DO, "not in main"),
    (request("open", "none"), "merge", WAITING, "not in main"),
    (request("merged", "none"), "merge", DONE, "merged into main"),
    (both(request("open", "none"), there(merged=True), request("open", "none")), "merge", WAITING, "not in main"),
    (both(request("open", "approved"), fact("there", UNSEEN)), "merge", NOT_SEEN, "cannot connect"),
    (both(request("merged", "approved"), fact("there", UNSEEN)), "merge", DONE, "merged into main"),
    (both(there(merged=None), request("open", "approved"), there(merged=None)), "merge", TO_DO, "not in main"),
    (both(there(merged=None), fact("pull_request", UNSEEN)), "merge", NOT_SEEN, "git fetch origin"),
    (fact("pull_request", UNSEEN), "merge", DONE, "merged into main"),
    (fact("pull_request", PullRequest(URL, "open", "none")), "merge", OUT_OF_ORDER, "merged into main"),
]


@pytest.mark.parametrize(
    ("change", "name", "mark", "words"),
    STEPS,
    ids=[f"{number}-{name}-{mark.value}" for number, (_, name, mark, _) in enumerate(STEPS)],
)
def test_every_step_has_the_mark_that_the_facts_give_it(
    facts: ReleaseFacts, change: Change, name: str, mark: Mark, words: str
) -> None:
    seen = make_plan(change(facts)).step(name)
    assert (seen.mark, words in seen.observed) == (mark, True), seen


def test_the_table_has_every_step_in_every_mark_that_it_can_have() -> None:
    needless = {"branch", "index-script", "tracker-script", "docs"}  # neither waiting nor out of order
    here_only = {"index-script", "tracker-script", "docs"}  # read from the work tree: always seen
    expected = {
        (each.name, mark)
        for phase in PHASES.values()
        for each in phase
        for mark in Mark
        if not (each.name in needless and mark in (WAITING, OUT_OF_ORDER))
        if not (each.name in here_only and mark is NOT_SEEN)
    }
    covered = {(name, mark) for _, name, mark, _ in STEPS}
    # Done is covered by the plan in which all is.
    assert {(name, mark) for name, mark in expected - covered if mark is not DONE} == set()


# --- what is not seen -----------------------------------------------------------------------------------------------


def test_without_a_network_only_the_steps_of_the_server_and_of_the_pull_request_are_not_seen(
    facts: ReleaseFacts,
) -> None:
    facts = both(server_unseen, fact("there", UNSEEN), fact("pull_request", UNSEEN))(facts)
    plan = make_plan(facts)
    on_the_server = {"index-deploy", "index-run", "index-verify", "index-enable", "tracker-deploy", "tracker-test"}
    unseen = {*on_the_server, "push", "open-pr", "review", "merge"}
    assert others(plan) == dict.fromkeys(unseen, NOT_SEEN)
    assert (plan.next, plan.exit_code) == (None, 3)


def test_what_could_not_be_seen_is_told_in_full_once(facts: ReleaseFacts) -> None:
    plan = make_plan(server_unseen(facts), ["passed over: x.json: it is empty"])
    assert plan.notes == [UNSEEN.error, "passed over: x.json: it is empty"]


@pytest.mark.parametrize("name", ["records", "here", "there", "pull_request"])
def test_each_fact_that_could_not_be_had_is_told_of(facts: ReleaseFacts, name: str) -> None:
    assert make_plan(fact(name, UNSEEN)(facts)).notes == [UNSEEN.error]


def test_what_is_to_do_counts_before_what_is_not_seen(facts: ReleaseFacts) -> None:
    plan = make_plan(both(server_unseen, database("tracker", flaws=["uses cp"]))(facts))
    assert plan.next
    assert (plan.next.name, plan.exit_code) == ("tracker-script", 1)


@pytest.mark.parametrize(
    "change", [on_host("tracker", script=None), on_host("tracker", script=UNSEEN, backups=UNSEEN, enabled=UNSEEN)]
)
def test_optional_steps_count_neither_for_the_next_step_nor_for_the_exit_code(
    facts: ReleaseFacts, change: Change
) -> None:
    plan = make_plan(change(facts))
    assert set(others(plan)) == {"tracker-deploy", "tracker-test"}
    assert (plan.next, plan.exit_code) == (None, 0)
    assert plan.passed_over == [step for step in plan.steps if step.optional and step.mark is TO_DO]


def test_what_is_optional_is_passed_over_only_before_the_next_step(facts: ReleaseFacts) -> None:
    plan = make_plan(both(on_host("tracker", script=None), on_host("index", enabled=False))(facts))
    assert plan.next
    assert (plan.next.name, plan.step("tracker-deploy").mark, plan.passed_over) == ("index-enable", TO_DO, [])


def test_while_others_have_to_act_nothing_is_to_do(facts: ReleaseFacts) -> None:
    plan = make_plan(request("open", "none")(facts))
    assert others(plan) == {"review": WAITING, "merge": WAITING}
    assert (plan.next, plan.exit_code) == (None, 0)


# --- a trial of this very script ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "mark"),
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
def test_only_a_trial_of_this_very_script_that_passed_counts(
    facts: ReleaseFacts, kept: list[Record], mark: Mark
) -> None:
    others_of_it = [verification(name) for name in DATABASES]
    assert make_plan(records(*kept, *others_of_it)(facts)).step("index-test").mark is mark


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
def test_a_backup_counts_that_was_made_after_the_script_was_put_there(
    facts: ReleaseFacts, after: timedelta, mark: Mark
) -> None:
    file = backup_of("index", SINCE + after)
    plan = make_plan(
        both(on_host("index", backups=[file]), records(rehearsal("index"), verification("index", file)))(facts)
    )
    assert plan.step("index-run").mark is mark
    assert plan.step("index-verify").mark is (DONE if mark is DONE else WAITING)


def test_older_backups_count_no_more_once_the_script_is_put_there_again(facts: ReleaseFacts) -> None:
    again = InstalledScript("755", script_of("index").content, MADE + timedelta(seconds=1))
    plan = make_plan(on_host("index", script=again)(facts))
    assert (plan.step("index-deploy").mark, plan.step("index-run").mark) == (DONE, TO_DO)
    assert plan.step("index-verify").mark is WAITING
    assert plan.step("index-enable").mark is OUT_OF_ORDER


@pytest.mark.parametrize(
    ("kept", "mark", "words"),
    [
        ([verification("index")], DONE, "passed"),
        ([verification("index", created=None)], DONE, "passed"),  # of schema 1
        ([verification("index", created=MADE.astimezone(timezone.utc).isoformat())], DONE, "passed"),
        ([verification("index", host="other")], TO_DO, "is not verified"),
        ([verification("index", checks=QUICK)], TO_DO, "is not verified"),
        ([verification("index"), verification("index", checks=QUICK)], DONE, "passed"),
        ([verification("index", checks=QUICK, exit_status=1)], TO_DO, "FAILED"),
        ([verification("index", host="local")], TO_DO, "is not verified"),
        ([verification("index", database="tracker")], TO_DO, "is not verified"),
        ([verification("index", kind="run")], TO_DO, "is not verified"),
        ([verification("index", backup="/elsewhere/backup_2026-11-24_20-05-00.db")], TO_DO, "is not verified"),
        ([verification("index", backup=None)], TO_DO, "is not verified"),
        ([verification("index", bytes=4097)], TO_DO, "is not verified"),
        ([verification("index", bytes=None, created=None)], TO_DO, "is not verified"),
        ([verification("index", created=(MADE + timedelta(microseconds=1)).isoformat())], TO_DO, "is not verified"),
        ([verification("index", exit_status=1)], TO_DO, "FAILED"),
        ([verification("index", exit_status=3, checks=checks(True, None))], TO_DO, "not all checks could be made"),
        ([verification("index", checks=checks(True, False))], TO_DO, "FAILED"),
        ([verification("index", checks=[])], TO_DO, "FAILED"),
        ([verification("index"), verification("index", exit_status=1)], TO_DO, "FAILED"),
        ([verification("index", exit_status=1), verification("index")], DONE, "passed"),
        ([verification("index"), verification("index", exit_status=1, host="other")], DONE, "passed"),
    ],
)
def test_only_a_verification_of_that_very_file_counts_and_the_last_one_at_that(
    facts: ReleaseFacts, kept: list[Record], mark: Mark, words: str
) -> None:
    facts = both(on_host("index", enabled=False), records(rehearsal("index"), *kept))(facts)
    seen = make_plan(facts).step("index-verify")
    assert (seen.mark, words in seen.observed) == (mark, True), seen


NEWER = backup_of("index", MADE + timedelta(hours=1))


@pytest.mark.parametrize(
    ("enabled", "kept", "mark"),
    [
        (False, [verification("index")], TO_DO),
        (None, [verification("index")], TO_DO),
        (UNSEEN, [verification("index")], TO_DO),
        (True, [verification("index")], DONE),
        (True, [], TO_DO),
        (False, [verification("index", NEWER)], DONE),
        (True, [verification("index"), verification("index", NEWER, exit_status=1)], TO_DO),
        (True, [verification("index", NEWER, exit_status=1), verification("index")], TO_DO),
        (True, [verification("index", exit_status=1), verification("index", NEWER)], DONE),
    ],
)
def test_the_newest_backup_is_to_be_verified_unless_cron_makes_new_ones(
    facts: ReleaseFacts, enabled: bool | Unavailable | None, kept: list[Record], mark: Mark
) -> None:
    facts = both(
        on_host("index", backups=[NEWER, backup_of("index")], enabled=enabled), records(rehearsal("index"), *kept)
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
    [lambda facts: facts, on_host("index", backups=[NEWER, backup_of("index")], enabled=False), records()],
    ids=["all done", "a newer backup", "nothing kept"],
)
def test_a_clock_that_is_off_against_that_of_the_server_changes_no_mark(
    facts: ReleaseFacts, change: Change, hours: int
) -> None:
    facts = change(facts)
    assert marks(make_plan(shifted_records(facts, timedelta(hours=hours)))) == marks(make_plan(facts))


# --- merged ---------------------------------------------------------------------------------------------------------


def ways_to_be_merged() -> Iterator[Change]:
    yield both(here(), fact("there", RemoteState("u", "a" * 40, merged=True)), fact("pull_request", UNSEEN))
    yield request("merged", "approved")
    yield both(request("merged", "approved"), fact("there", UNSEEN))


@pytest.mark.parametrize(
    "way", list(ways_to_be_merged()), ids=["by its commits", "by the pull request", "remote unseen"]
)
@pytest.mark.parametrize("branch", [None, "a" * 40], ids=["branch deleted", "branch kept"])
def test_a_release_that_is_merged_has_its_branch_and_its_push(
    facts: ReleaseFacts, way: Change, branch: str | None
) -> None:
    plan = make_plan(way(here(current="main", branch=branch)(facts)))
    assert {plan.step(name).mark for name in ("branch", "push", "merge")} == {DONE}
    assert plan.next is None


def test_a_release_that_was_merged_as_one_commit_has_nothing_more_to_commit(facts: ReleaseFacts) -> None:
    plan = make_plan(both(here(current="main", branch=None, commits={}), request("merged", "approved"))(facts))
    assert others(plan) == {}
