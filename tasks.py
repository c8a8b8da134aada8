"""The tasks: what a maintainer can do, one short function each."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import invoke
from invoke import Context, Exit

try:
    from demo_backups.errors import FAILED, INTERRUPTED, WRONG_INPUT, BackupsError, SettingsError, StepError
    from demo_backups.project import ROOT, find_unknown_variables, read_project_file
    from demo_backups.ui.debug import limit_debug_output
except ModuleNotFoundError:
    raise Exit(f"{sys.executable} lacks the package demo_backups: run ./inv, or 'pip install -e .' first", 2) from None

if TYPE_CHECKING:
    from demo_backups.settings import Settings

HELP = {
    "host": "SSH alias of the server, or 'local' for this machine (default: the setting host)",
    "dry-run": "show what would be changed and run; change nothing",
    "database": "index or tracker (default: index)",
    "history --host": "what was done on this host only (default: on all)",
    "history --database": "index or tracker (default: both)",
    "exit-code": "exit 1 where something is to do, else 3 where something is not seen; optional steps do not count",
    "yes": "do not ask",
    "backup": "file to verify, by its path or its name in the backup folder (default: the newest)",
    "quick": "quick_check in place of integrity_check: faster, and blind to wrong indexes",
    "json": "print one JSON object, and nothing else, on standard output",
    "traffic": "commits a second that a live service makes meanwhile (default: 200)",
    "journal": "journal mode of the live database: wal or delete (default: delete)",
    "keep": "leave the server up until Ctrl-C, and say how to reach it with the other tasks",
    "svg": "also draw what was printed, as an SVG picture, into this file",
    "force": "run it although the preflight says no",
    "undo": "put it back in rollback mode; its service must be stopped",
    "rows": "torrents in the rehearsal's tracker database (default: 500000)",
    "full": "the grid of docs/benchmarks.md, up to 4 GB and five rounds",
    "sizes": "of the database in GB, such as 0.25,1",
    "journals": "wal, delete, or both with a comma between",
    "rates": "commits a second of the writer, such as 0,200,max",
    "methods": "with ';' between: " + "cp, fsync; plain .backup; script; VACUUM INTO; and three that were tried",
    "rounds": "how often cp and the script are measured",
    "folder": "where the databases are made: on the disk that is to be measured (default: the temporary folder)",
    "out": "folder for the numbers and the picture (default: reports; with --full, benchmarks and docs)",
    "open": "show it in the browser",
    "format": "html, the page reports/index.html; or markdown, on standard output, for a pull request",
    "pytest": "what to hand to pytest, such as '-k crontab'",
}

if Path(__file__).resolve().parent != ROOT:
    raise Exit(f"the demo_backups of {ROOT} is not that of this folder: run ./inv, or 'pip install -e .' first", 2)

limit_debug_output()

# Invoke is about to read it too, and would end in a traceback where it is not YAML.
try:
    PROJECT = read_project_file()
except BackupsError as error:
    raise Exit(str(error), error.exit_code) from error


def task(body: Callable[..., None]) -> Any:
    """Make a task: long flags only (`-h` would be taken for the host), and every error in words, in this one place."""

    @functools.wraps(body)
    def told(c: Context, *args: Any, **options: Any) -> None:
        _warn_about_variables(c)
        with _without_traceback():
            try:
                if c.config.run.dry:
                    raise SettingsError("Invoke's own --dry is not heeded here", advice="say --dry-run after the task")
                body(c, *args, **options)
            except BackupsError as error:
                from demo_backups.ui.console import escape_controls, print_json

                if options.get("json"):
                    print_json({"error": str(error), "exit_code": error.exit_code})
                raise Exit(escape_controls(str(error)), error.exit_code) from error

    task_name, *flags = (name.replace("_", "-") for name in (body.__name__, *inspect.signature(body).parameters))
    # A flag whose default is another one in this task is explained for it.
    words = {flag: HELP.get(f"{task_name} --{flag}", HELP.get(flag)) for flag in flags}
    return invoke.task(told, help={flag: each for flag, each in words.items() if each}, auto_shortflags=False)


@contextlib.contextmanager
def _without_traceback() -> Iterator[None]:
    """End in words after Ctrl-C, and where whoever read ours has gone or there is no room for them."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # while an error can still be reported
    except KeyboardInterrupt:
        raise Exit("interrupted", INTERRUPTED) from None
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if missing.startswith("demo_backups"):
            raise
        raise Exit(f"{sys.executable} lacks {missing}: run ./inv, or 'pip install -e .' again", WRONG_INPUT) from None
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT):
            raise
        # Python would complain of it once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        full = StepError("not all could be written", output=str(error), advice="make room; see ./inv history")
        raise Exit(None if error.errno == errno.EPIPE else str(full), FAILED) from None


