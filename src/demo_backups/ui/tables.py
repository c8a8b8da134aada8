"""What the tasks print: tables, and the JSON objects with the same content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..project import task_command
from ..units import format_size
from .console import escape_controls
from .outcome import MARK_STYLES, RESULTS, STYLES, Tone, describe_outcome

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..backup.preflight import Preflight
    from ..backup.verify import Verification
    from ..records.record import Record
    from ..records.store import InvalidRecord
    from ..release.plan import Plan
    from ..remote.files import File


def _table(show_header: bool = True) -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=show_header)


def checks_table(verification: Verification) -> Table:
    """Make the table of a verification's checks."""
    from rich.text import Text

    table = _table()
    for column in ("check", "result", "what it saw"):
        table.add_column(column, overflow="fold", no_wrap=column != "what it saw")
    for check in verification.checks:
        _, words, tone = RESULTS[check.outcome.value]
        words = words.upper() if tone is Tone.BAD else words
        table.add_row(Text(check.name), Text(words, STYLES[tone]), Text(escape_controls(check.detail)))
    return table


def print_verification(out: Console, verification: Verification) -> None:
    """Print the checks of a backup and their verdict."""
    from rich.text import Text

    out.print(Text(escape_controls(f"backup  {verification.path or 'none'}\nsource  {verification.source}")))
    out.print(checks_table(verification))
    passed = verification.outcome.value
    verdict = {True: "all checks passed", False: "NOT a good backup", None: "not all checks could be made"}
    *_, tone = RESULTS[passed]
    out.print(Text(verdict[passed], STYLES[tone]))


def backups_as_json(host: str, database: str, backups: Sequence[File]) -> dict[str, Any]:
    """Make the object that `inv list-backups --json` prints."""
    files = [{"path": str(each.path), "bytes": each.bytes, "created": each.modified.isoformat()} for each in backups]
    return {"host": host, "database": database, "backups": files}


def print_backups(out: Console, backups: Sequence[File]) -> None:
    """Print a table of backups, or that there is none."""
    from rich.text import Text

    if not backups:
        out.print("there is no backup of it there")
        return
    table = _table()
    table.add_column("backup", overflow="fold")
    table.add_column("bytes", justify="right", overflow="fold")
    table.add_column("created", overflow="fold")
    for each in backups:
        table.add_row(
            Text(escape_controls(str(each.path))),
            f"{each.bytes:,}",
            each.modified.isoformat(sep=" ", timespec="seconds"),
        )
    out.print(table)


def history_as_json(records: Sequence[Record], damaged: Sequence[InvalidRecord]) -> dict[str, Any]:
    """Make the object that `inv history --json` prints; docs/evidence.md has the fields of a record."""
    return {
        "records": [asdict(record) for record in records],
        "damaged": [{"file": str(each.path), "why": each.why} for each in damaged],
    }


def print_history(
    out: Console, records: Sequence[Record], there: int, damaged: Sequence[InvalidRecord], folder: Path
) -> None:
    """Print a table of records, or that there is none, and name those that could not be read.

    `there` is how many the folder holds, the chosen ones and the others.
    """
    from rich.text import Text

    if records:
        out.print(_history_table(records))
    elif there:
        out.print(Text(escape_controls(f"no such record among the {there:,} in {folder}")), soft_wrap=True)
    elif not damaged:
        words = "every task that changes something on a host, every verification and rehearsal leaves one"
        out.print(Text(escape_controls(f"there are no records in {folder} yet: {words}")), soft_wrap=True)
    for each in damaged:
        out.print(Text(escape_controls(f"passed over: {each.path}: {each.why}"), "yellow"), soft_wrap=True)


