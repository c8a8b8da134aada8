"""Stop a running backup, or the check of one."""

from __future__ import annotations

import time
from collections.abc import Iterable

from ..errors import CouldNotLookError, StepError
from ..remote.host import Host
from ..remote.jobs import KINDS, SHORTEST_WAIT, is_job_running, stop_job_command
from ..remote.processes import Process, signal_processes_command
from ..remote.shell import quote
from ..settings import Database
from .catalog import backup_processes, has_hidden_backup
from .run import clear_command

STOP_TIMEOUT = 10  # seconds that a backup has to end after a signal, before it gets a stronger one


def stop_commands(database: Database, runs: Iterable[str], words: str) -> list[str]:
    """The commands that end what goes on: `runs` are the kinds of run, and cron's backup has the script's lock only.

    The second is for what the first did not end: a process that was just being made, or that heeds no SIGTERM.
    """
    lock = quote(database.lock)
    gentle, hard = (f"[ ! -e {lock} ] || {signal_processes_command(lock, signal)}" for signal in ("TERM", "KILL"))
    told, again = ([f"( {stop_job_command(database, kind, said)} )" for kind in runs] for said in (words, ""))
    return ["\n".join([*told, gentle]), "\n".join([*again, hard])]


def active_jobs(host: Host, database: Database) -> tuple[list[str], list[Process]]:
    """See which kinds of run go on, and which processes back the database up, cron's too.

    Raises CouldNotLookError where all that goes on cannot be seen.
    """
    runs, processes = [kind for kind in KINDS if is_job_running(host, database, kind)], backup_processes(host, database)
    if not (runs or processes) and has_hidden_backup(host, database):
        raise CouldNotLookError(
            f"a backup of the {database.name} database is going on, by somebody whose processes may not be seen",
            host=host.name,
            advice="only root sees those of others: set use_sudo to true (INVOKE_USE_SUDO=1), or ask who started it",
        )
    return runs, processes


def end_backup(host: Host, database: Database, words: str) -> None:
    """End a backup that is at work, a task's or cron's, and the check of one; leave no part. Raises StepError.

    `words` are kept with what the run printed.
    """
    runs, processes = active_jobs(host, database)
    if not (runs or processes):
        raise StepError(f"no backup of the {database.name} database is going on", host=host.name)
    for command in stop_commands(database, runs, words):
        host.execute("stop it", command)
        if _wait_for_end(host, database):
            break  # and whoever begins now is somebody else's
    else:
        raise StepError("it did not end", host=host.name, advice="look there: ps -ef | grep -e sqlite3 -e backup")
    host.execute("clear what it left", clear_command(database))


def _wait_for_end(host: Host, database: Database) -> bool:
    """Wait for the end of all that goes on, STOP_TIMEOUT at most; tell whether it has come."""
    deadline = time.monotonic() + STOP_TIMEOUT
    while any(active_jobs(host, database)):
        if time.monotonic() > deadline:
            return False
        time.sleep(SHORTEST_WAIT)
    return True
