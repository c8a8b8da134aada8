"""The checkout being released: real git, with a bare remote beside it."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from invoke.config import Config

from demo_backups.backup.script import read_script
from demo_backups.errors import BackupsError, CouldNotLookError, StepError
from demo_backups.project import ROOT, read_project_file
from demo_backups.release.actions import branch, commit, push
from demo_backups.release.repository import (
    LocalState,
    RemoteState,
    check_pushed,
    read_local_state,
    read_remote_state,
    subjects,
)
from demo_backups.settings import Settings, load_settings
from demo_backups.ui.console import Console, escape_controls, make_console

from ..helpers.release_repository import (
    BRANCH,
    DOCS,
    GIT,
    INDEX,
    SCRIPTS,
    TRACKER,
    ReleaseRepository,
    empty_repository,
    release_repository,
)
from ..helpers.tasks import Inv

__all__ = ["empty_repository", "release_repository"]  # fixtures

MESSAGES = {
    "index": "feat: use sqlite .backup for index database backups",
    "tracker": "feat: use sqlite .backup for tracker database backups",
    "docs": "docs: update backup documentation for sqlite .backup command",
}


@dataclass(frozen=True)
class Repository(ReleaseRepository):
    """A repository that is being released, and the tasks that release it."""

    inv: Inv

    @classmethod
    def of(cls, made: ReleaseRepository, inv: Inv) -> Repository:
        inv.environment |= made.variables
        return cls(**vars(made), inv=inv)

    def do(self, task: str, *flags: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Do a task of git as `inv` does, but in this process: it takes a tenth of the time."""
        out = io.StringIO()
        with environment(self.inv.environment | changes):
            try:
                TASKS[task](settings_here(), make_console(out), flags == ("--dry-run",))
                code, said = 0, ""
            except BackupsError as error:
                code, said = error.exit_code, escape_controls(str(error))
        return subprocess.CompletedProcess([task, *flags], code, out.getvalue(), said)


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Let this process have another environment for a while."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def settings_here() -> Settings:
    """The settings, with what the environment says."""
    config = Config(project_location=ROOT)
    config.load_project()
    config.load_shell_env()
    return load_settings(read_project_file(), config)


TASKS: dict[str, Callable[[Settings, Console, bool], None]] = {
    "branch": branch,
    "commit-index-backup": lambda settings, out, dry_run: commit(settings, "index", out, dry_run),
    "commit-tracker-backup": lambda settings, out, dry_run: commit(settings, "tracker", out, dry_run),
    "commit-docs": lambda settings, out, dry_run: commit(settings, "docs", out, dry_run),
    "push": push,
}


@pytest.fixture
def place(empty_repository: ReleaseRepository, inv: Inv) -> Repository:
    """A repository in which nothing is committed, without a remote."""
    return Repository.of(empty_repository, inv)


@pytest.fixture
def repo(release_repository: ReleaseRepository, inv: Inv) -> Repository:
    """A repository whose base, which is on the remote, holds the old scripts, and whose work tree holds ours."""
    return Repository.of(release_repository, inv)


@pytest.fixture
def on_branch(repo: Repository) -> Repository:
    """The same, on the release's branch."""
    repo.git("switch", "-q", "-c", BRANCH)
    return repo


def printed(done: subprocess.CompletedProcess[str], code: int, *words: str) -> str:
    """What a task printed, which ended with that code, without a traceback and with those words."""
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    assert "Traceback" not in text
    for each in words:
        assert each in text
    return text


# --- where a checkout is, and where not -----------------------------------------------------------------------------


@pytest.mark.parametrize("task", [*TASKS, "open-pr"])
def test_where_no_checkout_is_no_task_does_anything(inv: Inv, tmp_path: Path, task: str) -> None:
    done = inv(f"release.{task}", INVOKE_RELEASE_REPOSITORY=str(tmp_path), GIT_CEILING_DIRECTORIES=str(tmp_path.parent))
    printed(done, 2, f"{tmp_path} is not the top of a git repository", "not a git repository", "release.repository")


def test_a_folder_below_the_top_of_a_checkout_is_none(repo: Repository) -> None:
    before = repo.state
    printed(repo.do("branch", INVOKE_RELEASE_REPOSITORY=str(repo.path / "share")), 2, "is not the top of a git")
    assert repo.state == before


