"""Do the steps of a release: the git steps, the pull request, and the next step of the plan."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timezone

from ..errors import CouldNotLookError, StepError
from ..project import ROOT, task_command
from ..remote.fact import Unavailable, try_fact
from ..remote.terminal import ask_yes_no
from ..settings.model import Settings
from ..ui.console import Console
from ..ui.outcome import Tone
from ..ui.tables import print_verification
from ..workflows.backups import run, verify
from ..workflows.crontab import enable
from ..workflows.guarded_session import open_guarded_session
from ..workflows.scripts import deploy
from ..workflows.session import Session, print_heading
from .git_changes import plan_branch, plan_commit, plan_push, require_pushed
from .observe import observe_facts, observe_plan
from .plan import Mark, MarkedStep, Plan, make_plan
from .pull_request import compare_url, plan_pull_request
from .report.page import Page, build_page
from .report.render import render_markdown
from .repository import Change, Checkout, apply, commit_part, open_checkout, open_release_checkout


def observe_report(settings: Settings) -> Page:
    """Collect what the report shows: the plan and the records."""
    facts, invalid_records = observe_facts(settings)
    records = facts.records
    # Without readable records, the notes of the plan say why.
    readable = None if isinstance(records, Unavailable) or (invalid_records and not records) else records
    plan = make_plan(facts, invalid_records)
    return build_page(plan, readable, settings.databases, datetime.now(timezone.utc))


# --- git ------------------------------------------------------------------------------------------------------------


def branch(settings: Settings, out: Console, dry_run: bool = False) -> None:
    """Switch to the branch of the release, and create it if it does not exist; raises StepError."""
    checkout = open_release_checkout(settings)
    _apply(checkout, plan_branch(checkout), out, dry_run)


def commit(settings: Settings, part: str, out: Console, dry_run: bool = False) -> None:
    """Commit the files of a part of the release, and nothing else; raises StepError."""
    checkout = open_release_checkout(settings)
    files, message = commit_part(settings, part)
    _apply(checkout, plan_commit(checkout, files, message), out, dry_run)


def push(settings: Settings, out: Console, dry_run: bool = False) -> None:
    """Push the branch, never by force; raises StepError."""
    checkout = open_release_checkout(settings)
    _apply(checkout, plan_push(checkout), out, dry_run)


def open_pr(settings: Settings, out: Console, dry_run: bool = False) -> None:
    """Open the pull request with the report as its text, or update the text of an open one; print its address.

    Raises StepError if the branch is not pushed, or the pull request was closed. If `gh` cannot be used, prints the
    text and raises CouldNotLookError with the page on which it can be opened by hand.
    """
    checkout = open_release_checkout(settings)
    require_pushed(checkout)
    text = render_markdown(observe_report(settings))
    change = try_fact(lambda: plan_pull_request(checkout, text), CouldNotLookError)
    if isinstance(change, Unavailable):
        out.say(text)
        page = compare_url(checkout) or "the page of the repository (the remote is not on github.com)"
        raise CouldNotLookError(
            "the pull request was not opened",
            output=change.error,
            advice=f"fix that, or open it by hand with the text above: {page}",
        )
    if dry_run and change.is_needed:
        out.say(change.stdin or "")
    _apply(checkout, change, out, dry_run)


def _apply(checkout: Checkout, change: Change, out: Console, dry_run: bool) -> None:
    if dry_run and change.is_needed:
        commands = "\n".join(f"  {shlex.join(command)}" for command in change.commands)
        out.say(f"would run in {checkout.path}:\n{commands}")
        return
    address = re.search(r"^https?://\S+$", apply(checkout, change), re.MULTILINE)
    out.say(f"{change.summary}: {address[0]}" if address else change.summary)


# --- the actions of the plan ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ActionContext:
    """What an action of the plan works with; `rehearse` runs the rehearsal."""

    settings: Settings
    out: Console
    rehearse: Callable[[], None]


@dataclass(frozen=True)
class Action:
    """How a step of the plan is done: the name of its task, and a function `run(context, dry_run)`."""

    task: str
    run: Callable[[ActionContext, bool], None]
    takes_host: bool = True
    has_dry_run: bool = True

    def command(self, host: str) -> str:
        """Return the command line of the task."""
        return task_command(self.task, host) if self.takes_host else f"./inv {self.task}"


def _session_action(task: str, database: str, workflow: Callable[[Session], object], kind: str) -> Action:
    def run_in_session(context: ActionContext, dry_run: bool) -> None:
        with _open_session(context, task, database, kind, dry_run) as session:
            workflow(session)

    return Action(task, run_in_session)


def _open_session(
    context: ActionContext, task: str, database: str, kind: str, dry_run: bool
) -> AbstractContextManager[Session]:
    target = context.settings.database(database)
    print_heading(context.out, context.settings, task, target)
    return open_guarded_session(context.settings, target, context.out, kind, dry_run)


def _git_action(task: str, step: Callable[[Settings, Console, bool], None]) -> Action:
    return Action(task, lambda context, dry_run: step(context.settings, context.out, dry_run), takes_host=False)


def _commit_action(task: str, part: str) -> Action:
    return _git_action(task, lambda settings, out, dry_run: commit(settings, part, out, dry_run))


def _verify(context: ActionContext, dry_run: bool) -> None:
    with _open_session(context, "verify", "index", "verification", dry_run) as session:
        print_verification(context.out, verify(session))


def _rehearse(context: ActionContext, dry_run: bool) -> None:
    context.rehearse()


def _open_pr(context: ActionContext, dry_run: bool) -> None:
    open_pr(context.settings, context.out, dry_run)


ACTIONS = {
    "branch": _git_action("release.branch", branch),
    "index-test": Action("rehearse", _rehearse, takes_host=False, has_dry_run=False),
    "index-deploy": _session_action("deploy-index-backup", "index", deploy, "deploy"),
    "index-run": _session_action("run-index-backup", "index", run, "run"),
    "index-verify": Action("verify", _verify, has_dry_run=False),
    "index-enable": _session_action("enable-index-backup", "index", enable, "enable"),
    "index-commit": _commit_action("release.commit-index-backup", "index"),
    "tracker-commit": _commit_action("release.commit-tracker-backup", "tracker"),
    "docs-commit": _commit_action("release.commit-docs", "docs"),
    "push": _git_action("release.push", push),
    "open-pr": Action("release.open-pr", _open_pr),
}

MANUAL_STEPS = {  # CHECKOUT is replaced by the path of the checkout
    "index-script": f"edit it in CHECKOUT, or copy the one of this project from {ROOT / 'share/bin'}",
    "tracker-script": f"edit it in CHECKOUT, or copy the one of this project from {ROOT / 'share/bin'}",
    "docs": "describe the .backup method in CHECKOUT, and how to verify and restore a backup",
    "review": "answer the reviewers, commit, and push again",
    "merge": "merge it on its page, or with gh pr merge; ./inv next then shows how to update the server's checkout",
}


# --- after the merge ------------------------------------------------------------------------------------------------


def update_commands(settings: Settings, scripts: Sequence[str]) -> list[str]:
    """Return the commands that update the application's own checkout on the server after the merge.

    There, `git pull` refuses to overwrite the deployed scripts, and everything that puts them away first (git stash,
    git checkout, git reset --hard) brings the old ones back for a moment. With the scripts in the index as they are in
    the base branch, git moves on to that branch and leaves their files alone. Nothing is changed if they differ.
    """
    base = shlex.quote(f"origin/{settings.release.base}")
    files = shlex.join(scripts)
    steps = [f"cd {shlex.quote(str(settings.app_dir))} && git fetch origin"]
    if scripts:
        steps.append(
            f"git --no-pager diff --exit-code {base} -- {files} && git add -- {files} && git merge --ff-only {base}"
        )
    else:
        steps.append(f"git merge --ff-only {base}")
    return steps


# --- the next step --------------------------------------------------------------------------------------------------


def do_next(settings: Settings, out: Console, yes: bool, rehearse: Callable[[], None]) -> None:
    """Do the next step of the plan: show its commands, ask, act, and check that the plan marks it as done.

    Raises StepError if the step is manual, or not done afterwards; CouldNotLookError if the next step is unknown;
    SettingsError if release.repository is not a checkout. `rehearse` runs the rehearsal, if that is the next step.
    """
    with contextlib.suppress(CouldNotLookError):  # without git, the plan still shows the other steps
        open_checkout(settings)
    plan = observe_plan(settings)
    step = plan.next
    if step is None:
        _report_no_next_step(settings, plan, out)
        return
    for optional in plan.skipped:
        out.say(f"skipped (optional): {optional.name}: {optional.title}")
    out.say(f"next: {step.name}: {step.title} ({step.details})")
    action = ACTIONS.get(step.name)
    if action is None:
        advice = MANUAL_STEPS[step.name].replace("CHECKOUT", str(settings.repository))
        raise StepError(f"{step.name} is a manual step", output=step.details, advice=advice)
    out.say(f"  {action.command(plan.host)}")
    context = ActionContext(settings, out, rehearse)
    if action.has_dry_run:
        action.run(context, True)
    if not yes:
        _confirm()
        # Meanwhile the script may have been edited, or somebody else may have done the step.
        if observe_plan(settings).next != step:
            raise StepError("nothing was done: the plan changed before you confirmed", advice="run it again")
    action.run(context, False)
    _check_done(observe_plan(settings), step.name, out)


def _check_done(plan: Plan, name: str, out: Console) -> None:
    step = plan.step(name)
    if step.mark is not Mark.DONE:
        raise StepError(
            f"{name} is not done: the plan marks it {step.mark.value!r}",
            output="\n".join([step.details, *plan.notes]),
            advice=task_command("plan", plan.host),
        )
    out.say(f"done: {name} ({step.details})", Tone.GOOD)


def _report_no_next_step(settings: Settings, plan: Plan, out: Console) -> None:
    """Print that there is nothing to do; raises CouldNotLookError if a step is unknown."""
    remaining = [step for step in plan.steps if step.mark is not Mark.DONE and not step.optional]
    lines = _describe_marks(remaining)
    unknown = [step.name for step in remaining if step.mark is Mark.UNKNOWN]
    if unknown:
        by_hand = {
            "branch": f", or, if the release has not started: {ACTIONS['branch'].command(plan.host)}",
            "open-pr": f", or open the pull request by hand with the output of {ACTIONS['open-pr'].command(plan.host)}",
            "index-test": f", or do the step again: {ACTIONS['index-test'].command(plan.host)}",
            "index-verify": f", or do the step again: {ACTIONS['index-verify'].command(plan.host)}",
        }
        raise CouldNotLookError(
            "the next step is unknown",
            host=plan.host,
            output="\n".join([*lines, *plan.notes]),
            advice=f"fix that and run it again{by_hand.get(unknown[0], '')}",
        )
    summary = "nothing to do now" if remaining else "nothing to do: the release is complete"
    out.say("\n".join([summary, *lines]))
    if not remaining:
        commands = "\n".join(f"  {command}" for command in update_commands(settings, plan.deployed))
        out.say(
            f"if {settings.app_dir} is a git checkout, update it on {plan.host} like this, not by git pull:\n{commands}"
        )


def _describe_marks(steps: list[MarkedStep]) -> list[str]:
    """Describe the marks of steps, with each reason once."""
    names: dict[tuple[str, str], list[str]] = {}
    for step in steps:
        names.setdefault((step.mark.value, step.details), []).append(step.name)
    return [f"{', '.join(group)} {mark}: {details}" for (mark, details), group in names.items()]


def _confirm() -> None:
    """Ask on the terminal; raises StepError unless the answer is yes."""
    is_confirmed = ask_yes_no("Do it?")
    if is_confirmed is None:
        raise StepError(
            "nothing was done: there is no terminal for the question",
            advice="use --yes to do the step without the question",
        )
    if not is_confirmed:
        raise StepError("nothing was done")
