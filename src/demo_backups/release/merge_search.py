"""Find out whether a release is in its base branch. Contents decide: not names of branches, and no time of a file."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from ..errors import CouldNotLookError
from .git_state import MISSING, RemoteState, hash_work_tree, normalize_path, tracking_name
from .merge import Merge, MergeState
from .repository import Checkout, find_commit

MOST_COMMITS = 300  # of the base branch, the latest that change the files of the release
_TREE_ENTRY = re.compile(r"^(\d{6}) (\w+) (\w+)\t(.+)$", re.DOTALL)


@dataclass(frozen=True)
class _Search:
    """What the search works with: the commits of the base branch and of the release (None: it has no branch).

    `has_branch` is false if the branch of the release is gone, and `head` is what was last fetched of it.
    """

    checkout: Checkout
    files: tuple[str, ...]
    base: str
    head: str | None
    has_branch: bool
    remote: RemoteState | None  # None if the base is only the one that was last fetched
    is_shallow: bool

    @property
    def start(self) -> str | None:
        """The commit at which the release left the base branch."""
        if self.head is None:
            return None
        return self.checkout.run("git", "merge-base", self.base, self.head).stdout.strip() or None


def read_merge(checkout: Checkout, remote: RemoteState | None, files: Iterable[str]) -> Merge:
    """Compare the release with its base branch; `remote` is None if it could not be read.

    Without the remote, the base branch as it was last fetched counts: what it has is merged, the rest is unknown.
    Commits that only the remote has are fetched to a temporary directory. The checkout is not changed. Raises
    CouldNotLookError.
    """
    files = tuple(dict.fromkeys(normalize_path(file) for file in files))
    fetched = find_commit(checkout, tracking_name(checkout.base_remote, checkout.release.base))
    base = (remote.base_commit if remote else None) or fetched
    if base is None:
        return Merge(MergeState.NOT_MERGED)  # there is nothing that it could have been merged into
    commits = [commit for commit in (base, remote.branch_commit if remote else None) if commit]
    with _with_commits(checkout, commits) as complete:
        if not find_commit(complete, base):
            if fetched is None:
                return Merge(MergeState.UNKNOWN, _missing_commits(checkout))
            base, remote = fetched, None
        is_shallow = complete.query("rev-parse", "--is-shallow-repository").strip() == "true"
        return _search(_Search(complete, files, base, *_find_head(complete, remote), remote, is_shallow))


def _missing_commits(checkout: Checkout) -> str:
    return f"the checkout does not have all commits of {checkout.release.base}: git fetch {checkout.base_remote}"


@contextlib.contextmanager
def _with_commits(checkout: Checkout, commits: Sequence[str]) -> Iterator[Checkout]:
    """Yield the checkout with these commits, as far as they can be fetched, and with a place for new objects."""
    objects = checkout.path / checkout.query("rev-parse", "--git-path", "objects").rstrip("\n")
    try:
        directory = tempfile.TemporaryDirectory()
    except OSError as error:
        raise CouldNotLookError("cannot create a temporary directory", output=str(error)) from error
    with directory as name:
        alternates = '"{}"'.format(str(objects).replace("\\", "\\\\").replace('"', '\\"'))
        environment = {"GIT_OBJECT_DIRECTORY": name, "GIT_ALTERNATE_OBJECT_DIRECTORIES": alternates}
        complete = replace(checkout, environment=environment)
        if any(not find_commit(complete, commit) for commit in commits):
            _fetch(complete)
        yield complete


def _fetch(checkout: Checkout) -> None:
    """Fetch the base branch and the branch of the release, without a change to any reference."""
    release = checkout.release
    options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--refmap=")
    for remote, branch in ((checkout.base_remote, release.base), (release.remote, release.branch)):
        # If it fails, the commits stay missing, and that is reported.
        checkout.run("git", "fetch", *options, "--", remote, f"refs/heads/{branch}")


def _find_head(checkout: Checkout, remote: RemoteState | None) -> tuple[str | None, bool]:
    """Return the newest commit of the branch of the release, and whether the branch exists.

    It is the local one, or what the remote has or had if that is ahead.
    """
    release = checkout.release
    local = find_commit(checkout, f"refs/heads/{release.branch}")
    on_remote = remote.branch_commit if remote else None
    pushed = find_commit(checkout, on_remote or tracking_name(release.remote, release.branch))
    if local is None or (pushed and _is_ancestor(checkout, local, pushed)):
        return pushed or local, bool(local or on_remote)
    return local, True


def _is_ancestor(checkout: Checkout, ancestor: str, commit: str) -> bool:
    return checkout.run("git", "merge-base", "--is-ancestor", ancestor, commit).ok


# --- the search -----------------------------------------------------------------------------------------------------


def _search(search: _Search) -> Merge:
    edited, outdated = _compare_work_tree(search)
    commit = _find_merge(search) if search.head else None
    if commit is None or (edited and not search.has_branch):
        # Without its branch, a release is found by its messages. A branch of the same name may have been another one.
        commit = _find_traces(search, edited)
    if commit:
        return Merge(MergeState.MERGED, "", edited, outdated, _find_released(search, commit))
    reason = _find_doubt(search, edited)
    return Merge(MergeState.UNKNOWN if reason else MergeState.NOT_MERGED, reason, edited, outdated)


def _find_merge(search: _Search) -> str | None:
    """Return the commit of the base branch that has the changes of the branch, None if there is none."""
    checkout, base, head, start = search.checkout, search.base, search.head, search.start
    if start is None or head is None:
        return None
    changed = _changed_paths(checkout, start, head)
    if not changed:
        return base if _is_merged_whole(search, start) else None
    paths = [path for path in changed if path in search.files] or changed
    commits = [base, *_commits_of(checkout, f"{start}..{base}", paths)]
    (released,) = _contents(checkout, [head], paths)
    candidates = zip(commits, _contents(checkout, commits, paths), strict=True)
    by_content = next((commit for commit, contents in candidates if contents == released), None)
    return by_content or next((commit for commit in commits if _merge_changes_nothing(checkout, commit, head)), None)


def _is_merged_whole(search: _Search, start: str) -> bool:
    """Tell whether a branch without changes of its own was merged, by a merge commit or fast-forward.

    A new branch has none either, but it is on the main line of the base branch, and nobody committed to it.
    """
    if start != search.head:
        return False
    main_line = search.checkout.query("rev-list", "--first-parent", search.base).split()
    return start not in main_line or bool(_find_messages(search, start)) or _has_own_commits(search)


def _has_own_commits(search: _Search) -> bool:
    """Tell whether a branch that the base branch contains was pushed, or got a commit in this checkout."""
    release = search.checkout.release
    pushed = find_commit(search.checkout, tracking_name(release.remote, release.branch))
    if pushed == search.head or (search.remote and search.remote.branch_commit == search.head):
        return True
    history = search.checkout.run("git", "reflog", "show", "--format=%gs", f"refs/heads/{release.branch}")
    return any(line.startswith("commit") for line in history.stdout.splitlines())


def _merge_changes_nothing(checkout: Checkout, commit: str, head: str) -> bool:
    """Tell whether a commit stays the same when the branch is merged into it; git before 2.38 cannot tell."""
    merged = checkout.run("git", "merge-tree", "--write-tree", commit, head)
    tree = checkout.run("git", "rev-parse", f"{commit}^{{tree}}")
    return merged.ok and tree.ok and merged.stdout.split("\n")[0] == tree.stdout.strip()


def _find_traces(search: _Search, edited: frozenset[str]) -> str | None:
    """Return the commit of the base branch that has the title or the messages of a release without a branch."""
    if search.has_branch:
        return None
    commit = _find_title(search, search.base)
    found = _find_messages(search, search.base)
    is_complete = len(found) == len(search.checkout.release.commits.model_dump())
    if commit is None and (is_complete or (found and not edited)):
        return next(iter(found.values()))
    return commit


def _find_doubt(search: _Search, edited: frozenset[str]) -> str:
    """Return why a release that was not found in the base branch may be merged all the same; empty if it is not."""
    checkout = search.checkout
    if search.is_shallow and search.start is None:
        return f"the checkout is shallow: git fetch --unshallow {checkout.base_remote}"
    if search.has_branch:
        return _find_doubt_on_branch(search)
    if edited:
        return ""  # it has contents that the base branch never had
    release = checkout.release
    return f"there is no branch {release.branch}, and {release.base} has the same files: merged, or not started"


def _find_doubt_on_branch(search: _Search) -> str:
    checkout, start, remote = search.checkout, search.start, search.remote
    release = checkout.release
    title = _find_title(search, f"{start}..{search.base}") if start else None
    if title:
        return f"{release.base} has {title[:7]} with the title of the release, and other contents"
    if remote is None:
        return _missing_commits(checkout)
    fetched = find_commit(checkout, tracking_name(release.remote, release.branch))
    if remote.branch_commit is None and fetched and fetched == search.head:
        return f"{release.branch} was on {release.remote} and is no longer: merged with changes, or deleted"
    return ""


# --- questions to git -----------------------------------------------------------------------------------------------


def _changed_paths(checkout: Checkout, start: str, end: str) -> list[str]:
    """Return the paths that differ between two commits."""
    return checkout.query("diff-tree", "-r", "-z", "--no-renames", "--name-only", start, end).split("\0")[:-1]


def _commits_of(checkout: Checkout, commits: str, paths: Sequence[str]) -> list[str]:
    """Return the latest of these commits that change a path, newest first."""
    options = ("--full-history", f"--max-count={MOST_COMMITS}")
    return checkout.query("--literal-pathspecs", "rev-list", *options, commits, "--", *paths).split()


def _contents(checkout: Checkout, commits: Sequence[str], paths: Sequence[str]) -> list[tuple[str, ...]]:
    """Return, for each commit, the contents of the paths as names of git objects; MISSING for a path without."""
    contents = []
    for commit in commits:
        output = checkout.query("--literal-pathspecs", "ls-tree", "-r", "-z", commit, "--", *paths)
        entries = parse_tree(output)
        contents.append(tuple(entries.get(path, MISSING) for path in paths))
    return contents


def parse_tree(output: str) -> dict[str, str]:
    """Parse the output of `git ls-tree -r -z`: the object of each path; raises CouldNotLookError."""
    entries = {}
    for line in output.split("\0")[:-1]:
        match = _TREE_ENTRY.fullmatch(line)
        if match is None:
            raise CouldNotLookError("the answer of git ls-tree is not valid", output=output[:500])
        entries[match[4]] = match[3]
    return entries


def _find_messages(search: _Search, commits: str) -> dict[str, str]:
    """Return the messages of the release that are subjects, or lines of squashed commits, each with its commit."""
    messages = set(search.checkout.release.commits.model_dump().values())
    found: dict[str, str] = {}
    for commit, lines in _read_messages(search.checkout, commits):
        subjects = {lines[0], *(line.strip().removeprefix("* ") for line in lines[1:] if line.strip().startswith("* "))}
        for message in messages & subjects:
            found.setdefault(message, commit)
    return found


def _find_title(search: _Search, commits: str) -> str | None:
    """Return the newest commit whose subject is the title, as GitHub squashes: `TITLE (#12)`."""
    title = re.compile(re.escape(search.checkout.release.title) + r"( \(#\d+\))?")
    messages = _read_messages(search.checkout, commits)
    return next((commit for commit, lines in messages if title.fullmatch(lines[0])), None)


def _read_messages(checkout: Checkout, commits: str) -> list[tuple[str, list[str]]]:
    """Return the commits and the lines of their messages, newest first."""
    options = ("--no-show-signature", "--encoding=UTF-8", "-z", "--format=%H%n%B")
    return parse_messages(checkout.query("log", *options, commits, "--"))


def parse_messages(output: str) -> list[tuple[str, list[str]]]:
    """Parse the output of `git log -z --format=%H%n%B`; raises CouldNotLookError."""
    messages = []
    for entry in filter(None, output.split("\0")):
        commit, *lines = entry.split("\n")
        if not re.fullmatch(r"[0-9a-f]{40,64}", commit):
            raise CouldNotLookError("the answer of git log is not valid", output=output[:500])
        messages.append((commit, lines or [""]))
    return messages


def _compare_work_tree(search: _Search) -> tuple[frozenset[str], frozenset[str]]:
    """Return the files of the release that are edited in the work tree, and those that are outdated."""
    checkout, files = search.checkout, search.files
    present = hash_work_tree(checkout, files)
    known = _known_contents(search)
    edited = {file for file in files if present[file] not in known[file]}
    current = find_commit(checkout, "HEAD")
    if current is None or not _is_ancestor(checkout, current, search.base):
        return frozenset(edited), frozenset()
    old_contents, new_contents = _contents(checkout, [current, search.base], files)
    outdated = {
        file
        for file, old, new in zip(files, old_contents, new_contents, strict=True)
        if old != new and present[file] == old and file not in edited
    }
    return frozenset(edited), frozenset(outdated)


def _known_contents(search: _Search) -> dict[str, set[str]]:
    """Return all contents that each file had in the base branch or on the branch of the release."""
    heads = [search.base, *([search.head] if search.head else [])]
    known: dict[str, set[str]] = {file: set() for file in search.files}
    for contents in _contents(search.checkout, heads, search.files):
        for file, content in zip(search.files, contents, strict=True):
            known[file].add(content)
    options = ("-z", "--format=", "--raw", "--no-abbrev", "--no-renames", "-m", f"--max-count={MOST_COMMITS}")
    output = search.checkout.query("--literal-pathspecs", "log", *options, *heads, "--", *search.files)
    for file, content in parse_raw(output):
        known.setdefault(file, set()).add(content)
    return known


def parse_raw(output: str) -> list[tuple[str, str]]:
    """Parse the output of `git log -z --raw --no-abbrev`: paths with their contents; raises CouldNotLookError."""
    entries = []
    fields = iter(filter(None, output.lstrip("\n").split("\0")))
    for header in fields:
        match = re.fullmatch(r"\n*:\d{6} \d{6} ([0-9a-f]+) ([0-9a-f]+) [A-Z]\d*", header)
        path = next(islice(fields, 1), None)
        if match is None or path is None:
            raise CouldNotLookError("the answer of git log --raw is not valid", output=output[:500])
        entries += [(path, content if content.strip("0") else MISSING) for content in match.groups()]
    return entries


def _find_released(search: _Search, commit: str) -> dict[str, frozenset[str]]:
    """Return the contents of each file on the branch, in the commit of the merge, and in the base branch."""
    commits = [name for name in (search.base, commit, search.head) if name]
    contents = _contents(search.checkout, commits, search.files)
    return {
        file: frozenset(found) - {MISSING}
        for file, found in zip(search.files, zip(*contents, strict=True), strict=True)
    }
