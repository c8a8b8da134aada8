"""Run, follow, stop and verify backups."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import PurePosixPath

from ..backup import catalog
from ..backup.crontab import PUBLISHED, backup_command, count_daily_runs
from ..backup.deploy import (
    Deployment,
    list_tools,
    probe_sqlite,
    read_installed_sha256,
    require_tools,
)
from ..backup.keep_verified import can_keep, keep_backup
from ..backup.names import VERIFIED, is_verified_name
from ..backup.permissions import refuse_problems, require_safe_paths
from ..backup.preflight import Preflight, Verdict, decide_preflight, observe_preflight
from ..backup.run import (
    check_rotation,
    clear_command,
    clear_unfinished,
    collect_result,
    cron_command,
    lock_wait,
    start_backup,
)
from ..backup.script import MADE_BACKUP, InstalledScript
from ..backup.stop import ActiveJobs, active_jobs, end_backup, stop_commands
from ..backup.verify import Verification, verify_backup
from ..errors import (
    BackupsError,
    CouldNotLookError,
    PreflightRefusedError,
)
from ..project import whoami
from ..records.check import Outcome
from ..records.record import Record, RunDetails, RunRecord, VerificationDetails, VerificationRecord
from ..records.store import read_records, records_dir
from ..remote.files import File
from ..remote.job_state import BACKUP, Job, JobStatus, without_functions
from ..remote.jobs import attach_command, follow_job, hint_on_detach
from ..settings.model import Database
from ..sqlite.inspect import resolve_source
from ..ui.progress import JobProgress
from ..units import format_size
from .scripts import check_installed_script, require_deployed
from .session import Session

# --- run ------------------------------------------------------------------------------------------------------------


def preflight(work: Session, installed: InstalledScript | None = None) -> Preflight:
    """Predict what a backup will do; the installed script is read unless it is known."""
    runs_per_day = count_daily_runs(work.database, PUBLISHED.read_text())
    records, _ = read_records(records_dir(work.settings))
    require_tools(work.host, list_tools(work.settings.config_paths))
    sqlite = probe_sqlite(work.host)
    work.series = resolve_source(work.host, work.database)
    facts = observe_preflight(
        work.host,
        work.database,
        sqlite,
        runs_per_day,
        records,
        work.out.say,
        installed,
        work.settings.keep_verified,
    )
    return decide_preflight(facts, work.settings.writer_timeout, work.settings.free_space_floor)


def run(work: Session, force: bool = False, force_unsafe: bool = False) -> File | None:
    """Run the database's script on the host as cron would, and return the backup; in a dry run, None.

    Raises StepError if the preflight says no, unless `force` is set; UnsafeScriptError or UncheckedScriptError unless
    `force_unsafe` is set; and in any case UnsafePathError if another user could change the backup or its script.
    """
    deployment = require_deployed(work)
    check_installed_script(work, deployment, force_unsafe)
    command = backup_command(work.database, deployment.script)
    prediction = preflight(work, deployment.installed)
    _show_prediction(work, deployment, prediction)
    if work.dry_run:
        work.show(cron_command(command))
        return None
    refuse_problems(work.host, prediction.facts.problems)
    if prediction.verdict is Verdict.NO and not force:
        raise PreflightRefusedError(
            f"the {work.database.name} database was not backed up: the preflight says no",
            host=work.host.name,
            output="\n".join(prediction.reasons),
            advice=_advise_on_refusal(work, prediction),
        )
    return run_command(work, command, prediction.facts.source_bytes)


def _advise_on_refusal(work: Session, prediction: Preflight) -> str:
    if prediction.facts.backup_processes or prediction.facts.hidden_backup:
        return f"wait for its end; if a task started it, follow it: {attach_command(work.host, work.database)}"
    return "remove the cause, or run it anyway: --force"


def _show_prediction(work: Session, deployment: Deployment, prediction: Preflight) -> None:
    if deployment.is_needed:
        work.out.say(f"note: {deployment.target} is not the script of this checkout")
    reasons = [f"  {reason}" for reason in prediction.reasons]
    notes = [f"note: {note}" for note in prediction.notes]
    work.out.say("\n".join([f"preflight: {prediction.verdict.value}", *reasons, *notes]))


def run_command(work: Session, command: str, source_bytes: int) -> File:
    """Run a command as cron would and follow it; return the backup that it made."""
    floor = work.settings.free_space_floor
    begin = time.clock_gettime(time.CLOCK_BOOTTIME)
    with hint_on_detach(work.host, work.database, BACKUP):
        job = start_backup(work.host, work.database, command, source_bytes, floor)
        return finish_backup(work, job, begin)


def finish_backup(work: Session, job: Job, begin: float | None = None) -> File:
    """Follow a backup to its end, print its result, and return the file.

    `begin` is when this task started it, in seconds of CLOCK_BOOTTIME; None if another one did.

    Raises StepError if it failed, and RotationFailedError if only the rotation after it failed.
    """
    status, output = follow(work, job)
    work.record.seconds = measure_duration(job, status, begin)
    backup = _collect_backup(work, job, status, output)
    work.out.say(f"created {backup.path} ({format_size(backup.bytes)}, {work.record.seconds:.1f} s)")
    check_rotation(work.host, work.database, status, output)
    return backup


def _collect_backup(work: Session, job: Job, status: JobStatus, output: str) -> File:
    """Record the result of a backup, and return the file."""
    work.record.exit_status = status.status
    if status.status not in MADE_BACKUP:
        clear_unfinished(work.host, work.database)
    backup = collect_result(work.host, work.database, job, status, output)
    record_backup(work.record, backup.path, backup)
    if isinstance(work.record.details, RunDetails):
        work.record.details.waited_seconds = lock_wait(work.host, job, backup.path)
    return backup


def measure_duration(job: Job, status: JobStatus, begin: float | None) -> float:
    """Return the duration of a job in seconds: by the clock of its host, unless that was set meanwhile.

    A job that this task has started cannot have taken longer than the task has waited.
    """
    seconds = (status.ended or status.now) - job.started
    if begin is not None:
        longest = time.clock_gettime(time.CLOCK_BOOTTIME) - begin
        seconds = min(seconds, longest) if seconds >= 0 else longest
    return round(seconds, 3)


def record_backup(record: Record, path: PurePosixPath | None, file: File | None) -> None:
    """Put a backup, its size and its time into a record."""
    record.backup = str(path) if path else None
    record.bytes = file.bytes if file else None
    record.created = file.modified.isoformat() if file else None


def follow(work: Session, job: Job) -> tuple[JobStatus, str]:
    """Follow a job to its end and show its progress; return its last status and all its output."""
    output: list[str] = []
    with JobProgress(work.out, job) as progress:

        def echo(text: str) -> None:
            output.append(text)
            if job.kind == BACKUP and text:
                work.out.echo(text)

        status = follow_job(work.host, work.database, job, echo, progress.show)
    if isinstance(work.record, RunRecord | VerificationRecord):
        work.record.details.job_started = start_time(job)
    return status, "".join(output)


def start_time(job: Job) -> str:
    """Return the time at which a job was started, for a record."""
    return datetime.fromtimestamp(job.started, timezone.utc).isoformat()


def stop_backup(work: Session) -> None:
    """Stop the running backup of the database, or the running check of one, and remove its partial file.

    If nothing is running, say so.
    """
    require_safe_paths(work.host, work.database)
    message = f"stopped by {whoami()}"
    if work.dry_run:
        _show_stop(work, active_jobs(work.host, work.database), message)
    elif not end_backup(work.host, work.database, message):
        _report_idle(work)
    else:
        work.out.say("stopped; only the partial file was removed")


def _show_stop(work: Session, active: ActiveJobs, message: str) -> None:
    if active.is_idle:
        _report_idle(work)
        return
    running = [*(f"a {kind} is running" for kind in active.kinds), *map(str, active.processes)]
    work.out.say("\n".join(running))
    commands = [*stop_commands(work.database, active.kinds, message), clear_command(work.database)]
    work.show(without_functions("\n".join(commands)))


def _report_idle(work: Session) -> None:
    work.out.say(f"no backup of the {work.database.name} database is running: nothing to do")


# --- verify ---------------------------------------------------------------------------------------------------------


def verify(
    work: Session,
    path: PurePosixPath | None = None,
    quick: bool = False,
    job: Job | None = None,
    *,
    compare: bool = True,
) -> Verification:
    """Verify a backup: the newest by default. A relative path is in the backup directory.

    Without `compare`, it is not compared with the live source, which this login may not be able to read.

    With `job`, a check of this file that was started before, its result is used instead of starting one.
    """
    if path is not None:
        path = work.database.backup_dir / path
    require_safe_paths(work.host, work.database)
    tolerance = work.settings.size_tolerance
    verification = verify_backup(
        work.host,
        work.database,
        path,
        quick,
        tolerance,
        lambda check: follow(work, check),
        work.out.say,
        job,
        compare=compare,
    )
    _record_verification(work, verification, is_newest=path is None)
    return verification


def _record_verification(work: Session, verification: Verification, is_newest: bool) -> None:
    record = work.record
    try:
        record.script_sha256 = read_installed_sha256(work.host, work.database.script)
    except CouldNotLookError as error:  # the verification counts without it
        work.out.say(f"note: the record does not say which script is installed: {error}")
    record.checks = verification.checks
    record.integrity_check = verification.integrity
    if isinstance(record.details, VerificationDetails):
        record.details.source_bytes = verification.source_bytes
        record.details.quick = verification.quick
        record.details.newest = is_newest
        record.details.compared = verification.compared
    record.exit_status = verification.exit_code
    record_backup(record, verification.path, verification.backup)


def keep_verified(work: Session, verification: Verification) -> None:
    """Keep the backup of a verification that passed, if the settings say so: see `keep_backup`.

    quick_check, which does not check indexes, is not enough, nor are checks without the live source. Raises
    BackupNotKeptError.
    """
    if verification.backup and verification.outcome is Outcome.PASSED:
        if verification.quick and work.settings.keep_verified:
            work.out.say("note: it is not kept as the verified backup: quick_check does not check indexes")
        elif not verification.compared and work.settings.keep_verified:
            work.out.say("note: it is not kept as the verified backup: it was not compared with the source")
        else:
            keep_passed(work, verification.backup)


def keep_passed(work: Session, backup: File) -> None:
    """Keep a backup that passed all checks, if the settings say so, and report which one is kept."""
    if not work.settings.keep_verified or is_verified_name(work.database, backup.path.name):
        return
    if not can_keep(work.database, backup):
        work.out.say(f"note: {backup.path} is not kept: it is not a backup in {work.database.backup_dir}")
        return
    try:
        newest = keep_backup(work.host, work.database, backup)
    except BackupsError as error:
        work.record.exit_status = error.exit_code
        error.after_result = True
        raise
    is_newer = newest.name != f"{VERIFIED}{backup.path.name}"
    work.out.say(f"kept: {newest}" + ", which is newer" * is_newer)


def list_backups(work: Session) -> list[File]:
    """List the backups on the host, the newest first."""
    return catalog.list_backups(work.host, work.series)


def find_verified(work: Session) -> File | None:
    """Find the backup of the database that is kept because it was verified; no archive of the configuration is."""
    return catalog.find_verified(work.host, work.series) if isinstance(work.series, Database) else None
