"""The steps of a release, each as one function: observe, decide, show, act. The tasks and the rehearsal call these."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from .backup import catalog
from .backup.crontab import (
    PUBLISHED,
    add_job,
    backup_command,
    check_log_writable,
    count_daily_runs,
    diff_crontabs,
    install_command,
    install_crontab,
    make_job,
    read_crontab,
    remove_job,
)
from .backup.deploy import (
    Deployment,
    check_deployment,
    deploy_script,
    installed_sha256,
    plan_deployment,
    probe_sqlite,
    require_tools,
)
from .backup.preflight import Preflight, Verdict, decide_preflight, observe_preflight
from .backup.run import clear_command, clear_unfinished, collect_result, cron_command, lock_wait, start_backup
from .backup.script import read_script
from .backup.stop import active_jobs, end_backup, stop_commands
from .backup.verify import Verification, verify_backup
from .errors import PreflightRefusedError, StepError
from .project import whoami
from .records.record import Record
from .records.store import read_records, record_outcome, records_dir
from .remote.connection import open_host
from .remote.files import File
from .remote.host import Host
from .remote.jobs import BACKUP, KINDS, Job, JobStatus, find_job, follow_job, hint_on_detach
from .settings import Database, Settings, check_host
from .sqlite.journal_mode import (
    change_journal_mode,
    check_journal_mode,
    check_sidecars_writable,
    describe_wal_mode,
    journal_mode_command,
    read_journal_mode,
)
from .ui.console import escape_controls
from .ui.progress import JobProgress
from .units import format_size

if TYPE_CHECKING:
    from rich.console import Console


@dataclass
class Session:
    """What a step works with: a host, a database, the record of what is done, and where to say it."""

    host: Host
    settings: Settings
    database: Database
    record: Record
    out: Console

    def __post_init__(self) -> None:
        # One and the same list: however this ends, the record has what was run.
        self.record.commands = self.host.commands

    def say(self, text: str) -> None:
        """Print words that may come from a server."""
        self.out.print(escape_controls(text), soft_wrap=True)

    def echo(self, text: str) -> None:
        """Print what a command prints, piece by piece as it comes."""
        self.out.print(escape_controls(text), end="", soft_wrap=True)

    def show(self, command: str) -> None:
        """Print a command that would be run on the host."""
        self.say(f"would run on {self.host.name}{', as root' if self.host.use_sudo else ''}:")
        self.say("\n".join(f"  {line}" for line in command.splitlines()))


@contextlib.contextmanager
def open_session(
    settings: Settings,
    task: str,
    host: str | None,
    database: str,
    out: Console,
    kind: str | None = None,
    dry_run: bool = False,
) -> Iterator[Session]:
    """Name the host, connect to it once, and unless in a dry run keep a record, of a kind, of what is done."""
    name = check_host(settings.host if host is None else host)
    found = settings.database(database)
    out.print(f"{name}: {task} ({database} database)", soft_wrap=True)
    with contextlib.ExitStack() as stack:
        record = Record(kind or task, name, database)
        if kind and not dry_run:
            stack.enter_context(record_outcome(records_dir(settings), record))
        yield Session(stack.enter_context(open_host(settings, name)), settings, found, record, out)


def deploy(work: Session, dry_run: bool = False) -> None:
    """Put the database's script on the host; say so and change nothing where it is there already."""
    script = read_script(work.database.local_script)
    work.record.script_sha256 = script.sha256
    require_tools(work.host)
    version = probe_sqlite(work.host)
    change = plan_deployment(work.host, work.database, script)
    check_deployment(work.host, change)
    if not change.is_needed:
        work.say(f"{change.target} is this very script already (SHA-256 {script.sha256[:12]}): nothing to do")
        return
    if dry_run:
        work.say(change.diff())
        work.show(change.command())
        return
    deploy_script(work.host, change)
    kept = f"; the old one is {change.target.name}.previous" if change.installed else ""
    work.say(f"{change.target} put in place (SHA-256 {script.sha256[:12]}, sqlite3 {version}){kept}")


