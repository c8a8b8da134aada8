"""Run a backup and find what it made; list what a host holds."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from . import detached
from .detached import Look, Run
from .errors import StepError
from .facts import (
    CRON_PATH,
    File,
    Process,
    files_command,
    holders,
    look_at_file,
    parse_files,
    quote,
    signal_holders_command,
)
from .hosts import Host
from .settings import Database

KIND = "backup"
STOP_TIMEOUT = 10  # seconds that a backup has to end after a signal, before it gets a stronger one


def is_backup_name(database: Database, name: str) -> bool:
    """Tell whether a file name is one that the database's script gives."""
    return bool(re.fullmatch(re.escape(database.backup_prefix) + r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.db", name))


def list_backups(host: Host, database: Database) -> list[File]:
    """List a database's backups, the newest first; raises CouldNotLookError where the folder cannot be read."""
    command = files_command(database.backup_dir, f"{database.backup_prefix}*.db")
    advice = f"is backup_dir right? If so, make the folder there: mkdir -m 750 {quote(database.backup_dir)}"
    files = parse_files(host.ask(f"list the backups in {database.backup_dir}", command, advice=advice))
    backups = (file for file in files if is_backup_name(database, file.path.name))
    return sorted(backups, key=lambda file: (file.modified, file.path), reverse=True)


def cron_command(command: str) -> str:
    """Run a job's command as cron would: /bin/sh, the home directory, the bare environment (crontab(5), cron(8))."""
    environment = f'HOME="$HOME" LOGNAME="$(id -un)" SHELL=/bin/sh PATH={CRON_PATH}'
    return f"cd && exec env -i {environment} /bin/sh -c {quote(command)}"


def start_backup(host: Host, database: Database, command: str, total: int, floor: int) -> Run:
    """Start a job's command as cron would; it goes on by itself, and stops where less than `floor` bytes stay free.

    `total` is the size of the source in bytes. Raises StepError where a backup is going on.
    """
    before = [backup.path.name for backup in list_backups(host, database)]
    run = Run(KIND, database.name, command, str(database.source), total, before)
    watched = [database.backup_dir, database.source.parent]
    return detached.start(host, database, run, cron_command(command), watched, floor)


def made(before: Iterable[str], after: Iterable[File]) -> File | None:
    """Find the first backup that was not there before; `after` comes with the newest first.

    The first, since more may have been made until somebody asks. By name, since no clock is to be trusted.
    """
    known = set(before)
    return next((file for file in reversed(list(after)) if file.path.name not in known), None)


def check_run(host: Host, database: Database, run: Run, seen: Look, printed: str) -> File:
    """Return the backup that a run made; raises StepError where it failed, or says it went well and made none."""
    if seen.status is None:
        raise StepError(
            f"the backup of the {database.name} database ended without a word: it was killed, or the server went down",
            host=host.name,
            printed=printed,
            advice="older backups are untouched, and the next run clears what it left",
        )
    if seen.status != 0:
        raise StepError(
            f"the backup of the {database.name} database failed (exit status {seen.status})",
            host=host.name,
            printed=printed,
            advice="after a failure the script of this checkout leaves older backups untouched. "
            f"See: inv list-backups --database {database.name}",
        )
    file = made(run.before, list_backups(host, database))
    if file is None:
        raise StepError(
            f"the script ended well but made no new backup in {database.backup_dir}",
            host=host.name,
            advice=f"does the script there write to another folder? See: inv deploy-{database.name}-backup --dry-run",
        )
    return file


def at_work(host: Host, database: Database) -> list[Process]:
    """See which processes back a database up now, whoever started them: they have the script's lock file open."""
    return holders(host, database.lock) if look_at_file(host, database.lock) else []


def signal_commands(database: Database) -> list[str]:
    """The commands that end a backup: the second where the first did not."""
    lock = database.lock
    return [f"[ ! -e {quote(lock)} ] || {signal_holders_command(lock, signal)}" for signal in ("TERM", "KILL")]


def clear_command(database: Database) -> str:
    """The command that clears what a killed backup has left, unless another one has begun."""
    part, journal, lock = (quote(path) for path in (database.part, f"{database.part}-journal", database.lock))
    return f"[ ! -e {lock} ] || flock --nonblock {lock} rm -f -- {part} {journal}"


def stop_backup(host: Host, database: Database, words: str) -> None:
    """End a backup that is at work, a task's or cron's, and leave no part of it; raises StepError.

    `words` are kept with what the run printed.
    """
    run = detached.find(host, database, KIND)
    if run and detached.look(host, database, KIND).running:
        detached.tell_to_stop(host, database, KIND, words)
    elif not at_work(host, database):
        raise StepError(f"no backup of the {database.name} database is going on", host=host.name)
    for command in signal_commands(database):
        host.act("stop the backup", command)
        deadline = time.monotonic() + STOP_TIMEOUT
        while at_work(host, database) and time.monotonic() < deadline:
            time.sleep(detached.SHORTEST_WAIT)
    host.act("clear what it left", clear_command(database))
