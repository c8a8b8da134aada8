"""A session: an open connection to a host, with what a task on it needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..records.record import Record, new_record
from ..records.store import record_outcome, records_dir
from ..remote.connection import open_host
from ..remote.host import Host
from ..settings.model import BackupSeries, Database, Settings
from ..ui.console import Console

# Kinds of record without which the task is of use all the same: it shows a result, or ends a backup that does harm.
WITHOUT_RECORD = ("verification", "stop-backup")


@dataclass
class Session:
    """An open connection to a host, with the backups to work on, the console and the record of the task.

    In a dry run the workflows show what they would change, and change nothing. What is entered on `stack` is left when
    the session ends, after the result was shown.
    """

    host: Host
    settings: Settings
    series: BackupSeries
    record: Record
    out: Console
    dry_run: bool = False
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        # The same list, so that the record has the commands however the task ends.
        self.record.commands = self.host.commands

    @property
    def database(self) -> Database:
        """The database; the tasks that use it accept no other backups."""
        assert isinstance(self.series, Database)
        return self.series

    def show(self, command: str) -> None:
        """Print a command that would run on the host."""
        user = ", as root" if self.host.use_sudo else ""
        self.out.say(f"would run on {self.host.name}{user}:")
        self.out.say("\n".join(f"  {line}" for line in command.splitlines()))

    def task(self, name: str, *flags: str) -> str:
        """Return the command line of a task on this host and database, for the user to type."""
        return self.host.task(name, "--database", self.series.name, *flags)


def print_heading(out: Console, settings: Settings, task: str, series: BackupSeries) -> None:
    """Print which task works on which host, and on which database or archives."""
    backups = f"{series.name} database" if isinstance(series, Database) else series.name
    out.say(f"{settings.host}: {task} ({backups})")


@contextlib.contextmanager
def open_session(
    settings: Settings, series: BackupSeries, out: Console, kind: str | None = None, dry_run: bool = False
) -> Iterator[Session]:
    """Connect to the host of the settings.

    Writes a record of this `kind` however the session ends; none without a kind or in a dry run.
    """
    record = Record(kind="", host=settings.host, database=series.name)
    if kind:
        record = new_record(kind, settings.host, series.name)
    with contextlib.ExitStack() as stack:
        if kind and not dry_run:
            stack.enter_context(record_outcome(records_dir(settings), record, required=kind not in WITHOUT_RECORD))
        host = stack.enter_context(open_host(settings, settings.host))
        yield Session(host, settings, series, record, out, dry_run, stack)
