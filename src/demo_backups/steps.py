"""The steps of a release, each as one function: observe, decide, show, act. The tasks and the rehearsal call these."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from . import backups, detached, evidence, preflight, reports, schedule, scripts, verification, wal
from .errors import StepError
from .facts import File
from .hosts import Host, open_host
from .settings import Database, Settings, check_host

if TYPE_CHECKING:
    from rich.console import Console


@dataclass
class Work:
    """What a step works with: a host, a database, the record of what is done, and where to say it."""

    host: Host
    settings: Settings
    database: Database
    record: evidence.Record
    out: Console

    def __post_init__(self) -> None:
        # One and the same list: however this ends, the record has what was run.
        self.record.commands = self.host.commands

    def say(self, text: str) -> None:
        """Print words that may come from a server."""
        self.out.print(reports.clean(text), soft_wrap=True)

    def echo(self, text: str) -> None:
        """Print what a command prints, piece by piece as it comes."""
        self.out.print(reports.clean(text), end="", soft_wrap=True)

    def show(self, command: str) -> None:
        """Print a command that would be run on the host."""
        self.say(f"would run on {self.host.name}{', as root' if self.host.use_sudo else ''}:")
        self.say("\n".join(f"  {line}" for line in command.splitlines()))


@contextlib.contextmanager
def begin(
    settings: Settings,
    task: str,
    host: str | None,
    database: str,
    out: Console,
    kind: str | None = None,
    dry_run: bool = False,
) -> Iterator[Work]:
    """Name the host, connect to it once, and unless in a dry run keep a record, of a kind, of what is done."""
    name = check_host(settings.host if host is None else host)
    found = settings.database(database)
    out.print(f"{name}: {task} ({database} database)", soft_wrap=True)
    with contextlib.ExitStack() as stack:
        record = evidence.Record(kind or task, name, database)
        if kind and not dry_run:
            stack.enter_context(evidence.recording(evidence.folder(settings), record))
        yield Work(stack.enter_context(open_host(settings, name)), settings, found, record, out)


def deploy(work: Work, dry_run: bool = False) -> None:
    """Put the database's script on the host; say so and change nothing where it is there already."""
    script = scripts.read_script(work.database.local_script)
    work.record.script_sha256 = script.sha256
    version = scripts.check_tools(work.host)
    change = scripts.plan_push(work.host, work.database, script)
    scripts.check_push(work.host, change)
    if not change.needed:
        work.say(f"{change.target} is this very script already (SHA-256 {script.sha256[:12]}): nothing to do")
        return
    if dry_run:
        work.say(change.diff())
        work.show(change.shown_command())
        return
    scripts.push(work.host, change)
    kept = f"; the old one is {change.target.name}.previous" if change.there else ""
    work.say(f"{change.target} put in place (SHA-256 {script.sha256[:12]}, sqlite3 {version}){kept}")


def deployed(work: Work) -> scripts.Push:
    """Look at the script on the host; raises StepError where there is none."""
    script = scripts.read_script(work.database.local_script)
    there = scripts.plan_push(work.host, work.database, script)
    if there.there is None:
        raise StepError(
            f"there is no {there.target}",
            host=work.host.name,
            advice=f"put it there: {work.host.task(f'deploy-{work.database.name}-backup')}",
        )
    work.record.script_sha256 = there.there.sha256
    return there


def look_ahead(work: Work) -> preflight.Preflight:
    """Tell what a backup will do, before it does."""
    settings, database = work.settings, work.database
    runs_a_day = schedule.runs_a_day(database, schedule.PUBLISHED.read_text())
    records, _ = evidence.read_all(evidence.folder(settings))
    sqlite = scripts.check_tools(work.host)
    seen = preflight.observe(work.host, database, sqlite, runs_a_day, records)
    return preflight.decide(seen, settings.writer_timeout, settings.free_space_floor)


def run(work: Work, dry_run: bool = False, force: bool = False) -> File | None:
    """Run the database's script on the host as cron would, unless it would do harm; return the backup that it made."""
    there = deployed(work)
    if there.needed:
        work.say(f"note: {there.target} there is not the script of this checkout")
    command = schedule.command(work.database, there.script)
    ahead = look_ahead(work)
    work.say("\n".join([f"preflight: {ahead.verdict.value}", *(f"  {reason}" for reason in ahead.reasons)]))
    if dry_run:
        work.show(backups.cron_command(command))
        return None
    if ahead.verdict is preflight.Verdict.NO and not force:
        raise StepError(
            f"the {work.database.name} database was not backed up: it would not go well",
            host=work.host.name,
            printed="\n".join(ahead.reasons),
            advice="mend that, or run it all the same: --force",
        )
    return run_command(work, command, ahead.seen.source_bytes)


def run_command(work: Work, command: str, total: int) -> File:
    """Run a job's command as cron would, and stay with it; return the backup that it made.

    `total` is the size of the source in bytes.
    """
    floor = work.settings.free_space_floor
    with detached.staying(work.host, work.database, detached.BACKUP):
        return finish_run(work, backups.start_backup(work.host, work.database, command, total, floor))


def finish_run(work: Work, run: detached.Run) -> File:
    """Stay with a backup that was started, to its end; return the file that it made."""
    seen, printed = follow(work, run)
    seconds = (seen.ended or seen.now) - run.started
    work.record.exit_status, work.record.seconds = seen.status, round(seconds, 3)
    made = backups.check_run(work.host, work.database, run, seen, printed)
    _note_backup(work.record, made.path, made)
    work.say(f"made {made.path}, {reports.size(made.bytes)}, in {seconds:.1f} s")
    work.record.details["waited_seconds"] = backups.waited(work.host, run, made.path)
    return made


