"""A phase from end to end on a throwaway server, with the very steps that the tasks take on the real one."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias

from ..backup.crontab import make_job, read_crontab, split_line, unescape_command
from ..errors import InterruptedRunError, SettingsError, StepError
from ..records.record import Record
from ..records.store import record_outcome, records_dir, write_record
from ..remote.connection import open_host
from ..settings import Settings
from ..ui.tables import print_backups, print_preflight, print_verification
from ..ui.units import format_size
from ..workflows import (
    Session,
    deploy,
    disable,
    enable,
    list_backups,
    preflight,
    require_deployed,
    run,
    run_command,
    verify,
)
from .database import TRACKER_ROWS, make_index, make_tracker
from .server import ALIAS, Server, serve
from .writer import live_writer

if TYPE_CHECKING:
    from rich.console import Console

JOURNALS = ("wal", "delete")
HIGHEST_TRAFFIC = 100_000
HIGHEST_ROWS = 200_000_000


def parse_traffic(text: str) -> float:
    """Commits a second, from a command line; raises SettingsError."""
    try:
        rate = float(text)
    except ValueError:
        rate = 0
    if not 0 < rate <= HIGHEST_TRAFFIC:
        raise SettingsError(
            f"--traffic {text!r} is no number of commits a second", advice=f"more than 0, at most {HIGHEST_TRAFFIC:,}"
        )
    return rate


def parse_rows(text: str) -> int:
    """Torrents in a tracker database, from a command line; raises SettingsError."""
    rows = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < rows <= HIGHEST_ROWS:
        raise SettingsError(f"--rows {text!r} is no number of torrents", advice=f"1 to {HIGHEST_ROWS:,}")
    return rows


@dataclass(frozen=True)
class RehearsalOptions:
    """What is rehearsed: a database's steps, at so many commits a second, in a journal mode; `rows` of the tracker."""

    database: str = "index"
    traffic: float = 200
    journal: str = "delete"
    rows: int = TRACKER_ROWS


def parse_options(database: str, traffic: str, journal: str, rows: str) -> RehearsalOptions:
    """Play, from a command line; raises SettingsError."""
    if database not in SCENARIOS:
        raise SettingsError(f"--database {database!r} cannot be rehearsed", advice=f"one of: {', '.join(SCENARIOS)}")
    if journal not in JOURNALS:
        raise SettingsError(f"--journal {journal!r} is no journal mode", advice=f"one of: {', '.join(JOURNALS)}")
    return RehearsalOptions(database, parse_traffic(traffic), journal, parse_rows(rows))


def rehearse(settings: Settings, play: RehearsalOptions, keep: bool, out: Console) -> None:
    """Do all steps for a database on a server made for the occasion; raises what any of its steps raises.

    `settings` are the project's own, and `evidence_dir` says where the record goes.
    """
    record = Record("rehearsal", ALIAS, play.database)
    with (
        _end_on_signals(),
        tempfile.TemporaryDirectory(prefix="demo-backups-") as name,
        record_outcome(records_dir(settings), record),
    ):
        folder = Path(name)
        source = _create_layout(folder, settings, play)
        with serve(folder) as server, live_writer(source, play.traffic) as seen:
            there = server_settings(server, settings)
            out.print(f"{ALIAS}: a server on 127.0.0.1 port {server.port}, gone when this ends", soft_wrap=True)
            out.print(
                f"  its {play.database} database: {format_size(source.stat().st_size)}, {play.journal} mode, "
                f"{play.traffic:g} commits a second by another process\n",
                soft_wrap=True,
            )
            with open_host(there) as host:
                work = Session(host, there, there.database(play.database), record, out)
                try:
                    done = SCENARIOS[play.database](work)
                finally:
                    record.exit_status = record.seconds = None  # of the whole, not of the last step
            if keep:
                # Written again at the end, with what the writer did; the plan can rest on it until then.
                write_record(records_dir(settings), replace(record, exit_status=0))
                _keep_running(out, there, play.database)
        record.details |= {
            "journal": play.journal,
            "asked_commits_per_second": play.traffic,
            "traffic": {"commits": seen.commits, "failed": seen.failed, "slowest": seen.slowest},
        }
        out.print(
            f"the writer: {seen.commits:,} commits, {seen.failed} failed, the slowest took {seen.slowest * 1000:.0f} ms"
        )
        if seen.failed:
            raise StepError(f"{seen.failed} writes of the live service failed", host=ALIAS, output=seen.words)
        out.print(f"{done} All went well.", style="bold green", soft_wrap=True)


Step: TypeAlias = Callable[[Session], Any]


