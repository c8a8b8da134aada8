"""Whether all processes that use a database use the same `-wal` and `-journal` next to it.

SQLite finds these files by the path of the database. A process that sees the database in another directory or under
another name, because of a hard link or of a single file that is mounted into its container, has files of its own: its
commits are missing in a backup, and are lost with its container (howtocorrupt.html, sections 2.4 and 2.5).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

from ..errors import CouldNotLookError, JournalModeError, Problem
from ..remote.answers import END, parse_count, parse_list
from ..remote.host import Host
from ..remote.processes import (
    HIDDEN_ADVICE,
    LockHolder,
    Process,
    describe_process,
    lock_holders_command,
    parse_lock_holders,
    parse_processes,
    processes_with_open_loop,
)
from ..remote.shell import quote
from ..settings.model import Database
from .command import sidecar_path

T = TypeVar("T")
DELETED = "//deleted"  # after the root of a mount whose file was deleted
SHOWN_PROCESSES = 3  # that see one mount
SHOWN_CHARACTERS = 40  # of the command of a process
MOUNT_ADVICE = "stop its service, mount the directory of the database into the container, not the file, and start it"
LINK_ADVICE = "remove the other hard links, after all services that use them have ended"
DELETED_ADVICE = "restart the service: until then, what it writes is in no backup, and is lost when it ends"
WAL_ADVICE = "stop the service, so that it writes its -wal back to the database, and start it again"


@dataclass(frozen=True)
class FileMount:
    """A mount of the database as a single file: its id, and its path in the mount namespaces that have it."""

    id: int
    path: str
    deleted: bool = False


@dataclass(frozen=True)
class Sharing:
    """How the processes of a host see a database.

    `links` is the number of its hard links. `mounts` are the mounts of it as a single file, with the processes that see
    each. `deleted` are the processes that have a deleted file of the same name open: the database was replaced while
    they were running. `other_wal` are the processes that have it and another `-wal` open. `hidden` are the ids of
    processes in WAL mode of which this user cannot tell that; `sees_all` is False where the mounts of other users'
    processes cannot be read at all.
    """

    links: int
    mounts: Sequence[tuple[FileMount, Sequence[Process]]]
    deleted: Sequence[Process]
    other_wal: Sequence[Process]
    hidden: Sequence[int]
    sees_all: bool

    @property
    def problems(self) -> list[Problem]:
        """The ways in which processes use other files than those next to the database."""
        problems = []
        if self.links > 1:
            problems.append(Problem(f"it has {self.links} hard links: each name has a -wal of its own", LINK_ADVICE))
        problems += [Problem(_describe_mount(mount, processes), MOUNT_ADVICE) for mount, processes in self.mounts]
        problems += [
            Problem(f"{_name_process(process)} writes to a deleted file in its place", DELETED_ADVICE)
            for process in self.deleted
        ]
        named = {process.pid for _, processes in self.mounts for process in processes}
        others = [process for process in self.other_wal if process.pid not in named]
        problems += [Problem(f"{_name_process(process)} uses another -wal", WAL_ADVICE) for process in others]
        return problems

    @property
    def unknown(self) -> str:
        """What could not be read; empty if nothing is missing."""
        if not self.sees_all:
            return "this user cannot see the processes of other users: one may use another -wal"
        if self.hidden:
            processes = ", ".join(str(pid) for pid in self.hidden)
            return f"this user cannot see which -wal these processes use: {processes}"
        return ""


def _describe_mount(mount: FileMount, processes: Sequence[Process]) -> str:
    state = ", which was deleted or replaced since" if mount.deleted else ""
    shown = "; ".join(_name_process(process) for process in processes[:SHOWN_PROCESSES]) or "no process any more"
    return f"it is mounted as a single file{state} at {mount.path}, where its -wal is another one: in {shown}"


def _name_process(process: Process) -> str:
    return f"process {process.pid} of {process.user} ({process.command[:SHOWN_CHARACTERS]})"


# --- mounts ---------------------------------------------------------------------------------------------------------


def mounts_command(source: PurePosixPath) -> str:
    """Build the command that prints the mounts of all mount namespaces (proc(5), /proc/PID/mountinfo).

    The first lines are the number of hard links, and whether the mounts of other users' processes can be read. Then
    come the id of the mount that the source is on, and the first five fields of each mount.
    """
    return "\n".join(
        [
            f"set -e; stat -c %h -- {quote(source)}",
            "if cat /proc/1/mountinfo >/dev/null 2>&1; then echo all; else echo some; fi",
            f"exec 3< {quote(source)}; cat /proc/self/fdinfo/3; exec 3<&-",
            # A process may end meanwhile.
            "{ cat /proc/[0-9]*/mountinfo 2>/dev/null || true; } | cut -d ' ' -f 1-5 | sort -u",
            f"echo {END}",
        ]
    )


@dataclass(frozen=True)
class _Mount:
    id: int
    device: str
    root: str
    point: str


_MOUNT = re.compile(r"([0-9]{1,10}) [0-9]+ ([0-9]+:[0-9]+) ([^ ]+) ([^ ]+)")


def parse_mounts(output: str, source: PurePosixPath) -> tuple[int, bool, list[FileMount]]:
    """Parse what `mounts_command` printed: the links, whether all is known, the mounts of the file.

    Raises ValueError.
    """
    links, extent, *lines = parse_list(output)
    mount_id = re.search(r"^mnt_id:\t([0-9]{1,10})$", "\n".join(lines), re.MULTILINE)
    if extent not in ("all", "some") or not mount_id:
        raise ValueError("not a list of mounts")
    mounts = [_parse_mount(match) for line in lines if (match := _MOUNT.fullmatch(line))]
    own = next((mount for mount in mounts if mount.id == int(mount_id[1])), None)
    if own is None:
        raise ValueError(f"no mount has the id {mount_id[1]}")
    root = _path_in_file_system(own, source)
    found = [
        FileMount(mount.id, mount.point, mount.root != root)
        for mount in mounts
        if mount.device == own.device and mount.root in (root, root + DELETED)
    ]
    return _parse_links(links), extent == "all", found


def _parse_links(text: str) -> int:
    links = parse_count(text)
    if links < 1:
        raise ValueError(f"{links} is not a number of links")
    return links


def _parse_mount(match: re.Match[str]) -> _Mount:
    return _Mount(int(match[1]), match[2], _unescape(match[3]), _unescape(match[4]))


def _unescape(text: str) -> str:
    """Undo the octal escapes of blanks and backslashes in mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _path_in_file_system(mount: _Mount, source: PurePosixPath) -> str:
    """Return the path of a file in its file system, from the mount that it is on; raises ValueError."""
    path = PurePosixPath(mount.root) / source.relative_to(mount.point)
    return str(path)


