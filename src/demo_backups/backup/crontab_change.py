"""Enable and disable a job: read the crontabs, decide, show, and change the one that the tasks change."""

from __future__ import annotations

from typing import Protocol

from ..remote.host import Host
from ..remote.terminal import ask_yes_no
from ..settings import Database
from .cron_lines import CronLine, find_lines, require_disabled, require_no_line
from .cron_tables import Tables, read_tables
from .crontab import CrontabJob, add_job, diff_crontabs, find_line_end_problems, job_marker, remove_lines
from .crontab_install import check_log_writable, install_command, install_crontab
from .script import Script


class Output(Protocol):
    """Where a task prints."""

    def say(self, text: str) -> None:
        """Print lines."""


class Task(Protocol):
    """What a change of a crontab needs of the session of a task."""

    @property
    def host(self) -> Host:
        """The host."""

    @property
    def database(self) -> Database:
        """The database whose script is run."""

    @property
    def out(self) -> Output:
        """The console."""

    @property
    def dry_run(self) -> bool:
        """Whether nothing may be changed."""

    def show(self, command: str) -> None:
        """Print a command that would run on the host."""


def enable_job(work: Task, job: CrontabJob, script: Script) -> None:
    """Add the job, unless a line does the same already.

    Raises CrontabConflictError or UnclearCrontabError if another line runs the script or may run it, and
    CrontabChangedError if the crontab changes meanwhile.
    """
    tables = read_tables(work.host, [work.database.script])
    lines = find_lines(work.host, tables, work.database, script)
    equivalent = [line for line in lines if line.is_equivalent(job)]
    if not equivalent:
        require_no_line(work.host, work.database, lines)
        check_log_writable(work.host, job.log)
        _replace_crontab(work, tables.own, add_job(tables.own or "", job))
        if not work.dry_run:
            work.out.say(f"enabled; the crontab has the line\n  {job.line}")
        return
    place = "" if equivalent[0].is_own else f" in {equivalent[0].table}"
    work.out.say(f"already enabled{place}: nothing to do\n  {equivalent[0].masked}")
    for line in lines:
        if line is not equivalent[0]:
            work.out.say(f"note: another line {'may run' if line.unclear else 'runs'} the script: {line}")


def disable_job(work: Task, job: CrontabJob | None, script: Script, yes: bool) -> None:
    """Remove the lines that run the script: those that no task added after a question, or with `yes`.

    Raises CrontabConflictError or UnclearCrontabError if a line remains, CrontabChangedError if it changes meanwhile.
    """
    tables = read_tables(work.host, [work.database.script])
    lines = find_lines(work.host, tables, work.database, script)
    own = [line for line in lines if line.is_own and not line.unclear]
    foreign = [line for line in own if job is None or not job.is_line(line.text)]
    removed = (
        own if not foreign or _confirm_removal(work, foreign, yes) else [line for line in own if line not in foreign]
    )
    if removed:
        text = remove_lines(tables.own or "", [line.number for line in removed], job_marker(work.database.name))
        _replace_crontab(work, tables.own, text or None)
    _report_disabled(work, tables, removed, [line for line in lines if line not in removed])


def _confirm_removal(work: Task, lines: list[CronLine], yes: bool) -> bool:
    work.out.say("\n".join(["no task added:", *(f"  {line}" for line in lines)]))
    if yes or work.dry_run:
        return True
    return bool(ask_yes_no("Remove it from the crontab?"))


def _report_disabled(work: Task, tables: Tables, removed: list[CronLine], remaining: list[CronLine]) -> None:
    """Print what was done; raises CrontabConflictError or UnclearCrontabError if a line remains."""
    if work.dry_run:
        for line in remaining:
            work.out.say(f"would remain: {line}")
        return
    if removed:
        work.out.say(f"{'removed' if remaining else 'disabled'}; the rest of the crontab is unchanged")
    require_disabled(work.host, work.database, remaining)
    if not removed:
        work.out.say("not in the crontab: nothing to do")
    if tables.unread:
        work.out.say(f"note: not read, because {tables.user} may not: {', '.join(tables.unread)}")


def _replace_crontab(work: Task, old: str | None, new: str | None) -> None:
    """Replace the crontab, or in a dry run show how; say what else is changed or wrong in it."""
    for problem in find_line_end_problems(old or ""):
        work.out.say(f"note: {problem}")
    if work.dry_run:
        work.out.say(diff_crontabs(old, new))
        work.show(install_command(old, new))
    else:
        install_crontab(work.host, old, new)
