"""The state of the release in git: real repositories, with every way in which a file can differ from a commit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo_backups.errors import CouldNotLookError
from demo_backups.release.git_state import (
    LocalState,
    RemoteState,
    find_changed_files,
    read_local_state,
    read_remote_state,
    read_subjects,
)
from demo_backups.release.repository import Checkout
from demo_backups.settings.model import Settings

from ..helpers.constants import NOBODY
from ..helpers.release_repository import (
    BRANCH,
    DOCS,
    INDEX,
    MESSAGES,
    SCRIPTS,
    TRACKER,
    ReleaseRepository,
    check_result,
    empty_repository,
    release_branch,
    release_repository,
)

__all__ = ["empty_repository", "release_branch", "release_repository"]  # fixtures


# --- branches and commits -------------------------------------------------------------------------------------------


def test_local_state_before_the_branch_exists(release_repository: ReleaseRepository) -> None:
    state = read_local_state(release_repository.checkout(), (*SCRIPTS, *DOCS))
    abbreviated = release_repository.git("rev-parse", "--short", "main")
    assert state == LocalState("main", None, {"feat: back up by cp": abbreviated}, frozenset((*SCRIPTS, *DOCS)))


def test_local_state_is_that_of_the_branch(release_branch: ReleaseRepository) -> None:
    check_result(release_branch.run_task("commit-index-backup"), 0)
    commit = release_branch.git("rev-parse", "HEAD")
    release_branch.git("stash", "-q", "-u")
    release_branch.git("switch", "-q", "--detach", "main")
    state = read_local_state(release_branch.checkout(), [INDEX, TRACKER])
    assert (state.current_branch, state.branch_commit, state.changed_files) == (None, commit, frozenset({INDEX}))
    assert state.commits[MESSAGES["index"]] == release_branch.git("rev-parse", "--short", commit)


def test_newest_commit_of_equal_subjects_is_named(release_branch: ReleaseRepository) -> None:
    for text in "ab":
        release_branch.commit_file("x.txt", text, "feat: again")
    newest = release_branch.git("rev-parse", "--short", "HEAD")
    assert read_subjects(release_branch.checkout(), BRANCH)["feat: again"] == newest


def test_subjects_do_not_depend_on_settings(release_branch: ReleaseRepository) -> None:
    release_branch.git("config", "i18n.logOutputEncoding", "ISO-8859-1")
    release_branch.git("config", "log.showSignature", "true")
    release_branch.git("commit", "-q", "--allow-empty", "-m", "feat: für alle")
    assert list(read_local_state(release_branch.checkout(), ()).commits) == ["feat: back up by cp", "feat: für alle"]


def test_local_state_without_a_commit(empty_repository: ReleaseRepository) -> None:
    empty_repository.write_file("docs/x.md", "x")
    state = read_local_state(empty_repository.checkout(), ["docs/x.md", "missing"])
    assert state == LocalState("main", None, {}, frozenset({"docs/x.md"}))


# --- comparing files ------------------------------------------------------------------------------------------------

FILE = "docs/a file.md"


@pytest.fixture
def compared(empty_repository: ReleaseRepository) -> ReleaseRepository:
    """A repository with one committed file, unchanged, and another one."""
    empty_repository.write_file("other.md", "other\n")
    empty_repository.git("add", "other.md")
    empty_repository.commit_file(FILE, "text\n", "docs: text")
    empty_repository.git("commit", "-q", "-m", "docs: other", "--", "other.md")
    return empty_repository


def changed(repository: ReleaseRepository, *files: str) -> set[str]:
    return set(find_changed_files(repository.checkout(), "HEAD", files or (FILE, "other.md")))


def edit(repository: ReleaseRepository) -> None:
    (repository.path / FILE).write_text("edit\n")  # as long as it was


def edit_with_old_time(repository: ReleaseRepository) -> None:
    path = repository.path / FILE
    before = path.stat()
    edit(repository)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_link(repository: ReleaseRepository) -> None:
    (repository.path / FILE).unlink()
    (repository.path / FILE).symlink_to("../other.md")


def replace_by_directory(repository: ReleaseRepository) -> None:
    (repository.path / FILE).unlink()
    repository.write_file(f"{FILE}/x", "x")


def replace_parent_by_file(repository: ReleaseRepository) -> None:
    (repository.path / FILE).unlink()
    (repository.path / "docs").rmdir()
    (repository.path / "docs").write_text("x")


def edit_and_stage(repository: ReleaseRepository) -> None:
    edit(repository)
    repository.git("add", FILE)


def edit_and_assume_unchanged(repository: ReleaseRepository) -> None:
    repository.git("update-index", "--assume-unchanged", FILE)
    edit(repository)


def edit_and_skip_work_tree(repository: ReleaseRepository) -> None:
    repository.git("update-index", "--skip-worktree", FILE)
    edit(repository)


def break_index(repository: ReleaseRepository) -> None:
    edit(repository)
    (repository.path / ".git/index").write_bytes(b"not an index")


@pytest.mark.parametrize(
    "change",
    [
        edit,
        edit_with_old_time,
        lambda repository: (repository.path / FILE).unlink(),
        lambda repository: (repository.path / FILE).chmod(0o755),
        replace_by_link,
        replace_by_directory,
        replace_parent_by_file,
        edit_and_stage,
        edit_and_assume_unchanged,
        edit_and_skip_work_tree,
        break_index,
    ],
)
def test_changed_file_is_found(compared: ReleaseRepository, change: Callable[[ReleaseRepository], None]) -> None:
    change(compared)
    assert changed(compared) == {FILE}


def stage_edit_and_restore(repository: ReleaseRepository) -> None:
    edit_and_stage(repository)
    (repository.path / FILE).write_text("text\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda repository: None,
        lambda repository: (repository.path / FILE).touch(),
        lambda repository: repository.git("rm", "-q", "--cached", FILE),
        lambda repository: (repository.path / ".git/index").unlink(),
        stage_edit_and_restore,
    ],
)
def test_unchanged_file_is_not_found(
    compared: ReleaseRepository, change: Callable[[ReleaseRepository], object]
) -> None:
    change(compared)
    assert changed(compared) == set()


@pytest.mark.parametrize("stage", ["no", "add", "intent", "ignored"])
def test_new_file_is_found(compared: ReleaseRepository, stage: str) -> None:
    compared.write_file("new/x.md", "x")
    if stage == "ignored":
        (compared.path / ".git/info/exclude").write_text("new\n")
    elif stage != "no":
        compared.git("add", *(["--intent-to-add"] if stage == "intent" else []), "new/x.md")
    assert changed(compared, FILE, "new/x.md", "new/missing.md") == {"new/x.md"}


def test_new_link_is_found(compared: ReleaseRepository) -> None:
    (compared.path / "link.md").symlink_to("nowhere")
    assert changed(compared, "link.md") == {"link.md"}


def test_directory_is_no_file(compared: ReleaseRepository) -> None:
    compared.write_file("docs/new.md", "x")
    assert changed(compared, "docs") == set()


@pytest.mark.parametrize("exists", [True, False])
def test_odd_names_are_compared_literally(compared: ReleaseRepository, exists: bool) -> None:
    names = [
        "two  words.md",
        "it's.md",
        "-x.md",
        "ünï.md",
        "*.md",
        ":top.md",
        ":(glob)x",
        "[a].md",
        "tab\t.md",
        "$(id)",
    ]
    for name in names:
        compared.write_file(name, "x\n")
        if exists:
            compared.git("--literal-pathspecs", "add", "--", name)
    if exists:
        compared.git("commit", "-q", "-m", "docs: odd names")
        assert changed(compared, *names) == set()
        compared.write_file("*.md", "changed\n")
        assert changed(compared, *names) == {"*.md"}
    else:
        assert changed(compared, *names) == set(names)


def test_files_keep_the_names_of_the_settings(compared: ReleaseRepository) -> None:
    edit(compared)
    assert changed(compared, f"./{FILE}", ".//other.md") == {f"./{FILE}"}


def test_modes_follow_core_filemode(compared: ReleaseRepository) -> None:
    (compared.path / FILE).chmod(0o755)
    compared.git("config", "core.fileMode", "false")
    assert changed(compared) == set()


def test_content_is_compared_as_committed(compared: ReleaseRepository) -> None:
    compared.write_file(".gitattributes", "*.md text eol=crlf\n")
    (compared.path / FILE).write_bytes(b"text\r\n")
    assert changed(compared) == set()


def test_sparse_checkout_has_changed_files(compared: ReleaseRepository) -> None:
    compared.git("sparse-checkout", "set", "--no-cone", "other.md")
    assert changed(compared) == {FILE}


SETTINGS = {
    "diff.external": "false",
    "diff.noprefix": "true",
    "diff.relative": "true",
    "diff.renames": "copies",
    "diff.ignoreSubmodules": "all",
    "diff.orderFile": "/nonexistent",
    "diff.autoRefreshIndex": "false",
    "diff.md.textconv": "true",
    "core.quotePath": "true",
    "core.checkStat": "minimal",
    "core.trustctime": "false",
    "core.splitIndex": "true",
    "core.untrackedCache": "true",
    "core.fsmonitor": "/bin/true",  # reports no changes
    "feature.manyFiles": "true",
    "commit.gpgSign": "true",
    "gpg.program": "false",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_comparison_does_not_depend_on_setting(compared: ReleaseRepository, name: str) -> None:
    compared.write_file(".gitattributes", "*.md diff=md\n")
    compared.git("config", name, SETTINGS[name])
    assert changed(compared) == set()
    edit_with_old_time(compared)
    compared.write_file("new.md", "other\n")
    assert changed(compared, FILE, "other.md", "new.md") == {FILE, "new.md"}
    assert not list((compared.path / ".git").glob("sharedindex.*"))


def test_comparison_leaves_checkout_unchanged(compared: ReleaseRepository) -> None:
    edit(compared)
    index = compared.path / ".git/index"
    before = index.read_bytes(), index.stat().st_mtime_ns, set((compared.path / ".git/objects").rglob("*"))
    assert changed(compared) == {FILE}
    assert before == (index.read_bytes(), index.stat().st_mtime_ns, set((compared.path / ".git/objects").rglob("*")))


@contextlib.contextmanager
def without_root() -> Iterator[None]:
    """Let root be a normal user, who cannot read every file."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.parametrize("name", [FILE, "docs"])
