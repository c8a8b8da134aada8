"""The pull request of the release: a stand-in for the GitHub CLI, beside a real git repository."""

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
    compare_address,
    parse_pull_request,
    plan_pull_request,
    read_pull_request,
)
from demo_backups.release.repository import apply

from ..helpers.release_repository import BRANCH, ReleaseRepository, empty_repository, release_repository

__all__ = ["empty_repository", "release_repository"]  # fixtures

URL = "https://github.com/torrust/torrust-demo/pull/90"
ASKED = "url,state,headRefName,baseRefName,reviewDecision,latestReviews"


def answer(state: str = "OPEN", decision: str = "", *latest: str) -> str:
    """What `gh pr view --json` prints of the fields that are asked for, as recorded from gh 2.23."""
    reviews = [
        {
            "id": f"PRR_{number}",
            "author": {"login": f"reviewer{number}"},
            "authorAssociation": "MEMBER",
            "body": "",
            "submittedAt": "2026-11-24T20:00:00Z",
            "includesCreatedEdit": False,
            "reactionGroups": [],
            "state": each,
            "commit": {"oid": ""},
        }
        for number, each in enumerate(latest)
    ]
    names = {"headRefName": BRANCH, "baseRefName": "main"}
    return json.dumps({"latestReviews": reviews, "reviewDecision": decision, "state": state, "url": URL} | names)


@pytest.mark.parametrize(
    ("printed", "state", "review"),
    [
        (answer(), "open", "none"),
        (answer("CLOSED"), "closed", "none"),
        (answer("MERGED", "APPROVED", "APPROVED"), "merged", "approved"),
        (answer("OPEN", "REVIEW_REQUIRED"), "open", "none"),
        (answer("OPEN", "REVIEW_REQUIRED", "APPROVED"), "open", "none"),  # by one, and more are asked for
        (answer("OPEN", "REVIEW_REQUIRED", "COMMENTED"), "open", "none"),
        (answer("OPEN", "APPROVED", "APPROVED", "COMMENTED"), "open", "approved"),
        (answer("OPEN", "CHANGES_REQUESTED", "APPROVED", "CHANGES_REQUESTED"), "open", "changes"),
        (answer("OPEN", "", "APPROVED"), "open", "approved"),
        (answer("OPEN", "", "APPROVED", "CHANGES_REQUESTED"), "open", "changes"),
        (answer("OPEN", "", "COMMENTED", "DISMISSED", "PENDING"), "open", "none"),
    ],
)
def test_a_pull_request_is_read_from_what_gh_prints(printed: str, state: str, review: str) -> None:
    assert parse_pull_request(printed, BRANCH, "main") == PullRequest(URL, state, review)


@pytest.mark.parametrize(("branch", "base"), [("85", "main"), (BRANCH, "develop")])
def test_a_pull_request_of_other_branches_is_none_of_the_release(branch: str, base: str) -> None:
    assert parse_pull_request(answer("MERGED", "APPROVED"), branch, base) is None


@pytest.mark.parametrize(
    "garbage",
    [
        *("", "null", "[]", "5", "{}", "<html>", '{"url": 1}', answer()[:-1]),
        *(answer().replace("[]", wrong) for wrong in ("5", "[5]", "null", '[{"state": []}]')),
    ],
)
def test_what_gh_prints_and_is_no_pull_request_is_never_taken_for_none(garbage: str) -> None:
    with pytest.raises(CouldNotLookError, match="cannot be read"):
        parse_pull_request(garbage, BRANCH, "main")


@dataclass
class GitHub:
    """A stand-in for the GitHub CLI: it notes how it is called, and answers as it is told."""

    folder: Path

    def answers(self, out: str = "", error: str = "", code: int = 0) -> None:
        (self.folder / "out").write_text(out)
        (self.folder / "error").write_text(error)
        (self.folder / "code").write_text(str(code))

    @property
    def calls(self) -> list[dict[str, Any]]:
        log = self.folder / "calls"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


STAND_IN = f"""#!{sys.executable}
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
creates = sys.argv[1:3] == ["pr", "create"]
given = sys.stdin.read()
names = ("GH_PROMPT_DISABLED", "NO_COLOR")
with (here / "calls").open("a") as log:
    heeded = [os.environ.get(name) for name in names]
    call = {{"words": sys.argv[1:], "given": given, "cwd": os.getcwd(), "set": heeded}}
    log.write(json.dumps(call) + "\\n")
if creates:
    print("{URL}")
    sys.exit(0)
sys.stdout.write((here / "out").read_text())
sys.stderr.write((here / "error").read_text())
sys.exit(int((here / "code").read_text()))
"""


