"""The tables that tasks print, and the JSON objects with the same content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rich import box
from rich.measure import Measurement
from rich.table import Table

from ..project import task_command
from ..records.check import Check, Outcome
from ..units import format_duration, format_size
from .console import Console, styled
from .outcome import MARKS, RESULTS, VERDICTS, Tone, describe_kind, describe_outcome

if TYPE_CHECKING:
    from ..backup.preflight import Preflight
    from ..backup.verify import Verification
    from ..records.record import Record
    from ..records.store import InvalidRecord
    from ..recovery.drill_result import Drill
    from ..recovery.fetch import Fetched
    from ..recovery.retention import Judgement
    from ..release.plan import Plan
    from ..remote.files import File
    from ..workflows.copies import PrunedCopies, Pruning


def make_table(*columns: str, header: bool = True, right: Sequence[str] = ()) -> Table:
    """Make a table without a frame, whose cells are folded rather than cut; `right` are aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=header)
    for name in columns:
        table.add_column(name, overflow="fold", justify="right" if name in right else "left")
    return table


UNLIMITED_WIDTH = 10_000
SUMMARIES = {
    Outcome.PASSED: "all checks passed",
    Outcome.FAILED: "NOT a good backup",
    Outcome.UNKNOWN: "not all checks could be made",
}
DRILL_SUMMARIES = {
    Outcome.PASSED: "the backup can be restored: all checks passed",
    Outcome.FAILED: "the drill FAILED",
    Outcome.UNKNOWN: "not all checks could be made",
}


def _measure_width(out: Console, table: Table) -> int:
    """Return the columns that a table needs so that no cell is folded."""
    return Measurement.get(out, out.options.update_width(UNLIMITED_WIDTH), table).maximum


# --- a verification -------------------------------------------------------------------------------------------------


def print_verification(out: Console, verification: Verification) -> None:
    """Print the checks of a backup and their result."""
    out.print(styled(f"backup  {verification.path or 'none'}\nsource  {verification.source}"))
    out.print(_checks_table(verification.checks))
    _, _, tone = RESULTS[verification.outcome]
    out.print(styled(SUMMARIES[verification.outcome], tone))
    if verification.advice:
        out.say(f"  -> {verification.advice}")


def print_fetched(out: Console, fetched: Fetched) -> None:
    """Print the checks of a fetched backup, and where it is."""
    out.print(_checks_table(fetched.checks))
    sent = f"{fetched.sent_bytes:,} bytes were sent"
    if fetched.resumed_from:
        sent += f", {fetched.resumed_from:,} were on this machine"
    _, _, tone = RESULTS[fetched.outcome]
    out.say(f"{fetched.file}: {format_size(fetched.bytes)}; {sent}", tone)


def print_drill(out: Console, drill: Drill) -> None:
    """Print the checks of a restored backup and their result."""
    out.print(styled(f"backup  {drill.backup.path}"))
    out.print(_checks_table(drill.checks))
    _, _, tone = RESULTS[drill.outcome]
    out.print(styled(DRILL_SUMMARIES[drill.outcome], tone))


def _checks_table(checks: Sequence[Check]) -> Table:
    table = make_table("check", "result", "details")
    for column in table.columns[:2]:
        column.no_wrap = True
    for check in checks:
        _, text, tone = RESULTS[check.outcome]
        result = text.upper() if tone is Tone.BAD else text
        table.add_row(styled(check.name), styled(result, tone), styled(check.detail))
    return table


# --- the list of backups --------------------------------------------------------------------------------------------


def backups_as_json(host: str, database: str, backups: Sequence[File], verified: File | None = None) -> dict[str, Any]:
    """Return the object that `inv list-backups --json` prints; it has the key `verified` if a backup is kept."""
    listed = {"host": host, "database": database, "backups": [backup.as_json() for backup in backups]}
    return listed | {"verified": verified.as_json()} if verified else listed


def print_backups(out: Console, backups: Sequence[File], verified: File | None = None) -> None:
    """Print a table of backups, last the one that is kept because it was verified; or that there are none."""
    if not backups and not verified:
        out.say("no backups")
        return
    table = make_table("backup", "bytes", "created", right=["bytes"])
    for backup in [*backups, *([verified] if verified else [])]:
        created = backup.modified.isoformat(sep=" ", timespec="seconds")
        table.add_row(styled(str(backup.path)), f"{backup.bytes:,}", created)
    out.print(table)


