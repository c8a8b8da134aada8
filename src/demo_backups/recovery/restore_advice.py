"""What to do about a restore that failed, from what the script or sqlite3 printed."""

from __future__ import annotations

from ..settings.model import Database

ADVICE = {
    "is in progress": "wait for the end of the backup or restore that is running",
    "the database is open": "stop the program, or set databases.NAME.stop and start",
    "was started again during the restore": (
        "something starts the service again: see its restart policy, and let the command stop disable that"
    ),
    "source database is busy": "a reader keeps a transaction open: end it, or set databases.NAME.stop and start",
    "database is locked": "a reader keeps a transaction open: end it, or set databases.NAME.stop and start",
    "could not save the present state: Error: in prepare, attempt to write a readonly database": (
        "a program was killed in a transaction, and the file system cannot be written to: mount it for writing"
    ),
    "attempt to write a readonly database": "the page size of the backup differs: replace the file, with --swap",
    "must stay free": "free space on that disk",
    "No space left on device": "free space on that disk",
    "the service is not healthy": "see the log of the service: does it accept this backup?",
    "the service could not be stopped": "run the command of databases.NAME.stop on the host",
    "Operation not permitted": "only root, or the owner of a file, can hold it by a hard link and set its owner",
}


def find_advice(database: Database, output: str) -> str:
    """Return what to do about a failed restore, from what it printed; empty if that is not known."""
    for message, advice in ADVICE.items():
        if message in output:
            return advice.replace("NAME", database.name)
    return ""