def mount_users_command(mount_id: int) -> str:
    """Build the command that prints the processes whose mount namespace has a mount."""
    newline = "'\n'"
    return "\n".join(
        [
            "for folder in /proc/[0-9]*; do",
            "  pid=${folder#/proc/}",
            f'  case {newline}"$(cat "$folder/mountinfo" 2>/dev/null)" in',
            f'  *{newline}"{mount_id} "*) {describe_process()} ;;',
            "  esac",
            "done",
            f"echo {END}",
        ]
    )


# --- processes that have another -wal open --------------------------------------------------------------------------


def other_wal_command(source: PurePosixPath) -> str:
    """Build the command that prints the processes that have the database open, and a `-wal` that is not next to it.

    The link of a file descriptor has the path as the process sees it, with a note if that was deleted.
    """
    wal = quote(sidecar_path(source, "-wal"))
    deleted = '" (deleted)"'
    inspect = "\n".join(
        [
            f'  database=$(readlink -- "$fd") || continue; database=${{database%{deleted}}}',
            "  find /proc/$pid/fd \\( -lname '*-wal' -o -lname '*-wal (deleted)' \\) 2>/dev/null |",
            "  while IFS= read -r file; do",
            f'    path=$(readlink -- "$file") || continue; path=${{path%{deleted}}}',
            f'    [ "$path" != "$database-wal" ] || [ "$file" -ef {wal} ] || echo $pid',
            "  done",
        ]
    )
    described = f"while read -r pid; do {describe_process()}; done"
    return f"{processes_with_open_loop(quote(source), inspect)} | sort -u | {described}; echo {END}"


# --- processes that have a deleted database open --------------------------------------------------------------------