def test_a_repository_without_a_work_tree_is_none(repo: Repository) -> None:
    printed(repo.do("branch", INVOKE_RELEASE_REPOSITORY=str(repo.remote)), 2, "is not the top of a git", "work tree")


def test_a_folder_that_is_not_there_is_no_checkout(repo: Repository) -> None:
    printed(repo.do("branch", INVOKE_RELEASE_REPOSITORY=str(repo.path / "no")), 2, "there is no folder")


def test_a_checkout_is_found_by_way_of_a_link(repo: Repository, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(repo.path)
    printed(repo.do("branch", INVOKE_RELEASE_REPOSITORY=str(tmp_path / "link")), 0, "made from main")


def test_a_repository_that_git_refuses_to_read_could_not_be_looked_at(repo: Repository) -> None:
    (repo.path / ".git/config").write_text("[broken\n")
    printed(repo.do("branch"), 3, "git does not read", "bad config line 1")


def test_without_git_nothing_can_be_looked_at(repo: Repository, tmp_path: Path) -> None:
    printed(repo.inv("release.branch", PATH=str(tmp_path)), 3, "git is not installed", "apt install git")


def test_a_hook_s_own_repository_is_not_taken_for_the_checkout(repo: Repository, tmp_path: Path) -> None:
    other = tmp_path / "other"
    repo.git("init", "-q", "-b", "main", str(other))
    variables = {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other), "GIT_INDEX_FILE": str(other / "index")}
    printed(repo.inv("release.branch", **variables), 0, "made from main")
    assert repo.git("branch", "--show-current") == BRANCH
    assert not list((other / ".git/refs/heads").iterdir())


