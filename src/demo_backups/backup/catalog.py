"""Which backups of a database a host has, and which processes are making one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from ..errors import NoSuchBackupError, UnfinishedBackupError
from ..remote.answers import END, parse_list, parse_yes_no
from ..remote.files import File, files_command, parse_files, stat_file
from ..remote.host import Host
from ..remote.processes import Process, is_locked_command, processes_with_open
from ..remote.shell import quote
from ..settings.model import BackupSeries, Database
from ..sqlite.sidecars import list_sidecars
from .names import VERIFIED, is_backup_name, is_verified_name


def list_backups(host: Host, series: BackupSeries) -> list[File]:
    """List the backups of a series, newest first; raises CouldNotLookError where the folder cannot be read."""
    files = _list_files(host, series, f"{series.backup_prefix}*{series.suffix}")
    return [file for file in files if is_backup_name(series, file.path.name)]


def find_verified(host: Host, database: Database) -> File | None:
    """Find the backup that is kept because it was verified; None if there is none. Raises as `list_backups` does."""
    files = _list_files(host, database, f"{VERIFIED}{database.backup_prefix}*.db")
    return next((file for file in files if file.type == "f" and is_verified_name(database, file.path.name)), None)


def _list_files(host: Host, series: BackupSeries, pattern: str) -> list[File]:
    command = files_command(series.backup_dir, pattern)
    action = f"list the backups in {series.backup_dir}"
    files = host.query_parsed(action, command, parse_files, advice=_directory_advice(host, series))
    return sorted(files, key=lambda file: (file.modified, file.path), reverse=True)


def select_backup(host: Host, series: BackupSeries, path: PurePosixPath | None = None) -> File:
    """Return the backup at a path, or by default the newest; a relative path is in the backup directory.

    Raises NoSuchBackupError if there is none, or if it is not a regular file.
    """
    list_task = host.task("list-backups", "--database", series.name)
    if path is None:
        backups = list_backups(host, series)
        if not backups:
            raise NoSuchBackupError(
                f"there is no backup of {describe_series(series)} in {series.backup_dir}",
                host=host.name,
                advice=f"make one: {_backup_task(host, series)}",
            )
        file: File | None = backups[0]
    else:
        file = stat_file(host, series.backup_dir / path)
    if file is None:
        raise NoSuchBackupError(
            f"{series.backup_dir / (path or '')} does not exist", host=host.name, advice=f"list them: {list_task}"
        )
    if file.type != "f":
        raise NoSuchBackupError(
            f"{file.path} is not a regular file", host=host.name, advice=f"list the backups: {list_task}"
        )
    return file


def describe_series(series: BackupSeries) -> str:
    """Say what the backups of a series are backups of."""
    return f"the {series.name} database" if isinstance(series, Database) else "the configuration"


def _backup_task(host: Host, series: BackupSeries) -> str:
    """Return the command line of the task that makes a backup of a series."""
    if isinstance(series, Database):
        return host.task("run", "--database", series.name)
    return host.task("backup-config")


def require_finished(host: Host, backup: PurePosixPath) -> None:
    """Raise UnfinishedBackupError if a backup has sidecar files: its copy was interrupted, or a program has it open."""
    sidecars = ", ".join(f"{backup.name}{suffix}" for suffix in list_sidecars(host, backup))
    if sidecars:
        raise UnfinishedBackupError(
            f"{backup} is not finished, or a program has it open: {sidecars} exists next to it",
            host=host.name,
            advice="use another backup: --backup NAME",
        )


def _directory_advice(host: Host, series: BackupSeries) -> str:
    """Say how to create the backup directory for the user who makes the backups: root, or that of the login."""
    options = "-m 750 -o root -g root" if host.use_sudo else "-m 750"
    sudo = "sudo " if host.use_sudo else ""
    command = f"{sudo}install -d {options} {quote(series.backup_dir)}"
    return f"is backup_dir correct? If it is, create the directory on the host: {command}"


def names_command(database: Database) -> str:
    """Build the command that prints the names of the backups of a database."""
    pattern = quote(f"{database.backup_prefix}*.db")
    folder = quote(f"{database.backup_dir}/")
    return f"find -H {folder} -mindepth 1 -maxdepth 1 -name {pattern} -printf '%f\\0' && printf {END}"


def parse_names(output: str) -> list[str]:
    """Parse what `names_command` printed; raises ValueError."""
    return parse_list(output, "\0")


def find_new_backup(before: Iterable[str], after: Iterable[File], end: float, start: float = 0) -> File | None:
    """Find the backup that a run made: the first new one, written before the run ended.

    `before` are the names of the backups before the run. `after` are all backups now, newest first, also those made
    since. `start` and `end` are in seconds since 1970, by the clock of the host, as are the times of its files. If the
    clock was set back during the run, they tell nothing: then it is the first new one.
    """
    names = set(before)
    oldest_first = reversed(list(after))
    for backup in oldest_first:
        if backup.path.name not in names and (end < start or backup.modified.timestamp() <= end):
            return backup
    return None


def backup_processes(host: Host, database: Database) -> list[Process]:
    """List the processes that are backing up a database, started by any user: they have its lock file open."""
    lock = stat_file(host, database.lock)
    if lock is None or lock.type != "f":  # the preflight says no, and stop-backup refuses, where it is not a file
        return []
    return processes_with_open(host, database.lock)


def has_hidden_backup(host: Host, database: Database) -> bool:
    """Tell whether a backup is running whose processes this user cannot see: only root sees all open files."""
    # The lock is read again at the end: the backup may have ended while its processes were looked for.
    return _is_locked(host, database) and not backup_processes(host, database) and _is_locked(host, database)


def _is_locked(host: Host, database: Database) -> bool:
    return host.query_parsed(f"check the lock {database.lock}", is_locked_command(database.lock), parse_yes_no)
