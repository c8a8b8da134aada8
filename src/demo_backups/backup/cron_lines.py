"""Find the lines of all crontabs of a host that run the script of a database."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from ..errors import CrontabConflictError, UnclearCrontabError
from ..remote.answers import END, parse_yes_no
from ..remote.files import STALL_TIMEOUT
from ..remote.host import Host
from ..remote.shell import quote
from ..settings.model import Database
from .cron_command import Programs, find_programs, find_programs_of_file
from .cron_syntax import Entry, default_environment, parse_crontab, parse_schedule
from .cron_tables import LARGEST_SCRIPT, Table, Tables, parse_private
from .crontab import CrontabJob
from .masking import mask_line
from .script import Script


@dataclass(frozen=True)
class CronLine:
    """An active line of a crontab that runs a script, or that may run it.

    `unclear` says why it is not known whether it runs it; `deviations` say what it does otherwise than the published
    job. `elsewhere`: it backs up another database, or into another directory. Printed, its secrets are masked.
    """

    table: str
    number: int  # from 1; 0 for a script of run-parts
    text: str = field(repr=False)
    is_own: bool = True  # in the crontab that the tasks change
    times: str = ""
    unclear: str = ""
    deviations: tuple[str, ...] = ()
    elsewhere: bool = False

    @property
    def masked(self) -> str:
        """The line without its secrets."""
        return mask_line(self.text.rstrip("\r"))

    @property
    def place(self) -> str:
        """The crontab and the number of the line."""
        return f"{self.table}, line {self.number}" if self.number else self.table

    def __str__(self) -> str:
        reasons = "; ".join(filter(None, [self.unclear, *self.deviations]))
        return f"{self.place}: {self.masked}" + (f" ({reasons})" if reasons else "")

    def is_equivalent(self, job: CrontabJob) -> bool:
        """Tell whether it does what the job does, at the same times, in any spelling."""
        if self.unclear or self.deviations:
            return False
        schedule = parse_schedule(self.times)
        return job.is_line(self.text) or (schedule is not None and schedule == job.schedule)


@dataclass(frozen=True)
class _Candidate:
    """A line, the script of run-parts that it stands for, and the programs that it runs."""

    line: CronLine
    programs: Programs
    environment: Mapping[str, str]


def find_lines(host: Host, tables: Tables, database: Database, script: Script) -> list[CronLine]:
    """Find the lines that run a database's script, or that may run it; `script` is the one on the host.

    Raises CouldNotLookError.
    """
    target = str(database.script)
    candidates = [candidate for table in tables.all() for candidate in _read_table(table, tables, target)]
    files = _identify(host, database.script, {path for item in candidates for path in _paths(item.programs)})
    found = []
    for item in candidates:
        programs = _add_wrapped(item, files, target)
        unclear = _decide(programs, files, target)
        if unclear is not None:
            variables = tuple(_differing_variables(programs, database, script))
            deviations = (*item.line.deviations, *variables, *_differing_zone(host, item.environment))
            line = replace(item.line, unclear=unclear, deviations=deviations, elsewhere=bool(variables))
            found.append(line)
    return found


# --- what the lines mean for a task ---------------------------------------------------------------------------------


def require_no_line(host: Host, database: Database, lines: Sequence[CronLine]) -> None:
    """Raise CrontabConflictError if a line runs the script otherwise than published, UnclearCrontabError if one may."""
    require_clear(host, database, lines)
    if lines:
        raise CrontabConflictError(
            f"cron already runs {database.script}, but not as published",
            host=host.name,
            output="\n".join(map(str, lines)),
            advice=f"{_removal_advice(host, database, lines)}; or keep it, and do not enable the published job",
        )


def require_disabled(host: Host, database: Database, lines: Sequence[CronLine]) -> None:
    """Raise CrontabConflictError if a line still runs the script, UnclearCrontabError if one may."""
    require_clear(host, database, lines)
    if lines:
        raise CrontabConflictError(
            f"cron still runs {database.script}",
            host=host.name,
            output="\n".join(map(str, lines)),
            advice=_removal_advice(host, database, lines),
        )


def require_clear(host: Host, database: Database, lines: Sequence[CronLine]) -> None:
    """Raise UnclearCrontabError if there are lines, and it is unclear of all of them whether they run the script."""
    if lines and all(line.unclear for line in lines):
        raise UnclearCrontabError(
            f"cannot tell whether cron runs {database.script}",
            host=host.name,
            output="\n".join(map(str, lines)),
            advice="on the host, write the absolute path of the script into that line, or remove the line",
        )


def _removal_advice(host: Host, database: Database, lines: Sequence[CronLine]) -> str:
    parts = []
    if any(line.is_own and not line.unclear for line in lines):
        task = host.task("disable", "--database", database.name, "--yes")
        parts.append(f"to remove it from the crontab: {task}")
    tables = dict.fromkeys(line.table for line in lines if line.unclear or not line.is_own)
    if tables:
        parts.append(f"on the host, remove it from {' and from '.join(tables)}")
    return "; ".join(parts)


# --- the lines of a table -------------------------------------------------------------------------------------------


def _read_table(table: Table, tables: Tables, target: str) -> Iterator[_Candidate]:
    if table.layout is None:
        environment = default_environment(tables.homes.get("root", ""), "root")
        programs = find_programs_of_file(table.text, environment, target)
        programs.run.add(table.name)
        line = CronLine(table.name, 0, "run by run-parts", is_own=False, deviations=_differing_user("root", tables))
        yield _Candidate(line, programs, environment)
        return
    for entry in parse_crontab(table.text, table.layout):
        user = table.user or entry.user or "root"
        environment = default_environment(tables.homes.get(user, ""), user) | dict(entry.environment)
        programs = find_programs(entry.command.rstrip("\r"), environment, target)
        yield _Candidate(_make_line(table, entry, user, tables), programs, environment)


def _make_line(table: Table, entry: Entry, user: str, tables: Tables) -> CronLine:
    deviations = _differing_user(user, tables)
    if entry.text.endswith("\r"):
        deviations += ("it ends in CRLF, and cron passes the CR to the shell",)
    return CronLine(
        table.name,
        entry.number,
        entry.text,
        is_own=table.name == tables.own_name,
        times=entry.times,
        deviations=deviations,
    )


def _differing_user(user: str, tables: Tables) -> tuple[str, ...]:
    return () if user == tables.user else (f"it runs as {user}, not as {tables.user}",)


def _differing_variables(programs: Programs, database: Database, script: Script) -> Iterator[str]:
    for name, path in {"DATABASE_FILE": database.source, "BACKUP_DIR": database.backup_dir}.items():
        value = programs.variables.get(name, script.default(name))
        if value is not None and posixpath.normpath(value.strip("'\"")) != str(path):
            yield f"{name} is {value}"


def _differing_zone(host: Host, environment: Mapping[str, str]) -> Iterator[str]:
    zone = environment.get("CRON_TZ")
    if zone:
        command = f"cmp -s -- /usr/share/zoneinfo/{quote(zone)} /etc/localtime && echo yes || echo no"
        if not host.query_parsed("compare the time zone of a crontab", command, parse_yes_no):
            yield f"CRON_TZ is {zone}: where cron supports it, it runs the line at other times"


# --- the files that they run ----------------------------------------------------------------------------------------


@dataclass
class _Files:
    """The files of the host: device and inode of each path, and the content of those that name the script."""

    inodes: dict[str, str] = field(default_factory=dict)
    wrappers: dict[str, str] = field(default_factory=dict, repr=False)

    def are_same(self, path: str, target: str) -> bool:
        """Tell whether a path is the target, directly or by links and mounts."""
        inode = self.inodes.get(path)
        return posixpath.normpath(path) == target or (inode is not None and inode == self.inodes.get(target))


def identify_command(target: PurePosixPath) -> str:
    """Build the command that reads paths, each ended by NUL, and prints three texts, each ended by NUL, for a file.

    The texts are `inode`, device and inode, and the path; for a small text file that names the script also `text`, its
    content, and the path. Missing files are left out. The answer ends in END.
    """
    show = f'[ "$1" -ef {quote(target)} ] || {{ printf "text\\0"; tr -d "\\000" < "$1"; printf "\\0%s\\0" "$1"; }}'
    small = f'find -L "$@" -maxdepth 0 -type f -size -{LARGEST_SCRIPT}k'
    files = (
        "find -L \"$@\" -maxdepth 0 -printf 'inode\\0%D:%i\\0%p\\0' 2>/dev/null || :\n"
        f"{small} -exec grep -qsIF -e {quote(target.name)} -- {{}} \\; -exec sh -c {quote(show)} sh {{}} \\; || :"
    )
    return f"xargs -0 -r -- sh -c {quote(files)} sh 2>/dev/null && printf {END}"


def parse_programs(output: str) -> _Files:
    """Parse what `identify_command` printed; raises ValueError, whose text has nothing of the files."""
    *texts, rest = output.split("\0")
    if rest != END or len(texts) % 3:
        raise ValueError("not a list of files")
    files = _Files()
    for kind, value, path in zip(texts[::3], texts[1::3], texts[2::3], strict=True):
        if kind not in ("inode", "text"):
            raise ValueError("neither an inode nor a text")
        (files.inodes if kind == "inode" else files.wrappers)[path] = value
    return files


def _identify(host: Host, target: PurePosixPath, paths: Iterable[str]) -> _Files:
    action = "identify the programs of the crontabs"
    content = "".join(f"{path}\0" for path in sorted({str(target), *paths})).encode("utf-8", "surrogateescape")
    command = identify_command(target)
    result = host.stream(action, command, root=True, timeout=STALL_TIMEOUT, source=io.BytesIO(content)).result
    return parse_private(host, action, result, parse_programs)


def _paths(programs: Programs) -> set[str]:
    return programs.run | programs.passed


def _add_wrapped(item: _Candidate, files: _Files, target: str) -> Programs:
    """Add what the scripts run that a line runs, if they name the target."""
    programs = item.programs
    for path in sorted(programs.run & files.wrappers.keys()):
        inner = find_programs_of_file(files.wrappers[path], item.environment, target)
        same = {path for path in inner.run if files.are_same(path, target)}
        is_named = inner.unclear or any(
            posixpath.basename(path) == posixpath.basename(target) for path in _paths(inner)
        )
        unclear = f"it runs {path}, which names the script" if is_named and not same else ""
        programs = Programs(
            programs.run | same, programs.passed, programs.unclear or unclear, {**programs.variables, **inner.variables}
        )
    return programs


def _decide(programs: Programs, files: _Files, target: str) -> str | None:
    """Return why it is unclear whether a script is run, empty if it is run, and None if it is not."""
    if any(files.are_same(path, target) for path in programs.run):
        return ""
    if any(files.are_same(path, target) for path in programs.passed):
        return "a program that may run the script gets its path"
    return programs.unclear or None