def test_what_points_git_elsewhere_or_makes_it_speak_another_language_is_not_heeded(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a hook finds them, and as many desktops set LANGUAGE (gettext heeds it in C.UTF-8 too).
    for name in ("GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_NAMESPACE"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "1")
    monkeypatch.setenv("GH_REPO", "somebody/else")
    monkeypatch.setenv("LANGUAGE", "de")
    checkout = repo.checkout()
    assert read_local_state(checkout, [INDEX]).changed == {INDEX}
    assert read_remote_state(checkout).url == str(repo.remote)
    shown = checkout.run("sh", "-c", 'echo "$GH_REPO$LANGUAGE"')
    assert shown.stdout == "\n"


def test_where_the_system_refuses_to_look_it_is_said_so(on_branch: Repository) -> None:
    long = "x" * 300  # as with a folder that may not be entered, which keeps root out of nothing
    printed(on_branch.do("branch", INVOKE_RELEASE_REPOSITORY=long), 3, "cannot be looked at", "File name too long")
    printed(on_branch.do("commit-docs", INVOKE_RELEASE_DOCS=long), 3, "cannot be looked at", "File name too long")
    printed(on_branch.do("commit-index-backup", INVOKE_DATABASES_INDEX_SCRIPT=long), 3, "cannot be looked at")
    with pytest.raises(StepError, match="cannot be read"):
        read_script(on_branch.path / long)


def test_a_remote_that_cannot_be_read_from_the_configuration_is_not_taken_for_none(on_branch: Repository) -> None:
    (on_branch.path / ".git/config").write_text("[broken\n")
    with pytest.raises(CouldNotLookError, match="remote get-url"):
        read_remote_state(on_branch.checkout())


def test_subjects_are_read_as_utf_8_and_alone_whatever_is_configured(on_branch: Repository) -> None:
    on_branch.git("config", "i18n.logOutputEncoding", "ISO-8859-1")
    on_branch.git("config", "log.showSignature", "true")
    on_branch.git("commit", "-q", "--allow-empty", "-m", "feat: für alle")
    assert list(read_local_state(on_branch.checkout(), ()).commits) == ["feat: back up by cp", "feat: für alle"]


def test_a_file_that_is_a_link_is_committed_as_one(on_branch: Repository) -> None:
    (on_branch.path / "AGENTS.md").rename(on_branch.path / "CLAUDE.md")
    (on_branch.path / "AGENTS.md").symlink_to("CLAUDE.md")
    printed(on_branch.do("commit-docs"), 0, "committed: docs")
    assert read_local_state(on_branch.checkout(), ["AGENTS.md"]).changed == frozenset()
    printed(on_branch.do("commit-docs"), 0, "nothing to do")


def test_modes_count_only_where_git_heeds_them(on_branch: Repository) -> None:
    printed(on_branch.do("commit-docs"), 0, "committed: docs")
    (on_branch.path / "AGENTS.md").chmod(0o755)
    assert read_local_state(on_branch.checkout(), ["AGENTS.md"]).changed == {"AGENTS.md"}
    on_branch.git("config", "core.fileMode", "false")
    assert read_local_state(on_branch.checkout(), ["AGENTS.md"]).changed == frozenset()


def test_git_that_gives_no_answer_in_time_is_told_to_end_and_leaves_no_lock(on_branch: Repository) -> None:
    on_branch.hook("pre-commit", f"touch {shlex.quote(str(on_branch.path / 'begun'))}; exec sleep 600 >&- 2>&-")
    git = on_branch.checkout()
    with pytest.raises(CouldNotLookError, match="no answer within 5 s"):
        git.run("git", "commit", "--quiet", "--message=x", "--", INDEX, timeout=5)
    assert (on_branch.path / "begun").exists()
    assert not list((on_branch.path / ".git").glob("*.lock"))


def test_a_shallow_clone_does_not_say_what_is_not_in_the_base(on_branch: Repository, tmp_path: Path) -> None:
    for task in ("commit-index-backup", "commit-tracker-backup", "commit-docs"):
        printed(on_branch.do(task), 0)
    on_branch.git("push", "-q", "origin", f"{BRANCH}:main")
    on_branch.git("clone", "-q", "--depth", "1", on_branch.remote.as_uri(), str(tmp_path / "shallow"))
    checkout = replace(on_branch.checkout(), path=tmp_path / "shallow")
    assert read_remote_state(checkout).merged is None
    on_branch.git("fetch", "-q", "--unshallow", at=checkout.path)
    assert read_remote_state(checkout).merged is True


# --- branch ---------------------------------------------------------------------------------------------------------


def test_the_branch_is_made_from_the_base_and_what_is_changed_comes_along(repo: Repository) -> None:
    changed = repo.git("diff", "HEAD")
    printed(repo.do("branch"), 0, f"on the branch {BRANCH}, made from main")
    assert repo.git("branch", "--show-current") == BRANCH
    assert repo.git("rev-parse", BRANCH) == repo.git("rev-parse", "main")
    assert repo.git("diff", "HEAD") == changed
    assert (repo.path / "docs/backups.md").exists()
    assert repo.git("for-each-ref", "--format=%(upstream)", f"refs/heads/{BRANCH}") == ""


def test_the_branch_is_made_from_the_base_wherever_one_was(repo: Repository) -> None:
    repo.git("stash", "-q", "-u")
    repo.git("switch", "-q", "-c", "elsewhere")
    repo.commit("elsewhere.txt", "", "feat: something else")
    printed(repo.do("branch"), 0)
    assert repo.git("rev-parse", BRANCH) == repo.git("rev-parse", "main")


def test_on_the_branch_already_nothing_is_to_do(on_branch: Repository) -> None:
    before = on_branch.state
    printed(on_branch.do("branch"), 0, f"on the branch {BRANCH} already: nothing to do")
    assert on_branch.state == before


def test_from_a_detached_head_the_branch_is_made_from_the_base(repo: Repository) -> None:
    repo.git("switch", "-q", "--detach", "main")
    printed(repo.do("branch"), 0, "made from main")
    assert repo.git("branch", "--show-current") == BRANCH


def test_a_branch_that_is_here_is_checked_out_as_it_is(repo: Repository) -> None:
    repo.git("branch", BRANCH)
    repo.git("stash", "-q", "-u")
    newer = repo.commit("x.txt", "", "feat: newer")
    repo.git("stash", "pop", "-q")
    printed(repo.do("branch"), 0, f"on the branch {BRANCH}\n")
    assert repo.git("rev-parse", "HEAD") == repo.git("rev-parse", f"{newer}~")
    assert "cp $" not in (repo.path / INDEX).read_text()


def test_a_change_that_is_in_the_way_is_told_in_the_words_of_git_and_nothing_is_lost(repo: Repository) -> None:
    repo.git("stash", "-q", "-u")
    repo.git("switch", "-q", "-c", BRANCH)
    repo.commit(INDEX, "#!/bin/sh\n# of another day\n", "wip")
    repo.git("switch", "-q", "main")
    repo.git("stash", "pop", "-q")
    before = repo.state
    printed(repo.do("branch"), 1, "would be overwritten by checkout", INDEX, "commit or stash", "git switch")
    assert repo.state == before


def test_a_branch_that_is_on_the_remote_only_is_taken_from_there(repo: Repository) -> None:
    theirs = repo.by_somebody_else("theirs.txt", "x\n")
    printed(repo.do("branch"), 0, f"on the branch {BRANCH}, as it is on origin")
    assert repo.git("rev-parse", "HEAD") == theirs
    assert repo.git("branch", "--show-current") == BRANCH
    assert "cp $" not in (repo.path / INDEX).read_text()


def test_a_branch_of_the_remote_is_taken_also_by_a_clone_that_follows_its_base_alone(repo: Repository) -> None:
    theirs = repo.by_somebody_else("theirs.txt", "x\n")
    repo.git("config", "remote.origin.fetch", "+refs/heads/main:refs/remotes/origin/main")
    printed(repo.do("branch"), 0, "as it is on origin")
    assert repo.git("rev-parse", "HEAD") == theirs
    assert repo.git("branch", "--show-current") == BRANCH


def test_a_branch_that_is_here_and_on_the_remote_is_the_one_here(repo: Repository) -> None:
    repo.git("branch", BRANCH)
    theirs = repo.by_somebody_else("theirs.txt", "x\n")
    printed(repo.do("branch"), 0, f"on the branch {BRANCH}\n")
    assert repo.git("rev-parse", "HEAD") == repo.git("rev-parse", "main") != theirs


def test_the_branch_can_be_made_without_the_remote(repo: Repository) -> None:
    repo.remote.rename(repo.remote.with_name("gone"))
    printed(repo.do("branch"), 0, "made from main")
    assert repo.git("branch", "--show-current") == BRANCH


def test_where_the_base_is_not_here_the_one_that_was_last_seen_on_the_remote_is_taken(repo: Repository) -> None:
    repo.git("switch", "-q", "-c", "other")
    repo.git("branch", "-q", "-D", "main")
    printed(repo.do("branch"), 0, "made from main")
    assert repo.git("rev-parse", BRANCH) == repo.git("rev-parse", "origin/main")
    assert repo.git("for-each-ref", "--format=%(upstream)", f"refs/heads/{BRANCH}") == ""


@pytest.mark.parametrize("base", ["develop", "main"])
def test_without_a_base_there_is_nothing_to_start_from(place: Repository, base: str) -> None:
    done = place.do("branch", INVOKE_RELEASE_BASE=base)
    printed(done, 1, f"there is no branch {base} to start from, neither here nor on origin", "git fetch origin")


def test_a_name_that_git_does_not_allow_is_told_in_its_words(repo: Repository) -> None:
    printed(repo.do("branch", INVOKE_RELEASE_BRANCH="a..b"), 1, "is not a valid branch name")


# --- commit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "files"), [("index", [INDEX]), ("tracker", [TRACKER]), ("docs", ["AGENTS.md", "docs/backups.md"])]
)
def test_a_commit_takes_the_files_of_its_step_and_nothing_else(
    on_branch: Repository, part: str, files: list[str]
) -> None:
    (on_branch.path / "untracked.txt").write_text("x\n")
    task = "commit-docs" if part == "docs" else f"commit-{part}-backup"
    left = set(on_branch.git("status", "--porcelain", "-uall").splitlines())
    printed(on_branch.do(task), 0, f"committed: {MESSAGES[part]} ({' '.join(files)})")
    assert on_branch.files_of() == files
    assert on_branch.subject() == MESSAGES[part]
    assert on_branch.git("rev-parse", "HEAD~") == on_branch.git("rev-parse", "main")
    left -= {line for line in left if line[3:] in files}
    assert len(left) >= 3
    assert set(on_branch.git("status", "--porcelain", "-uall").splitlines()) == left


