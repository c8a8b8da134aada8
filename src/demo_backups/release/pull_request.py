"""The pull request of the release, by the GitHub CLI."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from ..errors import CouldNotLookError, StepError
from .github import GITHUB, Repository, explain_failure, parse_pull_request_url, parse_repository
from .repository import Change, Checkout, find_commit, read_remote_url


class PullRequestState(enum.Enum):
    """The state of a pull request."""

    OPEN = "open"
    CLOSED = "closed"
    MERGED = "merged"


class Review(enum.Enum):
    """The result of the reviews of a pull request."""

    APPROVED = "approved"
    CHANGES_REQUESTED = "changes requested"
    NONE = "none"


@dataclass(frozen=True)
class PullRequest:
    """A pull request on GitHub; `head` is its last commit.

    `has_branch` is set if it is known to have the commits of the branch in the checkout.
    """

    url: str
    state: PullRequestState
    review: Review
    body: str = ""
    head: str = ""
    has_branch: bool = False


# --- reading it -----------------------------------------------------------------------------------------------------

_FIELDS = (
    *("url", "state", "headRefName", "baseRefName", "headRefOid", "headRepositoryOwner"),
    *("reviewDecision", "latestReviews", "body"),
)


def read_pull_request(checkout: Checkout) -> PullRequest | None:
    """Read the pull request of the branch into the base, None if there is none; raises CouldNotLookError."""
    release = checkout.release
    query = ("--head", release.branch, "--base", release.base, "--state", "all")
    result = checkout.run("gh", "pr", "list", *_repository_option(checkout), *query, "--json", ",".join(_FIELDS))
    if not result.ok:
        advice = explain_failure(result.status, result.output)
        raise CouldNotLookError("gh cannot read the pull request", output=result.output, advice=advice)
    repository = _read_repository(checkout, release.remote)
    requests = parse_pull_requests(
        result.stdout, release.branch, release.base, repository.owner if repository else None
    )
    related = [request for request in (_relate(checkout, request) for request in requests) if request]
    is_open = [request for request in related if request.state is PullRequestState.OPEN]
    return next(iter([*is_open, *related]), None)


def _read_repository(checkout: Checkout, remote: str) -> Repository | None:
    return parse_repository(read_remote_url(checkout, remote) or "")


def _repository_option(checkout: Checkout) -> list[str]:
    """Return the option that selects the repository of the base branch.

    gh itself finds the repository of a remote on another host, or behind an alias of the SSH configuration.
    """
    repository = _read_repository(checkout, checkout.base_remote)
    return ["--repo", str(repository)] if repository and repository.is_on_github else []


def _relate(checkout: Checkout, request: PullRequest) -> PullRequest | None:
    """Compare a request with the branch in the checkout; None for one of an earlier branch of the same name."""
    branch = find_commit(checkout, f"refs/heads/{checkout.release.branch}")
    if request.state is PullRequestState.OPEN or branch is None:
        return request
    if not find_commit(checkout, request.head or None):
        return request  # it has commits that were not fetched
    has_branch = checkout.run("git", "merge-base", "--is-ancestor", branch, request.head).ok
    return replace(request, has_branch=True) if has_branch else None


def parse_pull_requests(output: str, branch: str, base: str, owner: str | None) -> list[PullRequest]:
    """Parse the output of `gh pr list --json` (cli.github.com/manual/gh_pr_list), newest first.

    Leaves out those of other branches, and of branches of this name in the repositories of other owners. GitHub does
    not name the owner of a fork that was deleted. Raises CouldNotLookError.
    """
    try:
        requests = [(answer, _parse_pull_request(answer)) for answer in list.copy(json.loads(output))]
        return [request for answer, request in requests if _is_of_release(answer, branch, base, owner)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CouldNotLookError("the answer of gh pr list is not valid", output=output[:500]) from error


def _is_of_release(answer: Mapping[str, Any], branch: str, base: str, owner: str | None) -> bool:
    login = (answer["headRepositoryOwner"] or {}).get("login")
    is_of_owner = not login or owner is None or login.lower() == owner.lower()
    return is_of_owner and (answer["headRefName"], answer["baseRefName"]) == (branch, base)


def _parse_pull_request(answer: Mapping[str, Any]) -> PullRequest:
    parse_pull_request_url(answer["url"])
    head = answer["headRefOid"]
    if not isinstance(answer["body"], str) or not re.fullmatch(r"[0-9a-f]*", head):
        raise TypeError("the body or the commit is not text")
    state = PullRequestState(answer["state"].lower())
    return PullRequest(answer["url"], state, _parse_review(answer), answer["body"], head)


def _parse_review(answer: Any) -> Review:
    """Return the decision of GitHub.

    It exists only where the repository requires reviews; otherwise the latest review of each reviewer counts.
    """
    latest = {review["state"] for review in answer["latestReviews"]}
    match answer["reviewDecision"]:
        case "APPROVED":
            return Review.APPROVED
        case "CHANGES_REQUESTED":
            return Review.CHANGES_REQUESTED
        case "" | None if "CHANGES_REQUESTED" in latest:
            return Review.CHANGES_REQUESTED
        case "" | None if "APPROVED" in latest:
            return Review.APPROVED
        case str() | None:
            return Review.NONE
        case _:
            raise TypeError("reviewDecision is not text")


# --- opening and updating it ----------------------------------------------------------------------------------------

_START, _END = "<!-- release report: start -->", "<!-- release report: end -->"
_TEXT = re.compile(f"{re.escape(_START)}.*{re.escape(_END)}", re.DOTALL)


def compare_url(checkout: Checkout) -> str | None:
    """Return the page that opens a pull request by hand, None if the base is not on github.com."""
    release = checkout.release
    base, head = (_read_repository(checkout, remote) for remote in (checkout.base_remote, release.remote))
    if base is None or base.host != GITHUB:
        return None
    names = f"{quote(release.base)}...{_owner_prefix(base, head)}{quote(release.branch)}"
    return f"https://github.com/{base.owner}/{base.name}/compare/{names}?expand=1"


def _owner_prefix(base: Repository | None, head: Repository | None) -> str:
    """Return `OWNER:` where the branch is in a fork."""
    return f"{head.owner}:" if base and head and head.owner.lower() != base.owner.lower() else ""


def plan_pull_request(checkout: Checkout, text: str) -> Change:
    """Plan to open the pull request of the pushed branch with a text, or to replace that text in an open one.

    What others wrote around the text is kept. Raises StepError if it was closed, CouldNotLookError if gh fails.
    """
    request = read_pull_request(checkout)
    block = f"{_START}\n{text.rstrip()}\n{_END}"
    # The head of a pull request follows what is pushed until it is merged. One with another head is an earlier one.
    branch = find_commit(checkout, f"refs/heads/{checkout.release.branch}")
    is_earlier = request and request.state is PullRequestState.MERGED and branch and not request.has_branch
    if request is None or is_earlier:
        return _plan_opening(checkout, f"{block}\n")
    if request.state is PullRequestState.CLOSED:
        raise StepError(
            f"the pull request was closed without a merge: {request.url}",
            advice=f"ask there why; to continue with it, reopen it on its page or with gh pr reopen {request.url}; "
            "for a new one, set another release.branch",
        )
    if request.state is PullRequestState.MERGED:
        return Change("open the pull request", f"{request.url} (merged): nothing to do")
    return _plan_update(request, block)


def _plan_opening(checkout: Checkout, body: str) -> Change:
    release = checkout.release
    base, head = (_read_repository(checkout, remote) for remote in (checkout.base_remote, release.remote))
    branch = f"{_owner_prefix(base, head)}{release.branch}"
    options = ["--base", release.base, "--head", branch, "--title", release.title, "--body-file", "-"]
    command = ["gh", "pr", "create", *_repository_option(checkout), *options]
    return Change("open the pull request", "opened the pull request", [command], stdin=body)


def _plan_update(request: PullRequest, block: str) -> Change:
    # Not `gh pr edit`: until gh 2.66 it asks for classic projects too, which GitHub no longer has.
    current = request.body.replace("\r\n", "\n")
    body = _TEXT.sub(lambda match: block, current, count=1)
    if _TEXT.search(current) is None:
        body = f"{current.rstrip()}\n\n{block}\n".lstrip()
    if body == current:
        return Change("update the pull request", f"{request.url} (open): nothing to do")
    repository, number = parse_pull_request_url(request.url)
    path = f"repos/{repository.owner}/{repository.name}/pulls/{number}"
    command = ["gh", "api", "--silent", "--hostname", repository.host, "--method", "PATCH", path, "--field", "body=@-"]
    return Change("update the pull request", f"updated the text of {request.url}", [command], stdin=body)
