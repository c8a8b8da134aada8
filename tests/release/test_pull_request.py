"""The pull request of the release: a fake GitHub CLI, and a real git repository."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import CouldNotLookError
from demo_backups.release.pull_request import (
    PullRequest,
    PullRequestState,
    Review,
    compare_url,
    parse_pull_request,
    plan_pull_request,
    read_pull_request,
)
from demo_backups.release.repository import apply

from ..helpers.release_repository import BRANCH, ReleaseRepository, empty_repository, release_repository

pytestmark = pytest.mark.user

__all__ = ["empty_repository", "release_repository"]  # fixtures

URL = "https://github.com/torrust/torrust-demo/pull/90"
FIELDS = "url,state,headRefName,baseRefName,reviewDecision,latestReviews"


def answer(state: str = "OPEN", decision: str = "", *latest: str) -> str:
    """Return the output of `gh pr view --json` for these fields, as recorded from gh 2.23."""
    reviews = [
        {
            "id": f"PRR_{number}",
            "author": {"login": f"reviewer{number}"},
            "authorAssociation": "MEMBER",
            "body": "",
            "submittedAt": "2026-11-24T20:00:00Z",
            "includesCreatedEdit": False,
            "reactionGroups": [],
            "state": state_of_review,
            "commit": {"oid": ""},
        }
        for number, state_of_review in enumerate(latest)
    ]
    names = {"headRefName": BRANCH, "baseRefName": "main"}
    return json.dumps({"latestReviews": reviews, "reviewDecision": decision, "state": state, "url": URL} | names)


@pytest.mark.parametrize(
    ("output", "state", "review"),
    [
        (answer(), "open", "none"),
        (answer("CLOSED"), "closed", "none"),
        (answer("MERGED", "APPROVED", "APPROVED"), "merged", "approved"),
        (answer("OPEN", "REVIEW_REQUIRED"), "open", "none"),
        (answer("OPEN", "REVIEW_REQUIRED", "APPROVED"), "open", "none"),  # by one reviewer, and more are required
        (answer("OPEN", "REVIEW_REQUIRED", "COMMENTED"), "open", "none"),
        (answer("OPEN", "APPROVED", "APPROVED", "COMMENTED"), "open", "approved"),
        (answer("OPEN", "CHANGES_REQUESTED", "APPROVED", "CHANGES_REQUESTED"), "open", "changes requested"),
        (answer("OPEN", "", "APPROVED"), "open", "approved"),
        (answer("OPEN", "", "APPROVED", "CHANGES_REQUESTED"), "open", "changes requested"),
        (answer("OPEN", "", "COMMENTED", "DISMISSED", "PENDING"), "open", "none"),
    ],
)
def test_pull_request_is_parsed(output: str, state: str, review: str) -> None:
    request = PullRequest(URL, PullRequestState(state), Review(review))
    assert parse_pull_request(output, BRANCH, "main") == request


@pytest.mark.parametrize(("branch", "base"), [("85", "main"), (BRANCH, "develop")])
def test_pull_request_of_other_branches_is_ignored(branch: str, base: str) -> None:
    assert parse_pull_request(answer("MERGED", "APPROVED"), branch, base) is None


@pytest.mark.parametrize(
    "output",
    [
        *("", "null", "[]", "5", "{}", "<html>", '{"url": 1}', answer()[:-1]),
        *(answer().replace("[]", wrong) for wrong in ("5", "[5]", "null", '[{"state": []}]')),
        answer("DELETED"),
        answer().replace('"reviewDecision": ""', '"reviewDecision": 5'),
    ],
)
def test_invalid_answer_is_reported(output: str) -> None:
    with pytest.raises(CouldNotLookError, match="not valid"):
        parse_pull_request(output, BRANCH, "main")


@dataclass
class GitHub:
    """A fake GitHub CLI, which logs its calls and prints a given answer."""

    folder: Path

    def set_answer(self, out: str = "", error: str = "", code: int = 0) -> None:
        (self.folder / "out").write_text(out)
        (self.folder / "error").write_text(error)
        (self.folder / "code").write_text(str(code))

    @property
    def calls(self) -> list[dict[str, Any]]:
        log = self.folder / "calls"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


FAKE_GH = f"""#!{sys.executable}
import json, os, pathlib, sys
folder = pathlib.Path(__file__).parent
creates = sys.argv[1:3] == ["pr", "create"]
stdin = sys.stdin.read()
names = ("GH_PROMPT_DISABLED", "NO_COLOR")
with (folder / "calls").open("a") as log:
    variables = [os.environ.get(name) for name in names]
    call = {{"arguments": sys.argv[1:], "stdin": stdin, "cwd": os.getcwd(), "variables": variables}}
    log.write(json.dumps(call) + "\\n")
if creates:
    print("{URL}")
    sys.exit(0)