def test_a_script_is_committed_with_its_mode(on_branch: Repository) -> None:
    assert on_branch.git("ls-tree", "HEAD", INDEX).startswith("100755 ")
    printed(on_branch.do("commit-index-backup"), 0)
    assert on_branch.git("ls-tree", "HEAD", INDEX).startswith("100755 ")
    assert on_branch.git("show", f"HEAD:{INDEX}") + "\n" == (ROOT / INDEX).read_text()


def test_a_mode_alone_that_changed_is_a_change(on_branch: Repository) -> None:
    printed(on_branch.do("commit-index-backup"), 0)
    (on_branch.path / INDEX).chmod(0o644)
    printed(on_branch.do("commit-index-backup"), 0, "committed:")
    assert on_branch.git("ls-tree", "HEAD", INDEX).startswith("100644 ")


def test_what_is_committed_already_is_not_committed_again(on_branch: Repository) -> None:
    printed(on_branch.do("commit-index-backup"), 0)
    before = on_branch.state
    short = on_branch.git("rev-parse", "--short", "HEAD")
    printed(on_branch.do("commit-index-backup"), 0, f"committed already ({short}): nothing to do")
    assert on_branch.state == before


def test_what_was_committed_under_another_message_is_said_so(on_branch: Repository) -> None:
    on_branch.git("commit", "-q", "-m", "wip", "--", INDEX)
    before = on_branch.state
    printed(on_branch.do("commit-index-backup"), 1, "committed already, but not as", "git rebase", "release.commits")
    assert on_branch.state == before


