"""The steps of a release, each as one function: observe, decide, show, act. The tasks and the rehearsal call these."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from . import backups, evidence, reports, schedule, scripts, verification
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
    settings: Settings, task: str, host: str | None, database: str, out: Console, kind: str | None = None
) -> Iterator[Work]:
    """Name the host, connect to it once, and keep a record of the given kind of what is done there."""
    name = check_host(settings.host if host is None else host)
    found = settings.database(database)
    out.print(f"{name}: {task} ({database} database)", soft_wrap=True)
    with contextlib.ExitStack() as stack:
        record = evidence.Record(kind or task, name, database)
        if kind:
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
        work.show(change.command(payload=f"<{len(script.content):,} bytes of {script.path.name}, base64>"))
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
            advice=f"put it there: inv deploy-{work.database.name}-backup",
        )
    work.record.script_sha256 = there.there.sha256
    return there


def run(work: Work, dry_run: bool = False) -> File | None:
    """Run the database's script on the host as cron would; return the backup that it made."""
    there = deployed(work)
    if there.needed:
        work.say(f"note: {there.target} there is not the script of this checkout")
    job = schedule.job(work.settings, work.database, there.script)
    return run_command(work, job.command, dry_run)


def run_command(work: Work, command: str, dry_run: bool = False) -> File | None:
    """Run a job's command as cron would; return the backup that it made, None in a dry run."""
    if dry_run:
        work.show(backups.cron_command(command))
        return None
    done = backups.run_backup(work.host, work.database, command, work.echo)
    work.record.exit_status, work.record.seconds = done.status, round(done.seconds, 3)
    made = backups.check_run(work.host, work.database, done)
    work.record.backup, work.record.bytes = str(made.path), made.bytes
    work.say(f"made {made.path}, {reports.size(made.bytes)}, in {done.seconds:.1f} s")
    return made


def verify(work: Work, path: PurePosixPath | None = None, quick: bool = False) -> verification.Verification:
    """Verify a backup of the database, the newest by default; a name alone is looked for in the backup folder."""
    if path is not None:
        path = work.database.backup_dir / path
    seen = verification.verify(work.host, work.database, path, quick, work.settings.size_tolerance)
    work.record.script_sha256 = scripts.sha256_there(work.host, work.database.script)
    work.record.backup = str(seen.path) if seen.path else None
    work.record.bytes = seen.backup.bytes if seen.backup else None
    work.record.checks = [asdict(check) for check in seen.checks]
    work.record.integrity_check = seen.integrity
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
            advice=f"put it there first: inv deploy-{work.database.name}-backup",
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
        work.show(schedule.install_command(old, new, payload=f"<{len(new or ''):,} bytes, base64>"))
    else:
        schedule.install(work.host, old, new)


def list_backups(work: Work) -> list[File]:
    """List the database's backups on the host, the newest first."""
    return backups.list_backups(work.host, work.database)