# --- the fetched backups --------------------------------------------------------------------------------------------


def print_pruning(out: Console, pruning: Pruning) -> None:
    """Print what was decided about each fetched backup, and why; then the other files, and the sums."""
    if pruning.groups:
        table = make_table("host", "backup", "bytes", "decision", "why", right=["bytes"])
        for group in pruning.groups:
            for judgement in group.judgements:
                _add_judgement(table, group, judgement, pruning.dry_run)
        out.print(table)
    for stray in pruning.strays:
        out.say(f"left alone: {stray.path}: {stray.reason}", Tone.WARNING)
    for file in pruning.invalid_records:
        out.say(f"invalid record, ignored: {file.path}: {file.reason}", Tone.WARNING)
    expired = [copy for group in pruning.groups for copy in (group.expired if pruning.dry_run else group.deleted)]
    verb = "would delete" if pruning.dry_run else "deleted"
    out.say(f"{verb} {len(expired)} copies, {format_size(sum(copy.bytes for copy in expired))}")


def _add_judgement(table: Table, group: PrunedCopies, judgement: Judgement, dry_run: bool) -> None:
    copy = judgement.copy
    failure = group.failures.get(copy)
    decision, tone = {
        "keep": ("kept", Tone.GOOD),
        "leave": ("left alone", Tone.WARNING),
        "delete": ("would be deleted" if dry_run else "deleted", Tone.PLAIN),
    }[judgement.decision.value]
    if failure is not None:
        decision, tone = "NOT DELETED", Tone.BAD
    why = ", ".join(judgement.reasons) if failure is None else failure
    table.add_row(styled(group.host), styled(copy.name), f"{copy.bytes:,}", styled(decision, tone), styled(why))


# --- the history ----------------------------------------------------------------------------------------------------


def history_as_json(records: Sequence[Record], invalid: Sequence[InvalidRecord]) -> dict[str, Any]:
    """Return the object that `inv history --json` prints; docs/reference/records.md has the fields of a record."""
    return {
        "records": [record.as_json() for record in records],
        "damaged": [{"file": str(file.path), "why": file.reason} for file in invalid],
    }


def print_history(
    out: Console,
    records: Mapping[str | None, Sequence[Record]],
    total: int,
    invalid: Sequence[InvalidRecord],
    folder: Path,
) -> None:
    """Print the selected records of each host, or of all hosts (None), and the files that are not valid records.

    `total` is the number of records in the folder, selected or not. A narrow terminal gets a list instead of a table,
    since a table would break words.
    """
    for host, selected in records.items():
        if len(records) > 1:
            out.say(f"{host}: history")
        _print_records(out, selected, total, invalid, folder)
    for file in invalid:
        out.say(f"invalid record, ignored: {file.path}: {file.reason}", Tone.WARNING)


def _print_records(
    out: Console, records: Sequence[Record], total: int, invalid: Sequence[InvalidRecord], folder: Path
) -> None:
    if records:
        table = _history_table(records)
        if _measure_width(out, table) <= out.width:
            out.print(table)
        else:
            _print_history_list(out, records)
    elif total:
        out.say(f"none of the {total:,} records in {folder} matches")
    elif not invalid:
        out.say(f"no records in {folder} yet: tasks that change something on a host, verify and rehearse write one")


def _history_table(records: Sequence[Record]) -> Table:
    columns = ("when (UTC)", "host", "database", "kind", "result", "backup", "bytes", "seconds", "who")
    table = make_table(*columns, right=["bytes", "seconds"])
    for record in records:
        result, tone = describe_outcome(record)
        table.add_row(
            _utc(record),
            styled(record.host),
            styled(record.database),
            styled(describe_kind(record)),
            styled(result, tone),
            styled(PurePosixPath(record.backup or "").name),
            "" if record.bytes is None else f"{record.bytes:,}",
            "" if record.seconds is None else f"{record.seconds:,.1f}",
            styled(record.who),
        )
    return table


