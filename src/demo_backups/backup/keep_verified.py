"""Keep the newest backup that passed all checks: `verified.NAME`, a hard link that the rotation does not match.

Without it, eight days of backups of a damaged database would rotate every good backup away. The link takes no space
until the rotation deletes the backup itself.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from ..errors import BackupNotKeptError, BackupsError, InterruptedRunError, StepError
from ..remote.answers import parse_line
from ..remote.files import File, stat_file
from ..remote.host import Host
from ..remote.shell import quote
from ..settings.model import Database
from .names import DATE, VERIFIED, is_backup_name, is_verified_name


def keep_command(database: Database, name: str) -> str:
    """Build the command that keeps a backup of the backup directory, and prints the name of the one that is kept.

    The new link exists before the old one is deleted. The newest by its modification time stays, and of two that are
    equal the last by name, whichever of two commands that run at the same time is first.
    """
    return "\n".join(
        [
            f"set -eu; cd -- {quote(f'{database.backup_dir}/')}; name={quote(name)}; link={quote(VERIFIED)}$name",
            'problem=$(ln --no-target-directory -- "$name" "$link" 2>&1) ||',
            '  { [ "$name" -ef "$link" ] && [ ! -L "$link" ]; } || { echo "$problem" >&2; exit 1; }',
            "sync -- .",
            f"set -- {VERIFIED}{database.backup_prefix}{DATE}.db; newest=",
            "for file; do",
            '  if [ ! -f "$file" ] || [ -L "$file" ]; then continue; fi',
            '  if [ -z "$newest" ] || [ ! "$newest" -nt "$file" ]; then newest=$file; fi',
            "done",
            'for file; do if [ "$file" != "$newest" ] && [ ! -d "$file" ]; then rm -f -- "$file"; fi; done',
            'sync -- .; echo "$newest"',
        ]
    )


def can_keep(database: Database, backup: File) -> bool:
    """Tell whether a file is a backup in the backup directory, and not already one that is kept."""
    return backup.path.parent == database.backup_dir and is_backup_name(database, backup.path.name)


def keep_backup(host: Host, database: Database, backup: File) -> PurePosixPath:
    """Keep a backup that passed all checks, and return the one that is kept now: a newer one stays.

    Raises BackupNotKeptError, also if it is no longer the file that was checked.
    """
    action = f"{backup.path.name} passed all checks, but was not kept as {VERIFIED}{backup.path.name}"
    try:
        return database.backup_dir / _link_backup(host, database, backup)
    except InterruptedRunError:
        raise
    except BackupsError as error:
        raise BackupNotKeptError(
            f"{action}: {error.action}", host=host.name, output=error.output, advice=error.advice
        ) from error


def _link_backup(host: Host, database: Database, backup: File) -> str:
    if stat_file(host, backup.path) != backup:
        raise StepError(
            "it was deleted or replaced while it was checked",
            advice=f"list the backups: {host.task('list-backups', '--database', database.name)}",
        )
    output = host.execute(f"keep {backup.path}", keep_command(database, backup.path.name))
    return host.parse("see which backup is kept", output, lambda text: _parse_name(database, text))


def _parse_name(database: Database, output: str) -> str:
    name = parse_line(output)
    if not is_verified_name(database, name):
        raise ValueError(f"{name[:100]!r} is not the name of a kept backup")
    return name