def _numbered(work: Session) -> Callable[[str, Step], Any]:
    """Take steps in order, each under its heading; the first that fails ends it."""
    numbers = itertools.count(1)

    def step(title: str, do: Step) -> Any:
        work.out.print(f"{next(numbers)}  {title}", style="bold")
        result = do(work)
        work.out.print()
        return result

    return step


def _rehearse_index(work: Session) -> str:
    before = read_crontab(work.host)
    step = _numbered(work)
    step("inv deploy-index-backup", deploy)
    step("inv run-index-backup", run)
    step("inv verify", _verify)
    step("inv enable-index-backup", enable)
    step("cron: the enabled line, once", _run_enabled_line)
    step("inv verify", _verify)
    step("inv list-backups", _list)
    step("inv disable-index-backup", disable)
    if read_crontab(work.host) != before:
        raise StepError("the crontab is not as it was before", host=work.host.name)
    return "phase 1 rehearsed: deployed, run, verified, enabled, run by its crontab line, disabled."


def _rehearse_tracker(work: Session) -> str:
    step = _numbered(work)
    step("inv preflight", lambda work: print_preflight(work.out, preflight(work)))
    step("inv deploy-tracker-backup", deploy)
    step("inv run-tracker-backup", run)
    step("inv verify --database tracker", _verify)
    step("inv list-backups --database tracker", _list)
    return "phase 2 rehearsed: looked ahead, deployed, run, verified."


SCENARIOS = {"index": _rehearse_index, "tracker": _rehearse_tracker}


def _list(work: Session) -> None:
    print_backups(work.out, list_backups(work))


def _verify(work: Session) -> None:
    seen = verify(work)
    print_verification(work.out, seen)
    if seen.exit_code:
        raise StepError("the backup did not pass its checks", host=work.host.name)


def _run_enabled_line(work: Session) -> None:
    """Run what stands in the crontab, with its redirection and as cron would, and find the backup it made."""
    job = make_job(work.settings, work.database, require_deployed(work).script)
    line = next(line for line in (read_crontab(work.host) or "").splitlines() if line == job.line)
    split = split_line(line)
    assert split is not None  # it was made by schedule.job
    run_command(work, unescape_command(split[1]), Path(work.database.source).stat().st_size)


def _create_layout(folder: Path, settings: Settings, play: RehearsalOptions) -> Path:
    """Make the server's folders and its live database; return the database's path."""
    database = settings.databases.get(play.database)
    if database is None:
        raise SettingsError(
            f"databases.{play.database} is missing", advice="the rehearsal needs it: correct invoke.yaml"
        )
    source = folder / "app" / database.file
    for path in (source.parent, (folder / "app" / database.script).parent, folder / "backups"):
        path.mkdir(parents=True, exist_ok=True)
    if play.database == "index":
        make_index(source, play.journal)
    else:
        make_tracker(source, play.journal, play.rows)
    return source


def server_settings(server: Server, settings: Settings) -> Settings:
    """Change settings to those of a server made for the occasion."""
    places = {name: PurePosixPath(server.folder / name) for name in ("app", "backups", "cron.log")}
    return settings.model_copy(
        update={
            "host": ALIAS,
            "ssh_config": str(server.ssh_config),
            "use_sudo": False,
            "app_dir": places["app"],
            "backup_dir": places["backups"],
            "cron_log": places["cron.log"],
        }
    )


def _keep_running(out: Console, there: Settings, database: str) -> None:
    """Stay until Ctrl-C, and say how the other tasks reach the server."""
    variables = {
        "INVOKE_HOST": there.host,
        "INVOKE_SSH_CONFIG": there.ssh_config,
        "INVOKE_USE_SUDO": "0",
        "INVOKE_APP_DIR": there.app_dir,
        "INVOKE_BACKUP_DIR": there.backup_dir,
        "INVOKE_CRON_LOG": there.cron_log,
        "INVOKE_EVIDENCE_DIR": records_dir(there),
        "INVOKE_RELEASE_REPOSITORY": there.repository,
    }
    lines = [f"export {name}={shlex.quote(str(value))}" for name, value in variables.items()]
    words = [
        "the server stays until Ctrl-C. In another terminal:",
        "",
        *lines,
        f"./inv verify --database {database}",
        *(["./inv plan"] if database == "index" else []),  # which begins with the index database
        "",
    ]
    out.print("\n".join(words), soft_wrap=True)
    out.file.flush()
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


@contextlib.contextmanager
def _end_on_signals() -> Iterator[None]:
    """Let a terminal that is closed, or a `kill`, end the rehearsal as Ctrl-C does: with nothing left behind."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except InterruptedRunError:
        raise KeyboardInterrupt from None  # what it says may still be running ended with the server
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
