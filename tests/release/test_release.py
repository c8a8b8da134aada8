"""A whole release: its plan from start to end, and what the plan shows when something is wrong."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from demo_backups.backup.script import read_script
from demo_backups.errors import COULD_NOT_LOOK, StepError
from demo_backups.project import ROOT
from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import SCHEMA, new_record
from demo_backups.records.store import write_record
from demo_backups.rehearsal.database import make_tracker
from demo_backups.rehearsal.options import RehearsalOptions
from demo_backups.rehearsal.rehearse import rehearse
from demo_backups.rehearsal.server import ALIAS
from demo_backups.release.actions import ACTIONS, ActionContext, _confirm, do_next
from demo_backups.release.observe import observe_plan
from demo_backups.release.plan import Plan
from demo_backups.settings.load import rehearsal_settings, select_host
from demo_backups.settings.model import Settings
from demo_backups.ui.console import make_console

from ..helpers.github import GH, GitHub, github
from ..helpers.release_repository import BRANCH, DOCS, SCRIPTS, ReleaseRepository, empty_repository, release_repository
from ..helpers.tasks import INV, DemoServer, InvRunner, assert_exit, assert_success
from ..helpers.terminal import terminal

__all__ = ["empty_repository", "github", "release_repository"]  # fixtures

STEPS = {
    "Index database": [
        *("branch", "index-script", "index-test", "index-deploy", "index-run", "index-verify", "index-enable"),
        "index-commit",
    ],
    "Tracker database": ["tracker-script", "tracker-deploy", "tracker-test", "tracker-commit"],
    "Documentation": ["docs", "docs-commit"],
    "Pull request": ["push", "open-pr", "review", "merge"],
}
OPTIONAL = {"tracker-deploy", "tracker-test"}
SERVER_MARKS = {"index-deploy", "index-run", "index-verify", "index-enable", *OPTIONAL}
GITHUB_STEPS = {"open-pr", "review"}
SERVER_STEPS = ("index-deploy", "index-run", "index-verify", "index-enable")
GIT_STEPS = ("branch", "index-commit", "tracker-commit", "docs-commit", "push")

Done = subprocess.CompletedProcess[str]


@dataclass
class Release:
    """A release in progress: its repository and its server."""

    demo: DemoServer
    repository: ReleaseRepository
    settings: Settings
    folder: Path

    @property
    def evidence(self) -> Path:
        return Path(self.settings.evidence_dir)

    @property
    def script(self) -> Path:
        """The index script that is released."""
        return self.repository.path / SCRIPTS[0]

    @property
    def backup(self) -> Path:
        """The only backup there."""
        (path,) = self.demo.backups.glob("*.db")
        return path

    def plan(self, host: str | None = None) -> Plan:
        """The plan as it stands."""
        return observe_plan(select_host(self.settings, host) if host else self.settings)

    def do(self, *names: str, host: str = ALIAS) -> None:
        """Do steps as `inv next` does, without regard to the plan."""
        context = ActionContext(select_host(self.settings, host), make_console(io.StringIO()), self.rehearse)
        for name in names:
            ACTIONS[name].run(context, False)

    def rehearse(self) -> None:
        """Rehearse the index database."""
        rehearse(rehearsal_settings(self.settings), RehearsalOptions(), False, make_console(io.StringIO()))

    def add_record(self, kind: str, **changes: Any) -> None:
        """Write a record of something that passed."""
        sha256 = read_script(self.script).sha256
        record = new_record(kind, ALIAS, "index", script_sha256=sha256, exit_status=0)
        record.checks = [Check("size", Outcome.PASSED, "")]
        write_record(self.evidence, replace(record, **changes))

    def rewrite(self, kind: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Rewrite the only record of a kind."""
        (path,) = self.evidence.glob(f"*_{kind}_{ALIAS}_*.json")
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))

    def install_gh(self, github: GitHub) -> None:
        """Put the real gh on the PATH, with a local GitHub."""
        folder = self.folder / "with gh"
        folder.mkdir()
        (folder / "gh").symlink_to(GH or "/nowhere")
        path = f"{folder}:{os.environ['PATH']}"
        self.demo.environment = {**self.demo.environment, **github.variables, "PATH": path}
        os.environ["PATH"] = path  # put back by the fixture


