"""What the project knows about GitHub and its command line: addresses of repositories, and why a call of gh fails."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

GITHUB = "github.com"
LOGIN_REQUIRED = 4  # exit status of gh (cli.github.com/manual/gh_help_exit-codes)


@dataclass(frozen=True)
class Repository:
    """A repository on a host that may be GitHub."""

    host: str
    owner: str
    name: str

    def __str__(self) -> str:
        return f"{self.host}/{self.owner}/{self.name}"

    @property
    def is_on_github(self) -> bool:
        """Whether it is on github.com, or on the host that GH_HOST selects."""
        return self.host in (GITHUB, os.environ.get("GH_HOST", "").lower())


_URL = re.compile(
    r"(?:https?://(?:[^@/]*@)?|(?:ssh|git)://(?:[^@/]*@)?|(?:[^@/:]+@)?(?=[^/:]+:(?!/)))"
    r"(?P<host>[A-Za-z0-9.-]+)(?::\d+(?=/))?[:/](?P<owner>[\w.-]+)/(?P<name>[\w.-]+?)(?:\.git)?/?"
)
_PULL_REQUEST = re.compile(
    r"https?://(?P<host>[A-Za-z0-9.:-]+)/(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)/pull/(?P<number>\d+)"
)


def parse_repository(url: str) -> Repository | None:
    """Return the repository of the URL of a git remote, None if it is not that of a server with OWNER/NAME."""
    match = _URL.fullmatch(url)
    if match is None:
        return None
    host = match["host"].lower()
    return Repository(GITHUB if host in ("ssh.github.com", "www.github.com") else host, match["owner"], match["name"])


def parse_pull_request_url(url: str) -> tuple[Repository, int]:
    """Return the repository and the number of a pull request; raises ValueError."""
    match = _PULL_REQUEST.fullmatch(url)
    if match is None:
        raise ValueError(f"not the URL of a pull request: {url!r}")
    return Repository(match["host"], match["owner"], match["name"]), int(match["number"])


# --- failures of gh -------------------------------------------------------------------------------------------------

# What gh prints, the cause first that is the most specific; and what helps.
_CAUSES = (
    (r"rate limit|HTTP 429|abuse detection", "GitHub limits the number of requests: wait, and see gh api rate_limit"),
    (
        r"unknown (flag|shorthand flag|command)|unknown JSON field",
        "this gh is too old: gh --version shows it, https://cli.github.com has a newer one",
    ),
    (r"SAML|\bSSO\b", "authorize the login for the organization: gh auth refresh, and follow the address above"),
    (r"HTTP 401|Bad credentials", "the login has expired or was revoked: gh auth login"),
    (
        r"HTTP 403|Resource not accessible|required scopes|must have .* scope|does not have the correct permissions",
        "the login may not do this: ask for write access to the repository, or log in as another user: gh auth login",
    ),
    (
        r"HTTP 404|Could not resolve to a Repository",
        "this login cannot see the repository: compare git remote -v with its page, and see gh auth status",
    ),
    (r"HTTP 5\d\d|Something went wrong|stream error", "GitHub has a problem (https://www.githubstatus.com): try later"),
    (r"already exists", "it was opened in the meantime: run the task again"),
    (r"No commits between", "the branch has no commits that its base does not have: there is nothing to merge"),
    (r"HTTP 422|Validation Failed|GraphQL:", "GitHub refused this; the message above says why"),
    (
        r"none of the git remotes|no git remotes|not a known GitHub host",
        "gh finds no remote on a host that it is logged in to: see git remote -v and gh auth status",
    ),
    (
        r"x509|certificate",
        "the certificate of the server is not trusted here: check the clock, proxy and SSL_CERT_FILE",
    ),
    (
        r"error connecting|dial tcp|no such host|connection (refused|reset)|timeout|deadline exceeded|\bEOF\b"
        r"|proxyconnect|network is unreachable",
        "check the network connection, and HTTPS_PROXY if you need a proxy",
    ),
)


def explain_failure(status: int | None, output: str) -> str:
    """Return what to do about a call of gh that failed, from its exit status and its output."""
    for pattern, advice in _CAUSES:
        if re.search(pattern, output, re.IGNORECASE):
            return advice
    if status == LOGIN_REQUIRED or re.search(r"gh auth login|not logged in|authentication", output, re.IGNORECASE):
        return "gh is not logged in: gh auth login"
    return "GH_DEBUG=api gh pr list shows what gh sends and receives"
