"""Processes on a host: which ones have a file open, and signals to them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from .answers import END, parse_count, parse_list
from .shell import TRUSTED_OWNER, quote
from .sudo import USE_SUDO

if TYPE_CHECKING:
    from .host import Host

HIDDEN_ADVICE = f"only root sees all processes: {USE_SUDO}"
LARGEST_PID = 2**22  # proc(5), pid_max


@dataclass(frozen=True)
class Process:
    """A process on a host."""

    pid: int
    user: str
    command: str

    def as_json(self) -> dict[str, int | str]:
        """Return its object in JSON output."""
        return {"pid": self.pid, "user": self.user, "command": self.command}

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user}: {self.command}"


def describe_process() -> str:
    """Build the command that prints the process `$pid`, unless it has ended."""
    arguments = "$(tr '\\0\\n' '  ' < /proc/$pid/cmdline | cut -c -120)"
    return f'{{ user=$(stat -c %U -- /proc/$pid 2>/dev/null) && echo "$pid $user {arguments}"; true; }}'


def processes_with_open_loop(file: str, do: str) -> str:
    """Build a command that does something for each file descriptor `$fd` of a process `$pid` that has a file open.

    Only root sees the open files of other users (proc(5)). `file` is a word of the host's shell.
    """
    # Not find -samefile: it opens the file too, and so it would find itself.
    found = f'for fd in /proc/[0-9]*/fd/*; do [ "$fd" -ef {file} ] && echo "$fd"; done'
    return f"{{ {found}; }} | while read -r fd; do pid=${{fd#/proc/}}; pid=${{pid%%/*}}\n{do}\ndone"


def processes_with_open_command(path: PurePosixPath) -> str:
    """Build the command that prints which processes have a file open."""
    pids = processes_with_open_loop(quote(path), "echo $pid")
    listing = f"{pids} | sort -u | while read -r pid; do {describe_process()}; done"
    return f"set -e; [ -d /proc/self/fd ]; {listing}; echo {END}"


# Words of `find`: a regular file with one name that belongs to us.
OWN_LOCK = f"-type f -links 1 {TRUSTED_OWNER}"


def own_lock(file: str) -> str:
    """Build the command that prints the device and the inode of a lock file, and nothing if it is not one of ours.

    Ours is a regular file with one name that belongs to root, the user of the command, or the account that sudo was
    called from. `file` is a word of the host's shell.
    """
    return f"find {file} -maxdepth 0 {OWN_LOCK} -printf %D:%i"


def signal_processes_command(lock: str, signal: str) -> str:
    """Build the command that sends a signal to each process that has a lock file open, also to a stopped one (SIGSTOP).

    It does nothing if the file is not a lock of ours. `lock` is a word of the host's shell.
    """
    opened = "printf '%s\\0' /proc/[0-9]*/fd/* | xargs -0 stat -L -c '%d:%i %n' 2>/dev/null"
    pids = 'sed -n "s|^$id /proc/\\([0-9]*\\)/.*|\\1|p" | sort -u'
    send = f"kill -s {signal} $pid 2>/dev/null && kill -s CONT $pid 2>/dev/null || true"
    return (
        f'id=$({own_lock(lock)} 2>/dev/null); [ -z "$id" ] || '
        f"{{ {opened} | {pids} | while read -r pid; do {send}; done; }}"
    )


def _set_lock_name(path: PurePosixPath) -> str:
    """Build the command that sets `$name` to the pattern of a file's name in /proc/locks.

    On btrfs and overlayfs, stat reports a device that no mount has, and the locks have another one. The pattern then
    has the number of the inode only.
    """
    return "\n".join(
        [
            f"device=$(stat -c %d -- {quote(path)}); inode=$(stat -c %i -- {quote(path)})",
            "major=$((device >> 8 & 0xfff)) minor=$((device & 0xff | device >> 12 & 0xfff00))",  # makedev(3)
            "mounts=$(cat /proc/self/mountinfo)",
            'case "$mounts" in',
            '  *" $major:$minor "*) name=$(printf %02x:%02x:%s "$major" "$minor" "$inode") ;;',
            '  *) name="*:$inode" ;;',
            "esac",
        ]
    )


def is_locked_command(path: PurePosixPath) -> str:
    """Build the command that prints whether a file is locked, which all users can read (proc(5), /proc/locks)."""
    return "\n".join(
        [
            f'problem=$(stat -- {quote(path)} 2>&1 >/dev/null) || case "$problem" in',
            "  *': No such file or directory') echo no; exit ;;",
            '  *) echo "$problem" >&2; exit 1 ;;',  # a file that cannot be reached is not one that is missing
            "esac",
            f"set -e\n{_set_lock_name(path)}\nlocks=$(cat /proc/locks)",
            'case "$locks" in *" "$name" "*) echo yes ;; *) echo no ;; esac',
        ]
    )


@dataclass(frozen=True)
class LockHolder:
    """A process that holds a lock: the number of the file, and whether this user can see the files that it has open.

    The id is 0 or -1 for a process that is not in the process namespace of the user (proc(5)).
    """

    pid: int
    file: int
    visible: bool


def lock_holders_command(paths: Sequence[PurePosixPath]) -> str:
    """Build the command that prints which processes hold a lock on which of some files; a missing file has none."""
    return f"{_list_lock_holders(paths)}\necho {END}"


def _list_lock_holders(paths: Sequence[PurePosixPath]) -> str:
    lines = ["set -e; locks=$(cat /proc/locks)"]
    for number, path in enumerate(paths):
        lines += [
            f"if [ -e {quote(path)} ]; then",
            _set_lock_name(path),
            # A line with an arrow is a process that waits for a lock.
            'echo "$locks" | while read -r _ _ _ _ pid file _; do',
            '  case "$file" in $name) ;; *) continue ;; esac',
            f"  if [ -e /proc/$pid/exe ]; then echo $pid {number} yes; else echo $pid {number} no; fi",
            "done; fi",
        ]
    return "\n".join(lines)


def parse_lock_holders(output: str) -> list[LockHolder]:
    """Parse what `lock_holders_command` printed; raises ValueError."""
    holders = []
    for line in parse_list(output):
        match = re.fullmatch(r"(-1|[0-9]{1,7}) ([0-9]) (yes|no)", line)
        if not match:
            raise ValueError(f"{line[:100]!r} does not describe who holds a lock")
        holders.append(LockHolder(int(match[1]), int(match[2]), match[3] == "yes"))
    return holders


def parse_processes(output: str) -> list[Process]:
    """Parse what `processes_with_open_command` printed; raises ValueError."""
    fields = (line.split(" ", 2) for line in parse_list(output))
    return [Process(parse_count(pid, largest=LARGEST_PID), user, command.strip()) for pid, user, command in fields]


def processes_with_open(host: Host, path: PurePosixPath) -> list[Process]:
    """List the processes that have a file open; raises CouldNotLookError."""
    return host.query_parsed(f"see who has {path} open", processes_with_open_command(path), parse_processes)


def processes_using_command(path: PurePosixPath) -> str:
    """Build the command that prints which processes have a file open or hold a lock on it.

    All users can read who holds a lock (proc(5), /proc/locks).
    """
    return "\n".join(
        [
            f"{{ {processes_with_open_loop(quote(path), 'echo $pid')}; {_list_lock_holders([path])}; }} |",
            "cut -d ' ' -f 1 | sort -u | while read -r pid; do",
            f"  {describe_process()}",
            "done",
            f"echo {END}",
        ]
    )


def processes_using(host: Host, path: PurePosixPath) -> list[Process]:
    """List the processes that have a file open or hold a lock on it; raises CouldNotLookError."""
    return host.query_parsed(f"find out which processes use {path}", processes_using_command(path), parse_processes)
