"""Whether a release is merged: every way to merge a branch, in real repositories."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_backups.errors import CouldNotLookError
from demo_backups.release.git_state import parse_references, read_remote_state
from demo_backups.release.merge import Merge, MergeState, is_object
from demo_backups.release.merge_search import (
    parse_messages,
    parse_raw,
    parse_tree,
    read_merge,
)

from ..helpers.release_repository import (
    BRANCH,
    DOCS,
    INDEX,
    MESSAGES,
    NEW_DOC,
    SCRIPTS,
    TRACKER,
    ReleaseRepository,
    check_result,
    empty_repository,
    make_once,
    release_branch,
    release_repository,
)

pytestmark = pytest.mark.user

__all__ = ["empty_repository", "release_branch", "release_repository"]  # fixtures

FILES = (*SCRIPTS, *DOCS)
COMMITS = ("commit-index-backup", "commit-tracker-backup", "commit-docs")
MERGED, NOT_MERGED, UNKNOWN = MergeState


def read(repository: ReleaseRepository, **changes: str) -> Merge:
    checkout = repository.checkout(**changes)
    return read_merge(checkout, read_remote_state(checkout), FILES)


def state_of(repository: ReleaseRepository, **changes: str) -> MergeState:
    return read(repository, **changes).state


@pytest.fixture
def pushed(release_branch: ReleaseRepository, tmp_path_factory: pytest.TempPathFactory) -> ReleaseRepository:
    """A release whose three commits are pushed."""
    return make_once(release_branch, tmp_path_factory.getbasetemp() / "template of a pushed release", push_release)


def push_release(repository: ReleaseRepository) -> None:
    for task in (*COMMITS, "push"):
        check_result(repository.run_task(task), 0)


# --- the ways to merge, by somebody else on the remote --------------------------------------------------------------


def in_other_clone(repository: ReleaseRepository, *commands: list[str]) -> None:
    """Run git commands in another clone, on the base branch, and push that."""
    other = repository.path.with_name("clone of a reviewer")
    repository.git("clone", "-q", str(repository.remote), str(other), cwd=repository.path.parent)
    for command in commands:
        repository.git(*command, cwd=other)
    repository.git("push", "-q", "origin", "main", cwd=other)
    shutil.rmtree(other)


def squash(repository: ReleaseRepository, message: str = "Anything (#90)") -> None:
    in_other_clone(repository, ["merge", "-q", "--squash", f"origin/{BRANCH}"], ["commit", "-q", "-m", message])


def merge_commit(repository: ReleaseRepository) -> None:
    in_other_clone(repository, ["merge", "-q", "--no-ff", "--no-edit", f"origin/{BRANCH}"])


def fast_forward(repository: ReleaseRepository) -> None:
    in_other_clone(repository, ["merge", "-q", "--ff-only", f"origin/{BRANCH}"])


def rebase(repository: ReleaseRepository) -> None:
    in_other_clone(
        repository, ["commit", "-q", "--allow-empty", "-m", "x"], ["cherry-pick", f"origin/main..origin/{BRANCH}"]
    )


WAYS = (squash, merge_commit, fast_forward, rebase)
all_ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@all_ways
@pytest.mark.parametrize(("deleted", "fetched"), [(False, False), (True, True)], ids=["kept", "deleted and fetched"])
def test_merge_is_found_by_content(
    pushed: ReleaseRepository, way: Callable[[ReleaseRepository], None], deleted: bool, fetched: bool
) -> None:
    assert state_of(pushed) is NOT_MERGED
    way(pushed)
    if deleted:
        pushed.git("update-ref", "-d", f"refs/heads/{BRANCH}", cwd=pushed.remote)
    if fetched:
        pushed.git("fetch", "-q", *(["--prune"] if deleted else []))
    before = pushed.state, sorted((pushed.path / ".git/objects").rglob("*"))
    found = read(pushed)
    assert (found.state, found.edited_files) == (MERGED, frozenset())
    assert before == (pushed.state, sorted((pushed.path / ".git/objects").rglob("*")))


@all_ways
def test_later_changes_of_base_keep_it_merged(
    pushed: ReleaseRepository, way: Callable[[ReleaseRepository], None]
) -> None:
    way(pushed)
    for file in (INDEX, "AGENTS.md"):
        pushed.push_from_other_clone(file, "something else\n", branch="main")
    assert state_of(pushed) is MERGED


def test_parallel_change_of_base_is_merged_too(release_branch: ReleaseRepository) -> None:
    lines = [f"line {number}\n" for number in range(30)]
    release_branch.commit_file("AGENTS.md", "".join(lines), "docs: many lines")
    release_branch.git("push", "-q", "origin", f"{BRANCH}:main", BRANCH)
    release_branch.push_from_other_clone("AGENTS.md", "".join(["first\n", *lines[1:]]), branch="main")
    release_branch.commit_file("AGENTS.md", "".join([*lines[:-1], "last\n"]), "docs: last line")
    check_result(release_branch.run_task("push"), 0)
    squash(release_branch)
    release_branch.git("fetch", "-q")
    contents = release_branch.git("show", "origin/main:AGENTS.md")
    assert (contents.startswith("first"), contents.endswith("last")) == (True, True)
    assert state_of(release_branch) is MERGED


def test_local_branch_behind_remote_is_merged(pushed: ReleaseRepository) -> None:
    pushed.git("reset", "-q", "--hard", "HEAD~2")
    squash(pushed)
    assert state_of(pushed) is MERGED


@pytest.mark.parametrize("message", ["title", "title (#90)", "messages"])
def test_deleted_branch_is_found_by_message(pushed: ReleaseRepository, message: str) -> None:
    title = pushed.release.title
    texts = {
        "title": title,
        "title (#90)": f"{title} (#90)",
        "messages": "Backups (#90)\n\n" + "\n\n".join(f"* {message}" for message in MESSAGES.values()),
    }
    squash(pushed, texts[message])
    delete_branch(pushed)
    assert state_of(pushed) is MERGED


def delete_branch(repository: ReleaseRepository) -> None:
    """Delete the branch everywhere, as after a merge, and update the base branch."""
    repository.git("update-ref", "-d", f"refs/heads/{BRANCH}", cwd=repository.remote)
    repository.git("switch", "-q", "main")
    repository.git("branch", "-q", "-D", BRANCH)
    repository.git("fetch", "-q", "--prune")
    repository.git("merge", "-q", "--ff-only", "origin/main")


def test_unknown_without_branch_and_message(pushed: ReleaseRepository) -> None:
    squash(pushed)
    delete_branch(pushed)
    found = read(pushed)
    assert (found.state, "merged, or not started" in found.reason) == (UNKNOWN, True)


def test_squash_with_other_contents_is_unknown(pushed: ReleaseRepository) -> None:
    in_other_clone(
        pushed,
        ["merge", "-q", "--squash", f"origin/{BRANCH}"],
        ["rm", "-q", "-f", "docs/backups.md"],
        ["commit", "-q", "-m", f"{pushed.release.title} (#90)"],
    )
    assert state_of(pushed) is UNKNOWN


def test_pushed_branch_that_is_gone_is_unknown(pushed: ReleaseRepository) -> None:
    pushed.git("update-ref", "-d", f"refs/heads/{BRANCH}", cwd=pushed.remote)
    assert state_of(pushed) is UNKNOWN
    pushed.commit_file("AGENTS.md", NEW_DOC + "more\n", "docs: more")
    assert state_of(pushed) is NOT_MERGED


# --- not merged -----------------------------------------------------------------------------------------------------


def test_new_release_is_not_merged(release_repository: ReleaseRepository) -> None:
    found = read(release_repository)
    assert (found.state, found.edited_files) == (NOT_MERGED, frozenset(FILES))
    release_repository.git("switch", "-q", "-c", BRANCH)
    assert state_of(release_repository) is NOT_MERGED
    release_repository.push_from_other_clone("other.txt", "x\n", branch="main")
    assert state_of(release_repository) is NOT_MERGED


def test_part_of_a_release_is_not_merged(release_branch: ReleaseRepository) -> None:
    check_result(release_branch.run_task("commit-index-backup"), 0)
    release_branch.git("push", "-q", "origin", f"{BRANCH}:main")
    assert state_of(release_branch) is MERGED  # all that is committed
    check_result(release_branch.run_task("commit-tracker-backup"), 0)
    assert state_of(release_branch) is NOT_MERGED


@pytest.mark.parametrize("stale", [False, True], ids=["pruned", "not pruned"])
def test_branch_name_can_be_used_again(pushed: ReleaseRepository, stale: bool) -> None:
    squash(pushed)
    tracked = pushed.git("rev-parse", f"origin/{BRANCH}")
    delete_branch(pushed)
    if stale:
        pushed.git("update-ref", f"refs/remotes/origin/{BRANCH}", tracked)
    pushed.write_file(INDEX, "#!/bin/bash\n# the next release\n")
    assert state_of(pushed) is NOT_MERGED
    pushed.git("switch", "-q", "-c", BRANCH)
    assert state_of(pushed) is NOT_MERGED
    pushed.git("commit", "-q", "-a", "-m", "feat: the next release")
    assert state_of(pushed) is NOT_MERGED


# --- what cannot be read --------------------------------------------------------------------------------------------


def test_fetched_base_counts_without_remote(pushed: ReleaseRepository) -> None:
    assert read_merge(pushed.checkout(), None, FILES).state is UNKNOWN
    squash(pushed)
    pushed.git("fetch", "-q")
    assert read_merge(pushed.checkout(), None, FILES).state is MERGED


def test_commits_that_cannot_be_fetched_are_unknown(pushed: ReleaseRepository) -> None:
    squash(pushed)
    checkout = pushed.checkout()
    remote = read_remote_state(checkout)
    pushed.remote.rename(pushed.remote.with_name("moved"))
    found = read_merge(checkout, remote, FILES)
    assert (found.state, "git fetch origin" in found.reason) == (UNKNOWN, True)


def test_shallow_clone_is_unknown(pushed: ReleaseRepository, tmp_path: Path) -> None:
    squash(pushed)
    pushed.git("clone", "-q", "--depth", "1", pushed.remote.as_uri(), str(tmp_path / "shallow"))
    checkout = replace(pushed.checkout(), path=tmp_path / "shallow")
    pushed.git("update-ref", "-d", f"refs/heads/{BRANCH}", cwd=pushed.remote)
    found = read_merge(checkout, read_remote_state(checkout), FILES)
    assert (found.state, "--unshallow" in found.reason) == (UNKNOWN, True)


def test_base_that_does_not_exist(release_branch: ReleaseRepository) -> None:
    assert state_of(release_branch, base="develop") is NOT_MERGED


def test_odd_paths_can_be_alternates(release_branch: ReleaseRepository, tmp_path: Path) -> None:
    place = tmp_path / 'a "quoted": \\ place'
    shutil.copytree(release_branch.path, place)
    release_branch.push_from_other_clone("other.txt", "x\n", branch="main")
    checkout = replace(release_branch.checkout(), path=place)
    assert read_merge(checkout, read_remote_state(checkout), FILES).state is NOT_MERGED


# --- the work tree --------------------------------------------------------------------------------------------------


def test_outdated_files_are_not_edited(pushed: ReleaseRepository) -> None:
    squash(pushed, pushed.release.title)
    pushed.git("switch", "-q", "main")
    found = read(pushed)
    assert (found.state, found.edited_files, found.outdated_files) == (MERGED, frozenset(), frozenset(FILES))
    pushed.write_file(TRACKER, "edited\n")
    found = read(pushed)
    assert (found.edited_files, found.outdated_files) == (frozenset({TRACKER}), frozenset(FILES) - {TRACKER})


def test_released_contents_include_later_ones(pushed: ReleaseRepository) -> None:
    squash(pushed)
    content = (pushed.path / INDEX).read_bytes()
    pushed.push_from_other_clone(INDEX, "later\n", branch="main")
    pushed.git("switch", "-q", "main")
    released = read(pushed).released[INDEX]
    assert [any(is_object(text, name) for name in released) for text in (content, b"later\n", b"x")] == [
        True,
        True,
        False,
    ]


def test_times_of_files_do_not_matter(pushed: ReleaseRepository) -> None:
    squash(pushed)
    before = read(pushed)
    for file in FILES:
        os.utime(pushed.path / file, (1, 1))
        (pushed.path / file).chmod(0o600)
    assert read(pushed) == before


# --- parsers --------------------------------------------------------------------------------------------------------

texts = st.text(st.sampled_from("0123456789abcdef:\t\n\0 M.*é"), max_size=60) | st.text(max_size=30)
bounded = settings(derandomize=True, max_examples=200, deadline=None, database=None)
PARSERS = (parse_tree, parse_messages, parse_raw, parse_references)


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
@bounded
@given(output=texts)
def test_unexpected_answer_of_git_is_reported(parse: Callable[[str], object], output: str) -> None:
    with contextlib.suppress(CouldNotLookError):
        parse(output)


names = st.text(min_size=1, max_size=20).filter(lambda name: "\0" not in name)
hashes = st.binary(min_size=1).map(lambda content: hashlib.sha1(content, usedforsecurity=False).hexdigest())


@bounded
@given(entries=st.dictionaries(names, hashes, max_size=4))
def test_names_and_hashes_are_parsed(entries: dict[str, str]) -> None:
    assert parse_tree("".join(f"100644 blob {name}\t{path}\0" for path, name in entries.items())) == entries
    raw = "".join(f":100644 100755 {'0' * 40} {name} M\0{path}\0" for path, name in entries.items())
    assert [entry for entry in parse_raw(raw) if entry[1] != "missing"] == list(entries.items())
    log = [(name, path.split("\n")) for path, name in entries.items()]
    assert parse_messages("\0".join(f"{name}\n{path}" for path, name in entries.items())) == log