def _warn_about_variables(c: Context) -> None:
    for name, similar in find_unknown_variables(c.config).items():
        _print_once(f"warning: {name} is not a setting" + (f"; did you mean {similar}?" if similar else ""))


@functools.cache
def _print_once(warning: str) -> None:
    print(warning, file=sys.stderr)


def settings(c: Context) -> Settings:
    """Check the settings: invoke.yaml with what the environment says."""
    from demo_backups.settings import load_settings

    return load_settings(PROJECT, c.config)


def _deploy(c: Context, database: str, host: str | None, dry_run: bool) -> None:
    from demo_backups.ui.console import make_console
    from demo_backups.workflows import (
        deploy,
        open_session,
    )

    with open_session(
        settings(c), f"deploy-{database}-backup", host, database, make_console(), "deploy", dry_run
    ) as work:
        deploy(work, dry_run)


def _run(c: Context, database: str, host: str | None, dry_run: bool, force: bool) -> None:
    from demo_backups.ui.console import make_console
    from demo_backups.workflows import (
        open_session,
        run,
    )

    with open_session(settings(c), f"run-{database}-backup", host, database, make_console(), "run", dry_run) as work:
        run(work, dry_run, force)


def _exit(code: int) -> None:
    if code:
        raise Exit(code=code)


@task
def deploy_index_backup(c: Context, host: str | None = None, dry_run: bool = False) -> None:
    """Put the index backup script on the server, checked and in one step."""
    _deploy(c, "index", host, dry_run)


@task
def run_index_backup(c: Context, host: str | None = None, dry_run: bool = False, force: bool = False) -> None:
    """Back the index database up now, running the script on the server as cron would."""
    _run(c, "index", host, dry_run, force)


@task
def verify(
    c: Context,
    host: str | None = None,
    database: str = "index",
    backup: str | None = None,
    quick: bool = False,
    json: bool = False,
) -> None:
    """Check a backup five ways. Exits 0: all passed, 1: one failed, 3: none failed, one could not be made."""
    from demo_backups.ui.console import make_console, print_json
    from demo_backups.ui.tables import (
        print_verification,
    )
    from demo_backups.workflows import (
        open_session,
        verify,
    )

    out = make_console(sys.stderr if json else None)
    with open_session(settings(c), "verify", host, database, out, "verification") as work:
        seen = verify(work, None if backup is None else PurePosixPath(backup), quick)
    if json:
        print_json(seen.as_json())
    else:
        print_verification(out, seen)
    _exit(seen.exit_code)


@task
def deploy_tracker_backup(c: Context, host: str | None = None, dry_run: bool = False) -> None:
    """Put the tracker backup script on the server, checked and in one step."""
    _deploy(c, "tracker", host, dry_run)


@task
def run_tracker_backup(c: Context, host: str | None = None, dry_run: bool = False, force: bool = False) -> None:
    """Back the tracker database up now, live. There is no task to enable it: at its size it is run by hand."""
    _run(c, "tracker", host, dry_run, force)


@task
def preflight(c: Context, host: str | None = None, database: str = "index", json: bool = False) -> None:
    """Tell what a backup will do before it does: space, duration, writers held back. Exits 1 if it says no."""
    from demo_backups.ui.console import make_console, print_json
    from demo_backups.ui.tables import (
        print_preflight,
    )
    from demo_backups.workflows import (
        open_session,
        preflight,
    )

    out = make_console(sys.stderr if json else None)
    with open_session(settings(c), "preflight", host, database, out) as work:
        ahead = preflight(work)
    if json:
        print_json(ahead.as_json())
    else:
        print_preflight(out, ahead)
    _exit(ahead.exit_code)


@task
def attach(c: Context, host: str | None = None, database: str = "index") -> None:
    """Come back to a backup or a check that goes on without a terminal, finished or not; exits as it does."""
    from demo_backups.ui.console import make_console
    from demo_backups.ui.tables import (
        print_verification,
    )
    from demo_backups.workflows import (
        attach,
        open_session,
    )

    out = make_console()
    with open_session(settings(c), "attach", host, database, out, "attach") as work:
        seen = attach(work)
    if seen:
        print_verification(out, seen)
        _exit(seen.exit_code)


