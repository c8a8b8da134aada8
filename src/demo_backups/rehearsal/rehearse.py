"""Rehearse a phase on a throwaway server, with the same functions that the tasks use on the real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..backup.cron_syntax import split_line, unescape_command
from ..backup.cron_tables import read_crontab
from ..backup.crontab import make_job
from ..errors import StepError
from ..records.record import RehearsalRecord, new_record
from ..records.store import records_dir, write_record
from ..recovery.copies import ON_SERVER
from ..recovery.fetch import fetch_options
from ..remote.connection import open_host
from ..settings.model import Settings
from ..ui.console import Console
from ..ui.outcome import Tone
from ..ui.tables import print_backups, print_drill, print_fetched, print_preflight, print_verification
from ..workflows.backups import list_backups, preflight, run, run_command, verify
from ..workflows.crontab import disable, enable
from ..workflows.drill import drill, finish
from ..workflows.fetch import fetch
from ..workflows.restore import restore
from ..workflows.restore_options import RestoreOptions
from ..workflows.scripts import deploy, require_deployed
from ..workflows.session import Session
from .options import RECOVERY, RehearsalOptions
from .server import serve
from .throwaway import (
    create_layout,
    keep_running,
    make_database,
    numbered,
    open_rehearsal,
    print_heading,
    report_traffic,
    require_passed,
    server_settings,
)
from .writer import live_writer


def rehearse(settings: Settings, options: RehearsalOptions, keep: bool, out: Console) -> None:
    """Run every step for a database on a throwaway server; raises what any of the steps raises.

    `settings` are those of the project file; `evidence_dir` is where the record is written. With `keep`, the server
    stays up until Ctrl-C. The scenario DISASTER is in a module of its own: it needs two servers.
    """
    with open_rehearsal(settings, options) as (folder, record):
        source = create_layout(folder, settings, options.database)
        make_database(source, options.database, options)
        with serve(folder) as server, live_writer(source, options.traffic) as traffic:
            rehearsal = server_settings(server, settings)
            print_heading(out, server.port, {options.database: source}, options)
            summary = _run_scenario(rehearsal, options, record, out)
            if keep:
                # Written again at the end, with what the writer did; until then the plan uses this record.
                write_record(records_dir(settings), replace(record, exit_status=0))
                keep_running(out, rehearsal, options.database)
        report_traffic(out, record, [traffic])
        out.say(f"Success. {summary}", Tone.GOOD)


def _run_scenario(settings: Settings, options: RehearsalOptions, record: RehearsalRecord, out: Console) -> str:
    with open_host(settings) as host:
        session = Session(host, settings, settings.database(options.database), record, out)
        try:
            return SCENARIOS[RECOVERY if options.scenario == RECOVERY else options.database](session)
        finally:
            # The record is that of the whole rehearsal, not of its last step.
            record.exit_status = None
            record.seconds = None


def _steps(session: Session) -> Callable[[str, Callable[[Session], Any]], Any]:
    """Return a function that runs one step of a session under a numbered heading."""
    run_step = numbered(session.out)
    return lambda title, step: run_step(title, lambda: step(session))


def _rehearse_index(session: Session) -> str:
    crontab = read_crontab(session.host)
    run_step = _steps(session)
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
    run_step = _steps(session)
    run_step("inv preflight", lambda session: print_preflight(session.out, preflight(session)))
    run_step("inv deploy-tracker-backup", deploy)
    run_step("inv run-tracker-backup", run)
    run_step("inv verify --database tracker", _verify)
    run_step("inv list-backups --database tracker", _print_backup_list)
    return "Phase 2: preflight, deployed, run, verified."


def _rehearse_recovery(session: Session) -> str:
    run_step = _steps(session)
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
    require_passed(verification, "the backup")


def _with_record(session: Session, kind: str) -> Session:
    """Return the session with a record of its own: that of the rehearsal has other details."""
    return replace(session, record=new_record(kind, session.host.name, session.database.name))


def _fetch(session: Session) -> None:
    fetched = fetch(_with_record(session, "fetch"), None, fetch_options(session.settings, None, None, compress=True))
    assert fetched is not None  # this is no dry run
    print_fetched(session.out, fetched)
    require_passed(fetched, "the fetched backup")


def _drill(session: Session) -> None:
    work = _with_record(session, "drill")
    result = drill(work, None, ON_SERVER)
    print_drill(session.out, result)
    finish(work, result)
    require_passed(result, "the restored backup")


def _restore(session: Session, backup: str | None = None, undo: bool = False) -> None:
    restore(_with_record(session, "restore"), RestoreOptions(backup=backup, undo=undo, yes=True))


def _run_enabled_line(session: Session) -> None:
    """Run the enabled line of the crontab as cron does, with its redirection, and find the backup that it makes."""
    job = make_job(session.settings, session.database, require_deployed(session).script)
    line = next(line for line in (read_crontab(session.host) or "").splitlines() if line == job.line)
    split = split_line(line)
    assert split is not None  # make_job made this line
    run_command(session, unescape_command(split[1]), Path(session.database.source).stat().st_size)
