"""The scenario DISASTER: server and laptop are lost, and the off-site repository alone brings everything back."""

from __future__ import annotations

import contextlib
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import StepError
from ..local_files import write_private
from ..offsite.program import open_restic
from ..offsite.result import Restored
from ..records.store import records_dir, write_record
from ..recovery.copies import FETCHED, hash_file
from ..recovery.fetch import fetch_options
from ..remote.shell import quote
from ..settings.model import CONFIG, Settings
from ..ui.console import Console
from ..ui.offsite_table import print_result
from ..ui.outcome import Tone
from ..ui.tables import print_fetched, print_verification
from ..workflows.backups import run, verify
from ..workflows.config import backup_config
from ..workflows.crontab import enable
from ..workflows.fetch import fetch
from ..workflows.offsite import initialize, list_stored, restore_stored
from ..workflows.offsite_store import store
from ..workflows.restore import restore
from ..workflows.restore_config import restore_config
from ..workflows.restore_options import RestoreOptions
from ..workflows.scripts import deploy
from ..workflows.session import Session, open_session
from .options import DATABASE_NAMES, RehearsalOptions
from .server import ALIAS, Server, serve
from .throwaway import (
    create_layout,
    keep_running,
    make_database,
    numbered,
    offsite_settings,
    open_rehearsal,
    print_heading,
    report_traffic,
    require_passed,
    server_settings,
)
from .writer import Traffic, live_writer

# The configuration of the application: path below app_dir, mode, content.
CONFIG_FILES = (
    ("compose.yaml", 0o644, "services:\n  index:\n    image: torrust/index\n"),
    (".env.production", 0o600, "TRACKER_TOKEN=secret\n"),
    ("share/container/default/config/tracker.toml", 0o640, "[core]\nprivate = false\n"),
)
CONFIG_PATHS = ("compose.yaml", ".env.production", "share/container")
SERIES = (*DATABASE_NAMES, CONFIG)


def rehearse_disaster(settings: Settings, options: RehearsalOptions, keep: bool, out: Console) -> None:
    """Lose a throwaway server and all that is on this machine but the repository, then restore from that alone.

    Both databases and the configuration come back on a new, empty server. `settings` and `keep` are those of
    `rehearse`; the server that is kept is the new one. Raises what any of the steps raises.
    """
    with open_rehearsal(settings, options) as (folder, record):
        machines = _Machines(folder, settings, out, numbered(out))
        with machines.serve() as laptop:
            open_restic(laptop.settings, out.say)  # raises MissingToolError before the work that needs it
            sources = _create_application(machines, options)
            print_heading(out, machines.port, sources, options)
            with _services(sources, options.traffic) as before:
                copies = _back_up_everything(laptop)
            expected = _read_copies(sources, copies) | _read_config(laptop)
        machines.lose()
        with machines.serve() as laptop:
            machines.create_directories()
            _restore_everything(laptop, {name: copy.name for name, copy in copies.items()})
            laptop.step("compare with what was backed up", lambda: _require_same(laptop, sources, expected))
            with _services(sources, options.traffic) as after:
                _back_up_again(laptop)
                if keep:
                    # Written again at the end, with what the writers did.
                    write_record(records_dir(settings), replace(record, exit_status=0))
                    keep_running(out, laptop.settings, options.database)
        report_traffic(out, record, [*before, *after])
        out.say(
            "Success. Disaster: databases and configuration are back from the off-site repository alone.", Tone.GOOD
        )


# --- the machines ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Laptop:
    """Where a maintainer types tasks: each one is shown with its command line, and writes its record."""

    settings: Settings
    out: Console
    step: Callable[[str, Callable[[], Any]], Any]

    def on_host(self, command: str, name: str, kind: str, task: Callable[[Session], Any]) -> Any:
        """Run a task on a series of backups, in a session of its own."""

        def run_task() -> Any:
            with open_session(self.settings, self.settings.series(name), self.out, kind) as work:
                return task(work)

        return self.step(command, run_task)


class _Machines:
    """The server, the laptop and the repository, each in a directory; only that of the repository is not lost."""

    def __init__(
        self, folder: Path, settings: Settings, out: Console, step: Callable[[str, Callable[[], Any]], Any]
    ) -> None:
        self.server, self.laptop, self.repository = folder / "server", folder / "laptop", folder / "off-site"
        self.port = 0
        self._settings = settings
        self._out = out
        self._step = step

    @contextlib.contextmanager
    def serve(self) -> Iterator[_Laptop]:
        """Run a new server, with a new host key, and create a new laptop, which knows the password."""
        self.server.mkdir()
        self.laptop.mkdir(mode=0o700)
        write_private(self._password, "of a repository that ends with the rehearsal\n", ".password-")
        with serve(self.server) as server:
            self.port = server.port
            yield _Laptop(self._settings_with(server), self._out, self._step)

    @property
    def _password(self) -> Path:
        return self.laptop / "password"

    def _settings_with(self, server: Server) -> Settings:
        return server_settings(server, self._settings).model_copy(
            update={
                "config_paths": CONFIG_PATHS,
                "fetch_dir": str(self.laptop / "copies"),
                "evidence_dir": str(self.laptop / "evidence"),
                "offsite": offsite_settings(self._settings, self.repository, self._password),
            }
        )

    def create_directories(self) -> dict[str, Path]:
        """Create the directories that a new server has; return the paths of the databases, which are missing."""
        return {name: create_layout(self.server, self._settings, name) for name in DATABASE_NAMES}

    def lose(self) -> None:
        """Delete the server and the laptop."""

        def delete() -> None:
            shutil.rmtree(self.server)
            shutil.rmtree(self.laptop)
            self._out.say(f"what is left: {', '.join(path.name for path in self.repository.parent.iterdir())}")

        self._step("the server and the laptop are lost", delete)