@task
def stop_backup(c: Context, host: str | None = None, database: str = "index", dry_run: bool = False) -> None:
    """End a backup that is going on, a task's or cron's, or the check of one, and leave no part of it."""
    from demo_backups.ui.console import make_console
    from demo_backups.workflows import (
        open_session,
        stop_backup,
    )

    with open_session(settings(c), "stop-backup", host, database, make_console(), "stop-backup", dry_run) as work:
        stop_backup(work, dry_run)


@task
def enable_wal(
    c: Context, host: str | None = None, database: str = "index", undo: bool = False, dry_run: bool = False
) -> None:
    """Put the live database in WAL mode, in which a backup holds no writer back."""
    from demo_backups.ui.console import make_console
    from demo_backups.workflows import (
        enable_wal,
        open_session,
    )

    with open_session(settings(c), "enable-wal", host, database, make_console(), "enable-wal", dry_run) as work:
        enable_wal(work, undo, dry_run)


@task
def enable_index_backup(c: Context, host: str | None = None, dry_run: bool = False) -> None:
    """Put the hourly index backup into the server's crontab; the rest of it stays as it is."""
    from demo_backups.ui.console import make_console
    from demo_backups.workflows import (
        enable,
        open_session,
    )

    with open_session(settings(c), "enable-index-backup", host, "index", make_console(), "enable", dry_run) as work:
        enable(work, dry_run)


@task
def disable_index_backup(c: Context, host: str | None = None, dry_run: bool = False) -> None:
    """Take the hourly index backup out of the server's crontab again, as it was before."""
    from demo_backups.ui.console import make_console
    from demo_backups.workflows import (
        disable,
        open_session,
    )

    with open_session(settings(c), "disable-index-backup", host, "index", make_console(), "disable", dry_run) as work:
        disable(work, dry_run)


@task
def list_backups(c: Context, host: str | None = None, database: str = "index", json: bool = False) -> None:
    """List the backups of a database that the server holds, the newest first."""
    from demo_backups.ui.console import make_console, print_json
    from demo_backups.ui.tables import (
        backups_as_json,
        print_backups,
    )
    from demo_backups.workflows import (
        list_backups,
        open_session,
    )

    out = make_console(sys.stderr if json else None)
    with open_session(settings(c), "list-backups", host, database, out) as work:
        backups = list_backups(work)
        if json:
            print_json(backups_as_json(work.host.name, database, backups))
        else:
            print_backups(out, backups)


@task
def history(c: Context, host: str | None = None, database: str | None = None, json: bool = False) -> None:
    """List what was done and what it showed, the newest first, from the records here; it connects to nothing."""
    from demo_backups.records.store import filter_records, read_records, records_dir
    from demo_backups.settings import check_host
    from demo_backups.ui.console import make_console, print_json
    from demo_backups.ui.tables import (
        history_as_json,
        print_history,
    )

    given = settings(c)
    if host is not None:
        check_host(host)
    if database is not None:
        given.database(database)
    folder = records_dir(given)
    records, damaged = read_records(folder)
    chosen = filter_records(reversed(records), host, database)
    if json:
        print_json(history_as_json(chosen, damaged))
    else:
        print_history(make_console(), chosen, len(records), damaged, folder)


@task
def plan(
    c: Context, host: str | None = None, json: bool = False, exit_code: bool = False, svg: str | None = None
) -> None:
    """Show where the release stands: every step of its four phases, its mark, and what was seen of it."""
    from demo_backups.release.observe import observe_plan
    from demo_backups.ui.console import check_svg_path, make_console, print_json, save_svg
    from demo_backups.ui.tables import (
        print_plan,
    )

    if svg is not None:
        if json:
            raise SettingsError("--svg draws what is printed, and --json prints no table", advice="say one of the two")
        check_svg_path(Path(svg))
    seen = observe_plan(settings(c), host)
    if json:
        print_json(seen.as_json())
    else:
        out = make_console(record=svg is not None)
        out.print(f"{seen.host}: plan", soft_wrap=True)
        print_plan(out, seen)
        if svg is not None:
            save_svg(out, Path(svg), title="./inv plan")
    _exit(seen.exit_code if exit_code else 0)


@task
def next(c: Context, host: str | None = None, yes: bool = False) -> None:
    """Do the next step of the release: show its commands, ask, act, and look whether it is done."""
    from demo_backups.release.actions import do_next
    from demo_backups.ui.console import make_console

    do_next(settings(c), host, make_console(), yes)


@task
def branch(c: Context, dry_run: bool = False) -> None:
    """Get onto the release's branch: made from the base, unless it is there, here or on the remote."""
    from demo_backups.release.actions import branch
    from demo_backups.ui.console import make_console

    branch(settings(c), make_console(), dry_run)