@functools.cache
def path_without_gh(folder: Path) -> str:
    """Return the PATH without gh; the other programs of its directory stay, as links in a folder."""
    folders = [Path(name) for name in os.environ["PATH"].split(os.pathsep)]
    for number, each in enumerate(folders):
        if os.access(each / "gh", os.F_OK):  # a folder of PATH may be closed to this user
            folders[number] = folder / f"programs without gh {number}"
            folders[number].mkdir()
            for tool in each.iterdir():
                if tool.name != "gh":
                    (folders[number] / tool.name).symlink_to(tool)
    return os.pathsep.join(map(str, folders))


@pytest.fixture
def release(
    demo_server: DemoServer,
    release_repository: ReleaseRepository,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Release:
    """A release that has not started, without the GitHub CLI."""
    path = path_without_gh(tmp_path_factory.getbasetemp())
    variables = {**release_repository.variables, "PATH": path, "COLUMNS": "160"}
    demo_server.environment = {**demo_server.environment, **variables}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    release_settings = demo_server.settings.release.model_copy(update={"repository": str(release_repository.path)})
    changes = {"evidence_dir": demo_server.environment["INVOKE_EVIDENCE_DIR"], "release": release_settings}
    return Release(demo_server, release_repository, demo_server.settings.model_copy(update=changes), tmp_path)


def marks(plan: Plan) -> dict[str, str]:
    return {step.name: step.mark.value for step in plan.steps}


def details_of(plan: Plan, step: str) -> tuple[str, str]:
    """Return the mark of a step, and its details."""
    marked = plan.step(step)
    return marked.mark.value, marked.details


def read_plan(done: Done) -> dict[str, dict[str, Any]]:
    """Return the steps by name from the output of `inv plan --json`, and check its documented shape."""
    assert done.stderr == ""
    plan = json.loads(done.stdout)
    assert list(plan) == ["host", "checkout", "phases"]
    assert [list(phase) for phase in plan["phases"]] == [["name", "steps"]] * 4
    assert {phase["name"]: [step["name"] for step in phase["steps"]] for phase in plan["phases"]} == STEPS
    steps = {step["name"]: step for phase in plan["phases"] for step in phase["steps"]}
    assert all(list(step) == ["name", "mark", "optional", "observed"] for step in steps.values())
    assert {name for name, step in steps.items() if step["optional"] is True} == OPTIONAL
    assert {step["mark"] for step in steps.values()} <= {"done", "to do", "blocked", "unknown", "out of order"}
    assert all(step["observed"] for step in steps.values())
    return steps


# --- the walk -------------------------------------------------------------------------------------------------------


@pytest.mark.user
def test_next_walks_plan_until_gh_is_missing(release: Release) -> None:
    demo, repository = release.demo, release.repository
    # Only this server's database has so few: the rehearsal keeps to the project's own query.
    few = "SELECT 1 WHERE (SELECT count(*) FROM torrust_torrents) = 50"
    demo.environment = {**demo.environment, "INVOKE_DATABASES_INDEX_QUERY": few}
    walked: list[str] = []
    before = read_plan(demo.inv("plan", "--json"))
    while (done := demo.inv("next", "--yes")).returncode == 0:
        (step,) = re.findall(r"^next: ([a-z-]+): ", done.stdout, re.MULTILINE)
        walked.append(step)
        assert f"\ndone: {step} (" in done.stdout
        assert len(walked) < 18, walked
        if step in ("branch", "index-run", "index-enable", "push"):  # a plan takes as long as a step
            after = read_plan(demo.inv("plan", "--json"))
            assert {after[name]["mark"] for name in walked} == {"done"}
            assert f"\ndone: {step} ({after[step]['observed']})\n" in done.stdout
            changed = {(before[name]["mark"], after[name]["mark"]) for name in after if name not in walked}
            assert {marks for marks in changed if marks[0] != marks[1]} <= {("blocked", "to do")}, (before, after)
            before = after
    assert walked == [
        *("branch", "index-test", "index-deploy", "index-run", "index-verify", "index-enable", "index-commit"),
        *("tracker-commit", "docs-commit", "push"),
    ]
    assert (done.returncode, done.stdout) == (3, "")
    assert "gh is not installed" in done.stderr
    assert "open-pr" in done.stderr

    left = {name: step["mark"] for name, step in before.items() if step["mark"] != "done"}
    assert left == {
        **{"tracker-deploy": "to do", "tracker-test": "blocked"},
        **{"open-pr": "unknown", "review": "unknown", "merge": "blocked"},
    }
    names = release.settings.release
    log = repository.git("log", "--format=%s", "--name-only", f"main..{names.branch}", cwd=repository.remote)
    assert [line for line in log.splitlines() if line] == [
        *(names.commits.docs, *DOCS),
        *(names.commits.tracker, SCRIPTS[1]),
        *(names.commits.index, SCRIPTS[0]),
    ]
    assert (demo.server.home / "crontab").read_text().count(str(demo.database.script)) == 1
    assert Path(demo.database.script).read_bytes() == (ROOT / SCRIPTS[0]).read_bytes()
    assert before["index-run"]["observed"].startswith(release.backup.name)
    assert repository.git("status", "--porcelain") == ""


@pytest.mark.user
def test_next_with_gh_reaches_manual_merge(release: Release, github: GitHub) -> None:
    release.install_gh(github)
    demo = release.demo
    release.add_record("rehearsal")
    release.do(*SERVER_STEPS, *GIT_STEPS)
    assert details_of(release.plan(), "open-pr") == ("to do", "there is no pull request")

    done = demo.inv("next", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    (request,) = github.pull_requests
    assert f"opened the pull request: {request.url}\n" in done.stdout
    assert f"done: open-pr ({request.url} (open))" in done.stdout
    assert (request.title, request.body == "") == (release.settings.release.title, False)
    request.head = release.repository.git("rev-parse", release.settings.release.branch)

    waiting = release.plan()
    assert details_of(waiting, "review") == ("blocked", "not approved yet")
    assert waiting.exit_code == 0
    done = demo.inv("next", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "nothing to do now",
        "review blocked: not approved yet",
        "merge blocked: not in main; blocked by review",
    ]

    for decision, review, merge in [("CHANGES_REQUESTED", "to do", "blocked"), ("APPROVED", "done", "to do")]:
        request.decision = decision
        plan = release.plan()
        assert (marks(plan)["review"], marks(plan)["merge"]) == (review, merge)
    done = demo.inv("next", "--yes")
    assert done.returncode == 1
    assert done.stderr.startswith("merge is a manual step\n")

    request.state = "MERGED"
    done = demo.inv("plan", "--json", "--exit-code")
    assert done.returncode == 0
    assert {name for name, step in read_plan(done).items() if step["mark"] != "done"} == OPTIONAL
    done = demo.inv("next")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nothing to do: the release is complete\n")


def test_open_pr_updates_text_of_open_request(release: Release, github: GitHub) -> None:
    release.install_gh(github)
    release.do(*GIT_STEPS)
    assert_success(release.demo.inv("release.open-pr"))
    (request,) = github.pull_requests
    request.body = f"By a person.\n{request.body}"
    release.add_record("rehearsal")
    release.do(*SERVER_STEPS)
    done = release.demo.inv("release.open-pr")
    assert assert_success(done) == f"updated the text of {request.url}\n"
    assert request.body.startswith("By a person.\n")
    assert "all 5 checks passed" in request.body
    assert assert_success(release.demo.inv("release.open-pr")) == f"{request.url} (open): nothing to do\n"

    request.state = "CLOSED"
    before = request.body
    assert_exit(release.demo.inv("release.open-pr"), 1, f"closed without a merge: {request.url}", "gh pr reopen")
    assert (request.state, request.body) == ("CLOSED", before)


def squash_on_remote(release: Release) -> None:
    """Merge as a reviewer does, in another clone, and delete the branch on the remote."""
    names, repository = release.settings.release, release.repository
    other = release.folder / "reviewer"
    repository.git("clone", "-q", str(repository.remote), str(other), cwd=release.folder)
    repository.git("merge", "-q", "--squash", f"origin/{names.branch}", cwd=other)
    repository.git("commit", "-q", "-m", f"{names.title} (#90)", cwd=other)
    repository.git("push", "-q", "origin", "main", f":{names.branch}", cwd=other)


def test_merge_is_detected_without_gh(release: Release) -> None:
    release.add_record("rehearsal")
    release.do(*SERVER_STEPS, *GIT_STEPS)
    git = release.repository.git
    squash_on_remote(release)
    for command in (["status"], ["switch", "-q", "main"], ["pull", "-q"], ["branch", "-D", BRANCH]):
        git(*command)
        plan = release.plan()
        assert details_of(plan, "merge")[1].startswith("merged into main; ")
        assert {name for name, mark in marks(plan).items() if mark != "done"} == OPTIONAL, command
    release.script.touch()
    Path(release.demo.database.script).chmod(0o755)  # a new change time, as after a git pull on the server
    release.backup.unlink()
    assert {name for name, mark in marks(release.plan()).items() if mark != "done"} == OPTIONAL
    done = release.demo.inv("next")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nothing to do: the release is complete\n")


@pytest.mark.parametrize("changed", ["index", "none"])
def test_release_of_few_changes_is_completed(release: Release, changed: str) -> None:
    git = release.repository.git
    unchanged = [SCRIPTS[1], *DOCS, *([SCRIPTS[0]] if changed == "none" else [])]
    git("add", "--", *unchanged)
    git("commit", "-q", "-m", "feat: somewhere else")
    git("push", "-q", "origin", "main")
    release.add_record("rehearsal")
    release.do(*SERVER_STEPS, "branch")
    if changed == "index":
        assert details_of(release.plan(), "index-commit") == ("to do", "not committed")
        release.do("index-commit", "push")
        plan = release.plan()
        assert {name for name, mark in marks(plan).items() if mark != "done"} == OPTIONAL | GITHUB_STEPS | {"merge"}
        squash_on_remote(release)
    plan = release.plan()
    assert {name for name, mark in marks(plan).items() if mark != "done"} == OPTIONAL


# --- the checkout ---------------------------------------------------------------------------------------------------


def test_release_tasks_need_a_named_checkout(release: Release) -> None:
    environment = {name: value for name, value in release.demo.environment.items() if "REPOSITORY" not in name}
    for task in ("branch", "commit-index-backup", "commit-tracker-backup", "commit-docs", "push", "open-pr"):
        done = InvRunner(environment)(f"release.{task}")
        assert_exit(done, 2, "release.repository does not name", "INVOKE_RELEASE_REPOSITORY", str(ROOT))


@pytest.mark.parametrize("setting", [None, ".", "checkout"])
def test_plan_names_its_checkout(release: Release, setting: str | None) -> None:
    environment = {name: value for name, value in release.demo.environment.items() if "REPOSITORY" not in name}
    environment["INVOKE_HOST"] = "nowhere.invalid"
    if setting:
        value = str(release.repository.path) if setting == "checkout" else setting
        environment["INVOKE_RELEASE_REPOSITORY"] = value
    run_inv = InvRunner(environment)
    path = str(release.repository.path if setting == "checkout" else ROOT)
    assert json.loads(run_inv("plan", "--json").stdout)["checkout"] == path
    printed = " ".join(run_inv("plan").stdout.split())
    assert " ".join(path.split()) in printed
    assert ("release.repository is not set" in printed) == (setting is None)


def test_next_works_on_local_host(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "PATH"):  # the rehearsal's crontab, not this machine's
        monkeypatch.setenv(name, release.demo.server.environment[name])
    release.add_record("rehearsal")
    release.do("branch")
    for step in SERVER_STEPS:
        before = release.plan("local")
        assert before.next
        assert before.next.name == step
        local = select_host(release.settings, "local")
        do_next(local, make_console(io.StringIO()), yes=True, rehearse=release.rehearse)
        assert marks(release.plan("local"))[step] == "done"
    # The same machine under its other name: a verification counts for one name only.
    found = marks(release.plan(ALIAS))
    assert (found["index-run"], found["index-verify"], found["index-enable"]) == ("done", "to do", "out of order")


# --- asked first ----------------------------------------------------------------------------------------------------


@pytest.mark.user
@pytest.mark.parametrize(
    ("answer", "code", "message", "branch"),
    [
        ("n", 1, "nothing was done", "main"),
        ("", 1, "nothing was done", "main"),
        ("\x04", 1, "nothing was done", "main"),  # Ctrl-D
        ("y", 0, "done: branch", ""),
    ],
    ids=["no", "nothing", "end", "yes"],
)
def test_next_asks_on_terminal(release: Release, answer: str, code: int, message: str, branch: str) -> None:
    command: list[str | Path] = [INV, "--search-root", ROOT, "next"]
    with terminal(command, {**release.demo.environment, "INVOKE_HOST": "nowhere.invalid"}) as user:
        user.expect("git switch")
        user.expect("Do it? [y/N]")
        user.type(answer)
        assert user.end() == code, user.shown
        assert message in user.shown
        assert "Traceback" not in user.shown
    current = release.repository.git("symbolic-ref", "--short", "HEAD").strip()
    assert current == (branch or release.settings.release.branch)


def test_next_without_terminal_changes_nothing(release: Release) -> None:
    release.add_record("rehearsal")
    before = release.plan()
    done = release.demo.inv("next")
    assert done.returncode == 1
    assert "  ./inv release.branch\n" in done.stdout
    assert "git switch --no-track --create" in done.stdout
    assert done.stderr.startswith("nothing was done")
    assert "--yes" in done.stderr
    assert release.plan() == before

    release.do("branch")
    before = release.plan()
    done = release.demo.inv("next")
    assert done.returncode == 1
    assert f"  ./inv deploy-index-backup --host {ALIAS}\n" in done.stdout
    assert f"would run on {ALIAS}:\n" in done.stdout
    assert not Path(release.demo.database.script).exists()
    assert release.plan() == before


def test_closed_stdin_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)  # as Python has it then
    with pytest.raises(StepError, match="no terminal"):
        _confirm()


def test_change_during_question_stops_next(release: Release) -> None:
    release.add_record("rehearsal")
    release.do("branch")
    command: list[str | Path] = [INV, "--search-root", ROOT, "next"]
    with terminal(command, release.demo.environment) as user:
        user.expect("Do it? [y/N]")
        release.script.write_text(release.script.read_text() + "# not tried\n")
        user.type("y")
        assert user.end() == 1, user.shown
        assert "the plan changed" in user.shown
    assert not Path(release.demo.database.script).exists()


MANUAL_STEPS = [
    (SCRIPTS[0], 'cp $DATABASE_FILE "$BACKUP_FILE"\n', "index-script", "not quoted: $DATABASE_FILE"),
    (DOCS[1], "cp a.db a.db.backup\n", "docs", f"{DOCS[1]} does not describe .backup"),
    (DOCS[0], "<<<<<<< HEAD\n.backup\n=======\ncp\n>>>>>>> x\n", "docs", f"{DOCS[0]} contains an"),
]


def test_manual_step_is_reported(release: Release) -> None:
    release.do("branch")
    release.add_record("rehearsal")
    release.do(*SERVER_STEPS, "index-commit", "tracker-commit")
    settings = select_host(release.settings, ALIAS)
    for file, text, step, details in MANUAL_STEPS:
        path = release.repository.path / file
        before = path.read_text()
        path.write_text(text)
        with pytest.raises(StepError) as caught:
            do_next(settings, make_console(io.StringIO()), yes=True, rehearse=release.rehearse)
        assert caught.value.action == f"{step} is a manual step"
        assert details in caught.value.output
        assert f" in {release.repository.path}" in caught.value.advice
        path.write_text(before)


def test_unconfirmed_step_is_failure(release: Release) -> None:
    # A hook that lets a push go through, and a remote that then forgets it.
    release.add_record("rehearsal")
    release.do(*SERVER_STEPS, *GIT_STEPS[:-1])
    hook = release.repository.remote / "hooks/post-receive"
    hook.write_text(f"#!/bin/sh\ngit update-ref -d refs/heads/{release.settings.release.branch}\n")
    hook.chmod(0o755)
    done = release.demo.inv("next", "--yes")
    assert done.returncode == 1
    assert done.stderr.startswith("push is not done")
    assert "done: push" not in done.stdout


# --- unknown steps -----------------------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 on which nobody listens, kept from others for the time of the test."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize("way", ["name", "port"])
def test_unreachable_server_makes_steps_unknown(release: Release, closed_port: int, way: str) -> None:
    config, server = release.folder / "to a closed port", release.demo.server
    config.write_text(server.ssh_config.read_text().replace(f"Port {server.port}", f"Port {closed_port}"))
    changes = {"name": {"INVOKE_HOST": "nowhere.invalid"}, "port": {"INVOKE_SSH_CONFIG": str(config)}}[way]
    done = release.demo.inv("plan", "--json", **changes)
    assert done.returncode == 0
    steps = read_plan(done)
    assert {name for name, step in steps.items() if step["mark"] == "unknown"} == SERVER_MARKS | GITHUB_STEPS
    (why,) = {steps[name]["observed"] for name in SERVER_MARKS}
    assert (
        why
        == {"name": "no such host: nowhere.invalid", "port": f"no SSH connection to 127.0.0.1 port {closed_port}"}[way]
    )
    assert steps["branch"]["mark"] == "to do"


def test_plan_explains_unknown_steps(release: Release) -> None:
    done = release.demo.inv("plan", "--exit-code", INVOKE_HOST="nowhere.invalid")
    assert (done.returncode, done.stderr) == (1, "")  # a step is marked "to do"
    table, _, below = done.stdout.partition(" merge ")
    assert [name for names in STEPS.values() for name in names if f" {name} " not in f"{table} merge "] == []
    assert table.count(" unknown ") == len(SERVER_MARKS | GITHUB_STEPS)
    assert below.count("nowhere.invalid: no such host") == 1  # the same reason once
    assert "gh is not installed" in below
    assert below.endswith(
        "3 of 16 steps done, not counting optional ones; next: branch (./inv next --host nowhere.invalid)\n"
    )


def test_unknown_steps_alone_exit_with_3(release: Release) -> None:
    release.add_record("rehearsal")
    release.do(*GIT_STEPS)
    done = release.demo.inv("plan", "--exit-code", INVOKE_HOST="nowhere.invalid")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.endswith("9 of 16 steps done, not counting optional ones; the next step is unknown\n")
    done = release.demo.inv("next", "--yes", INVOKE_HOST="nowhere.invalid")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("nowhere.invalid: the next step is unknown\n  | index-deploy, index-run")


def test_next_says_how_a_release_starts(release: Release) -> None:
    release.add_record("rehearsal")
    release.repository.git("add", "--all")
    release.repository.git("commit", "--quiet", "--message", "other work")
    release.repository.git("push", "--quiet", "origin", "HEAD")
    done = release.demo.inv("next", "--yes", INVOKE_HOST="nowhere.invalid")
    assert_exit(done, COULD_NOT_LOOK, "branch, index-commit, ", "./inv release.branch")
    assert done.stderr.count("merged, or not started") == 1


NO_REPOSITORY = "is not the top of a git repository"


def remove_git(release: Release) -> None:
    shutil.rmtree(release.repository.path / ".git")


def detach_head(release: Release) -> None:
    release.do("branch")
    release.repository.git("checkout", "--quiet", "--detach")


def remove_remote(release: Release) -> None:
    release.repository.git("remote", "remove", "origin")


def move_remote(release: Release) -> None:
    release.repository.remote.rename(release.folder / "elsewhere.git")


@pytest.mark.user
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            remove_git,
            {
                **dict.fromkeys(("branch", "index-commit", "push", "open-pr"), ("unknown", NO_REPOSITORY)),
                "index-script": ("done", "uses .backup"),
            },
        ),
        (detach_head, {"branch": ("to do", "a commit without a branch is checked out")}),
        (remove_remote, {"push": ("blocked", "there is no remote origin"), "merge": ("blocked", "not in main")}),
        (
            move_remote,
            {
                **dict.fromkeys(("push", "merge"), ("unknown", "cannot read the remote origin")),
                "branch": ("to do", "no branch"),
            },
        ),
    ],
)
def test_git_problems_mark_affected_steps(
    release: Release, spoil: Callable[[Release], None], expected: dict[str, tuple[str, str]]
) -> None:
    spoil(release)
    plan = release.plan()
    assert len(plan.steps) == 18
    for step, (mark, details) in expected.items():
        assert plan.step(step).mark.value == mark
        assert details in plan.step(step).details


