"""What a restore will do, and what it did, as tasks print it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from ..recovery.restore_facts import LiveAccess
from ..recovery.restore_journal import Method, Proof, Save
from ..units import format_duration, format_size
from .console import Console, styled
from .outcome import Tone

if TYPE_CHECKING:
    from pathlib import PurePosixPath

    from ..recovery.restore_job import RestoreResult
    from ..recovery.restore_plan import RestorePlan
    from ..settings.model import Database

PROOFS = {
    Proof.STOPPED: "compared with the backup byte for byte, before the service is started",
    Proof.LOCKED: "compared with the backup byte for byte, by the session that still has the lock",
    Proof.TRANSACTION: "one transaction keeps old and new apart; compared right after it, changed pages are counted, "
    "then integrity_check",
}
COPY_PROOF = "compared with the backup byte for byte"


def print_restore_plan(out: Console, plan: RestorePlan, database: Database, writer_timeout: float) -> None:
    """Print what a restore will do, why it is refused, and what a maintainer should know."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column("name", no_wrap=True)
    table.add_column("value", overflow="fold")
    for name, value in _plan_rows(plan, database, writer_timeout):
        table.add_row(name, styled(value))
    out.print(table)
    for note in plan.notes:
        out.say(f"note: {note}", Tone.WARNING)
    for refusal in plan.refusals:
        out.say(f"refused: {refusal.text}\n  -> {refusal.advice}", Tone.BAD)


def _plan_rows(plan: RestorePlan, database: Database, writer_timeout: float) -> list[tuple[str, str]]:
    facts = plan.facts
    time = facts.source.modified.isoformat(sep=" ", timespec="seconds")
    disks = {disk.mount: disk.free for disk in (facts.backup_disk, facts.live_disk)}
    space = [f"{mount}: {format_size(free)} free, {plan.needed_bytes[mount]:,} needed" for mount, free in disks.items()]
    return [
        ("backup", f"{facts.source.path}, {format_size(facts.source.bytes)}, of {time}"),
        ("verified", facts.source.verified or "no"),
        ("database", _describe_live(plan)),
        ("method", _describe_method(plan)),
        ("service", _describe_service(plan, database, writer_timeout)),
        ("present state", _describe_save(plan)),
        ("proof", COPY_PROOF if facts.is_copy else PROOFS[plan.proof]),
        ("duration", f"about {format_duration(plan.seconds)} (from {facts.speed.source.value})"),
        ("space", "; ".join(space)),
    ]


def _describe_live(plan: RestorePlan) -> str:
    live = plan.facts.live
    if live.access is LiveAccess.MISSING:
        return f"{live.path}, which does not exist"
    mode = "" if live.header is None else f", {'WAL' if live.wal else 'rollback'} mode"
    problem = f"; it cannot be read: {live.problem}" if live.problem else ""
    users = f"; used by {', '.join(f'process {process.pid}' for process in live.processes)}" if live.processes else ""
    return f"{live.path}, {format_size(live.bytes)}{mode}{problem}{users}"


def _describe_method(plan: RestorePlan) -> str:
    if plan.facts.is_copy:
        return "a new file; the live database is not touched"
    if plan.method is Method.IN_PLACE:
        return "in place: SQLite puts the backup into the database in one transaction"
    if not plan.facts.live.exists:
        return "swap: a new file, because there is none"
    reason = f", because {plan.swap_reason}" if plan.swap_reason else ""
    return f"swap: the file is replaced{reason}"


def _describe_service(plan: RestorePlan, database: Database, writer_timeout: float) -> str:
    if plan.facts.is_copy:
        return "not touched"
    checked = f", checked with: {database.healthy}" if database.healthy else ""
    if plan.stops_service:
        return f"stopped with: {database.stop}; started with: {database.start}{checked}"
    if plan.method is Method.SWAP:
        return f"no command stops it: no process may use the database meanwhile{checked}"
    wait = f"about {format_duration(plan.writer_wait)}, and give up after {format_duration(writer_timeout)}"
    return f"keeps running; writers wait {wait}{checked}"


def _describe_save(plan: RestorePlan) -> str:
    if plan.facts.is_copy:
        return "not saved: it is not touched"
    if plan.save is Save.NONE:
        return "there is nothing to save"
    how = "as SQLite reads it" if plan.save is Save.COPY else "as copies of its files"
    return f"saved first, {how}: {plan.saved}"


def print_restore_result(out: Console, target: PurePosixPath, result: RestoreResult) -> None:
    """Print what a restore did, and which proof was made."""
    if result.reverted:
        out.say(f"reverted: {target} is as it was before the restore", Tone.GOOD)
        return
    out.say(f"restored {target}", Tone.GOOD)
    out.say(f"proof: {_describe_proof(result)}", Tone.GOOD if result.identical else Tone.PLAIN)
    if result.integrity:
        out.say(f"integrity_check: {result.integrity[0]}" + "".join(f"\n  {line}" for line in result.integrity[1:]))
    if result.stopped_seconds is not None:
        out.say(f"the service was stopped for {format_duration(result.stopped_seconds)}")
    if result.wal_bytes:
        size = format_size(result.wal_bytes)
        out.say(f"note: the -wal could not be truncated and has {size}; SQLite uses it again", Tone.WARNING)


def _describe_proof(result: RestoreResult) -> str:
    if result.identical and result.proof is Proof.STOPPED and result.stopped_seconds is None:
        return "equal to the backup, byte for byte"
    if result.identical:
        return {
            Proof.STOPPED: "equal to the backup, byte for byte, before the service was started",
            Proof.LOCKED: "equal to the backup, byte for byte, before the session that restored it released its lock",
            Proof.TRANSACTION: "equal to the backup, byte for byte, right after the transaction",
        }[result.proof]
    if result.changed_pages is None:
        return "the pages that the service has written since the transaction could not be counted"
    pages = "1 page differs" if result.changed_pages == 1 else f"{result.changed_pages:,} pages differ"
    return f"compared right after the transaction: {pages}, written by the service since"
