"""The end of cron's log on a host, and the last message of a script in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..remote.answers import parse_count, parse_seconds
from ..remote.shell import quote

LOG_TAIL = 16 * 1024  # bytes of the log that are read from its end
# The start of a message: the program, then a colon. Lines of syslog start with a date, and name what cron runs.
_MESSAGE = re.compile(r"(?!Error: )(?:/.*/)?[\w.-]+: ")


@dataclass(frozen=True)
class CronLog:
    """The last lines of cron's log, and its modification time in seconds since 1970, by the clock of the host."""

    modified: float
    lines: tuple[str, ...]


@dataclass(frozen=True)
class LogMessage:
    """The last message of a script in a log; `is_last` if no other program has written to the log since."""

    text: str
    is_last: bool


def log_command(log: PurePosixPath) -> str:
    """Build the command that prints the modification time of a log and its end; `none` if it is not a regular file."""
    return "\n".join(
        [
            f'problem=$(stat -L -- {quote(log)} 2>&1 >/dev/null) || case "$problem" in',
            "  *': No such file or directory') echo none; exit ;;",
            '  *) echo "$problem" >&2; exit 1 ;;',
            "esac",
            f"[ -f {quote(log)} ] || {{ echo none; exit; }}",
            f"set -e; stat -L -c '%.3Y %s' -- {quote(log)}; tail -c {LOG_TAIL} -- {quote(log)} | tr -d '\\000'",
        ]
    )


def parse_log(output: str) -> CronLog | None:
    """Parse what `log_command` printed; None if there is no log. Raises ValueError."""
    if output == "none\n":
        return None
    head, _, text = output.partition("\n")
    modified, size = head.split(" ")
    lines = text.split("\n")
    if parse_count(size) > LOG_TAIL:
        del lines[0]  # a part of a line
    return CronLog(parse_seconds(modified), tuple(line for line in lines if line.strip()))


def find_message(lines: Sequence[str], script: str) -> LogMessage | None:
    """Find the last message in a log that is from a script, or about it from the shell that could not run it.

    The scripts print nothing if they succeed. Lines of syslog do not count.
    """
    name = re.compile(rf"(?<![\w.-]){re.escape(script)}(?![\w-]|\.\w)")
    messages = [(number, line) for number, line in enumerate(lines) if _MESSAGE.match(line)]
    ours = [(number, line) for number, line in messages if name.search(line)]
    if not ours:
        return None
    number, text = ours[-1]
    return LogMessage(text, is_last=number == messages[-1][0])
