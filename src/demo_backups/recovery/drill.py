"""A restore drill: a job that restores a backup into a scratch directory on the server, checks it there, and cleans up.

The restore is the one of `restore_job`. `drill.sh` runs it, then the checks, and removes everything in the end, also if
nobody follows the job any more. What a killed one leaves, the next one removes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from ..errors import JobRunningError
from ..remote.files import File
from ..remote.job_state import DRILL, Job
from ..remote.jobs import find_job, is_job_running, start_job
from ..remote.notify import Notify, ignore
from ..remote.shell import quote
from ..settings.model import Database, Settings
from ..sqlite.command import sqlite_command
from ..sqlite.integrity import integrity_command
from ..units import format_duration
from .drill_directories import Scratch, require_space, upload_dir
from .drill_result import VIOLATIONS
from .restore_job import RestoreRequest, restore_command
from .restore_journal import Method, Proof, Save

SCRIPT = Path(__file__).with_name("drill.sh")


def drill_command(scratch: Scratch, database: Database, backup: PurePosixPath, settings: Settings) -> str:
    """Build the command of the job: see drill.sh."""
    name = database.source.name
    restored = scratch.run / name
    request = RestoreRequest(
        backup=scratch.link or backup,
        target=scratch.work / name,
        method=Method.SWAP,
        proof=Proof.STOPPED,
        save=Save.NONE,
        saved=None,
        journal=scratch.work / ".restore",
        lock=None,
        stop=None,
        start=None,
        healthy=None,
        service_directory=PurePosixPath("/"),
        service_timeout=settings.service_timeout,
        owner=None,
        mode="600",
        writer_timeout=settings.writer_timeout,
        floor=settings.free_space_floor,
    )
    values: dict[str, object] = {
        "work": scratch.work,
        "run": scratch.run,
        "upload": upload_dir(scratch.directory, database),
        "name": name,
        "backup": backup,
        "link": scratch.link or "",
        "copy": "yes" if scratch.copies else "",
        "restore": restore_command(request),
        "integrity": integrity_command(restored, quick=False),
        "foreign_keys": sqlite_command(restored, VIOLATIONS, immutable=True),
        "query": sqlite_command(restored, database.query, immutable=True),
        "command": (settings.drill_command or "").replace("{file}", quote(restored)),
        "limit": f"{settings.drill_timeout * 1000:.0f}",
    }
    if scratch.work != scratch.run:
        login = scratch.login
        values |= {"uid": login.uid, "gid": login.gid, "user": login.name, "home": login.home, "path": login.path}
    arguments = [f"{key}={value}" for key, value in values.items()]
    return " ".join(map(quote, ["exec", "bash", "-c", SCRIPT.read_text(), SCRIPT.name, *arguments]))


def start_drill(scratch: Scratch, database: Database, backup: File, settings: Settings, notify: Notify = ignore) -> Job:
    """Start the drill of a backup, or join the one that is running, if it is the same.

    Raises JobRunningError if another drill of the database is running, and StepError.
    """
    command = drill_command(scratch, database, backup.path, settings)
    # A drill with other settings, and one of a backup that was replaced, is another one.
    identity = f"{command} {backup.bytes} {backup.modified.timestamp()}"
    description = f"drill {hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()}"
    new_job = Job(DRILL, database.name, description, str(backup.path), backup.bytes)
    running = find_job(scratch.host, database, DRILL)
    if running and running.command == new_job.command and is_job_running(scratch.host, database, DRILL):
        notify(f"joining the drill that {running.by} started at {running.when}")
        return running
    require_space(scratch, backup.bytes, settings.free_space_floor)
    watched = dict.fromkeys((scratch.work.parent, scratch.directory))
    try:
        return start_job(scratch.host, database, new_job, command, list(watched), settings.free_space_floor)
    except JobRunningError as error:
        error.advice = f"wait for its end: {format_duration(settings.drill_timeout)} at most for drill_command"
        raise
