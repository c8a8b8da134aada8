"""The state of the release in git: in the checkout, and on the remote."""

from __future__ import annotations

import re
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..errors import CouldNotLookError
from .repository import Checkout, find_commit, read_remote_url

# --- the checkout ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LocalState:
    """The state of the checkout.

    `current_branch` is None with a detached HEAD. `branch_commit` is the commit of the branch of the release, None if
    there is no such branch. `commits` maps the subject of each commit on that branch (without it: on the base branch)
    to its abbreviated hash. `changed_files` are the files that differ from that branch. `file_commits` has the newest
    commit of each file on the branch, as its hash and subject; a file without one is as in the base branch.
    `has_no_commits` is set if the branch exists and has no commit that the base branch does not have.
    """

    current_branch: str | None
    branch_commit: str | None
    commits: Mapping[str, str]
    changed_files: frozenset[str]
    file_commits: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    has_no_commits: bool = False


def find_part_commit(local: LocalState, message: str, files: Sequence[str]) -> str | None:
    """Describe the commit of some files: the one with the message, or else the newest that the branch has of them."""
    if message in local.commits:
        return local.commits[message]
    commits = [local.file_commits[file] for file in files if file in local.file_commits]
    return f"{commits[0][0]} {commits[0][1]!r}" if commits else None


def read_local_state(checkout: Checkout, files: Iterable[str]) -> LocalState:
    """Read the state of the checkout and compare the given files; raises CouldNotLookError."""
    current = checkout.run("git", "symbolic-ref", "--quiet", "--short", "HEAD")
    branch_commit = find_commit(checkout, f"refs/heads/{checkout.release.branch}")
    commit = branch_commit or find_commit(checkout, find_base(checkout))
    files = tuple(files)
    return LocalState(
        current_branch=current.stdout.strip() or None,
        branch_commit=branch_commit,
        commits=read_subjects(checkout, commit) if commit else {},
        changed_files=find_changed_files(checkout, commit, files),
        file_commits=_read_file_commits(checkout, branch_commit, files) if branch_commit else {},
        has_no_commits=bool(branch_commit) and _has_no_commits(checkout, branch_commit or ""),
    )


def _has_no_commits(checkout: Checkout, commit: str) -> bool:
    bases = [name for name in _base_names(checkout) if find_commit(checkout, name)]
    return bool(bases) and checkout.query("rev-list", "--max-count=1", commit, "--not", *bases) == ""


def _read_file_commits(checkout: Checkout, commit: str, files: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return the newest commit of each file that the branch has and the base branch has not."""
    bases = [name for name in _base_names(checkout) if find_commit(checkout, name)]
    found = {}
    for file in files:
        command = ("log", "--max-count=1", "--no-show-signature", "--encoding=UTF-8", "--format=%h %s", commit)
        line = checkout.query("--literal-pathspecs", *command, "--not", *bases, "--", normalize_path(file))
        if line:
            abbreviated, _, subject = line.rstrip("\n").partition(" ")
            found[file] = abbreviated, subject
    return found


def tracking_name(remote: str, branch: str) -> str:
    """Return the reference of a branch of a remote as it was last fetched."""
    return f"refs/remotes/{remote}/{branch}"


def find_base(checkout: Checkout) -> str | None:
    """Return the reference of the base branch: the local one, or else the last one fetched from the remote."""
    return next((name for name in _base_names(checkout) if find_commit(checkout, name)), None)


def _base_names(checkout: Checkout) -> list[str]:
    base = checkout.release.base
    remotes = dict.fromkeys((checkout.base_remote, checkout.release.remote))
    return [f"refs/heads/{base}", *(tracking_name(remote, base) for remote in remotes)]


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


MISSING = "missing"


def hash_work_tree(checkout: Checkout, files: Iterable[str]) -> dict[str, str]:
    """Return the name that git gives to the content of each file in the work tree; MISSING for a file without.

    Raises CouldNotLookError for a file that cannot be read.
    """
    return {file: _hash_file(checkout, file) for file in files}


def _hash_file(checkout: Checkout, file: str) -> str:
    path = checkout.path / file
    if not _is_present(path):
        return MISSING
    if path.is_symlink():
        return checkout.query("hash-object", "--stdin", stdin=str(path.readlink())).strip()
    return checkout.query("hash-object", "--", file).strip()


# --- the remote -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RemoteState:
    """The state of the remote: its URL (None: there is no such remote), and the commit of the branch of the release.

    `base_commit` is that of the base branch, which may be on another remote.
    """

    url: str | None
    branch_commit: str | None = None
    base_commit: str | None = None


def read_remote_state(checkout: Checkout) -> RemoteState:
    """Read the branches of the remotes; raises CouldNotLookError if one cannot be reached."""
    release, base_remote = checkout.release, checkout.base_remote
    url = read_remote_url(checkout)
    branch, base = (f"refs/heads/{name}" for name in (release.branch, release.base))
    if base_remote == release.remote:
        commits = _list_remote(checkout, base_remote, branch, base) if url is not None else {}
        return RemoteState(url, commits.get(branch), commits.get(base))
    has_base = read_remote_url(checkout, base_remote) is not None
    pushed = _list_remote(checkout, release.remote, branch) if url is not None else {}
    bases = _list_remote(checkout, base_remote, base) if has_base else {}
    return RemoteState(url, pushed.get(branch), bases.get(base))


def _list_remote(checkout: Checkout, remote: str, *names: str) -> dict[str, str]:
    listed = checkout.run("git", "ls-remote", "--", remote, *names)
    if not listed.ok:
        raise CouldNotLookError(
            f"cannot read the remote {remote}",
            output=listed.output,
            advice=f"this command must succeed in {checkout.path}: git ls-remote {remote}",
        )
    return parse_references(listed.stdout)


def parse_references(output: str) -> dict[str, str]:
    """Parse the output of `git ls-remote`: the commit of each reference; raises CouldNotLookError."""
    commits = {}
    for line in output.split("\n"):
        match = re.fullmatch(r"([0-9a-f]{40}|[0-9a-f]{64})\t(\S+)", line)
        if match:
            commits[match[2]] = match[1]
        elif line:
            raise CouldNotLookError("the answer of git ls-remote is not valid", output=output[:500])
    return commits