def test_plan_works_without_checkout(release: Release) -> None:
    remove_git(release)
    done = release.demo.inv("plan", "--json")
    assert done.returncode == 0
    steps = read_plan(done)
    assert {name for name, step in steps.items() if step["mark"] == "unknown"} == {*GIT_STEPS, *GITHUB_STEPS, "merge"}


@pytest.mark.parametrize("place", ["no/such/folder", "."])
def test_next_refuses_wrong_checkout(release: Release, place: str) -> None:
    elsewhere = release.folder / place
    done = release.demo.inv("next", "--yes", INVOKE_RELEASE_REPOSITORY=str(elsewhere))
    assert (done.returncode, done.stdout) == (2, "")
    assert str(elsewhere) in done.stderr.splitlines()[0]
    assert "-> set release.repository (INVOKE_RELEASE_REPOSITORY)" in done.stderr


# --- the records ----------------------------------------------------------------------------------------------------


def test_records_of_another_host_do_not_count(release: Release) -> None:
    release.add_record("rehearsal")
    release.do("index-deploy", "index-run", "index-verify")
    assert marks(release.plan())["index-verify"] == "done"
    release.rewrite("verification", lambda record: record.update(host="another"))
    assert details_of(release.plan(), "index-verify") == ("to do", f"{release.backup.name} is not verified")


