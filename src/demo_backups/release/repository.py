"""The git checkout being released: its branch, its commits, and what is on the remote, by git itself."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import stat
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CouldNotLookError, SettingsError, StepError
from ..remote.host import Result
from ..settings import ReleaseSettings, Settings

TIMEOUT = 60  # seconds, for a question
GRACE = 5  # seconds, for one that is told to end
CHANGE_TIMEOUT = 600  # for what changes something: the hooks of a commit or a push may run all tests of a project
# What points git and gh at another repository, or has them speak another language.
NOT_OURS = {
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"),
    *(f"GIT_{kind}_PATHSPECS" for kind in ("LITERAL", "GLOB", "NOGLOB", "ICASE")),
    *("GH_REPO", "LANGUAGE"),
}


@dataclass(frozen=True)
class Checkout:
    """A git checkout, and the release that is made in it."""

    path: Path
    release: ReleaseSettings

    def run(self, *words: str, timeout: int = TIMEOUT, given: str | None = None) -> Result:
        """Run git or gh in the checkout; `given` goes to its standard input.

        Nothing is asked where there is no terminal. Raises CouldNotLookError where it is not installed or gives no
        answer in time: then it is told to end, so that it can take its lock files with it.
        """
        try:
            with subprocess.Popen(
                words,
                cwd=self.path,
                env=_environment(),
                stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="surrogateescape",
            ) as process:
                try:
                    stdout, stderr = process.communicate(given, timeout)
                except BaseException:
                    process.terminate()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(GRACE)
                    process.kill()
                    raise
        except FileNotFoundError as error:
            raise CouldNotLookError(
                f"{words[0]} is not installed", advice="install it. Debian and Ubuntu: sudo apt install " + words[0]
            ) from error
        except OSError as error:
            raise CouldNotLookError(f"{words[0]} cannot be run", output=str(error)) from error
        except subprocess.TimeoutExpired as error:
            raise CouldNotLookError(f"no answer within {timeout} s: {shlex.join(words)}") from error
        return Result(process.returncode, stdout, stderr)

    def query(self, *words: str, given: str | None = None) -> str:
        """Ask git something; raises CouldNotLookError unless it answers."""
        result = self.run("git", *words, given=given)
        if not result.ok:
            raise CouldNotLookError(f"could not look: {shlex.join(['git', *words])}", output=result.output)
        return result.stdout


def _environment() -> dict[str, str]:
    # Of the repository that a hook or another tool is at work in, nothing.
    kept = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    terminal = {} if os.isatty(0) else {"GIT_TERMINAL_PROMPT": "0"}
    return kept | {"LC_ALL": "C.UTF-8", "GH_PROMPT_DISABLED": "1", "NO_COLOR": "1"} | terminal


def open_checkout(settings: Settings) -> Checkout:
    """Find the checkout that is released; raises SettingsError where it is none, CouldNotLookError without git."""
    path = settings.repository
    advice = "set release.repository (INVOKE_RELEASE_REPOSITORY) to the top of the checkout that is released"
    try:
        is_there = path.is_dir()
    except OSError as error:
        raise CouldNotLookError(f"{path} cannot be looked at", output=str(error), advice=advice) from error
    if not is_there:
        raise SettingsError(f"there is no folder {path}", advice=advice)
    checkout = Checkout(path, settings.release)
    top = checkout.run("git", "rev-parse", "--show-toplevel")
    if top.ok and Path(top.stdout.rstrip("\n")).samefile(path):
        return checkout
    if top.ok or re.search("not a git repository|must be run in a work tree", top.stderr):
        raise SettingsError(f"{path} is not the top of a git repository", output=top.output, advice=advice)
    raise CouldNotLookError(f"git does not read {path}", output=top.output)


def commit_part(settings: Settings, name: str) -> tuple[tuple[str, ...], str]:
    """The files of a commit of the release (`index`, `tracker`, `docs`), and its message."""
    files = settings.release.docs if name == "docs" else (str(settings.database_settings(name).script),)
    return files, str(getattr(settings.release.commits, name))


# --- what is here ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LocalState:
    """What the checkout says: the branch it is on (None: a commit without one), and what is committed.

    `branch` is the commit of the release's branch, None where there is none. `commits` are the subjects on it,
    or on the base where it is not there, each with its commit. `changed` are the files of the release that differ from
    what is committed there.
    """

    current: str | None
    branch: str | None
    commits: Mapping[str, str]
    changed: frozenset[str]


def read_local_state(checkout: Checkout, files: Iterable[str]) -> LocalState:
    """Look at the checkout, and at those of its files that the release has; raises CouldNotLookError."""
    current = checkout.run("git", "symbolic-ref", "--quiet", "--short", "HEAD")
    branch = _commit(checkout, f"refs/heads/{checkout.release.branch}")
    base = branch or _commit(checkout, _base(checkout))
    modes = _compares_modes(checkout)
    changed = frozenset(
        file
        for file in files
        if _differ(_committed_entry(checkout, base, file), _working_tree_entry(checkout, file), modes)
    )
    return LocalState(current.stdout.strip() or None, branch, subjects(checkout, base) if base else {}, changed)


def subjects(checkout: Checkout, commit: str) -> dict[str, str]:
    """The subjects of the commits that lead to one, each with the newest commit that has it, in short."""
    # Said in full: log.showSignature adds lines of its own, and i18n.logOutputEncoding other bytes.
    words = ("log", "--no-show-signature", "--encoding=UTF-8", "--format=%h %s", commit, "--")
    newest_first = (line.split(" ", 1) for line in checkout.query(*words).split("\n")[:-1])
    return {subject: short for short, subject in reversed(list(newest_first))}


def _commit(checkout: Checkout, name: str | None) -> str | None:
    """The commit that a name stands for, None where git knows none."""
    found = checkout.run("git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") if name else None
    return found.stdout.strip() if found and found.ok else None


def _base(checkout: Checkout) -> str | None:
    """The reference of the base branch: the one here, else the one last seen on the remote."""
    release = checkout.release
    names = (f"refs/heads/{release.base}", f"refs/remotes/{release.remote}/{release.base}")
    return next((name for name in names if _commit(checkout, name)), None)


def _compares_modes(checkout: Checkout) -> bool:
    """Tell whether the modes of the work tree's files count: some disks have none (git-config(1), core.fileMode)."""
    return checkout.run("git", "config", "--type=bool", "core.fileMode").stdout.strip() != "false"


