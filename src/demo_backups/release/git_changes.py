"""The changes that the release makes in git: branch, commits and push. Each is planned, shown, then applied."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

from ..errors import CouldNotLookError, StepError
from .git_state import (
    LocalState,
    find_base,
    find_part_commit,
    normalize_path,
    read_local_state,
    read_remote_state,
)
from .repository import Change, Checkout, find_commit

# --- the branch -----------------------------------------------------------------------------------------------------


def plan_branch(checkout: Checkout) -> Change:
    """Plan to switch to the branch of the release: the local one, the one of the remote, or a new one from the base.

    Raises StepError if there is no base branch.
    """
    release = checkout.release
    local = read_local_state(checkout, ())
    branch = f"the branch {release.branch}"
    if local.current_branch == release.branch:
        return _switch(checkout, f"already on {branch}: nothing to do")
    if local.branch_commit:
        return _switch(checkout, f"switched to {branch}", ["git", "switch", "--", release.branch])
    if _is_on_remote(checkout):
        reference = f"refs/remotes/{release.remote}/{release.branch}"
        fetch = ["git", "fetch", "--", release.remote, f"+refs/heads/{release.branch}:{reference}"]
        return _switch(checkout, f"switched to {branch} of {release.remote}", fetch, _create(checkout, reference))
    base = find_base(checkout)
    if base is None:
        raise StepError(
            f"there is no branch {release.base} to start from, neither in the checkout nor on {release.remote}",
            advice=f"git fetch {release.remote}, or set release.base",
        )
    return _switch(checkout, f"created {branch} from {release.base}", _create(checkout, base))


def _switch(checkout: Checkout, summary: str, *commands: list[str]) -> Change:
    advice = "commit or stash the changes that git status shows, then try again"
    return Change(f"switch to the branch {checkout.release.branch}", summary, list(commands), advice)


def _create(checkout: Checkout, start: str) -> list[str]:
    return ["git", "switch", "--no-track", "--create", checkout.release.branch, start]


def _is_on_remote(checkout: Checkout) -> bool:
    """Tell whether the remote is known to have the branch."""
    try:
        return read_remote_state(checkout).branch_commit is not None
    except CouldNotLookError:
        return False  # if the remote has another branch of this name, the push is refused later


# --- a commit -------------------------------------------------------------------------------------------------------


def plan_commit(checkout: Checkout, files: Iterable[str], message: str) -> Change:
    """Plan to commit some files and nothing else.

    Raises StepError on another branch, in an unfinished merge, with a missing file, or if other files are staged.
    """
    files = list(files)
    local = read_local_state(checkout, files)
    _require_branch(checkout, local)
    _require_no_merge(checkout)
    _require_files(checkout, files)
    if not local.changed_files:
        return _nothing_to_commit(local, files, message)
    _require_nothing_else_staged(checkout, files)
    paths = [_quote_pathspec(file) for file in files]
    commands = [
        ["git", "add", "--intent-to-add", "--", *paths],  # commit takes only files that are in the index
        ["git", "commit", "--quiet", f"--message={message}", "--", *paths],
    ]
    return Change("commit", f"committed: {message} ({shlex.join(files)})", commands)


def _nothing_to_commit(local: LocalState, files: Sequence[str], message: str) -> Change:
    """Return a change with nothing to do: the files are committed, whatever the message, or as in the base branch."""
    commit = find_part_commit(local, message, files)
    summary = f"already committed ({commit})" if commit else f"{shlex.join(files)}: no changes to commit"
    return Change("commit", f"{summary}: nothing to do")


def _require_branch(checkout: Checkout, local: LocalState) -> None:
    branch = checkout.release.branch
    if local.current_branch != branch:
        current = local.current_branch or "a commit without a branch"
        raise StepError(f"{current} is checked out, not {branch}", advice="./inv release.branch")


def _require_no_merge(checkout: Checkout) -> None:
    """Raise StepError in a merge: git then refuses to commit some files only, and `git add` would end a conflict."""
    entries = checkout.query("ls-files", "--unmerged", "-z").split("\0")[:-1]
    unmerged = dict.fromkeys(entry.partition("\t")[2] for entry in entries)
    if unmerged or any(find_commit(checkout, head) for head in ("MERGE_HEAD", "CHERRY_PICK_HEAD")):
        raise StepError(
            "a merge is not finished",
            output="\n".join(unmerged),
            advice="finish or abort it (git status shows how), then try again",
        )


def _require_files(checkout: Checkout, files: Sequence[str]) -> None:
    missing = [file for file in files if not (checkout.path / file).is_file()]
    if missing:
        raise StepError(f"missing in {checkout.path}: {', '.join(missing)}")


def _require_nothing_else_staged(checkout: Checkout, files: Iterable[str]) -> None:
    options = ("--name-only", "-z", "--no-renames", "--ignore-submodules=none", "-O/dev/null")  # override user settings
    staged = checkout.query("diff", "--cached", *options).split("\0")[:-1]
    names = {normalize_path(file) for file in files}
    others = [file for file in staged if file not in names]
    if others:
        raise StepError(
            "other files are staged that do not belong to this commit",
            output="\n".join(others),
            advice=f"git restore --staged -- {shlex.join(map(_quote_pathspec, others))}",
        )


def _quote_pathspec(file: str) -> str:
    """Return a pathspec that matches this file alone (gitglossary(7), pathspec)."""
    return f":(literal){file}" if re.search(r"^:|[*?\[\\]", file) else file


# --- the push -------------------------------------------------------------------------------------------------------


def plan_push(checkout: Checkout) -> Change:
    """Plan to push the branch, never by force; raises StepError if there is no branch or no remote."""
    release = checkout.release
    local = read_local_state(checkout, ())
    remote = read_remote_state(checkout)
    if local.branch_commit is None:
        raise StepError(f"there is no branch {release.branch}", advice="./inv release.branch")
    if remote.url is None:
        raise StepError(
            f"there is no remote {release.remote!r}",
            advice=f"git remote add {release.remote} URL, or set release.remote",
        )
    if local.branch_commit == remote.branch_commit:
        return Change("push", f"already on {release.remote} ({local.branch_commit[:7]}): nothing to do")
    reference = f"refs/heads/{release.branch}"
    options = ["--quiet", "--no-follow-tags", "--set-upstream"]  # override push.followTags
    return Change(
        "push",
        f"pushed {release.branch} to {release.remote}",
        [["git", "push", *options, "--", release.remote, f"{reference}:{reference}"]],
        advice=_advise_push(checkout, local.branch_commit, remote.branch_commit),
    )


def _advise_push(checkout: Checkout, local: str, pushed: str | None) -> str:
    """Return what to do if the push is refused; commits that were pushed are never rewritten."""
    release = checkout.release
    branch = shlex.quote(release.branch)
    if pushed is None or checkout.run("git", "merge-base", "--is-ancestor", pushed, local).ok:
        return f"the message above says why; git push {release.remote} {branch} shows the same"
    pull = f"git pull --rebase {release.remote} {branch}"
    history = checkout.run("git", "reflog", "show", "--format=%H", f"refs/heads/{release.branch}").stdout.split()
    if pushed in history:
        return (
            f"the branch was pushed, and rewritten here afterwards (rebase or amend). Keep what was pushed: "
            f"git pull --no-rebase --no-edit {release.remote} {branch}, then push again"
        )
    return f"{release.remote} has commits that this checkout does not have. Get them first: {pull}"


def require_pushed(checkout: Checkout) -> None:
    """Raise StepError unless the remote has the branch as it is in the checkout."""
    local = read_local_state(checkout, ())
    remote = read_remote_state(checkout)
    if local.branch_commit is None or local.branch_commit != remote.branch_commit:
        release = checkout.release
        raise StepError(f"{release.remote} does not have the current {release.branch}", advice="./inv release.push")
