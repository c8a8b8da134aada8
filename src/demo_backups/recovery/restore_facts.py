"""What a restore rests on: the backup, the present state of the database, the space, and who uses it.

Nothing is changed on the host.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath

from ..backup.catalog import backup_processes, has_hidden_backup
from ..backup.copy_speed import CopySpeed, estimate_copy_speed
from ..backup.directory_access import DirectoryAccess, read_directory_access
from ..backup.disk_space import Disk, read_disks
from ..errors import CouldNotLookError, NoDatabaseError, StepError
from ..records.record import Record
from ..remote.answers import parse_line, parse_yes_no
from ..remote.files import File, files_command, is_missing, parse_files, stat_file
from ..remote.host import Host
from ..remote.notify import Notify, ignore
from ..remote.processes import Process, processes_using
from ..remote.shell import quote
from ..settings.model import Database
from ..sqlite.command import DAMAGED, is_access_failure, sidecar_path
from ..sqlite.inspect import (
    Header,
    OpenMode,
    choose_open_mode,
    header_command,
    parse_header,
    parse_real_path,
    query_summary,
)
from ..sqlite.sharing import Sharing, read_sharing
from ..sqlite.sidecars import list_sidecars

TIME_COMMAND = "date +%Y-%m-%d_%H-%M-%S"  # as the script writes it into the name of a backup
TIME_PATTERN = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d"
SAVED = "saved."  # the start of the names of saved states, which the rotation does not match


class LiveAccess(enum.Enum):
    """Whether the present state of a database can be read with one snapshot, as a backup reads it."""

    MISSING = "missing"
    READABLE = "readable"
    DAMAGED = "damaged"
    UNAVAILABLE = "cannot be opened"


@dataclass(frozen=True)
class LiveDatabase:
    """The present state of the database that is restored to.

    `path` has no symbolic link. `bytes` is the size of the file, and `sidecar_bytes` that of the files next to it by
    their suffixes. `header` is None if it is not that of a database. `problem` says why it cannot be read. `processes`
    have it open or hold a lock on it, and `sees_all_processes` is whether this user can see those of all users.
    """

    path: PurePosixPath
    access: LiveAccess
    type: str = "f"
    bytes: int = 0
    header: Header | None = None
    sidecar_bytes: dict[str, int] = field(default_factory=dict)
    problem: str = ""
    processes: Sequence[Process] = ()
    sharing: Sharing | None = None
    sees_all_processes: bool = True

    @property
    def exists(self) -> bool:
        """Tell whether there is a file."""
        return self.access is not LiveAccess.MISSING

    @property
    def wal(self) -> bool:
        """Tell whether its header says that it is in WAL mode."""
        return self.header is not None and self.header.wal

    @property
    def total_bytes(self) -> int:
        """The size of the file and of those next to it."""
        return self.bytes + sum(self.sidecar_bytes.values())


@dataclass(frozen=True)
class RestoreSource:
    """What is restored: a backup, or a saved state, with its size and its header.

    `problem` is why it must not be restored. `verified` says what shows that it is good. `raw` is a saved state that
    consists of the files themselves, damaged or not, with those next to them.
    """

    path: PurePosixPath
    bytes: int
    modified: datetime
    header: Header | None
    verified: str = ""
    problem: str = ""
    raw: bool = False
    upload: bool = False  # it is on this machine, and is not on the host yet


@dataclass(frozen=True)
class RestoreFacts:
    """The facts that the plan of a restore rests on.

    `is_copy`: the backup is restored to another path. `stops_service`: there is a command that stops the service.
    `time` is the time by the host's clock, as it is written in the name of a backup.
    """

    host: str
    database: str
    source: RestoreSource
    live: LiveDatabase
    stops_service: bool
    backup_dir: PurePosixPath
    backup_prefix: str
    backup_dir_access: DirectoryAccess
    live_dir_access: DirectoryAccess
    backup_disk: Disk
    live_disk: Disk
    state_disk: Disk
    speed: CopySpeed
    time: str
    backup_processes: Sequence[Process] = ()
    hidden_backup: bool = False
    is_copy: bool = False


# --- the backup -----------------------------------------------------------------------------------------------------


def find_size_problem(source: RestoreSource) -> str:
    """Find what is wrong with the header of a backup, and whether the file is as large as it says."""
    if source.bytes == 0:
        return "it is empty"
    if source.header is None:
        return "it does not have the header of a database"
    if source.header.bytes not in (None, source.bytes):
        return f"it has {source.bytes:,} bytes, and its header says {source.header.bytes:,}"
    return ""


# --- saved states ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SavedState:
    """A state that an earlier restore has saved; `raw` if it consists of the files themselves."""

    file: File
    raw: bool


def saved_name(backup_prefix: str, time: str, raw: bool) -> str:
    """Return the name of a saved state; `time` is as in the names of backups."""
    return f"{SAVED}{backup_prefix}{time}{'.raw' if raw else ''}.db"


def parse_saved_name(database: Database, name: str) -> bool | None:
    """Tell from the name of a saved state of a database whether it is raw; None if it is not such a name."""
    start = re.escape(f"{SAVED}{database.backup_prefix}")
    match = re.fullmatch(rf"{start}{TIME_PATTERN}(\.raw)?\.db", name)
    return None if match is None else match[1] is not None


def list_saved_states(host: Host, database: Database) -> list[SavedState]:
    """List the saved states of a database, newest first; raises CouldNotLookError."""
    command = files_command(database.backup_dir, f"{SAVED}{database.backup_prefix}*.db")
    files = host.query_parsed(f"list the saved states in {database.backup_dir}", command, parse_files)
    named = [(file, parse_saved_name(database, file.path.name)) for file in files if file.type == "f"]
    states = [SavedState(file, raw) for file, raw in named if raw is not None]
    # By the name, which has the time of the restore: a raw state may keep the older time of its file.
    return sorted(states, key=lambda state: _time_in_name(state.file.path.name), reverse=True)


def _time_in_name(name: str) -> str:
    return "".join(re.findall(TIME_PATTERN, name)[-1:])


def parse_time_in_name(output: str) -> str:
    """Parse what TIME_COMMAND printed; raises ValueError."""
    time = parse_line(output)
    if not re.fullmatch(TIME_PATTERN, time):
        raise ValueError(f"{time[:50]!r} is not a time as in the name of a backup")
    return time


# --- the present state ----------------------------------------------------------------------------------------------


def target_path_command(path: PurePosixPath) -> str:
    """Build the command that prints a path without symbolic links; the file may be missing, its directory not."""
    return f"realpath -- {quote(path)}"


def resolve_target(host: Host, path: PurePosixPath, advice: str = "") -> PurePosixPath:
    """Return a path without symbolic links, also if there is no file.

    Raises NoDatabaseError, with this advice, if its directory does not exist.
    """
    action = f"resolve the path {path}"
    result = host.run(action, target_path_command(path), root=True)
    if result.ok:
        return host.parse(action, result.stdout, parse_real_path)
    if is_missing(result):
        raise NoDatabaseError(
            f"the directory {path.parent} does not exist",
            host=host.name,
            advice=advice,
        )
    raise CouldNotLookError(f"could not {action}", host=host.name, output=result.output, advice=host.advise(result))


def observe_live(host: Host, path: PurePosixPath, notify: Notify = ignore) -> LiveDatabase:
    """Observe the present state of a database whose path has no symbolic link; raises CouldNotLookError.

    `notify` gets a message if it is locked.
    """
    file = stat_file(host, path)
    sidecar_bytes = _read_sidecar_sizes(host, path)
    if file is None:
        return LiveDatabase(path, LiveAccess.MISSING, sidecar_bytes=sidecar_bytes)
    if file.type != "f":
        return LiveDatabase(path, LiveAccess.UNAVAILABLE, file.type, problem="it is not a regular file")
    header = read_header_of(host, file)
    access, problem = _find_access(host, path, header, list(sidecar_bytes), notify)
    return LiveDatabase(
        path=path,
        access=access,
        bytes=file.bytes,
        header=header,
        sidecar_bytes=sidecar_bytes,
        problem=problem,
        processes=processes_using(host, path),
        sharing=read_sharing(host, path, header is not None and header.wal),
        sees_all_processes=host.query_parsed("find out which user this is", is_root_command(), parse_yes_no),
    )


def is_root_command() -> str:
    """Build the command that tells whether root runs it: only root can see which files other users have open."""
    return 'if [ "$(id -u)" = 0 ]; then echo yes; else echo no; fi'


def read_header_of(host: Host, file: File) -> Header | None:
    """Read the header of a file; None if it is not that of a database. Raises CouldNotLookError."""
    action = f"read the header of {file.path}"
    return host.query_parsed(action, header_command(file.path), lambda output: parse_header(output, file.bytes))


def _read_sidecar_sizes(host: Host, path: PurePosixPath) -> dict[str, int]:
    sizes = {}
    for suffix in list_sidecars(host, path):
        file = stat_file(host, sidecar_path(path, suffix))
        if file:  # it may have been removed meanwhile
            sizes[suffix] = file.bytes
    return sizes


def _find_access(
    host: Host, path: PurePosixPath, header: Header | None, sidecars: list[str], notify: Notify
) -> tuple[LiveAccess, str]:
    """Find out whether the present state can be read, creating no file next to it."""
    if header is None:
        return LiveAccess.DAMAGED, "its header is not that of a database"
    mode = choose_open_mode(header, sidecars)
    if mode is OpenMode.IMPOSSIBLE:
        return LiveAccess.UNAVAILABLE, "it has a -wal but no -shm"
    result = query_summary(host, path, mode, notify, reads_only=True)
    if result.ok:
        return LiveAccess.READABLE, ""
    if result.status in DAMAGED or not is_access_failure(result):
        return LiveAccess.DAMAGED, result.output
    return LiveAccess.UNAVAILABLE, result.output


# --- all of it ------------------------------------------------------------------------------------------------------


def observe_restore(
    host: Host,
    database: Database,
    source: RestoreSource,
    live: LiveDatabase,
    records: Iterable[Record],
    is_copy: bool = False,
) -> RestoreFacts:
    """Collect the facts about the restore of a backup; raises CouldNotLookError."""
    backup_disk, live_disk, state_disk = read_disks(host, database.backup_dir, live.path.parent)
    sample, sample_bytes = _choose_sample(source, live)
    return RestoreFacts(
        host=host.name,
        database=database.name,
        source=source,
        live=live,
        stops_service=database.stop is not None,
        backup_dir=database.backup_dir,
        backup_prefix=database.backup_prefix,
        backup_dir_access=read_directory_access(host, database.backup_dir, database.lock),
        live_dir_access=read_directory_access(host, live.path.parent),
        backup_disk=backup_disk,
        live_disk=live_disk,
        state_disk=state_disk,
        speed=estimate_copy_speed(host, database.name, sample, sample_bytes, records),
        time=host.query_parsed("read the time", TIME_COMMAND, parse_time_in_name),
        backup_processes=backup_processes(host, database),
        hidden_backup=has_hidden_backup(host, database),
        is_copy=is_copy,
    )


def _choose_sample(source: RestoreSource, live: LiveDatabase) -> tuple[PurePosixPath, int]:
    """Choose a file on the host, and its size, whose middle tells how fast its disk is read."""
    if not source.upload:
        return source.path, source.bytes
    if live.bytes:
        return live.path, live.bytes
    return PurePosixPath("/dev/zero"), source.bytes


def find_saved_state(host: Host, database: Database, advice: str) -> SavedState:
    """Find the newest saved state of a database; raises StepError, with the advice, if there is none."""
    states = list_saved_states(host, database)
    if not states:
        raise StepError(
            f"there is no saved state of the {database.name} database in {database.backup_dir}: nothing to undo",
            host=host.name,
            advice=advice,
        )
    return states[0]