@pytest.mark.parametrize("where", ["main", "other", "detached"])
def test_a_commit_is_refused_on_the_wrong_branch(repo: Repository, where: str) -> None:
    if where != "main":
        repo.git("switch", "-q", "--detach" if where == "detached" else "-c" + where)
    before = repo.state
    name = "a commit without a branch" if where == "detached" else where
    printed(repo.do("commit-index-backup"), 1, f"{name} is checked out, not {BRANCH}", "-> ./inv release.branch")
    assert repo.state == before


def test_a_commit_is_refused_while_other_files_are_staged(on_branch: Repository) -> None:
    for name in ("with a blank.txt", "ünï.txt"):
        (on_branch.path / name).write_text("x\n")
        on_branch.git("add", name)
    before = on_branch.state
    advice = "git restore --staged -- 'with a blank.txt' 'ünï.txt'"
    printed(on_branch.do("commit-index-backup"), 1, "other files are staged", "| with a blank.txt", advice)
    assert on_branch.state == before
    subprocess.run(["sh", "-c", advice], cwd=on_branch.path, env=on_branch.inv.environment, check=True)
    printed(on_branch.do("commit-index-backup"), 0)


@pytest.mark.parametrize("way", ["merge", "cherry-pick", "stash", "resolved"])
def test_in_the_middle_of_a_merge_nothing_is_committed_and_no_conflict_is_lost(on_branch: Repository, way: str) -> None:
    on_branch.git("add", "-A")
    on_branch.git("commit", "-q", "-m", "wip")
    on_branch.git("switch", "-q", "main")
    theirs = on_branch.commit("AGENTS.md", "# Theirs\n", "docs: theirs")
    on_branch.git("switch", "-q", BRANCH)
    (on_branch.path / "AGENTS.md").write_text("# Ours, stashed\n")
    on_branch.git("stash", "-q")
    on_branch.commit("AGENTS.md", "# Ours\n", "docs: ours")
    words = {"cherry-pick": ["cherry-pick", theirs], "stash": ["stash", "pop"]}.get(way, ["merge", "main"])
    with pytest.raises(subprocess.CalledProcessError):
        on_branch.git(*words)
    if way == "resolved":
        on_branch.git("add", "AGENTS.md")
    before = on_branch.git("ls-files", "--stage")
    assert ("AGENTS.md" in on_branch.git("ls-files", "--unmerged")) == (way != "resolved")
    for task in ("commit-docs", "commit-index-backup"):
        printed(on_branch.do(task), 1, "a merge is not finished", "git status")
    assert on_branch.git("ls-files", "--stage") == before


def test_a_file_that_is_staged_for_removal_is_staged_too(on_branch: Repository) -> None:
    on_branch.git("rm", "-q", "--cached", TRACKER)
    printed(on_branch.do("commit-index-backup"), 1, "other files are staged", TRACKER)


