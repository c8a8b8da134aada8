"""The errors that a user sees: what was tried, on which host, what came back, what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FAILED = 1
WRONG_INPUT = 2
COULD_NOT_LOOK = 3
INCOMPLETE = 4
INTERRUPTED = 130
# Of several hosts, or parts of a task, the first that occurs.
EXIT_CODES = (INTERRUPTED, WRONG_INPUT, FAILED, INCOMPLETE, COULD_NOT_LOOK, 0)


def combine_exit_codes(codes: Iterable[int]) -> int:
    """Return the exit code of several hosts or parts of a task: the first of EXIT_CODES that one of them has."""
    return min(codes, key=EXIT_CODES.index, default=0)


@dataclass(frozen=True)
class Problem:
    """What a check of a host has found, and what to do about it."""

    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.text}: {self.advice}"


class BackupsError(Exception):
    """An error with its exit code.

    `action` is what was tried or what is wrong, `host` where, `output` what a command printed, `advice` what to do.
    """

    exit_code = FAILED
    after_result = False  # with --json, the object with the result was printed before

    def __init__(self, action: str, *, host: str | None = None, output: str = "", advice: str = "") -> None:
        super().__init__(action)
        self.action = action
        self.host = host
        self.output = output.strip()
        self.advice = advice

    def __str__(self) -> str:
        first = f"{self.host}: {self.action}" if self.host else self.action
        output = [f"  | {line}" for line in self.output.splitlines()]
        return "\n".join([first, *output, *([f"  -> {self.advice}"] if self.advice else [])])


class StepError(BackupsError):
    """A step failed, or was refused because it would fail or do harm."""


class SettingsError(BackupsError):
    """A setting or an argument is wrong."""

    exit_code = WRONG_INPUT


class WrongPathError(SettingsError):
    """A path cannot be used: it has a control character."""


class RepositoryPasswordError(SettingsError):
    """The password of the off-site repository cannot be read, or is not the one of the repository."""


class CouldNotLookError(BackupsError):
    """A fact is not available: the host is unreachable, access is denied, an answer is invalid."""

    exit_code = COULD_NOT_LOOK


class ConnectionLostError(CouldNotLookError):
    """The connection ended, or a command did not answer in time; what it started may still run."""


class IncompleteError(BackupsError):
    """The task did what it is for, but something that belongs to it failed: the rotation, or the record."""

    exit_code = INCOMPLETE


class InterruptedRunError(BackupsError):
    """The user pressed Ctrl-C."""

    exit_code = INTERRUPTED


class UnexpectedError(BackupsError):
    """A fault of this project ended the work on one of several hosts; the others are not affected."""


# --- steps that failed or were refused ------------------------------------------------------------------------------


class ScriptError(StepError):
    """A backup script of this checkout is missing, or could not run on a server."""


class UnsafeScriptError(StepError):
    """A backup script would make backups that cannot be trusted."""


class PreflightRefusedError(StepError):
    """The preflight said no: a backup would fail or do harm."""


class UnsafePathError(StepError):
    """A user other than root and the login account can write to a directory or file of a backup."""


class BackupFailedError(StepError):
    """A backup ended with a failure, or without reporting an exit status."""


class NoNewBackupError(StepError):
    """A backup script exited with 0 and made no backup."""


class RestoreRefusedError(StepError):
    """A restore would fail or do harm, or was not confirmed: nothing was changed."""


class NoDatabaseError(StepError):
    """The file that the settings name as the live database is missing, or is not a database."""


class JournalModeError(StepError):
    """The journal mode of a live database was not changed."""


class NoScheduleError(StepError):
    """The published crontab has no line for a database: it is backed up by hand."""


class DrillError(StepError):
    """A restore drill could not be made."""


class JobRunningError(StepError):
    """A job of the same kind is running."""


class JobNotStartedError(StepError):
    """A job could not be started."""


class CrontabConflictError(StepError):
    """A line of a crontab, added or edited by somebody else, prevents the change."""


class CrontabChangedError(StepError):
    """The crontab has changed since it was read."""


class NoSuchBackupError(StepError):
    """There is no backup of this name, or no backup at all."""


class UnfinishedBackupError(StepError):
    """A backup has sidecar files: it is not complete, or in use."""


class DamagedBackupError(StepError):
    """A backup does not pass its checks."""


class ConfigArchiveError(StepError):
    """The configuration could not be packed, or its archive not unpacked. The error has no names of files."""


class MissingConfigError(StepError):
    """An archive lacks something that the settings name."""


class FetchRunningError(StepError):
    """Another fetch of the same backup is running on this machine."""


class CopyExistsError(StepError):
    """A file on this machine has the name of the backup, and another content."""


class CopyMismatchError(StepError):
    """What was transferred does not have the SHA-256 of the backup."""


class LocalDiskError(StepError):
    """A directory or file on this machine cannot be used, or has too little space."""


class RestoreFailedError(StepError):
    """A restore failed, and nothing was changed: the live database is the one from before."""


class RestoreRevertedError(StepError):
    """A restore failed after it had changed something, and the state from before is back."""


class RestoreNotRevertedError(StepError):
    """A restore failed, and the state from before is not back: a person has to decide."""


class RestoreUnprovenError(StepError):
    """A database was restored while its service runs, and does not pass the checks that follow."""


class RestorePendingError(StepError):
    """A restore of this database was killed, or is running: until it is completed or reverted, nothing else starts."""


class RsyncError(StepError):
    """Rsync has failed on this machine or on the host."""


class UploadConflictError(StepError):
    """A file with the name of an upload exists on the host, and has other content."""


class UploadRunningError(StepError):
    """Another upload to the same file is running."""


class LocalFileChangedError(StepError):
    """A file on this machine was changed while it was uploaded."""


class MetricsNotWrittenError(StepError):
    """The metrics of a check could not be written to their file."""


class PingError(StepError):
    """The URL of a ping cannot be read, or was requested without success. The error never contains the URL."""


class OffsiteError(StepError):
    """Restic has failed, or has not done what it was asked for."""


class RepositoryMissingError(OffsiteError):
    """There is no off-site repository at its address."""


class RepositoryExistsError(OffsiteError):
    """An off-site repository was to be created where there is one."""


class RepositoryLockedError(OffsiteError):
    """Another process is working on the off-site repository."""


class RepositoryFullError(OffsiteError):
    """The disk or the quota of the off-site repository is full."""


class SnapshotMismatchError(OffsiteError):
    """A snapshot does not have exactly the bytes of the backup that it is named after."""


class RepositoryDamagedError(OffsiteError):
    """The off-site repository has lost data, or has data that was changed."""


# --- tasks that are done, but not completely ------------------------------------------------------------------------


class RotationFailedError(IncompleteError):
    """The backup was made, but an expired backup could not be deleted."""


class BackupNotKeptError(IncompleteError):
    """A backup passed all checks, but the link that keeps it beyond the rotation could not be made."""


class DrillUncleanError(IncompleteError):
    """A restore drill is done, but not all of its files could be removed."""

    after_result = True


class RecordNotWrittenError(IncompleteError):
    """The task is done, but its record could not be written."""

    after_result = True


class OffsiteRetentionError(IncompleteError):
    """A backup was stored off-site, but an expired one could not be removed from the repository."""

    after_result = True


class RestoreUncleanError(IncompleteError):
    """A restore is done, but a file that it needed could not be removed."""


# --- facts that are not available -----------------------------------------------------------------------------------


class SourceUnavailableError(CouldNotLookError):
    """The live database cannot be read, or not without creating files next to it."""


class UncheckedScriptError(CouldNotLookError):
    """A backup script cannot be read well enough to tell whether it is safe."""


class UnclearCrontabError(CouldNotLookError):
    """A line of a crontab may run a backup script: what it runs cannot be decided."""


class HiddenBackupError(CouldNotLookError):
    """A backup is running in processes that this user cannot see."""


class HostUnreachableError(CouldNotLookError):
    """There is no SSH connection to a host."""


class CheckTimeoutError(CouldNotLookError):
    """A check has no result within the time that it may take."""


class HostKeyError(CouldNotLookError):
    """The key of a host was refused."""


class LoginError(CouldNotLookError):
    """A host was reached, and did not accept the login."""


class CommandNotStartedError(CouldNotLookError):
    """A host did not run a command."""


class SudoError(CommandNotStartedError):
    """Sudo is missing, cannot ask for a password, or has refused it."""


class OutputTooLongError(CouldNotLookError):
    """A command printed more than is read."""


class JobStateError(CouldNotLookError):
    """The state directory of a job is damaged, or belongs to another user."""


class BackupUnconfirmedError(CouldNotLookError):
    """There is a new backup, but it is not known how the script ended that made it."""


class RestoreUnconfirmedError(CouldNotLookError):
    """A restore ended without reporting an exit status, and left no journal: it is not known how it ended."""


class RepositoryUnreachableError(CouldNotLookError):
    """The off-site repository cannot be reached, or access to it is denied."""


class MissingToolError(CouldNotLookError):
    """The host does not have a program that the backup script calls, or one that is too old."""
