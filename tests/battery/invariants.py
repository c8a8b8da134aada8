"""What must be intact after a try, whatever was struck: each problem is a sentence, and no problem is an empty list."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo_backups.backup.cron_syntax import split_line
from demo_backups.project import ROOT

from .machine import CROWD, EXPIRED, OLD_CRONTAB, OLDER, PASSWORD, RUNNING, Machine, wait_for

BACKUP_NAME = re.compile(r"backup_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.db")
LOCAL_SCRIPT = ROOT / "share/bin/index-db-backup.sh"
Contents = frozenset[int]


@dataclass(frozen=True)
class Before:
    """The state before a try: the SHA-256 of the older backups and copies, the script, and the committed rows."""

    task: str
    backups: dict[str, str]
    copies: dict[str, str]
    script: bytes
    committed: int
    other_tasks: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task, and those of others."""
        return (self.task, *self.other_tasks)


def observe(machine: Machine, task: str) -> Before:
    """Observe the state before a try."""
    return Before(
        task,
        {path.name: hash_file(path) for path in list_backups(machine.backups)},
        {path.name: hash_file(path) for path in list_backups(machine.copies)},
        machine.script.read_bytes(),
        len(machine.committed),
        machine.other_tasks,
    )


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def list_backups(folder: Path) -> list[Path]:
    """List the files that a rotation or a fetch takes for backups."""
    names = [entry.name for entry in os.scandir(folder)] if folder.exists() else []
    return sorted(folder / name for name in names if BACKUP_NAME.fullmatch(name) and not name.startswith(CROWD))


def read_rows(path: Path, immutable: bool = False) -> Contents:
    """Return the committed rows of a database; raises ValueError if it is damaged, and sqlite3.Error."""
    flags = "mode=ro&immutable=1" if immutable else "mode=rw"
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?{flags}", uri=True, timeout=20)) as database:
        answer = database.execute("PRAGMA integrity_check").fetchall()
        if answer != [("ok",)]:
            raise ValueError(f"integrity_check: {answer[:3]}")
        return frozenset(row[0] for row in database.execute("SELECT number FROM committed"))


# --- after the fault ------------------------------------------------------------------------------------------------


def check(machine: Machine, before: Before) -> list[str]:
    """Check what a fault must not have changed; raises ValueError and sqlite3.Error for what cannot be read."""
    return [
        *check_live(machine, before),
        *check_backups(machine, before),
        *check_copies(machine, before),
        *check_crontab(machine, before),
        *check_script(machine, before),
        *check_records(machine),
    ]


def check_live(machine: Machine, before: Before) -> list[str]:
    """The live database has every committed row, unless a restore has replaced them: then they are in a saved state."""
    committed = frozenset(machine.committed)
    if read_stage(machine) is not None:
        return []  # its database is checked after it was completed or reverted
    try:
        rows = read_rows(machine.source)
        saved = [read_rows(path, immutable=True) for path in machine.backups.glob("saved.*.db")]
    except (sqlite3.Error, ValueError, OSError) as error:
        return [f"the live database or its saved state cannot be read: {error}"]
    lost = committed - rows
    if not lost:
        return []
    if "restore" not in before.tasks:
        return [f"{len(lost)} committed rows are not in the live database: {_shorten(lost)}"]
    problems = []
    if gone := lost.difference(*saved) - allowed_losses(machine, lost, saved):
        problems.append(f"rows are neither in the live database nor in a saved state: {_shorten(gone)}")
    restored = read_rows(machine.backups / OLDER[0], immutable=True)
    replaced = frozenset(number for number in rows if number <= max(lost))  # the service has written the others since
    if not any(replaced <= content <= rows for content in (restored, *saved)):
        problems.append(f"the live database has neither the old content nor that of the backup: {_shorten(rows)}")
    return problems


def allowed_losses(machine: Machine, lost: Contents, saved: Sequence[Contents]) -> Contents:
    """Return the rows that were committed between a saved state and the transaction that has replaced the content.

    A restore while the service runs loses them (docs/reference/restore.md). They follow the last row of a saved state.
    """
    if machine.variant != RUNNING:
        return frozenset()
    committed = machine.committed
    following = [number for content in saved for number in _take(committed, max(content), lost.difference(*saved))]
    return frozenset(following)


def _take(committed: Sequence[int], last: int, allowed: Contents) -> Iterator[int]:
    later = (number for number in committed if number > last)
    return itertools.takewhile(lambda number: number in allowed, later)