def _create_application(machines: _Machines, options: RehearsalOptions) -> dict[str, Path]:
    """Create live databases and a configuration; return the paths of the databases by name."""
    sources = machines.create_directories()
    for name, source in sources.items():
        make_database(source, name, options)
    for path, mode, content in CONFIG_FILES:
        file = machines.server / "app" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(mode)
    return sources


@contextlib.contextmanager
def _services(sources: Mapping[str, Path], rate: float) -> Iterator[list[Traffic]]:
    """Write to the databases while the context is open."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(live_writer(source, rate)) for source in sources.values()]


# --- what is compared -----------------------------------------------------------------------------------------------


def _read_copies(sources: Mapping[str, Path], copies: Mapping[str, Path]) -> dict[Path, str]:
    """Return the SHA-256 that the database at each path must have: that of its fetched backup."""
    return {source: hash_file(copies[name]) for name, source in sources.items()}


def _read_config(laptop: _Laptop) -> dict[Path, str]:
    """Return the mode and the SHA-256 of each file of the configuration."""
    return {
        path: _describe_file(path) for name, _, _ in CONFIG_FILES for path in [Path(laptop.settings.app_dir / name)]
    }


def _describe_file(path: Path) -> str:
    return f"mode {stat.S_IMODE(path.stat().st_mode):o}, SHA-256 {hash_file(path)}"


def _require_same(laptop: _Laptop, sources: Mapping[str, Path], expected: Mapping[Path, str]) -> None:
    """Raise StepError unless the new server has the content of the lost one, as it was backed up."""
    found = {source: hash_file(source) for source in sources.values()} | _read_config(laptop)
    different = [str(path) for path in expected if found[path] != expected[path]]
    if different:
        raise StepError("the new server differs from what was backed up", host=ALIAS, output="\n".join(different))
    laptop.out.say(f"{len(sources)} databases and {len(CONFIG_FILES)} files are as they were backed up")


# --- the tasks ------------------------------------------------------------------------------------------------------


def _back_up_everything(laptop: _Laptop) -> dict[str, Path]:
    """Back up everything, fetch it and store it off-site; return the fetched copies by series."""
    for name in DATABASE_NAMES:
        laptop.on_host(f"inv deploy-{name}-backup", name, "deploy", deploy)
        laptop.on_host(f"inv run-{name}-backup", name, "run", run)
    laptop.on_host("inv backup-config", CONFIG, "backup-config", backup_config)
    copies = {name: laptop.on_host(f"inv fetch --database {name}", name, "fetch", _fetch) for name in SERIES}
    laptop.step("inv offsite --init", lambda: initialize(laptop.settings, laptop.out))
    laptop.step("inv offsite", lambda: _store(laptop))
    return copies


def _fetch(session: Session) -> Path:
    fetched = fetch(session, None, fetch_options(session.settings, None, None, compress=True))
    assert fetched is not None  # this is no dry run
    print_fetched(session.out, fetched)
    require_passed(fetched, "the fetched backup")
    return fetched.file


def _store(laptop: _Laptop) -> None:
    stored = store(laptop.settings, None, laptop.out)
    for error in stored.errors:
        raise error
    if stored.exit_code:
        raise StepError("not everything was stored off-site")
    print_result(laptop.out, stored)


def _restore_everything(laptop: _Laptop, names: Mapping[str, str]) -> None:
    """Do what docs/restore.md says, with the names of the backups by series."""
    laptop.step("inv offsite --list", lambda: print_result(laptop.out, list_stored(laptop.settings)))
    for name in names.values():
        _restore_stored(laptop, name)
    _restore_config(laptop, names[CONFIG])
    for database in DATABASE_NAMES:
        laptop.on_host(f"inv deploy-{database}-backup", database, "deploy", deploy)
        _restore_database(laptop, database, names[database])


def _restore_stored(laptop: _Laptop, name: str) -> None:
    def step() -> None:
        restored = restore_stored(laptop.settings, name, laptop.out)
        assert isinstance(restored, Restored)  # this is no dry run
        print_result(laptop.out, restored)
        require_passed(restored, "the backup from the off-site repository")

    laptop.step(f"inv offsite --restore {name}", step)


def _restore_database(laptop: _Laptop, database: str, name: str) -> None:
    options = RestoreOptions(backup=name, source=FETCHED, yes=True)
    command = f"inv restore --database {database} --backup {name} --from here"
    laptop.on_host(command, database, "restore", lambda session: restore(session, options))


def _restore_config(laptop: _Laptop, archive: str) -> None:
    """Restore the configuration to a directory of its own, then copy it to the application as a maintainer does."""
    app_dir = laptop.settings.app_dir
    target = app_dir.with_name("config")
    options = RestoreOptions(backup=archive, source=FETCHED, target=target, yes=True)
    command = f"inv restore --database {CONFIG} --backup {archive} --from here --to {quote(str(target))}"
    laptop.on_host(command, CONFIG, "restore", lambda session: restore_config(session, options))
    copy = f"cp -a {quote(str(target))}/. {quote(str(app_dir))}/ && rm -r {quote(str(target))}"
    laptop.on_host(f"ssh {ALIAS}: {copy}", CONFIG, "", lambda session: session.host.execute("copy the files", copy))


def _back_up_again(laptop: _Laptop) -> None:
    laptop.on_host("inv run-index-backup", "index", "run", run)
    laptop.on_host("inv verify", "index", "verification", _verify)
    laptop.on_host("inv enable-index-backup", "index", "enable", enable)


def _verify(session: Session) -> None:
    verification = verify(session)
    print_verification(session.out, verification)
    require_passed(verification, "the backup")
