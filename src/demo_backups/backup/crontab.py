"""The job of a database in a crontab: how the text of a crontab is changed to have it or not."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import NoScheduleError
from ..project import ROOT
from ..remote.shell import quote
from ..settings.model import Database, Settings
from .cron_command import find_programs
from .cron_syntax import Entry, Schedule, default_environment, escape_command, parse_crontab, parse_schedule
from .masking import mask_line
from .script import Script

PUBLISHED = ROOT / "share/container/default/config/crontab.conf"


@dataclass(frozen=True)
class CrontabJob:
    """A database's job: when it runs, its command, and the log for its output."""

    database: str
    times: str  # as published, with its blanks
    command: str
    log: PurePosixPath
    script: PurePosixPath

    @property
    def schedule(self) -> Schedule | None:
        """The times at which it runs; None if they are not certain, as for @reboot."""
        return parse_schedule(self.times)

    @property
    def marker(self) -> str:
        """The start of the comment above the job, which marks it as ours; earlier versions wrote another end."""
        return job_marker(self.database)

    @property
    def comment(self) -> str:
        """The comment above the job."""
        return f"{self.marker} (inv enable --database {self.database})"

    @property
    def line(self) -> str:
        """The line of the crontab."""
        return f"{self.times}{escape_command(f'{self.command} >> {quote(self.log)} 2>&1')}"

    @property
    def block(self) -> str:
        """The lines that enabling adds."""
        return f"{self.comment}\n{self.line}\n"

    def is_line(self, line: str) -> bool:
        """Tell whether a line of a crontab is that of the job, apart from blanks around it."""
        return line.strip(" \t") == self.line


def job_marker(database: str) -> str:
    """Return the start of the comment above a database's job."""
    return f"# demo-backups: {database} database"


# --- the published crontab ------------------------------------------------------------------------------------------


def find_entry(database: Database, text: str) -> Entry:
    """Find the line of a crontab such as the published one that runs a database's script; raises NoScheduleError."""
    for entry in parse_crontab(text):
        programs = find_programs(entry.command, default_environment("/", ""), str(database.script))
        if any(PurePosixPath(path).name == database.script.name for path in programs.run):
            return entry
    raise NoScheduleError(
        f"{PUBLISHED.name} has no line for the {database.name} database: it is backed up by hand",
        advice=f"to have cron back it up, add a line that runs {database.script.name} to {PUBLISHED}",
    )


def count_daily_runs(database: Database, text: str) -> int:
    """Count how often a day a crontab such as the published one runs a database's script; 1 if that is not known."""
    try:
        schedule = find_entry(database, text).schedule
    except NoScheduleError:
        return 1
    return schedule.runs_per_day if schedule else 1


def backup_command(database: Database, script: Script) -> str:
    """Build the command that backs a database up: the script, with the paths that differ from its defaults."""
    paths = {"DATABASE_FILE": database.source, "BACKUP_DIR": database.backup_dir}
    variables = [f"{name}={quote(path)}" for name, path in paths.items() if script.default(name) != str(path)]
    return " ".join([*variables, quote(database.script)])


def make_job(settings: Settings, database: Database, script: Script) -> CrontabJob:
    """Make a database's job, at the published times; raises NoScheduleError."""
    times = find_entry(database, PUBLISHED.read_text()).times
    return CrontabJob(database.name, times, backup_command(database, script), settings.cron_log, database.script)


# --- changes --------------------------------------------------------------------------------------------------------


def add_job(text: str, job: CrontabJob) -> str:
    """Add the job at the top, where no PATH or SHELL setting of the crontab applies to it.

    Returns `text` unchanged if it has the line already. Otherwise the last line gets the line end that crontab(1)
    requires.
    """
    if any(map(job.is_line, text.split("\n"))):
        return text
    return job.block + end_last_line(text)


def remove_lines(text: str, numbers: Collection[int], marker: str) -> str:
    """Remove lines by their numbers, which start at 1, each with the comment above it that starts with `marker`.

    The rest is kept byte for byte, except that its last line gets the line end that crontab(1) requires.
    """
    lines = text.split("\n")
    removed = {number for number in numbers if 1 <= number <= len(lines)}
    removed |= {number - 1 for number in removed if number > 1 and lines[number - 2].startswith(marker)}
    if not removed:
        return text
    return end_last_line("\n".join(line for number, line in enumerate(lines, 1) if number not in removed))


def end_last_line(text: str) -> str:
    """End the last line; crontab(1) of Debian refuses a crontab whose last line has no end."""
    return text if not text or text.endswith("\n") else f"{text}\n"


def find_line_end_problems(text: str) -> list[str]:
    """Find what is wrong with the line ends of a crontab that is to be changed."""
    problems = []
    if text and not text.endswith("\n"):
        problems.append("the last line of the crontab has no line end, which cron requires: it gets one")
    if any(line.endswith("\r") for line in text.split("\n")):
        problems.append("lines of the crontab end in CRLF, and cron passes the CR to the shell; they are not changed")
    return problems


def diff_crontabs(old: str | None, new: str | None) -> str:
    """Compare two crontabs in the format of `diff -u`, without context, and with the secrets of the lines masked."""
    old_lines, new_lines = ((text or "").removesuffix("\n").split("\n") if text else [] for text in (old, new))
    names = ("crontab (installed)", "crontab (new)")
    lines = list(difflib.unified_diff(old_lines, new_lines, *names, lineterm="", n=0))
    head, lines = lines[:2], lines[2:]
    return "\n".join([*head, *(line if line.startswith("@@") else line[0] + mask_line(line[1:]) for line in lines)])