@pytest.fixture
def gh(release_repository: ReleaseRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GitHub:
    """The stand-in, first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "gh").write_text(STAND_IN)
    (folder / "gh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    made = GitHub(folder)
    made.answers(error=f'no pull requests found for branch "{BRANCH}"\n', code=1)
    return made


def test_gh_is_asked_in_the_checkout_for_the_branch_s_pull_request(
    release_repository: ReleaseRepository, gh: GitHub
) -> None:
    assert read_pull_request(release_repository.checkout()) is None
    (call,) = gh.calls
    assert call["words"] == ["pr", "view", BRANCH, "--json", ASKED]
    assert (call["cwd"], call["given"], call["set"]) == (str(release_repository.path), "", ["1", "1"])


def test_a_pull_request_that_gh_knows_is_seen(release_repository: ReleaseRepository, gh: GitHub) -> None:
    gh.answers(answer("OPEN", "", "APPROVED"))
    assert read_pull_request(release_repository.checkout()) == PullRequest(URL, "open", "approved")


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
def test_where_gh_cannot_ask_nothing_is_known_of_the_pull_request(
    release_repository: ReleaseRepository, gh: GitHub, error: str, code: int
) -> None:
    gh.answers(error=error, code=code)
    with pytest.raises(CouldNotLookError, match="gh cannot ask GitHub") as caught:
        read_pull_request(release_repository.checkout())
    assert caught.value.output == (error.strip() or "exit status 1")


def test_without_gh_nothing_is_known_of_the_pull_request(
    release_repository: ReleaseRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(CouldNotLookError, match="gh is not installed"):
        read_pull_request(release_repository.checkout())


def test_a_gh_that_cannot_be_run_is_no_traceback(
    release_repository: ReleaseRepository, gh: GitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    (gh.folder / "gh").chmod(0o644)
    monkeypatch.setenv("PATH", str(gh.folder))
    with pytest.raises(CouldNotLookError, match="gh cannot be run"):
        read_pull_request(release_repository.checkout())


def test_the_pull_request_is_opened_with_its_names_and_a_body_on_standard_input(
    release_repository: ReleaseRepository, gh: GitHub
) -> None:
    checkout = release_repository.checkout(title="It's a title")
    change = plan_pull_request(checkout)
    body = "# Evidence\n\n'quoted' $(id) ünï\n" * 5000
    apply(checkout, replace(change, given=body))
    call = gh.calls[-1]
    words = ["pr", "create", "--base", "main", "--head", BRANCH, "--title", "It's a title", "--body-file", "-"]
    assert (call["words"], call["given"]) == (words, body)


@pytest.mark.parametrize(("state", "opens"), [("OPEN", False), ("MERGED", False), ("CLOSED", True)])
def test_a_pull_request_is_opened_once(
    release_repository: ReleaseRepository, gh: GitHub, state: str, opens: bool
) -> None:
    gh.answers(answer(state))
    change = plan_pull_request(release_repository.checkout())
    assert bool(change.commands) == opens
    assert (f"{URL} ({state.lower()}): nothing to do" == change.done) != opens


COMPARE = f"https://github.com/torrust/torrust-demo/compare/main...{BRANCH}?expand=1"


@pytest.mark.parametrize(
    ("url", "address"),
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
def test_the_page_of_a_pull_request_by_hand_is_known_from_the_remote_without_asking_it(
    release_repository: ReleaseRepository, url: str, address: str | None
) -> None:
    release_repository.git("remote", "set-url", "origin", url)
    assert compare_address(release_repository.checkout()) == address


def test_the_names_in_the_page_s_address_are_encoded(release_repository: ReleaseRepository) -> None:
    release_repository.git("remote", "set-url", "origin", "git@github.com:torrust/torrust-demo.git")
    address = compare_address(release_repository.checkout(base="a&b", branch="fix/100%#1"))
    assert address == "https://github.com/torrust/torrust-demo/compare/a%26b...fix/100%25%231?expand=1"


def test_without_a_remote_there_is_no_such_page(empty_repository: ReleaseRepository) -> None:
    assert compare_address(empty_repository.checkout()) is None
