"""The state of the release in git: in the checkout, and on the remote."""

from __future__ import annotations

import enum
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import CouldNotLookError
from .repository import Checkout, read_remote_url

# --- the checkout ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LocalState:
    """The state of the checkout.

    `current_branch` is None with a detached HEAD. `branch_commit` is the commit of the branch of the release, None if
    there is no such branch. `commits` maps the subject of each commit on that branch (without it: on the base branch)
    to its abbreviated hash. `changed_files` are the files that differ from that branch.
    """

    current_branch: str | None
    branch_commit: str | None
    commits: Mapping[str, str]
    changed_files: frozenset[str]


def read_local_state(checkout: Checkout, files: Iterable[str]) -> LocalState:
    """Read the state of the checkout and compare the given files; raises CouldNotLookError."""
    current = checkout.run("git", "symbolic-ref", "--quiet", "--short", "HEAD")
    branch_commit = find_commit(checkout, f"refs/heads/{checkout.release.branch}")
    commit = branch_commit or find_commit(checkout, find_base(checkout))
    return LocalState(
        current_branch=current.stdout.strip() or None,
        branch_commit=branch_commit,
        commits=read_subjects(checkout, commit) if commit else {},
        changed_files=find_changed_files(checkout, commit, files),
    )


def find_commit(checkout: Checkout, name: str | None) -> str | None:
    """Return the commit that a name refers to, None if there is no such name."""
    found = checkout.run("git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") if name else None
    return found.stdout.strip() if found and found.ok else None


def find_base(checkout: Checkout) -> str | None:
    """Return the reference of the base branch: the local one, or else the last one fetched from the remote."""
    release = checkout.release
    names = (f"refs/heads/{release.base}", f"refs/remotes/{release.remote}/{release.base}")
    return next((name for name in names if find_commit(checkout, name)), None)


def read_subjects(checkout: Checkout, commit: str) -> dict[str, str]:
    """Return the subjects of a commit and of all its ancestors, each with its newest abbreviated hash."""
    # Explicit, since log.showSignature adds lines and i18n.logOutputEncoding changes the bytes.
    command = ("log", "--no-show-signature", "--encoding=UTF-8", "--format=%h %s", commit, "--")
    newest_first = [line.split(" ", 1) for line in checkout.query(*command).split("\n")[:-1]]
    return {subject: abbreviated for abbreviated, subject in reversed(newest_first)}


# --- comparing files ------------------------------------------------------------------------------------------------

# A file system monitor or a split index belongs to the index of the checkout, not to a temporary one.
_TEMPORARY_INDEX = ("-c", "core.fsmonitor=false", "-c", "core.splitIndex=false")


def find_changed_files(checkout: Checkout, commit: str | None, files: Iterable[str]) -> frozenset[str]:
    """Return the files whose content, type or mode in the work tree differs from a commit.

    New, deleted and ignored files count, and without a commit all files are new. The index of the checkout is not used:
    what is staged makes no difference, nor do flags such as assume-unchanged.
    """
    names = {normalize_path(file): file for file in files}
    present = {name for name in names if _is_present(checkout.path / name)}
    if not commit or not names:
        return frozenset(names[name] for name in present)
    entries = checkout.query("--literal-pathspecs", "ls-tree", "-r", "-z", commit, "--", *names)
    committed = {entry.partition("\t")[2] for entry in entries.split("\0")[:-1]}
    changed = _compare_with_work_tree(checkout, entries) | (present - committed)
    return frozenset(names[name] for name in changed & names.keys())


def normalize_path(file: str) -> str:
    """Write a path as git prints it: without `./` and double slashes."""
    return str(PurePosixPath(file))


def _is_present(path: Path) -> bool:
    """Tell whether a path is a readable file or a symbolic link; raises CouldNotLookError.

    git reports an unreadable file as changed, and one in an unreadable directory as unchanged.
    """
    try:
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise CouldNotLookError(f"cannot read {path}", output=str(error)) from error
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


def _compare_with_work_tree(checkout: Checkout, entries: str) -> set[str]:
    """Return the paths of committed files that differ in the work tree; `entries` is the output of ls-tree -z."""
    try:
        directory = tempfile.TemporaryDirectory()
    except OSError as error:
        raise CouldNotLookError("cannot create a temporary directory", output=str(error)) from error
    with directory as name:
        environment = {"GIT_INDEX_FILE": f"{name}/index"}
        update = ("git", *_TEMPORARY_INDEX, "update-index")
        created = checkout.run(*update, "-z", "--index-info", stdin=entries, environment=environment)
        # A new index lacks the sizes and times that diff-files compares. The exit status is 1 if a file has changed.
        refreshed = checkout.run(*update, "-q", "--refresh", environment=environment)
        if not created.ok or refreshed.status not in (0, 1):
            output = f"{created.stderr}\n{refreshed.stderr}"
            raise CouldNotLookError(f"git cannot compare files in {checkout.path}", output=output)
        changed = checkout.query(*_TEMPORARY_INDEX, "diff-files", "--name-only", "-z", environment=environment)
    return set(changed.split("\0")[:-1])


# --- the remote -----------------------------------------------------------------------------------------------------


class MergeState(enum.Enum):
    """Whether the commits of the release are in the base branch of the remote."""

    MERGED = "merged"
    NOT_MERGED = "not merged"
    UNKNOWN = "unknown"  # the checkout does not have all commits of that branch


@dataclass(frozen=True)
class RemoteState:
    """The state of the remote: its URL (None: there is no such remote), and the commit of the branch of the release."""

    url: str | None
    branch_commit: str | None = None
    merge_state: MergeState = MergeState.NOT_MERGED


def read_remote_state(checkout: Checkout) -> RemoteState:
    """Read the branches of the remote; raises CouldNotLookError if it cannot be reached."""
    release = checkout.release
    url = read_remote_url(checkout)
    if url is None:
        return RemoteState(None)
    branch, base = (f"refs/heads/{name}" for name in (release.branch, release.base))
    listed = checkout.run("git", "ls-remote", "--", release.remote, branch, base)
    if not listed.ok:
        raise CouldNotLookError(
            f"cannot read the remote {release.remote}",
            output=listed.output,
            advice=f"this command must succeed in {checkout.path}: git ls-remote {release.remote}",
        )
    commits = {name: commit for commit, name in (line.split("\t") for line in listed.stdout.splitlines())}
    return RemoteState(url, commits.get(branch), _read_merge_state(checkout, commits.get(base)))


def _read_merge_state(checkout: Checkout, base_commit: str | None) -> MergeState:
    if base_commit is None:
        return MergeState.NOT_MERGED
    if not find_commit(checkout, base_commit):
        return MergeState.UNKNOWN
    if set(checkout.release.commits.model_dump().values()) <= set(read_subjects(checkout, base_commit)):
        return MergeState.MERGED
    is_shallow = checkout.query("rev-parse", "--is-shallow-repository").strip() == "true"
    return MergeState.UNKNOWN if is_shallow else MergeState.NOT_MERGED
