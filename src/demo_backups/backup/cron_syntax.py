"""Parse crontabs: their lines, the environment of each line, and the times at which cron runs it.

The rules are those of crontab(5) in Debian's cron 3.0pl1 and in cronie. A line that cron might run is never left out:
it has no `Schedule` if its times are not certain.
"""

from __future__ import annotations

import calendar
import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..remote.shell import CRON_PATH

# --- times ----------------------------------------------------------------------------------------------------------

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_LEAP_YEAR = 2000
_RANGE = re.compile(r"(?:(?P<all>\*)|(?P<first>[0-9]+|[a-z]+)(?:-(?P<last>[0-9]+|[a-z]+))?)(?:/(?P<step>[0-9]+))?")


@dataclass(frozen=True)
class Schedule:
    """The times at which cron runs a line: two spellings of the same times are equal.

    A day is a month, a day of that month, and a weekday (Sunday is 0).
    """

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[tuple[int, int, int]]

    @property
    def runs_per_day(self) -> int:
        """How often it runs on a day on which it runs at all."""
        return len(self.minutes) * len(self.hours)


def parse_schedule(text: str) -> Schedule | None:
    """Parse the five fields of a line, or a nickname such as @hourly; None if the times are not certain.

    That is so for @reboot, and for a field that cron refuses or that its versions read in different ways.
    """
    fields = _NICKNAMES.get(text.strip(" \t"), text).lower().split()
    if len(fields) != 5:
        return None
    try:
        minutes = _parse_field(fields[0], 0, 59)
        hours = _parse_field(fields[1], 0, 23)
        days = _parse_field(fields[2], 1, 31)
        months = _parse_field(fields[3], 1, 12, _MONTHS)
        weekdays = frozenset(day % 7 for day in _parse_field(fields[4], 0, 7, _WEEKDAYS))
    except ValueError:
        return None
    # crontab(5): a day must match both fields if one of them starts with '*', and otherwise one of the two.
    combine = all if fields[2].startswith("*") or fields[4].startswith("*") else any
    return Schedule(
        minutes,
        hours,
        frozenset(
            (month, day, weekday)
            for month in months
            for day in range(1, calendar.monthrange(_LEAP_YEAR, month)[1] + 1)
            for weekday in range(7)
            if combine((day in days, weekday in weekdays))
        ),
    )


def _parse_field(text: str, low: int, high: int, names: list[str] | None = None) -> frozenset[int]:
    """Parse one field, in lower case; raises ValueError."""
    values: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if not match:
            raise ValueError(f"{part!r} is not a range")
        if match["step"] and not (match["all"] or match["last"]):
            raise ValueError("a step without a range")
        first = low if match["all"] else _parse_number(match["first"], low, names)
        last = high if match["all"] else _parse_number(match["last"] or match["first"], low, names)
        step = int(match["step"] or "1")
        if not low <= first <= last <= high or not step:
            raise ValueError(f"{part!r} is out of range")
        values.update(range(first, last + 1, step))
    return frozenset(values)


def _parse_number(text: str, low: int, names: list[str] | None) -> int:
    return int(text) if text.isdigit() else low + (names or []).index(text)


# --- lines ----------------------------------------------------------------------------------------------------------


class Layout(enum.Enum):
    """What the lines of a table have between the times and the command."""

    USER = "the crontab of a user"
    SYSTEM = "with the name of a user, as in /etc/crontab"
    ANACRON = "a period, a delay and a name, as in /etc/anacrontab"


@dataclass(frozen=True)
class Entry:
    """A line that cron may run: its number from 1, its text, its times, its command, its environment.

    `times` is the text up to the command, blanks included. `user` is empty in the crontab of a user.
    """

    number: int
    text: str = field(repr=False)
    times: str
    command: str = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)
    user: str = ""

    @property
    def schedule(self) -> Schedule | None:
        """The times at which cron runs it; None if they are not certain."""
        return parse_schedule(self.times)


_USER_LINE = r"([ \t]*-?(?:@[^ \t]*[ \t]+|(?:[^ \t@#][^ \t]*[ \t]+)(?:[^ \t]+[ \t]+){4}))(\S.*)"
_ANACRON_LINE = r"([ \t]*[^ \t#]\S*[ \t]+\S+[ \t]+\S+[ \t]+)(\S.*)"
_SETTING = re.compile(
    r"""\s*(?:"(?P<double>[^"=]*)"|'(?P<single>[^'=]*)'|(?P<name>[^\s="'\#][^\s=]*))\s*=\s*
    (?:"(?P<double_value>[^"]*)"\s*|'(?P<single_value>[^']*)'\s*|(?P<value>[^\s"'].*))""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)


def parse_setting(line: str) -> tuple[str, str] | None:
    """Parse a line that sets an environment variable; None if it does not."""
    match = _SETTING.fullmatch(line)
    if not match:
        return None
    names = (match["name"], match["double"], match["single"])
    values = (match["double_value"], match["single_value"], (match["value"] or "").rstrip())
    return _first(names), _first(values)


def _first(texts: tuple[str | None, ...]) -> str:
    return next(text for text in texts if text is not None)


def split_line(line: str, layout: Layout = Layout.USER) -> tuple[str, str] | None:
    """Split a line that cron may run into times, blanks included, and the rest; None for all other lines.

    The rest is the command, in a system table after the name of the user.
    """
    if line.lstrip(" \t").startswith("#") or parse_setting(line) is not None:
        return None
    pattern = _ANACRON_LINE if layout is Layout.ANACRON else _USER_LINE
    match = re.fullmatch(pattern, line, re.DOTALL | re.ASCII)
    return (match[1], match[2]) if match else None


def parse_crontab(text: str, layout: Layout = Layout.USER) -> Iterator[Entry]:
    """Yield the lines that cron may run, each with the environment that the lines above it set."""
    environment: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        setting = parse_setting(line)
        if setting is not None:
            environment[setting[0]] = setting[1]
            continue
        parts = split_line(line, layout)
        if parts is None:
            continue
        times, command = parts
        user = ""
        if layout is Layout.SYSTEM:
            user, command = [*re.split(r"[ \t]+", command, maxsplit=1), ""][:2]
        yield Entry(number, line, times, command, dict(environment), user)


# --- commands -------------------------------------------------------------------------------------------------------


def default_environment(home: str, user: str) -> dict[str, str]:
    """Return the variables that cron sets before those of the crontab (crontab(5))."""
    return {"SHELL": "/bin/sh", "PATH": CRON_PATH, "HOME": home, "LOGNAME": user, "USER": user}


def escape_command(command: str) -> str:
    r"""Escape a command for a crontab, where `%` is a line end unless it is `\%` (crontab(5)), and `\\` is `\`."""
    return re.sub(r"[\\%]", r"\\\g<0>", command)


def unescape_command(command: str) -> str:
    r"""Undo `escape_command`, as cron does."""
    return re.sub(r"\\([\\%])", r"\1", command)


def split_input(command: str) -> tuple[str, str]:
    """Split the command of a line, as it is in the crontab, into what the shell runs and the standard input of that."""
    match = re.match(r"(?:\\.|[^\\%]|\\$)*", command, re.DOTALL)
    end = match.end() if match else 0
    program, rest = command[:end], command[end + 1 :]
    return unescape_command(program), re.sub(r"\\?%", lambda match: "%" if match[0] == r"\%" else "\n", rest)
