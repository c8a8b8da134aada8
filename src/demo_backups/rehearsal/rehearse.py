"""Rehearse a phase on a throwaway server, with the same functions that the tasks use on the real one."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from ..backup.cron_syntax import split_line, unescape_command
from ..backup.cron_tables import read_crontab
from ..backup.crontab import make_job
from ..errors import InterruptedRunError, SettingsError, StepError
from ..records.record import RehearsalRecord, new_record
from ..records.record import Traffic as RecordedTraffic
from ..records.store import record_outcome, records_dir, write_record
from ..recovery.copies import ON_SERVER
from ..recovery.fetch import fetch_options
from ..remote.connection import open_host
from ..settings.model import Settings
from ..ui.console import Console
from ..ui.outcome import Tone
from ..ui.tables import print_backups, print_drill, print_fetched, print_preflight, print_verification
from ..units import format_size
from ..workflows.backups import list_backups, preflight, run, run_command, verify
from ..workflows.crontab import disable, enable
from ..workflows.drill import drill, finish
from ..workflows.fetch import fetch
from ..workflows.restore import RestoreOptions, restore
from ..workflows.scripts import deploy, require_deployed
from ..workflows.session import Session
from .database import make_index, make_tracker
from .options import RECOVERY, RehearsalOptions
from .server import ALIAS, Server, serve
from .writer import Traffic, live_writer


def rehearse(settings: Settings, options: RehearsalOptions, keep: bool, out: Console) -> None:
    """Run every step for a database on a throwaway server; raises what any of the steps raises.

    `settings` are those of the project file; `evidence_dir` is where the record is written. With `keep`, the server
    stays up until Ctrl-C.
    """
    record = RehearsalRecord(host=ALIAS, database=options.database)
    with (
        _end_on_signals(),
        tempfile.TemporaryDirectory(prefix="demo-backups-") as name,
        record_outcome(records_dir(settings), record),
    ):
        folder = Path(name)
        source = _create_layout(folder, settings, options)
        with serve(folder) as server, live_writer(source, options.traffic) as traffic:
            rehearsal = server_settings(server, settings)
            _print_heading(out, server, source, options)
            summary = _run_scenario(rehearsal, options, record, out)
            if keep:
                # Written again at the end, with what the writer did; until then the plan uses this record.
                write_record(records_dir(settings), replace(record, exit_status=0))
                _keep_running(out, rehearsal, options.database)
        record.details.journal = options.journal
        record.details.asked_commits_per_second = options.traffic
        record.details.traffic = RecordedTraffic(
            commits=traffic.commits, failed=traffic.failed, slowest=traffic.slowest
        )
        _print_traffic(out, traffic)
        out.say(f"Success. {summary}", Tone.GOOD)


def _print_heading(out: Console, server: Server, source: Path, options: RehearsalOptions) -> None:
    out.say(f"{ALIAS}: throwaway SSH server on 127.0.0.1 port {server.port}")
    out.say(
        f"  {options.database} database: {format_size(source.stat().st_size)}, journal mode {options.journal}, "
        f"{options.traffic:g} commits per second by another process\n"
    )


def _run_scenario(settings: Settings, options: RehearsalOptions, record: RehearsalRecord, out: Console) -> str:
    with open_host(settings) as host:
        session = Session(host, settings, settings.database(options.database), record, out)
        try:
            return SCENARIOS[RECOVERY if options.scenario == RECOVERY else options.database](session)
        finally:
            # The record is that of the whole rehearsal, not of its last step.
            record.exit_status = None
            record.seconds = None


def _print_traffic(out: Console, traffic: Traffic) -> None:
    """Print what the live writer did; raises StepError where one of its writes failed."""
    out.say(
        f"writer: {traffic.commits:,} commits, {traffic.failed} failed, slowest write {traffic.slowest * 1000:.0f} ms"
    )
    if traffic.failed:
        raise StepError(f"{traffic.failed} writes of the live service failed", host=ALIAS, output=traffic.errors)


Step: TypeAlias = Callable[[Session], Any]


def _numbered(session: Session) -> Callable[[str, Step], Any]:
    """Return a function that runs one step under a numbered heading."""
    numbers = itertools.count(1)

    def run_step(title: str, step: Step) -> Any:
        session.out.say(f"{next(numbers)}  {title}", Tone.TITLE)
        result = step(session)
        session.out.say("")
        return result

    return run_step


def _rehearse_index(session: Session) -> str:
    crontab = read_crontab(session.host)
    run_step = _numbered(session)
    run_step("inv deploy-index-backup", deploy)
    run_step("inv run-index-backup", run)
    run_step("inv verify", _verify)
    run_step("inv enable-index-backup", enable)
    run_step("cron: the enabled line, once", _run_enabled_line)
    run_step("inv verify", _verify)
    run_step("inv list-backups", _print_backup_list)
    run_step("inv disable-index-backup", disable)
    if read_crontab(session.host) != crontab:
        raise StepError("the crontab differs from the one before the rehearsal", host=session.host.name)
    return "Phase 1: deployed, run, verified, enabled, run by its crontab line, disabled."


def _rehearse_tracker(session: Session) -> str:
    run_step = _numbered(session)
    run_step("inv preflight", lambda session: print_preflight(session.out, preflight(session)))
    run_step("inv deploy-tracker-backup", deploy)
    run_step("inv run-tracker-backup", run)
    run_step("inv verify --database tracker", _verify)
    run_step("inv list-backups --database tracker", _print_backup_list)
    return "Phase 2: preflight, deployed, run, verified."


def _rehearse_recovery(session: Session) -> str:
    run_step = _numbered(session)
    run_step("inv deploy", deploy)
    backup = run_step("inv run", run)
    run_step("inv verify", _verify)
    run_step("inv fetch", _fetch)
    run_step("inv restore-drill", _drill)
    run_step("inv restore --backup NAME", lambda session: _restore(session, backup=str(backup.path)))
    run_step("inv restore --undo", lambda session: _restore(session, undo=True))
    return "Recovery: fetched, drilled, restored under live writes, undone."


SCENARIOS = {"index": _rehearse_index, "tracker": _rehearse_tracker, RECOVERY: _rehearse_recovery}


def _print_backup_list(session: Session) -> None:
    print_backups(session.out, list_backups(session))


def _verify(session: Session) -> None:
    verification = verify(session)
    print_verification(session.out, verification)
    if verification.exit_code:
        raise StepError("the backup did not pass its checks", host=session.host.name)


def _with_record(session: Session, kind: str) -> Session:
    """Return the session with a record of its own: that of the rehearsal has other details."""
    return replace(session, record=new_record(kind, session.host.name, session.database.name))


def _fetch(session: Session) -> None:
    fetched = fetch(_with_record(session, "fetch"), None, fetch_options(session.settings, None, None, compress=True))
    assert fetched is not None  # this is no dry run
    print_fetched(session.out, fetched)
    if fetched.exit_code:
        raise StepError("the fetched backup did not pass its checks", host=session.host.name)


def _drill(session: Session) -> None:
    work = _with_record(session, "drill")
    result = drill(work, None, ON_SERVER)
    print_drill(session.out, result)
    finish(work, result)
    if result.exit_code:
        raise StepError("the restored backup did not pass its checks", host=session.host.name)


def _restore(session: Session, backup: str | None = None, undo: bool = False) -> None:
    restore(_with_record(session, "restore"), RestoreOptions(backup=backup, undo=undo, yes=True))


def _run_enabled_line(session: Session) -> None:
    """Run the enabled line of the crontab as cron does, with its redirection, and find the backup that it makes."""
    job = make_job(session.settings, session.database, require_deployed(session).script)
    line = next(line for line in (read_crontab(session.host) or "").splitlines() if line == job.line)
    split = split_line(line)
    assert split is not None  # make_job made this line
    run_command(session, unescape_command(split[1]), Path(session.database.source).stat().st_size)


def _create_layout(folder: Path, settings: Settings, options: RehearsalOptions) -> Path:
    """Create the directories of the server and its live database; return the path of the database."""
    database = settings.databases.get(options.database)
    if database is None:
        raise SettingsError(
            f"databases.{options.database} is missing", advice="the rehearsal needs it: correct invoke.yaml"
        )
    source = folder / "app" / database.file
    with _writable_by_owner_only():
        for path in (source.parent, (folder / "app" / database.script).parent, folder / "backups"):
            path.mkdir(parents=True, exist_ok=True)
    if options.database == "index":
        make_index(source, options.journal)
    else:
        make_tracker(source, options.journal, options.rows)
    return source


@contextlib.contextmanager
def _writable_by_owner_only() -> Iterator[None]:
    """Create directories as on a server: where a group can write, the script makes no backup."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