def test_failed_verification_does_not_count(release: Release) -> None:
    release.add_record("rehearsal")
    release.do("index-deploy", "index-run", "index-verify")
    release.rewrite("verification", lambda record: record["checks"][0].update(passed=False))
    mark, details = details_of(release.plan(), "index-verify")
    assert mark == "to do"
    assert details.startswith(f"{release.backup.name}: FAILED")


def test_invalid_records_are_listed_and_ignored(release: Release) -> None:
    release.add_record("rehearsal")
    before = marks(release.plan())
    assert before["index-test"] == "done"
    (whole,) = release.evidence.glob("*.json")
    half, folder, newer = (release.evidence / f"zz-{name}.json" for name in ("half", "folder", "newer"))
    half.write_text(whole.read_text()[:100])
    folder.mkdir()
    newer.write_text(json.dumps({**json.loads(whole.read_text()), "schema": SCHEMA + 1}))
    assert marks(release.plan()) == before
    done = release.demo.inv("plan")
    assert (done.returncode, done.stderr) == (0, "")
    below = done.stdout.partition(" merge ")[2]
    assert f"{half}: " in below
    assert f"{folder}: " in below
    assert f"{newer}: " in below


def test_unreadable_records_make_steps_unknown(release: Release) -> None:
    release.add_record("rehearsal")
    release.do("index-deploy", "index-run")
    shutil.rmtree(release.evidence)
    release.evidence.write_text("a file in its place")
    plan = release.plan()
    assert (marks(plan)["index-test"], marks(plan)["index-verify"]) == ("unknown", "unknown")
    assert marks(plan)["index-run"] == "done"
    assert any(str(release.evidence) in note for note in plan.notes)