def read_stage(machine: Machine) -> str | None:
    """Return the stage of a restore that was interrupted; None if there is none."""
    journal = machine.backups / ".backup.restore/journal"
    if not journal.exists():
        return None
    return dict(line.partition("=")[::2] for line in journal.read_text().splitlines())["stage"]


def check_backups(machine: Machine, before: Before) -> list[str]:
    """The older backups are as they were, and each new one is complete."""
    problems = []
    found = list_backups(machine.backups)
    new = [path for path in found if path.name not in before.backups]
    for path in new:
        problems += check_new_backup(machine, path, before.committed)
    for name, value in before.backups.items():
        path = machine.backups / name
        if path.exists():
            if hash_file(path) != value:
                problems.append(f"the backup {name} has changed")
        elif name != EXPIRED or not new:
            problems.append(f"the backup {name} is missing")
    return problems


def check_new_backup(machine: Machine, path: Path, committed: int) -> list[str]:
    """A finished backup is good, and has all rows that were committed before the task started."""
    try:
        rows = read_rows(path, immutable=True)
    except (sqlite3.Error, ValueError, OSError) as error:
        return [f"the new backup {path.name} is not good: {error}"]
    lost = frozenset(machine.committed[:committed]) - rows
    if lost and "restore" in machine.other_tasks:  # of another maintainer: it may be a backup of the restored content
        lost = read_rows(machine.backups / OLDER[0], immutable=True) - rows
    return [f"rows are not in the new backup {path.name}: {_shorten(lost)}"] if lost else []


def check_copies(machine: Machine, before: Before) -> list[str]:
    """Each fetched backup is byte for byte a backup of the server."""
    problems = []
    copies = {path.name: hash_file(path) for path in list_backups(machine.copies)}
    for name, value in copies.items():
        expected = before.copies.get(name) or before.backups.get(name)
        if expected is None and (machine.backups / name).exists():
            expected = hash_file(machine.backups / name)
        if value != expected:
            problems.append(f"the copy {name} is not the backup")
    problems += [f"the copy {name} is missing" for name in before.copies if name not in copies]
    return problems


def check_crontab(machine: Machine, before: Before) -> list[str]:
    """The crontab is the old one, or the old one with one line more."""
    text = machine.crontab.read_text() if machine.crontab.exists() else ""
    if text == OLD_CRONTAB:
        return []
    added = text.replace(OLD_CRONTAB, "", 1)
    jobs = [line for line in added.splitlines() if line.strip() and not line.startswith("#")]
    if added == text or "enable" not in before.tasks or len(jobs) != 1 or machine.script.name not in jobs[0]:
        return [f"the crontab is neither the old nor the new one: {text!r}"]
    return [] if split_line(jobs[0]) else [f"not a line of a crontab: {jobs[0]!r}"]


def check_script(machine: Machine, before: Before) -> list[str]:
    """The script is the old or the new one, and can be executed."""
    content = machine.script.read_bytes() if machine.script.exists() else b""
    allowed = {before.script} | ({LOCAL_SCRIPT.read_bytes()} if "deploy" in before.tasks else set())
    problems = [] if content in allowed else ["the script is neither the old nor the new one"]
    if content and machine.script.stat().st_mode & 0o777 != 0o755:
        problems.append("the script has another mode")
    return problems


def check_records(machine: Machine) -> list[str]:
    """Each record is complete."""
    problems = []
    for path in machine.records.glob("*.json"):
        try:
            json.loads(path.read_text())
        except ValueError as error:
            problems.append(f"the record {path.name} is damaged: {error}")
    return problems


# --- the next task --------------------------------------------------------------------------------------------------


def repeat(machine: Machine, before: Before, revert: bool = False) -> list[str]:
    """Run the same task again, without any cleanup: it must succeed, and its result must be good.

    A restore that was interrupted is completed, or reverted if its stage allows that.
    """
    rows = len(machine.committed)
    stage = read_stage(machine)
    if stage is None:
        done = machine.measure(before.task)
    else:
        revert = stage.startswith("revert") or (revert and stage != "cleaning")
        done = machine.inv("restore", "--yes", *(["--undo"] if revert else []))
    if done.returncode:
        return [f"the next task failed with {done.returncode}: {done.stdout}{done.stderr}"]
    machine.settle()
    problems = [*check(machine, before), *check_service(machine)]
    if stage is not None and revert:
        return problems + check_reverted(machine)
    return problems + check_result(machine, before, rows)


