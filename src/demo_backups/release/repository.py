"""The git checkout to release, and the commands that run in it."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CouldNotLookError, SettingsError, StepError
from ..remote.host import Result
from ..settings.model import ReleaseSettings, Settings
from .github import explain_failure

QUERY_TIMEOUT = 60  # seconds
CHANGE_TIMEOUT = 600  # seconds; the hooks of a commit or a push may run the tests of a project
TERMINATE_TIMEOUT = 5  # seconds for a command to remove its lock files
# Variables that select another repository, change how git reads this one, or select another language.
REMOVED_VARIABLES = {
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE"),
    *(f"GIT_{kind}_PATHSPECS" for kind in ("LITERAL", "GLOB", "NOGLOB", "ICASE")),
    *("GH_REPO", "LANGUAGE"),
}


@dataclass(frozen=True)
class Checkout:
    """A git checkout, and the settings of its release.

    `environment` is added to that of this process for each command.
    """

    path: Path
    release: ReleaseSettings
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(
        self,
        *command: str,
        timeout: int = QUERY_TIMEOUT,
        stdin: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Result:
        """Run git or gh in the checkout, with `environment` in addition to that of this process.

        Without a terminal, neither asks questions. Raises CouldNotLookError if the program is not installed, or if it
        does not end within the timeout: it is then terminated and can remove its lock files.
        """
        try:
            with subprocess.Popen(
                command,
                cwd=self.path,
                env=_clean_environment() | dict(self.environment) | dict(environment or {}),
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="surrogateescape",
            ) as process:
                stdout, stderr = _communicate(process, stdin, timeout)
        except FileNotFoundError as error:
            raise CouldNotLookError(
                f"{command[0]} is not installed", advice=f"on Debian and Ubuntu: sudo apt install {command[0]}"
            ) from error
        except OSError as error:
            raise CouldNotLookError(f"{command[0]} cannot be run", output=str(error)) from error
        except subprocess.TimeoutExpired as error:
            raise CouldNotLookError(f"no answer within {timeout} s: {shlex.join(command)}") from error
        return Result(process.returncode, stdout, stderr)

    def query(self, *arguments: str, stdin: str | None = None, environment: Mapping[str, str] | None = None) -> str:
        """Run git and return its output; raises CouldNotLookError if it fails."""
        result = self.run("git", *arguments, stdin=stdin, environment=environment)
        if not result.ok:
            raise CouldNotLookError(f"git failed: {shlex.join(['git', *arguments])}", output=result.output)
        return result.stdout

    @functools.cached_property
    def base_remote(self) -> str:
        """The remote of the base branch: release.base_remote, or as gh chooses it, or release.remote.

        In a clone of a fork, gh uses what `gh repo set-default` has stored, or the remote `upstream`.
        """
        if self.release.base_remote is not None:
            return self.release.base_remote
        stored = self.run("git", "config", "--get-regexp", r"^remote\..*\.gh-resolved$").stdout.splitlines()
        chosen = [
            key[len("remote.") : -len(".gh-resolved")] for key, _, value in map(_split, stored) if value == "base"
        ]
        names = self.run("git", "remote").stdout.split()
        candidates = [*chosen, "upstream"]
        return next((name for name in candidates if name in names), self.release.remote)


def _split(line: str) -> tuple[str, str, str]:
    return line.partition(" ")


def _communicate(process: subprocess.Popen[str], stdin: str | None, timeout: int) -> tuple[str, str]:
    try:
        return process.communicate(stdin, timeout)
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(TERMINATE_TIMEOUT)
        process.kill()
        raise


def _clean_environment() -> dict[str, str]:
    """Return the environment without what a hook or another tool set for its own repository."""
    inherited = {name: value for name, value in os.environ.items() if name not in REMOVED_VARIABLES}
    without_terminal = {} if os.isatty(0) else {"GIT_TERMINAL_PROMPT": "0"}
    return inherited | {"LC_ALL": "C.UTF-8", "GH_PROMPT_DISABLED": "1", "NO_COLOR": "1"} | without_terminal


def open_checkout(settings: Settings) -> Checkout:
    """Return the checkout to release.

    Raises SettingsError if release.repository is not the top of a checkout, CouldNotLookError if git cannot read it.
    """
    path = settings.repository
    advice = "set release.repository (INVOKE_RELEASE_REPOSITORY) to the top directory of the checkout to release"
    try:
        exists = path.is_dir()
    except OSError as error:
        raise CouldNotLookError(f"cannot read {path}", output=str(error), advice=advice) from error
    if not exists:
        raise SettingsError(f"the directory {path} does not exist", advice=advice)
    checkout = Checkout(path, settings.release)
    top = checkout.run("git", "rev-parse", "--show-toplevel")
    if top.ok and Path(top.stdout.rstrip("\n")).samefile(path):
        return checkout
    if top.ok or re.search("not a git repository|must be run in a work tree", top.stderr):
        raise SettingsError(f"{path} is not the top of a git repository", output=top.output, advice=advice)
    raise CouldNotLookError(f"git cannot read {path}", output=top.output)


def open_release_checkout(settings: Settings) -> Checkout:
    """Return the checkout to change; raises SettingsError as well if release.repository does not name one.

    Without that setting, the plan of this checkout can be shown. A task that changes a checkout must not do so because
    the variable was not exported today.
    """
    if settings.release.repository is None:
        raise SettingsError(
            "release.repository does not name the checkout to release",
            advice="set it (INVOKE_RELEASE_REPOSITORY) to the checkout of the application, or to . for this one: "
            f"{settings.repository}",
        )
    return open_checkout(settings)


def commit_part(settings: Settings, name: str) -> tuple[tuple[str, ...], str]:
    """Return the files and the message of a commit of the release: `index`, `tracker` or `docs`."""
    files = settings.release.docs if name == "docs" else (str(settings.database_settings(name).script),)
    return files, str(getattr(settings.release.commits, name))


def find_commit(checkout: Checkout, name: str | None) -> str | None:
    """Return the commit that a name refers to, None if there is no such name."""
    found = checkout.run("git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") if name else None
    return found.stdout.strip() if found and found.ok else None


def read_remote_url(checkout: Checkout, remote: str | None = None) -> str | None:
    """Return the URL of a remote (default: release.remote), None if there is none; raises CouldNotLookError."""
    command = ("remote", "get-url", "--", remote or checkout.release.remote)
    result = checkout.run("git", *command)
    if not result.ok and "No such remote" in result.stderr:
        return None
    return checkout.query(*command).strip()


# --- changes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What a step will do: commands to run in order, with `stdin` as their standard input.

    `action` completes "could not ...". `summary` says what was done or, without commands, why there is nothing to do.
    """

    action: str
    summary: str
    commands: list[list[str]] = field(default_factory=list)
    advice: str = ""
    stdin: str | None = None

    @property
    def is_needed(self) -> bool:
        """Tell whether there is something to do."""
        return bool(self.commands)


def apply(checkout: Checkout, change: Change) -> str:
    """Run the commands of a change until one fails; return their output. Raises StepError."""
    output = ""
    for command in change.commands:
        result = checkout.run(*command, timeout=CHANGE_TIMEOUT, stdin=change.stdin)
        if not result.ok:
            advice = explain_failure(result.status, result.output) if command[0] == "gh" else change.advice
            raise StepError(f"could not {change.action}: {shlex.join(command)}", output=result.output, advice=advice)
        output += result.stdout
    return output
