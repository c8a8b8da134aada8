"""Read the crontabs of a host: the one that the tasks change, and all others from which cron may run a script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TypeVar

from ..errors import CouldNotLookError
from ..remote.answers import END
from ..remote.host import PARSE_ERRORS, PROGRAM_NOT_FOUND, Host, Result
from ..remote.shell import quote
from .cron_syntax import Layout

T = TypeVar("T")
LARGEST_SCRIPT = 64  # KiB of a script in /etc/cron.hourly and the like that are read
_KINDS = {"system": Layout.SYSTEM, "user": Layout.USER, "anacron": Layout.ANACRON, "script": None}


@dataclass(frozen=True)
class Table:
    """A crontab, or with the layout None a script in /etc/cron.hourly and the like."""

    name: str
    layout: Layout | None
    text: str = field(repr=False)
    user: str = ""  # whose crontab it is; in other layouts a line names its user, or it is root


@dataclass(frozen=True)
class Tables:
    """The crontabs of a host, as the user `user` can read them.

    `own` is the crontab of that user, None if there is none. `unread` has the places that this user cannot read.
    """

    own: str | None = field(repr=False)
    user: str
    others: tuple[Table, ...] = ()
    homes: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    def all(self) -> list[Table]:
        """Return all tables, the own one first."""
        return [Table(self.own_name, Layout.USER, self.own or "", self.user), *self.others]

    @property
    def own_name(self) -> str:
        """The name of the crontab that the tasks change."""
        return f"the crontab of {self.user}"


def read_crontab(host: Host) -> str | None:
    """Read the crontab of the user who runs the backups; None if that user has none. Raises CouldNotLookError."""
    result = host.run("read the crontab", "crontab -l", root=True)
    if result.ok:
        return result.stdout
    if result.status == PROGRAM_NOT_FOUND:
        raise CouldNotLookError(
            "cron is not installed: there is no crontab command",
            host=host.name,
            advice="install it (Debian and Ubuntu: sudo apt install cron)",
        )
    if "no crontab for" in result.stderr:
        return None
    # Not its standard output, which may be a part of the crontab.
    output = result.stderr.strip() or f"exit status {result.status}"
    raise CouldNotLookError("could not read the crontab", host=host.name, output=output, advice=host.advise(result))


def tables_command(scripts: Iterable[PurePosixPath]) -> str:
    """Build the command that prints the other crontabs, and the scripts of run-parts that name one of some scripts.

    It prints three texts, each ended by NUL, for the user, the homes, every crontab and every place that it cannot
    read. Cron of Debian ignores a file of /etc/cron.d whose name has other characters than letters, digits, '_' and
    '-'.
    """
    scripts = list(scripts)
    names = " ".join(f"-e {quote(script.name)}" for script in scripts)
    same = " || ".join(f'[ "$file" -ef {quote(script)} ]' for script in scripts)
    return "\n".join(
        [
            "me=$(id -un) || exit 1",
            "show() { printf '%s\\0%s\\0' \"$1\" \"$2\"; tr -d '\\000'; printf '\\0'; }",
            "table() {",
            '  if [ -r "$3" ]; then show "$1" "$2" < "$3" || exit 1; else show unread "$3" < /dev/null; fi',
            "}",
            'home() { getent passwd "$1" | cut -d : -f 6 | tr -d \'\\n\' | show home "$1"; }',
            'printf %s "$HOME" | show me "$me"; home root',
            "[ ! -f /etc/crontab ] || table system /etc/crontab /etc/crontab",
            "[ ! -f /etc/anacrontab ] || table anacron /etc/anacrontab /etc/anacrontab",
            "for file in /etc/cron.d/*; do",
            '  [ -f "$file" ] || continue',
            '  case "${file##*/}" in',
            "    .* | '#'* | *~ | *.rpmsave | *.rpmorig | *.rpmnew) continue ;;",
            "    *[!A-Za-z0-9_-]*) [ ! -e /etc/debian_version ] || continue ;;",
            "  esac",
            '  table system "$file" "$file"',
            "done",
            "for folder in /var/spool/cron/crontabs /var/spool/cron; do",
            '  [ -d "$folder" ] || continue',
            '  if [ ! -r "$folder" ]; then show unread "$folder" < /dev/null; continue; fi',
            '  for file in "$folder"/*; do',
            '    user=${file##*/}; { [ -f "$file" ] && [ "$user" != "$me" ]; } || continue',
            '    case "$user" in tmp.* | *.new) continue ;; esac',
            '    table user "$user" "$file"; home "$user"',
            "  done",
            "done",
            "for file in /etc/cron.hourly/* /etc/cron.daily/* /etc/cron.weekly/* /etc/cron.monthly/*; do",
            '  { [ -f "$file" ] && [ -x "$file" ]; } || continue',
            f'  {{ {same} || grep -qsIF {names} -- "$file"; }} || continue',
            f'  head -c {LARGEST_SCRIPT}K -- "$file" | show script "$file"',
            "done",
            f"printf {END}",
        ]
    )


def parse_tables(output: str, own: str | None) -> Tables:
    """Parse what `tables_command` printed; raises ValueError, whose text has nothing of the crontabs."""
    *texts, rest = output.split("\0")
    if rest != END or len(texts) % 3 or texts[:1] != ["me"]:
        raise ValueError("not a list of crontabs")
    others, homes, unread = [], {texts[1]: texts[2]}, []
    for kind, name, text in zip(texts[3::3], texts[4::3], texts[5::3], strict=True):
        if kind == "home":
            homes.setdefault(name, text)
        elif kind == "unread":
            unread.append(name)
        elif kind in _KINDS:
            is_user = kind == "user"
            others.append(
                Table(f"the crontab of {name}" if is_user else name, _KINDS[kind], text, name if is_user else "")
            )
        else:
            raise ValueError("an unknown kind of crontab")
    return Tables(own, texts[1], tuple(others), homes, tuple(unread))


def read_tables(host: Host, scripts: Iterable[PurePosixPath]) -> Tables:
    """Read all crontabs of a host; `scripts` are those that may be run. Raises CouldNotLookError."""
    own = read_crontab(host)
    action = "read the crontabs of the system"
    result = host.run(action, tables_command(scripts), root=True)
    return parse_private(host, action, result, lambda output: parse_tables(output, own))


def parse_private(host: Host, action: str, result: Result, parse: Callable[[str], T]) -> T:
    """Parse what a command printed, as Host.parse does, but show nothing of it; raises CouldNotLookError."""
    if not result.ok:
        problem = result.stderr.strip() or f"exit status {result.status}"
        raise CouldNotLookError(f"could not {action}", host=host.name, output=problem, advice=host.advise(result))
    try:
        return parse(result.stdout)
    except PARSE_ERRORS as error:
        raise CouldNotLookError(
            f"could not {action}: the answer cannot be parsed", host=host.name, output=f"({error})"
        ) from None
