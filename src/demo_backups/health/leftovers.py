"""What killed runs have left in a backup directory, and whether a run is in progress."""

from __future__ import annotations

from dataclasses import dataclass

from ..backup.names import DATE
from ..recovery.hold import HOLD_MINUTES, HOLD_PREFIX
from ..remote.answers import END, parse_count, parse_yes_no
from ..remote.processes import is_locked_command
from ..remote.shell import quote
from ..settings.model import Database


@dataclass(frozen=True)
class Leftover:
    """A file that a killed run has left: its name, and its size in bytes."""

    name: str
    bytes: int


@dataclass(frozen=True)
class RunFiles:
    """Whether a run of the script is in progress, by its lock, and the files that no run uses any more."""

    running: bool
    leftovers: tuple[Leftover, ...]


def run_files_command(database: Database) -> str:
    """Build the command that prints the partial files, whether the lock is held, the partial files again, old holds.

    A partial file that is there before and after, while nobody has the lock, is in use by no run. A hold is old if it
    was not renewed for twice the time after which the next fetch removes it.
    """
    part = quote(database.part.name)
    hold = quote(f"{HOLD_PREFIX}{database.backup_prefix}{DATE}.db")
    show = r"-type f -printf '%i %s %f\n'"
    return "\n".join(
        [
            f"cd -- {quote(database.backup_dir)} || exit",
            f"list() {{ find . -maxdepth 1 \\( -name {part} -o -name {part}-journal \\) {show} && echo {END}; }}",
            "first=$(list) || exit",
            f"locked=$(\n{is_locked_command(database.lock)}\n) || exit",
            "second=$(list) || exit",
            'printf "%s\\n" "$first" "$locked" "$second"',
            f"find . -maxdepth 1 -name {hold} -cmin +{2 * HOLD_MINUTES} {show} && echo {END}",
        ]
    )


def parse_run_files(output: str) -> RunFiles:
    """Parse what `run_files_command` printed; raises ValueError."""
    first, second, holds, rest = output.split(f"{END}\n")
    if rest:
        raise ValueError("more than three lists")
    locked, _, second = second.partition("\n")
    running = parse_yes_no(f"{locked}\n")
    inodes = {line.split(" ")[0] for line in first.splitlines()}
    unused = [] if running else [line for line in second.splitlines() if line.split(" ")[0] in inodes]
    return RunFiles(running, tuple(map(_parse_leftover, [*unused, *holds.splitlines()])))


def _parse_leftover(line: str) -> Leftover:
    _, size, name = line.split(" ", 2)
    if not name.isprintable() or not name:
        raise ValueError(f"{name[:100]!r} is not the name of a partial file")
    return Leftover(name, parse_count(size))
