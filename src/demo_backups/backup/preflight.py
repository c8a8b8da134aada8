"""The preflight: what a backup will do to a live service, decided before it starts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from typing import Any

from ..errors import FAILED, Problem
from ..project import task_command
from ..records.check import Outcome
from ..records.record import Record
from ..remote.files import File, stat_file
from ..remote.host import Host
from ..remote.notify import Notify, ignore
from ..remote.processes import HIDDEN_ADVICE, Process
from ..remote.sudo import USE_SUDO
from ..settings.model import Database
from ..sqlite.command import sidecar_path
from ..sqlite.inspect import OpenMode, choose_open_mode, read_header, read_summary
from ..sqlite.sharing import Sharing, read_sharing
from ..sqlite.sidecars import list_sidecars, sidecars_writable
from ..units import format_duration, format_short_size
from .catalog import backup_processes, find_verified, has_hidden_backup, list_backups
from .copy_speed import SpeedSource, estimate_copy_speed
from .deploy import read_installed
from .directory_access import DirectoryAccess, explain_directory_access, read_directory_access
from .disk_space import (
    Disk,
    find_inode_shortages,
    find_shortages,
    list_demands,
    read_disks,
    sum_needed_bytes,
)
from .names import VERIFIED
from .permissions import (
    Access,
    describe_script_owner,
    find_backup_dir_problems,
    find_script_problems,
    observe_access,
)
from .script import InstalledScript
from .script_lint import LintResult, lint
from .write_rate import WriteRate, parse_write_rate, write_rate_command

RETENTION_DAYS = 8  # -mtime +7 deletes what is at least eight whole days old (find(1))


class Verdict(Enum):
    """Whether to start a backup: yes; yes, but the service will notice it; no, it would fail or do harm."""

    GO = "go"
    WARN = "warn"
    NO = "no"


@dataclass(frozen=True)
class PreflightFacts:
    """The facts that a preflight rests on. Sizes in bytes, durations in seconds.

    `state_disk` is the disk of the home directory, where jobs keep their state. `hidden_backup` is a running backup
    whose processes this user cannot see. `leaves_sidecars`: the backup would leave files next to the source that its
    service cannot write. `script` is the lint of the installed script, if there is one. `problems` are paths that
    another user can write to, and `script_owner` says which account other than root can change the script that root
    runs. `backup_count` and `backup_bytes` are those of the files that take space: the link to a verified backup counts
    once the rotation has deleted the backup itself. `keeps_verified`: there is or will be such a link.
    """

    host: str
    database: str
    sqlite: str
    wal: bool
    source_bytes: int
    wal_bytes: int
    backup_disk: Disk
    source_disk: Disk
    state_disk: Disk
    backup_dir: PurePosixPath
    backup_dir_access: DirectoryAccess
    source_dir: PurePosixPath
    source_dir_access: DirectoryAccess | None
    write_rate: WriteRate
    backup_processes: Sequence[Process]
    hidden_backup: bool
    leaves_sidecars: bool
    sharing: Sharing
    copy_seconds: float
    speed_source: SpeedSource
    backup_count: int
    backup_bytes: int
    runs_a_day: int
    script: LintResult | None = None
    problems: Sequence[Problem] = ()
    script_owner: str | None = None
    keeps_verified: bool = False


@dataclass(frozen=True)
class Preflight:
    """The facts, what a backup will do by them, and the verdict with its reasons.

    `writer_wait_seconds` is how long the backup blocks writers. `needed_bytes` are the free bytes that each disk must
    have, by its mount point. `rotation_bytes` is the size of all backups that the rotation keeps, with the one
    that is kept because it was verified.
    """

    facts: PreflightFacts
    writer_wait_seconds: float
    needed_bytes: Mapping[str, int]
    wal_growth_bytes: int
    rotation_bytes: int
    verdict: Verdict
    reasons: Sequence[str]

    @property
    def notes(self) -> list[str]:
        """What a maintainer should know, and what does not change the verdict."""
        return [self.facts.script_owner] if self.facts.script_owner else []

    @property
    def exit_code(self) -> int:
        """0 for go and warn, 1 for no."""
        return FAILED if self.verdict is Verdict.NO else 0

    def as_json(self) -> dict[str, Any]:
        """Return the object that `inv preflight --json` prints; sizes in bytes, durations in seconds."""
        facts = self.facts
        return {
            "host": facts.host,
            "database": facts.database,
            "journal": "wal" if facts.wal else "rollback",
            "source_bytes": facts.source_bytes,
            "wal_bytes": facts.wal_bytes,
            "commits_per_second": round(facts.write_rate.commits, 1),
            "free_bytes": {"backups": facts.backup_disk.free, "source": facts.source_disk.free},
            "needed_bytes": {
                "backups": self.needed_bytes[facts.backup_disk.mount],
                "source": self.needed_bytes[facts.source_disk.mount],
            },
            "wal_growth_bytes": self.wal_growth_bytes,
            "sqlite": facts.sqlite,
            "running": [process.as_json() for process in facts.backup_processes],
            "running_unseen": facts.hidden_backup,
            "expected_seconds": round(facts.copy_seconds, 2),
            "expected_from": facts.speed_source.value,
            "writers_held_seconds": round(self.writer_wait_seconds, 2),
            "backups": {
                "count": facts.backup_count,
                "bytes": facts.backup_bytes,
                "rotation_bytes": self.rotation_bytes,
            },
            "verdict": self.verdict.value,
            "reasons": list(self.reasons),
            "notes": self.notes,
        }


def decide_preflight(facts: PreflightFacts, writer_timeout: float, free_space_floor: int) -> Preflight:
    """Decide what a backup will do and whether to start it.

    Writers give up after `writer_timeout` seconds. Each disk must keep `free_space_floor` bytes free.
    """
    writer_wait = 0.0 if facts.wal else facts.copy_seconds
    wal_growth = math.ceil(facts.write_rate.wal_bytes * facts.copy_seconds)
    demands = list_demands(facts.backup_disk, facts.source_bytes, facts.source_disk, wal_growth, facts.state_disk)
    warn = []
    no = [str(problem) for problem in facts.problems]
    if writer_wait > writer_timeout:
        no.append(_explain_long_wait(facts, writer_wait, writer_timeout))
    elif writer_wait:
        warn.append(_explain_wait(writer_wait, writer_timeout))
    for shortage in find_shortages(demands, free_space_floor):
        missing = format_short_size(shortage.bytes)
        no.append(f"not enough space on {shortage.mount} (for {shortage.purpose}): {missing} more needed")
    for demand in find_inode_shortages(demands):
        disk = demand.disk
        no.append(f"not enough free inodes on {disk.mount} (for {demand.purpose}): {disk.free_inodes} (see df -i)")
    if facts.backup_dir_access is not DirectoryAccess.WRITABLE:
        no.append(explain_directory_access(facts.backup_dir_access, facts.backup_dir))
    if facts.leaves_sidecars:
        no.append(
            "the backup would leave a -wal and a -shm next to the source that its service cannot write, because no "
            "process has it open and it belongs to another user: "
            f"{USE_SUDO}, or start its service first"
        )
    if facts.source_dir_access not in (None, DirectoryAccess.WRITABLE):
        no.append(
            "no process has the source open in WAL mode, and the script cannot create its -wal and -shm: "
            + explain_directory_access(facts.source_dir_access, facts.source_dir)
        )
    if facts.script and facts.script.outcome is not Outcome.PASSED:
        warn.append(_explain_unsafe_script(facts, facts.script))
    no += _explain_refused_sharing(facts)
    warn += _explain_uncertain_sharing(facts)
    if facts.backup_processes:
        processes = ", ".join(f"process {process.pid} of {process.user}" for process in facts.backup_processes)
        no.append(f"a backup of this database is running: {processes}")
    elif facts.hidden_backup:
        no.append("a backup of this database is running, in processes that this user cannot see")
    return Preflight(
        facts=facts,
        writer_wait_seconds=writer_wait,
        needed_bytes=sum_needed_bytes(demands, free_space_floor),
        wal_growth_bytes=wal_growth,
        rotation_bytes=facts.source_bytes * (facts.runs_a_day * RETENTION_DAYS + facts.keeps_verified),
        verdict=_decide_verdict(warn, no),
        reasons=[*no, *warn],
    )


def _decide_verdict(warn: Sequence[str], no: Sequence[str]) -> Verdict:
    if no:
        return Verdict.NO
    return Verdict.WARN if warn else Verdict.GO


def _explain_refused_sharing(facts: PreflightFacts) -> list[str]:
    """Explain why commits would be missing in the backup; the script refuses a source with several hard links."""
    if not _has_refused_sharing(facts):
        return []
    return [f"the backup would lack commits: {problem}" for problem in facts.sharing.problems]


def _has_refused_sharing(facts: PreflightFacts) -> bool:
    return facts.wal or facts.sharing.links > 1 or bool(facts.sharing.deleted)


def _explain_uncertain_sharing(facts: PreflightFacts) -> list[str]:
    """Explain what may be wrong: in rollback mode, only a journal that a crash leaves elsewhere does harm."""
    sharing = facts.sharing
    if not facts.wal:
        problems = [] if _has_refused_sharing(facts) else sharing.problems
        return [f"a backup right after a crash of the service may be damaged: {problem}" for problem in problems]
    return [f"{sharing.unknown}: {HIDDEN_ADVICE}"] if sharing.unknown else []


def _explain_unsafe_script(facts: PreflightFacts, script: LintResult) -> str:
    state = "is not safe" if script.outcome is Outcome.FAILED else "cannot be checked"
    command = task_command("deploy", facts.host, "--database", facts.database)
    return f"the installed script {state}, cron may run it all the same: {', '.join(script.findings)}: {command}"


def _explain_wait(wait: float, timeout: float) -> str:
    # A writer that waits to commit blocks new readers too (lockingv3.html, section 3: PENDING).
    return (
        f"writers wait for the copy, about {format_duration(wait)} (they give up after {format_duration(timeout)}); "
        "new readers wait as long as a writer does"
    )


def _explain_long_wait(facts: PreflightFacts, wait: float, timeout: float) -> str:
    command = task_command("enable-wal", facts.host, "--database", facts.database)
    return (
        f"every write would wait about {format_duration(wait)}, and writers give up after {format_duration(timeout)}; "
        f"new readers wait as long as a writer does: put the database in WAL mode ({command}), "
        "or stop its service first"
    )


def observe_preflight(
    host: Host,
    database: Database,
    sqlite: str,
    runs_a_day: int,
    records: Iterable[Record],
    notify: Notify = ignore,
    installed: InstalledScript | None = None,
    keep_verified: bool = False,
) -> PreflightFacts:
    """Collect the facts; nothing is written on the host. Raises CouldNotLookError and NoDatabaseError.

    `notify` gets a message if the source is locked. `installed` is the script on the host; it is read if not given.
    `keep_verified` is the setting.
    """
    source = database.source
    backups = list_backups(host, database)
    verified = find_verified(host, database)
    files = [*backups, *_without_original(verified, backups)]
    access = observe_access(host, database)
    header = read_header(host, source)
    sidecars = list_sidecars(host, source)
    summary = read_summary(host, source, header, sidecars, notify)
    wal_file = stat_file(host, sidecar_path(source, "-wal"))
    backup_disk, source_disk, state_disk = read_disks(host, database.backup_dir, database.source.parent)
    write_rate = host.query_parsed(
        "measure the write rate",
        write_rate_command(source, header.wal),
        lambda output: parse_write_rate(output, header.page_size),
    )
    speed = estimate_copy_speed(host, database.name, source, header.bytes or 0, records)
    # The script opens the source plainly, and so creates the files that opening it as immutable avoids.
    creates_sidecars = choose_open_mode(header, sidecars) is OpenMode.IMMUTABLE
    return PreflightFacts(
        host=host.name,
        database=database.name,
        sqlite=sqlite,
        wal=header.wal,
        source_bytes=summary.bytes,
        wal_bytes=wal_file.bytes if wal_file else 0,
        backup_disk=backup_disk,
        source_disk=source_disk,
        state_disk=state_disk,
        backup_dir=database.backup_dir,
        backup_dir_access=read_directory_access(host, database.backup_dir, database.lock),
        source_dir=source.parent,
        source_dir_access=read_directory_access(host, source.parent) if creates_sidecars else None,
        write_rate=write_rate,
        backup_processes=backup_processes(host, database),
        hidden_backup=has_hidden_backup(host, database),
        sharing=read_sharing(host, source, header.wal),
        leaves_sidecars=creates_sidecars and not sidecars_writable(host, source),
        copy_seconds=summary.bytes / speed.bytes_per_second,
        speed_source=speed.source,
        backup_count=len(files),
        backup_bytes=sum(file.bytes for file in files),
        runs_a_day=runs_a_day,
        script=_lint_installed(host, database, access, installed),
        problems=[*find_script_problems(access), *find_backup_dir_problems(access, strict=True)],
        script_owner=describe_script_owner(access),
        keeps_verified=keep_verified or verified is not None,
    )


def _without_original(verified: File | None, backups: Sequence[File]) -> list[File]:
    """Return the link to a verified backup if it takes space of its own: the backup itself was deleted."""
    names = {backup.path.name for backup in backups}
    return [verified] if verified and verified.path.name.removeprefix(VERIFIED) not in names else []


def _lint_installed(
    host: Host, database: Database, access: Access, installed: InstalledScript | None
) -> LintResult | None:
    """Lint the installed script; None if there is none."""
    if installed is None and access.script and access.script[-1].type == "f":
        installed = read_installed(host, database)
    return lint(installed.content.decode(errors="replace")) if installed else None