def _history_table(records: Sequence[Record]) -> Table:
    from rich.text import Text

    table = _table()
    for column in ("when (UTC)", "host", "database", "kind", "result", "backup", "bytes", "seconds", "who"):
        table.add_column(column, overflow="fold", justify="right" if column in ("bytes", "seconds") else "left")
    for each in records:
        ended, tone = describe_outcome(each)
        words = [
            f"{datetime.fromisoformat(each.when).astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}",
            each.host,
            each.database,
            each.kind,
            ended,
            PurePosixPath(each.backup or "").name,
            "" if each.bytes is None else f"{each.bytes:,}",
            "" if each.seconds is None else f"{each.seconds:,.1f}",
            each.who,
        ]
        table.add_row(*(Text(escape_controls(word), STYLES[tone] if word is ended else "") for word in words))
    return table


def print_plan(out: Console, plan: Plan) -> None:
    """Print the plan: each step with its mark and what was seen of it; then what could not be seen, in full."""
    from rich.text import Text

    table = _table()
    for column in ("step", "mark", "what was seen"):
        table.add_column(column, overflow="fold", no_wrap=column != "what was seen")
    for number, phase in enumerate(plan.phases, 1):
        table.add_row(Text(f"Phase {number}: {phase.name}", "bold"))
        for step in phase.steps:
            name = f"  {step.name}{' (optional)' if step.optional else ''}"
            mark = Text(step.mark.value, MARK_STYLES[step.mark.value])
            table.add_row(Text(name), mark, Text(escape_controls(step.details)))
        table.add_section()
    out.print(table)
    if plan.notes:
        out.print(Text(escape_controls("\n".join(plan.notes)), "yellow"), soft_wrap=True)
    needed = [step.mark.value for step in plan.steps if not step.optional]
    words = f"{needed.count('done')} of {len(needed)} steps done, optional ones not counted"
    if plan.next:
        words += f"; next: {plan.next.name} ({task_command('next', plan.host)})"
    elif plan.exit_code:
        words += "; the next step is unknown"
    out.print(Text(words), soft_wrap=True)


def print_preflight(out: Console, ahead: Preflight) -> None:
    """Print what a backup will do, and the verdict."""
    from rich.text import Text

    facts = ahead.facts
    rollback = "rollback: writers wait for the whole copy, and new readers for as long as a writer waits"
    journal = "WAL: no writer waits" if facts.wal else rollback
    rows = {
        "journal": journal,
        "source": f"{format_size(facts.source_bytes)}, and a WAL of {format_size(facts.wal_bytes)}",
        "writes": f"{facts.write_rate.commits:,.0f} commits a second"
        + (f"; the WAL will grow by about {format_size(ahead.wal_growth_bytes)}" if facts.wal else ""),
        "space": "; ".join(
            f"{mount}: {format_size(free)} free, {ahead.needed_bytes[mount]:,} needed"
            for mount, free in {disk.mount: disk.free for disk in (facts.backup_disk, facts.source_disk)}.items()
        ),
        "duration": f"about {facts.copy_seconds:.1f} s (from {facts.speed_source.value})",
        "writers held": f"about {ahead.writer_wait_seconds:.1f} s" if ahead.writer_wait_seconds else "no",
        "backups": f"{facts.backup_count} held, {format_size(facts.backup_bytes)}; "
        f"the 7-day rotation will hold up to {format_size(ahead.rotation_bytes)} at {facts.runs_a_day} a day",
        "running": ", ".join(f"process {each.pid} of {each.user}" for each in facts.backup_processes)
        or ("somebody's, whose processes may not be seen" if facts.hidden_backup else "no other backup"),
        "sqlite3": facts.sqlite,
    }
    table = _table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in rows.items():
        table.add_row(Text(name), Text(escape_controls(words)))
    out.print(table)
    style = {"go": "bold green", "warn": "yellow", "no": "bold red"}[ahead.verdict.value]
    out.print(
        Text(escape_controls("\n".join([ahead.verdict.value, *(f"  {reason}" for reason in ahead.reasons)])), style),
        soft_wrap=True,
    )