def _print_history_list(out: Console, records: Sequence[Record]) -> None:
    for record in records:
        result, tone = describe_outcome(record)
        database = f" ({record.database})" if record.database else ""  # a check of the repository is about all
        out.print(styled(f"{_utc(record)}  {record.host}: {describe_kind(record)}{database}"))
        out.print(styled(f"  {result}", tone))
        details = [
            PurePosixPath(record.backup or "").name,
            "" if record.bytes is None else format_size(record.bytes),
            "" if record.seconds is None else f"{record.seconds:,.1f} s",
            record.who,
        ]
        out.print(styled(f"  {', '.join(filter(None, details))}"))


def _utc(record: Record) -> str:
    return f"{datetime.fromisoformat(record.when).astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}"


# --- the release plan -----------------------------------------------------------------------------------------------


NO_REPOSITORY = (
    "release.repository is not set: this is the plan of this clone, and the release tasks refuse to change it. "
    "Set it to the checkout of the application, or to . for this clone"
)


def print_plan(out: Console, plan: Plan) -> None:
    """Print every step with its mark and details, then what could not be observed, in full."""
    table = make_table("step", "mark", "details")
    for column in table.columns[:2]:
        column.no_wrap = True
    for number, phase in enumerate(plan.phases, 1):
        table.add_row(f"Phase {number}: {phase.name}", style="bold")
        for step in phase.steps:
            _, tone = MARKS[step.mark.value]
            name = f"  {step.name}{' (optional)' if step.optional else ''}"
            table.add_row(name, styled(step.mark.value, tone), styled(step.details))
        table.add_section()
    out.print(table)
    if plan.release and plan.release.repository is None:
        out.say(NO_REPOSITORY, Tone.WARNING)
    for note in plan.notes:
        out.say(note, Tone.WARNING)
    out.say(_summarize_plan(plan))


def _summarize_plan(plan: Plan) -> str:
    marks = [step.mark.value for step in plan.steps if not step.optional]
    done = f"{marks.count('done')} of {len(marks)} steps done, not counting optional ones"
    if plan.next:
        return f"{done}; next: {plan.next.name} ({task_command('next', plan.host)})"
    return f"{done}; the next step is unknown" if plan.exit_code else done


# --- the preflight --------------------------------------------------------------------------------------------------


def print_preflight(out: Console, preflight: Preflight) -> None:
    """Print what a backup will do, and the verdict."""
    table = make_table("name", "value", header=False)
    table.columns[0].no_wrap = True
    for name, value in _preflight_rows(preflight):
        table.add_row(name, styled(value))
    out.print(table)
    verdict = preflight.verdict.value
    out.say("\n".join([verdict, *(f"  {reason}" for reason in preflight.reasons)]), VERDICTS[verdict])
    for note in preflight.notes:
        out.say(f"note: {note}")


def _preflight_rows(preflight: Preflight) -> list[tuple[str, str]]:
    facts = preflight.facts
    journal = "WAL: writers do not wait"
    if not facts.wal:
        journal = "rollback: writers wait for the whole copy, and new readers while a writer waits"
    writes = f"{facts.write_rate.commits:,.0f} commits per second"
    if facts.wal:
        writes += f"; the WAL will grow by about {format_size(preflight.wal_growth_bytes)}"
    free = {disk.mount: disk.free for disk in (facts.backup_disk, facts.source_disk)}
    space = [
        f"{mount}: {format_size(count)} free, {preflight.needed_bytes[mount]:,} needed" for mount, count in free.items()
    ]
    running = [f"process {process.pid} of {process.user}" for process in facts.backup_processes]
    if facts.hidden_backup and not running:
        running = ["a backup whose processes this user cannot see"]
    wait = preflight.writer_wait_seconds
    return [
        ("journal", journal),
        ("source", f"{format_size(facts.source_bytes)}, and a WAL of {format_size(facts.wal_bytes)}"),
        ("writes", writes),
        ("space", "; ".join(space)),
        ("duration", f"about {format_duration(facts.copy_seconds)} (from {facts.speed_source.value})"),
        ("writers wait", f"about {format_duration(wait)}" if wait else "no"),
        (
            "backups",
            f"{facts.backup_count}, together {format_size(facts.backup_bytes)}; at {facts.runs_a_day} a day, "
            f"the 7-day rotation will keep up to {format_size(preflight.rotation_bytes)}"
            + ", with the verified one"
            * facts.keeps_verified,
        ),
        ("running", ", ".join(running) or "no other backup"),
        ("sqlite3", facts.sqlite),
    ]