def server_settings(server: Server, settings: Settings) -> Settings:
    """Change settings to those of a throwaway server."""
    folder = PurePosixPath(server.folder)
    no_service = {"stop": None, "start": None, "healthy": None}  # there is no service but the writer
    databases = {name: section.model_copy(update=no_service) for name, section in settings.databases.items()}
    return settings.model_copy(
        update={
            "host": ALIAS,
            "ssh_config": str(server.ssh_config),
            "use_sudo": False,
            "app_dir": folder / "app",
            "backup_dir": folder / "backups",
            "cron_log": folder / "cron.log",
            "fetch_dir": str(server.folder / "copies"),
            "databases": databases,
        }
    )


def _keep_running(out: Console, settings: Settings, database: str) -> None:
    """Print how other tasks reach the server, and wait for Ctrl-C."""
    variables: dict[str, object] = {
        "INVOKE_HOST": settings.host,
        "INVOKE_SSH_CONFIG": settings.ssh_config,
        "INVOKE_USE_SUDO": "0",
        "INVOKE_APP_DIR": settings.app_dir,
        "INVOKE_BACKUP_DIR": settings.backup_dir,
        "INVOKE_CRON_LOG": settings.cron_log,
        "INVOKE_FETCH_DIR": settings.fetch_dir,
        "INVOKE_EVIDENCE_DIR": records_dir(settings),
        "INVOKE_RELEASE_REPOSITORY": settings.repository,
    }
    for name in map(str.upper, settings.databases):  # there is no service but the writer
        variables |= {f"INVOKE_DATABASES_{name}_{key}": "" for key in ("STOP", "START", "HEALTHY")}
    exports = [f"export {name}={shlex.quote(str(value))}" for name, value in variables.items()]
    plan = ["./inv plan"] if database == "index" else []  # the plan starts with the index database
    lines = [
        "The server runs until Ctrl-C. Run in another terminal:",
        "",
        *exports,
        f"./inv verify --database {database}",
        *plan,
        "",
    ]
    out.say("\n".join(lines))
    out.file.flush()
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


@contextlib.contextmanager
def _end_on_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the rehearsal as Ctrl-C does, so that nothing is left behind."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except InterruptedRunError:
        raise KeyboardInterrupt from None  # its advice is about a job that ended with the server
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
