"""The pull request of the release: the real gh with a local GitHub, and a real git repository."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_backups.errors import CouldNotLookError, StepError
from demo_backups.release.git_state import read_remote_state
from demo_backups.release.github import explain_failure, parse_repository
from demo_backups.release.merge import MergeState
from demo_backups.release.merge_search import read_merge
from demo_backups.release.pull_request import (
    PullRequest,
    PullRequestState,
    Review,
    compare_url,
    parse_pull_requests,
    plan_pull_request,
    read_pull_request,
)
from demo_backups.release.repository import apply

from ..helpers.github import BASE_REPOSITORY, HOST, GitHub, PullRequestOnGitHub, github
from ..helpers.programs import link_programs
from ..helpers.release_repository import BRANCH, INDEX, ReleaseRepository, empty_repository, release_repository

pytestmark = pytest.mark.user

__all__ = ["empty_repository", "github", "release_repository"]  # fixtures

FORK = "somebody/torrust-demo"
URL = f"https://{HOST}/{BASE_REPOSITORY}/pull/90"


def answer(state: str = "OPEN", decision: str = "", *latest: str, **values: Any) -> str:
    """Return the output of `gh pr list --json` for one pull request."""
    node = PullRequestOnGitHub(90, state, decision=decision, reviews=latest, head="ab12").as_node()
    node["latestReviews"] = node["latestReviews"]["nodes"]  # as gh prints it
    return json.dumps([node | values])


def parse(output: str, branch: str = BRANCH, base: str = "main", owner: str | None = "torrust") -> list[PullRequest]:
    return parse_pull_requests(output, branch, base, owner)


# --- the answer of gh -----------------------------------------------------------------------------------------------


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
    assert parse(output) == [PullRequest(URL, PullRequestState(state), Review(review), head="ab12")]


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({}, 1),
        ({"headRefName": "85"}, 0),
        ({"baseRefName": "develop"}, 0),
        ({"headRepositoryOwner": {"login": "Torrust"}}, 1),
        ({"headRepositoryOwner": {"login": "another"}}, 0),
        ({"headRepositoryOwner": None}, 1),  # the fork was deleted
        ({"headRepositoryOwner": {"login": ""}}, 1),
    ],
)
def test_pull_request_of_other_branch_is_ignored(values: dict[str, Any], count: int) -> None:
    assert len(parse(answer(**values))) == count


WRONG: list[dict[str, Any]] = [
    {"latestReviews": 5},
    {"latestReviews": [5]},
    {"latestReviews": None},
    {"latestReviews": [{"state": []}]},
    *({name: 5} for name in ("url", "body", "headRefOid", "state", "reviewDecision")),
    *({name: []} for name in ("url", "body", "headRefOid", "state", "reviewDecision")),
    *({name: None} for name in ("url", "body", "headRefOid", "state")),
    *({name: "DELETED"} for name in ("url", "headRefOid", "state")),
]
INVALID = [
    *("", "null", "5", "{}", "<html>", '[{"url": 1}]', "[1]", answer()[:-1], "[" * 100_000),
    *(json.dumps([json.loads(answer())[0] | wrong]) for wrong in WRONG),
]


@pytest.mark.parametrize("output", INVALID)
def test_invalid_answer_is_reported(output: str) -> None:
    with pytest.raises(CouldNotLookError, match="not valid"):
        parse(output)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
    max_leaves=5,
)
bounded = settings(derandomize=True, max_examples=200, deadline=None, database=None)


@bounded
@given(changes=st.dictionaries(st.sampled_from(sorted(json.loads(answer())[0])), json_values, max_size=2))
def test_any_json_is_answer_or_error(changes: dict[str, Any]) -> None:
    with contextlib.suppress(CouldNotLookError):
        parse(answer(**changes))


@bounded
@given(url=st.text(st.sampled_from("git@hub.com:/~ é\n-0"), max_size=40))
def test_any_url_is_a_repository_or_none(url: str) -> None:
    repository = parse_repository(url)
    assert repository is None or (repository.owner and repository.name and "/" not in repository.name)


# --- the real gh ----------------------------------------------------------------------------------------------------


def test_pull_request_is_read(release_repository: ReleaseRepository, github: GitHub) -> None:
    assert read_pull_request(release_repository.checkout()) is None
    github.add(reviews=("APPROVED",), body="text")
    expected = PullRequest(URL, PullRequestState.OPEN, Review.APPROVED, "text", "0" * 40)
    assert read_pull_request(release_repository.checkout()) == expected


def test_branch_named_as_number_is_a_branch(release_repository: ReleaseRepository, github: GitHub) -> None:
    github.add()
    assert read_pull_request(release_repository.checkout(branch="90")) is None


def test_open_pull_request_takes_precedence(release_repository: ReleaseRepository, github: GitHub) -> None:
    for state in ("OPEN", "CLOSED", "MERGED"):
        github.add(state=state)
    request = read_pull_request(release_repository.checkout())
    assert request is not None
    assert request.state is PullRequestState.OPEN


def test_pull_request_of_earlier_branch_is_ignored(release_repository: ReleaseRepository, github: GitHub) -> None:
    earlier = release_repository.git("rev-parse", "HEAD")
    release_repository.git("switch", "-q", "-c", BRANCH)
    newer = release_repository.commit_file(INDEX, "new\n", "feat: new")
    request = github.add(state="MERGED", head=earlier)
    assert read_pull_request(release_repository.checkout()) is None
    request.head = newer
    found = read_pull_request(release_repository.checkout())
    assert found is not None
    assert found.has_branch
    request.head = "f" * 40  # commits of a reviewer that were not fetched
    found = read_pull_request(release_repository.checkout())
    assert found is not None
    assert not found.has_branch


FAILURES = [
    ((500, {"message": "Something broke"}), "githubstatus"),
    ((502, {}), "githubstatus"),
    ((401, {"message": "Bad credentials"}), "gh auth login"),
    ((403, {"message": "Resource not accessible by personal access token"}), "write access"),
    ((403, {"message": "API rate limit exceeded for user ID 1."}), "rate_limit"),
    ((403, {"message": "Resource protected by organization SAML enforcement."}), "gh auth refresh"),
    ((429, {"message": "Too many"}), "rate_limit"),
    ((404, {"message": "Not Found"}), "cannot see the repository"),
    ((422, {"message": "Validation Failed"}), "says why"),
    ((200, {"errors": [{"type": "RATE_LIMITED", "message": "API rate limit exceeded"}]}), "rate_limit"),
    ((200, {"errors": [{"type": "NOT_FOUND", "message": "Could not resolve to a Repository"}]}), "cannot see"),
]


@pytest.mark.parametrize(
    ("failure", "advice"), FAILURES, ids=[f"{status}-{advice}" for (status, _), advice in FAILURES]
)
def test_advice_fits_answer_of_github(
    release_repository: ReleaseRepository, github: GitHub, failure: tuple[int, dict[str, Any]], advice: str
) -> None:
    github.failure = failure
    with pytest.raises(CouldNotLookError, match="gh cannot read") as caught:
        read_pull_request(release_repository.checkout())
    assert advice in caught.value.advice
    assert caught.value.output
    if advice in ("githubstatus", "rate_limit", "says why"):
        assert "auth" not in caught.value.advice


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("GH_TOKEN", "", "gh auth login"),
        ("HTTP_PROXY", "http://127.0.0.1:9", "network connection"),
        ("HTTP_PROXY", "http://nowhere.invalid:80", "network connection"),
    ],
)
def test_advice_fits_missing_login_or_network(
    release_repository: ReleaseRepository,
    github: GitHub,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    advice: str,
) -> None:
    monkeypatch.setenv(name, value)
    if name == "GH_TOKEN":
        monkeypatch.delenv("GH_HOST")  # gh takes its host for one with a login
    with pytest.raises(CouldNotLookError) as caught:
        read_pull_request(release_repository.checkout())
    assert advice in caught.value.advice


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [(["--json", "nothing"], "too old"), (["--nothing"], "too old"), (["--web", "x"], "GH_DEBUG")],
)
def test_advice_fits_old_gh(
    release_repository: ReleaseRepository, github: GitHub, arguments: list[str], advice: str
) -> None:
    result = release_repository.checkout().run("gh", "pr", "list", *arguments)
    assert not result.ok
    assert advice in explain_failure(result.status, result.output)


def test_remote_that_is_not_on_github(release_repository: ReleaseRepository, github: GitHub) -> None:
    release_repository.git("remote", "set-url", "origin", str(release_repository.remote))
    with pytest.raises(CouldNotLookError) as caught:
        read_pull_request(release_repository.checkout())
    assert "git remote -v" in caught.value.advice


def test_missing_gh_is_reported(
    release_repository: ReleaseRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(link_programs(tmp_path / "bin", "gh")))
    with pytest.raises(CouldNotLookError, match="gh is not installed"):
        read_pull_request(release_repository.checkout())


def test_gh_that_cannot_run_is_reported(
    release_repository: ReleaseRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = link_programs(tmp_path / "bin", "gh")
    (folder / "gh").write_text("")
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(CouldNotLookError, match="gh cannot be run"):
        read_pull_request(release_repository.checkout())


# --- opening and updating -------------------------------------------------------------------------------------------


def test_pull_request_is_opened_with_text(release_repository: ReleaseRepository, github: GitHub) -> None:
    checkout = release_repository.checkout(title="It's a title")
    text = "# Evidence\n\n'quoted' $(id) ünï\n" * 1500
    assert apply(checkout, plan_pull_request(checkout, text)) == f"{URL}\n"
    (request,) = github.pull_requests
    assert (request.title, request.branch, request.base) == ("It's a title", BRANCH, "main")
    assert text.rstrip() in request.body
    before = request.body
    change = plan_pull_request(checkout, text)
    assert (change.is_needed, request.body) == (False, before)


def test_only_own_text_is_updated(release_repository: ReleaseRepository, github: GitHub) -> None:
    checkout = release_repository.checkout()
    apply(checkout, plan_pull_request(checkout, "first"))
    (request,) = github.pull_requests
    request.body = f"Dear reviewers,\r\n{request.body}Thanks!"
    apply(checkout, plan_pull_request(checkout, r"second \1"))
    assert request.body.startswith("Dear reviewers,\n")
    assert request.body.endswith("Thanks!")
    assert (r"second \1" in request.body, "first" in request.body) == (True, False)
    request.body = "Written by hand."
    apply(checkout, plan_pull_request(checkout, "third"))
    assert request.body.startswith("Written by hand.\n\n")
    assert "third" in request.body


def test_closed_pull_request_is_not_reopened(release_repository: ReleaseRepository, github: GitHub) -> None:
    github.add(state="CLOSED")
    with pytest.raises(StepError, match=f"closed without a merge: {URL}") as caught:
        plan_pull_request(release_repository.checkout(), "text")
    assert "gh pr reopen" in caught.value.advice
    assert github.changes == []


def test_merged_pull_request_is_not_changed(release_repository: ReleaseRepository, github: GitHub) -> None:
    github.add(state="MERGED")
    assert plan_pull_request(release_repository.checkout(), "text").summary == f"{URL} (merged): nothing to do"


def test_earlier_merged_pull_request_is_followed(release_repository: ReleaseRepository, github: GitHub) -> None:
    github.add(state="MERGED", head="f" * 40)
    release_repository.git("branch", BRANCH)
    apply(release_repository.checkout(), plan_pull_request(release_repository.checkout(), "text"))
    assert [request.state for request in github.pull_requests] == ["OPEN", "MERGED"]


def test_refused_change_has_fitting_advice(release_repository: ReleaseRepository, github: GitHub) -> None:
    checkout = release_repository.checkout()
    change = plan_pull_request(checkout, "text")
    github.failure = (200, {"errors": [{"message": f"No commits between main and {BRANCH}"}]})
    with pytest.raises(StepError, match="could not open the pull request") as caught:
        apply(checkout, change)
    assert "nothing to merge" in caught.value.advice


# --- from a fork ----------------------------------------------------------------------------------------------------


@pytest.fixture
def fork(release_repository: ReleaseRepository, github: GitHub, tmp_path: Path) -> ReleaseRepository:
    """The repository as a clone of a fork, with the remote `upstream`."""
    path = tmp_path / "fork.git"
    release_repository.git("clone", "-q", "--bare", str(release_repository.remote), str(path))
    release_repository.git("remote", "add", "upstream", github.url())
    release_repository.git("remote", "set-url", "origin", github.add_repository(path, FORK))
    return release_repository


def test_pull_request_of_fork_is_found(fork: ReleaseRepository, github: GitHub) -> None:
    github.add()  # of a branch of the same name in the base repository
    assert read_pull_request(fork.checkout()) is None
    github.add(owner="somebody")
    found = read_pull_request(fork.checkout())
    assert found is not None
    assert found.url == f"https://{HOST}/{BASE_REPOSITORY}/pull/91"


def test_pull_request_of_fork_names_owner(fork: ReleaseRepository, github: GitHub) -> None:
    apply(fork.checkout(), plan_pull_request(fork.checkout(), "text"))
    assert github.changes[0]["headRefName"] == f"somebody:{BRANCH}"


def test_release_of_fork_is_merged_upstream(fork: ReleaseRepository, github: GitHub) -> None:
    fork.git("switch", "-q", "-c", BRANCH)
    fork.git("commit", "-q", "-a", "-m", "feat: all")
    fork.git("push", "-q", "origin", BRANCH)
    checkout = fork.checkout()
    assert read_merge(checkout, read_remote_state(checkout), [INDEX]).state is MergeState.NOT_MERGED
    fork.git("push", "-q", str(fork.remote), f"{BRANCH}:main")
    assert read_merge(checkout, read_remote_state(checkout), [INDEX]).state is MergeState.MERGED


@pytest.mark.parametrize(
    ("way", "remote"), [("upstream", "upstream"), ("gh", "mirror"), ("setting", "mirror"), ("none", "origin")]
)
def test_base_remote_is_chosen_as_by_gh(fork: ReleaseRepository, way: str, remote: str) -> None:
    fork.git("remote", "add", "mirror", "git@github.localhost:torrust/torrust-demo.git")
    changes = {}
    if way == "gh":
        fork.git("config", "remote.mirror.gh-resolved", "base")
    elif way == "setting":
        changes["base_remote"] = "mirror"
    elif way == "none":
        fork.git("remote", "remove", "upstream")
    assert fork.checkout(**changes).base_remote == remote


def test_compare_url_of_fork_names_owner(release_repository: ReleaseRepository) -> None:
    release_repository.git("remote", "set-url", "origin", "git@github.com:somebody/torrust-demo.git")
    release_repository.git("remote", "add", "upstream", "https://github.com/torrust/torrust-demo")
    page = compare_url(release_repository.checkout())
    assert page == f"https://github.com/torrust/torrust-demo/compare/main...somebody:{BRANCH}?expand=1"


# --- by hand --------------------------------------------------------------------------------------------------------

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
        ("ssh://git@ssh.github.com:443/torrust/torrust-demo.git", COMPARE),
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
