"""What the tasks print: words, tables and JSON, made of what was seen; and what a result is called, in the page too."""

from __future__ import annotations

import enum
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TextIO

from .errors import COULD_NOT_LOOK, INTERRUPTED, SettingsError, StepError
from .hosts import task_command

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from typing_extensions import Self

    from .detached import Look, Run
    from .evidence import Damaged, Record
    from .facts import File
    from .plan import Plan
    from .preflight import Preflight
    from .verification import Verification

MARK_STYLES = {
    "done": "green",
    "to do": "bold cyan",
    "waiting": "dim",
    "not seen": "yellow",
    "out of order": "bold red",
}
PICTURE_WIDTH = 114  # columns: what a rehearsal's lines and tables need below /tmp


class Tone(enum.Enum):
    """How something went, as the classes of the page and STYLES have it."""

    GOOD = "good"
    CARE = "care"
    BAD = "bad"
    PLAIN = "plain"


RESULTS = {  # of a check: a symbol, words, and a tone
    True: ("✓", "passed", Tone.GOOD),
    False: ("✗", "failed", Tone.BAD),
    None: ("?", "could not be made", Tone.CARE),
}
STYLES = {Tone.GOOD: "green", Tone.CARE: "yellow", Tone.BAD: "bold red", Tone.PLAIN: ""}  # on a terminal


def clean(text: str) -> str:
    """Make text from elsewhere harmless to a terminal: control characters and broken bytes are written out."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def console(stream: TextIO | None = None, record: bool = False) -> Console:
    """Make a console; where there is no terminal, lines are as long as they need to be up to 160 columns."""
    from rich.console import Console

    stream = stream or sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # what the terminal's own letters have not is written out
    width = shutil.get_terminal_size().columns if stream.isatty() or "COLUMNS" in os.environ else 160
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False, record=record)


def check_picture(path: Path) -> None:
    """See that a picture can be written before the work that it shows; raises SettingsError."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise SettingsError(f"--svg {str(path)!r} cannot be written", advice="name a file in a folder that is there")


def save_picture(out: Console, path: Path, title: str) -> None:
    """Draw what a recording console printed, as an SVG picture of PICTURE_WIDTH columns.

    Long lines are folded, which the console itself leaves to the terminal; and unlike Rich's own form, the picture
    loads no font from another server.
    """
    from rich.console import Console
    from rich.text import Text

    picture = Console(file=io.StringIO(), width=PICTURE_WIDTH, record=True)
    picture.print(Text.from_ansi(out.export_text(styles=True).rstrip()), overflow="fold")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", picture.export_svg(title=title), flags=re.DOTALL)
    path.write_text(svg, encoding="utf-8")


def save_page(text: str, place: Path) -> None:
    """Write a page whole or not at all: beside its place, then renamed; raises StepError."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=place.parent, prefix=".", delete=False, encoding="utf-8") as part:
            try:
                part.write(text)
                part.close()
                Path(part.name).chmod(0o644)
                Path(part.name).replace(place)
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise StepError(
            f"the report could not be written to {place}",
            printed=str(error),
            advice=f"make {place.parent} a folder that you can write to, on a disk with space",
        ) from error


def open_page(place: Path) -> str:
    """Show a page in the browser; return what is to be said of that."""
    import webbrowser

    if webbrowser.open(place.as_uri()):
        return f"the report is {place}"
    return f"the report is {place}: no browser was found here, open it in one"


def size(count: int) -> str:
    """Write a number of bytes for people, exactly."""
    return f"{count:,} bytes"


def print_json(value: Any) -> None:
    """Print one JSON object on standard output."""
    print(json.dumps(value, indent=2))


def print_text(text: str) -> None:
    """Print text as it is, for another program: in UTF-8, whatever the terminal has."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())


class Progress:
    """Show how far a run is: a bar on a terminal, elsewhere a line for every tenth of a copy."""

    def __init__(self, out: Console, run: Run) -> None:
        from rich import progress

        from .detached import BACKUP

        self.out, self.run, self.tenths = out, run, 0
        self.bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            *(
                [
                    progress.DownloadColumn(),
                    progress.TransferSpeedColumn(),
                    progress.TimeRemainingColumn(),
                    progress.TextColumn("left, after"),
                ]
                if run.kind == BACKUP
                else []
            ),
            progress.TextColumn("{task.fields[elapsed]}"),  # of the run itself, which may be older than this task
            console=out,
            transient=True,
            disable=not out.is_terminal,
        )
        self.task = self.bar.add_task(run.kind, total=run.total if run.kind == BACKUP else None, elapsed="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def show(self, seen: Look) -> None:
        """Show one look at the run."""
        if not seen.running:
            return
        elapsed = timedelta(seconds=int(seen.now - self.run.started))
        self.bar.update(self.task, completed=seen.bytes, elapsed=str(elapsed))
        if seen.bytes is None:
            return
        tenths = 10 * seen.bytes // max(self.run.total, 1)
        if self.bar.disable and tenths > self.tenths:
            rate = seen.bytes / max(seen.now - self.run.started, 0.001)
            left = max(0, self.run.total - seen.bytes) / max(rate, 1)
            words = f"{seen.bytes:,} of {self.run.total:,} bytes, {rate / 1e6:,.0f} MB/s, about {left:.0f} s left"
            self.out.print(words, soft_wrap=True)
            self.tenths = tenths


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
        _, words, tone = RESULTS[check.passed]
        words = words.upper() if tone is Tone.BAD else words
        table.add_row(Text(check.name), Text(words, STYLES[tone]), Text(clean(check.detail)))
    return table


def print_verification(out: Console, verification: Verification) -> None:
    """Print the checks of a backup and their verdict."""
    from rich.text import Text

    out.print(Text(clean(f"backup  {verification.path or 'none'}\nsource  {verification.source}")))
    out.print(checks_table(verification))
    verdict = {True: "all checks passed", False: "NOT a good backup", None: "not all checks could be made"}
    *_, tone = RESULTS[verification.passed]
    out.print(Text(verdict[verification.passed], STYLES[tone]))


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
            Text(clean(str(each.path))), f"{each.bytes:,}", each.modified.isoformat(sep=" ", timespec="seconds")
        )
    out.print(table)