def test_what_is_staged_of_the_files_of_the_step_is_committed_as_it_is_in_the_work_tree(on_branch: Repository) -> None:
    on_branch.git("add", INDEX)
    script = on_branch.path / INDEX
    script.write_text(script.read_text() + "# more\n")
    printed(on_branch.do("commit-index-backup"), 0)
    assert on_branch.git("show", f"HEAD:{INDEX}").endswith("# more")
    assert INDEX not in on_branch.git("status", "--porcelain")


def test_a_file_that_is_missing_is_not_committed(on_branch: Repository) -> None:
    (on_branch.path / "docs/backups.md").unlink()
    before = on_branch.state
    printed(on_branch.do("commit-docs"), 1, "there is no docs/backups.md in")
    assert on_branch.state == before


def test_a_file_that_git_ignores_is_told_in_its_words(on_branch: Repository) -> None:
    (on_branch.path / ".git/info/exclude").write_text("docs\n")
    head = on_branch.git("rev-parse", "HEAD")
    printed(on_branch.do("commit-docs"), 1, "ignored by one of your .gitignore files")
    assert on_branch.git("rev-parse", "HEAD") == head


ODD = ["two  words.md", "it's.md", "-x.md", "ünï.md", "*.md", ":top.md", "[a].md", "$(id).md"]


def test_files_of_any_name_are_committed_and_those_alone(on_branch: Repository) -> None:
    for name in ODD:
        (on_branch.path / name).write_text(".backup\n")
    before = on_branch.git("status", "--porcelain", "AGENTS.md", "docs")
    docs = {"INVOKE_RELEASE_DOCS": shlex.join(ODD)}
    printed(on_branch.do("commit-docs", **docs), 0, "committed: ")
    assert sorted(on_branch.files_of()) == sorted(ODD)
    assert on_branch.git("status", "--porcelain", "AGENTS.md", "docs") == before
    printed(on_branch.do("commit-docs", **docs), 0, "nothing to do")


def test_a_hook_that_refuses_is_told_in_its_words_and_the_commit_can_be_tried_again(on_branch: Repository) -> None:
    head = on_branch.git("rev-parse", "HEAD")
    on_branch.hook("pre-commit", "echo 'no commits on a Friday' >&2; exit 1")
    printed(on_branch.do("commit-docs"), 1, "| no commits on a Friday", "git commit")
    assert on_branch.git("rev-parse", "HEAD") == head
    (on_branch.path / ".git/hooks/pre-commit").unlink()
    printed(on_branch.do("commit-docs"), 0)
    assert on_branch.files_of() == ["AGENTS.md", "docs/backups.md"]


def test_without_an_author_git_says_what_to_do(on_branch: Repository) -> None:
    for name in [name for name in GIT if name.startswith(("GIT_AUTHOR", "GIT_COMMITTER"))]:
        del on_branch.inv.environment[name]
    nobody = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "user.useConfigOnly", "GIT_CONFIG_VALUE_0": "true"}
    printed(on_branch.do("commit-index-backup", **nobody), 1, "tell me who you are", "git config --global user.email")
    assert on_branch.subject() == "feat: back up by cp"


# --- push -----------------------------------------------------------------------------------------------------------


def test_the_branch_is_pushed_and_nothing_else_and_once(on_branch: Repository) -> None:
    printed(on_branch.do("commit-index-backup"), 0)
    on_branch.git("branch", "another")
    on_branch.git("tag", "--annotate", "--message=of this maintainer's own", "mine")
    on_branch.git("config", "push.followTags", "true")
    main = on_branch.git("rev-parse", "main", at=on_branch.remote)
    printed(on_branch.do("push"), 0, f"pushed {BRANCH} to origin")
    heads = dict(line.split()[::-1] for line in on_branch.git("show-ref", at=on_branch.remote).splitlines())
    assert heads == {"refs/heads/main": main, f"refs/heads/{BRANCH}": on_branch.git("rev-parse", "HEAD")}
    assert on_branch.git("rev-parse", "--abbrev-ref", "@{upstream}") == f"origin/{BRANCH}"
    before = on_branch.state
    printed(on_branch.do("push"), 0, f"origin has it already ({on_branch.git('rev-parse', 'HEAD')[:7]}): nothing to do")
    assert on_branch.state == before


