"""Do the steps of a release."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TypeAlias

from ..errors import CouldNotLookError, StepError
from ..project import ROOT, task_command
from ..rehearsal.options import RehearsalOptions
from ..rehearsal.rehearse import rehearse
from ..settings import Settings, rehearsal_settings
from ..ui.console import Console
from ..ui.outcome import Tone
from ..ui.tables import print_verification
from ..workflows import Session, deploy, enable, open_session, print_heading, run, verify
from .facts import Unavailable
from .observe import observe_facts, observe_plan, try_fact
from .plan import Mark, Plan, make_plan
from .pull_request import compare_address, plan_pull_request
from .report.page import Page, build_page, render_markdown
from .repository import (
    Change,
    Checkout,
    apply,
    check_pushed,
    commit_part,
    open_checkout,
    plan_branch,
    plan_commit,
    plan_push,
)


def observe_report(settings: Settings) -> Page:
    """Observe the plan and the records, and choose what the report shows."""
    facts, damaged = observe_facts(settings)
    records = facts.records
    known = (
        None if isinstance(records, Unavailable) or (damaged and not records) else records
    )  # the plan's notes say why
    return build_page(make_plan(facts, damaged), known, settings.databases, datetime.now(timezone.utc))


def branch(settings: Settings, out: Console, dry_run: bool = False) -> None:
    """Get onto the release's branch; raises StepError."""
    checkout = open_checkout(settings)
    _apply(checkout, plan_branch(checkout), out, dry_run)


def commit(settings: Settings, part: str, out: Console, dry_run: bool = False) -> None:
    """Commit the files of a part of the release, and nothing else; raises StepError."""
    checkout = open_checkout(settings)
    files, message = commit_part(settings, part)
    _apply(checkout, plan_commit(checkout, files, message), out, dry_run)


def push(settings: Settings, out: Console, dry_run: bool = False) -> None:
    """Push the branch, never by force; raises StepError."""
    checkout = open_checkout(settings)
    _apply(checkout, plan_push(checkout), out, dry_run)


def open_pr(settings: Settings, out: Console, dry_run: bool = False) -> None:
    """Open the pull request, with a body made of the evidence.

    Raises StepError where the branch is not pushed. Where `gh` cannot do it, prints the body and raises
    CouldNotLookError with the page on which it is opened by hand.
    """
    checkout = open_checkout(settings)
    check_pushed(checkout)
    change = try_fact(lambda: plan_pull_request(checkout))
    if isinstance(change, Change) and not change.commands:
        _apply(checkout, change, out, dry_run)
        return
    body = render_markdown(observe_report(settings))
    if dry_run or isinstance(change, Unavailable):
        out.say(body)
    if isinstance(change, Unavailable):
        address = compare_address(checkout)
        where = address or "where, cannot be told: the address of the remote is not one of github.com"
        raise CouldNotLookError(
            "the pull request was not opened",
            output=change.error,
            advice=f"see to that, or open it by hand, with the text above: {where}",
        )
    _apply(checkout, replace(change, given=body), out, dry_run)


def _apply(checkout: Checkout, change: Change, out: Console, dry_run: bool) -> None:
    if dry_run and change.commands:
        commands = "\n".join(f"  {shlex.join(words)}" for words in change.commands)
        out.say(f"would run in {checkout.path}:\n{commands}")
        return
    apply(checkout, change)
    out.say(change.done)


Act: TypeAlias = Callable[[Settings, Console, bool], None]  # the last one: a dry run


@dataclass(frozen=True)
class Action:
    """How a step is done: its task, and the same as a function, which in a dry run only shows the commands."""

    task: str
    act: Act
    on_host: bool = True
    has_dry_run: bool = True

    def command(self, host: str) -> str:
        """Return the command line of the task, for the user to type."""
        return task_command(self.task, host) if self.on_host else f"./inv {self.task}"


def _act_on_host(task: str, database: str, workflow: Callable[[Session], object], kind: str) -> Action:
    def act(settings: Settings, out: Console, dry_run: bool) -> None:
        target = settings.database(database)
        print_heading(out, settings, task, target)
        with open_session(settings, target, out, kind, dry_run) as work:
            workflow(work)

    return Action(task, act)


def _verify(settings: Settings, out: Console, dry_run: bool) -> None:
    target = settings.database("index")
    print_heading(out, settings, "verify", target)
    with open_session(settings, target, out, "verification") as work:
        verification = verify(work)
    print_verification(out, verification)


def _act_in_git(task: str, act: Act) -> Action:
    return Action(task, act, on_host=False)