def _committed_entry(checkout: Checkout, commit: str | None, file: str) -> tuple[str, str] | None:
    """Mode and object of a file as committed."""
    listed = checkout.query("ls-tree", "-z", commit, "--", _pathspec(file)) if commit else ""
    mode, _, rest = listed.partition(" blob ")
    return (mode, rest.split("\t")[0]) if rest else None


def _differ(there: tuple[str, str] | None, here: tuple[str, str] | None, modes: bool) -> bool:
    """Compare a file as committed and as it is here, each a mode and an object; with `modes`, by the mode too."""
    return there != here if modes or there is None or here is None else there[1] != here[1]


def _pathspec(file: str) -> str:
    """A file as a word of git that stands for nothing else, whatever its name (gitglossary(7), pathspec)."""
    return f":(literal){file}" if re.search(r"^:|[*?\[\\]", file) else file


def _working_tree_entry(checkout: Checkout, file: str) -> tuple[str, str] | None:
    """Mode and object of a file of the work tree, as they would be committed."""
    path = checkout.path / file
    try:
        if path.is_symlink():  # it is committed itself, not what it leads to
            return "120000", checkout.query("hash-object", "--stdin", given=str(path.readlink())).strip()
        if not path.is_file():
            return None
        mode = "100755" if path.stat().st_mode & stat.S_IXUSR else "100644"
    except OSError as error:
        raise CouldNotLookError(f"{path} cannot be looked at", output=str(error)) from error
    return mode, checkout.query("hash-object", f"--path={file}", "--", file).strip()


