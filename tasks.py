"""The tasks: each parses its flags, calls one function, prints the result and sets the exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from invoke import Collection, Context, Exit

try:
    from demo_backups.errors import SettingsError
    from demo_backups.health.options import HELP as CHECK
    from demo_backups.health.options import CheckOptions
    from demo_backups.project import ROOT
    from demo_backups.ui.cli import LazyModule, exit_with, load_project, task
except ModuleNotFoundError:
    raise Exit(f"{sys.executable} lacks the package demo_backups: run ./inv, or 'pip install -e .' first", 2) from None

if TYPE_CHECKING:
    from demo_backups import development
    from demo_backups.backup import config_archive as archives
    from demo_backups.records import store
    from demo_backups.recovery import copies as fetched_copies
    from demo_backups.recovery import fetch as fetching
    from demo_backups.rehearsal import disaster, options
    from demo_backups.rehearsal import rehearse as rehearsal
    from demo_backups.release import actions, observe
    from demo_backups.release.report import files, render
    from demo_backups.settings import load as settings_load
    from demo_backups.settings.model import Settings
    from demo_backups.ui import console, offsite_table, plugin, tables
    from demo_backups.workflows import attach as attachment
    from demo_backups.workflows import (
        backups,
        config,
        copies,
        crontab,
        due_tasks,
        hosts,
        journal_mode,
        offsite_command,
        restore_options,
        scripts,
    )
    from demo_backups.workflows import check_command as checking
    from demo_backups.workflows import drill as drills
    from demo_backups.workflows import fetch as fetches
    from demo_backups.workflows import guarded_session as guards
    from demo_backups.workflows import restore as restoring
    from demo_backups.workflows import restore_config as config_restoring
    from demo_backups.workflows import session as sessions
else:
    development = LazyModule("development")
    settings_load = LazyModule("settings.load")
    store = LazyModule("records.store")
    fetched_copies, fetching = LazyModule("recovery.copies"), LazyModule("recovery.fetch")
    options, rehearsal = LazyModule("rehearsal.options"), LazyModule("rehearsal.rehearse")
    disaster = LazyModule("rehearsal.disaster")
    actions, observe = LazyModule("release.actions"), LazyModule("release.observe")
    files, render = LazyModule("release.report.files"), LazyModule("release.report.render")
    console, tables = LazyModule("ui.console"), LazyModule("ui.tables")
    offsite_table, plugin = LazyModule("ui.offsite_table"), LazyModule("ui.plugin")
    backups, scripts = LazyModule("workflows.backups"), LazyModule("workflows.scripts")
    attachment, restoring = LazyModule("workflows.attach"), LazyModule("workflows.restore")
    archives, config = LazyModule("backup.config_archive"), LazyModule("workflows.config")
    config_restoring, restore_options = LazyModule("workflows.restore_config"), LazyModule("workflows.restore_options")
    checking, copies = LazyModule("workflows.check_command"), LazyModule("workflows.copies")
    due_tasks = LazyModule("workflows.due_tasks")
    crontab, journal_mode = LazyModule("workflows.crontab"), LazyModule("workflows.journal_mode")
    drills, fetches = LazyModule("workflows.drill"), LazyModule("workflows.fetch")
    guards, sessions = LazyModule("workflows.guarded_session"), LazyModule("workflows.session")
    hosts, offsite_command = LazyModule("workflows.hosts"), LazyModule("workflows.offsite_command")

PROJECT = load_project(Path(__file__))

HOST = {"host": "SSH alias of the server, or local for this machine (default: host in the settings)"}
HOSTS = {"host": "SSH alias of the server, or local for this machine; or several: A,B (default: host in the settings)"}
DATABASE = {"database": "name of the database in the settings (default: index)"}
SERIES = {"database": "name of the database in the settings, or config: the configuration archives (default: index)"}
DRY_RUN = {"dry-run": "show what would be changed and run; change nothing"}
JSON = {"json": "print one JSON object on standard output"}
FORCE = {"force": "run even if the preflight says no"}
FORCE_UNSAFE = {"force-unsafe": "use a script that copies unsafely or cannot be checked"}


def settings(c: Context, host: str | None = None) -> Settings:
    """Return the settings from invoke.yaml and the environment, with the host of --host if there is one."""
    loaded = settings_load.load_settings(PROJECT, c.config)
    return loaded if host is None else settings_load.select_host(loaded, host)


def session(
    c: Context,
    name: str,
    host: str | None,
    database: str,
    dry_run: bool = False,
    record: str | None = None,
    json: bool = False,
    during_restore: bool = False,
    any_series: bool = False,
) -> AbstractContextManager[sessions.Session]:
    """Print the heading of a task on a host, and return the session to enter.

    `record` is the kind of its record. With `json`, standard output is left to the JSON object. Only a task that may
    work `during_restore` is not refused while a restore of the database is running or was interrupted. With
    `any_series`, the task works on the archives of the configuration too.
    """
    selected = settings(c, host)
    target = selected.series(database) if any_series else selected.database(database)
    out = console.make_console(sys.stderr if json else None)
    sessions.print_heading(out, selected, name, target)
    open_session = sessions.open_session if during_restore else guards.open_guarded_session
    return open_session(selected, target, out, record, dry_run)


def exit_as_plugin(json: bool) -> AbstractContextManager[None]:
    """Report errors as a monitoring plugin does."""
    return plugin.exit_as_plugin(json)


def host_session(
    selected: Settings, output: hosts.HostOutput, name: str, database: str, record: str | None = None
) -> AbstractContextManager[sessions.Session]:
    """Print the heading of a task that may work on several hosts, and return the session of one to enter."""
    target = selected.series(database)
    sessions.print_heading(output.out, selected, name, target)
    return guards.open_guarded_session(selected, target, output.out, record)


def run_on_hosts(
    c: Context,
    host: str | None,
    database: str,
    json: bool,
    task: Callable[[Settings, hosts.HostOutput], int],
    any_series: bool = False,
) -> None:
    """Run a task that only reads on the host or the hosts of --host, and exit with its exit code."""
    loaded = settings(c)
    names = hosts.list_hosts(loaded, host)
    _ = loaded.series(database) if any_series else loaded.database(database)  # so that an unknown one is reported once
    exit_with(hosts.run_task(loaded, names, json, task))


# --- backups --------------------------------------------------------------------------------------------------------


@task(help=HOSTS | DATABASE | JSON)
def preflight(c: Context, host: str | None = None, database: str = "index", json: bool = False) -> None:
    """Predict what a backup will do.

    It checks free space, duration and how long writers would wait. The exit code is 1 if the backup should not run.
    """

    def preflight_host(selected: Settings, output: hosts.HostOutput) -> int:
        with host_session(selected, output, "preflight", database) as work:
            prediction = backups.preflight(work)
        output.show(prediction.as_json(), tables.print_preflight, prediction)
        return prediction.exit_code

    run_on_hosts(c, host, database, json, preflight_host)


@task(help=HOST | DATABASE | DRY_RUN | FORCE_UNSAFE)
def deploy(
    c: Context, host: str | None = None, database: str = "index", dry_run: bool = False, force_unsafe: bool = False
) -> None:
    """Deploy the backup script to the server.

    The script is checked and replaced atomically; the old one is kept. A script that is not safe is refused.
    """
    with session(c, "deploy", host, database, dry_run, record="deploy") as work:
        scripts.deploy(work, force_unsafe)


@task(help=HOST | DRY_RUN | FORCE_UNSAFE)
def deploy_index_backup(c: Context, host: str | None = None, dry_run: bool = False, force_unsafe: bool = False) -> None:
    """Deploy the script of the index backup."""
    deploy(c, host, "index", dry_run, force_unsafe)


@task(help=HOST | DRY_RUN | FORCE_UNSAFE)
def deploy_tracker_backup(
    c: Context, host: str | None = None, dry_run: bool = False, force_unsafe: bool = False
) -> None:
    """Deploy the script of the tracker backup."""
    deploy(c, host, "tracker", dry_run, force_unsafe)


@task(help=HOST | DATABASE | DRY_RUN | FORCE | FORCE_UNSAFE)
def run(
    c: Context,
    host: str | None = None,
    database: str = "index",
    dry_run: bool = False,
    force: bool = False,
    force_unsafe: bool = False,
) -> None:
    """Back up the database now.

    The task runs the script on the server as cron would, and stops if the preflight says no or the
    script is not safe.
    """
    with session(c, "run", host, database, dry_run, record="run") as work:
        backups.run(work, force, force_unsafe)


@task(help=HOST | DRY_RUN | FORCE | FORCE_UNSAFE)
def run_index_backup(
    c: Context, host: str | None = None, dry_run: bool = False, force: bool = False, force_unsafe: bool = False
) -> None:
    """Back up the index database now."""
    run(c, host, "index", dry_run, force, force_unsafe)


@task(help=HOST | DRY_RUN | FORCE | FORCE_UNSAFE)
def run_tracker_backup(
    c: Context, host: str | None = None, dry_run: bool = False, force: bool = False, force_unsafe: bool = False
) -> None:
    """Back up the tracker database now."""
    run(c, host, "tracker", dry_run, force, force_unsafe)


@task(help=HOST | DATABASE)
def attach(c: Context, host: str | None = None, database: str = "index") -> None:
    """Follow the latest backup, check or restore.

    It may still be running, or have ended. The exit code is that of the task that started it.
    """
    with session(c, "attach", host, database, during_restore=True) as work:
        verification = attachment.attach(work)
        if verification:
            tables.print_verification(work.out, verification)
            backups.keep_verified(work, verification)
    if verification:
        exit_with(verification.exit_code)


@task(help=HOST | DATABASE | DRY_RUN)
def stop_backup(c: Context, host: str | None = None, database: str = "index", dry_run: bool = False) -> None:
    """Stop the running backup or check.

    It stops backups started by a task or by cron, and removes the partial file.
    """
    with session(c, "stop-backup", host, database, dry_run, record="stop-backup") as work:
        backups.stop_backup(work)


VERIFY = {
    "backup": "path of the backup, or its name in the backup directory (default: the newest)",
    "quick": "use quick_check instead of integrity_check: faster, but it does not check indexes",
    "due": "do nothing until verify_every has passed since the last good verification of the newest backup",
    "no-compare": "do not compare it with the live database, for a login that cannot read that",
}


@task(help=HOSTS | DATABASE | VERIFY | JSON)
def verify(
    c: Context,
    host: str | None = None,
    database: str = "index",
    backup: str | None = None,
    quick: bool = False,
    due: bool = False,
    no_compare: bool = False,
    json: bool = False,
) -> None:
    """Verify a backup with five checks.

    The exit code is 1 if a check failed, and 3 if none failed but one could not be made.
    """
    if due:
        due_tasks.check_verify_flags(backup, quick)
    path = None if backup is None else PurePosixPath(backup)

    def verify_host(selected: Settings, output: hosts.HostOutput) -> int:
        recent = None
        if due:
            recent = due_tasks.find_recent_verification(selected, database, compare=not no_compare)
        if recent:
            due_tasks.report_recent(recent, output.out)
            output.show(due_tasks.recent_as_json(selected, recent))
            return 0
        with host_session(selected, output, "verify", database, record="verification") as work:
            verification = backups.verify(work, path, quick, compare=not no_compare)
            output.show(verification.as_json(), tables.print_verification, verification)
            backups.keep_verified(work, verification)
        return verification.exit_code

    run_on_hosts(c, host, database, json, verify_host)


@task(help=HOSTS | SERIES | JSON)
def list_backups(c: Context, host: str | None = None, database: str = "index", json: bool = False) -> None:
    """List the backups on the server, newest first."""

    def list_on_host(selected: Settings, output: hosts.HostOutput) -> int:
        with host_session(selected, output, "list-backups", database) as work:
            listed, verified = backups.list_backups(work), backups.find_verified(work)
        found = tables.backups_as_json(work.host.name, database, listed, verified)
        output.show(found, tables.print_backups, listed, verified)
        return 0

    run_on_hosts(c, host, database, json, list_on_host, any_series=True)


@task(help=HOST | DRY_RUN)
def backup_config(c: Context, host: str | None = None, dry_run: bool = False) -> None:
    """Pack the configuration of the application into an archive on the server.

    It packs config_paths of the settings, if something has changed since the last archive. The exit code is 1 if a path
    could not be packed.
    """
    selected = settings(c, host)
    series = archives.require_config_paths(selected).name
    with session(c, "backup-config", host, series, dry_run, record="backup-config", any_series=True) as work:
        config.backup_config(work)


FETCH = {
    "backup": "path of the backup, or its name in the backup directory (default: the newest)",
    "to": "directory of the copy (default: HOST below fetch_dir in the settings)",
    "limit": "bytes per second on the wire, such as 40MB (default: fetch_limit in the settings)",
    "no-compress": "do not compress with zstd",
    "delta": "send only the pages that changed since the last fetched backup, with rsync",
}


@task(help=HOST | SERIES | FETCH | JSON | DRY_RUN)
def fetch(
    c: Context,
    host: str | None = None,
    database: str = "index",
    backup: str | None = None,
    to: str | None = None,
    limit: str | None = None,
    no_compress: bool = False,
    delta: bool = False,
    json: bool = False,
    dry_run: bool = False,
) -> None:
    """Download a backup and check it here.

    The same command continues an interrupted download. The exit code is 1 if a check failed, and 3 if none failed but
    one could not be made.
    """
    options = fetching.fetch_options(settings(c, host), to, limit, not no_compress, delta)
    path = None if backup is None else PurePosixPath(backup)
    with session(c, "fetch", host, database, dry_run, record="fetch", json=json, any_series=True) as work:
        fetched = fetches.fetch(work, path, options)
        if fetched and json:
            console.print_json(fetched.as_json(work.host.name, database, work.record.backup, work.record.seconds))
        elif fetched:
            tables.print_fetched(work.out, fetched)
    exit_with(fetched.exit_code if fetched else 0)


RESTORE = {
    "backup": "path of the backup, or its name in the backup directory; with --from here: in the fetch directory",
    "from": "server: the backup is on the server (default); here: upload a fetched one first",
    "to": "restore to this path on the server, where there is no file, instead of the live database; "
    "with config, to a new or empty directory",
    "swap": "replace the file instead of restoring in place; no process may have it open",
    "undo": "restore the state that the last restore has saved, or revert one that was interrupted",
    "yes": "do not ask for confirmation",
}


@task(help=HOST | SERIES | RESTORE | DRY_RUN)
def restore(
    c: Context,
    host: str | None = None,
    database: str = "index",
    backup: str | None = None,
    from_: str = "server",
    to: str | None = None,
    swap: bool = False,
    undo: bool = False,
    yes: bool = False,
    dry_run: bool = False,
) -> None:
    """Restore a backup, in one transaction while the service runs or is stopped for it.

    The present state is saved first. The content is compared with the backup. A restore that was interrupted is
    completed, or with --undo reverted.

    An archive of the configuration (--database config) is unpacked into a new or empty directory: --to PATH.
    """
    options = restore_options.RestoreOptions(
        backup=backup,
        source=from_,
        target=None if to is None else PurePosixPath(to),
        swap=swap,
        undo=undo,
        yes=yes,
    )
    restore_selected = config_restoring.choose_restore(database, options, restoring.restore)
    with session(c, "restore", host, database, dry_run, record="restore", during_restore=True, any_series=True) as work:
        restore_selected(work, options)


DRILL = {
    "backup": "path of the backup, or its name in the backup directory (default: the newest)",
    "from": "server: the backup is on the server (default); here: upload a fetched one first",
    "due": "do nothing until drill_every has passed since the last good drill",
}


@task(help=HOST | DATABASE | DRILL | JSON)
def restore_drill(
    c: Context,
    host: str | None = None,
    database: str = "index",
    backup: str | None = None,
    from_: str = "server",
    due: bool = False,
    json: bool = False,
) -> None:
    """Restore a backup into a scratch directory on the server, check it there, and clean up.

    It checks the content, integrity_check, foreign_key_check, the query and drill_command. The exit code
    is 1 if a check failed, and 3 if none failed but one could not be made.
    """
    fetched_copies.check_place(from_)
    selected = settings(c, host)
    recent = due_tasks.find_recent_drill(selected, database) if due else None
    if recent:
        due_tasks.report_recent(recent, console.make_console(sys.stderr if json else None))
        if json:
            console.print_json(due_tasks.recent_as_json(selected, recent))
        return
    with session(c, "restore-drill", host, database, record="drill", json=json) as work:
        result = drills.drill(work, backup, from_)
        if json:
            console.print_json(result.as_json())
        else:
            tables.print_drill(work.out, result)
        drills.finish(work, result)
    exit_with(result.exit_code)


PRUNE = {"database": "delete copies of this database only, or of config (default: all)"}


@task(help=PRUNE | JSON | DRY_RUN)
def prune_copies(c: Context, database: str | None = None, json: bool = False, dry_run: bool = False) -> None:
    """Delete fetched backups that the settings do not keep.

    It keeps the newest of each of the last days, weeks and months (copies in the settings), of all hosts. It does not
    connect to a host. The exit code is 1 if a copy could not be deleted, or has times that contradict each other.
    """
    loaded = settings(c)
    names = None if database is None else [loaded.series(database).name]
    pruning = copies.prune_copies(loaded, names, dry_run)
    if json:
        console.print_json(pruning.as_json())
    else:
        tables.print_pruning(console.make_console(), pruning)
    exit_with(pruning.exit_code)


OFFSITE = {
    "host": "SSH alias of the server whose backups are meant (default: host in the settings; --list: all hosts)",
    "database": "only this database, or config for the configuration archives (default: all)",
    "init": "create the repository",
    "check": "check the repository, and read the next part of its data (offsite.check_parts in the settings)",
    "list": "list the backups in the repository",
    "restore": "bring this backup, by its file name, to fetch_dir",
}


@task(help=OFFSITE | JSON | DRY_RUN)
def offsite(
    c: Context,
    host: str | None = None,
    database: str | None = None,
    init: bool = False,
    check: bool = False,
    list: bool = False,
    restore: str | None = None,
    json: bool = False,
    dry_run: bool = False,
) -> None:
    """Store the newest fetched and verified backups in a restic repository.

    It also applies the policy of copies there, and uses --init, --check, --list and --restore for the repository
    itself. It does not connect to a host. The exit code is 1 if a backup could not be stored, and 4 if only the policy
    could not be applied.
    """
    loaded = settings(c, host)
    options = offsite_command.OffsiteOptions(host, database, init, check, list, restore, dry_run)
    out = console.make_console(sys.stderr if json else None)
    result = offsite_command.run_offsite(loaded, options, out)
    if json:
        console.print_json(result.as_json())
    else:
        offsite_table.print_result(out, result)
    for error in result.errors:
        console.print_error(str(error))
    exit_with(result.exit_code)


HISTORY = {
    "host": "list the records of this host only, or of several: A,B (default: all hosts)",
    "database": "list the records of this database only, or of config (default: all)",
}


@task(help=HISTORY | JSON)
def history(c: Context, host: str | None = None, database: str | None = None, json: bool = False) -> None:
    """List the records of what was done, newest first.

    It reads local files and does not connect to a host.
    """
    loaded = settings(c)
    names = [None] if host is None else hosts.split_hosts(host)
    folder = store.records_dir(loaded)
    if database is not None:
        loaded.series(database)
    records, invalid = store.read_records(folder)
    selected = {name: store.filter_records(reversed(records), name, database) for name in names}
    if json:
        objects = {name: tables.history_as_json(found, invalid) for name, found in selected.items()}
        console.print_json(objects[names[0]] if len(names) == 1 else {"hosts": objects})
    else:
        tables.print_history(console.make_console(), selected, len(records), invalid, folder)


@task(help=CHECK, exit_handler=exit_as_plugin)
def check(
    c: Context,
    host: str | None = None,
    database: str | None = None,
    json: bool = False,
    prometheus: str | None = None,
    ping: bool = False,
    timeout: str = CheckOptions.timeout,
) -> None:
    """Check the backups of all databases, and print one line for each as a monitoring plugin.

    The exit code is 0 if all is OK, otherwise 2 if anything is CRITICAL, 3 if anything is UNKNOWN, 1 for a WARNING. An
    error is UNKNOWN. No record is written. The program demo-backups-check does the same for monitoring systems.
    """
    options = CheckOptions(host, database, json, prometheus, ping, timeout)
    exit_with(checking.run_check(settings(c), options))


# --- crontab and journal mode ---------------------------------------------------------------------------------------


@task(help=HOST | DATABASE | DRY_RUN | FORCE_UNSAFE)
def enable(
    c: Context, host: str | None = None, database: str = "index", dry_run: bool = False, force_unsafe: bool = False
) -> None:
    """Add the backup to the server's crontab.

    The published crontab decides when it runs. A database without a line there is refused.
    """
    with session(c, "enable", host, database, dry_run, record="enable") as work:
        crontab.enable(work, force_unsafe)


@task(help=HOST | DRY_RUN | FORCE_UNSAFE)
def enable_index_backup(c: Context, host: str | None = None, dry_run: bool = False, force_unsafe: bool = False) -> None:
    """Add the hourly index backup to the crontab."""
    enable(c, host, "index", dry_run, force_unsafe)


DISABLE = {"yes": "also remove lines that no task added, without a question"}


@task(help=HOST | DATABASE | DRY_RUN | DISABLE)
def disable(
    c: Context, host: str | None = None, database: str = "index", dry_run: bool = False, yes: bool = False
) -> None:
    """Remove the backup from the server's crontab.

    It asks before it removes a line that no task added. The exit code is 0 only if no line runs the script any more.
    """
    with session(c, "disable", host, database, dry_run, record="disable") as work:
        crontab.disable(work, yes)


@task(help=HOST | DRY_RUN | DISABLE)
def disable_index_backup(c: Context, host: str | None = None, dry_run: bool = False, yes: bool = False) -> None:
    """Remove the index backup from the crontab."""
    disable(c, host, "index", dry_run, yes)


@task(help=HOST | DATABASE | DRY_RUN | {"undo": "switch back to rollback mode; the service must be stopped"})
def enable_wal(
    c: Context, host: str | None = None, database: str = "index", undo: bool = False, dry_run: bool = False
) -> None:
    """Switch the live database to WAL mode.

    In WAL mode a backup does not block writers.
    """
    with session(c, "enable-wal", host, database, dry_run, record="enable-wal") as work:
        journal_mode.enable_wal(work, undo)


# --- the release ----------------------------------------------------------------------------------------------------

PLAN = {
    "exit-code": "exit 1 if a step is marked 'to do', otherwise 3 if one is unknown; optional steps do not count",
    "svg": "also save the output as an SVG picture in this file",
}


@task(help=HOSTS | JSON | PLAN)
def plan(
    c: Context, host: str | None = None, json: bool = False, exit_code: bool = False, svg: str | None = None
) -> None:
    """Show the state of the release.

    It shows every step of the four phases with its mark and details.
    """
    if json and svg is not None:
        raise SettingsError("--svg saves the printed table, and --json prints none", advice="use one of the two")
    loaded = settings(c)
    names = hosts.list_hosts(loaded, host)
    if len(names) > 1 and svg is not None:
        raise SettingsError("--svg saves the plan of one host", advice="name one host")

    def plan_host(selected: Settings, output: hosts.HostOutput) -> int:
        observed = observe.observe_plan(selected, release)
        if not json:
            output.out.say(f"{observed.host}: plan of {observed.checkout}")
        output.show(observed.as_json(), tables.print_plan, observed)
        return observed.exit_code if exit_code else 0

    with console.recording_console(svg, "./inv plan") as out:
        release = observe.observe_release(loaded)
        code = hosts.run_task(loaded, names, json, plan_host, None if json else out)
    exit_with(code)


@task(help=HOST | {"yes": "do not ask for confirmation"})
def next(c: Context, host: str | None = None, yes: bool = False) -> None:
    """Do the next step of the release.

    It shows the commands, asks for confirmation, runs them, and checks the result.
    """
    selected, out = settings(c, host), console.make_console()

    def rehearse_index() -> None:
        rehearsal.rehearse(settings_load.rehearsal_settings(selected), options.RehearsalOptions(), False, out)

    actions.do_next(selected, out, yes, rehearse_index)


@task(help=DRY_RUN)
def branch(c: Context, dry_run: bool = False) -> None:
    """Switch to the branch of the release.

    The branch is created from the base if it does not exist.
    """
    actions.branch(settings(c), console.make_console(), dry_run)


@task(help=DRY_RUN)
def commit_index_backup(c: Context, dry_run: bool = False) -> None:
    """Commit the script of the index backup only."""
    actions.commit(settings(c), "index", console.make_console(), dry_run)


@task(help=DRY_RUN)
def commit_tracker_backup(c: Context, dry_run: bool = False) -> None:
    """Commit the script of the tracker backup only."""
    actions.commit(settings(c), "tracker", console.make_console(), dry_run)


@task(help=DRY_RUN)
def commit_docs(c: Context, dry_run: bool = False) -> None:
    """Commit the documentation only."""
    actions.commit(settings(c), "docs", console.make_console(), dry_run)


@task(help=DRY_RUN)
def push(c: Context, dry_run: bool = False) -> None:
    """Push the branch of the release without force."""
    actions.push(settings(c), console.make_console(), dry_run)


@task(help=HOST | DRY_RUN)
def open_pr(c: Context, host: str | None = None, dry_run: bool = False) -> None:
    """Open the pull request.

    Its text is the report. If gh cannot open it, the task prints the text and the page on which to open it by hand.
    """
    actions.open_pr(settings(c, host), console.make_console(), dry_run)


REPORT = {
    "open": "open the page in the browser",
    "format": "html: write the page reports/index.html (default); markdown: print the text of a pull request",
}


@task(help=HOST | REPORT)
def report(c: Context, host: str | None = None, open: bool = False, format: str = "html") -> None:
    """Write the report: reports/index.html.

    The page shows the plan, the last verifications and the records.
    """
    render.check_format(format)
    is_markdown = format == render.MARKDOWN
    if open and is_markdown:
        raise SettingsError("--open opens a page, and --format markdown writes none", advice="use one of the two")
    observed = actions.observe_report(settings(c, host))
    if is_markdown:
        console.print_text(render.render_markdown(observed))
        return
    path = ROOT / "reports/index.html"
    files.save_report(render.render_html(observed), path)
    console.make_console().say(files.open_report(path) if open else f"the report is {path}")


# --- this project ---------------------------------------------------------------------------------------------------

REHEARSE = {
    "database": "index or tracker (default: index)",
    "traffic": "commits per second of the live writer (default: 200)",
    "journal": "journal mode of the live database: wal or delete (default: delete)",
    "rows": "torrents in the tracker database (default: 500000)",
    "scenario": "release: the phase of the database (default); recovery: fetch, drill, restore and undo; disaster: the "
    "server and this machine are lost, all comes from the off-site repository",
    "keep": "keep the server running until Ctrl-C, and print how other tasks reach it",
    "svg": "also save the output as an SVG picture in this file",
}


@task(help=REHEARSE)
def rehearse(
    c: Context,
    database: str = "index",
    traffic: str = "200",
    journal: str = "delete",
    rows: str = "500000",
    scenario: str = "release",
    keep: bool = False,
    svg: str | None = None,
) -> None:
    """Run every step on a throwaway server.

    The server and its live database run on this machine and are removed at the end.
    """
    project = settings_load.rehearsal_settings(settings(c))
    with console.recording_console(svg, "./inv rehearse") as out:
        parsed = options.parse_options(database, traffic, journal, rows, scenario)
        run_scenario = disaster.rehearse_disaster if scenario == options.DISASTER else rehearsal.rehearse
        run_scenario(project, parsed, keep, out)


BENCH = {
    "recovery": "measure fetch and restore instead, compared with scp and cp (10 minutes)",
    "offsite": "measure copies with restic and borg instead, as far as they are installed (2 minutes)",
    "full": "measure the grid of docs/benchmarks.md, up to 4 GB and five rounds (an hour)",
    "sizes": "sizes of the database in GB, such as 0.25,1; with --recovery two: of the fetch and of the restore",
    "journals": "journal modes: wal, delete, or wal,delete",
    "rates": "commits per second of the writer, such as 0,200,max",
    "methods": "separated by ';', such as 'cp, fsync;script' or with --offsite 'cp;borg'; all: see docs/benchmarks.md",
    "caches": "state of the page cache before a copy: cold, warm, or cold,warm",
    "memory": "limit of the memory in GB, page cache included, for the service and the copy (needs root)",
    "rounds": "how many times cp, the script and the task, or all methods of off-site copies, are measured",
    "folder": "directory of the databases, on the disk to measure (default: the temporary directory)",
    "out": "directory of the results (default: reports; with --full, benchmarks and docs)",
}


@task(help=BENCH)
def bench(
    c: Context,
    recovery: bool = False,
    offsite: bool = False,
    full: bool = False,
    sizes: str | None = None,
    journals: str | None = None,
    rates: str | None = None,
    methods: str | None = None,
    caches: str | None = None,
    memory: str | None = None,
    rounds: str | None = None,
    folder: str | None = None,
    out: str | None = None,
) -> None:
    """Measure ways to copy a live database (15 minutes)."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from bench import measure_offsite_to_files, measure_recovery_to_files, measure_to_files

    flags = {"sizes": sizes, "journals": journals, "rates": rates, "methods": methods, "rounds": rounds}
    flags |= {"caches": caches, "memory": memory}
    if recovery and offsite:
        raise SettingsError("--recovery and --offsite exclude each other", advice="see: inv --help bench")
    measure = measure_to_files
    if recovery:
        measure = measure_recovery_to_files
    if offsite:
        measure = measure_offsite_to_files
    measure(full, flags, folder, out, console.make_console())


