"""The release: its plan, walked from the start to the end, and what is seen of it where something is amiss."""

from __future__ import annotations

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
from demo_backups.errors import StepError
from demo_backups.project import ROOT
from demo_backups.records.record import SCHEMA, Record
from demo_backups.records.store import write_record
from demo_backups.rehearsal.database import make_tracker
from demo_backups.rehearsal.server import ALIAS
from demo_backups.release.actions import ACTIONS, _confirm, do_next
from demo_backups.release.observe import observe_plan
from demo_backups.release.plan import Plan
from demo_backups.settings import Settings, select_host
from demo_backups.ui.console import make_console

from ..helpers.release_repository import DOCS, SCRIPTS, ReleaseRepository, empty_repository, release_repository
from ..helpers.tasks import INV, Demo
from ..helpers.terminal import terminal

__all__ = ["empty_repository", "release_repository"]  # fixtures

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
ON_SERVER = {"index-deploy", "index-run", "index-verify", "index-enable", *OPTIONAL}
ON_GITHUB = {"open-pr", "review"}
PHASE_1_THERE = ("index-deploy", "index-run", "index-verify", "index-enable")
IN_GIT = ("branch", "index-commit", "tracker-commit", "docs-commit", "push")

GH = """#!/bin/sh
# gh(1) as far as the tasks call it. What GitHub has of the pull request is beside it.
set -eu
there=$(dirname -- "$0")
case "$1 $2" in
  "pr view")
    [ -e "$there/pull_request.json" ] || { echo "no pull requests found for branch \\"$3\\"" >&2; exit 1; }
    cat -- "$there/pull_request.json" ;;
  "pr create")
    cat > "$there/body"
    printf '%s\\n' "$@" > "$there/asked"
    echo '{"url": "https://github.com/torrust/torrust-demo/pull/90", "state": "OPEN", "reviewDecision": "",
      "headRefName": "'"$6"'", "baseRefName": "'"$4"'", "latestReviews": []}' > "$there/pull_request.json" ;;
  *) exit 1 ;;
esac
"""

Done = subprocess.CompletedProcess[str]


