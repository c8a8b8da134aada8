"""The checkout to release, and the commands that run in it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from demo_backups.backup.script import read_script
from demo_backups.errors import CouldNotLookError, StepError
from demo_backups.release.git_state import read_local_state, read_remote_state

from ..helpers.release_repository import (
    BRANCH,
    INDEX,
    TASKS,
    ReleaseRepository,
    check_result,
    empty_repository,
    release_branch,
    release_repository,
)

pytestmark = pytest.mark.user

__all__ = ["empty_repository", "release_branch", "release_repository"]  # fixtures


# --- opening it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_task_without_checkout_is_refused(release_repository: ReleaseRepository, tmp_path: Path, task: str) -> None:
    folder = tmp_path / "no checkout"
    folder.mkdir()
    variables = {"INVOKE_RELEASE_REPOSITORY": str(folder), "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    done = release_repository.run_task(task, **variables)
    check_result(done, 2, f"{folder} is not the top of a git repository", "not a git repository", "release.repository")


def test_folder_below_top_is_refused(release_repository: ReleaseRepository) -> None:
    before = release_repository.state
    done = release_repository.run_task("branch", INVOKE_RELEASE_REPOSITORY=str(release_repository.path / "share"))
    check_result(done, 2, "is not the top of a git")
    assert release_repository.state == before


def test_bare_repository_is_refused(release_repository: ReleaseRepository) -> None:
    done = release_repository.run_task("branch", INVOKE_RELEASE_REPOSITORY=str(release_repository.remote))
    check_result(done, 2, "is not the top of a git", "work tree")


def test_missing_directory_is_refused(release_repository: ReleaseRepository) -> None:
    done = release_repository.run_task("branch", INVOKE_RELEASE_REPOSITORY=str(release_repository.path / "missing"))
    check_result(done, 2, "does not exist")


def test_checkout_is_found_through_link(release_repository: ReleaseRepository, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(release_repository.path)
    done = release_repository.run_task("branch", INVOKE_RELEASE_REPOSITORY=str(tmp_path / "link"))
    check_result(done, 0, f"created the branch {BRANCH}")


def test_repository_that_git_cannot_read(release_repository: ReleaseRepository) -> None:
    (release_repository.path / ".git/config").write_text("[broken\n")
    check_result(release_repository.run_task("branch"), 3, "git cannot read", "bad config line 1")
    with pytest.raises(CouldNotLookError, match="remote get-url"):
        read_remote_state(release_repository.checkout())


def test_paths_that_cannot_be_read(release_branch: ReleaseRepository) -> None:
    long = "x" * 300  # an error that root gets too, unlike that of a forbidden folder
    for task, variable in (
        ("branch", "INVOKE_RELEASE_REPOSITORY"),
        ("commit-docs", "INVOKE_RELEASE_DOCS"),
        ("commit-index-backup", "INVOKE_DATABASES_INDEX_SCRIPT"),
    ):
        check_result(release_branch.run_task(task, **{variable: long}), 3, "cannot read", "File name too long")
    with pytest.raises(StepError, match="cannot be read"):
        read_script(release_branch.path / long)


# --- running commands -----------------------------------------------------------------------------------------------


def test_missing_git_is_reported(release_repository: ReleaseRepository, tmp_path: Path) -> None:
    check_result(release_repository.run_task("branch", PATH=str(tmp_path)), 3, "git is not installed", "apt install")


def test_variables_of_a_hook_are_ignored(release_repository: ReleaseRepository, tmp_path: Path) -> None:
    other = tmp_path / "other"
    release_repository.git("init", "-q", "-b", "main", str(other))
    variables = {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other), "GIT_INDEX_FILE": str(other / "index")}
    check_result(release_repository.run_task("branch", **variables), 0, "created the branch")
    assert release_repository.git("branch", "--show-current") == BRANCH
    assert not list((other / ".git/refs/heads").iterdir())


def test_variables_that_change_git_are_ignored(
    release_repository: ReleaseRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_NAMESPACE"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "1")
    monkeypatch.setenv("GH_REPO", "somebody/else")
    monkeypatch.setenv("LANGUAGE", "de")  # gettext reads it with C.UTF-8 too
    checkout = release_repository.checkout()
    assert read_local_state(checkout, [INDEX]).changed_files == {INDEX}
    assert read_remote_state(checkout).url == str(release_repository.remote)
    assert checkout.run("sh", "-c", 'echo "$GH_REPO$LANGUAGE"').stdout == "\n"


def test_command_that_times_out_leaves_no_lock(release_branch: ReleaseRepository) -> None:
    marker = release_branch.path / "hook has started"
    release_branch.install_hook("pre-commit", f"touch {shlex.quote(str(marker))}; exec sleep 600 >&- 2>&-")
    checkout = release_branch.checkout()
    with pytest.raises(CouldNotLookError, match="no answer within 5 s"):
        checkout.run("git", "commit", "--quiet", "--message=x", "--", INDEX, timeout=5)
    assert marker.exists()
    assert not list((release_branch.path / ".git").glob("*.lock"))
