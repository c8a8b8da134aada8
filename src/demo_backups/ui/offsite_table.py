"""The tables of the backups in the off-site repository."""

from __future__ import annotations

from ..offsite.result import RepositoryCheck, Restored, Result, Stored, StoredList
from .console import Console, styled
from .outcome import RESULTS, Tone
from .tables import make_table

STATES = {  # by the value of the state of a series
    "stored": Tone.GOOD,
    "already stored": Tone.GOOD,
    "would be stored": Tone.PLAIN,
    "no copy": Tone.PLAIN,
    "no verified copy": Tone.BAD,
    "failed": Tone.BAD,
}


def print_result(out: Console, result: Result) -> None:
    """Print the result of a call."""
    match result:
        case Stored():
            print_stored(out, result)
        case StoredList():
            print_stored_list(out, result)
        case RepositoryCheck() | Restored():
            print_checks(out, result)


def print_stored(out: Console, result: Stored) -> None:
    """Print what became of the newest copy of each series."""
    table = make_table("database", "backup", "bytes", "state", "snapshot", right=["bytes"])
    for series in result.series:
        backup, copy = series.backup, series.copy
        state = series.state.value
        table.add_row(
            styled(series.database),
            styled(copy.name if copy else ""),
            f"{copy.bytes:,}" if copy else "",
            styled(state, STATES[state]),
            styled(backup.snapshot[:8] if backup else ""),
        )
    out.print(table)


def print_stored_list(out: Console, listed: StoredList) -> None:
    """Print the backups in the repository, the newest first."""
    if not listed.backups:
        selected = f" of the selected host and database, {listed.others:,} others" if listed.others else ""
        out.say(f"no backups{selected} in {listed.repository}")
        return
    table = make_table("host", "database", "backup", "bytes", "created (UTC)", "snapshot", right=["bytes"])
    for backup in listed.backups:
        table.add_row(
            styled(backup.host),
            styled(backup.database),
            styled(backup.name),
            f"{backup.bytes:,}",
            f"{backup.created:%Y-%m-%d %H:%M:%S}",
            styled(backup.snapshot[:8]),
        )
    out.print(table)


def print_checks(out: Console, result: RepositoryCheck | Restored) -> None:
    """Print the checks of the repository or of a restored backup."""
    for check in result.checks:
        symbol, text, tone = RESULTS[check.outcome]
        out.say(f"{symbol} {check.name} {text}: {check.detail}", tone)
