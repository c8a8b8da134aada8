"""Restore a backup: show what will happen, ask, start the job on the host, follow it, and report what it proved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from ..backup.deploy import probe_sqlite, require_tools
from ..backup.permissions import require_safe_paths
from ..errors import RestoreRefusedError, RestoreUnprovenError, SettingsError, StepError
from ..records.check import Outcome
from ..records.record import Record, RestoreDetails
from ..records.store import read_records, records_dir
from ..recovery.copies import FETCHED
from ..recovery.restore_copy import LocalBackup, describe_source, find_local_backup, is_verified
from ..recovery.restore_facts import find_saved_state, observe_live, observe_restore, resolve_target
from ..recovery.restore_job import (
    RestoreRequest,
    RestoreResult,
    collect_restore,
    start_recovery,
    start_restore,
)
from ..recovery.restore_journal import PendingRestore, Proof, read_pending, refuse_pending
from ..recovery.restore_plan import RestorePlan, decide_restore
from ..recovery.restore_source import check_restored, read_saved_state, read_source, verify_source
from ..remote.job_state import RESTORE, Job, JobStatus
from ..remote.jobs import follow_job, hint_on_detach
from ..sqlite.integrity import find_missing_definition
from ..ui.progress import JobProgress
from ..ui.restore_table import print_restore_plan, print_restore_result
from .backups import follow, start_time
from .restore_options import RestoreOptions, confirm, require_confirmation
from .session import Session
from .upload import upload_copy

RESULT_PREFIX = "result: "  # of the lines of the job that are not for people


def restore(work: Session, options: RestoreOptions) -> None:
    """Restore a backup as the options say, or complete or revert a restore that was killed.

    Raises RestoreRefusedError if it would do harm, and SettingsError if nobody can be asked and `yes` is not set.
    """
    require_safe_paths(work.host, work.database)
    pending = read_pending(work.host, work.database)
    if pending is None or pending.running or options.backup:
        refuse_pending(work.host, work.database, pending)
    require_confirmation(work, options)
    if pending:
        _recover(work, pending, options)
    else:
        _restore(work, options)


# --- a new restore --------------------------------------------------------------------------------------------------


def _restore(work: Session, options: RestoreOptions) -> None:
    require_tools(work.host)
    probe_sqlite(work.host)
    plan = _make_plan(work, options)
    print_restore_plan(work.out, plan, work.database, work.settings.writer_timeout)
    _record_plan(work, options, plan)
    if plan.refusals:
        raise RestoreRefusedError(
            f"{plan.facts.live.path} was not restored: nothing was changed",
            host=work.host.name,
            output="\n".join(refusal.text for refusal in plan.refusals),
            advice=plan.refusals[0].advice,
        )
    if work.dry_run:
        work.out.say("dry run: nothing was changed")
        return
    confirm(work, options, _make_question(plan))
    if plan.facts.source.upload:
        _upload(work, options, plan)
    with hint_on_detach(work.host, work.database, RESTORE):
        job = start_restore(work.host, work.database, _make_request(work, plan))
        result = finish_restore(work, job)
    print_restore_result(work.out, plan.facts.live.path, result)
    _explain_undo(work, plan.saved)
    judge_integrity(work, plan.facts.live.path, result)
    if result.proof is Proof.TRANSACTION:
        _judge_content(work, plan)


def _make_plan(work: Session, options: RestoreOptions) -> RestorePlan:
    host, database = work.host, work.database
    records, _ = read_records(records_dir(work.settings))
    if options.source == FETCHED:
        source = describe_source(_find_local(work, options), _upload_path(work, options))
    elif options.undo:
        state = find_saved_state(host, database, f"restore a backup: {work.task('restore', '--backup', 'NAME')}")
        source = read_saved_state(host, state)
    else:
        source = read_source(host, database, _find_backup(work, options))
    live = observe_live(host, _resolve_target(work, options), work.out.say)
    if not (options.target and live.exists):  # otherwise it is refused: no need to verify the backup
        source = verify_source(host, database, source, records, lambda job: follow(work, job), work.out.say)
    facts = observe_restore(host, database, source, live, records, is_copy=options.target is not None)
    return decide_restore(
        facts,
        swap=options.swap,
        writer_timeout=work.settings.writer_timeout,
        floor=work.settings.free_space_floor,
    )


def _resolve_target(work: Session, options: RestoreOptions) -> PurePosixPath:
    if options.target is None:
        advice = (
            "are app_dir and file of the database correct? If they are, create the directory on the host, with the "
            "owner and mode that the service needs: install -d"
        )
        return resolve_target(work.host, work.database.source, advice)
    return resolve_target(work.host, options.target, "create it on the host, or name another path with --to")


def _find_backup(work: Session, options: RestoreOptions) -> PurePosixPath:
    if options.backup is None:
        command = work.task("list-backups")
        raise SettingsError("--backup is missing", advice=f"name a backup, or use --undo; list the backups: {command}")
    return work.database.backup_dir / options.backup


def _find_local(work: Session, options: RestoreOptions) -> LocalBackup:
    if options.backup is None:
        raise SettingsError("--backup is missing", advice="name a fetched backup, or the path of a file")
    records, _ = read_records(records_dir(work.settings))
    return find_local_backup(work.settings, work.host.name, work.database, options.backup, records)


def _upload_path(work: Session, options: RestoreOptions) -> PurePosixPath:
    return work.database.backup_dir / PurePosixPath(options.backup or "").name


def _upload(work: Session, options: RestoreOptions, plan: RestorePlan) -> None:
    """Upload the backup, and verify it on the host unless it is known to be good; raises RestoreRefusedError."""
    local, target = _find_local(work, options), plan.facts.source.path
    work.out.say(f"uploading {local.copy.path} to {target}")
    sent = upload_copy(work, work.host, local.copy, target)
    if local.record and sent.sha256 != local.record.details.sha256:
        raise RestoreRefusedError(f"{local.copy.path} was changed during the upload", host=work.host.name)
    source = read_source(work.host, work.database, target)
    records, _ = read_records(records_dir(work.settings))
    known = plan.facts.source.verified if is_verified(local) else ""
    source = verify_source(
        work.host, work.database, source, records, lambda job: follow(work, job), work.out.say, known
    )
    if source.problem:
        raise RestoreRefusedError(
            f"{target} must not be restored: {source.problem}",
            host=work.host.name,
            advice=f"the database was not changed; the upload can be removed: {work.host.command_line(f'rm {target}')}",
        )


def _make_question(plan: RestorePlan) -> str:
    path = plan.facts.live.path
    if plan.facts.is_copy:
        return f"Restore to {path}?"
    if not plan.facts.live.exists:
        return f"{path} does not exist. Create it?"
    if plan.swap_reason:
        return f"{path} cannot be restored in place: {plan.swap_reason}. Replace the file?"
    return f"Restore {path}?"


def _make_request(work: Session, plan: RestorePlan) -> RestoreRequest:
    database, is_copy = work.database, plan.facts.is_copy
    return RestoreRequest(
        backup=plan.facts.source.path,
        target=plan.facts.live.path,
        method=plan.method,
        proof=plan.proof,
        save=plan.save,
        saved=plan.saved,
        journal=database.restore_journal,
        lock=None if is_copy else database.lock,
        stop=database.stop if plan.stops_service else None,
        start=database.start if plan.stops_service else None,
        healthy=None if is_copy else database.healthy,
        service_directory=work.settings.app_dir,
        service_timeout=work.settings.service_timeout,
        owner=database.owner,
        mode=database.mode,
        writer_timeout=work.settings.writer_timeout,
        floor=work.settings.free_space_floor,
    )


def _record_plan(work: Session, options: RestoreOptions, plan: RestorePlan) -> None:
    source = plan.facts.source
    work.record.backup = str(source.path)
    work.record.bytes = source.bytes
    work.record.created = source.modified.isoformat()
    if isinstance(work.record.details, RestoreDetails):
        work.record.details.source = options.source
    _record_method(work.record, plan.facts.live.path, plan)


def _record_method(record: Record, target: PurePosixPath, how: RestorePlan | PendingRestore) -> None:
    if isinstance(record.details, RestoreDetails):
        record.details.target = str(target)
        record.details.method = how.method.value
        record.details.proof = how.proof.value
        record.details.saved = None if how.saved is None else str(how.saved)


def judge_integrity(work: Session, target: PurePosixPath, result: RestoreResult) -> None:
    """Raise RestoreUnprovenError if integrity_check has found faults in a database that its service uses."""
    lines = [line for line in result.integrity if line != "ok" and not find_missing_definition(line)]
    if lines:
        raise RestoreUnprovenError(
            f"{target} is restored, but integrity_check finds faults in it",
            host=work.host.name,
            output="\n".join(lines),
            advice=f"go back to the state from before: {work.task('restore', '--undo')}",
        )


def _judge_content(work: Session, plan: RestorePlan) -> None:
    """Raise RestoreUnprovenError unless a database that its service uses has the tables of the backup and a row."""
    target = plan.facts.live.path
    check = check_restored(work.host, work.database, target, plan.facts.source.path)
    work.record.checks = [check]
    if check.outcome is Outcome.PASSED:
        work.out.say("query: it returned a row; the tables are those of the backup")
    else:
        work.out.say(f"query: {check.detail}")
    if check.outcome is Outcome.FAILED:
        raise RestoreUnprovenError(
            f"{target} is restored, but its query or its tables are not those of the backup",
            host=work.host.name,
            output=check.detail,
            advice="has the service changed its tables since it was restored? To go back: "
            + work.task("restore", "--undo"),
        )


def _explain_undo(work: Session, saved: PurePosixPath | None) -> None:
    if saved is not None:
        undo = work.task("restore", "--undo")
        work.out.say(
            f"the state from before is {saved}; no rotation deletes it\n  to get it back: {undo}\n"
            "  when it is no longer needed, delete it on the host"
        )


# --- the job --------------------------------------------------------------------------------------------------------


def finish_restore(work: Session, job: Job) -> RestoreResult:
    """Follow a restore to its end, record its result and return it; raises what `collect_restore` does."""
    status, output = _follow(work, job)
    work.record.exit_status = status.status
    work.record.seconds = round((status.ended or status.now) - job.started, 3)
    if isinstance(work.record.details, RestoreDetails):
        work.record.details.job_started = start_time(job)
    result = collect_restore(work.host, work.database, job, status, output)
    record_restore(work.record, result)
    return result


def _follow(work: Session, job: Job) -> tuple[JobStatus, str]:
    """Follow a job to its end, and print its messages; return its last status and all its output."""
    output: list[str] = []
    line = ""
    with JobProgress(work.out, job) as progress:

        def echo(text: str) -> None:
            nonlocal line
            output.append(text)
            *complete, line = (line + text).split("\n")
            _print_messages(work, complete)

        status = follow_job(work.host, work.database, job, echo, progress.show)
    _print_messages(work, [line])
    return status, "".join(output)


def _print_messages(work: Session, lines: Sequence[str]) -> None:
    messages = [line for line in lines if line and not line.startswith(RESULT_PREFIX)]
    if messages:
        work.out.say("\n".join(messages))


def record_restore(record: Record, result: RestoreResult) -> None:
    """Put the result of a restore into its record."""
    record.integrity_check = list(result.integrity)
    if isinstance(record.details, RestoreDetails):
        record.details.proof = result.proof.value
        record.details.identical = result.identical
        record.details.changed_pages = result.changed_pages
        record.details.stopped_seconds = result.stopped_seconds


# --- a restore that was killed --------------------------------------------------------------------------------------


def _recover(work: Session, pending: PendingRestore, options: RestoreOptions) -> None:
    """Complete a restore that was killed, or with `undo` revert it, after a question."""
    _refuse_recovery(work, pending, options.undo)
    work.out.say(
        f"the restore of {pending.target} from {pending.backup} was interrupted (stage: {pending.stage})\n"
        + _describe_pending_state(pending)
    )
    if work.dry_run:
        work.out.say(f"would {'revert' if options.undo else 'complete'} it; dry run: nothing was changed")
        return
    confirm(work, options, "Revert it?" if options.undo else "Complete it?")
    _record_pending(work.record, pending)
    with hint_on_detach(work.host, work.database, RESTORE):
        job = start_recovery(
            work.host,
            work.database,
            pending,
            options.undo,
            service_directory=work.settings.app_dir,
            service_timeout=work.settings.service_timeout,
        )
        result = finish_restore(work, job)
    print_restore_result(work.out, pending.target, result)
    if not result.reverted:
        _explain_undo(work, pending.saved)


def _describe_pending_state(pending: PendingRestore) -> str:
    if pending.is_unchanged:
        return "the database is not changed yet"
    return f"the state from before is {pending.saved}" if pending.saved else "there was no database before"


def _refuse_recovery(work: Session, pending: PendingRestore, undo: bool) -> None:
    """Refuse what the stage of the restore does not allow."""
    if pending.reverts and not undo:
        raise StepError(
            f"the restore of {pending.target} was being reverted: it can only be reverted",
            host=work.host.name,
            advice=f"revert it: {work.task('restore', '--undo')}",
        )
    if pending.is_judged and undo:
        raise StepError(
            f"the restore of {pending.target} is done, only its files are not cleaned up: it can only be completed",
            host=work.host.name,
            advice=f"complete it: {work.task('restore')}; to undo it, run this again after that",
        )


def _record_pending(record: Record, pending: PendingRestore) -> None:
    record.backup = str(pending.backup)
    _record_method(record, pending.target, pending)
