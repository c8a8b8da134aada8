"""The release: observe all that its plan rests on, and do its steps."""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from . import backups, evidence, pages, plan, pull_request, reports, repository, schedule, scripts, steps
from .errors import BackupsError, CouldNotLookError, InterruptedRunError, StepError
from .hosts import Host, open_host, task_command
from .pages import Page
from .plan import DatabaseFacts, Facts, Mark, OnHost, Plan, Seen, Unseen
from .project import ROOT
from .rehearsal.rehearse import Play, rehearse
from .scripts import Deployed, Script
from .settings import Database, Settings, check_host, for_rehearsal

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
DATABASES = ("index", "tracker")
PARTS = (*DATABASES, "docs")  # of the release: one commit each


# --- observe --------------------------------------------------------------------------------------------------------


def look(ask: Callable[[], T]) -> Seen[T]:
    """Ask for a fact; one that cannot be had is a fact too."""
    try:
        return ask()
    except InterruptedRunError:
        raise
    except BackupsError as error:
        return Unseen(error.tried, str(error))


def observe(settings: Settings, name: str | None = None) -> Plan:
    """Look afresh at all that the plan rests on, for a host; raises SettingsError where there is no such plan."""
    return plan.make_plan(*_look_at_facts(settings, name))


def look_at_all(settings: Settings, name: str | None = None) -> Page:
    """Look afresh at the plan, for a host, and at the records: what the report shows; raises SettingsError."""
    facts, damaged = _look_at_facts(settings, name)
    records = facts.records
    known = None if isinstance(records, Unseen) or (damaged and not records) else records  # the plan's notes say why
    return pages.look(plan.make_plan(facts, damaged), known, settings.databases, datetime.now(timezone.utc))


def _look_at_facts(settings: Settings, name: str | None) -> tuple[Facts, list[str]]:
    """The facts, and words on each record that could not be read."""
    host = check_host(settings.host if name is None else name)
    records = look(lambda: evidence.read_all(evidence.folder(settings)))
    files = {name: repository.part(settings, name)[0] for name in PARTS}
    checkout = look(lambda: repository.open_checkout(settings))

    def in_checkout(ask: Callable[[repository.Checkout], T]) -> Seen[T]:
        return checkout if isinstance(checkout, Unseen) else look(lambda: ask(checkout))

    facts = Facts(
        host=host,
        release=settings.release,
        files=files,
        databases=_look_at_databases(settings, host),
        docs={file: _lacks(settings.repository / file) for file in settings.release.docs},
        records=records if isinstance(records, Unseen) else records[0],
        here=in_checkout(lambda there: repository.look_here(there, itertools.chain(*files.values()))),
        there=in_checkout(repository.look_there),
        pull_request=in_checkout(pull_request.look),
    )
    damaged = [] if isinstance(records, Unseen) else records[1]
    return facts, [f"passed over: {each.path}: {each.why}" for each in damaged]


def _lacks(doc: Path) -> str | None:
    try:
        text = doc.read_bytes()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if re.search(rb"^(<{7}|>{7}) ", text, re.MULTILINE):
        return "holds an unfinished merge"
    return None if re.search(rb"(?<![\w.])\.backup\b", text) else "does not tell of .backup"


def _look_at_databases(settings: Settings, host: str) -> dict[str, DatabaseFacts]:
    databases = [settings.database(name) for name in DATABASES]

    def ask() -> list[OnHost]:
        with open_host(settings, host) as there:
            crontab = look(lambda: schedule.read_crontab(there))
            return [_look_there(settings, there, database, crontab) for database in databases]

    seen = look(ask)
    on_host = [OnHost(seen, seen, seen)] * len(databases) if isinstance(seen, Unseen) else seen
    return {
        database.name: DatabaseFacts(*_look_here(database), there)
        for database, there in zip(databases, on_host, strict=True)
    }


def _look_here(database: Database) -> tuple[Script | None, list[str]]:
    try:
        script = scripts.read_script(database.local_script)
    except StepError as error:
        return None, [error.tried]
    return script, scripts.flaws(script.content.decode(errors="replace"))


def _look_there(settings: Settings, host: Host, database: Database, crontab: Seen[str | None]) -> OnHost:
    deployed = look(lambda: scripts.look_there(host, database))
    enabled = crontab if isinstance(crontab, Unseen) else _enabled(settings, database, deployed, crontab or "")
    return OnHost(deployed, look(lambda: backups.list_backups(host, database)), enabled)