@dataclass
class Release:
    """A release that is on its way: what it is made in, and the server that it goes to."""

    demo: Demo
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
        """Do steps as `inv next` does, whatever the plan says of them."""
        settings = select_host(self.settings, host)
        for name in names:
            ACTIONS[name].act(settings, make_console(io.StringIO()), False)

    def note(self, kind: str, **changes: Any) -> None:
        """Leave a record of something that passed."""
        sha256 = read_script(self.script).sha256
        record = Record(kind, ALIAS, "index", script_sha256=sha256, exit_status=0)
        record.checks = [{"name": "size", "passed": True, "detail": ""}]
        write_record(self.evidence, replace(record, **changes))

    def rewrite(self, kind: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Rewrite the only record of a kind."""
        (path,) = self.evidence.glob(f"*_{kind}_{ALIAS}_*.json")
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))

    def install_gh(self) -> Path:
        """Put a stand-in for the GitHub CLI on the PATH; return the folder of what it has."""
        folder = self.folder / "github"
        folder.mkdir()
        (folder / "gh").write_text(GH)
        (folder / "gh").chmod(0o755)
        path = f"{folder}:{os.environ['PATH']}"
        self.demo.environment = {**self.demo.environment, "PATH": path}
        os.environ["PATH"] = path  # put back by the fixture
        return folder


def path_without_gh(folder: Path) -> str:
    """The PATH without the GitHub CLI, whose folder has much else that is needed."""
    folders = [Path(name) for name in os.environ["PATH"].split(os.pathsep)]
    for number, each in enumerate(folders):
        if (each / "gh").exists():
            folders[number] = folder / f"bin{number}"
            folders[number].mkdir()
            for tool in each.iterdir():
                if tool.name != "gh":
                    (folders[number] / tool.name).symlink_to(tool)
    return os.pathsep.join(map(str, folders))


@pytest.fixture
def on_its_way(
    demo: Demo, release_repository: ReleaseRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Release:
    """A release at its very start, without the GitHub CLI."""
    variables = {**release_repository.variables, "PATH": path_without_gh(tmp_path), "COLUMNS": "160"}
    demo.environment = {**demo.environment, **variables}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    of_release = demo.settings.release.model_copy(update={"repository": str(release_repository.path)})
    changes = {"evidence_dir": demo.environment["INVOKE_EVIDENCE_DIR"], "release": of_release}
    return Release(demo, release_repository, demo.settings.model_copy(update=changes), tmp_path)


def marks(plan: Plan) -> dict[str, str]:
    return {step.name: step.mark.value for step in plan.steps}


def observed(plan: Plan, step: str) -> tuple[str, str]:
    """The mark of a step, and what was seen of it."""
    seen = plan.step(step)
    return seen.mark.value, seen.observed


def read_plan(done: Done) -> dict[str, dict[str, Any]]:
    """The steps by name, from what `inv plan --json` printed: one object, in the shape that is promised."""
    assert done.stderr == ""
    plan = json.loads(done.stdout)
    assert list(plan) == ["host", "phases"]
    assert [list(phase) for phase in plan["phases"]] == [["name", "steps"]] * 4
    assert {phase["name"]: [step["name"] for step in phase["steps"]] for phase in plan["phases"]} == STEPS
    steps = {step["name"]: step for phase in plan["phases"] for step in phase["steps"]}
    assert all(list(step) == ["name", "mark", "optional", "observed"] for step in steps.values())
    assert {name for name, step in steps.items() if step["optional"] is True} == OPTIONAL
    assert {step["mark"] for step in steps.values()} <= {"done", "to do", "waiting", "not seen", "out of order"}
    assert all(step["observed"] for step in steps.values())
    return steps


# --- the walk -------------------------------------------------------------------------------------------------------


def test_next_walks_the_plan_from_its_start_until_only_the_network_is_missing(on_its_way: Release) -> None:
    demo, repository = on_its_way.demo, on_its_way.repository
    # Only this server's database has so few: the rehearsal keeps to the project's own query.
    few = "SELECT 1 WHERE (SELECT count(*) FROM torrust_torrents) = 50"
    demo.environment = {**demo.environment, "INVOKE_DATABASES_INDEX_QUERY": few}
    walked = []
    before = read_plan(demo.inv("plan", "--json"))
    while (done := demo.inv("next", "--yes")).returncode == 0:
        after = read_plan(demo.inv("plan", "--json"))
        (step,) = re.findall(r"^next: ([a-z-]+): ", done.stdout, re.MULTILINE)
        walked.append(step)
        assert (before[step]["mark"], after[step]["mark"]) == ("to do", "done"), done.stdout
        assert f"\ndone: {step} ({after[step]['observed']})\n" in done.stdout
        changed = {
            (before[name]["mark"], after[name]["mark"])
            for name in after
            if name != step and before[name]["mark"] != after[name]["mark"]
        }
        assert changed <= {("waiting", "to do")}, (step, before, after)
        before = after
        assert len(walked) < 18, walked
    assert walked == [
        *("branch", "index-test", "index-deploy", "index-run", "index-verify", "index-enable", "index-commit"),
        *("tracker-commit", "docs-commit", "push"),
    ]
    assert (done.returncode, done.stdout) == (3, "")
    assert "gh is not installed" in done.stderr
    assert "open-pr" in done.stderr

    left = {name: step["mark"] for name, step in before.items() if step["mark"] != "done"}
    assert left == {
        **{"tracker-deploy": "to do", "tracker-test": "waiting"},
        **{"open-pr": "not seen", "review": "not seen", "merge": "waiting"},
    }
    names = on_its_way.settings.release
    log = repository.git("log", "--format=%s", "--name-only", f"main..{names.branch}", at=repository.remote)
    assert [line for line in log.splitlines() if line] == [
        *(names.commits.docs, *DOCS),
        *(names.commits.tracker, SCRIPTS[1]),
        *(names.commits.index, SCRIPTS[0]),
    ]
    assert (demo.server.home / "crontab").read_text().count(str(demo.database.script)) == 1
    assert Path(demo.database.script).read_bytes() == (ROOT / SCRIPTS[0]).read_bytes()
    assert before["index-run"]["observed"].startswith(on_its_way.backup.name)
    assert repository.git("status", "--porcelain") == ""


def test_with_gh_it_walks_on_to_the_merge_by_hand(on_its_way: Release) -> None:
    github = on_its_way.install_gh()
    demo = on_its_way.demo
    on_its_way.note("rehearsal")
    on_its_way.do(*PHASE_1_THERE, *IN_GIT)
    assert observed(on_its_way.plan(), "open-pr") == ("to do", "there is no pull request")

    done = demo.inv("next", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    names = on_its_way.settings.release
    assert "done: open-pr (https://github.com/torrust/torrust-demo/pull/90 (open))" in done.stdout
    asked = (github / "asked").read_text().splitlines()
    assert asked == [
        *("pr", "create", "--base", "main", "--head", names.branch, "--title", names.title, "--body-file", "-")
    ]
    assert (github / "body").read_text().strip()

    waiting = on_its_way.plan()
    assert observed(waiting, "review") == ("waiting", "not approved yet")
    assert waiting.exit_code == 0
    done = demo.inv("next", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "nothing is to do now",
        "review waiting: not approved yet",
        "merge waiting: not in main",
    ]

    request = json.loads((github / "pull_request.json").read_text())
    for state, decision, review, merge in [
        ("OPEN", "CHANGES_REQUESTED", "to do", "waiting"),
        ("OPEN", "APPROVED", "done", "to do"),
    ]:
        (github / "pull_request.json").write_text(json.dumps({**request, "state": state, "reviewDecision": decision}))
        seen = on_its_way.plan()
        assert (marks(seen)["review"], marks(seen)["merge"]) == (review, merge)
    done = demo.inv("next", "--yes")
    assert done.returncode == 1
    assert done.stderr.startswith("merge is done by hand\n")

    (github / "pull_request.json").write_text(json.dumps({**request, "state": "MERGED"}))
    done = demo.inv("plan", "--json", "--exit-code")
    assert done.returncode == 0
    assert {name for name, step in read_plan(done).items() if step["mark"] != "done"} == OPTIONAL
    done = demo.inv("next")
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing is to do: the release is done\n", "")


def test_a_release_that_was_merged_is_seen_without_gh_and_without_its_branch(on_its_way: Release) -> None:
    on_its_way.note("rehearsal")
    on_its_way.do(*PHASE_1_THERE, *IN_GIT)
    names, git = on_its_way.settings.release, on_its_way.repository.git
    git("switch", "--quiet", "main")
    git("merge", "--quiet", "--no-ff", "--no-edit", names.branch)
    git("push", "--quiet", "origin", "main", f":{names.branch}")
    git("branch", "--quiet", "--delete", names.branch)
    seen = on_its_way.plan()
    assert observed(seen, "merge") == ("done", "merged into main")
    assert {name for name, mark in marks(seen).items() if mark != "done"} == OPTIONAL | ON_GITHUB


def test_on_this_machine_next_does_the_same(on_its_way: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "PATH"):  # the rehearsal's crontab, not this machine's
        monkeypatch.setenv(name, on_its_way.demo.server.environment[name])
    on_its_way.note("rehearsal")
    on_its_way.do("branch")
    for step in PHASE_1_THERE:
        before = on_its_way.plan("local")
        assert before.next
        assert before.next.name == step
        do_next(select_host(on_its_way.settings, "local"), make_console(io.StringIO()), yes=True)
        assert marks(on_its_way.plan("local"))[step] == "done"
    # The same machine by its other name: what is there is the same, and a verification is of one name.
    there = marks(on_its_way.plan(ALIAS))
    assert (there["index-run"], there["index-verify"], there["index-enable"]) == ("done", "to do", "out of order")


# --- asked first ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "code", "words", "branch"),
    [
        ("n", 1, "nothing was done", "main"),
        ("", 1, "nothing was done", "main"),
        ("\x04", 1, "nothing was done", "main"),  # Ctrl-D
        ("y", 0, "done: branch", ""),
    ],
    ids=["no", "nothing", "end", "yes"],
)
def test_on_a_terminal_it_asks_first(on_its_way: Release, typed: str, code: int, words: str, branch: str) -> None:
    command: list[str | Path] = [INV, "--search-root", ROOT, "--no-dedupe", "next"]
    with terminal(command, on_its_way.demo.environment) as user:
        user.expect("git switch")
        user.expect("do it? [y/N]")
        user.type(typed)
        assert user.end() == code, user.shown
        assert words in user.shown
        assert "Traceback" not in user.shown
    current = on_its_way.repository.git("symbolic-ref", "--short", "HEAD").strip()
    assert current == (branch or on_its_way.settings.release.branch)


def test_without_a_terminal_and_without_yes_it_shows_the_commands_and_does_nothing(on_its_way: Release) -> None:
    on_its_way.note("rehearsal")
    before = on_its_way.plan()
    done = on_its_way.demo.inv("next")
    assert done.returncode == 1
    assert "  ./inv release.branch\n" in done.stdout
    assert "git switch --no-track --create" in done.stdout
    assert done.stderr.startswith("nothing was done: there is no terminal to ask on\n")
    assert "--yes" in done.stderr
    assert on_its_way.plan() == before

    on_its_way.do("branch")
    before = on_its_way.plan()
    done = on_its_way.demo.inv("next")
    assert done.returncode == 1
    assert f"  ./inv deploy-index-backup --host {ALIAS}\n" in done.stdout
    assert f"would run on {ALIAS}:\n" in done.stdout
    assert not Path(on_its_way.demo.database.script).exists()
    assert on_its_way.plan() == before


def test_where_standard_input_is_closed_there_is_no_terminal_to_ask_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)  # as Python has it then
    with pytest.raises(StepError, match="there is no terminal to ask on"):
        _confirm()


def test_what_changed_while_nobody_answered_is_not_done_unseen(on_its_way: Release) -> None:
    on_its_way.note("rehearsal")
    on_its_way.do("branch")
    command: list[str | Path] = [INV, "--search-root", ROOT, "--no-dedupe", "next"]
    with terminal(command, on_its_way.demo.environment) as user:
        user.expect("do it? [y/N]")
        on_its_way.script.write_text(on_its_way.script.read_text() + "# not tried\n")
        user.type("y")
        assert user.end() == 1, user.shown
        assert "the plan is not as it was when you were asked" in user.shown
    assert not Path(on_its_way.demo.database.script).exists()


@pytest.mark.parametrize(
    ("file", "text", "step", "seen"),
    [
        (SCRIPTS[0], 'cp $DATABASE_FILE "$BACKUP_FILE"\n', "index-script", "not quoted: $DATABASE_FILE"),
        (DOCS[1], "cp a.db a.db.backup\n", "docs", f"{DOCS[1]} does not tell of .backup"),
        (DOCS[0], "<<<<<<< HEAD\n.backup\n=======\ncp\n>>>>>>> x\n", "docs", f"{DOCS[0]} holds an unfinished merge"),
    ],
)
def test_what_is_done_by_hand_is_left_to_hands(on_its_way: Release, file: str, text: str, step: str, seen: str) -> None:
    on_its_way.do("branch")
    on_its_way.note("rehearsal")
    on_its_way.do(*PHASE_1_THERE, "index-commit", "tracker-commit")
    (on_its_way.repository.path / file).write_text(text)
    with pytest.raises(StepError) as caught:
        do_next(select_host(on_its_way.settings, ALIAS), make_console(io.StringIO()), yes=True)
    assert caught.value.action == f"{step} is done by hand"
    assert seen in caught.value.output
    assert f" in {on_its_way.repository.path}" in caught.value.advice


def test_a_step_that_was_done_but_is_not_seen_to_be_is_no_success(on_its_way: Release) -> None:
    # A hook that lets a push go through, and a remote that then forgets it.
    on_its_way.note("rehearsal")
    on_its_way.do(*PHASE_1_THERE, *IN_GIT[:-1])
    hook = on_its_way.repository.remote / "hooks/post-receive"
    hook.write_text(f"#!/bin/sh\ngit update-ref -d refs/heads/{on_its_way.settings.release.branch}\n")
    hook.chmod(0o755)
    done = on_its_way.demo.inv("next", "--yes")
    assert done.returncode == 1
    assert done.stderr.startswith("push is not done: the plan says 'to do'\n  | not on origin\n")
    assert "done: push" not in done.stdout


# --- what cannot be seen --------------------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 on which nobody listens, kept from others for the time of the test."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize("way", ["name", "port"])
def test_a_server_that_is_out_of_reach_leaves_its_steps_unseen(on_its_way: Release, closed_port: int, way: str) -> None:
    config, server = on_its_way.folder / "to a closed port", on_its_way.demo.server
    config.write_text(server.ssh_config.read_text().replace(f"Port {server.port}", f"Port {closed_port}"))
    changes = {"name": {"INVOKE_HOST": "nowhere.invalid"}, "port": {"INVOKE_SSH_CONFIG": str(config)}}[way]
    done = on_its_way.demo.inv("plan", "--json", **changes)
    assert done.returncode == 0
    steps = read_plan(done)
    assert {name for name, step in steps.items() if step["mark"] == "not seen"} == ON_SERVER | ON_GITHUB
    (why,) = {steps[name]["observed"] for name in ON_SERVER}
    assert (
        why
        == {"name": "no such host: nowhere.invalid", "port": f"no SSH connection to 127.0.0.1 port {closed_port}"}[way]
    )
    assert steps["branch"]["mark"] == "to do"


def test_a_plan_with_something_unseen_says_why_below_its_table(on_its_way: Release) -> None:
    done = on_its_way.demo.inv("plan", "--exit-code", INVOKE_HOST="nowhere.invalid")
    assert (done.returncode, done.stderr) == (1, "")  # something is to do
    table, _, below = done.stdout.partition(" merge ")
    assert [name for names in STEPS.values() for name in names if f" {name} " not in f"{table} merge "] == []
    assert table.count("not seen") == len(ON_SERVER | ON_GITHUB)
    assert below.count("nowhere.invalid: no such host") == 1  # the same reason once
    assert "gh is not installed\n  -> install it" in below
    assert below.endswith(
        "3 of 16 steps done, not counting optional ones; next: branch (./inv next --host nowhere.invalid)\n"
    )


def test_with_nothing_to_do_but_something_unseen_the_exit_code_is_3(on_its_way: Release) -> None:
    on_its_way.note("rehearsal")
    on_its_way.do(*IN_GIT)
    done = on_its_way.demo.inv("plan", "--exit-code", INVOKE_HOST="nowhere.invalid")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.endswith("9 of 16 steps done, not counting optional ones; the next step is unknown\n")
    done = on_its_way.demo.inv("next", "--yes", INVOKE_HOST="nowhere.invalid")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("nowhere.invalid: what is next cannot be seen\n  | index-deploy not seen: ")


def no_git(on_its_way: Release) -> None:
    shutil.rmtree(on_its_way.repository.path / ".git")


def detached(on_its_way: Release) -> None:
    on_its_way.do("branch")
    on_its_way.repository.git("checkout", "--quiet", "--detach")


def no_remote(on_its_way: Release) -> None:
    on_its_way.repository.git("remote", "remove", "origin")


def remote_gone(on_its_way: Release) -> None:
    on_its_way.repository.remote.rename(on_its_way.folder / "elsewhere.git")


@pytest.mark.parametrize(
    ("spoil", "step", "mark", "words"),
    [
        (no_git, "branch", "not seen", "is not the top of a git repository"),
        (no_git, "index-commit", "not seen", "is not the top of a git repository"),
        (no_git, "push", "not seen", "is not the top of a git repository"),
        (no_git, "open-pr", "not seen", "is not the top of a git repository"),
        (no_git, "index-script", "done", "uses .backup"),
        (detached, "branch", "to do", "a commit without a branch is checked out"),
        (no_remote, "push", "waiting", "there is no remote origin"),
        (no_remote, "merge", "waiting", "not in main"),
        (remote_gone, "push", "not seen", "the remote origin cannot be asked"),
        (remote_gone, "merge", "not seen", "the remote origin cannot be asked"),
        (remote_gone, "branch", "to do", "there is no branch"),
    ],
)
def test_what_is_amiss_in_git_is_said_where_it_matters(
    on_its_way: Release, spoil: Callable[[Release], None], step: str, mark: str, words: str
) -> None:
    spoil(on_its_way)
    seen = on_its_way.plan()
    assert len(seen.steps) == 18
    assert seen.step(step).mark.value == mark
    assert words in seen.step(step).observed


def test_a_folder_that_is_no_checkout_still_has_a_plan(on_its_way: Release) -> None:
    no_git(on_its_way)
    done = on_its_way.demo.inv("plan", "--json")
    assert done.returncode == 0
    steps = read_plan(done)
    assert {name for name, step in steps.items() if step["mark"] == "not seen"} == {*IN_GIT, *ON_GITHUB, "merge"}


@pytest.mark.parametrize("place", ["no/such/folder", "."])
def test_next_names_a_wrong_checkout_before_it_seeks_scripts_in_it(on_its_way: Release, place: str) -> None:
    elsewhere = on_its_way.folder / place
    done = on_its_way.demo.inv("next", "--yes", INVOKE_RELEASE_REPOSITORY=str(elsewhere))
    assert (done.returncode, done.stdout) == (2, "")
    assert str(elsewhere) in done.stderr.splitlines()[0]
    assert "-> set release.repository (INVOKE_RELEASE_REPOSITORY)" in done.stderr


# --- the records ----------------------------------------------------------------------------------------------------


def test_records_of_another_host_do_not_count(on_its_way: Release) -> None:
    on_its_way.note("rehearsal")
    on_its_way.do("index-deploy", "index-run", "index-verify")
    assert marks(on_its_way.plan())["index-verify"] == "done"
    on_its_way.rewrite("verification", lambda record: record.update(host="another"))
    assert observed(on_its_way.plan(), "index-verify") == ("to do", f"{on_its_way.backup.name} is not verified")


def test_a_verification_that_failed_is_no_verification(on_its_way: Release) -> None:
    on_its_way.note("rehearsal")
    on_its_way.do("index-deploy", "index-run", "index-verify")
    on_its_way.rewrite("verification", lambda record: record["checks"][0].update(passed=False))
    mark, words = observed(on_its_way.plan(), "index-verify")
    assert mark == "to do"
    assert words.startswith(f"{on_its_way.backup.name}: FAILED")


def test_damaged_records_are_named_below_the_table_and_passed_over(on_its_way: Release) -> None:
    on_its_way.note("rehearsal")
    before = marks(on_its_way.plan())
    assert before["index-test"] == "done"
    (whole,) = on_its_way.evidence.glob("*.json")
    half, folder, newer = (on_its_way.evidence / f"zz-{name}.json" for name in ("half", "folder", "newer"))
    half.write_text(whole.read_text()[:100])
    folder.mkdir()
    newer.write_text(json.dumps({**json.loads(whole.read_text()), "schema": SCHEMA + 1}))
    assert marks(on_its_way.plan()) == before
    done = on_its_way.demo.inv("plan")
    assert (done.returncode, done.stderr) == (0, "")
    below = done.stdout.partition(" merge ")[2]
    assert f"skipped: {half}: it is not whole" in below
    assert f"skipped: {folder}: it is not a regular file" in below
    assert f"skipped: {newer}: schema {SCHEMA + 1} is not known: a newer version wrote it" in below


def test_where_the_records_cannot_be_read_their_steps_are_not_seen(on_its_way: Release) -> None:
    on_its_way.note("rehearsal")
    on_its_way.do("index-deploy", "index-run")
    shutil.rmtree(on_its_way.evidence)
    on_its_way.evidence.write_text("a file in its place")
    seen = on_its_way.plan()
    assert (marks(seen)["index-test"], marks(seen)["index-verify"]) == ("not seen", "not seen")
    assert marks(seen)["index-run"] == "done"
    assert any(str(on_its_way.evidence) in note for note in seen.notes)


# --- clocks ---------------------------------------------------------------------------------------------------------


def later(text: str, hours: int) -> str:
    return (datetime.fromisoformat(text) + timedelta(hours=hours)).isoformat()


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_here_that_is_an_hour_off_changes_no_mark(on_its_way: Release, hours: int) -> None:
    on_its_way.note("rehearsal")
    on_its_way.do("index-deploy", "index-run", "index-verify")
    before = marks(on_its_way.plan())
    assert before["index-verify"] == "done"
    for kind in ("rehearsal", "deploy", "run", "verification"):
        on_its_way.rewrite(kind, lambda record: record.update(when=later(record["when"], hours)))
    assert marks(on_its_way.plan()) == before


def set_back(path: Path, hours: float) -> None:
    """Move the time of a file by hours, to the nanosecond."""
    moved = path.stat().st_mtime_ns + int(hours * 3600) * 10**9
    os.utime(path, ns=(moved, moved))


def test_a_clock_there_that_is_an_hour_ahead_changes_no_mark(on_its_way: Release) -> None:
    on_its_way.note("rehearsal")
    on_its_way.do("index-deploy", "index-run")
    set_back(on_its_way.backup, 1)
    on_its_way.do("index-verify")
    seen = on_its_way.plan()
    assert {marks(seen)[name] for name in ("index-deploy", "index-run", "index-verify")} == {"done"}


def test_a_backup_that_is_older_than_the_script_is_not_its_work(on_its_way: Release) -> None:
    on_its_way.note("rehearsal")
    on_its_way.do("index-deploy", "index-run", "index-verify")
    set_back(on_its_way.backup, -1)
    seen = on_its_way.plan()
    assert (marks(seen)["index-run"], marks(seen)["index-verify"]) == ("to do", "waiting")


# --- what was done and is so no longer ------------------------------------------------------------------------------


def test_a_script_that_was_changed_is_to_be_tried_put_there_and_committed_again(on_its_way: Release) -> None:
    on_its_way.note("rehearsal")
    on_its_way.do(*PHASE_1_THERE, "branch", "index-commit")
    assert marks(on_its_way.plan())["index-commit"] == "done"
    on_its_way.script.write_text(on_its_way.script.read_text() + "# one line more\n")
    seen = on_its_way.plan()
    assert (marks(seen)["index-test"], marks(seen)["index-deploy"]) == ("to do", "waiting")
    on_its_way.note("rehearsal")
    seen = on_its_way.plan()
    assert observed(seen, "index-deploy")[0] == "to do"
    assert "another script is there" in observed(seen, "index-deploy")[1]
    mark, words = observed(seen, "index-commit")
    assert mark == "waiting"
    assert words.startswith("changed since ")
    assert words.endswith(f": {SCRIPTS[0]}")

    on_its_way.do("index-deploy")
    seen = on_its_way.plan()
    assert (marks(seen)["index-deploy"], marks(seen)["index-run"]) == ("done", "to do")


def test_a_newer_backup_is_to_be_verified_unless_cron_makes_them(on_its_way: Release) -> None:
    on_its_way.note("rehearsal")
    on_its_way.do("index-deploy", "index-run", "index-verify")
    verified, newer = on_its_way.backup, on_its_way.demo.backups / "backup_2099-01-01_00-00-00.db"
    shutil.copy(verified, newer)
    assert observed(on_its_way.plan(), "index-verify") == ("to do", f"{newer.name} is not verified")
    on_its_way.do("index-enable")
    mark, words = observed(on_its_way.plan(), "index-verify")
    assert mark == "done"
    assert words.startswith(f"{verified.name}: passed")


def test_a_file_in_place_of_the_verified_backup_is_not_verified(on_its_way: Release) -> None:
    on_its_way.note("rehearsal")
    on_its_way.do("index-deploy", "index-run", "index-verify")
    set_back(on_its_way.backup, 1)
    assert observed(on_its_way.plan(), "index-verify") == ("to do", f"{on_its_way.backup.name} is not verified")


# --- what is optional -----------------------------------------------------------------------------------------------


def test_optional_steps_are_passed_over_and_done_with_their_tasks(on_its_way: Release) -> None:
    demo, there = on_its_way.demo, on_its_way.settings.database("tracker")
    Path(there.source).parent.mkdir(parents=True)
    make_tracker(Path(there.source), rows=100)
    on_its_way.note("rehearsal")
    on_its_way.do(*PHASE_1_THERE, "branch", "index-commit")
    seen = on_its_way.plan()
    assert (marks(seen)["tracker-deploy"], marks(seen)["tracker-test"]) == ("to do", "waiting")
    assert seen.next
    assert seen.next.name == "tracker-commit"
    assert demo.inv("next").stdout.startswith("skipped, since it is optional: tracker-deploy (")
    for task in (["deploy-tracker-backup"], ["run-tracker-backup"], ["verify", "--database", "tracker"]):
        done = demo.inv(*task)
        assert done.returncode == 0, done.stderr
    seen = on_its_way.plan()
    assert {marks(seen)[name] for name in OPTIONAL} == {"done"}
    assert seen.passed_over == []
