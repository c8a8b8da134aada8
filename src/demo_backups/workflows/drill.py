"""Restore a backup into a scratch directory on the server, and check it there."""

from __future__ import annotations

from pathlib import PurePosixPath

from ..backup.catalog import require_finished, select_backup
from ..backup.deploy import require_tools
from ..backup.permissions import require_safe_paths
from ..errors import DrillUncleanError, StepError
from ..records.check import Outcome
from ..records.record import DrillDetails, Record
from ..records.store import read_records, records_dir
from ..recovery.copies import FETCHED, ON_SERVER, Copy, list_copies
from ..recovery.drill import start_drill
from ..recovery.drill_directories import (
    Scratch,
    create_upload_dir,
    missing_bytes,
    prepare_directory,
    prepare_scratch,
    require_space,
    upload_dir,
)
from ..recovery.drill_result import Drill, collect_drill, list_started_steps
from ..recovery.restore_copy import find_local_backup
from ..remote.files import File, stat_file
from ..remote.job_state import Job, JobStatus
from ..remote.jobs import advise_on_detach, follow_job
from ..ui.progress import JobProgress
from .backups import keep_passed, record_backup
from .session import Session
from .upload import upload_copy

TITLES = {  # of the steps of drill.sh that take long
    "restore": "restoring the backup",
    "integrity": "integrity_check",
    "foreign_keys": "foreign_key_check",
    "query": "query",
    "command": "drill_command",
}


def drill(work: Session, backup: str | None, source: str) -> Drill:
    """Restore a backup into a scratch directory, check it, and record the result.

    The backup is on the server, or with FETCHED a fetched one, which is uploaded first; by default it is the newest.
    """
    if isinstance(work.record.details, DrillDetails):
        work.record.details.source = source
    require_tools(work.host)
    if source == ON_SERVER:
        file = _find_backup(work, backup)
        login, directory = prepare_directory(work.host, work.settings.drill_dir)
        scratch = prepare_scratch(work.host, work.database, login, directory, file.path)
        result = _drill_file(work, scratch, file, source, file)
    else:
        result = _drill_copy(work, _find_copy(work, backup))
    _record_drill(work.record, result)
    return result


def _find_copy(work: Session, backup: str | None) -> Copy:
    """Find a fetched backup on this machine; raises StepError, and RestoreRefusedError if it was changed."""
    if backup is None:
        copies = list_copies(work.settings, work.host.name, work.database)
        if not copies:
            raise StepError(
                f"there is no fetched backup of the {work.database.name} database of {work.host.name}",
                advice=f"fetch one: {work.task('fetch')}",
            )
        backup = copies[0].name
    records, _ = read_records(records_dir(work.settings))
    return find_local_backup(work.settings, work.host.name, work.database, backup, records).copy


def _drill_copy(work: Session, copy: Copy) -> Drill:
    """Drill with a fetched backup: the login user uploads and restores it."""
    host, settings = work.host.as_login(), work.settings
    login, directory = prepare_directory(host, settings.drill_dir)
    folder = upload_dir(directory, work.database)
    create_upload_dir(host, folder)
    target = folder / copy.name
    scratch = prepare_scratch(host, work.database, login, directory, target)
    require_space(scratch, copy.bytes + missing_bytes(host, target, copy.bytes), settings.free_space_floor)
    work.out.say(f"uploading {copy.path}")
    upload_copy(work, host, copy, target)
    uploaded = stat_file(host, target)
    if uploaded is None:
        raise StepError(f"{target} was removed after the upload", host=host.name, advice="start the drill again")
    fetched = File(PurePosixPath(copy.path), copy.bytes, copy.modified)
    return _drill_file(work, scratch, uploaded, FETCHED, fetched)


def _find_backup(work: Session, backup: str | None) -> File:
    """Find the backup to restore on the server; raises StepError if it is missing or not a finished backup."""
    require_safe_paths(work.host, work.database)
    file = select_backup(work.host, work.database, None if backup is None else PurePosixPath(backup))
    require_finished(work.host, file.path)
    return file


def _drill_file(work: Session, scratch: Scratch, file: File, source: str, backup: File) -> Drill:
    """Drill with a file on the server; `backup` is the one to report."""
    if work.settings.drill_command and scratch.login.uid == 0:
        work.out.say("note: the login user is root, so drill_command runs as root")
    keeps_running = "the drill, once started, keeps running on the server, and removes its files in the end"
    advice = f"follow it again by the same command, as long as it runs: {work.task('restore-drill')}"
    with advise_on_detach(work.host, keeps_running, advice):
        job = start_drill(scratch, work.database, file, work.settings, work.out.say)
        status, output = _follow(work, scratch, job)
    return collect_drill(scratch.host, work.database, source, backup, status, output, work.settings)


def _follow(work: Session, scratch: Scratch, job: Job) -> tuple[JobStatus, str]:
    """Follow the job to its end, and print the names of the steps; return its last status and all output."""
    output = ""
    printed = 0
    with JobProgress(work.out, job) as progress:

        def echo(text: str) -> None:
            nonlocal output, printed
            output += text
            complete, _, _ = output.rpartition("\n")
            steps = list_started_steps(complete.split("\n"))
            for step in steps[printed:]:
                if step in TITLES:
                    work.out.say(TITLES[step])
            printed = len(steps)

        status = follow_job(scratch.host, work.database, job, echo, progress.show)
    return status, output


def _record_drill(record: Record, result: Drill) -> None:
    record_backup(record, result.backup.path, result.backup)
    record.checks = list(result.checks)
    record.integrity_check = list(result.integrity)
    record.exit_status = result.exit_code
    if isinstance(record.details, DrillDetails):
        record.details.command_status = result.command_status


def finish(work: Session, result: Drill) -> None:
    """Keep a backup that has passed, if the settings say so, and raise DrillUncleanError if files are left."""
    if result.source == ON_SERVER and result.outcome is Outcome.PASSED:
        keep_passed(work, result.backup)
    if result.unclean:
        error = DrillUncleanError(
            "the drill is done, but not all of its files could be removed",
            host=work.host.name,
            output=result.unclean,
            advice="remove the cause; the next drill removes them",
        )
        # A check that failed, or that could not be made, matters more.
        error.exit_code = result.exit_code or error.exit_code
        work.record.exit_status = error.exit_code
        raise error
