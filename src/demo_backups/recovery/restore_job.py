"""A restore on the server: a job that puts a backup in place of a database, and its result.

`restore.sh` does the work. Its journal has the stage that it is in, and is on the disk before a stage starts. So the
same script can complete or revert a restore that was killed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from ..errors import (
    BackupsError,
    RestoreFailedError,
    RestoreNotRevertedError,
    RestoreRevertedError,
    RestoreUncleanError,
    RestoreUnconfirmedError,
    WrongPathError,
)
from ..remote.answers import parse_count, parse_yes_no
from ..remote.host import Host
from ..remote.job_state import RESTORE, Job, JobStatus
from ..remote.jobs import start_job
from ..remote.shell import quote
from ..settings.model import Database
from ..sqlite.command import LOCK_TIMEOUT
from .restore_advice import find_advice
from .restore_journal import Method, PendingRestore, Proof, Save, pending_error, read_pending

T = TypeVar("T")
SCRIPT = Path(__file__).with_name("restore.sh")
HOLD_PREFIX = ".restore."  # of the hard link to a backup that is being restored
LOCK_SHARE = 0.2  # of writer_timeout: so long, a restore waits for readers while writers wait for it
SHORTEST_TIMEOUT = 1.0  # seconds; a timeout of 0 would be none (timeout(1))
DONE, UNCLEAN, UNCHANGED, REVERTED, NOT_REVERTED = 0, 4, 20, 21, 22  # exit statuses of the script


@dataclass(frozen=True)
class RestoreRequest:
    """What to restore, and how; all paths are absolute, and `target` has no symbolic link.

    With SWAP the target may be missing. `saved` is the file for the present state: with Save.RAW, its name ends with
    `.raw.db`, and the sidecars are next to it. A backup with such a name is restored with its sidecars, by SWAP.
    `journal` is a directory that the script creates and removes, in a directory that only its owner can write to;
    `saved` and `lock` are in the same one. `lock` is the lock of the backup script, which is held for the whole
    restore, or None. If `stop` is set, the service is stopped; `start` and `healthy` are run in the end. Commands run
    in `service_directory`, for `service_timeout` seconds each. `owner` (user:group) and `mode` are those of a new file
    where there was none. `floor` is how many bytes must stay free.
    """

    backup: PurePosixPath
    target: PurePosixPath
    method: Method
    proof: Proof
    save: Save
    saved: PurePosixPath | None
    journal: PurePosixPath
    lock: PurePosixPath | None
    stop: str | None
    start: str | None
    healthy: str | None
    service_directory: PurePosixPath
    service_timeout: float
    owner: str | None
    mode: str | None
    writer_timeout: float
    floor: int


@dataclass(frozen=True)
class RestoreResult:
    """What a restore did.

    `identical`: the database had the content of the backup, byte for byte. With Proof.TRANSACTION it may have other
    pages that the service has written since: `changed_pages`, None if they could not be counted. `wal_bytes` is the
    size of a -wal that could not be truncated. `stopped_seconds` is how long the service was stopped. `integrity` are
    the lines that integrity_check printed, with Proof.TRANSACTION only. `reverted`: the state before the restore is
    back, as `start_recovery` was asked to do; `identical` is then False.
    """

    proof: Proof
    identical: bool
    changed_pages: int | None = None
    wal_bytes: int | None = None
    stopped_seconds: float | None = None
    integrity: Sequence[str] = ()
    reverted: bool = False


# --- the job --------------------------------------------------------------------------------------------------------


def restore_command(request: RestoreRequest) -> str:
    """Build the command that restores a backup; raises WrongPathError for a path that cannot be in the journal."""
    values = {
        "backup": request.backup,
        "target": request.target,
        "method": request.method.value.replace(" ", "-"),
        "proof": request.proof.value,
        "save": request.save.value,
        "saved": request.saved or "",
        "lock": request.lock or "",
        "wait": f"{_lock_wait(request) * 1000:.0f}",
        "floor": request.floor,
        "owner": request.owner or "",
        "mode": request.mode or "",
    }
    service = _service_values(
        request.stop, request.start, request.healthy, request.service_directory, request.service_timeout
    )
    for path in (request.backup, request.target, request.saved, request.journal, request.lock):
        if path and not str(path).isprintable():
            raise WrongPathError(
                f"the path has a control character: {str(path)!r}", advice="rename the file or its directory"
            )
    return _script_command("restore", {**values, "journal": request.journal, **service})


def _lock_wait(request: RestoreRequest) -> float:
    """Return how many seconds to wait for a lock: only in rollback mode, writers wait meanwhile."""
    return request.writer_timeout * LOCK_SHARE if request.proof is Proof.LOCKED else LOCK_TIMEOUT


def _service_values(
    stop: str | None, start: str | None, healthy: str | None, directory: PurePosixPath, timeout: float
) -> dict[str, object]:
    limit = f"{max(timeout, SHORTEST_TIMEOUT):.3f}"
    return {
        "stop": stop or "",
        "start": start or "",
        "healthy": healthy or "",
        "directory": directory,
        "limit": limit,
    }


def recovery_command(
    database: Database, pending: PendingRestore, revert: bool, service_directory: PurePosixPath, service_timeout: float
) -> str:
    """Build the command that completes or reverts a restore that was killed."""
    values = {"journal": database.restore_journal, "started": f"{pending.started:.3f}"}
    commands = (None, None, None) if pending.is_copy else (database.stop, database.start, database.healthy)
    service = _service_values(*commands, service_directory, service_timeout)
    return _script_command("revert" if revert else "complete", {**values, **service})


def _script_command(action: str, values: Mapping[str, object]) -> str:
    arguments = [f"{key}={value}" for key, value in values.items()]
    return " ".join(map(quote, ["exec", "bash", "-c", SCRIPT.read_text(), SCRIPT.name, action, *arguments]))


def start_restore(host: Host, database: Database, request: RestoreRequest) -> Job:
    """Start a restore as a job on the host; raises StepError, also if one is running."""
    command = restore_command(request)
    job = Job(RESTORE, database.name, f"restore {request.backup}", str(request.target), 0)
    return start_job(host, database, job, command)


def start_recovery(
    host: Host,
    database: Database,
    pending: PendingRestore,
    revert: bool,
    *,
    service_directory: PurePosixPath,
    service_timeout: float,
) -> Job:
    """Complete or revert a restore that was killed, as a job; collect its result with `collect_restore`.

    It can be killed and started again. The commands of the service are those of the settings now. Raises StepError.
    """
    command = recovery_command(database, pending, revert, service_directory, service_timeout)
    action = "revert" if revert else "complete"
    job = Job(RESTORE, database.name, f"{action} the restore of {pending.backup}", str(pending.target), 0)
    return start_job(host, database, job, command)


# --- its result -----------------------------------------------------------------------------------------------------


def collect_restore(host: Host, database: Database, job: Job, status: JobStatus, output: str) -> RestoreResult:
    """Return what a restore did; the end of its job is `status`.

    Raises RestoreFailedError where nothing was changed, RestoreRevertedError where the state from before is back,
    RestoreNotRevertedError where it is not, RestorePendingError where it was killed, and RestoreUncleanError where it
    is done and a file could not be removed.
    """
    if status.problem:
        output += f"\n[output may be missing: {status.problem}]"
    if status.status == DONE:
        return host.parse(f"read the result of {job.command}", output, parse_result)
    raise _explain_failure(host, database, job, status.status, output)


def _explain_failure(host: Host, database: Database, job: Job, status: int | None, output: str) -> BackupsError:
    target, advice = job.subject, find_advice(database, output)
    match status:
        case _ if status == UNCHANGED:
            return RestoreFailedError(
                f"{target} was not restored: nothing was changed", host=host.name, output=output, advice=advice
            )
        case _ if status == REVERTED:
            return RestoreRevertedError(
                f"{target} has the state from before the restore", host=host.name, output=output, advice=advice
            )
        case _ if status == NOT_REVERTED:
            undo = host.task("restore", "--database", database.name, "--undo")
            return RestoreNotRevertedError(
                f"{target} was not restored, and the state from before is not back",
                host=host.name,
                output=output,
                advice=f"remove the cause, then: {undo}. {advice}".rstrip(),
            )
        case _ if status == UNCLEAN:
            return RestoreUncleanError(
                f"{target} is restored, but a file of the restore could not be removed",
                host=host.name,
                output=output,
                advice=f"remove the cause, then: {host.task('restore', '--database', database.name)}",
            )
    return _explain_kill(host, database, job, output)


def _explain_kill(host: Host, database: Database, job: Job, output: str) -> BackupsError:
    pending = read_pending(host, database)
    if pending:
        return pending_error(host, database, pending, output)
    return RestoreUnconfirmedError(
        "the restore ended without reporting an exit status, and left no journal: it had not started to change "
        f"{job.subject}, or it was done",
        host=host.name,
        output=output,
        advice="compare the database with the backup before you start it again",
    )


_RESULT = re.compile(r"result: ([a-z_]+) (.*)")


def parse_result(output: str) -> RestoreResult:
    """Parse what the script printed; raises ValueError."""
    lines = output.split("\n")  # not splitlines: a name in a database may have other characters that end a line
    found = [(match[1], match[2]) for line in lines if (match := _RESULT.fullmatch(line))]
    values = {"reverted": "no", **dict(found)}
    if not {"proof", "identical"} <= values.keys():
        raise ValueError("it has no proof")
    integrity = [value for key, value in found if key == "integrity"]
    stopped = _parse_optional(values, "stopped_milliseconds")
    return RestoreResult(
        proof=Proof(values["proof"]),
        identical=_parse_flag(values["identical"]),
        changed_pages=_parse_optional(values, "changed_pages"),
        wal_bytes=_parse_optional(values, "wal_bytes"),
        stopped_seconds=None if stopped is None else stopped / 1000,
        integrity=integrity,
        reverted=_parse_flag(values["reverted"]),
    )


def _parse_optional(values: Mapping[str, str], key: str) -> int | None:
    return parse_count(values[key]) if key in values else None


def _parse_flag(text: str) -> bool:
    return parse_yes_no(f"{text}\n")
