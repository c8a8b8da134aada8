"""Restore an archive of the configuration into a new directory on the host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TypeAlias

from ..backup.archive import check_archive
from ..backup.catalog import select_backup
from ..backup.config_archive import unpack
from ..backup.deploy import CONFIG_TOOLS, require_tools
from ..backup.names import is_backup_name
from ..backup.permissions import require_safe_directory, require_safe_paths
from ..errors import NoSuchBackupError, RestoreRefusedError, SettingsError
from ..records.check import Outcome
from ..records.record import RestoreDetails
from ..records.store import read_records, records_dir
from ..recovery.copies import FETCHED, copies_dir, list_copies
from ..recovery.restore_copy import LocalBackup, find_local_backup
from ..recovery.restore_facts import resolve_target
from ..remote.files import File, stat_file
from ..settings.model import CONFIG
from ..units import format_size
from .restore_options import RestoreOptions, confirm, require_confirmation
from .session import Session
from .upload import upload_copy

Restore: TypeAlias = Callable[[Session, RestoreOptions], None]


def choose_restore(database: str, options: RestoreOptions, restore: Restore) -> Restore:
    """Return the function that restores the configuration, or `restore` for a database.

    Raises SettingsError for options with which the configuration cannot be restored.
    """
    if database != CONFIG:
        return restore
    check_options(options)
    return restore_config


def check_options(options: RestoreOptions) -> None:
    """Raise SettingsError for options with which an archive of the configuration cannot be restored."""
    if options.swap or options.undo:
        raise SettingsError("--swap and --undo are for databases", advice="restore the configuration with --to")
    if options.target is None:
        raise SettingsError(
            "the configuration is only restored into a new directory: --to is missing",
            advice="name a directory on the host that does not exist or is empty: --to PATH",
        )


def restore_config(work: Session, options: RestoreOptions) -> None:
    """Unpack an archive, the newest by default, into a directory that is new or empty, and compare all checksums.

    Files get their modes. If root unpacks, they get their owners by name, and what belongs to a user that the host does
    not know belongs to root. Raises RestoreRefusedError, or ConfigArchiveError if that fails.
    """
    check_options(options)
    assert options.target
    require_safe_paths(work.host, work.series)
    require_confirmation(work, options)
    require_tools(work.host, CONFIG_TOOLS)
    target = resolve_target(work.host, options.target, "create it on the host, or name another path with --to")
    require_safe_directory(work.host, target.parent)
    local = _find_local(work, options) if options.source == FETCHED else None
    archive = _plan_upload(work, local) if local else _select(work, options)
    _record_plan(work, options, archive, target)
    work.out.say(f"archive  {archive.path} ({format_size(archive.bytes)}, {archive.modified:%Y-%m-%d %H:%M})")
    work.out.say(f"target   {target}")
    _require_new(work, target)
    if work.dry_run:
        work.out.say("dry run: nothing was changed")
        return
    confirm(work, options, f"Restore to {target}?")
    if local:
        upload_copy(work, work.host, local.copy, archive.path)
    _unpack(work, archive.path, target)


def _select(work: Session, options: RestoreOptions) -> File:
    return select_backup(work.host, work.series, PurePosixPath(options.backup) if options.backup else None)


def _find_local(work: Session, options: RestoreOptions) -> LocalBackup:
    """Find a fetched archive, the newest by default, and check it; raises RestoreRefusedError for a damaged one."""
    name = options.backup
    if name is None:
        copies = list_copies(work.settings, work.host.name, work.series)
        if not copies:
            raise NoSuchBackupError(
                f"there is no fetched archive in {copies_dir(work.settings, work.host.name)}",
                advice=f"fetch one: {work.task('fetch')}; or name a file: --backup PATH",
            )
        name = copies[0].name
    records, _ = read_records(records_dir(work.settings))
    local = find_local_backup(work.settings, work.host.name, work.series, name, records)
    if not is_backup_name(work.series, local.copy.name):
        raise RestoreRefusedError(
            f"{local.copy.path} does not have the name of an archive, which it would get in {work.series.backup_dir}",
            advice="give it back the name that it had: config_YYYY-MM-DD_HH-MM-SS.tar",
        )
    problems = [check for check in check_archive(local.copy.path) if check.outcome is not Outcome.PASSED]
    if problems:
        raise RestoreRefusedError(
            f"{local.copy.path} must not be restored: it does not pass its checks",
            output="\n".join(f"{check.name}: {check.detail}" for check in problems),
            advice=f"restore another one, or fetch it again: {work.task('fetch')}",
        )
    return local


def _plan_upload(work: Session, local: LocalBackup) -> File:
    copy = local.copy
    return File(work.series.backup_dir / copy.name, copy.bytes, copy.modified)


def _record_plan(work: Session, options: RestoreOptions, archive: File, target: PurePosixPath) -> None:
    work.record.backup = str(archive.path)
    work.record.bytes = archive.bytes
    work.record.created = archive.modified.isoformat()
    if isinstance(work.record.details, RestoreDetails):
        work.record.details.source = options.source
        work.record.details.target = str(target)


def _require_new(work: Session, target: PurePosixPath) -> None:
    """Raise RestoreRefusedError for a target that is not a directory; the script refuses one that is not empty."""
    file = stat_file(work.host, target)
    if file and file.type != "d":
        raise RestoreRefusedError(
            f"{target} exists, and is not a directory",
            host=work.host.name,
            advice="the configuration never replaces a file: name another path with --to",
        )


def _unpack(work: Session, archive: PurePosixPath, target: PurePosixPath) -> None:
    unpacked = unpack(work.host, archive, target, work.settings.free_space_floor, work.out.say)
    if isinstance(work.record.details, RestoreDetails):
        work.record.details.identical = True
    work.out.say(
        f"restored {target}: {unpacked.files:,} files, {format_size(unpacked.bytes)}; all checksums are correct"
    )
    for name in unpacked.unknown:
        work.out.say(f"note: {name} does not exist on {work.host.name}: what belonged to it belongs to root")
    if not work.host.use_sudo:
        work.out.say("note: without use_sudo, all files belong to the login, unless that is root")
