"""Run a backup and find what it made; list what a host holds."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import PurePosixPath

from . import detached
from .detached import BACKUP, KINDS, Look, Run
from .errors import CouldNotLookError, StepError
from .facts import (
    CRON_PATH,
    File,
    Process,
    files_command,
    holders,
    locked_command,
    look_at_file,
    parse_files,
    quote,
    signal_holders_command,
)
from .hosts import Host
from .settings import Database

STOP_TIMEOUT = 10  # seconds that a backup has to end after a signal, before it gets a stronger one


def is_backup_name(database: Database, name: str) -> bool:
    """Tell whether a file name is one that the database's script gives."""
    return bool(re.fullmatch(re.escape(database.backup_prefix) + r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.db", name))


def list_backups(host: Host, database: Database) -> list[File]:
    """List a database's backups, the newest first; raises CouldNotLookError where the folder cannot be read."""
    command = files_command(database.backup_dir, f"{database.backup_prefix}*.db")
    advice = f"is backup_dir right? If so, make the folder there: mkdir -m 750 {quote(database.backup_dir)}"
    files = host.learn(f"list the backups in {database.backup_dir}", command, parse_files, advice=advice)
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
    run = Run(BACKUP, database.name, command, str(database.source), total, before)
    watched = [database.backup_dir, database.source.parent]
    return detached.start(host, database, run, cron_command(command), watched, floor)


def made(before: Iterable[str], after: Iterable[File], ended: float) -> File | None:
    """Find the backup that a run made: the first that was not there before, written before the run ended.

    `after` comes with the newest first, and may hold backups that were made since; `ended` is in seconds since 1970, by
    the clock of the host, as are the times of its files.
    """
    known = set(before)
    new = (file for file in reversed(list(after)) if file.path.name not in known)
    return next((file for file in new if file.modified.timestamp() <= ended), None)


def begun_command(backup: PurePosixPath) -> str:
    """Ask when a backup was begun, in seconds since 1970; 0 where its disk does not keep that (stat(1))."""
    return f"stat -c %.3W -- {quote(backup)}"


def waited(host: Host, run: Run, backup: PurePosixPath) -> float:
    """Tell for how many seconds a run waited for a lock before it copied; 0 where that is not kept."""
    begun = host.learn(f"see when {backup} was begun", begun_command(backup), float)
    return round(max(0.0, begun - run.started), 3)


def check_run(host: Host, database: Database, run: Run, seen: Look, printed: str) -> File:
    """Return the backup that a run made; raises StepError where it failed, or says it went well and made none."""
    if seen.status != 0:
        host.run("clear what it left", clear_command(database), root=True)
    if seen.status is None or seen.ended is None:
        raise StepError(
            f"the backup of the {database.name} database ended without a word: it was killed, or the server went down",
            host=host.name,
            printed=printed,
            advice="no older backup goes before the new one is on the disk; what it left is cleared",
        )
    if seen.status != 0:
        raise StepError(
            f"the backup of the {database.name} database failed (exit status {seen.status})",
            host=host.name,
            printed=printed,
            advice="after a failure the script of this checkout leaves older backups untouched. "
            f"See: {host.task('list-backups', '--database', database.name)}",
        )
    file = made(run.before, list_backups(host, database), seen.ended)
    if file is None:
        raise StepError(
            f"the script ended well but made no new backup in {database.backup_dir}",
            host=host.name,
            advice="does the script there write to another folder, or has somebody removed it? "
            f"See: {host.task(f'deploy-{database.name}-backup', '--dry-run')}",
        )
    return file


def at_work(host: Host, database: Database) -> list[Process]:
    """See which processes back a database up now, whoever started them: they have the script's lock file open."""
    return holders(host, database.lock) if look_at_file(host, database.lock) else []


def is_at_work_unseen(host: Host, database: Database) -> bool:
    """Tell whether a backup goes on none of whose processes can be seen: only root sees what others have open."""

    def locked() -> bool:
        return host.ask(f"see whether {database.lock} is held", locked_command(database.lock)) == "yes\n"

    return locked() and not at_work(host, database) and locked()


def stop_commands(database: Database, runs: Iterable[str], words: str) -> list[str]:
    """The commands that end what goes on: `runs` are the kinds of run, and cron's backup has the script's lock only.

    The second is for what the first did not end: a process that was just being made, or that heeds no SIGTERM.
    """
    lock = quote(database.lock)
    gentle, hard = (f"[ ! -e {lock} ] || {signal_holders_command(lock, signal)}" for signal in ("TERM", "KILL"))
    told, again = ([f"( {detached.stop_command(database, kind, said)} )" for kind in runs] for said in (words, ""))
    return ["\n".join([*told, gentle]), "\n".join([*again, hard])]


def clear_command(database: Database) -> str:
    """The command that clears what a killed backup has left, unless another one has begun."""
    part, journal, lock = (quote(path) for path in (database.part, f"{database.part}-journal", database.lock))
    return f"[ ! -e {lock} ] || flock --nonblock {lock} rm -f -- {part} {journal} || true"


def going_on(host: Host, database: Database) -> tuple[list[str], list[Process]]:
    """See which kinds of run go on, and which processes back the database up, cron's too.

    Raises CouldNotLookError where all that goes on cannot be seen.
    """
    runs, processes = [kind for kind in KINDS if detached.is_going_on(host, database, kind)], at_work(host, database)
    if not (runs or processes) and is_at_work_unseen(host, database):
        raise CouldNotLookError(
            f"a backup of the {database.name} database is going on, by somebody whose processes may not be seen",
            host=host.name,
            advice="only root sees those of others: set use_sudo to true (INVOKE_USE_SUDO=1), or ask who started it",
        )
    return runs, processes


def stop(host: Host, database: Database, words: str) -> None:
    """End a backup that is at work, a task's or cron's, and the check of one; leave no part. Raises StepError.

    `words` are kept with what the run printed.
    """
    runs, processes = going_on(host, database)
    if not (runs or processes):
        raise StepError(f"no backup of the {database.name} database is going on", host=host.name)
    for command in stop_commands(database, runs, words):
        host.act("stop it", command)
        if _ends(host, database):
            break  # and whoever begins now is somebody else's
    else:
        raise StepError("it did not end", host=host.name, advice="look there: ps -ef | grep -e sqlite3 -e backup")
    host.act("clear what it left", clear_command(database))


def _ends(host: Host, database: Database) -> bool:
    """Wait for the end of all that goes on, STOP_TIMEOUT at most; tell whether it has come."""
    deadline = time.monotonic() + STOP_TIMEOUT
    while any(going_on(host, database)):
        if time.monotonic() > deadline:
            return False
        time.sleep(detached.SHORTEST_WAIT)
    return True
