"""What all scenarios of a rehearsal need: a temporary directory, its settings, the record, and the end of it all."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InterruptedRunError, SettingsError, StepError
from ..records.check import Checked
from ..records.record import RehearsalRecord
from ..records.record import Traffic as RecordedTraffic
from ..records.store import record_outcome, records_dir
from ..settings.model import OffsiteSettings, Settings
from ..ui.console import Console
from ..ui.outcome import Tone
from ..units import format_size
from .database import make_index, make_tracker
from .options import RehearsalOptions
from .server import ALIAS, Server
from .writer import Traffic

# --- the directory and the record -----------------------------------------------------------------------------------


@contextlib.contextmanager
def open_rehearsal(settings: Settings, options: RehearsalOptions) -> Iterator[tuple[Path, RehearsalRecord]]:
    """Create the temporary directory of a rehearsal, and write its record however it ends.

    SIGTERM and SIGHUP end it as Ctrl-C does, so that nothing is left behind.
    """
    record = RehearsalRecord(host=ALIAS, database=options.database)
    record.details.journal = options.journal
    record.details.asked_commits_per_second = options.traffic
    with (
        _end_on_signals(),
        tempfile.TemporaryDirectory(prefix="demo-backups-") as name,
        record_outcome(records_dir(settings), record),
    ):
        yield Path(name), record


@contextlib.contextmanager
def _end_on_signals() -> Iterator[None]:
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


# --- the server -----------------------------------------------------------------------------------------------------


def create_layout(folder: Path, settings: Settings, name: str) -> Path:
    """Create the directories of a server that has a database; return the path of the database, which is missing.

    Raises SettingsError if the database is not in the settings.
    """
    database = settings.databases.get(name)
    if database is None:
        raise SettingsError(f"databases.{name} is missing", advice="the rehearsal needs it: correct invoke.yaml")
    source = folder / "app" / database.file
    with _writable_by_owner_only():
        for path in (source.parent, (folder / "app" / database.script).parent, folder / "backups"):
            path.mkdir(parents=True, exist_ok=True)
    return source


def make_database(source: Path, name: str, options: RehearsalOptions) -> None:
    """Create the live database with this name, `index` or `tracker`."""
    if name == "index":
        make_index(source, options.journal)
    else:
        make_tracker(source, options.journal, options.rows)


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
            "config_paths": (),
            "fetch_dir": str(server.folder / "copies"),
            "offsite": offsite_settings(settings, None, None),
            "databases": databases,
        }
    )


def offsite_settings(settings: Settings, repository: Path | None, password: Path | None) -> OffsiteSettings:
    """Change the off-site settings to a repository of the rehearsal, or to none: never that of the user."""
    paths = {"repository": repository, "password_file": password}
    texts = {name: None if path is None else str(path) for name, path in paths.items()}
    return settings.offsite.model_copy(update=texts | {"password_command": None})


# --- what is printed ------------------------------------------------------------------------------------------------


def print_heading(out: Console, port: int, sources: Mapping[str, Path], options: RehearsalOptions) -> None:
    """Print where the server is, and what writes to its databases, by their names."""
    out.say(f"{ALIAS}: throwaway SSH server on 127.0.0.1 port {port}")
    for name, source in sources.items():
        out.say(
            f"  {name} database: {format_size(source.stat().st_size)}, journal mode {options.journal}, "
            f"{options.traffic:g} commits per second by another process"
        )
    out.say("")


def numbered(out: Console) -> Callable[[str, Callable[[], Any]], Any]:
    """Return a function that runs one step under a numbered heading."""
    numbers = itertools.count(1)

    def run_step(title: str, step: Callable[[], Any]) -> Any:
        out.say(f"{next(numbers)}  {title}", Tone.TITLE)
        result = step()
        out.say("")
        return result

    return run_step


def require_passed(result: Checked, subject: str) -> None:
    """Raise StepError unless all checks of a backup passed."""
    if result.exit_code:
        raise StepError(f"{subject} did not pass its checks", host=ALIAS)


def report_traffic(out: Console, record: RehearsalRecord, writers: Sequence[Traffic]) -> None:
    """Print and record what the live writers did; raises StepError where one of their writes failed."""
    commits, failed = (sum(getattr(traffic, name) for traffic in writers) for name in ("commits", "failed"))
    slowest = max(traffic.slowest for traffic in writers)
    record.details.traffic = RecordedTraffic(commits=commits, failed=failed, slowest=slowest)
    name = "writer" if len(writers) == 1 else "writers"
    out.say(f"{name}: {commits:,} commits, {failed} failed, slowest write {slowest * 1000:.0f} ms")
    if failed:
        errors = "\n".join(traffic.errors for traffic in writers if traffic.errors)
        raise StepError(f"{failed} writes of the live service failed", host=ALIAS, output=errors)


def keep_running(out: Console, settings: Settings, database: str) -> None:
    """Print how other tasks reach the server, and wait for Ctrl-C."""
    variables: dict[str, object] = {
        "INVOKE_HOST": settings.host,
        "INVOKE_SSH_CONFIG": settings.ssh_config,
        "INVOKE_USE_SUDO": "0",
        "INVOKE_APP_DIR": settings.app_dir,
        "INVOKE_BACKUP_DIR": settings.backup_dir,
        "INVOKE_CRON_LOG": settings.cron_log,
        "INVOKE_CONFIG_PATHS": shlex.join(settings.config_paths),
        "INVOKE_FETCH_DIR": settings.fetch_dir,
        "INVOKE_EVIDENCE_DIR": records_dir(settings),
        "INVOKE_OFFSITE_REPOSITORY": settings.offsite.repository or "",
        "INVOKE_OFFSITE_PASSWORD_FILE": settings.offsite.password_file or "",
        "INVOKE_OFFSITE_PASSWORD_COMMAND": "",
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