# --- what is on the remote ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RemoteState:
    """What the remote says: its address (None: there is no such remote), and its commits of branch and base.

    `merged` tells whether all commits of the release are on its base; None where not all of that is here.
    """

    url: str | None
    branch: str | None = None
    merged: bool | None = False


def read_remote_state(checkout: Checkout) -> RemoteState:
    """Ask the remote; raises CouldNotLookError where it cannot be asked."""
    release, url = checkout.release, remote_address(checkout)
    if url is None:
        return RemoteState(None)
    names = [f"refs/heads/{name}" for name in (release.branch, release.base)]
    answer = checkout.run("git", "ls-remote", "--", release.remote, *names)
    if not answer.ok:
        raise CouldNotLookError(
            f"the remote {release.remote} cannot be asked",
            output=answer.output,
            advice=f"this must work first, in {checkout.path}: git ls-remote {release.remote}",
        )
    commits = {name: commit for commit, name in (line.split("\t") for line in answer.stdout.splitlines())}
    branch, base = (commits.get(name) for name in names)
    return RemoteState(url, branch, _is_merged(checkout, base) if base else False)


def _is_merged(checkout: Checkout, base: str) -> bool | None:
    """Tell whether all commits of the release lead to the remote's base; None where not all of those are here."""
    if not _commit(checkout, base):
        return None
    if set(checkout.release.commits.model_dump().values()) <= set(subjects(checkout, base)):
        return True
    return None if checkout.query("rev-parse", "--is-shallow-repository").strip() == "true" else False


def remote_address(checkout: Checkout) -> str | None:
    """The address of the remote, None where there is no such remote."""
    words = ("remote", "get-url", "--", checkout.release.remote)
    result = checkout.run("git", *words)
    if not result.ok and "No such remote" in result.stderr:
        return None
    return checkout.query(*words).strip()


# --- what is done ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What a step would do: commands, to be run in order, and the words to say when they are done.

    Without commands there is nothing to do, and the words say why.
    """

    what: str
    done: str
    commands: list[list[str]] = field(default_factory=list)
    advice: str = ""
    given: str | None = None  # to their standard input


def apply(checkout: Checkout, change: Change) -> None:
    """Do it, to the first command that fails; raises StepError."""
    for words in change.commands:
        result = checkout.run(*words, timeout=CHANGE_TIMEOUT, given=change.given)
        if not result.ok:
            raise StepError(f"could not {change.what}: {shlex.join(words)}", output=result.output, advice=change.advice)


def plan_branch(checkout: Checkout) -> Change:
    """Say how to get onto the release's branch: it is made from the base, unless it is there, here or on the remote."""
    release = checkout.release
    what, here = f"get onto the branch {release.branch}", read_local_state(checkout, ())
    if here.current == release.branch:
        return Change(what, f"on the branch {release.branch} already: nothing to do")
    advice = "see to that (git status), commit or stash what is in the way, and do this again"
    if here.branch:
        return Change(what, f"on the branch {release.branch}", [["git", "switch", "--", release.branch]], advice)
    remote = f"{release.remote}/{release.branch}"
    try:
        is_there = read_remote_state(checkout).branch
    except CouldNotLookError:
        is_there = None  # a push will tell: it is refused where the two do not go together
    if is_there:
        fetch = f"+refs/heads/{release.branch}:refs/remotes/{remote}"
        commands = [
            ["git", "fetch", "--", release.remote, fetch],
            ["git", "switch", "--no-track", "--create", release.branch, f"refs/remotes/{remote}"],
        ]
        return Change(what, f"on the branch {release.branch}, as it is on {release.remote}", commands, advice)
    base = _base(checkout)
    if base is None:
        raise StepError(
            f"there is no branch {release.base} to start from, neither here nor on {release.remote}",
            advice=f"git fetch {release.remote}, or set release.base",
        )
    commands = [["git", "switch", "--no-track", "--create", release.branch, base]]
    return Change(what, f"on the branch {release.branch}, made from {release.base}", commands, advice)