BATTERY = {
    "tries": "how many tries must hit the running task (default: 100)",
    "seed": "the number from which every try is derived (default: a random one)",
    "try": "make only this try of the seed",
    "faults": "words of the names of faults, separated by commas, such as SIGKILL,full disk (default: all)",
    "out": "file to which the results are appended (default: reports/battery/results.jsonl)",
    "jobs": "how many tries run in parallel (default: 2)",
    "resume": "continue a seed whose results are in the file",
    "table": "make no tries, and write the table of docs/reliability.md from the results",
}


@task(help=BATTERY)
def battery(
    c: Context,
    tries: str | None = None,
    seed: str | None = None,
    try_: str | None = None,
    faults: str | None = None,
    out: str | None = None,
    jobs: str | None = None,
    resume: bool = False,
    table: bool = False,
) -> None:
    """Interrupt tasks by faults on a throwaway server, and check that nothing is lost.

    Each try kills a process, fills a disk or cuts a connection during a task. The exit code is 1 if a try failed.
    """
    sys.path.insert(0, str(ROOT))
    from tests.battery.command import Options, run_battery

    options = Options(tries, seed, try_, faults, out, jobs, resume, table)
    exit_with(run_battery(options, console.make_console()))


@task(help={"pytest": "arguments for pytest, such as '-k crontab'"})
def test(c: Context, pytest: str = "") -> None:  # noqa: PT028 - a task, not a test
    """Run ruff, mypy, shellcheck and the tests."""
    exit_with(development.run_checks(ROOT, pytest))


namespace = Collection(
    *(preflight, deploy, deploy_index_backup, deploy_tracker_backup, run, run_index_backup, run_tracker_backup),
    *(attach, stop_backup, verify, list_backups, backup_config, fetch, prune_copies, offsite, restore, restore_drill),
    *(history, check),
    *(enable, enable_index_backup, disable, disable_index_backup, enable_wal),
    *(plan, next, report, rehearse, bench, battery, test),
    Collection(
        "release", branch, commit_index_backup, commit_tracker_backup, commit_docs, push, open_pr, auto_dash_names=True
    ),
)