def check_service(machine: Machine) -> list[str]:
    """The service is running, and commits."""
    last = len(machine.committed)
    return [] if wait_for(lambda: len(machine.committed) > last, 5) else ["the service does not commit any more"]


def check_reverted(machine: Machine) -> list[str]:
    """After a restore was reverted, the database has every committed row.

    What the service has written to the restored database is in a later saved state.
    """
    lost = frozenset(machine.committed) - read_rows(machine.source)
    saved = [read_rows(path, immutable=True) for path in sorted(machine.backups.glob("saved.*.db"))]
    for later in saved[1:]:
        lost -= later - saved[0]
    lost -= allowed_losses(machine, lost, saved)
    problems = [f"rows are missing after the restore was reverted: {_shorten(lost)}"] if lost else []
    if read_stage(machine) is not None:
        problems.append("the restore is still pending")
    return problems


def check_result(machine: Machine, before: Before, rows: int) -> list[str]:
    """Check what a task that has succeeded has done; `rows` were committed when it started."""
    check = RESULTS.get(before.task)
    return check(machine, before, rows) if check else []


def check_deployed(machine: Machine, before: Before, rows: int) -> list[str]:
    """The script is that of this checkout."""
    return [] if machine.script.read_bytes() == LOCAL_SCRIPT.read_bytes() else ["the script was not deployed"]


def check_run(machine: Machine, before: Before, rows: int) -> list[str]:
    """There is a new backup, and it has all rows."""
    new = [path for path in list_backups(machine.backups) if path.name not in before.backups]
    # The newest one: if the clock has jumped, not the one with the last name.
    return min((check_new_backup(machine, path, rows) for path in new), key=len, default=["the run made no backup"])


def check_enabled(machine: Machine, before: Before, rows: int) -> list[str]:
    """The crontab has the new line; `check` judges its content."""
    return [] if machine.crontab.read_text() != OLD_CRONTAB else ["the crontab was not changed"]


def check_fetched(machine: Machine, before: Before, rows: int) -> list[str]:
    """The newest backup was fetched; `check` compares it."""
    wanted = {max(before.backups)}
    if machine.other_tasks:  # one of them may have made a backup, before or after this task has selected one
        wanted |= {path.name for path in list_backups(machine.backups)} - set(before.backups)
    is_fetched = any((machine.copies / name).exists() for name in wanted)
    return [] if is_fetched else [f"{' or '.join(sorted(wanted))} was not fetched"]


def check_restored(machine: Machine, before: Before, rows: int) -> list[str]:
    """The content of the database is that of the backup, and rows that were committed later."""
    restored = read_rows(machine.backups / OLDER[0], immutable=True)
    missing = restored - read_rows(machine.source)
    problems = [f"rows of the backup are missing: {_shorten(missing)}"] if missing else []
    if read_stage(machine) is not None:
        problems.append("the restore is still pending")
    return problems


def check_stored(machine: Machine, before: Before, rows: int) -> list[str]:
    """The repository has the newest fetched backup, and restic finds no fault in it."""
    newest = max(path.name for path in list_backups(machine.copies))
    tag = f"sha256:{hash_file(machine.copies / newest)}"
    snapshots = json.loads(run_restic(machine, "snapshots", "--json"))
    tags = [tag for snapshot in snapshots for tag in snapshot.get("tags", [])]
    problems = [] if tag in tags else [f"{newest} is not in the repository"]
    run_restic(machine, "unlock")  # restic itself does not pass over the stale lock of a killed one
    run_restic(machine, "check", "--read-data")
    return problems


RESULTS = {
    "deploy": check_deployed,
    "run": check_run,
    "enable": check_enabled,
    "fetch": check_fetched,
    "restore": check_restored,
    "offsite": check_stored,
}


def run_restic(machine: Machine, *arguments: str) -> str:
    """Run restic on the repository; raises ValueError if it fails."""
    values = {"RESTIC_REPOSITORY": str(machine.repository), "RESTIC_PASSWORD": PASSWORD}
    environment = machine.environment | values
    done = subprocess.run(["restic", *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"restic {arguments[0]} failed: {done.stdout}{done.stderr}")
    return done.stdout


def _shorten(rows: Contents) -> str:
    numbers = sorted(rows)
    return f"{len(numbers)} from {numbers[0]} to {numbers[-1]}" if numbers else "none"
