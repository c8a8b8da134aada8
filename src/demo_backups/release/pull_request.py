"""The pull request of the release, by the GitHub CLI."""

from __future__ import annotations

import enum
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ..errors import CouldNotLookError
from .repository import Change, Checkout, read_remote_url


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
    """A pull request on GitHub."""

    url: str
    state: PullRequestState
    review: Review


_FIELDS = ("url", "state", "headRefName", "baseRefName", "reviewDecision", "latestReviews")


def read_pull_request(checkout: Checkout) -> PullRequest | None:
    """Read the pull request of the branch into the base, None if there is none; raises CouldNotLookError."""
    branch, base = checkout.release.branch, checkout.release.base
    result = checkout.run("gh", "pr", "view", branch, "--json", ",".join(_FIELDS))
    if result.ok:
        return parse_pull_request(result.stdout, branch, base)
    if "no pull requests found" in result.stderr:
        return None
    raise CouldNotLookError(
        "gh cannot read the pull request", output=result.output, advice="check the login: gh auth status"
    )


def parse_pull_request(output: str, branch: str, base: str) -> PullRequest | None:
    """Parse the output of `gh pr view --json` (cli.github.com/manual/gh_pr_view); raises CouldNotLookError.

    Returns None for a pull request of other branches: gh takes a branch named 85 for the number of a pull request, and
    also finds one into another base.
    """
    try:
        answer = json.loads(output)
        request = PullRequest(
            url=str(answer["url"]), state=PullRequestState(answer["state"].lower()), review=_parse_review(answer)
        )
        return request if (answer["headRefName"], answer["baseRefName"]) == (branch, base) else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CouldNotLookError("the answer of gh pr view is not valid", output=output[:500]) from error


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


def compare_url(checkout: Checkout) -> str | None:
    """Return the page that opens a pull request by hand, None if the remote is not on GitHub."""
    release = checkout.release
    url = read_remote_url(checkout) or ""
    match = re.fullmatch(r"(?:https://(?:[^@/]*@)?|ssh://git@|git@)github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?", url)
    names = f"{quote(release.base)}...{quote(release.branch)}"
    return f"https://github.com/{match[1]}/compare/{names}?expand=1" if match else None


def plan_pull_request(checkout: Checkout) -> Change:
    """Plan to open the pull request; its text is passed as standard input. Raises CouldNotLookError if gh fails."""
    release = checkout.release
    request = read_pull_request(checkout)
    if request and request.state is not PullRequestState.CLOSED:
        return Change("open the pull request", f"{request.url} ({request.state.value}): nothing to do")
    command = ["gh", "pr", "create", "--base", release.base, "--head", release.branch, "--title", release.title]
    return Change("open the pull request", "opened the pull request", [[*command, "--body-file", "-"]])