def _enabled(
    settings: Settings, database: Database, deployed: Seen[Deployed | None], crontab: str
) -> Seen[bool | None]:
    if isinstance(deployed, Unseen):
        return deployed
    script = Script(database.local_script, deployed.content if deployed else b"")
    try:
        return schedule.is_enabled(crontab, schedule.job(settings, database, script))
    except StepError:
        return None  # by hand, as published


# --- act: git -------------------------------------------------------------------------------------------------------


def branch(settings: Settings, out: Console, dry_run: bool = False) -> None:
    """Get onto the release's branch; raises StepError."""
    checkout = repository.open_checkout(settings)
    _make(checkout, repository.plan_branch(checkout), out, dry_run)


def commit(settings: Settings, part: str, out: Console, dry_run: bool = False) -> None:
    """Commit the files of a part of the release, and nothing else; raises StepError."""
    checkout = repository.open_checkout(settings)
    files, message = repository.part(settings, part)
    _make(checkout, repository.plan_commit(checkout, files, message), out, dry_run)


def push(settings: Settings, out: Console, dry_run: bool = False) -> None:
    """Push the branch, never by force; raises StepError."""
    checkout = repository.open_checkout(settings)
    _make(checkout, repository.plan_push(checkout), out, dry_run)


def open_pr(settings: Settings, name: str | None, out: Console, dry_run: bool = False) -> None:
    """Open the pull request, with a body made of the evidence.

    Raises StepError where the branch is not pushed. Where `gh` cannot do it, prints the body and raises
    CouldNotLookError with the page on which it is opened by hand.
    """
    checkout = repository.open_checkout(settings)
    repository.check_pushed(checkout)
    change = look(lambda: pull_request.plan(checkout))
    if isinstance(change, repository.Change) and not change.commands:
        _make(checkout, change, out, dry_run)
        return
    body = pages.markdown(look_at_all(settings, name))
    if dry_run or isinstance(change, Unseen):
        out.print(body, soft_wrap=True)
    if isinstance(change, Unseen):
        address = pull_request.compare_address(checkout)
        where = address or "where, cannot be told: the address of the remote is not one of github.com"
        raise CouldNotLookError(
            "the pull request was not opened",
            printed=change.error,
            advice=f"see to that, or open it by hand, with the text above: {where}",
        )
    _make(checkout, replace(change, given=body), out, dry_run)


def _make(checkout: repository.Checkout, change: repository.Change, out: Console, dry_run: bool) -> None:
    if dry_run and change.commands:
        commands = "\n".join(f"  {shlex.join(words)}" for words in change.commands)
        out.print(reports.clean(f"would run in {checkout.path}:\n{commands}"), soft_wrap=True)
        return
    repository.make(checkout, change)
    out.print(reports.clean(change.done), soft_wrap=True)


# --- act: the next step ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Doing:
    """What a step of the plan is done with."""

    settings: Settings
    host: str
    out: Console


@dataclass(frozen=True)
class Action:
    """How a step is done: by which task, and the same as a function, which can show the commands only (`dry_run`)."""

    task: str
    do: Callable[[Doing, bool], None]
    of_host: bool = True
    has_dry_run: bool = True

    def command(self, host: str) -> str:
        """The task as a user types it."""
        return task_command(self.task, host) if self.of_host else f"./inv {self.task}"


def _on_host(task: str, database: str, do: Callable[[steps.Work, bool], object], kind: str) -> Action:
    def on_host(doing: Doing, dry_run: bool) -> None:
        with steps.begin(doing.settings, task, doing.host, database, doing.out, kind, dry_run) as work:
            do(work, dry_run)

    return Action(task, on_host)


def _verify(doing: Doing, dry_run: bool) -> None:
    with steps.begin(doing.settings, "verify", doing.host, "index", doing.out, "verification") as work:
        seen = steps.verify(work)
    reports.print_verification(doing.out, seen)


def _in_git(task: str, do: Callable[[Settings, Console, bool], None]) -> Action:
    return Action(task, lambda doing, dry_run: do(doing.settings, doing.out, dry_run), of_host=False)


def _commit(part: str) -> Callable[[Settings, Console, bool], None]:
    return lambda settings, out, dry_run: commit(settings, part, out, dry_run)


