"""What a host says about the backups of a database, observed in few round trips. Nothing is changed there."""

from __future__ import annotations

import time
from pathlib import PurePosixPath

from ..backup.catalog import list_backups
from ..backup.checks import check_created, check_size
from ..backup.cron_lines import find_lines
from ..backup.cron_tables import read_tables, tables_command
from ..backup.disk_space import Disk, disks_command, read_disks
from ..backup.permissions import access_commands, find_backup_dir_problems, observe_access
from ..backup.script import Script
from ..errors import NoDatabaseError
from ..records.check import Check
from ..recovery.restore_journal import pending_command, read_pending
from ..remote.answers import parse_seconds
from ..remote.fact import Fact, Unavailable
from ..remote.files import File, file_command, files_command
from ..remote.host import Host
from ..remote.job_state import (
    BACKUP,
    RESTORE,
    Job,
    find_command,
    is_running_command,
    jobs_dir,
    status_command,
)
from ..remote.jobs import find_job, is_job_running, read_status
from ..remote.prefetch import prefetch
from ..settings.model import Database, Settings
from ..sqlite.inspect import header_command, read_header, real_path_command, resolve_source
from ..sqlite.sidecars import list_sidecars, sidecars_command
from .cron_log import log_command, parse_log
from .freshness import sort_backups
from .host_facts import CronFacts, HostFacts, LastJob, NoPermission, RestoreFacts, Source
from .host_queries import CLOCK, compare_clocks, try_query
from .leftovers import parse_run_files, run_files_command
from .schedule import longest_interval, read_schedule

JOB_OUTPUT = 4096  # bytes of the output of the last job that are read


def observe_host(host: Host, database: Database, settings: Settings) -> HostFacts:
    """Observe a host; raises CouldNotLookError if it answers nothing at all."""
    before = time.time()
    first = prefetch(host, "look at the backups", _first_commands(database, settings))
    now = first.query_parsed("read the clock", CLOCK, parse_seconds)
    difference = compare_clocks(before, now, time.time())
    backups = try_query(lambda: sort_backups(list_backups(first, database), now))
    newest = None if isinstance(backups, Unavailable) else backups.newest
    resolved = try_query(lambda: _resolve_source(first, database))
    job = try_query(lambda: find_job(first, database, BACKUP))
    second = prefetch(host, "look at the newest backup", _second_commands(database, newest, resolved, job))
    return HostFacts(
        now=now,
        clock_difference=difference,
        backups=backups,
        checks=() if newest is None else try_query(lambda: _check_backup(second, database, newest)),
        cron=try_query(lambda: _observe_cron(first, database)),
        log=try_query(lambda: first.query_parsed("read the log of cron", log_command(settings.cron_log), parse_log)),
        runs=try_query(
            lambda: first.query_parsed("look for unfinished backups", run_files_command(database), parse_run_files)
        ),
        job=_observe_job(second, database, job),
        restore=try_query(
            lambda: RestoreFacts(read_pending(first, database), is_job_running(first, database, RESTORE))
        ),
        source=_observe_source(second, resolved),
        disks=try_query(lambda: _observe_disks(first, database.backup_dir)),
        problems=try_query(lambda: find_backup_dir_problems(observe_access(first, database, with_script=False))),
    )


def _first_commands(database: Database, settings: Settings) -> list[str]:
    return [
        CLOCK,
        files_command(database.backup_dir, f"{database.backup_prefix}*.db"),
        run_files_command(database),
        find_command(jobs_dir(database, BACKUP)),
        pending_command(database.restore_journal),
        is_running_command(jobs_dir(database, RESTORE)),
        disks_command(database.backup_dir),
        real_path_command(database.source),
        "crontab -l",
        tables_command([database.script]),
        log_command(settings.cron_log),
        *access_commands(database),
    ]


def _second_commands(
    database: Database, newest: File | None, resolved: Fact[Database | None], job: Fact[Job | None]
) -> list[str]:
    commands = []
    if newest:
        commands += [sidecars_command(newest.path), header_command(newest.path)]
    if isinstance(resolved, Database):
        source = resolved.source
        commands += [file_command(source), header_command(source), disks_command(source.parent)]
    if isinstance(job, Job):
        commands.append(status_command(jobs_dir(database, BACKUP), job, database.part, 0, JOB_OUTPUT))
    return commands


def _check_backup(host: Host, database: Database, backup: File) -> tuple[Check, ...]:
    """Check what can be checked without reading a whole backup."""
    created = check_created(database, backup, list_sidecars(host, backup.path))
    if backup.type != "f":
        return (created,)
    header = host.run(f"read the header of {backup.path}", header_command(backup.path), root=True, reads_only=True)
    return (created, check_size(backup, header))


def _observe_cron(host: Host, database: Database) -> CronFacts:
    """Find out when cron backs a database up."""
    try:
        content = database.local_script.read_bytes()
    except OSError:  # it only has the defaults of its variables
        content = b""
    tables = read_tables(host, [database.script])
    lines = find_lines(host, tables, database, Script(database.local_script, content))
    certain = [line for line in lines if not line.unclear and not line.elsewhere]
    unclear = [line for line in lines if line.unclear and not line.elsewhere]
    schedules = [schedule for line in certain if (schedule := read_schedule(line))]
    interval = longest_interval(schedules)
    problem = ""
    if certain and not schedules:
        problem = f"it is not certain when cron runs {certain[0].place}"
    elif not certain and unclear:
        problem = f"it is not clear whether {unclear[0].place} runs the script"
    elif not certain and tables.unread:
        problem = f"no permission to read {tables.unread[0]}"
    return CronFacts(interval, problem)


def _observe_job(host: Host, database: Database, job: Fact[Job | None]) -> Fact[LastJob | None]:
    if job is None or isinstance(job, Unavailable):
        return job
    return try_query(lambda: LastJob(job, read_status(host, database, job, 0, JOB_OUTPUT)))


def _resolve_source(host: Host, database: Database) -> Database | None:
    try:
        return resolve_source(host, database)
    except NoDatabaseError:
        return None


def _observe_source(host: Host, resolved: Fact[Database | None]) -> Fact[Source | None]:
    if resolved is None:
        return None
    source = resolved if isinstance(resolved, Unavailable) else try_query(lambda: _read_source(host, resolved.source))
    if isinstance(source, Unavailable) and "Permission denied" in source.output and not host.use_sudo:
        return NoPermission(source.reason, source.error, source.output)
    return source


def _read_source(host: Host, path: PurePosixPath) -> Source:
    header = read_header(host, path)
    disk, _ = read_disks(host, path.parent)
    return Source(header.bytes or 0, disk)


def _observe_disks(host: Host, folder: PurePosixPath) -> tuple[Disk, Disk]:
    disk, home_disk = read_disks(host, folder)
    return disk, home_disk
