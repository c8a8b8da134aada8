"""Run the backup script on a host, and find the backup that it made."""

from __future__ import annotations

from pathlib import PurePosixPath

from ..errors import StepError
from ..remote.files import File
from ..remote.host import Host
from ..remote.jobs import BACKUP, Job, JobStatus, start_job
from ..remote.shell import CRON_PATH, quote
from ..settings import Database
from .catalog import find_new_backup, list_backups


def cron_command(command: str) -> str:
    """Run a job's command as cron would: /bin/sh, the home directory, the bare environment (crontab(5), cron(8))."""
    environment = f'HOME="$HOME" LOGNAME="$(id -un)" SHELL=/bin/sh PATH={CRON_PATH}'
    return f"cd && exec env -i {environment} /bin/sh -c {quote(command)}"


def start_backup(host: Host, database: Database, command: str, total: int, floor: int) -> Job:
    """Start a job's command as cron would; it goes on by itself, and stops where less than `floor` bytes stay free.

    `total` is the size of the source in bytes. Raises StepError where a backup is going on.
    """
    before = [backup.path.name for backup in list_backups(host, database)]
    run = Job(BACKUP, database.name, command, str(database.source), total, before)
    watched = [database.backup_dir, database.source.parent]
    return start_job(host, database, run, cron_command(command), watched, floor)


def birth_time_command(backup: PurePosixPath) -> str:
    """Ask when a backup was begun, in seconds since 1970; 0 where its disk does not keep that (stat(1))."""
    return f"stat -c %.3W -- {quote(backup)}"


def lock_wait(host: Host, run: Job, backup: PurePosixPath) -> float:
    """Tell for how many seconds a run waited for a lock before it copied; 0 where that is not kept."""
    begun = host.query_parsed(f"see when {backup} was begun", birth_time_command(backup), float)
    return round(max(0.0, begun - run.started), 3)


def collect_result(host: Host, database: Database, run: Job, seen: JobStatus, printed: str) -> File:
    """Return the backup that a run made; raises StepError where it failed, or says it went well and made none."""
    if seen.status != 0:
        host.run("clear what it left", clear_command(database), root=True)
    if seen.status is None or seen.ended is None:
        raise StepError(
            f"the backup of the {database.name} database ended without a word: it was killed, or the server went down",
            host=host.name,
            output=printed,
            advice="no older backup goes before the new one is on the disk; what it left is cleared",
        )
    if seen.status != 0:
        raise StepError(
            f"the backup of the {database.name} database failed (exit status {seen.status})",
            host=host.name,
            output=printed,
            advice="after a failure the script of this checkout leaves older backups untouched. "
            f"See: {host.task('list-backups', '--database', database.name)}",
        )
    file = find_new_backup(run.before, list_backups(host, database), seen.ended)
    if file is None:
        raise StepError(
            f"the script ended well but made no new backup in {database.backup_dir}",
            host=host.name,
            advice="does the script there write to another folder, or has somebody removed it? "
            f"See: {host.task(f'deploy-{database.name}-backup', '--dry-run')}",
        )
    return file


def clear_command(database: Database) -> str:
    """The command that clears what a killed backup has left, unless another one has begun."""
    part, journal, lock = (quote(path) for path in (database.part, f"{database.part}-journal", database.lock))
    return f"[ ! -e {lock} ] || flock --nonblock {lock} rm -f -- {part} {journal} || true"
