"""Stop a running backup, or a running integrity check."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import HiddenBackupError, StepError
from ..remote.host import Host
from ..remote.job_state import BACKUP_KINDS, stop_job_command, without_functions
from ..remote.jobs import SHORTEST_WAIT, is_job_running
from ..remote.processes import HIDDEN_ADVICE, Process, signal_processes_command
from ..remote.shell import quote
from ..settings.model import Database
from .catalog import backup_processes, has_hidden_backup
from .run import clear_unfinished

STOP_TIMEOUT = 10  # seconds between SIGTERM and SIGKILL


@dataclass(frozen=True)
class ActiveJobs:
    """What is running for a database: the kinds of its jobs, and the processes of its backup, including one by cron."""

    kinds: list[str]
    processes: list[Process]

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is running."""
        return not self.kinds and not self.processes


def active_jobs(host: Host, database: Database) -> ActiveJobs:
    """Find out what is running for a database; raises HiddenBackupError where this user cannot see all of it."""
    kinds = [kind for kind in BACKUP_KINDS if is_job_running(host, database, kind)]
    active = ActiveJobs(kinds, backup_processes(host, database))
    if active.is_idle and has_hidden_backup(host, database):
        raise HiddenBackupError(
            f"a backup of the {database.name} database is running, in processes that this user cannot see",
            host=host.name,
            advice=HIDDEN_ADVICE,
        )
    return active


def stop_commands(database: Database, kinds: Iterable[str], message: str) -> list[str]:
    """Build the commands that stop jobs of some kinds, and a backup by cron, which only its lock file identifies.

    The first sends SIGTERM, and adds `message` to the output of the jobs. The second sends SIGKILL, for a process that
    was just starting or that ignores SIGTERM.
    """
    lock = quote(database.lock)
    terminate = [f"( {stop_job_command(database, kind, message)} )" for kind in kinds]
    terminate.append(signal_processes_command(lock, "TERM"))
    kill = [f"( {stop_job_command(database, kind)} )" for kind in kinds]
    kill.append(signal_processes_command(lock, "KILL"))
    return ["\n".join(terminate), "\n".join(kill)]


def end_backup(host: Host, database: Database, message: str) -> bool:
    """Stop a running backup, also one by cron, or a running integrity check, and remove unfinished files.

    `message` is added to the output of the job. Returns False if nothing is running. Raises HiddenBackupError, and
    StepError where it cannot be stopped.
    """
    active = active_jobs(host, database)
    if active.is_idle:
        return False
    for command in stop_commands(database, active.kinds, message):
        host.execute("stop the backup", command, display=without_functions(command))
        if _wait_for_end(host, database):
            clear_unfinished(host, database)
            return True
    raise StepError(
        f"the backup of the {database.name} database did not stop",
        host=host.name,
        advice="on the host: ps -ef | grep -e sqlite3 -e backup",
    )


def _wait_for_end(host: Host, database: Database) -> bool:
    """Wait up to STOP_TIMEOUT seconds until nothing is running; return whether that is so."""
    deadline = time.monotonic() + STOP_TIMEOUT
    while not active_jobs(host, database).is_idle:
        if time.monotonic() > deadline:
            return False
        time.sleep(SHORTEST_WAIT)
    return True