def require_deployed(work: Session) -> Deployment:
    """Look at the script on the host; raises StepError where there is none."""
    script = read_script(work.database.local_script)
    there = plan_deployment(work.host, work.database, script)
    if there.installed is None:
        raise StepError(
            f"there is no {there.target}",
            host=work.host.name,
            advice=f"put it there: {work.host.task(f'deploy-{work.database.name}-backup')}",
        )
    work.record.script_sha256 = there.installed.sha256
    return there


def preflight(work: Session) -> Preflight:
    """Tell what a backup will do, before it does."""
    settings, database = work.settings, work.database
    runs_a_day = count_daily_runs(database, PUBLISHED.read_text())
    records, _ = read_records(records_dir(settings))
    require_tools(work.host)
    sqlite = probe_sqlite(work.host)
    seen = observe_preflight(work.host, database, sqlite, runs_a_day, records)
    return decide_preflight(seen, settings.writer_timeout, settings.free_space_floor)


def run(work: Session, dry_run: bool = False, force: bool = False) -> File | None:
    """Run the database's script on the host as cron would, unless it would do harm; return the backup that it made."""
    there = require_deployed(work)
    if there.is_needed:
        work.say(f"note: {there.target} there is not the script of this checkout")
    command = backup_command(work.database, there.script)
    ahead = preflight(work)
    work.say("\n".join([f"preflight: {ahead.verdict.value}", *(f"  {reason}" for reason in ahead.reasons)]))
    if dry_run:
        work.show(cron_command(command))
        return None
    if ahead.verdict is Verdict.NO and not force:
        raise PreflightRefusedError(
            f"the {work.database.name} database was not backed up: the preflight says no",
            host=work.host.name,
            output="\n".join(ahead.reasons),
            advice="remove the cause, or run it anyway: --force",
        )
    return run_command(work, command, ahead.facts.source_bytes)


def run_command(work: Session, command: str, total: int) -> File:
    """Run a job's command as cron would, and stay with it; return the backup that it made.

    `total` is the size of the source in bytes.
    """
    floor = work.settings.free_space_floor
    with hint_on_detach(work.host, work.database, BACKUP):
        return finish_run(work, start_backup(work.host, work.database, command, total, floor))


def finish_run(work: Session, run: Job) -> File:
    """Stay with a backup that was started, to its end; return the file that it made."""
    seen, printed = follow(work, run)
    seconds = (seen.ended or seen.now) - run.started
    work.record.exit_status, work.record.seconds = seen.status, round(seconds, 3)
    if seen.status != 0:
        clear_unfinished(work.host, work.database)
    made = collect_result(work.host, work.database, run, seen, printed)
    _note_backup(work.record, made.path, made)
    work.say(f"made {made.path}, {format_size(made.bytes)}, in {seconds:.1f} s")
    work.record.details["waited_seconds"] = lock_wait(work.host, run, made.path)
    return made


def _note_backup(record: Record, path: PurePosixPath | None, file: File | None) -> None:
    record.backup = str(path) if path else None
    record.bytes, record.created = (file.bytes, file.modified.isoformat()) if file else (None, None)


def follow(work: Session, run: Job) -> tuple[JobStatus, str]:
    """Stay with a run to its end, showing how far it is; return the last look, and all that it printed."""
    printed: list[str] = []
    with JobProgress(work.out, run) as progress:

        def echo(text: str) -> None:
            printed.append(text)
            if run.kind == BACKUP and text:
                work.echo(text)

        seen = follow_job(work.host, work.database, run, echo, progress.show)
    return seen, "".join(printed)


def attach(work: Session) -> Verification | None:
    """Come back to the database's latest run, finished or not, and end as it would have.

    Returns the verification where that run is the check of a backup; raises StepError where there is none.
    """
    found = [find_job(work.host, work.database, kind) for kind in KINDS]
    runs = sorted((run for run in found if run), key=lambda run: run.started)
    if not runs:
        raise StepError(
            f"there is no run of the {work.database.name} database to come back to",
            host=work.host.name,
            advice=f"start one: {work.host.task(f'run-{work.database.name}-backup')}",
        )
    run = runs[-1]
    work.record.kind = "run" if run.kind == BACKUP else "verification"
    work.say(f"{run.kind} of {run.subject}, started by {run.by} at {run.when}")
    if run.kind == BACKUP:
        with hint_on_detach(work.host, work.database, run.kind):
            finish_run(work, run)
        return None
    return verify(work, PurePosixPath(run.subject), "quick_check" in run.command, resume=True)


