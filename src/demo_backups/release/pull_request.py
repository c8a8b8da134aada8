"""The pull request of the release, by the GitHub CLI."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from urllib.parse import quote

from ..errors import CouldNotLookError
from .repository import Change, Checkout, remote_address


@dataclass(frozen=True)
class PullRequest:
    """A pull request: `state` is open, closed or merged; `review` is approved, changes or none."""

    url: str
    state: str
    review: str


_ASKED = ("url", "state", "headRefName", "baseRefName", "reviewDecision", "latestReviews")


def read_pull_request(checkout: Checkout) -> PullRequest | None:
    """Ask GitHub for the pull request of the branch into the base; None where there is none.

    Raises CouldNotLookError.
    """
    branch, base = checkout.release.branch, checkout.release.base
    result = checkout.run("gh", "pr", "view", branch, "--json", ",".join(_ASKED))
    if result.ok:
        return parse_pull_request(result.stdout, branch, base)
    if "no pull requests found" in result.stderr:
        return None
    raise CouldNotLookError("gh cannot ask GitHub", output=result.output, advice="gh auth status")


def parse_pull_request(printed: str, branch: str, base: str) -> PullRequest | None:
    """A pull request, from what `gh pr view --json` printed (cli.github.com/manual/gh_pr_view).

    None where it is one of other branches: gh takes a branch named 85 for the number of a pull request, and finds the
    one that is to go into another base.
    GitHub makes a decision only where the repository asks for reviews; elsewhere the latest of each reviewer count.
    """
    try:
        seen = json.loads(printed)
        latest = {review["state"] for review in seen["latestReviews"]}
        decision = seen["reviewDecision"] or next(
            (state for state in ("CHANGES_REQUESTED", "APPROVED") if state in latest), ""
        )
        review = {"APPROVED": "approved", "CHANGES_REQUESTED": "changes"}.get(decision, "none")
        found = PullRequest(str(seen["url"]), str(seen["state"]).lower(), review)
        return found if (seen["headRefName"], seen["baseRefName"]) == (branch, base) else None
    except (ValueError, KeyError, TypeError) as error:
        raise CouldNotLookError("what gh says of the pull request cannot be read", output=printed[:500]) from error


def compare_address(checkout: Checkout) -> str | None:
    """The page on which GitHub opens a pull request by hand; None where the remote's address is not one of GitHub."""
    release, url = checkout.release, remote_address(checkout) or ""
    match = re.fullmatch(r"(?:https://(?:[^@/]*@)?|ssh://git@|git@)github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?", url)
    names = f"{quote(release.base)}...{quote(release.branch)}"
    return f"https://github.com/{match[1]}/compare/{names}?expand=1" if match else None


def plan_pull_request(checkout: Checkout) -> Change:
    """Say how to open the pull request; its body is given later. Raises CouldNotLookError where `gh` cannot look."""
    release, request = checkout.release, read_pull_request(checkout)
    if request and request.state != "closed":
        return Change("open the pull request", f"{request.url} ({request.state}): nothing to do")
    words = ["gh", "pr", "create", "--base", release.base, "--head", release.branch, "--title", release.title]
    return Change("open the pull request", "opened the pull request", [[*words, "--body-file", "-"]])