def deleted_command(source: PurePosixPath) -> str:
    """Build the command that prints the processes that have a deleted file open, with the path of the source.

    The path in the link of a file descriptor is that in the mount namespace of the process.
    """
    name = re.sub(r"[\\*?\[]", r"\\\g<0>", source.name)
    pattern = quote(f"*/{name} (deleted)")
    directory = quote(source.parent)
    check = "\n".join(
        [
            "  pid=${fd#/proc/}; pid=${pid%%/*}",
            '  path=$(readlink -- "$fd") || continue; path=${path%/*}/',
            f'  [ "/proc/$pid/root$path" -ef {directory} ] || [ "$path" -ef {directory} ] && echo $pid',
        ]
    )
    find = f"{{ find /proc/[0-9]*/fd -lname {pattern} 2>/dev/null || true; }}"
    described = f"while read -r pid; do {describe_process()}; done"
    return f"{find} | while IFS= read -r fd; do\n{check}\ndone | sort -u | {described}; echo {END}"


# --- all of it ------------------------------------------------------------------------------------------------------


def find_hidden(holders: Sequence[LockHolder], database: int, shm: int) -> list[int]:
    """Find the processes that have the database open in WAL mode, of which nothing tells which `-wal` they use.

    In WAL mode each connection holds a lock on the database, and one on the `-shm`, which belongs to the same `-wal`
    (walformat.html, section 2.3). All users can read who holds a lock.
    """
    sharing = {holder.pid for holder in holders if holder.file == shm}
    hidden = {holder.pid for holder in holders if holder.file == database and not holder.visible}
    return sorted(hidden - sharing)


def read_sharing(host: Host, source: PurePosixPath, wal: bool) -> Sharing:
    """Find out how the processes of a host see a database; its path must have no symbolic link.

    Raises CouldNotLookError.
    """
    links, sees_all, mounts = host.query_parsed(
        f"find out where {source} is mounted", mounts_command(source), lambda output: parse_mounts(output, source)
    )
    action = "list the processes that see a mount"
    users = [(mount, host.query_parsed(action, mount_users_command(mount.id), parse_processes)) for mount in mounts]
    deleted = _find_twice(lambda: _read_deleted(host, source))
    if not wal:
        return Sharing(links, users, deleted, [], [], sees_all)
    other_wal = _find_twice(lambda: _read_other_wal(host, source))
    hidden = _find_twice(lambda: _read_hidden(host, source))
    return Sharing(links, users, deleted, other_wal, hidden, sees_all)


def _read_deleted(host: Host, source: PurePosixPath) -> list[Process]:
    action = f"find out who has a deleted file open in place of {source}"
    return host.query_parsed(action, deleted_command(source), parse_processes)


def _read_other_wal(host: Host, source: PurePosixPath) -> list[Process]:
    return host.query_parsed(f"find out which -wal of {source} is open", other_wal_command(source), parse_processes)


def _read_hidden(host: Host, source: PurePosixPath) -> list[int]:
    command = lock_holders_command([source, sidecar_path(source, "-shm")])
    holders = host.query_parsed(f"find out who holds a lock on {source}", command, parse_lock_holders)
    return find_hidden(holders, database=0, shm=1)


def _find_twice(find: Callable[[], list[T]]) -> list[T]:
    """Return what is found twice: while a process opens or closes a database, it has only some of the files."""
    first = find()
    return [item for item in find() if item in first] if first else []


def require_sharing(host: Host, database: Database, wal: bool) -> None:
    """Check that the services of a database would share its `-wal`; `wal` is whether it is in WAL mode already.

    Raises JournalModeError where one would have another, and CouldNotLookError where that cannot be decided.
    """
    source = database.source
    sharing = read_sharing(host, source, wal)
    if sharing.problems:
        raise JournalModeError(
            f"in WAL mode, backups would lack commits to {source}, and the service could lose them",
            host=host.name,
            output="\n".join(problem.text for problem in sharing.problems),
            advice=sharing.problems[0].advice,
        )
    if sharing.unknown:
        raise CouldNotLookError(
            f"could not find out whether all processes would share the -wal of {source}",
            host=host.name,
            output=sharing.unknown,
            advice=HIDDEN_ADVICE,
        )