def result(record: Record) -> tuple[str, Tone]:
    """Say in a few words how what a record tells of ended."""
    count = len(record.checks)
    for outcome in (False, None):
        names = [check["name"] for check in record.checks if check["passed"] is outcome]
        if names:
            _, words, tone = RESULTS[outcome]
            return f"{len(names)} of {count} checks {words}: {', '.join(names)}", tone
    match record.exit_status:
        case 0:
            return (f"all {count} checks passed" if count else "done"), Tone.GOOD
        case None:
            return "its end is not known", Tone.CARE
        case status if status == COULD_NOT_LOOK:
            return "could not look", Tone.CARE
        case status if status == INTERRUPTED:
            return "interrupted", Tone.CARE
        case status:
            return f"failed, exit status {status}", Tone.BAD


def history_as_json(records: Sequence[Record], damaged: Sequence[Damaged]) -> dict[str, Any]:
    """Make the object that `inv history --json` prints; docs/evidence.md has the fields of a record."""
    return {
        "records": [asdict(record) for record in records],
        "damaged": [{"file": str(each.path), "why": each.why} for each in damaged],
    }


def print_history(
    out: Console, records: Sequence[Record], there: int, damaged: Sequence[Damaged], folder: Path
) -> None:
    """Print a table of records, or that there is none, and name those that could not be read.

    `there` is how many the folder holds, the chosen ones and the others.
    """
    from rich.text import Text

    if records:
        out.print(_history_table(records))
    elif there:
        out.print(Text(clean(f"no such record among the {there:,} in {folder}")), soft_wrap=True)
    elif not damaged:
        words = "every task that changes something on a host, every verification and rehearsal leaves one"
        out.print(Text(clean(f"there are no records in {folder} yet: {words}")), soft_wrap=True)
    for each in damaged:
        out.print(Text(clean(f"passed over: {each.path}: {each.why}"), "yellow"), soft_wrap=True)


def _history_table(records: Sequence[Record]) -> Table:
    from rich.text import Text

    table = _table()
    for column in ("when (UTC)", "host", "database", "kind", "result", "backup", "bytes", "seconds", "who"):
        table.add_column(column, overflow="fold", justify="right" if column in ("bytes", "seconds") else "left")
    for each in records:
        ended, tone = result(each)
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
        table.add_row(*(Text(clean(word), STYLES[tone] if word is ended else "") for word in words))
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
            table.add_row(Text(name), mark, Text(clean(step.observed)))
        table.add_section()
    out.print(table)
    if plan.notes:
        out.print(Text(clean("\n".join(plan.notes)), "yellow"), soft_wrap=True)
    needed = [step.mark.value for step in plan.steps if not step.optional]
    words = f"{needed.count('done')} of {len(needed)} steps done, optional ones not counted"
    if plan.next:
        words += f"; next: {plan.next.name} ({task_command('next', plan.host)})"
    elif plan.exit_code:
        words += "; what is next cannot be seen"
    out.print(Text(words), soft_wrap=True)


def print_preflight(out: Console, ahead: Preflight) -> None:
    """Print what a backup will do, and the verdict."""
    from rich.text import Text

    seen = ahead.seen
    rollback = "rollback: writers wait for the whole copy, and new readers for as long as a writer waits"
    journal = "WAL: no writer waits" if seen.wal else rollback
    rows = {
        "journal": journal,
        "source": f"{size(seen.source_bytes)}, and a WAL of {size(seen.wal_bytes)}",
        "writes": f"{seen.pulse.commits:,.0f} commits a second"
        + (f"; the WAL will grow by about {size(ahead.wal_growth_bytes)}" if seen.wal else ""),
        "space": "; ".join(
            f"{mount}: {size(free)} free, {ahead.needed_bytes[mount]:,} needed"
            for mount, free in {disk.mount: disk.free for disk in (seen.backup_disk, seen.source_disk)}.items()
        ),
        "duration": f"about {seen.copy_seconds:.1f} s (from {seen.copy_known_from})",
        "writers held": f"about {ahead.writers_held_seconds:.1f} s" if ahead.writers_held_seconds else "no",
        "backups": f"{seen.backups[0]} held, {size(seen.backups[1])}; "
        f"the 7-day rotation will hold up to {size(ahead.rotation_bytes)} at {seen.runs_a_day} a day",
        "running": ", ".join(f"process {each.pid} of {each.user}" for each in seen.at_work)
        or ("somebody's, whose processes may not be seen" if seen.at_work_unseen else "no other backup"),
        "sqlite3": seen.sqlite,
    }
    table = _table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in rows.items():
        table.add_row(Text(name), Text(clean(words)))
    out.print(table)
    style = {"go": "bold green", "care": "yellow", "no": "bold red"}[ahead.verdict.value]
    out.print(
        Text(clean("\n".join([ahead.verdict.value, *(f"  {reason}" for reason in ahead.reasons)])), style),
        soft_wrap=True,
    )