def _commit(c: Context, part: str, dry_run: bool) -> None:
    from demo_backups.release.actions import commit
    from demo_backups.ui.console import make_console

    commit(settings(c), part, make_console(), dry_run)


@task
def commit_index_backup(c: Context, dry_run: bool = False) -> None:
    """Commit the index backup script, and nothing else, with the plan's message."""
    _commit(c, "index", dry_run)


@task
def commit_tracker_backup(c: Context, dry_run: bool = False) -> None:
    """Commit the tracker backup script, and nothing else, with the plan's message."""
    _commit(c, "tracker", dry_run)


@task
def commit_docs(c: Context, dry_run: bool = False) -> None:
    """Commit the documentation, and nothing else, with the plan's message."""
    _commit(c, "docs", dry_run)


@task
def push(c: Context, dry_run: bool = False) -> None:
    """Push the release's branch; never by force."""
    from demo_backups.release.actions import push
    from demo_backups.ui.console import make_console

    push(settings(c), make_console(), dry_run)


@task
def open_pr(c: Context, host: str | None = None, dry_run: bool = False) -> None:
    """Open the pull request, its body made of the evidence; without gh, print the body and where to open it."""
    from demo_backups.release.actions import open_pr
    from demo_backups.ui.console import make_console

    open_pr(settings(c), host, make_console(), dry_run)


@task
def report(c: Context, host: str | None = None, open: bool = False, format: str = "html") -> None:
    """Make a page of the plan, the last verifications and the records: reports/index.html, which loads nothing."""
    from demo_backups.release.actions import observe_report
    from demo_backups.release.report.files import open_report, save_report
    from demo_backups.release.report.render import MARKDOWN, check_format, render_html, render_markdown
    from demo_backups.ui.console import print_text

    check_format(format)
    page = observe_report(settings(c), host)
    if format == MARKDOWN:
        print_text(render_markdown(page))
        return
    place = ROOT / "reports/index.html"
    save_report(render_html(page), place)
    print(open_report(place) if open else f"the report is {place}")


@task
def rehearse(
    c: Context,
    database: str = "index",
    traffic: str = "200",
    journal: str = "delete",
    rows: str = "500000",
    keep: bool = False,
    svg: str | None = None,
) -> None:
    """Do all of it for real on a throwaway server on this machine, with a live database: phase 1, or the tracker's."""
    from demo_backups.rehearsal.options import parse_options
    from demo_backups.rehearsal.rehearse import rehearse as play
    from demo_backups.settings import rehearsal_settings
    from demo_backups.ui.console import check_svg_path, make_console, save_svg

    project = rehearsal_settings(settings(c))
    if svg is not None:
        check_svg_path(Path(svg))
    out = make_console(record=svg is not None)
    play(project, parse_options(database, traffic, journal, rows), keep, out)
    if svg is not None:
        save_svg(out, Path(svg), title="./inv rehearse")


@task
def bench(
    c: Context,
    full: bool = False,
    sizes: str | None = None,
    journals: str | None = None,
    rates: str | None = None,
    methods: str | None = None,
    rounds: str | None = None,
    folder: str | None = None,
    out: str | None = None,
) -> None:
    """Measure ways to copy a live database, side by side. Ten minutes; --full, the documented one, half an hour."""
    import tempfile

    sys.path.insert(0, str(ROOT / "benchmarks"))
    from bench import bench, check_folder, parse_grid

    from demo_backups.ui.console import make_console

    flags = {"sizes": sizes, "journals": journals, "rates": rates, "methods": methods, "rounds": rounds}
    grid = parse_grid(full, flags)
    places = (ROOT / "benchmarks", ROOT / "docs") if full else (ROOT / "reports", ROOT / "reports")
    if out is not None:
        places = (check_folder("out", out),) * 2
    if folder is not None:
        check_folder("folder", folder)
    results, picture = places[0] / "live_backup.json", places[1] / "benchmarks.svg"
    with tempfile.TemporaryDirectory(prefix="demo-backups-", dir=folder) as name:
        bench(grid, Path(name), results, picture, make_console())
    print(f"the numbers are in {results}, the picture is {picture}")


@task
def test(c: Context, pytest: str = "") -> None:  # noqa: PT028 - a task, not a test
    """Run every check of this project: ruff, mypy, shellcheck and the tests."""
    from demo_backups.development import run_checks

    _exit(run_checks(ROOT, pytest))