# --- clocks ---------------------------------------------------------------------------------------------------------


def shift_time(text: str, hours: int) -> str:
    return (datetime.fromisoformat(text) + timedelta(hours=hours)).isoformat()


def test_wrong_local_clock_changes_no_mark(release: Release) -> None:
    release.add_record("rehearsal")
    release.do("index-deploy", "index-run", "index-verify")
    before = marks(release.plan())
    assert before["index-verify"] == "done"
    for hours in (-1, 2):  # one hour before and after
        for kind in ("rehearsal", "deploy", "run", "verification"):
            release.rewrite(kind, lambda record: record.update(when=shift_time(record["when"], hours)))  # noqa: B023
        assert marks(release.plan()) == before


def move_time(path: Path, hours: float) -> None:
    """Move the time of a file by hours, to the nanosecond."""
    moved = path.stat().st_mtime_ns + int(hours * 3600) * 10**9
    os.utime(path, ns=(moved, moved))


def test_fast_server_clock_changes_no_mark(release: Release) -> None:
    release.add_record("rehearsal")
    release.do("index-deploy", "index-run")
    move_time(release.backup, 1)
    release.do("index-verify")
    plan = release.plan()
    assert {marks(plan)[name] for name in ("index-deploy", "index-run", "index-verify")} == {"done"}