sys.stdout.write((folder / "out").read_text())
sys.stderr.write((folder / "error").read_text())
sys.exit(int((folder / "code").read_text()))
"""


@pytest.fixture
def gh(release_repository: ReleaseRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GitHub:
    """A fake gh, first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "gh").write_text(FAKE_GH)
    (folder / "gh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    github = GitHub(folder)
    github.set_answer(error=f'no pull requests found for branch "{BRANCH}"\n', code=1)
    return github


def test_gh_runs_in_the_checkout(release_repository: ReleaseRepository, gh: GitHub) -> None:
    assert read_pull_request(release_repository.checkout()) is None
    (call,) = gh.calls
    assert call["arguments"] == ["pr", "view", BRANCH, "--json", FIELDS]
    assert (call["cwd"], call["stdin"], call["variables"]) == (str(release_repository.path), "", ["1", "1"])


def test_pull_request_is_read(release_repository: ReleaseRepository, gh: GitHub) -> None:
    gh.set_answer(answer("OPEN", "", "APPROVED"))
    assert read_pull_request(release_repository.checkout()) == PullRequest(URL, PullRequestState.OPEN, Review.APPROVED)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("To get started with GitHub CLI, please run:  gh auth login\n", 4),
        ("none of the git remotes configured for this repository point to a known GitHub host.\n", 1),
        ("error connecting to api.github.com\ncheck your internet connection\n", 1),
        ('Unknown JSON field: "latestReviews"\n', 1),
        ("", 1),
    ],
)
def test_failure_of_gh_is_reported(release_repository: ReleaseRepository, gh: GitHub, error: str, code: int) -> None:
    gh.set_answer(error=error, code=code)
    with pytest.raises(CouldNotLookError, match="gh cannot read") as caught:
        read_pull_request(release_repository.checkout())
    assert caught.value.output == (error.strip() or "exit status 1")


def test_missing_gh_is_reported(
    release_repository: ReleaseRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(CouldNotLookError, match="gh is not installed"):
        read_pull_request(release_repository.checkout())


def test_gh_that_cannot_run_is_reported(
    release_repository: ReleaseRepository, gh: GitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    (gh.folder / "gh").chmod(0o644)
    monkeypatch.setenv("PATH", str(gh.folder))
    with pytest.raises(CouldNotLookError, match="gh cannot be run"):
        read_pull_request(release_repository.checkout())


def test_pull_request_gets_text_on_stdin(release_repository: ReleaseRepository, gh: GitHub) -> None:
    checkout = release_repository.checkout(title="It's a title")
    change = plan_pull_request(checkout)
    body = "# Evidence\n\n'quoted' $(id) ünï\n" * 5000
    apply(checkout, replace(change, stdin=body))
    call = gh.calls[-1]
    arguments = ["pr", "create", "--base", "main", "--head", BRANCH, "--title", "It's a title", "--body-file", "-"]
    assert (call["arguments"], call["stdin"]) == (arguments, body)


@pytest.mark.parametrize(("state", "opens"), [("OPEN", False), ("MERGED", False), ("CLOSED", True)])
def test_pull_request_is_opened_once(
    release_repository: ReleaseRepository, gh: GitHub, state: str, opens: bool
) -> None:
    gh.set_answer(answer(state))
    change = plan_pull_request(release_repository.checkout())
    assert change.is_needed == opens
    assert (f"{URL} ({state.lower()}): nothing to do" == change.summary) != opens


COMPARE = f"https://github.com/torrust/torrust-demo/compare/main...{BRANCH}?expand=1"


@pytest.mark.parametrize(
    ("url", "page"),
    [
        ("https://github.com/torrust/torrust-demo.git", COMPARE),
        ("https://github.com/torrust/torrust-demo", COMPARE),
        ("https://github.com/torrust/torrust-demo/", COMPARE),
        ("https://someone@github.com/torrust/torrust-demo.git", COMPARE),
        ("https://someone:secret@github.com/torrust/torrust-demo.git", COMPARE),
        ("ssh://git@github.com/torrust/torrust-demo.git", COMPARE),
        ("ssh://git@github.com/torrust/torrust-demo", COMPARE),
        ("git@github.com:torrust/torrust-demo.git", COMPARE),
        ("git@github.com:torrust/torrust-demo", COMPARE),
        ("git@github.com:torrust/torrust.demo.git", COMPARE.replace("torrust-demo", "torrust.demo")),
        ("https://gitlab.com/torrust/torrust-demo.git", None),
        ("https://github.com.example.org/torrust/torrust-demo.git", None),
        ("https://example.org/github.com/torrust/torrust-demo.git", None),
        ("https://github.com/torrust", None),
        ("git@github.com:torrust/torrust-demo/more.git", None),
        ("/srv/git/torrust-demo.git", None),
        ("../github.com/torrust/torrust-demo", None),
    ],
)
def test_compare_url_follows_the_remote(release_repository: ReleaseRepository, url: str, page: str | None) -> None:
    release_repository.git("remote", "set-url", "origin", url)
    assert compare_url(release_repository.checkout()) == page


def test_names_in_compare_url_are_encoded(release_repository: ReleaseRepository) -> None:
    release_repository.git("remote", "set-url", "origin", "git@github.com:torrust/torrust-demo.git")
    page = compare_url(release_repository.checkout(base="a&b", branch="fix/100%#1"))
    assert page == "https://github.com/torrust/torrust-demo/compare/a%26b...fix/100%25%231?expand=1"


def test_compare_url_needs_a_remote(empty_repository: ReleaseRepository) -> None:
    assert compare_url(empty_repository.checkout()) is None
