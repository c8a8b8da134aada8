"""Follow a job that was started before: a backup, a check of one, or a restore."""

from __future__ import annotations

import contextlib
from pathlib import PurePosixPath

from ..backup.verify import Verification
from ..errors import COULD_NOT_LOOK, INTERRUPTED, CouldNotLookError, StepError
from ..records.record import Record, RestoreDetails, RestoreRecord, RunRecord, VerificationRecord, new_record
from ..records.store import read_records, record_outcome, records_dir
from ..remote.job_state import BACKUP, CHECK, RESTORE, Job
from ..remote.jobs import find_job, hint_on_detach
from ..sqlite.integrity import is_quick_command
from ..ui.restore_table import print_restore_result
from .backups import finish_backup, start_time, verify
from .restore import finish_restore, judge_integrity
from .session import Session

RECORD_KINDS = {BACKUP: "run", CHECK: "verification", RESTORE: "restore"}  # of the jobs that can be followed


def attach(work: Session) -> Verification | None:
    """Follow the database's latest job to its end, or report how it ended.

    Returns the verification if the job checks a backup. Raises StepError if there is no job.
    """
    job = _find_latest_job(work)
    work.out.say(f"{job.kind} of {job.subject}, started by {job.by} at {job.when}")
    _record_once(work, job)
    if job.kind == CHECK:
        return verify(work, PurePosixPath(job.subject), is_quick_command(job.command), job)
    with hint_on_detach(work.host, work.database, job.kind):
        if job.kind == BACKUP:
            finish_backup(work, job)
        else:
            _attach_restore(work, job)
    return None


def _attach_restore(work: Session, job: Job) -> None:
    if isinstance(work.record.details, RestoreDetails):
        work.record.details.target = job.subject
    target, result = PurePosixPath(job.subject), finish_restore(work, job)
    print_restore_result(work.out, target, result)
    judge_integrity(work, target, result)


def _record_once(work: Session, job: Job) -> None:
    """Write a record of how a job ended when the session ends, unless there already is one."""
    folder = records_dir(work.settings)
    kind = RECORD_KINDS[job.kind]
    work.record = new_record(kind, work.host.name, work.database.name, commands=work.host.commands)
    records: list[Record] = []
    with contextlib.suppress(CouldNotLookError):  # it cannot be written either, which is reported after the result
        records, _ = read_records(folder)
    if not any(_has_end(record, work.record, job) for record in records):
        work.stack.enter_context(record_outcome(folder, work.record, required=False))


def _has_end(record: Record, new: Record, job: Job) -> bool:
    """Tell whether a record is about the job of a new one, and says how that ended."""
    if (record.kind, record.host, record.database) != (new.kind, new.host, new.database):
        return False
    if not isinstance(record, RunRecord | VerificationRecord | RestoreRecord):
        return False
    if record.details.job_started != start_time(job):
        return False
    # Otherwise the task of that record did not get the result of the job.
    return record.error is None or record.exit_status not in (0, COULD_NOT_LOOK, INTERRUPTED)


def _find_latest_job(work: Session) -> Job:
    jobs = [job for kind in RECORD_KINDS if (job := find_job(work.host, work.database, kind))]
    if not jobs:
        raise StepError(
            f"there is no job of the {work.database.name} database to attach to",
            host=work.host.name,
            advice=f"start one: {work.task('run')}",
        )
    return max(jobs, key=lambda job: job.started)
