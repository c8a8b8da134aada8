"""Add the backup to the crontab of the host, and remove it: read the crontabs, decide, show, change."""

from __future__ import annotations

from ..backup.cron_lines import CronLine, find_lines, require_disabled, require_no_line
from ..backup.cron_tables import Tables, read_tables
from ..backup.crontab import (
    CrontabJob,
    add_job,
    diff_crontabs,
    find_line_end_problems,
    job_marker,
    make_job,
    remove_lines,
)
from ..backup.crontab_install import (
    check_executable,
    check_log_writable,
    install_command,
    install_crontab,
    retry_if_changed,
)
from ..backup.permissions import require_safe_paths
from ..backup.script import Script, read_script
from ..errors import StepError
from ..remote.terminal import ask_yes_no
from .scripts import check_local_script, require_deployed
from .session import Session


def enable(work: Session, force_unsafe: bool = False) -> None:
    """Add the database's job to the crontab of the host; if a line does the same already, say so and change nothing.

    Raises StepError for a database that the published crontab has no line for, and unless the script is deployed and
    can be executed; CrontabConflictError if another line runs the script otherwise than published; UnsafeScriptError
    or UncheckedScriptError unless `force_unsafe` is set.
    """
    script = read_script(work.database.local_script)
    check_local_script(work, script, force_unsafe)
    job = make_job(work.settings, work.database, script)
    deployment = require_deployed(work)
    if deployment.is_needed:
        raise StepError(
            f"{deployment.target} is not the script of this checkout",
            host=work.host.name,
            advice=f"deploy it first: {work.task('deploy')}",
        )
    check_executable(work.host, deployment.target, deployment.script)
    require_safe_paths(work.host, work.database, with_script=True, strict=True)
    retry_if_changed(lambda: _enable_job(work, job, deployment.script))


def disable(work: Session, yes: bool = False) -> None:
    """Remove the lines that run the database's script from the crontab of the host; the rest of it does not change.

    A line that no task added is removed after a question, or with `yes`. Raises CrontabConflictError if a line remains
    active, in this crontab or another, and UnclearCrontabError if one may.
    """
    try:
        script = read_script(work.database.local_script)
        job = make_job(work.settings, work.database, script)
    except StepError:  # a job can be removed without them
        script, job = Script(work.database.local_script, b""), None
    retry_if_changed(lambda: _disable_job(work, job, script, yes))


def _enable_job(work: Session, job: CrontabJob, script: Script) -> None:
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


def _disable_job(work: Session, job: CrontabJob | None, script: Script, yes: bool) -> None:
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


def _confirm_removal(work: Session, lines: list[CronLine], yes: bool) -> bool:
    work.out.say("\n".join(["no task added:", *(f"  {line}" for line in lines)]))
    if yes or work.dry_run:
        return True
    return bool(ask_yes_no("Remove it from the crontab?"))


def _report_disabled(work: Session, tables: Tables, removed: list[CronLine], remaining: list[CronLine]) -> None:
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
        work.out.say(f"note: not read, no permission for {tables.user}: {', '.join(tables.unread)}")


def _replace_crontab(work: Session, old: str | None, new: str | None) -> None:
    """Replace the crontab, or in a dry run show how; say what else is changed or wrong in it."""
    for problem in find_line_end_problems(old or ""):
        work.out.say(f"note: {problem}")
    if work.dry_run:
        work.out.say(diff_crontabs(old, new))
        work.show(install_command(old, new))
    else:
        install_crontab(work.host, old, new)