def test_forbidden_file_is_not_compared(project_settings: Settings, public_folder: Path, name: str) -> None:
    (public_folder / "docs").mkdir()
    (public_folder / FILE).write_text("x")
    checkout = Checkout(public_folder, project_settings.release)
    (public_folder / name).chmod(0)
    with without_root(), pytest.raises(CouldNotLookError, match=f"cannot read {public_folder / FILE}"):
        find_changed_files(checkout, "HEAD", [FILE])
    (public_folder / name).chmod(0o700)


def test_comparison_that_git_cannot_make(compared: ReleaseRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(compared)
    monkeypatch.setattr("tempfile.tempdir", str(compared.path / "missing"))
    with pytest.raises(CouldNotLookError, match="temporary directory"):
        changed(compared)


# --- the remote -----------------------------------------------------------------------------------------------------


def test_remote_state_follows_the_push(release_branch: ReleaseRepository) -> None:
    url, base = str(release_branch.remote), release_branch.git("rev-parse", "main")
    assert read_remote_state(release_branch.checkout()) == RemoteState(url, None, base)
    check_result(release_branch.run_task("push"), 0)
    commit = release_branch.git("rev-parse", "HEAD")
    assert read_remote_state(release_branch.checkout()) == RemoteState(url, commit, base)
    release_branch.git("remote", "remove", "origin")
    assert read_remote_state(release_branch.checkout()) == RemoteState(None)
