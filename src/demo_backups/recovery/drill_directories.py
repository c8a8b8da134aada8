"""The directories of a restore drill: where the backup is restored to, and where root may write for it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..backup.disk_space import SpaceDemand, find_inode_shortages, find_shortages, read_disks
from ..errors import DrillError, StepError, UnsafePathError
from ..remote.answers import parse_count, parse_line, parse_yes_no
from ..remote.files import stat_file
from ..remote.host import Host
from ..remote.shell import quote
from ..remote.upload_part import PREFIX
from ..settings.model import Database
from ..sqlite.inspect import parse_real_path
from ..units import format_short_size

DEFAULT_DIR = ".demo-backups/drill"  # in the home directory of the login user
UNSAFE = 77  # exit status of `directory_command`, after sysexits.h


@dataclass(frozen=True)
class Login:
    """The login user on a host."""

    uid: int
    gid: int
    name: str
    home: PurePosixPath
    path: str


def login_command() -> str:
    """Build the command that prints the user who runs it, with home directory and PATH."""
    return 'id -u; id -g; id -un; printf "%s\\n" "$HOME" "$PATH"'


def parse_login(output: str) -> Login:
    """Parse what `login_command` printed; raises ValueError."""
    uid, gid, name, home, path = (parse_line(f"{line}\n") for line in output.removesuffix("\n").split("\n"))
    if not home.startswith("/"):
        raise ValueError(f"{home!r} is not a home directory")
    return Login(parse_count(uid), parse_count(gid), name, PurePosixPath(home), path)


def directory_command(directory: PurePosixPath) -> str:
    """Build the command that creates the directory of the drills, for its user only, and prints its real path.

    Exits UNSAFE if it belongs to another user, or if others can write to it.
    """
    return "\n".join(
        [
            f"set -eu; umask 077; mkdir -p -- {quote(directory)}; cd -- {quote(directory)}",
            '[ -n "$(find . -maxdepth 0 -uid "$(id -u)" ! -perm /022)" ] || {',
            f'  echo "it belongs to $(stat -c %U .), mode $(stat -c %a .)" >&2; exit {UNSAFE}; }}',
            "pwd -P",
        ]
    )


def places_command(candidate: PurePosixPath, directory: PurePosixPath, source: PurePosixPath) -> str:
    """Build the command that prints where root can restore to, and what is to be known about the directory `source`.

    It prints, on a line each: the first directory on the disk of `directory` in which only root can put a file, or
    nothing; `yes` if `source` is on the same disk, else `no`; and `yes` if only root can put a file into it or replace
    it. The candidate is tried, and then the directories above `directory`, the nearest first.
    """
    return "\n".join(
        [
            "set -eu",
            # In a directory such as /tmp (sticky), nobody can replace what root has put there.
            "only_root() { path=$1 sticky=$2",
            '  while [ -n "$(find "$path" -maxdepth 0 -type d -uid 0 \\( ! -perm /022 -o -perm "$sticky" \\))" ]; do',
            '    [ "$path" != / ] || return 0; path=$(dirname -- "$path") sticky=-1000',
            "  done; return 1; }",
            'device() { stat -c %d -- "$1"; }',
            'answer() { if "$@"; then echo yes; else echo no; fi; }',
            f"source=$(realpath -e -- {quote(source)}); device=$(device {quote(directory)})",
            f"set -- {quote(candidate)}; path={quote(directory)}",
            'while [ "$path" != / ]; do path=$(dirname -- "$path"); set -- "$@" "$path"; done',
            "found=",
            "for parent; do",
            '  parent=$(realpath -e -- "$parent") || continue',
            '  if [ "$(device "$parent")" = "$device" ] && only_root "$parent" -1000; then found=$parent; break; fi',
            "done",
            'printf "%s\\n" "$found"',
            'answer [ "$(device "$source")" = "$device" ]',
            'answer only_root "$source" -7777',
        ]
    )


@dataclass(frozen=True)
class Places:
    """What `places_command` prints."""

    parent: PurePosixPath | None
    same_disk: bool
    only_root: bool


def parse_places(output: str) -> Places:
    """Parse what `places_command` printed; raises ValueError."""
    parent, same_disk, only_root, rest = output.split("\n")
    if rest or not (parent.startswith("/") or not parent):
        raise ValueError("not a directory and two answers")
    answers = [parse_yes_no(f"{answer}\n") for answer in (same_disk, only_root)]
    return Places(PurePosixPath(parent) if parent else None, answers[0], answers[1])


def link_trial_command(backup: PurePosixPath, link: PurePosixPath) -> str:
    """Build the command that prints `yes` if this user can create a hard link to a backup, else `no`."""
    create = f"ln --physical --force --no-target-directory -- {quote(backup)} {quote(link)}"
    return f"if {create} 2>/dev/null; then rm -f -- {quote(link)}; echo yes; else echo no; fi"


@dataclass(frozen=True)
class Scratch:
    """Where a drill restores to.

    `run` is the directory of the login user, in which everything is checked, below `directory`. `work` is the one in
    which the restore writes. If root restores for the login user, it is one to which only root can write; otherwise it
    is `run`. `link` is a second name for the backup, from which it is restored; None if it is restored from its own.
    With `copies`, it is a copy: this login can read the backup, and cannot create a link to it.
    """

    host: Host
    login: Login
    directory: PurePosixPath
    run: PurePosixPath
    work: PurePosixPath
    link: PurePosixPath | None
    copies: bool = False


def _scratch_name(database: Database) -> str:
    place = hashlib.sha256(f"{database.name} {database.backup_dir}".encode()).hexdigest()[:8]
    return f"{re.sub('[^A-Za-z0-9_-]', '_', database.name)}-{place}"


def upload_dir(directory: PurePosixPath, database: Database) -> PurePosixPath:
    """Return the directory, below that of the drills, to which a backup is uploaded."""
    return directory / f"{_scratch_name(database)}-upload"


def prepare_directory(host: Host, directory: PurePosixPath | None) -> tuple[Login, PurePosixPath]:
    """Create the directory of the drills, as the login user; return that user and the real path.

    Raises UnsafePathError where another user could interfere, StepError, and CouldNotLookError.
    """
    as_login = host.as_login()
    login = as_login.query_parsed("see who the login user is", login_command(), parse_login)
    return login, _create_directory(as_login, login, directory or login.home / DEFAULT_DIR)


def prepare_scratch(
    host: Host, database: Database, login: Login, directory: PurePosixPath, backup: PurePosixPath
) -> Scratch:
    """Decide where the restore of a backup writes.

    Raises UnsafePathError where another user could interfere, and CouldNotLookError.
    """
    source = backup.parent
    action = f"find a directory for root on the disk of {directory}"
    places = host.query_parsed(action, places_command(database.backup_dir, directory, source), parse_places)
    run = directory / _scratch_name(database)
    work = run
    if host.use_sudo and login.uid != 0:
        if places.parent is None:
            raise UnsafePathError(
                f"refused: on the disk of {directory} there is no directory to which only root can write",
                host=host.name,
                advice=f"set drill_dir (INVOKE_DRILL_DIR) to a directory of {login.name} in one that belongs to root",
            )
        if not places.same_disk and not places.only_root:
            raise UnsafePathError(
                f"refused: root would read a backup in {source}, which others than root can replace, for {login.name}",
                host=host.name,
                advice="set drill_dir to a directory on the disk of the backup (INVOKE_DRILL_DIR)",
            )
        work = places.parent / f".demo-backups-drill-{run.name}"
    link = None
    if places.same_disk:
        link = work / ".backup.db"
    elif source == database.backup_dir:
        link = source / f".drill.{database.backup_prefix.rstrip('_')}.db"
    if work == run and not _can_link(host, backup, directory if places.same_disk else source):
        return Scratch(host, login, directory, run, work, work / ".backup.db", copies=True)
    return Scratch(host, login, directory, run, work, link)


def _can_link(host: Host, backup: PurePosixPath, directory: PurePosixPath) -> bool:
    """Find out whether a hard link to a backup can be created in a directory.

    The kernel may refuse it to a login that can only read the backup (fs.protected_hardlinks, proc(5)), and between two
    mounts of the same disk.
    """
    command = link_trial_command(backup, directory / f".link-trial.{backup.name}")
    return host.query_parsed(f"find out whether {backup} can be linked", command, parse_yes_no)


def _create_directory(as_login: Host, login: Login, directory: PurePosixPath) -> PurePosixPath:
    action = f"create the directory of the drills, {directory}"
    result = as_login.run(action, directory_command(directory))
    advice = f"as root on the host: install -d -m 700 -o {quote(login.name)} {quote(directory)}"
    if result.status == UNSAFE:
        raise UnsafePathError(
            f"refused: the directory of the drills, {directory}, is not that of {login.name} alone",
            host=as_login.name,
            output=result.output,
            advice=f"{advice}; or set drill_dir to another one",
        )
    if not result.ok:
        if "Permission denied" not in result.output:
            advice = as_login.advise(result) or advice
        raise StepError(f"could not {action}", host=as_login.name, output=result.output, advice=advice)
    return as_login.parse(action, result.stdout, parse_real_path)


def require_space(scratch: Scratch, size: int, floor: int) -> None:
    """Raise DrillError if there is too little space for so many bytes, and again as many if the backup is copied."""
    if scratch.copies:
        size *= 2
    disk, _, state = read_disks(scratch.host, scratch.work.parent, scratch.directory)
    demands = [SpaceDemand(disk, size, "the restored database"), SpaceDemand(state, 0, "the state of the job")]
    problems = [
        f"{format_short_size(shortage.bytes)} more needed on {shortage.mount} (for {shortage.purpose})"
        for shortage in find_shortages(demands, floor)
    ]
    problems += [
        f"not enough free inodes on {demand.disk.mount} (see df -i)" for demand in find_inode_shortages(demands)
    ]
    if problems:
        raise DrillError(
            "the drill was not started",
            host=scratch.host.name,
            output="\n".join(problems),
            advice="free space, or set drill_dir to a directory on another disk (INVOKE_DRILL_DIR)",
        )


# --- the upload of a fetched backup ---------------------------------------------------------------------------------


def create_upload_dir(host: Host, folder: PurePosixPath) -> None:
    """Create the directory of an upload, as the login user; raises StepError."""
    host.execute(f"create {folder}", f"umask 077; mkdir -p -- {quote(folder)}")


def missing_bytes(host: Host, target: PurePosixPath, size: int) -> int:
    """Return how many bytes of an upload of this size are not on the host yet."""
    parts = [stat_file(host, path) for path in (target, target.with_name(PREFIX + target.name))]
    return max(0, size - max((part.bytes for part in parts if part), default=0))
