"""A local GitHub for the real gh: its API as a proxy on 127.0.0.1, and SSH addresses that lead to local repositories.

gh speaks HTTP without TLS to github.localhost (cli/cli, internal/ghinstance), and a proxy can stand for that host.
"""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .release_repository import BRANCH, ReleaseRepository

GH = shutil.which("gh")  # some tests have a PATH without it
HOST = "github.localhost"
OWNER, NAME = "torrust", "torrust-demo"
BASE_REPOSITORY = f"{OWNER}/{NAME}"
REVIEW = {
    "author": {"login": "reviewer"},
    "authorAssociation": "MEMBER",
    "body": "",
    "submittedAt": "2026-11-24T20:00:00Z",
}
# Takes the place of ssh: runs the command of git on this machine.
SSH = """#!/bin/sh
for command; do :; done
cd "$(dirname -- "$0")/repositories" && eval "$command"
"""


@dataclass
class PullRequestOnGitHub:
    """A pull request on the fake GitHub."""

    number: int
    state: str = "OPEN"
    branch: str = BRANCH
    base: str = "main"
    owner: str = OWNER
    title: str = ""
    body: str = ""
    head: str = "0" * 40
    decision: str = ""
    reviews: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Its page."""
        return f"https://{HOST}/{BASE_REPOSITORY}/pull/{self.number}"

    def as_node(self) -> dict[str, Any]:
        """Return it as the API does."""
        reviews = [REVIEW | {"state": state} for state in self.reviews]
        return {
            "id": f"PR_{self.number}",
            "number": self.number,
            "url": self.url,
            "state": self.state,
            "headRefName": self.branch,
            "baseRefName": self.base,
            "headRefOid": self.head,
            "headRepositoryOwner": {"id": "U", "login": self.owner},
            "isCrossRepository": self.owner != OWNER,
            "reviewDecision": self.decision,
            "latestReviews": {"nodes": reviews},
            "body": self.body,
            "title": self.title,
        }


@dataclass
class GitHub:
    """The fake GitHub: its pull requests, newest first, and what it answers if it fails."""

    folder: Path
    pull_requests: list[PullRequestOnGitHub] = field(default_factory=list)
    failure: tuple[int, dict[str, Any]] | None = None
    changes: list[dict[str, Any]] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    def url(self, repository: str = BASE_REPOSITORY) -> str:
        """Return the SSH address of a repository."""
        return f"git@{HOST}:{repository}.git"

    def add_repository(self, path: Path, repository: str = BASE_REPOSITORY) -> str:
        """Let the SSH address of a repository lead to a local one; return the address."""
        place = self.folder / "repositories" / f"{repository}.git"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path)
        return self.url(repository)

    def add(self, **values: Any) -> PullRequestOnGitHub:
        """Add a pull request."""
        request = PullRequestOnGitHub(90 + len(self.pull_requests), **values)
        self.pull_requests.insert(0, request)
        return request

    def answer(self, method: str, path: str, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Answer one request of gh."""
        if self.failure:
            return self.failure
        if method == "PATCH":
            self.changes.append(content)
            (request,) = (pull for pull in self.pull_requests if path.endswith(f"/pulls/{pull.number}"))
            request.body = content["body"]
            return 200, {}
        return 200, {"data": self._answer_query(content["query"], content.get("variables", {}))}

    def _answer_query(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "createPullRequest(" in query:
            return {"createPullRequest": {"pullRequest": self._create(variables["input"]).as_node()}}
        head = variables.get("headBranch") or variables.get("headRefName")
        states = variables.get("state") or variables.get("states") or ["OPEN", "CLOSED", "MERGED"]
        nodes = [pull.as_node() for pull in self.pull_requests if pull.branch == head and pull.state in states]
        requests = {"nodes": nodes, "totalCount": len(nodes), "pageInfo": {"hasNextPage": False, "endCursor": ""}}
        repository = {
            "id": "R_1",
            "name": NAME,
            "owner": {"id": "U_1", "login": OWNER},
            "hasIssuesEnabled": True,
            "viewerPermission": "WRITE",
            "defaultBranchRef": {"name": "main"},
            "isFork": False,
            "parent": None,
            "pullRequests": requests,
        }
        return {"repository": repository, "viewer": {"login": "maintainer"}}

    def _create(self, values: dict[str, Any]) -> PullRequestOnGitHub:
        self.changes.append(values)
        owner, _, branch = values["headRefName"].rpartition(":")
        return self.add(
            branch=branch,
            base=values["baseRefName"],
            owner=owner or OWNER,
            title=values["title"],
            body=values["body"],
        )


def _handler(github: GitHub) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def _respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = github.answer(self.command, self.path, json.loads(body or b"{}"))
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = _respond  # noqa: N815 - the names of http.server

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    return Handler


@pytest.fixture
def github(release_repository: ReleaseRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    """A local GitHub to which the remote of the repository leads, with a login."""
    if GH is None:
        pytest.skip("no gh (Debian: apt install gh)")
    folder = tmp_path / "a GitHub"
    folder.mkdir()
    (folder / "ssh").write_text(SSH)
    (folder / "ssh").chmod(0o755)
    github = GitHub(folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(github))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    github.variables |= {
        "HTTP_PROXY": f"http://127.0.0.1:{server.server_port}",
        "NO_PROXY": "",
        "GH_HOST": HOST,
        "GH_TOKEN": "a token",
        "GH_CONFIG_DIR": str(folder / "config of gh"),
        "GIT_SSH_COMMAND": f'"{folder / "ssh"}"',
    }
    for name, value in github.variables.items():
        monkeypatch.setenv(name, value)
    release_repository.variables.update(github.variables)
    release_repository.git("remote", "set-url", "origin", github.add_repository(release_repository.remote))
    yield github
    server.shutdown()
    thread.join()
    server.server_close()