def stop_backup(work: Session, dry_run: bool = False) -> None:
    """End the backup of the database that is at work, or the check of one, and leave no part of it."""
    words = f"stopped by {whoami()}"
    if dry_run:
        active = active_jobs(work.host, work.database)
        lines = [*(f"a {kind} is running" for kind in active.kinds), *map(str, active.processes)]
        work.say("\n".join(lines) or "nothing is running")
        commands = [*stop_commands(work.database, active.kinds, words), clear_command(work.database)]
        work.show("\n".join(commands))
        return
    end_backup(work.host, work.database, words)
    work.say("stopped; nothing of it is left, and older backups are untouched")


def enable_wal(work: Session, undo: bool = False, dry_run: bool = False) -> None:
    """Put the live database in WAL mode, or with `undo` back in rollback mode; say so where it is there already."""
    wanted = not undo
    name = "WAL" if wanted else "rollback"
    mode = read_journal_mode(work.host, work.database)
    if mode.wal == wanted:
        work.say(f"{work.database.source} is in {name} mode already: nothing to do")
        return
    check_sidecars_writable(work.host, work.database)
    if wanted:
        work.say(describe_wal_mode(work.host, work.database))
    if dry_run:
        work.show(journal_mode_command(work.database, wanted))
        return
    tries = change_journal_mode(work.host, work.database, wanted)
    seen = check_journal_mode(work.host, work.database, wanted)
    beside = ", ".join(path.name for path in seen.sidecars) or "nothing"
    work.say(f"{work.database.source} is in {name} mode now (tries: {tries}); beside it: {beside}")


def verify(work: Session, path: PurePosixPath | None = None, quick: bool = False, resume: bool = False) -> Verification:
    """Verify a backup of the database, the newest by default; a name alone is looked for in the backup folder."""
    if path is not None:
        path = work.database.backup_dir / path
    tolerance = work.settings.size_tolerance
    seen = verify_backup(work.host, work.database, path, quick, tolerance, lambda run: follow(work, run), resume)
    work.record.script_sha256 = installed_sha256(work.host, work.database.script)
    _note_backup(work.record, seen.path, seen.backup)
    work.record.checks = [
        {"name": check.name, "passed": check.outcome.value, "detail": check.detail} for check in seen.checks
    ]
    work.record.integrity_check = seen.integrity
    work.record.details["source_bytes"] = seen.source_bytes
    work.record.exit_status = seen.exit_code
    return seen


def enable(work: Session, dry_run: bool = False) -> None:
    """Put the database's job into the host's crontab; say so and change nothing where it is active already."""
    there = require_deployed(work)
    job = make_job(work.settings, work.database, there.script)
    if there.is_needed:
        raise StepError(
            f"{there.target} is not the script of this checkout",
            host=work.host.name,
            advice=f"put it there first: {work.host.task(f'deploy-{work.database.name}-backup')}",
        )
    old = read_crontab(work.host)
    new = add_job(old or "", job)
    if new == old:
        work.say(f"in the crontab, and active: nothing to do\n  {job.line}")
        return
    check_log_writable(work.host, job.log)
    _replace(work, old, new, dry_run)
    if not dry_run:
        work.say(f"in the crontab now:\n  {job.line}")


def disable(work: Session, dry_run: bool = False) -> None:
    """Take the database's job out of the host's crontab again, and leave the rest as it was."""
    job = make_job(work.settings, work.database, read_script(work.database.local_script))
    old = read_crontab(work.host)
    new = remove_job(old or "", job)
    if new == (old or ""):
        work.say("not in the crontab: nothing to do")
        return
    _replace(work, old, new or None, dry_run)
    if not dry_run:
        work.say("out of the crontab again; the rest of it is as it was")


def _replace(work: Session, old: str | None, new: str | None, dry_run: bool) -> None:
    if dry_run:
        work.say(diff_crontabs(old, new))
        work.show(install_command(old, new))
    else:
        install_crontab(work.host, old, new)


def list_backups(work: Session) -> list[File]:
    """List the database's backups on the host, the newest first."""
    return catalog.list_backups(work.host, work.database)
