"""Run a backup and find what it made; list what a host holds."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .errors import StepError
from .facts import CRON_PATH, File, files_command, parse_files, quote
from .hosts import LONG_TIMEOUT, Host
from .settings import Database


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


@dataclass(frozen=True)
class Run:
    """A backup that was run: the script's exit status, what it printed, the file it made, and how long it took."""

    status: int | None
    printed: str
    made: File | None
    seconds: float


def cron_command(command: str) -> str:
    """Run a job's command as cron would: /bin/sh, the home directory, the bare environment (crontab(5), cron(8))."""
    environment = f'HOME="$HOME" LOGNAME="$(id -un)" SHELL=/bin/sh PATH={CRON_PATH}'
    return f"cd && exec env -i {environment} /bin/sh -c {quote(command)}"


def run_backup(host: Host, database: Database, command: str, echo: Callable[[str], None] | None = None) -> Run:
    """Run a job's command as cron would, and look before and after to find the file that it made."""
    before = list_backups(host, database)
    started = time.monotonic()
    result = host.run("run the backup", cron_command(command), root=True, timeout=LONG_TIMEOUT, echo=echo)
    seconds = time.monotonic() - started
    return Run(
        result.status, result.printed if not result.ok else "", made(before, list_backups(host, database)), seconds
    )


def made(before: Iterable[File], after: Iterable[File]) -> File | None:
    """Find the newest backup that was not there before; `after` comes with the newest first."""
    known = {file.path for file in before}
    return next((file for file in after if file.path not in known), None)


def check_run(host: Host, database: Database, run: Run) -> File:
    """Return the backup that a run made; raises StepError where it failed, or says it went well and made none."""
    if run.status != 0:
        raise StepError(
            f"the backup of the {database.name} database failed",
            host=host.name,
            printed=run.printed,
            advice="after a failure the script of this checkout leaves older backups untouched. See: inv list-backups",
        )
    if run.made is None:
        raise StepError(
            f"the script ended well but made no new backup in {database.backup_dir}",
            host=host.name,
            advice="does the script there write to another folder? See: inv deploy-index-backup --dry-run",
        )
    return run.made
