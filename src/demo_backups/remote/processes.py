"""Processes on a host: which ones have a file open, and signals to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from .answers import END, parse_count, parse_list
from .host import Host
from .shell import quote

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


def _for_processes_with_open(file: str, do: str) -> str:
    """Build a command that does something for the `$pid` of each process that has a file open.

    Only root sees the open files of other users (proc(5)). `file` is a word of the host's shell.
    """
    # Not find -samefile: it opens the file too, and so it would find itself.
    found = f'for fd in /proc/[0-9]*/fd/*; do [ "$fd" -ef {file} ] && echo "$fd"; done'
    return f"{{ {found}; }} | cut -d / -f 3 | sort -u | while read -r pid; do {do}; done"


def processes_with_open_command(path: PurePosixPath) -> str:
    """Build the command that prints which processes have a file open."""
    arguments = "$(tr '\\0\\n' '  ' < /proc/$pid/cmdline | cut -c -120)"
    listing = _for_processes_with_open(
        quote(path), f'user=$(stat -c %U -- /proc/$pid 2>/dev/null) && echo "$pid $user {arguments}"; true'
    )
    return f"set -e; [ -d /proc/self/fd ]; {listing}; echo {END}"


def signal_processes_command(file: str, signal: str) -> str:
    """Build the command that sends a signal to each process that has a file open, also to a stopped one (SIGSTOP).

    `file` is a word of the host's shell.
    """
    return _for_processes_with_open(file, f"kill -s {signal} $pid 2>/dev/null && kill -s CONT $pid 2>/dev/null || true")


def is_locked_command(path: PurePosixPath) -> str:
    """Build the command that prints whether a file is locked, which all users can read (proc(5), /proc/locks)."""
    major, minor = "device >> 8 & 0xfff", "device & 0xff | device >> 12 & 0xfff00"  # makedev(3)
    return "\n".join(
        [
            f"[ -e {quote(path)} ] || {{ echo no; exit; }}",
            f"set -e; device=$(stat -c %d -- {quote(path)}); inode=$(stat -c %i -- {quote(path)})",
            f'name=$(printf %02x:%02x:%s $(({major})) $(({minor})) "$inode"); locks=$(cat /proc/locks)',
            'case "$locks" in *" $name "*) echo yes ;; *) echo no ;; esac',
        ]
    )


def parse_processes(output: str) -> list[Process]:
    """Parse what `processes_with_open_command` printed; raises ValueError."""
    fields = (line.split(" ", 2) for line in parse_list(output))
    return [Process(parse_count(pid, largest=LARGEST_PID), user, command.strip()) for pid, user, command in fields]


def processes_with_open(host: Host, path: PurePosixPath) -> list[Process]:
    """List the processes that have a file open; raises CouldNotLookError."""
    return host.query_parsed(f"see who has {path} open", processes_with_open_command(path), parse_processes)