def _commit(part: str) -> Act:
    return lambda settings, out, dry_run: commit(settings, part, out, dry_run)


def _rehearse(settings: Settings, out: Console, dry_run: bool) -> None:
    rehearse(rehearsal_settings(settings), RehearsalOptions(), False, out)


ACTIONS = {
    "branch": _act_in_git("release.branch", branch),
    "index-test": Action("rehearse", _rehearse, on_host=False, has_dry_run=False),
    "index-deploy": _act_on_host("deploy-index-backup", "index", deploy, "deploy"),
    "index-run": _act_on_host("run-index-backup", "index", run, "run"),
    "index-verify": Action("verify", _verify, has_dry_run=False),
    "index-enable": _act_on_host("enable-index-backup", "index", enable, "enable"),
    "index-commit": _act_in_git("release.commit-index-backup", _commit("index")),
    "tracker-commit": _act_in_git("release.commit-tracker-backup", _commit("tracker")),
    "docs-commit": _act_in_git("release.commit-docs", _commit("docs")),
    "push": _act_in_git("release.push", push),
    "open-pr": Action("release.open-pr", open_pr),
}
BY_HAND = {  # THERE: the checkout that is released
    "index-script": f"edit it in THERE, or take the one of this project: it is in {ROOT / 'share/bin'}",
    "tracker-script": f"edit it in THERE, or take the one of this project: it is in {ROOT / 'share/bin'}",
    "docs": "write it in THERE: the method, by its name .backup, and how to check and restore a backup",
    "review": "answer the reviewers, commit, and push again",
    "merge": "merge it, on its page or by gh pr merge",
}


def do_next(settings: Settings, out: Console, yes: bool) -> None:
    """Do the next step of the plan: show its commands, ask, act, and look whether the plan says that it is done.

    Raises StepError where it is not done; CouldNotLookError where nothing is seen to be to do; SettingsError where
    the checkout that is released is none: each further step would be sought in the wrong place.
    """
    with contextlib.suppress(CouldNotLookError):  # without git the plan still stands
        open_checkout(settings)
    before = observe_plan(settings)
    step = before.next
    if step is None:
        _report_no_next_step(before, out)
        return
    for optional in before.passed_over:
        out.say(f"skipped, since it is optional: {optional.name} ({optional.title})")
    out.say(f"next: {step.name}: {step.title} ({step.observed})")
    action = ACTIONS.get(step.name)
    if action is None:
        advice = BY_HAND[step.name].replace("THERE", str(settings.repository))
        raise StepError(f"{step.name} is done by hand", output=step.observed, advice=advice)
    out.say(f"  {action.command(before.host)}")
    if action.has_dry_run:
        action.act(settings, out, True)
    if not yes:
        _confirm()
        # While nobody answered, the script may have been edited, or the step been done by somebody else.
        if observe_plan(settings).next != step:
            raise StepError("nothing was done: the plan is not as it was when you were asked", advice="do this again")
    action.act(settings, out, False)
    after = observe_plan(settings)
    seen = after.step(step.name)
    if seen.mark is not Mark.DONE:
        raise StepError(
            f"{step.name} is not done: the plan says {seen.mark.value!r}",
            output="\n".join([seen.observed, *after.notes]),
            advice=task_command("plan", before.host),
        )
    out.say(f"done: {step.name} ({seen.observed})", Tone.GOOD)


def _report_no_next_step(seen: Plan, out: Console) -> None:
    left = [step for step in seen.steps if step.mark is not Mark.DONE and not step.optional]
    words = [f"{step.name} {step.mark.value}: {step.observed}" for step in left]
    unseen = [step.name for step in left if step.mark is Mark.UNKNOWN]
    if unseen:
        by_hand = f"; or open the pull request by hand, with what {ACTIONS['open-pr'].command(seen.host)} prints"
        raise CouldNotLookError(
            "what is next cannot be seen",
            host=seen.host,
            output="\n".join([*words, *seen.notes]),
            advice=f"see to that, and do this again{by_hand if unseen[0] == 'open-pr' else ''}",
        )
    first = "nothing is to do now" if left else "nothing is to do: the release is done"
    out.say("\n".join([first, *words]))


def _confirm() -> None:
    """Ask on the terminal; raises StepError unless the answer is yes."""
    if not sys.stdin or not sys.stdin.isatty():  # there is none where it was closed
        raise StepError("nothing was done: there is no terminal to ask on", advice="say --yes to do it all the same")
    try:
        answer = input("do it? [y/N] ")
    except EOFError:  # Ctrl-D
        answer = ""
        print()
    if answer.strip().lower() not in ("y", "yes"):
        raise StepError("nothing was done")
