"""Run the backup script on a host, and find the backup that it made."""

from __future__ import annotations

from pathlib import PurePosixPath

from ..errors import INCOMPLETE, BackupFailedError, BackupUnconfirmedError, NoNewBackupError, RotationFailedError
from ..remote.answers import parse_seconds
from ..remote.files import File
from ..remote.host import Host
from ..remote.job_state import BACKUP, Job, JobStatus
from ..remote.jobs import read_before, start_job
from ..remote.processes import own_lock
from ..remote.shell import CRON_PATH, TRUSTED_OWNER, quote
from ..settings.model import Database
from .catalog import find_new_backup, list_backups, names_command, parse_names
from .script import MADE_BACKUP

SIGNALED = 128  # the exit status of a shell for a command that a signal ended is higher than this
ROTATION_ADVICE = {  # by what find prints, in the C locale of a job (errno(3))
    "Operation not permitted": (
        "the file is immutable (see lsattr). To have it deleted: chattr -i FILE. To keep it: chattr -i FILE, "
        "move it to another directory, chattr +i there"
    ),
    "Read-only file system": "the file system is now read-only: see dmesg, and verify the backup",
    "Permission denied": "see the owner and the mode of the directory: only its owner may delete files in it",
    "Device or resource busy": "something is mounted on the file (see findmnt): unmount it",
    "Input/output error": "the disk fails: see dmesg, and copy the backups to another disk",
}


def cron_command(command: str) -> str:
    """Build the command that runs a crontab's command as cron does.

    That is by /bin/sh, in the home directory, with a minimal environment (crontab(5), cron(8)).
    """
    environment = f'HOME="$HOME" LOGNAME="$(id -un)" SHELL=/bin/sh PATH={CRON_PATH}'
    return f"cd && exec env -i {environment} /bin/sh -c {quote(command)}"


def start_backup(host: Host, database: Database, command: str, total: int, floor: int) -> Job:
    """Start a backup as a job on the host, run as cron would run it.

    `total` is the size of the source in bytes. The job stops where a disk has less than `floor` bytes free. Raises
    StepError where a backup is running already.
    """
    job = Job(BACKUP, database.name, command, str(database.source), total)
    watched = [database.backup_dir, database.source.parent]
    return start_job(host, database, job, cron_command(command), watched, floor, names_command(database))


def birth_time_command(backup: PurePosixPath) -> str:
    """Build the command that prints when a backup was created, in seconds since 1970.

    It prints 0 on a file system that does not record that (stat(1)).
    """
    return f"stat -c %.3W -- {quote(backup)}"


def lock_wait(host: Host, job: Job, backup: PurePosixPath) -> float:
    """Return how many seconds a backup waited for a lock before it copied; 0 where the host does not know."""
    action = f"read the creation time of {backup}"
    created = host.query_parsed(action, birth_time_command(backup), parse_seconds)
    return round(max(0.0, created - job.started), 3)


def collect_result(host: Host, database: Database, job: Job, status: JobStatus, output: str) -> File:
    """Return the backup that a job made, also if the rotation after it failed: see `check_rotation`.

    Raises BackupFailedError where the job failed, and NoNewBackupError where it exited with 0 and made no backup. If it
    is not known how the job ended, and there is a new backup, raises BackupUnconfirmedError.
    """
    if status.problem:
        output += f"\n[output may be missing: {status.problem}]"
    if status.status is None or status.ended is None:
        _report_unconfirmed(host, database, job, status, output)
        raise BackupFailedError(
            f"the backup of the {database.name} database ended without reporting an exit status: "
            "it was killed, or the server went down",
            host=host.name,
            output=output,
            advice="backups that have not expired are untouched; start the backup again",
        )
    if status.status not in MADE_BACKUP:
        raise _backup_failed(host, database, status.status, output)
    backup = _find_backup(host, database, job, status.ended)
    if backup is None and status.status == INCOMPLETE:
        raise _backup_failed(host, database, status.status, output)
    if backup is None:
        raise NoNewBackupError(
            f"the script exited with 0, but there is no new backup in {database.backup_dir}",
            host=host.name,
            advice="does the script on the host write to another directory, or was the backup removed? "
            f"See: {host.task('deploy', '--database', database.name, '--dry-run')}",
        )
    return backup


def _backup_failed(host: Host, database: Database, status: int, output: str) -> BackupFailedError:
    # A script that a signal ended may have been in its rotation. Before that, it deletes nothing.
    spared = "leaves older backups untouched" if status < SIGNALED else "deletes only expired backups"
    return BackupFailedError(
        f"the backup of the {database.name} database failed (exit status {status})",
        host=host.name,
        output=output,
        advice=f"after a failure, the script of this checkout {spared}. "
        f"See: {host.task('list-backups', '--database', database.name)}",
    )


def check_rotation(host: Host, database: Database, status: JobStatus, output: str) -> None:
    """Raise RotationFailedError where the script made a backup, and could not delete an expired one."""
    if status.status == INCOMPLETE:
        raise RotationFailedError(
            f"the new backup is complete, but an expired backup of the {database.name} database could not be deleted",
            host=host.name,
            output=output,
            advice=explain_rotation(output),
        )


def explain_rotation(output: str) -> str:
    """Return what to do about an expired backup that find could not delete, from what it printed."""
    for message, advice in ROTATION_ADVICE.items():
        if message in output:
            return advice
    return "the next run tries again; until then, the file takes space"


def _find_backup(host: Host, database: Database, job: Job, end: float) -> File | None:
    names = read_before(host, database, job, parse_names)
    return find_new_backup(names, list_backups(host, database), end, job.started)


def _report_unconfirmed(host: Host, database: Database, job: Job, status: JobStatus, output: str) -> None:
    """Raise BackupUnconfirmedError if there is a new backup, although it is not known how its script ended."""
    backup = _find_backup(host, database, job, status.now)
    if backup:
        raise BackupUnconfirmedError(
            f"{backup.path} is new, but the backup of the {database.name} database ended without reporting an exit "
            "status: it was killed, or the server went down. It is not known whether that backup is complete",
            host=host.name,
            output=output,
            advice=f"verify it: {host.task('verify', '--database', database.name, '--backup', backup.path.name)}",
        )


def clear_command(database: Database) -> str:
    """Build the command that removes the unfinished files of a killed backup, unless another one is running.

    It does nothing in a directory that another user can write to, and without a lock of ours.
    """
    part, journal, lock = (quote(f"./{name}") for name in _unfinished_names(database))
    safe = f"find . -maxdepth 0 {TRUSTED_OWNER} ! -perm /022"
    return "\n".join(
        [
            f"cd -- {quote(database.backup_dir)} || exit 0",
            f'[ -n "$({safe})" ] && [ -n "$({own_lock(lock)} 2>/dev/null)" ] || exit 0',
            f"flock --nonblock {lock} rm -f -- {part} {journal} || true",
        ]
    )


def _unfinished_names(database: Database) -> tuple[str, str, str]:
    return database.part.name, f"{database.part.name}-journal", database.lock.name


def clear_unfinished(host: Host, database: Database) -> None:
    """Remove the unfinished files of a killed backup, unless another one is running."""
    host.run("remove unfinished files", clear_command(database), root=True)