def plan_commit(checkout: Checkout, files: Iterable[str], message: str) -> Change:
    """Say how to commit the files of a step and nothing else; raises StepError where that could not go well."""
    release, files = checkout.release, list(files)
    here = read_local_state(checkout, files)
    if here.current != release.branch:
        raise StepError(
            f"{here.current or 'a commit without a branch'} is checked out, not {release.branch}",
            advice="./inv release.branch",
        )
    _check_no_unfinished_merge(checkout)
    missing = [file for file in files if not (checkout.path / file).is_file()]
    if missing:
        raise StepError(f"there is no {', '.join(missing)} in {checkout.path}")
    names = shlex.join(files)
    if not here.changed:
        if message in here.commits:
            return Change("commit", f"committed already ({here.commits[message]}): nothing to do")
        raise StepError(
            f"{names}: committed already, but not as {message!r}",
            advice="give the commit that message (git rebase --interactive), or change it in release.commits",
        )
    staged = checkout.query("diff", "--cached", "--name-only", "-z").split("\0")[:-1]
    others = [file for file in staged if file not in files]
    if others:
        raise StepError(
            "other files are staged, and this commit is not theirs",
            output="\n".join(others),
            advice=f"git restore --staged -- {shlex.join(map(_pathspec, others))}",
        )
    paths = [_pathspec(file) for file in files]
    commands = [
        ["git", "add", "--intent-to-add", "--", *paths],  # a new file has no name yet that a commit could take
        ["git", "commit", "--quiet", f"--message={message}", "--", *paths],
    ]
    return Change("commit", f"committed: {message} ({names})", commands)


def _check_no_unfinished_merge(checkout: Checkout) -> None:
    """Raise StepError in the middle of a merge: git makes no commit of some files then, and `add` ends conflicts."""
    unmerged = checkout.query("diff", "--name-only", "--diff-filter=U", "-z").split("\0")[:-1]
    if unmerged or _commit(checkout, "MERGE_HEAD") or _commit(checkout, "CHERRY_PICK_HEAD"):
        raise StepError(
            "a merge is not finished, and this commit is not a part of it",
            output="\n".join(unmerged),
            advice="git status says how to finish it, or to abort it; then do this again",
        )


def plan_push(checkout: Checkout) -> Change:
    """Say how to push the branch; raises StepError where there is none, or no remote; never by force."""
    release = checkout.release
    here, there = read_local_state(checkout, ()), read_remote_state(checkout)
    if here.branch is None:
        raise StepError(f"there is no branch {release.branch}", advice="./inv release.branch")
    if there.url is None:
        raise StepError(
            f"there is no remote {release.remote!r}",
            advice=f"git remote add {release.remote} URL, or set release.remote",
        )
    if here.branch == there.branch:
        return Change("push", f"{release.remote} has it already ({here.branch[:7]}): nothing to do")
    reference = f"refs/heads/{release.branch}"
    flags = ["--quiet", "--no-follow-tags", "--set-upstream"]  # whatever push.followTags says
    return Change(
        "push",
        f"pushed {release.branch} to {release.remote}",
        [["git", "push", *flags, "--", release.remote, f"{reference}:{reference}"]],
        advice="if somebody else pushed to it, take that in first: "
        f"git pull --rebase {release.remote} {shlex.quote(release.branch)}",
    )


def check_pushed(checkout: Checkout) -> None:
    """See that the branch is on the remote as it is here; raises StepError where it is not."""
    here, there = read_local_state(checkout, ()), read_remote_state(checkout)
    if here.branch is None or here.branch != there.branch:
        raise StepError(
            f"{checkout.release.branch} is not on {checkout.release.remote} as it is here", advice="./inv release.push"
        )
