"""Create the off-site repository, check it, list it, and restore from it. No host is connected to."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ..errors import (
    DamagedBackupError,
    RepositoryDamagedError,
    RepositoryExistsError,
    RepositoryMissingError,
)
from ..offsite.check import check_arguments, check_part, find_next_part
from ..offsite.locks import clear_locks
from ..offsite.program import Restic, open_restic, read_id
from ..offsite.restore import find_stored, open_new, receive_stored
from ..offsite.result import Done, RepositoryCheck, Restored, StoredList
from ..offsite.snapshots import StoredBackup, read_stored, select
from ..records.check import Check, Outcome
from ..records.record import OffsiteDetails, new_record
from ..records.search import CHECK, RESTORE
from ..records.store import read_records, record_outcome, records_dir
from ..recovery.copies import copies_dir
from ..recovery.copy_checks import check_copy
from ..recovery.local_copy import CopyPaths, prepare_directory, publish, require_same, require_space
from ..remote.connection import open_host
from ..remote.notify import Notify, ignore
from ..settings.model import LOCAL, BackupSeries, Settings
from ..ui.console import Console
from ..ui.progress import TransferProgress
from ..units import format_size

# --- init, check, list ----------------------------------------------------------------------------------------------


def initialize(settings: Settings, out: Console, dry_run: bool = False) -> Done:
    """Create the repository. Raises RepositoryExistsError if there is one."""
    restic = open_restic(settings, out.say)
    if dry_run:
        out.say(f"would run on this machine, for {restic.location.display}:")
        out.say(f"  {restic.location.mask(shlex.join(restic.command('init')))}")
        return Done(restic.location.display, dry_run=True)
    try:
        repository = read_id(restic)
    except RepositoryMissingError:
        restic.run("creating the off-site repository", "init")
        repository = read_id(restic)
        out.say(f"created the repository {restic.location.display}, ID {repository[:10]}")
        return Done(restic.location.display, repository)
    raise RepositoryExistsError(
        f"there already is a repository at {restic.location.display}, which the password opens: ID {repository[:10]}",
        advice="use it: ./inv offsite",
    )


def check_repository(settings: Settings, out: Console, dry_run: bool = False) -> RepositoryCheck | Done:
    """Check the structure of the repository, and read the next part of its data.

    Raises RepositoryDamagedError if it is damaged, and the other errors of restic if it could not be checked.
    """
    restic = open_restic(settings, out.say)
    parts = settings.offsite.check_parts
    if dry_run:
        records, _ = read_records(records_dir(settings))
        part = find_next_part(records, read_id(restic), parts)
        out.say("would run on this machine:")
        out.say(f"  {restic.location.mask(shlex.join(restic.command(*check_arguments(part, parts))))}")
        return Done(restic.location.display, dry_run=True)
    record = new_record("offsite", settings.host, "")
    details = record.details = OffsiteDetails(action=CHECK, parts=parts)
    with record_outcome(records_dir(settings), record):
        details.repository = read_id(restic)
        locks = clear_locks(restic)
        locks.require_free("checking the off-site repository", exclusive=True)
        records, _ = read_records(records_dir(settings))
        details.part = find_next_part(records, details.repository, parts)
        out.say(f"checking the structure, and reading part {details.part} of {parts} of the data")
        try:
            check_part(restic, details.part, parts)
        except RepositoryDamagedError:
            record.checks = [Check("repository", Outcome.FAILED, f"damaged; part {details.part} of {parts} was read")]
            raise
        record.checks = [Check("repository", Outcome.PASSED, f"part {details.part} of {parts} was read")]
    return RepositoryCheck(restic.location.display, details.part, parts, record.checks, locks.removed)


def list_stored(
    settings: Settings, host: str | None = None, names: Sequence[str] | None = None, notify: Notify = ignore
) -> StoredList:
    """List the backups in the repository, by default those of all hosts and all series."""
    for name in names or ():
        settings.series(name)
    restic = open_restic(settings, notify)
    stored = read_stored(restic, settings)
    selected = select(stored, host, names)
    return StoredList(restic.location.display, selected, others=len(stored) - len(selected))


# --- restore --------------------------------------------------------------------------------------------------------


def restore_stored(settings: Settings, name: str, out: Console, dry_run: bool = False) -> Restored | Done:
    """Bring a stored backup of the host to `fetch_dir`, compare its SHA-256 and check it.

    Raises NoSuchBackupError if it is not in the repository, CopyMismatchError if what comes is another file, and
    CopyExistsError if another file has its name here. A good file with its name is checked and stays.
    """
    restic = open_restic(settings, out.say)
    stored = find_stored(read_stored(restic, settings), name, settings.host)
    folder = copies_dir(settings, settings.host)
    paths = CopyPaths(folder / stored.name)
    if dry_run:
        out.say(f"would restore {stored.name} ({format_size(stored.bytes)}) to {paths.final}")
        return Done(restic.location.display, dry_run=True)
    record = new_record("offsite", settings.host, stored.database)
    record.backup, record.bytes, record.created = stored.name, stored.bytes, stored.created.isoformat()
    record.details = OffsiteDetails(
        action=RESTORE,
        repository=read_id(restic),
        snapshot=stored.snapshot,
        sha256=stored.sha256,
        file=str(paths.final),
    )
    with record_outcome(records_dir(settings), record):
        record.checks = _restore(settings, restic, stored, paths, out)
        result = Restored(stored, paths.final, record.checks)
        record.exit_status = result.exit_code
    return result


def _restore(settings: Settings, restic: Restic, stored: StoredBackup, paths: CopyPaths, out: Console) -> list[Check]:
    series, label = settings.series(stored.database), copies_dir(settings, stored.host).name
    if paths.exists:
        require_same(paths, stored.bytes, stored.sha256)
        out.say(f"{paths.final} is this backup: nothing to do")
        return _check(settings, series, paths.final, out)
    prepare_directory(paths.final.parent)
    require_space(paths.final.parent, stored.bytes)
    with (
        TransferProgress(out, stored.name, stored.bytes, "restoring") as progress,
        open_new(paths, stored.bytes, progress.show) as partial,
    ):
        progress.start_transfer(0)
        receive_stored(restic, stored, label, series, partial)
        progress.stop()
        checks = _check(settings, series, paths.partial, out)
        _require_good(stored, checks, paths)
        publish(paths, partial, int(stored.created.timestamp()) * 10**9)
    out.say(f"restored {stored.name} to {paths.final}: its SHA-256 is the one with which it was stored")
    return checks


def _require_good(stored: StoredBackup, checks: Sequence[Check], paths: CopyPaths) -> None:
    failures = [f"{check.name}: {check.detail}" for check in checks if check.outcome is Outcome.FAILED]
    if failures:
        raise DamagedBackupError(
            f"{stored.name} is not a good backup: it is here as it was stored, and does not pass its checks",
            output="\n".join(failures),
            advice=f"restore another one: ./inv offsite --list. What was received is {paths.partial}",
        )


def _check(settings: Settings, series: BackupSeries, path: Path, out: Console) -> list[Check]:
    out.say("checking the copy on this machine")
    with open_host(settings, LOCAL) as this_machine:
        return check_copy(this_machine, series, path)
