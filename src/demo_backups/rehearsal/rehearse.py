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

from .. import evidence, reports, schedule, steps
from ..errors import InterruptedRunError, SettingsError, StepError
from ..hosts import open_host
from ..settings import Settings
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
class Play:
    """What is rehearsed: a database's steps, at so many commits a second, in a journal mode; `rows` of the tracker."""

    database: str = "index"
    traffic: float = 200
    journal: str = "delete"
    rows: int = TRACKER_ROWS


def parse_play(database: str, traffic: str, journal: str, rows: str) -> Play:
    """Play, from a command line; raises SettingsError."""
    if database not in ACTS:
        raise SettingsError(f"--database {database!r} cannot be rehearsed", advice=f"one of: {', '.join(ACTS)}")
    if journal not in JOURNALS:
        raise SettingsError(f"--journal {journal!r} is no journal mode", advice=f"one of: {', '.join(JOURNALS)}")
    return Play(database, parse_traffic(traffic), journal, parse_rows(rows))


def rehearse(settings: Settings, play: Play, keep: bool, out: Console) -> None:
    """Do all steps for a database on a server made for the occasion; raises what any of its steps raises.

    `settings` are the project's own, and `evidence_dir` says where the record goes.
    """
    record = evidence.Record("rehearsal", ALIAS, play.database)
    with (
        _ended_by_signals(),
        tempfile.TemporaryDirectory(prefix="demo-backups-") as name,
        evidence.recording(evidence.folder(settings), record),
    ):
        folder = Path(name)
        source = _make_places(folder, settings, play)
        with serve(folder) as server, live_writer(source, play.traffic) as seen:
            there = settings_of(server, settings)
            out.print(f"{ALIAS}: a server on 127.0.0.1 port {server.port}, gone when this ends", soft_wrap=True)
            out.print(
                f"  its {play.database} database: {reports.size(source.stat().st_size)}, {play.journal} mode, "
                f"{play.traffic:g} commits a second by another process\n",
                soft_wrap=True,
            )
            with open_host(there) as host:
                work = steps.Work(host, there, there.database(play.database), record, out)
                try:
                    done = ACTS[play.database](work)
                finally:
                    record.exit_status = record.seconds = None  # of the whole, not of the last step
            if keep:
                # Written again at the end, with what the writer did; the plan can rest on it until then.
                evidence.write(evidence.folder(settings), replace(record, exit_status=0))
                _keep(out, there, play.database)
        record.details |= {
            "journal": play.journal,
            "asked_commits_per_second": play.traffic,
            "traffic": {"commits": seen.commits, "failed": seen.failed, "slowest": seen.slowest},
        }
        out.print(
            f"the writer: {seen.commits:,} commits, {seen.failed} failed, the slowest took {seen.slowest * 1000:.0f} ms"
        )
        if seen.failed:
            raise StepError(f"{seen.failed} writes of the live service failed", host=ALIAS, printed=seen.words)
        out.print(f"{done} All went well.", style="bold green", soft_wrap=True)


Step: TypeAlias = Callable[[steps.Work], Any]


def _numbered(work: steps.Work) -> Callable[[str, Step], Any]:
    """Take steps in order, each under its heading; the first that fails ends it."""
    numbers = itertools.count(1)

    def step(title: str, do: Step) -> Any:
        work.out.print(f"{next(numbers)}  {title}", style="bold")
        result = do(work)
        work.out.print()
        return result

    return step


def _play_index(work: steps.Work) -> str:
    before = schedule.read_crontab(work.host)
    step = _numbered(work)
    step("inv deploy-index-backup", steps.deploy)
    step("inv run-index-backup", steps.run)
    step("inv verify", _verify)
    step("inv enable-index-backup", steps.enable)
    step("cron: the enabled line, once", _run_enabled_line)
    step("inv verify", _verify)
    step("inv list-backups", _list)
    step("inv disable-index-backup", steps.disable)
    if schedule.read_crontab(work.host) != before:
        raise StepError("the crontab is not as it was before", host=work.host.name)
    return "phase 1 rehearsed: deployed, run, verified, enabled, run by its crontab line, disabled."


def _play_tracker(work: steps.Work) -> str:
    step = _numbered(work)
    step("inv preflight", lambda work: reports.print_preflight(work.out, steps.look_ahead(work)))
    step("inv deploy-tracker-backup", steps.deploy)
    step("inv run-tracker-backup", steps.run)
    step("inv verify --database tracker", _verify)
    step("inv list-backups --database tracker", _list)
    return "phase 2 rehearsed: looked ahead, deployed, run, verified."


ACTS = {"index": _play_index, "tracker": _play_tracker}


def _list(work: steps.Work) -> None:
    reports.print_backups(work.out, steps.list_backups(work))


def _verify(work: steps.Work) -> None:
    seen = steps.verify(work)
    reports.print_verification(work.out, seen)
    if seen.exit_code:
        raise StepError("the backup did not pass its checks", host=work.host.name)


def _run_enabled_line(work: steps.Work) -> None:
    """Run what stands in the crontab, with its redirection and as cron would, and find the backup it made."""
    job = schedule.job(work.settings, work.database, steps.deployed(work).script)
    line = next(line for line in (schedule.read_crontab(work.host) or "").splitlines() if line == job.line)
    split = schedule.split_line(line)
    assert split is not None  # it was made by schedule.job
    steps.run_command(work, schedule.unescape(split[1]), Path(work.database.source).stat().st_size)


def _make_places(folder: Path, settings: Settings, play: Play) -> Path:
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


def settings_of(server: Server, settings: Settings) -> Settings:
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


def _keep(out: Console, there: Settings, database: str) -> None:
    """Stay until Ctrl-C, and say how the other tasks reach the server."""
    variables = {
        "INVOKE_HOST": there.host,
        "INVOKE_SSH_CONFIG": there.ssh_config,
        "INVOKE_USE_SUDO": "0",
        "INVOKE_APP_DIR": there.app_dir,
        "INVOKE_BACKUP_DIR": there.backup_dir,
        "INVOKE_CRON_LOG": there.cron_log,
        "INVOKE_EVIDENCE_DIR": evidence.folder(there),
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
def _ended_by_signals() -> Iterator[None]:
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