def test_backup_older_than_script_does_not_count(release: Release) -> None:
    release.add_record("rehearsal")
    release.do("index-deploy", "index-run", "index-verify")
    move_time(release.backup, -1)
    plan = release.plan()
    assert (marks(plan)["index-run"], marks(plan)["index-verify"]) == ("to do", "blocked")


# --- what was done and is so no longer ------------------------------------------------------------------------------


def test_changed_script_reopens_its_steps(release: Release) -> None:
    release.add_record("rehearsal")
    release.do(*SERVER_STEPS, "branch", "index-commit")
    assert marks(release.plan())["index-commit"] == "done"
    release.script.write_text(release.script.read_text() + "# one line more\n")
    plan = release.plan()
    assert (marks(plan)["index-test"], marks(plan)["index-deploy"]) == ("to do", "blocked")
    release.add_record("rehearsal")
    plan = release.plan()
    assert details_of(plan, "index-deploy")[0] == "to do"
    assert "another version" in details_of(plan, "index-deploy")[1]
    mark, details = details_of(plan, "index-commit")
    assert mark == "blocked"
    assert details.startswith("changed since ")
    assert details.endswith(f": {SCRIPTS[0]}; blocked by index-enable")

    release.do("index-deploy")
    plan = release.plan()
    assert (marks(plan)["index-deploy"], marks(plan)["index-run"]) == ("done", "to do")