def _rehearse(doing: Doing, dry_run: bool) -> None:
    rehearse(for_rehearsal(doing.settings), Play(), False, doing.out)


def _open_pr(doing: Doing, dry_run: bool) -> None:
    open_pr(doing.settings, doing.host, doing.out, dry_run)


ACTIONS = {
    "branch": _in_git("branch", branch),
    "index-test": Action("rehearse", _rehearse, of_host=False, has_dry_run=False),
    "index-deploy": _on_host("deploy-index-backup", "index", steps.deploy, "deploy"),
    "index-run": _on_host("run-index-backup", "index", steps.run, "run"),
    "index-verify": Action("verify", _verify, has_dry_run=False),
    "index-enable": _on_host("enable-index-backup", "index", steps.enable, "enable"),
    "index-commit": _in_git("commit-index-backup", _commit("index")),
    "tracker-commit": _in_git("commit-tracker-backup", _commit("tracker")),
    "docs-commit": _in_git("commit-docs", _commit("docs")),
    "push": _in_git("push", push),
    "open-pr": Action("open-pr", _open_pr),
}
BY_HAND = {  # THERE: the checkout that is released
    "index-script": f"edit it in THERE, or take the one of this project: it is in {ROOT / 'share/bin'}",
    "tracker-script": f"edit it in THERE, or take the one of this project: it is in {ROOT / 'share/bin'}",
    "docs": "write it in THERE: the method, by its name .backup, and how to check and restore a backup",
    "review": "answer the reviewers, commit, and push again",
    "merge": "merge it, on its page or by gh pr merge",
}


def do_next(settings: Settings, name: str | None, out: Console, yes: bool) -> None:
    """Do the next step of the plan: show its commands, ask, act, and look whether the plan says that it is done.

    Raises StepError where it is not done; CouldNotLookError where nothing is seen to be to do; SettingsError where
    the checkout that is released is none: each further step would be sought in the wrong place.
    """
    with contextlib.suppress(CouldNotLookError):  # without git the plan still stands
        repository.open_checkout(settings)
    before = observe(settings, name)
    step = before.next
    if step is None:
        _say_that_nothing_is_to_do(before, out)
        return
    doing = Doing(settings, before.host, out)
    for optional in before.passed_over:
        out.print(f"passed over, since it is optional: {optional.name} ({optional.title})", soft_wrap=True)
    out.print(reports.clean(f"next: {step.name}: {step.title} ({step.observed})"), soft_wrap=True)
    action = ACTIONS.get(step.name)
    if action is None:
        advice = BY_HAND[step.name].replace("THERE", str(settings.repository))
        raise StepError(f"{step.name} is done by hand", printed=step.observed, advice=advice)
    out.print(f"  {action.command(before.host)}", soft_wrap=True)
    if action.has_dry_run:
        action.do(doing, True)
    if not yes:
        _confirm()
        # While nobody answered, the script may have been edited, or the step been done by somebody else.
        if observe(settings, name).next != step:
            raise StepError("nothing was done: the plan is not as it was when you were asked", advice="do this again")
    action.do(doing, False)
    after = observe(settings, name)
    seen = after.step(step.name)
    if seen.mark is not Mark.DONE:
        raise StepError(
            f"{step.name} is not done: the plan says {seen.mark.value!r}",
            printed="\n".join([seen.observed, *after.notes]),
            advice=task_command("plan", before.host),
        )
    out.print(reports.clean(f"done: {step.name} ({seen.observed})"), style="bold green", soft_wrap=True)


def _say_that_nothing_is_to_do(seen: Plan, out: Console) -> None:
    left = [step for step in seen.steps if step.mark is not Mark.DONE and not step.optional]
    words = [f"{step.name} {step.mark.value}: {step.observed}" for step in left]
    unseen = [step.name for step in left if step.mark is Mark.NOT_SEEN]
    if unseen:
        by_hand = f"; or open the pull request by hand, with what {ACTIONS['open-pr'].command(seen.host)} prints"
        raise CouldNotLookError(
            "what is next cannot be seen",
            host=seen.host,
            printed="\n".join([*words, *seen.notes]),
            advice=f"see to that, and do this again{by_hand if unseen[0] == 'open-pr' else ''}",
        )
    first = "nothing is to do now" if left else "nothing is to do: the release is done"
    out.print(reports.clean("\n".join([first, *words])), soft_wrap=True)


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