def test_the_branch_is_pushed_also_while_another_is_checked_out(on_branch: Repository) -> None:
    printed(on_branch.do("commit-index-backup"), 0)
    on_branch.git("stash", "-q", "-u")
    on_branch.git("switch", "-q", "main")
    printed(on_branch.do("push"), 0, "pushed")
    assert on_branch.git("rev-parse", BRANCH, at=on_branch.remote) == on_branch.git("rev-parse", BRANCH)


def test_a_branch_that_is_not_there_is_not_pushed(repo: Repository) -> None:
    printed(repo.do("push"), 1, f"there is no branch {BRANCH}", "-> ./inv release.branch")


def test_without_a_remote_it_is_said_how_to_add_one(on_branch: Repository) -> None:
    on_branch.git("remote", "remove", "origin")
    printed(on_branch.do("push"), 1, "there is no remote 'origin'", "git remote add origin URL")


def test_a_push_that_would_lose_commits_of_somebody_else_is_refused(on_branch: Repository) -> None:
    theirs = on_branch.by_somebody_else("theirs.txt", "x\n")
    printed(on_branch.do("commit-index-backup"), 0)
    printed(on_branch.do("push"), 1, "could not push", "[rejected]", f"git pull --rebase origin {BRANCH}")
    assert on_branch.git("rev-parse", BRANCH, at=on_branch.remote) == theirs
    # What it advises helps.
    on_branch.git("stash", "-q", "-u")
    on_branch.git("pull", "-q", "--rebase", "origin", BRANCH)
    printed(on_branch.do("push"), 0, "pushed")
    assert on_branch.git("rev-parse", f"{BRANCH}~", at=on_branch.remote) == theirs


def test_a_remote_that_refuses_a_push_is_told_in_its_words(on_branch: Repository) -> None:
    on_branch.hook("pre-receive", "echo 'this branch is protected' >&2; exit 1", at=on_branch.remote)
    printed(on_branch.do("commit-index-backup"), 0)
    before = on_branch.state
    printed(on_branch.do("push"), 1, "could not push", "this branch is protected", "pre-receive hook declined")
    assert on_branch.state == before


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 on which nobody listens, kept from others for the time of the test."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_a_remote_whose_folder_is_gone_could_not_be_looked_at(on_branch: Repository) -> None:
    on_branch.remote.rename(on_branch.remote.with_name("gone"))
    said = printed(
        on_branch.do("push"), 3, "the remote origin cannot be asked", "does not appear to be a git repository"
    )
    assert said.endswith(f"-> this must work first, in {on_branch.path}: git ls-remote origin")
    with pytest.raises(CouldNotLookError):
        read_remote_state(on_branch.checkout())


def test_a_remote_that_nobody_answers_for_could_not_be_looked_at(on_branch: Repository, closed_port: int) -> None:
    on_branch.git("remote", "set-url", "origin", f"ssh://git@127.0.0.1:{closed_port}/torrust/demo.git")
    printed(on_branch.do("push"), 3, "the remote origin cannot be asked", "Connection refused")


def test_a_branch_that_is_not_pushed_gets_no_pull_request(on_branch: Repository) -> None:
    with pytest.raises(StepError, match="is not on origin as it is here"):
        check_pushed(on_branch.checkout())
    printed(on_branch.do("push"), 0)
    check_pushed(on_branch.checkout())
    printed(on_branch.do("commit-index-backup"), 0)
    with pytest.raises(StepError, match="is not on origin as it is here"):
        check_pushed(on_branch.checkout())


# --- shown only -----------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_the_commands_and_changes_nothing(repo: Repository) -> None:
    before = repo.state
    shown = printed(
        repo.inv("release.branch", "--dry-run"), 0, f"would run in {repo.path}:", "git switch --no-track --create"
    )
    assert repo.state == before
    line = shown.splitlines()[1].strip()
    subprocess.run(["sh", "-c", line], cwd=repo.path, env=repo.inv.environment, check=True, capture_output=True)

    before = repo.state
    printed(
        repo.inv("release.commit-docs", "--dry-run"),
        0,
        f"git commit --quiet '--message={MESSAGES['docs']}' -- AGENTS.md",
    )
    printed(repo.inv("release.push", "--dry-run"), 0, "git push --quiet --no-follow-tags --set-upstream -- origin")
    assert repo.state == before