def _note_backup(record: evidence.Record, path: PurePosixPath | None, file: File | None) -> None:
    record.backup = str(path) if path else None
    record.bytes, record.created = (file.bytes, file.modified.isoformat()) if file else (None, None)


def follow(work: Work, run: detached.Run) -> tuple[detached.Look, str]:
    """Stay with a run to its end, showing how far it is; return the last look, and all that it printed."""
    printed: list[str] = []
    with reports.Progress(work.out, run) as progress:

        def echo(text: str) -> None:
            printed.append(text)
            if run.kind == detached.BACKUP and text:
                work.echo(text)

        seen = detached.follow(work.host, work.database, run, echo, progress.show)
    return seen, "".join(printed)


def attach(work: Work) -> verification.Verification | None:
    """Come back to the database's latest run, finished or not, and end as it would have.

    Returns the verification where that run is the check of a backup; raises StepError where there is none.
    """
    found = [detached.find(work.host, work.database, kind) for kind in detached.KINDS]
    runs = sorted((run for run in found if run), key=lambda run: run.started)
    if not runs:
        raise StepError(
            f"there is no run of the {work.database.name} database to come back to",
            host=work.host.name,
            advice=f"start one: {work.host.task(f'run-{work.database.name}-backup')}",
        )
    run = runs[-1]
    work.record.kind = "run" if run.kind == detached.BACKUP else "verification"
    work.say(f"{run.kind} of {run.subject}, started by {run.by} at {run.when}")
    if run.kind == detached.BACKUP:
        with detached.staying(work.host, work.database, run.kind):
            finish_run(work, run)
        return None
    return verify(work, PurePosixPath(run.subject), "quick_check" in run.command, resume=True)


def stop_backup(work: Work, dry_run: bool = False) -> None:
    """End the backup of the database that is at work, or the check of one, and leave no part of it."""
    words = f"stopped by {detached.whoami()}"
    if dry_run:
        runs, processes = backups.going_on(work.host, work.database)
        work.say("\n".join([*(f"a {kind} goes on" for kind in runs), *map(str, processes)]) or "nothing goes on")
        commands = [*backups.stop_commands(work.database, runs, words), backups.clear_command(work.database)]
        work.show("\n".join(commands))
        return
    backups.stop(work.host, work.database, words)
    work.say("stopped; nothing of it is left, and older backups are untouched")


def enable_wal(work: Work, undo: bool = False, dry_run: bool = False) -> None:
    """Put the live database in WAL mode, or with `undo` back in rollback mode; say so where it is there already."""
    wanted = not undo
    name = "WAL" if wanted else "rollback"
    mode = wal.look_at_mode(work.host, work.database)
    if mode.wal == wanted:
        work.say(f"{work.database.source} is in {name} mode already: nothing to do")
        return
    wal.check_owner(work.host, work.database)
    if wanted:
        work.say(wal.changes(work.host, work.database))
    if dry_run:
        work.show(wal.mode_command(work.database, wanted))
        return
    tries = wal.change_mode(work.host, work.database, wanted)
    seen = wal.check_mode(work.host, work.database, wanted)
    beside = ", ".join(PurePosixPath(path).name for path in seen.beside) or "nothing"
    work.say(f"{work.database.source} is in {name} mode now (tries: {tries}); beside it: {beside}")


def verify(
    work: Work, path: PurePosixPath | None = None, quick: bool = False, resume: bool = False
) -> verification.Verification:
    """Verify a backup of the database, the newest by default; a name alone is looked for in the backup folder."""
    if path is not None:
        path = work.database.backup_dir / path
    tolerance = work.settings.size_tolerance
    seen = verification.verify(work.host, work.database, path, quick, tolerance, lambda run: follow(work, run), resume)
    work.record.script_sha256 = scripts.sha256_there(work.host, work.database.script)
    _note_backup(work.record, seen.path, seen.backup)
    work.record.checks = [{"name": each.name, "passed": each.passed, "detail": each.detail} for each in seen.checks]
    work.record.integrity_check = seen.integrity
    work.record.details["source_bytes"] = seen.source_bytes
    work.record.exit_status = seen.exit_code
    return seen


def enable(work: Work, dry_run: bool = False) -> None:
    """Put the database's job into the host's crontab; say so and change nothing where it is active already."""
    there = deployed(work)
    job = schedule.job(work.settings, work.database, there.script)
    if there.needed:
        raise StepError(
            f"{there.target} is not the script of this checkout",
            host=work.host.name,
            advice=f"put it there first: {work.host.task(f'deploy-{work.database.name}-backup')}",
        )
    old = schedule.read_crontab(work.host)
    new = schedule.enable(old or "", job)
    if new == old:
        work.say(f"in the crontab, and active: nothing to do\n  {job.line}")
        return
    schedule.check_log(work.host, job.log)
    _replace(work, old, new, dry_run)
    if not dry_run:
        work.say(f"in the crontab now:\n  {job.line}")


def disable(work: Work, dry_run: bool = False) -> None:
    """Take the database's job out of the host's crontab again, and leave the rest as it was."""
    job = schedule.job(work.settings, work.database, scripts.read_script(work.database.local_script))
    old = schedule.read_crontab(work.host)
    new = schedule.disable(old or "", job)
    if new == (old or ""):
        work.say("not in the crontab: nothing to do")
        return
    _replace(work, old, new or None, dry_run)
    if not dry_run:
        work.say("out of the crontab again; the rest of it is as it was")


def _replace(work: Work, old: str | None, new: str | None, dry_run: bool) -> None:
    if dry_run:
        work.say(schedule.diff(old, new))
        work.show(schedule.install_command(old, new, shown=True))
    else:
        schedule.install(work.host, old, new)


def list_backups(work: Work) -> list[File]:
    """List the database's backups on the host, the newest first."""
    return backups.list_backups(work.host, work.database)
