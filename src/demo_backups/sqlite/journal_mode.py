"""Put a live database in WAL mode, in which a snapshot holds no writer back, and take it out again."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..errors import StepError
from ..remote.files import existing_command
from ..remote.host import Host, Result
from ..remote.processes import processes_with_open
from ..remote.shell import quote
from ..settings import Database
from .inspect import read_header, sidecar_paths, sidecars_writable, sqlite_command

LONGEST_TRY = 60  # seconds that a busy writer is outwaited for
BUSY = (5, 6)  # SQLITE_BUSY, SQLITE_LOCKED (rescode.html)


@dataclass(frozen=True)
class JournalMode:
    """How a database keeps its journal, whether a -wal or -shm is beside it, and who owns the files."""

    wal: bool
    sidecars: list[str]
    owners: frozenset[str]


def describe_wal_mode(host: Host, database: Database) -> str:
    """Say what WAL mode changes, for the maintainer (wal.html)."""
    name = database.source.name
    undo = host.task("enable-wal", "--database", database.name, "--undo")
    return f"""\
in WAL mode the database is three files, and all three belong together:
  {name}      what has been checkpointed
  {name}-wal  what has been committed since; copied without it, a database is old or broken
  {name}-shm  the index of that, shared by the processes that have it open
every 1,000 pages SQLite writes the -wal back into the database (a checkpoint); while a backup copies, the -wal grows,
and it keeps that size. The mode stays until it is changed back: {undo}"""


def journal_mode_command(database: Database, wal: bool) -> str:
    """The command that changes the journal mode."""
    pragma = f"PRAGMA journal_mode={'WAL' if wal else 'DELETE'}"
    return sqlite_command(database.source, pragma, writable=True, wait=1)


def read_journal_mode(host: Host, database: Database) -> JournalMode:
    """Read the journal mode from the header (fileformat2.html, section 1.3.3); raises CouldNotLookError, StepError."""
    source = database.source
    header = read_header(host, source)
    there = host.query(f"look beside {source}", existing_command(sidecar_paths(source, "-wal", "-shm"))).splitlines()
    files = " ".join(quote(path) for path in [str(source), *there])
    owners = host.query("see who owns it", f"stat -c %U:%G -- {files} 2>/dev/null; true").splitlines()
    return JournalMode(header.wal, there, frozenset(owners))


def check_sidecars_writable(host: Host, database: Database) -> None:
    """Refuse to make files that the service could not write: only root or the owner may. Raises StepError."""
    if not sidecars_writable(host, database.source):
        raise StepError(
            f"{database.source} is another user's, and its service could not write the files that this would make",
            host=host.name,
            advice="set use_sudo to true (INVOKE_USE_SUDO=1)",
        )


def change_journal_mode(host: Host, database: Database, wal: bool) -> int:
    """Change the journal mode, outwaiting a busy writer; return how often it was tried. Raises StepError."""
    deadline = time.monotonic() + (LONGEST_TRY if wal else 0)
    tries = 1
    while not _is_changed(
        result := host.run("change the journal mode", journal_mode_command(database, wal), root=True), wal
    ):
        if result.status not in BUSY or time.monotonic() > deadline:
            raise _explain_refusal(host, database, result, wal)
        tries += 1
    return tries


def check_journal_mode(host: Host, database: Database, wal: bool) -> JournalMode:
    """See that the database is in the mode that it was put in; raises StepError."""
    mode = read_journal_mode(host, database)
    if mode.wal != wal:
        raise StepError(
            f"{database.source} is not in {'WAL' if wal else 'rollback'} mode, although SQLite said so",
            host=host.name,
            advice="does its service set the mode itself when it starts?",
        )
    if len(mode.owners) > 1:
        raise StepError(
            f"the files of {database.source} have different owners, and its service may not be able to write them",
            host=host.name,
            output=", ".join(sorted(mode.owners)),
            advice="give the -wal and -shm the owner of the database",
        )
    return mode


def _is_changed(result: Result, wal: bool) -> bool:
    # Where it cannot change the mode, the pragma may say which one is still in force and end well.
    return result.ok and result.stdout.strip() == ("wal" if wal else "delete")


def _explain_refusal(host: Host, database: Database, result: Result, wal: bool) -> StepError:
    """Say why the mode was not changed, and who has the database open."""
    if result.status not in BUSY:
        return StepError("the journal mode was not changed", host=host.name, output=result.output)
    who = "\n".join(map(str, processes_with_open(host, database.source))) or "nobody who could be seen from here"
    if wal:
        why = f"{database.source} stayed locked for {LONGEST_TRY} s: somebody keeps a transaction open"
        way = "end that transaction, or try again when there is less traffic; nothing has changed"
    else:
        why = f"{database.source} is open elsewhere, and WAL mode can be left only while nobody else has it open"
        way = (
            f"stop its service (on the demo: docker compose stop {database.name}, in the folder of app_dir), "
            "undo, start it again; nothing has changed"
        )
    return StepError(why, host=host.name, output=f"{result.output}\nopen in:\n{who}", advice=way)