def test_a_dry_run_of_a_branch_on_the_remote_fetches_nothing(repo: Repository) -> None:
    repo.by_somebody_else("theirs.txt", "x\n")
    before = repo.state
    printed(repo.do("branch", "--dry-run"), 0, "git fetch -- origin")
    assert repo.state == before


def test_a_dry_run_refuses_what_would_be_refused(repo: Repository) -> None:
    printed(repo.do("commit-index-backup", "--dry-run"), 1, "main is checked out")


# --- what is seen of it ---------------------------------------------------------------------------------------------

RELEASED = (*SCRIPTS, *DOCS)


def test_what_is_here_is_seen_before_there_is_a_branch(repo: Repository) -> None:
    seen = read_local_state(repo.checkout(), RELEASED)
    short = repo.git("rev-parse", "--short", "main")
    assert seen == LocalState("main", None, {"feat: back up by cp": short}, frozenset(RELEASED))


def test_what_is_here_is_seen_by_the_branch_whatever_is_checked_out(on_branch: Repository) -> None:
    printed(on_branch.do("commit-index-backup"), 0)
    commit = on_branch.git("rev-parse", "HEAD")
    on_branch.git("stash", "-q", "-u")
    on_branch.git("switch", "-q", "--detach", "main")
    seen = read_local_state(on_branch.checkout(), [INDEX, TRACKER])
    assert (seen.current, seen.branch, seen.changed) == (None, commit, frozenset({INDEX}))
    assert seen.commits[MESSAGES["index"]] == on_branch.git("rev-parse", "--short", commit)


def test_of_commits_of_one_subject_the_newest_is_named(on_branch: Repository) -> None:
    for text in "ab":
        on_branch.commit("x.txt", text, "feat: again")
    newest = on_branch.git("rev-parse", "--short", "HEAD")
    assert subjects(on_branch.checkout(), BRANCH)["feat: again"] == newest


def test_a_repository_without_a_commit_has_nothing(place: Repository) -> None:
    assert read_local_state(place.checkout(), ["x"]) == LocalState("main", None, {}, frozenset())


def test_what_is_on_the_remote_is_seen(on_branch: Repository) -> None:
    assert read_remote_state(on_branch.checkout()) == RemoteState(str(on_branch.remote), None, False)
    printed(on_branch.do("push"), 0)
    commit = on_branch.git("rev-parse", "HEAD")
    assert read_remote_state(on_branch.checkout()) == RemoteState(str(on_branch.remote), commit, False)
    on_branch.git("remote", "remove", "origin")
    assert read_remote_state(on_branch.checkout()) == RemoteState(None)


def test_a_release_is_merged_when_all_of_its_commits_are_in_the_base(on_branch: Repository) -> None:
    for task in ("commit-index-backup", "commit-tracker-backup"):
        printed(on_branch.do(task), 0)
    on_branch.git("push", "-q", "origin", f"{BRANCH}:main")
    assert read_remote_state(on_branch.checkout()).merged is False
    printed(on_branch.do("commit-docs"), 0)
    on_branch.git("push", "-q", "origin", f"{BRANCH}:main")
    assert read_remote_state(on_branch.checkout()).merged is True


def test_of_a_base_that_is_newer_than_here_it_is_not_known_what_is_in_it(repo: Repository) -> None:
    repo.by_somebody_else("theirs.txt", "x\n", branch="main")
    assert read_remote_state(repo.checkout()).merged is None
    repo.git("fetch", "-q")
    assert read_remote_state(repo.checkout()).merged is False


def test_another_release_has_its_own_names(repo: Repository) -> None:
    repo.git("branch", "-m", "main", "develop")
    repo.git("remote", "rename", "origin", "upstream")
    own = {
        "INVOKE_RELEASE_BASE": "develop",
        "INVOKE_RELEASE_REMOTE": "upstream",
        "INVOKE_RELEASE_BRANCH": "next/one",
        "INVOKE_RELEASE_COMMITS_INDEX": 'feat: it\'s "another" $(one) #1',
    }
    printed(repo.inv("release.branch", **own), 0, "on the branch next/one, made from develop")
    printed(repo.inv("release.commit-index-backup", **own), 0)
    printed(repo.inv("release.push", **own), 0, "pushed next/one to upstream")
    assert (
        repo.git("show", "--no-patch", "--format=%s", "next/one", at=repo.remote) == 'feat: it\'s "another" $(one) #1'
    )
