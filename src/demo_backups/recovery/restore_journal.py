"""The journal of a restore on the server: what a restore that was killed leaves, and what it allows.

`restore.sh` writes the stage that it is in, on the disk before the stage starts.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import RestorePendingError
from ..remote.answers import parse_seconds
from ..remote.host import Host
from ..remote.job_state import RESTORE
from ..remote.jobs import is_job_running
from ..remote.processes import own_lock
from ..remote.shell import TRUSTED_OWNER, quote
from ..settings.model import Database

LONGEST_JOURNAL = 64 * 1024  # bytes
FIELDS = (  # of the journal, in this order
    *("started", "backup", "target", "method", "proof", "save", "saved", "lock", "wait", "floor", "owner", "mode"),
    *("stage", "old", "new", "schema", "identical", "changed"),
)
STAGES = ("preparing", "stopping", "saving", "restoring", "aside", "linking", "starting", "cleaning")
REVERTING = ("reverting", "reverted")
UNCHANGED_STAGES = ("preparing", "stopping", "saving")
JUDGED = "cleaning"


class Method(enum.Enum):
    """How a backup is put in place: by SQLite, in one transaction, or as a file in place of the file."""

    IN_PLACE = "in place"
    SWAP = "swap"


class Proof(enum.Enum):
    """How it is proven that the database has the content of the backup.

    STOPPED: while the service is stopped, byte for byte. LOCKED: in rollback mode, by the session that keeps the lock.
    TRANSACTION: in WAL mode with the service running, where a comparison right after the transaction counts the pages
    that the service has changed since.
    """

    STOPPED = "stopped"
    LOCKED = "locked"
    TRANSACTION = "transaction"


class Save(enum.Enum):
    """How the present state is saved: by SQLite, as a backup is, or as raw copies of all files; or not at all."""

    COPY = "copy"
    RAW = "raw"
    NONE = "none"


@dataclass(frozen=True)
class PendingRestore:
    """A restore that its journal on the server describes: it was killed, or it is `running`.

    `started` is in seconds since 1970, by the server's clock. `stage` is a word of the journal, for people. `is_copy`:
    to another path, which no service uses.
    `reverts`: it was being reverted, so it can only be reverted. `is_judged`: the database was found good and the
    service is up, so it can only be completed.
    """

    backup: PurePosixPath
    target: PurePosixPath
    method: Method
    proof: Proof
    save: Save
    saved: PurePosixPath | None
    stage: str
    started: float
    running: bool
    reverts: bool
    is_judged: bool
    is_copy: bool = False

    @property
    def is_unchanged(self) -> bool:
        """Whether it was killed before it had changed the database."""
        return self.stage in UNCHANGED_STAGES


def pending_command(journal: PurePosixPath) -> str:
    """Build the command that prints whether a restore is running, and its journal; `none` if there is no journal.

    It fails if another user could have written the journal.
    """
    safe = f"-maxdepth 0 -type d {TRUSTED_OWNER} ! -perm /022"
    return "\n".join(
        [
            f'problem=$(stat -- {quote(journal)} 2>&1 >/dev/null) || case "$problem" in',
            "  *': No such file or directory') echo none; exit ;;",
            '  *) echo "$problem" >&2; exit 1 ;;',
            "esac",
            f"set -eu; cd -- {quote(journal)}",
            f'[ -n "$(find . {safe})" ] && [ -n "$(find .. {safe})" ] || '
            "{ echo 'other users can write to it, or it belongs to another user' >&2; exit 1; }",
            "[ -e journal ] || { echo none; exit; }",
            f'[ -n "$({own_lock("journal")})" ] || {{ echo "not a regular file of this user" >&2; exit 1; }}',
            "code=0; flock --nonblock --shared --conflict-exit-code 75 lock true || code=$?",
            "case $code in 0) echo ended ;; 75) echo running ;; *) exit 1 ;; esac",
            f"head -c {LONGEST_JOURNAL} journal",
        ]
    )


def parse_pending(output: str) -> PendingRestore | None:
    """Parse what `pending_command` printed; raises ValueError."""
    if output == "none\n":
        return None
    state, *lines = output.removesuffix("\n").split("\n")
    if state not in ("running", "ended") or len(lines) != len(FIELDS) + 1 or lines[-1] != "end":
        raise ValueError("not a journal of a restore")
    values = {key: _parse_field(key, line) for key, line in zip(FIELDS, lines, strict=False)}
    if values["stage"] not in (*STAGES, *REVERTING):
        raise ValueError(f"{values['stage'][:50]!r} is not a stage of a restore")
    return PendingRestore(
        backup=_parse_path(values["backup"]),
        target=_parse_path(values["target"]),
        method=Method(values["method"].replace("-", " ")),
        proof=Proof(values["proof"]),
        save=Save(values["save"]),
        saved=_parse_path(values["saved"]) if values["saved"] else None,
        stage=values["stage"],
        started=parse_seconds(values["started"]),
        running=state == "running",
        reverts=values["stage"] in REVERTING,
        is_judged=values["stage"] == JUDGED,
        is_copy=not values["lock"],
    )


def _parse_field(key: str, line: str) -> str:
    name, _, value = line.partition("=")
    if name != key or not (value.isprintable() or not value):
        raise ValueError(f"{line[:100]!r} is not the line of {key}")
    return value


def _parse_path(text: str) -> PurePosixPath:
    path = PurePosixPath(text)
    if not path.is_absolute():
        raise ValueError(f"{text[:100]!r} is not an absolute path")
    return path


def read_pending(host: Host, database: Database) -> PendingRestore | None:
    """Read the journal of a restore that has not ended; None if there is none. Raises CouldNotLookError."""
    journal = database.restore_journal
    return host.query_parsed(f"read the journal of a restore in {journal}", pending_command(journal), parse_pending)


def require_no_restore(host: Host, database: Database) -> None:
    """Raise RestorePendingError if a restore of this database is running or was killed; raises CouldNotLookError."""
    refuse_pending(host, database, read_pending(host, database))


def refuse_pending(host: Host, database: Database, pending: PendingRestore | None) -> None:
    """Raise RestorePendingError for what `read_pending` has returned, and if a restore has just been started."""
    if pending:
        raise pending_error(host, database, pending)
    if is_job_running(host, database, RESTORE):
        raise _running_error(host, database)


def pending_error(host: Host, database: Database, pending: PendingRestore, output: str = "") -> RestorePendingError:
    """Return the error about a restore that is running or was killed; `output` is what it has printed."""
    if pending.running:
        return _running_error(host, database)
    complete = host.task("restore", "--database", database.name)
    revert = host.task("restore", "--database", database.name, "--undo")
    advice = f"complete it: {complete}; or go back to the state before it: {revert}"
    if pending.reverts:
        advice = f"it was being reverted: {revert}"
    elif pending.is_judged:
        advice = f"the database is restored, and some files are left: {complete}"
    stopped = "; its service may be stopped" if database.stop and not pending.is_copy else ""
    return RestorePendingError(
        f"a restore of the {database.name} database was killed (stage: {pending.stage}): until it is completed or "
        f"reverted, nothing else can be done with this database{stopped}",
        host=host.name,
        output=output,
        advice=advice,
    )


def _running_error(host: Host, database: Database) -> RestorePendingError:
    return RestorePendingError(
        f"a restore of the {database.name} database is running",
        host=host.name,
        advice=f"follow it: {host.task('attach', '--database', database.name)}",
    )
