"""Fetch a backup to this machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ..backup.catalog import require_finished, select_backup
from ..backup.permissions import require_safe_paths
from ..errors import (
    BackupsError,
    DamagedBackupError,
    InterruptedRunError,
    LocalDiskError,
    MissingToolError,
    NoSuchBackupError,
)
from ..records.check import Check, Outcome
from ..records.record import FetchDetails
from ..recovery.copies import read_copy
from ..recovery.copy_checks import check_copy
from ..recovery.delta import find_base, update_partial
from ..recovery.fetch import Fetched, FetchOptions, is_complete, receive_backup
from ..recovery.hold import Hold, hold_path
from ..recovery.local_copy import (
    CopyPaths,
    list_partial,
    open_partial,
    prepare_directory,
    publish,
    require_same,
    require_space,
    restart,
)
from ..recovery.remote_hash import HashedBackup, hash_backup
from ..remote.connection import open_host
from ..remote.download import Meter, PartialFile, can_compress
from ..remote.files import File, stat_file
from ..remote.interrupts import is_interruption
from ..remote.retries import LOST, retry_when_lost
from ..remote.shell import quote
from ..settings.model import LOCAL, Database
from ..ui.progress import TransferProgress
from ..units import format_short_size, format_size
from .backups import follow, record_backup
from .session import Session


def fetch(work: Session, path: PurePosixPath | None, options: FetchOptions) -> Fetched | None:
    """Fetch a backup, the newest by default, and check it on this machine; in a dry run, return None.

    Raises CopyMismatchError if what arrives is not the backup, and DamagedBackupError if it does not pass its checks:
    it then keeps the name of a partial file.
    """
    begin = time.monotonic()
    if options.delta and not isinstance(work.series, Database):
        work.out.say("note: --delta is for databases; an archive of the configuration is sent as a whole")
        options = replace(options, delta=False)
    require_safe_paths(work.host, work.series)
    backup = _select(work, path)
    record_backup(work.record, backup.path, backup)
    paths = CopyPaths(options.folder / backup.path.name)
    if work.dry_run:
        _show_plan(work, backup, paths, options)
        return None
    if isinstance(work.series, Database):
        _require_sqlite(work)
    prepare_directory(options.folder)
    _mention_other_partial(work, paths, options)
    with _hint_on_interruption(work, backup, options):
        hold = Hold(work.host, backup.path, work.out.say)
        try:
            fetched = _fetch_linked(work, backup, hold, paths, options)
        except (*LOST, InterruptedRunError, KeyboardInterrupt, LocalDiskError):
            raise  # the hold stays for the next try
        except BaseException:
            with contextlib.suppress(BackupsError):
                hold.release()
            raise
    work.record.seconds = round(time.monotonic() - begin, 3)
    return fetched


def _select(work: Session, path: PurePosixPath | None) -> File:
    """Select the backup; one that was deleted since its fetch was interrupted is read from its hold."""
    try:
        backup = select_backup(work.host, work.series, path)
    except NoSuchBackupError:
        link = stat_file(work.host, hold_path(work.series.backup_dir / path)) if path and path.name else None
        if path is None or link is None or link.type != "f":
            raise
        backup = File(work.series.backup_dir / path, link.bytes, link.modified)
    require_finished(work.host, backup.path)
    return backup


def _show_plan(work: Session, backup: File, paths: CopyPaths, options: FetchOptions) -> None:
    if paths.exists:
        work.out.say(f"{paths.final} exists: a fetch would compare its SHA-256 with that of {backup.path}")
        return
    compress = options.compress and can_compress(work.host)
    limit = f", at most {format_short_size(options.limit)}/s" if options.limit else ""
    work.out.say(f"would fetch {backup.path} ({format_size(backup.bytes)}) to {paths.final}")
    work.out.say(f"{'compressed with zstd' if compress else 'not compressed'}{limit}")
    if options.delta:
        base = find_base(work.settings, work.host, work.series)
        work.out.say(f"based on {base.path}" if base else "there is no earlier copy to be based on")
    partial = read_copy(paths.partial)
    require_space(options.folder, backup.bytes - (partial.bytes if partial else 0))


def _require_sqlite(work: Session) -> None:
    """Raise MissingToolError before the download if sqlite3, which checks the copy, is not installed here."""
    with open_host(work.settings, LOCAL) as this_machine:
        if not this_machine.run("look for sqlite3", "command -v sqlite3", reads_only=True).ok:
            raise MissingToolError(
                "sqlite3 is not installed on this machine: it checks the copy", advice="apt install sqlite3"
            )


def _mention_other_partial(work: Session, paths: CopyPaths, options: FetchOptions) -> None:
    for name in list_partial(paths.final.parent):
        if name != paths.final.name:
            other = CopyPaths(paths.final.with_name(name))
            command = work.task("fetch", "--backup", name, *options.flags)
            work.out.say(
                f"note: a fetch of {name} was interrupted; to continue: {command}; to delete what it has received: "
                f"rm -f -- {quote(str(other.partial))} {quote(str(other.description))}"
            )


@contextlib.contextmanager
def _hint_on_interruption(work: Session, backup: File, options: FetchOptions) -> Iterator[None]:
    """Say how to continue when the connection is lost for long, or after Ctrl-C."""
    advice = f"to continue: {work.task('fetch', '--backup', backup.path.name, *options.flags)}"
    try:
        yield
    except LOST as error:
        error.advice = advice
        raise
    except (KeyboardInterrupt, InterruptedRunError, RuntimeError) as error:
        if not is_interruption(error):
            raise
        raise InterruptedRunError(
            f"interrupted: the fetch of {backup.path} is not complete", host=work.host.name, advice=advice
        ) from error


def _fetch_linked(work: Session, backup: File, hold: Hold, paths: CopyPaths, options: FetchOptions) -> Fetched:
    def hash_linked() -> HashedBackup:
        hold.renew()
        return hash_backup(work.host, work.series, hold.path, lambda job: follow(work, job), work.out.say)

    remote = retry_when_lost(hash_linked, lambda: 0, work.out.say)
    if paths.exists:
        hold.release()
        return _keep_existing(work, remote, paths)
    compress = options.compress and can_compress(work.host)
    return _transfer(work, backup, remote, hold, paths, options, compress)


def _keep_existing(work: Session, remote: HashedBackup, paths: CopyPaths) -> Fetched:
    """Check the file that has the final name; raises CopyExistsError unless it is the backup."""
    size, sha256 = remote.identity.bytes, remote.sha256
    with TransferProgress(work.out, paths.final.name, size) as progress:
        require_same(paths, size, sha256, progress.show)
    checks = _check(work, paths.final)
    fetched = Fetched(paths.final, size, sha256, size, 0, checks)
    _record(work, fetched)
    work.out.say(f"{paths.final} is this backup: nothing to do")
    return fetched


def _transfer(
    work: Session,
    backup: File,
    remote: HashedBackup,
    hold: Hold,
    paths: CopyPaths,
    options: FetchOptions,
    compress: bool,
) -> Fetched:
    meter = Meter(options.limit)
    size = remote.identity.bytes
    with (
        TransferProgress(work.out, paths.final.name, size) as progress,
        open_partial(paths, remote, progress.show, options.delta) as partial,
    ):
        resumed_from = partial.size
        require_space(paths.final.parent, size - resumed_from)
        progress.start_transfer(resumed_from)
        try:
            if options.delta:
                _update(work, remote, hold, paths, partial, meter)
            receive_backup(work.host, remote, hold, compress, partial, meter, work.out.say)
        finally:
            _record_progress(work, remote, resumed_from, meter)
        progress.stop()
        hold.release()
        checks = _check(work, paths.partial)
        fetched = Fetched(paths.final, size, remote.sha256, resumed_from, meter.count, checks)
        _record(work, fetched)
        _require_good(work, backup, fetched, paths)
        publish(paths, partial, remote.identity.modified_ns)
    return fetched


def _update(
    work: Session, remote: HashedBackup, hold: Hold, paths: CopyPaths, partial: PartialFile, meter: Meter
) -> None:
    """Complete a partial file by the pages that changed; where that cannot be done, empty it for a normal fetch."""
    base = find_base(work.settings, work.host, work.series)
    is_updated = update_partial(work.host, base, remote, hold, paths, partial, meter, work.out.say)
    if not is_complete(partial, remote):
        if is_updated:
            work.out.say("the updated copy is not the backup: starting from the beginning")
        restart(paths, partial, remote)


def _record_progress(work: Session, remote: HashedBackup, resumed_from: int, meter: Meter) -> None:
    if isinstance(work.record.details, FetchDetails):
        work.record.details.sha256 = remote.sha256
        work.record.details.resumed_from = resumed_from
        work.record.details.sent_bytes = meter.count


def _record(work: Session, fetched: Fetched) -> None:
    record = work.record
    record.checks = fetched.checks
    record.exit_status = fetched.exit_code
    record.details = FetchDetails(
        file=str(fetched.file),
        sha256=fetched.sha256,
        resumed_from=fetched.resumed_from,
        sent_bytes=fetched.sent_bytes,
        verified=fetched.outcome.value,
    )


def _check(work: Session, path: Path) -> list[Check]:
    work.out.say("checking the copy on this machine")
    with open_host(work.settings, LOCAL) as this_machine:
        return check_copy(this_machine, work.series, path)


def _require_good(work: Session, backup: File, fetched: Fetched, paths: CopyPaths) -> None:
    if fetched.outcome is not Outcome.FAILED:
        return
    if isinstance(work.record.details, FetchDetails):
        work.record.details.file = str(paths.partial)
    failures = [f"{check.name}: {check.detail}" for check in fetched.checks if check.outcome is Outcome.FAILED]
    raise DamagedBackupError(
        f"{backup.path} is not a good backup: it is here as it is on the host, and does not pass its checks",
        host=work.host.name,
        output="\n".join(failures),
        advice=f"fetch another one: {work.task('list-backups')}. What was received is {paths.partial}: if you do not "
        f"need it, rm -- {quote(str(paths.partial))}",
    )
