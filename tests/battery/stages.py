"""The named stages of each task at which the battery strikes.

A `Stage` is the call of a program, which waits for the strike. A `FileStage` is recognized by its files: the task does
not wait.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .gate import Stage
from .machine import OLDER, Machine


@dataclass(frozen=True)
class FileStage:
    """A stage that is recognized by its files."""

    name: str
    is_visible: Callable[[Machine], bool]


def _has_bytes(path: Path, count: int) -> bool:
    try:
        return path.stat().st_size >= count
    except FileNotFoundError:
        return False


def _is_downloading(machine: Machine) -> bool:
    return any(_has_bytes(path, 2**20) for path in machine.copies.glob(f".{OLDER[2]}*"))


def _has_new_pack(machine: Machine) -> bool:
    return any(machine.repository.glob("data/*/*"))


FILE_STAGES = {
    "run": (FileStage("the copy is written", lambda machine: _has_bytes(machine.backups / ".backup.part", 2**20)),),
    "fetch": (
        FileStage("a part is downloaded", _is_downloading),
        FileStage("the copy has its name", lambda machine: (machine.copies / OLDER[2]).exists()),
    ),
    "offsite": (
        FileStage("a part is stored", _has_new_pack),
        FileStage("the snapshot is stored", lambda machine: any(machine.repository.glob("snapshots/*"))),
    ),
}

JOB_STAGES = (
    Stage("the job is described", "sync", "*.new/status.new*"),
    Stage("the job gets its directory", "mv", "*--no-target-directory -- .new*"),
    Stage("the status is flushed", "sync", "-- status.new"),
    Stage("the status is published", "mv", "-- status.new status"),
)
RUN_STAGES = (
    Stage("the script takes its lock", "flock", "--nonblock 9"),
    Stage("the script removes what is left", "rm", "-f -- .backup.part*"),
    Stage("the copy is checked", "find", ".backup.part *"),
    Stage("the copy gets its mode", "chmod", "*.backup.part"),
    Stage("the copy is flushed", "sync", "-- .backup.part"),
    Stage("the backup gets its name", "ln", "*.backup.part*"),
    Stage("the name is flushed", "sync", "-- ."),
    Stage("the rotation", "find", "*-mtime*"),
    Stage("the script removes its copy", "rm", "-f -- .backup.part*", 2),
    *JOB_STAGES,
)
DEPLOY_STAGES = (
    Stage("the script is received", "cat", ""),
    Stage("the staged script is hashed", "sha256sum", ""),
    Stage("the staged script gets its mode", "chmod", "*"),
    Stage("the old script is kept", "ln", "*--force*"),
    Stage("the staged script is flushed", "sync", "*.index-db-backup.sh.*"),
    Stage("the script is replaced", "mv", "*"),
    Stage("the directory is flushed", "sync", "*share/bin"),
    Stage("the staged script is removed", "rm", "*"),
)
ENABLE_STAGES = (
    Stage("the crontab is read", "crontab", "-l"),
    Stage("the crontab is received", "cat", ""),
    Stage("the old crontab is compared", "crontab", "-l", 2),
    Stage("the old crontab is flushed", "sync", "*crontab.old*"),
    Stage("the old crontab is kept", "mv", "*crontab.previous"),
    Stage("the crontab is installed", "crontab", "./crontab.new*"),
    Stage("the program crontab replaces its file", "mv", "*/crontab"),
    Stage("the crontab is read back", "crontab", "-l", 4),
    Stage("the staged crontabs are removed", "rm", "*crontab.new*"),
)
FETCH_STAGES = (
    Stage("the backup is held", "ln", "*.fetch.*"),
    Stage("the backup is hashed", "sha256sum", "*"),
    Stage("the hold is renewed", "ln", "*.fetch.*", 2),
    Stage("the download starts", "flock", "--nonblock --shared 9"),
    Stage("the hold is released", "rm", "*.fetch.*"),
    *JOB_STAGES,
)
VERIFY_STAGES = (
    *JOB_STAGES,
    Stage("the live database is read", "sqlite3", "*app/storage*"),
    Stage("the integrity check starts", "sqlite3", "*backups/*"),
    Stage("the query starts", "sqlite3", "*backups/*", 2),
)
# `mv journal.new journal` publishes the stage that comes next.
RESTORE_STAGES = (
    Stage("the journal is created", "mkdir", "*restore"),
    *(Stage(f"stage {number} of the journal is flushed", "sync", "-- journal.new", number) for number in range(1, 7)),
    *(Stage(f"stage {number} of the journal is published", "mv", "*journal", number) for number in range(1, 7)),
    Stage("the backup is held", "ln", "*.restore.backup_*"),
    Stage("the saved state is flushed", "sync", "-- part"),
    Stage("the saved state gets its name", "ln", "*saved.*"),
    Stage("the name of the saved state is flushed", "sync", "-- .."),
    Stage("the saved state loses its second name", "rm", "-- part"),
    Stage("the backup is put in place", "ln", "--symbolic*.restore.backup_*"),
    Stage("the directory is cleaned", "find", ". -mindepth 1 *-delete"),
    Stage("the journal is removed", "rm", "--force -- journal"),
    Stage("the lock is removed", "rm", "--force -- lock"),
    Stage("the status is published", "mv", "-- status.new status", 2),
)
SWAP_STAGES = (
    Stage("the new file is written", "cp", "*/new"),
    Stage("the new file is flushed", "sync", "*/new"),
    Stage("the old file is moved", "mv", "--no-clobber*sqlite3.db"),
    Stage("the new file gets its name", "ln", "*/new *sqlite3.db"),
    Stage("the old file is removed", "rm", "*/new"),
)
OFFSITE_STAGES = (
    Stage("the identity of the repository is read", "restic", "*cat config*"),
    Stage("the locks are listed", "restic", "*list*locks*"),
    Stage("the snapshots are listed", "restic", "*snapshots*"),
    Stage("the backup is stored", "restic", "*backup --json*"),
    Stage("the snapshot is confirmed", "restic", "ls *"),
)
STAGES = {
    "run": RUN_STAGES,
    "deploy": DEPLOY_STAGES,
    "enable": ENABLE_STAGES,
    "fetch": FETCH_STAGES,
    "verify": VERIFY_STAGES,
    "restore": RESTORE_STAGES,
    "offsite": OFFSITE_STAGES,
}
# The calls of sqlite3 and restic that are struck while they run.
PROGRAM_STAGES = {
    "offsite": OFFSITE_STAGES,
    "run": (Stage("the source is read", "sqlite3", "*"), Stage("the copy", "sqlite3", "*.backup*")),
    "verify": VERIFY_STAGES[-3:],
    "restore": (
        Stage("the live database is read", "sqlite3", "*"),
        Stage("the integrity check of the backup", "sqlite3", "*integrity_check*"),
        Stage("the present state is saved", "sqlite3", "*.backup*"),
        Stage("the transaction", "sqlite3", "*.restore*"),
    ),
}
