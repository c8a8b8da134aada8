"""The plan of a restore, decided from the facts without I/O: how, what proves it, what is kept, why it is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..backup.checks import FILE_TYPES
from ..backup.directory_access import DirectoryAccess, explain_directory_access
from ..backup.disk_space import SpaceDemand, find_inode_shortages, find_shortages, sum_needed_bytes
from ..errors import Problem
from ..project import task_command
from ..remote.processes import HIDDEN_ADVICE
from ..sqlite.sharing import DELETED_ADVICE, LINK_ADVICE, MOUNT_ADVICE
from ..units import format_duration, format_short_size
from .restore_facts import LiveAccess, RestoreFacts, saved_name
from .restore_journal import Method, Proof, Save

FRAME_HEADER = 24  # bytes of the WAL before each page (fileformat2.html, section 4.1)
SMALLEST_PAGE = 512  # bytes
SHOWN_PROCESSES = 3


@dataclass(frozen=True)
class RestorePlan:
    """How a backup is restored. Sizes in bytes, durations in seconds.

    `swap_reason` is why the file has to be replaced although that was not requested. `writer_wait` is how long the
    restore holds back the writers of a running service. `needed_bytes` are the free bytes that each disk must have, by
    its mount point. If there is a refusal, nothing is done.
    """

    facts: RestoreFacts
    method: Method
    proof: Proof
    save: Save
    saved: PurePosixPath | None
    stops_service: bool
    swap_reason: str
    seconds: float
    writer_wait: float
    needed_bytes: Mapping[str, int]
    refusals: Sequence[Problem]
    notes: Sequence[str]


def decide_restore(facts: RestoreFacts, *, swap: bool, writer_timeout: float, floor: int) -> RestorePlan:
    """Decide how a backup is restored, and whether it may be.

    `swap` is whether the user asked to replace the file. Writers give up after `writer_timeout` seconds. Each disk
    must keep `floor` bytes free.
    """
    stops = facts.stops_service and not facts.is_copy
    save = _choose_save(facts)
    obstacle = "" if swap or facts.is_copy else _find_obstacle(facts, save, floor)
    method = Method.SWAP if swap or facts.is_copy or obstacle else Method.IN_PLACE
    demands = _list_demands(facts, method, save)
    writer_wait = 0.0 if stops or facts.is_copy or method is Method.SWAP else _estimate_writer_wait(facts)
    refusals = [
        *_refuse_source(facts),
        *_refuse_running(facts),
        *_refuse_directories(facts),
        *_refuse_space(demands, floor),
        *_refuse_save(facts, save, stops),
        *(_refuse_swap(facts, stops) if method is Method.SWAP else _refuse_in_place(facts, stops)),
        *_refuse_wait(writer_wait, writer_timeout),
    ]
    return RestorePlan(
        facts=facts,
        method=method,
        proof=_choose_proof(facts, method, stops),
        save=save,
        saved=_name_saved(facts, save),
        stops_service=stops,
        swap_reason=obstacle,
        seconds=_estimate_seconds(facts, method, save),
        writer_wait=writer_wait,
        needed_bytes=sum_needed_bytes(demands, floor),
        refusals=refusals,
        notes=_list_notes(facts, save, stops, method),
    )


# --- how ------------------------------------------------------------------------------------------------------------


def _choose_save(facts: RestoreFacts) -> Save:
    """Choose how the present state is saved: with one snapshot if it can be read, else as the files are."""
    live = facts.live
    if facts.is_copy or (not live.exists and not live.sidecar_bytes):
        return Save.NONE
    return Save.COPY if live.access is LiveAccess.READABLE else Save.RAW


def _name_saved(facts: RestoreFacts, save: Save) -> PurePosixPath | None:
    if save is Save.NONE:
        return None
    return facts.backup_dir / saved_name(facts.backup_prefix, facts.time, save is Save.RAW)


def _find_obstacle(facts: RestoreFacts, save: Save, floor: int) -> str:
    """Find why a backup cannot be put into the live database in one transaction; empty if it can."""
    live, source = facts.live, facts.source
    if source.raw:
        return "the saved state consists of the files themselves"
    if not live.exists:
        return f"{live.path} does not exist"
    if live.header is None:
        return f"the header of {live.path} is not that of a database"
    if live.wal and source.header and source.header.page_size != live.header.page_size:
        return (
            f"its pages have {live.header.page_size:,} bytes and those of the backup {source.header.page_size:,}, "
            "and a database in WAL mode cannot change that"
        )
    in_place, swapped = (
        find_shortages(_list_demands(facts, method, save), floor) for method in (Method.IN_PLACE, Method.SWAP)
    )
    if in_place and not swapped:
        shortage = in_place[0]
        return f"{shortage.mount} has no room for {shortage.purpose}: {format_short_size(shortage.bytes)} more needed"
    return ""


def _choose_proof(facts: RestoreFacts, method: Method, stops: bool) -> Proof:
    if stops or method is Method.SWAP:
        return Proof.STOPPED
    return Proof.TRANSACTION if facts.live.wal else Proof.LOCKED


# --- space and time -------------------------------------------------------------------------------------------------


def _list_demands(facts: RestoreFacts, method: Method, save: Save) -> list[SpaceDemand]:
    """List what a restore needs on the disks: the saved state, the journal of the transaction or the new file."""
    live, source = facts.live, facts.source
    demands = []
    if source.upload:
        demands.append(SpaceDemand(facts.backup_disk, source.bytes, "the uploaded backup"))
    if save is not Save.NONE:
        demands.append(SpaceDemand(facts.backup_disk, live.total_bytes, "the saved state"))
    growth = max(0, source.bytes - live.bytes)
    if method is Method.SWAP:
        demands.append(SpaceDemand(facts.live_disk, source.bytes, "the new file"))
    elif live.wal:
        page_size = source.header.page_size if source.header else SMALLEST_PAGE
        wal_bytes = source.bytes // page_size * (page_size + FRAME_HEADER)
        demands.append(SpaceDemand(facts.live_disk, wal_bytes + growth, "a WAL of full size"))
    else:
        demands.append(SpaceDemand(facts.live_disk, live.bytes + growth, "a rollback journal of full size"))
    demands.append(SpaceDemand(facts.backup_disk, 0, "the journal of the restore"))
    demands.append(SpaceDemand(facts.state_disk, 0, "the state of the job"))
    return demands


def _estimate_restore(facts: RestoreFacts, method: Method) -> float:
    """Estimate how long it takes to write the backup; in rollback mode the old pages are written to a journal too."""
    written = facts.source.bytes
    if method is Method.IN_PLACE and not facts.live.wal:
        written += min(facts.live.bytes, facts.source.bytes)
    return written / facts.speed.bytes_per_second


def _estimate_comparison(facts: RestoreFacts) -> float:
    # Two files are read and none is written; copying reads one and writes one.
    return facts.source.bytes / facts.speed.bytes_per_second


def _estimate_writer_wait(facts: RestoreFacts) -> float:
    """Estimate how long writers of a running service wait.

    The transaction locks out writers from its first page on, in WAL mode too. In rollback mode it keeps the lock until
    the content is compared.
    """
    restore = _estimate_restore(facts, Method.IN_PLACE)
    return restore if facts.live.wal else restore + _estimate_comparison(facts)


def _estimate_seconds(facts: RestoreFacts, method: Method, save: Save) -> float:
    saved = 0 if save is Save.NONE else facts.live.total_bytes
    return saved / facts.speed.bytes_per_second + _estimate_restore(facts, method) + _estimate_comparison(facts)


# --- refusals -------------------------------------------------------------------------------------------------------


def _refuse_source(facts: RestoreFacts) -> list[Problem]:
    source, live = facts.source, facts.live
    if source.path == live.path:
        return [Problem(f"{source.path} is the live database itself", "name a backup")]
    if source.problem:
        command = task_command("list-backups", facts.host, "--database", facts.database)
        return [Problem(f"{source.path} must not be restored: {source.problem}", f"choose another backup: {command}")]
    return []


def _refuse_running(facts: RestoreFacts) -> list[Problem]:
    attach = task_command("attach", facts.host, "--database", facts.database)
    if facts.backup_processes:
        processes = ", ".join(f"process {process.pid} of {process.user}" for process in facts.backup_processes)
        advice = f"wait for its end; if a task started it, follow it: {attach}"
        return [Problem(f"a backup of this database is running: {processes}", advice)]
    if facts.hidden_backup:
        text = "a backup of this database is running, in processes that this user cannot see"
        return [Problem(text, f"wait for its end; {HIDDEN_ADVICE}")]
    return []


def _refuse_directories(facts: RestoreFacts) -> list[Problem]:
    places = [(facts.live_dir_access, facts.live.path.parent)]
    if not facts.is_copy:
        places.append((facts.backup_dir_access, facts.backup_dir))
    problems = []
    for access, directory in places:
        if access is not DirectoryAccess.WRITABLE:
            text, _, advice = explain_directory_access(access, directory).rpartition(": ")
            problems.append(Problem(text, advice))
    return problems


def _refuse_space(demands: Sequence[SpaceDemand], floor: int) -> list[Problem]:
    problems = []
    for shortage in find_shortages(demands, floor):
        missing = format_short_size(shortage.bytes)
        text = f"not enough space on {shortage.mount} (for {shortage.purpose}): {missing} more needed"
        problems.append(Problem(text, f"free space on the host: df -h {shortage.mount}"))
    for demand in find_inode_shortages(demands):
        disk = demand.disk
        text = f"not enough free inodes on {disk.mount} (for {demand.purpose}): {disk.free_inodes}"
        problems.append(Problem(text, "free inodes on the host: df -i"))
    return problems


def _refuse_save(facts: RestoreFacts, save: Save, stops: bool) -> list[Problem]:
    """Refuse to copy files that a running process may change meanwhile: such a copy could be of no use."""
    live = facts.live
    if live.type != "f":
        kind = FILE_TYPES.get(live.type, "special file")
        return [Problem(f"{live.path} is a {kind}, not a regular file", "check the settings: app_dir, and file")]
    if save is not Save.RAW or stops or not live.processes:
        return []
    text = f"the present state can only be saved while no process uses it ({live.problem}): {_name_processes(facts)}"
    return [Problem(text, _stop_advice(facts))]


def _refuse_swap(facts: RestoreFacts, stops: bool) -> list[Problem]:
    """Refuse to replace a file that a process has open or will look for in another place."""
    live = facts.live
    if facts.is_copy:
        return _refuse_copy(facts)
    if live.sharing is None or not live.exists:
        return []
    problems = []
    if live.sharing.links > 1:
        problems.append(Problem(f"{live.path} has {live.sharing.links} hard links: only one would change", LINK_ADVICE))
    if live.sharing.mounts:
        point = live.sharing.mounts[0][0].path
        text = f"{live.path} is mounted as a single file at {point}, where the old file would remain"
        problems.append(Problem(text, MOUNT_ADVICE))
    if live.processes and not stops:
        text = f"the file can only be replaced while no process has it open: {_name_processes(facts)}"
        problems.append(Problem(text, _stop_advice(facts)))
    elif not live.sees_all_processes and not stops:
        text = "this user cannot see whether processes of other users have the file open"
        problems.append(Problem(text, f"{HIDDEN_ADVICE}; or {_stop_advice(facts)}"))
    return problems


def _refuse_copy(facts: RestoreFacts) -> list[Problem]:
    live = facts.live
    if live.exists:
        return [Problem(f"{live.path} exists", "a copy never replaces a file: name another path with --to")]
    if live.sidecar_bytes:
        names = ", ".join(f"{live.path.name}{suffix}" for suffix in live.sidecar_bytes)
        advice = "name another path with --to, or move them away: SQLite would apply them to the copy"
        return [Problem(f"{live.path.parent} has {names}, of another database of this name", advice)]
    return []


def _refuse_in_place(facts: RestoreFacts, stops: bool) -> list[Problem]:
    """Refuse to write to a database whose running processes use other files than those next to it."""
    sharing = facts.live.sharing
    if sharing is None or stops:
        return []
    return [
        Problem(f"the service would not see the restored database: {problem.text}", problem.advice)
        for problem in sharing.problems
        # In rollback mode, processes with another path to the same file follow its locks.
        if facts.live.wal or problem.advice == DELETED_ADVICE
    ]


def _refuse_wait(wait: float, timeout: float) -> list[Problem]:
    if wait <= timeout:
        return []
    text = f"every write would wait about {format_duration(wait)}, and writers give up after {format_duration(timeout)}"
    return [Problem(text, "set stop and start of the database, so that its service is stopped meanwhile")]


def _name_processes(facts: RestoreFacts) -> str:
    processes = facts.live.processes
    names = ", ".join(f"process {process.pid} of {process.user}" for process in processes[:SHOWN_PROCESSES])
    return names + (f" and {len(processes) - SHOWN_PROCESSES} more" if len(processes) > SHOWN_PROCESSES else "")


def _stop_advice(facts: RestoreFacts) -> str:
    name = facts.database.upper()
    return f"stop the service, or set INVOKE_DATABASES_{name}_STOP and INVOKE_DATABASES_{name}_START to its commands"


def _list_notes(facts: RestoreFacts, save: Save, stops: bool, method: Method) -> list[str]:
    """List what a maintainer should know, and what does not prevent the restore."""
    notes = []
    sharing = facts.live.sharing
    if save is Save.RAW:
        notes.append(f"the present state cannot be read, its files are saved as they are: {facts.live.problem}")
    if sharing and sharing.unknown and not stops and method is Method.IN_PLACE and facts.live.wal:
        notes.append(f"{sharing.unknown}: {HIDDEN_ADVICE}")
    return notes