def test_newer_backup_needs_verification_without_cron(release: Release) -> None:
    release.add_record("rehearsal")
    release.do("index-deploy", "index-run", "index-verify")
    verified, newer = release.backup, release.demo.backups / "backup_2099-01-01_00-00-00.db"
    shutil.copy(verified, newer)
    assert details_of(release.plan(), "index-verify") == ("to do", f"{newer.name} is not verified")
    release.do("index-enable")
    mark, details = details_of(release.plan(), "index-verify")
    assert mark == "done"
    assert details.startswith(f"{verified.name}: passed")


def test_replaced_backup_is_not_verified(release: Release) -> None:
    release.add_record("rehearsal")
    release.do("index-deploy", "index-run", "index-verify")
    move_time(release.backup, 1)
    assert details_of(release.plan(), "index-verify") == ("to do", f"{release.backup.name} is not verified")


# --- what is optional -----------------------------------------------------------------------------------------------


def test_optional_steps_are_skipped(release: Release) -> None:
    demo, database = release.demo, release.settings.database("tracker")
    Path(database.source).parent.mkdir(parents=True)
    make_tracker(Path(database.source), rows=100)
    release.add_record("rehearsal")
    release.do(*SERVER_STEPS, "branch", "index-commit")
    plan = release.plan()
    assert (marks(plan)["tracker-deploy"], marks(plan)["tracker-test"]) == ("to do", "blocked")
    assert plan.next
    assert plan.next.name == "tracker-commit"
    assert demo.inv("next").stdout.startswith("skipped (optional): tracker-deploy")
    for task in (["deploy-tracker-backup"], ["run-tracker-backup"], ["verify", "--database", "tracker"]):
        done = demo.inv(*task)
        assert done.returncode == 0, done.stderr
    plan = release.plan()
    assert {marks(plan)[name] for name in OPTIONAL} == {"done"}
    assert plan.skipped == []
