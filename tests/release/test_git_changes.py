"""The changes of the release in git: branch, commits and push, with real repositories and a bare remote."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator

import pytest

from demo_backups.errors import CouldNotLookError, StepError
from demo_backups.project import ROOT
from demo_backups.release.git_changes import require_pushed
from demo_backups.release.git_state import read_remote_state

from ..helpers.release_repository import (
    BRANCH,
    GIT_VARIABLES,
    INDEX,
    MESSAGES,
    NEW_DOC,
    TRACKER,
    ReleaseRepository,
    check_result,
    empty_repository,
    release_branch,
    release_repository,
)

__all__ = ["empty_repository", "release_branch", "release_repository"]  # fixtures


# --- branch ---------------------------------------------------------------------------------------------------------


def test_branch_keeps_changes_of_work_tree(release_repository: ReleaseRepository) -> None:
    changes = release_repository.git("diff", "HEAD")
    check_result(release_repository.run_task("branch"), 0, f"created the branch {BRANCH} from main")
    assert release_repository.git("branch", "--show-current") == BRANCH
    assert release_repository.git("rev-parse", BRANCH) == release_repository.git("rev-parse", "main")
    assert release_repository.git("diff", "HEAD") == changes
    assert (release_repository.path / "docs/backups.md").exists()
    assert release_repository.git("for-each-ref", "--format=%(upstream)", f"refs/heads/{BRANCH}") == ""


def test_branch_starts_from_base(release_repository: ReleaseRepository) -> None:
    release_repository.git("stash", "-q", "-u")
    release_repository.git("switch", "-q", "-c", "elsewhere")
    release_repository.commit_file("elsewhere.txt", "", "feat: something else")
    check_result(release_repository.run_task("branch"), 0)
    assert release_repository.git("rev-parse", BRANCH) == release_repository.git("rev-parse", "main")


def test_branch_is_idempotent(release_branch: ReleaseRepository) -> None:
    before = release_branch.state
    check_result(release_branch.run_task("branch"), 0, f"already on the branch {BRANCH}: nothing to do")
    assert release_branch.state == before


def test_branch_is_created_from_detached_head(release_repository: ReleaseRepository) -> None:
    release_repository.git("switch", "-q", "--detach", "main")
    check_result(release_repository.run_task("branch"), 0, "from main")
    assert release_repository.git("branch", "--show-current") == BRANCH


def test_existing_branch_is_checked_out(release_repository: ReleaseRepository) -> None:
    release_repository.git("branch", BRANCH)
    release_repository.git("stash", "-q", "-u")
    newer = release_repository.commit_file("x.txt", "", "feat: newer")
    release_repository.git("stash", "pop", "-q")
    check_result(release_repository.run_task("branch"), 0, f"switched to the branch {BRANCH}\n")
    assert release_repository.git("rev-parse", "HEAD") == release_repository.git("rev-parse", f"{newer}~")
    assert "cp $" not in (release_repository.path / INDEX).read_text()


def test_conflicting_change_is_not_lost(release_repository: ReleaseRepository) -> None:
    release_repository.git("stash", "-q", "-u")
    release_repository.git("switch", "-q", "-c", BRANCH)
    release_repository.commit_file(INDEX, "#!/bin/sh\n# another one\n", "wip")
    release_repository.git("switch", "-q", "main")
    release_repository.git("stash", "pop", "-q")
    before = release_repository.state
    texts = ("would be overwritten by checkout", INDEX, "commit or stash", "git switch")
    check_result(release_repository.run_task("branch"), 1, *texts)
    assert release_repository.state == before


def test_branch_is_fetched_from_remote(release_repository: ReleaseRepository) -> None:
    pushed = release_repository.push_from_other_clone("other.txt", "x\n")
    check_result(release_repository.run_task("branch"), 0, f"switched to the branch {BRANCH} of origin")
    assert release_repository.git("rev-parse", "HEAD") == pushed
    assert release_repository.git("branch", "--show-current") == BRANCH
    assert "cp $" not in (release_repository.path / INDEX).read_text()


def test_branch_is_fetched_by_single_branch_clone(release_repository: ReleaseRepository) -> None:
    pushed = release_repository.push_from_other_clone("other.txt", "x\n")
    release_repository.git("config", "remote.origin.fetch", "+refs/heads/main:refs/remotes/origin/main")
    check_result(release_repository.run_task("branch"), 0, "of origin")
    assert release_repository.git("rev-parse", "HEAD") == pushed
    assert release_repository.git("branch", "--show-current") == BRANCH


def test_local_branch_wins_over_remote(release_repository: ReleaseRepository) -> None:
    release_repository.git("branch", BRANCH)
    pushed = release_repository.push_from_other_clone("other.txt", "x\n")
    check_result(release_repository.run_task("branch"), 0, f"switched to the branch {BRANCH}\n")
    assert release_repository.git("rev-parse", "HEAD") == release_repository.git("rev-parse", "main") != pushed


def test_branch_is_created_without_remote(release_repository: ReleaseRepository) -> None:
    release_repository.remote.rename(release_repository.remote.with_name("gone"))
    check_result(release_repository.run_task("branch"), 0, "from main")
    assert release_repository.git("branch", "--show-current") == BRANCH


def test_branch_starts_from_fetched_base(release_repository: ReleaseRepository) -> None:
    release_repository.git("switch", "-q", "-c", "other")
    release_repository.git("branch", "-q", "-D", "main")
    check_result(release_repository.run_task("branch"), 0, "from main")
    assert release_repository.git("rev-parse", BRANCH) == release_repository.git("rev-parse", "origin/main")
    assert release_repository.git("for-each-ref", "--format=%(upstream)", f"refs/heads/{BRANCH}") == ""


@pytest.mark.parametrize("base", ["develop", "main"])
def test_missing_base_is_reported(empty_repository: ReleaseRepository, base: str) -> None:
    done = empty_repository.run_task("branch", INVOKE_RELEASE_BASE=base)
    check_result(done, 1, f"there is no branch {base} to start from", "git fetch origin")


def test_invalid_branch_name_is_reported(release_repository: ReleaseRepository) -> None:
    done = release_repository.run_task("branch", INVOKE_RELEASE_BRANCH="a..b")
    check_result(done, 1, "is not a valid branch name")


# --- commit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "files"), [("index", [INDEX]), ("tracker", [TRACKER]), ("docs", ["AGENTS.md", "docs/backups.md"])]
)
def test_commit_has_files_of_its_step(release_branch: ReleaseRepository, part: str, files: list[str]) -> None:
    (release_branch.path / "untracked.txt").write_text("x\n")
    task = "commit-docs" if part == "docs" else f"commit-{part}-backup"
    others = set(release_branch.git("status", "--porcelain", "-uall").splitlines())
    check_result(release_branch.run_task(task), 0, f"committed: {MESSAGES[part]} ({' '.join(files)})")
    assert release_branch.committed_files() == files
    assert release_branch.subject() == MESSAGES[part]
    assert release_branch.git("rev-parse", "HEAD~") == release_branch.git("rev-parse", "main")
    others -= {line for line in others if line[3:] in files}
    assert len(others) >= 3
    assert set(release_branch.git("status", "--porcelain", "-uall").splitlines()) == others


def test_commit_keeps_mode_of_script(release_branch: ReleaseRepository) -> None:
    check_result(release_branch.run_task("commit-index-backup"), 0)
    assert release_branch.git("ls-tree", "HEAD", INDEX).startswith("100755 ")
    assert release_branch.git("show", f"HEAD:{INDEX}") + "\n" == (ROOT / INDEX).read_text()


def test_changed_mode_is_committed(release_branch: ReleaseRepository) -> None:
    check_result(release_branch.run_task("commit-index-backup"), 0)
    (release_branch.path / INDEX).chmod(0o644)
    check_result(release_branch.run_task("commit-index-backup"), 0, "committed:")
    assert release_branch.git("ls-tree", "HEAD", INDEX).startswith("100644 ")


def test_link_is_committed_as_link(release_branch: ReleaseRepository) -> None:
    (release_branch.path / "AGENTS.md").rename(release_branch.path / "CLAUDE.md")
    (release_branch.path / "AGENTS.md").symlink_to("CLAUDE.md")
    check_result(release_branch.run_task("commit-docs"), 0, "committed: docs")
    assert release_branch.git("ls-tree", "HEAD", "AGENTS.md").startswith("120000 ")
    check_result(release_branch.run_task("commit-docs"), 0, "nothing to do")


def test_commit_is_idempotent(release_branch: ReleaseRepository) -> None:
    check_result(release_branch.run_task("commit-index-backup"), 0)
    before = release_branch.state
    abbreviated = release_branch.git("rev-parse", "--short", "HEAD")
    done = release_branch.run_task("commit-index-backup")
    check_result(done, 0, f"already committed ({abbreviated}): nothing to do")
    assert release_branch.state == before


def test_commit_with_other_message_counts(release_branch: ReleaseRepository) -> None:
    release_branch.git("commit", "-q", "-m", "wip", "--", INDEX)
    before = release_branch.state
    abbreviated = release_branch.git("rev-parse", "--short", "HEAD")
    done = release_branch.run_task("commit-index-backup")
    check_result(done, 0, f"already committed ({abbreviated} 'wip'): nothing to do")
    assert release_branch.state == before


def test_unchanged_part_needs_no_commit(release_branch: ReleaseRepository) -> None:
    release_branch.git("checkout", "-q", "--", TRACKER)
    before = release_branch.state
    check_result(release_branch.run_task("commit-tracker-backup"), 0, "no changes to commit: nothing to do")
    assert release_branch.state == before


@pytest.mark.parametrize("current", ["main", "other", "detached"])
def test_commit_needs_the_branch(release_repository: ReleaseRepository, current: str) -> None:
    if current == "detached":
        release_repository.git("switch", "-q", "--detach")
    elif current == "other":
        release_repository.git("switch", "-q", "-c", "other")
    before = release_repository.state
    name = "a commit without a branch" if current == "detached" else current
    done = release_repository.run_task("commit-index-backup")
    check_result(done, 1, f"{name} is checked out, not {BRANCH}", "-> ./inv release.branch")
    assert release_repository.state == before


def test_commit_refuses_other_staged_files(release_branch: ReleaseRepository) -> None:
    names = ["with a blank.txt", "ünï.txt", "*.txt"]
    for name in names:
        (release_branch.path / name).write_text("x\n")
        release_branch.git("--literal-pathspecs", "add", "--", name)
    before = release_branch.state
    done = release_branch.run_task("commit-index-backup")
    output = check_result(done, 1, "other files are staged", "| with a blank.txt")
    assert release_branch.state == before
    advice = output.partition("-> ")[2]
    subprocess.run(["sh", "-c", advice], cwd=release_branch.path, check=True)
    check_result(release_branch.run_task("commit-index-backup"), 0)
    assert {f"?? {name}" for name in names if name.isascii() and " " not in name} <= set(
        release_branch.git("status", "--porcelain").splitlines()
    )


def test_staged_rename_is_another_staged_file(release_branch: ReleaseRepository) -> None:
    release_branch.git("config", "diff.renames", "true")
    release_branch.commit_file("old.md", NEW_DOC, "docs: old name")
    release_branch.git("mv", "--force", "old.md", "docs/backups.md")
    check_result(release_branch.run_task("commit-docs"), 1, "other files are staged", "| old.md")


@pytest.mark.parametrize("way", ["merge", "cherry-pick", "stash", "resolved"])
def test_commit_refuses_unfinished_merge(release_branch: ReleaseRepository, way: str) -> None:
    release_branch.git("add", "-A")
    release_branch.git("commit", "-q", "-m", "wip")
    release_branch.git("switch", "-q", "main")
    other = release_branch.commit_file("AGENTS.md", "# Other\n", "docs: other")
    release_branch.git("switch", "-q", BRANCH)
    (release_branch.path / "AGENTS.md").write_text("# Stashed\n")
    release_branch.git("stash", "-q")
    release_branch.commit_file("AGENTS.md", "# Ours\n", "docs: ours")
    command = {"cherry-pick": ["cherry-pick", other], "stash": ["stash", "pop"]}.get(way, ["merge", "main"])
    with pytest.raises(subprocess.CalledProcessError):
        release_branch.git(*command)
    if way == "resolved":
        release_branch.git("add", "AGENTS.md")
    before = release_branch.git("ls-files", "--stage")
    assert ("AGENTS.md" in release_branch.git("ls-files", "--unmerged")) == (way != "resolved")
    for task in ("commit-docs", "commit-index-backup"):
        output = check_result(release_branch.run_task(task), 1, "a merge is not finished", "git status")
        assert output.count("| AGENTS.md") == (way != "resolved")
    assert release_branch.git("ls-files", "--stage") == before


def test_staged_removal_is_another_staged_file(release_branch: ReleaseRepository) -> None:
    release_branch.git("rm", "-q", "--cached", TRACKER)
    check_result(release_branch.run_task("commit-index-backup"), 1, "other files are staged", TRACKER)


def test_commit_takes_work_tree_not_index(release_branch: ReleaseRepository) -> None:
    release_branch.git("add", INDEX)
    script = release_branch.path / INDEX
    script.write_text(script.read_text() + "# more\n")
    check_result(release_branch.run_task("commit-index-backup"), 0)
    assert release_branch.git("show", f"HEAD:{INDEX}").endswith("# more")
    assert INDEX not in release_branch.git("status", "--porcelain")


def test_missing_file_is_not_committed(release_branch: ReleaseRepository) -> None:
    (release_branch.path / "docs/backups.md").unlink()
    before = release_branch.state
    check_result(release_branch.run_task("commit-docs"), 1, f"missing in {release_branch.path}: docs/backups.md")
    assert release_branch.state == before


def test_ignored_file_is_not_committed(release_branch: ReleaseRepository) -> None:
    (release_branch.path / ".git/info/exclude").write_text("docs\n")
    head = release_branch.git("rev-parse", "HEAD")
    check_result(release_branch.run_task("commit-docs"), 1, "ignored by one of your .gitignore files")
    assert release_branch.git("rev-parse", "HEAD") == head


def test_files_of_odd_names_are_committed(release_branch: ReleaseRepository) -> None:
    names = ["two  words.md", "it's.md", "-x.md", "ünï.md", "*.md", ":top.md", "[a].md", "$(id).md"]
    for name in names:
        (release_branch.path / name).write_text(".backup\n")
    before = release_branch.git("status", "--porcelain", "AGENTS.md", "docs")
    docs = {"INVOKE_RELEASE_DOCS": shlex.join(names)}
    check_result(release_branch.run_task("commit-docs", **docs), 0, "committed: ")
    assert sorted(release_branch.committed_files()) == sorted(names)
    assert release_branch.git("status", "--porcelain", "AGENTS.md", "docs") == before
    check_result(release_branch.run_task("commit-docs", **docs), 0, "nothing to do")


def test_commit_can_be_repeated_after_hook(release_branch: ReleaseRepository) -> None:
    head = release_branch.git("rev-parse", "HEAD")
    release_branch.install_hook("pre-commit", "echo 'no commits on a Friday' >&2; exit 1")
    check_result(release_branch.run_task("commit-docs"), 1, "| no commits on a Friday", "git commit")
    assert release_branch.git("rev-parse", "HEAD") == head
    check_result(release_branch.run_task("commit-index-backup"), 1, "| no commits on a Friday")
    (release_branch.path / ".git/hooks/pre-commit").unlink()
    check_result(release_branch.run_task("commit-docs"), 0)
    assert release_branch.committed_files() == ["AGENTS.md", "docs/backups.md"]


def test_commit_without_author_is_reported(release_branch: ReleaseRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in GIT_VARIABLES if name.startswith(("GIT_AUTHOR", "GIT_COMMITTER"))]:
        monkeypatch.delenv(name)
        del release_branch.variables[name]
    assert "GIT_AUTHOR_NAME" not in os.environ
    anonymous = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "user.useConfigOnly", "GIT_CONFIG_VALUE_0": "true"}
    done = release_branch.run_task("commit-index-backup", **anonymous)
    check_result(done, 1, "tell me who you are", "git config --global user.email")
    assert release_branch.subject() == "feat: back up by cp"


# --- push -----------------------------------------------------------------------------------------------------------


def test_push_is_idempotent_and_limited_to_branch(release_branch: ReleaseRepository) -> None:
    check_result(release_branch.run_task("commit-index-backup"), 0)
    release_branch.git("branch", "another")
    release_branch.git("tag", "--annotate", "--message=a tag of this maintainer", "mine")
    release_branch.git("config", "push.followTags", "true")
    main = release_branch.git("rev-parse", "main", cwd=release_branch.remote)
    check_result(release_branch.run_task("push"), 0, f"pushed {BRANCH} to origin")
    head = release_branch.git("rev-parse", "HEAD")
    references = release_branch.git("show-ref", cwd=release_branch.remote).splitlines()
    assert set(references) == {f"{main} refs/heads/main", f"{head} refs/heads/{BRANCH}"}
    assert release_branch.git("rev-parse", "--abbrev-ref", "@{upstream}") == f"origin/{BRANCH}"
    before = release_branch.state
    check_result(release_branch.run_task("push"), 0, f"already on origin ({head[:7]}): nothing to do")
    assert release_branch.state == before


def test_push_does_not_need_checked_out_branch(release_branch: ReleaseRepository) -> None:
    check_result(release_branch.run_task("commit-index-backup"), 0)
    release_branch.git("stash", "-q", "-u")
    release_branch.git("switch", "-q", "main")
    check_result(release_branch.run_task("push"), 0, "pushed")
    pushed = release_branch.git("rev-parse", BRANCH, cwd=release_branch.remote)
    assert pushed == release_branch.git("rev-parse", BRANCH)


def test_push_needs_a_branch(release_repository: ReleaseRepository) -> None:
    done = release_repository.run_task("push")
    check_result(done, 1, f"there is no branch {BRANCH}", "-> ./inv release.branch")


def test_push_needs_a_remote(release_branch: ReleaseRepository) -> None:
    release_branch.git("remote", "remove", "origin")
    check_result(release_branch.run_task("push"), 1, "there is no remote 'origin'", "git remote add origin URL")


def test_push_does_not_overwrite_other_commits(release_branch: ReleaseRepository) -> None:
    other = release_branch.push_from_other_clone("other.txt", "x\n")
    check_result(release_branch.run_task("commit-index-backup"), 0)
    advice = f"git pull --rebase origin {BRANCH}"
    check_result(release_branch.run_task("push"), 1, "could not push", "[rejected]", advice)
    assert release_branch.git("rev-parse", BRANCH, cwd=release_branch.remote) == other
    # The advice works.
    release_branch.git("stash", "-q", "-u")
    release_branch.git("pull", "-q", "--rebase", "origin", BRANCH)
    check_result(release_branch.run_task("push"), 0, "pushed")
    assert release_branch.git("rev-parse", f"{BRANCH}~", cwd=release_branch.remote) == other


@pytest.mark.parametrize("way", ["amend", "rebase"])
def test_advice_after_rewriting_keeps_pushed_commits(release_branch: ReleaseRepository, way: str) -> None:
    for task in ("commit-index-backup", "commit-tracker-backup", "push"):
        check_result(release_branch.run_task(task), 0)
    pushed = release_branch.git("rev-parse", BRANCH)
    release_branch.git("stash", "-q", "-u")
    if way == "rebase":
        release_branch.push_from_other_clone("other.txt", "x\n", branch="main")
        release_branch.git("pull", "-q", "--rebase", "origin", "main")
    else:
        release_branch.git("commit", "-q", "--amend", "-m", "feat: another message")
    output = check_result(release_branch.run_task("push"), 1, "could not push", "rewritten here")
    (advice,) = re.findall(r"git pull .*(?=, then)", output)
    subprocess.run(["sh", "-c", advice], cwd=release_branch.path, check=True)
    check_result(release_branch.run_task("push"), 0, "pushed")
    assert pushed in release_branch.git("rev-list", BRANCH, cwd=release_branch.remote).split()
    assert release_branch.git("diff", pushed, BRANCH, "--", INDEX, TRACKER) == ""


def test_refusal_of_remote_is_reported(release_branch: ReleaseRepository) -> None:
    release_branch.install_hook("pre-receive", "echo 'this branch is protected' >&2; exit 1", remote=True)
    check_result(release_branch.run_task("commit-index-backup"), 0)
    before = release_branch.state
    texts = ("could not push", "this branch is protected", "pre-receive hook declined")
    check_result(release_branch.run_task("push"), 1, *texts)
    assert release_branch.state == before


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A reserved port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_missing_remote_directory_is_reported(release_branch: ReleaseRepository) -> None:
    release_branch.remote.rename(release_branch.remote.with_name("gone"))
    texts = ("cannot read the remote origin", "does not appear to be a git repository", "git ls-remote origin")
    check_result(release_branch.run_task("push"), 3, *texts)
    with pytest.raises(CouldNotLookError):
        read_remote_state(release_branch.checkout())


def test_unreachable_remote_is_reported(release_branch: ReleaseRepository, closed_port: int) -> None:
    release_branch.git("remote", "set-url", "origin", f"ssh://git@127.0.0.1:{closed_port}/torrust/demo.git")
    check_result(release_branch.run_task("push"), 3, "cannot read the remote origin", "Connection refused")


def test_pull_request_needs_pushed_branch(release_branch: ReleaseRepository) -> None:
    with pytest.raises(StepError, match="does not have the current"):
        require_pushed(release_branch.checkout())
    check_result(release_branch.run_task("push"), 0)
    require_pushed(release_branch.checkout())
    check_result(release_branch.run_task("commit-index-backup"), 0)
    with pytest.raises(StepError, match="does not have the current"):
        require_pushed(release_branch.checkout())


# --- dry runs, and other names --------------------------------------------------------------------------------------


def test_dry_run_prints_commands_only(release_repository: ReleaseRepository) -> None:
    before = release_repository.state
    done = release_repository.run_task("branch", "--dry-run")
    output = check_result(done, 0, f"would run in {release_repository.path}:", "git switch --no-track --create")
    assert release_repository.state == before
    command = output.splitlines()[1].strip()
    subprocess.run(["sh", "-c", command], cwd=release_repository.path, check=True, capture_output=True)

    before = release_repository.state
    done = release_repository.run_task("commit-docs", "--dry-run")
    check_result(done, 0, f"git commit --quiet '--message={MESSAGES['docs']}' -- AGENTS.md")
    done = release_repository.run_task("push", "--dry-run")
    check_result(done, 0, "git push --quiet --no-follow-tags --set-upstream -- origin")
    assert release_repository.state == before


def test_dry_run_fetches_nothing(release_repository: ReleaseRepository) -> None:
    release_repository.push_from_other_clone("other.txt", "x\n")
    before = release_repository.state
    check_result(release_repository.run_task("branch", "--dry-run"), 0, "git fetch -- origin")
    assert release_repository.state == before


def test_dry_run_reports_refusal(release_repository: ReleaseRepository) -> None:
    check_result(release_repository.run_task("commit-index-backup", "--dry-run"), 1, "main is checked out")


def test_release_with_other_names(release_repository: ReleaseRepository) -> None:
    release_repository.git("branch", "-m", "main", "develop")
    release_repository.git("remote", "rename", "origin", "upstream")
    message = 'feat: it\'s "another" $(one) #1'
    names = {
        "INVOKE_RELEASE_BASE": "develop",
        "INVOKE_RELEASE_REMOTE": "upstream",
        "INVOKE_RELEASE_BRANCH": "next/one",
        "INVOKE_RELEASE_COMMITS_INDEX": message,
    }
    check_result(release_repository.run_task("branch", **names), 0, "created the branch next/one from develop")
    check_result(release_repository.run_task("commit-index-backup", **names), 0)
    check_result(release_repository.run_task("push", **names), 0, "pushed next/one to upstream")
    subject = release_repository.git("show", "--no-patch", "--format=%s", "next/one", cwd=release_repository.remote)
    assert subject == message
