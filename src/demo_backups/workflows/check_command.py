"""The command `check`: every database of some hosts, as a monitoring plugin reports them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import BackupsError, InterruptedRunError, SettingsError
from ..health.options import CheckOptions
from ..health.ping import ping, require_ping_settings
from ..health.plugin_line import format_error, format_lines, sort_worst_first
from ..health.prometheus import write_metrics
from ..health.state import WORST_FIRST, Finding, Health, State, worst_of
from ..records.record import Record
from ..remote.connection import open_host
from ..settings.load import parse_timeout
from ..settings.model import CONFIG, Settings
from ..ui.console import Console, print_json
from ..ui.plugin import describe, print_lines, print_traceback, print_warning
from .check import check_archives, check_database
from .hosts import list_hosts, run_on_hosts
from .session import Session
from .time_limit import time_limit


def run_check(settings: Settings, options: CheckOptions) -> int:
    """Check the databases, print the result, and return the exit code: the worst state.

    A host that cannot be reached, or has no result in time, makes its databases UNKNOWN. Nothing is recorded. Raises
    SettingsError for a wrong flag or setting, and KeyboardInterrupt.
    """
    check = _prepare(settings, options)
    try:
        with time_limit(check.timeout, check.give_up):
            check.run()
    except BackupsError as error:
        if isinstance(error, InterruptedRunError):
            raise
        check.add_unknown(error)
    with _ignored_interrupts():  # the result is complete: Ctrl-C cannot replace it
        return check.finish()


@contextlib.contextmanager
def _ignored_interrupts() -> Iterator[None]:
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _prepare(settings: Settings, options: CheckOptions) -> _Check:
    """Check the flags and settings before a connection is opened."""
    names = list_hosts(settings, options.host)
    databases = _list_names(settings, options.database)
    if options.ping:
        require_ping_settings(settings.check)
    if options.prometheus == "":
        raise SettingsError("--prometheus '' is not the path of a file")
    return _Check(settings, options, names, databases, parse_timeout(options.timeout))


def _list_names(settings: Settings, name: str | None) -> list[str]:
    """List the databases to check and, if they are set up, the archives of the configuration."""
    if name is None:
        names = [*settings.databases, *([CONFIG] if settings.config_paths else [])]
    else:
        names = [settings.series(name).name]
    if not names:
        raise SettingsError("there is no database in the settings")
    if CONFIG in names and not settings.config_paths:
        raise SettingsError("config_paths is empty: no configuration is archived", advice="set config_paths")
    return names


class _Check:
    """One call of the command: what is to be checked, and what was found."""

    def __init__(
        self,
        settings: Settings,
        options: CheckOptions,
        names: Sequence[str],
        databases: Sequence[str],
        timeout: float,
    ) -> None:
        self.timeout = timeout  # seconds
        self._settings = settings
        self._options = options
        self._names = names
        self._databases = databases
        self._results: dict[tuple[str, str], Health] = {}
        self._faults: list[BaseException] = []

    def run(self) -> None:
        """Check every database of every host."""
        for name, error in run_on_hosts(self._settings, self._names, self._check_host).items():
            if error is not None:
                self.add_unknown(error, [name])

    def _check_host(self, settings: Settings, out: Console) -> None:
        """Check the databases of one host over one connection."""
        try:
            with open_host(settings) as host:
                for name in self._databases:
                    record = Record(kind="", host=settings.host, database=name)
                    work = Session(host, settings, settings.series(name), record, out)
                    check = check_archives if name == CONFIG else check_database
                    self._results[settings.host, name] = check(work)
        except InterruptedRunError:
            raise
        except Exception as error:  # a fault of this program, too, must not hide the result of another host
            self.add_unknown(error, [settings.host])

    def add_unknown(self, error: BaseException, hosts: Sequence[str] = ()) -> None:
        """Add an error as the result of each database that has none, of some hosts or of all."""
        if not isinstance(error, BackupsError):
            self._faults.append(error)
        for host in hosts or self._names:
            text = describe(error).removeprefix(f"{host}: ")
            for database in self._databases:
                unknown = Health(host, database, (Finding("host", State.UNKNOWN, text),))
                self._results.setdefault((host, database), unknown)

    # --- the result ---------------------------------------------------------------------------------------------------

    def finish(self) -> int:
        """Write the metrics, print the result, ping, and return the exit code."""
        healths = sort_worst_first(self._results.values())
        errors = self._collect_errors(lambda: self._write_metrics(healths))
        code = worst_of([*(health.state for health in healths), *(State.UNKNOWN for _ in errors)]).value
        if self._options.json:
            print_json(self._as_json(healths, errors, code))
        else:
            print_lines(_add_errors(format_lines(healths), healths, errors))
        if self._options.ping:
            for error in self._collect_errors(lambda: ping(self._settings.check, code == State.OK.value)):
                print_warning(error)
        for fault in self._faults:
            print_traceback(fault)
        return code

    def give_up(self) -> NoReturn:
        """Finish without what has no result yet, and end the process, whatever it waits for."""
        try:
            self.add_unknown(BackupsError(f"no result within {self.timeout:g} s"))
            code = self.finish()
            sys.stderr.flush()
        except BaseException:
            code = State.UNKNOWN.value
        os._exit(code)

    def _write_metrics(self, healths: Sequence[Health]) -> None:
        if self._options.prometheus is not None:
            write_metrics(Path(self._options.prometheus), healths)

    @staticmethod
    def _collect_errors(action: Callable[[], None]) -> list[str]:
        """Do something, and return the text of its error, if there is one."""
        try:
            action()
        except BackupsError as error:
            return [describe(error)]
        return []

    def _as_json(self, healths: Sequence[Health], errors: Sequence[str], code: int) -> dict[str, Any]:
        """Return the object of one host, or {"hosts": {NAME: OBJECT}} for several."""
        if len(self._names) == 1:
            value = _host_as_json(self._names[0], healths)
        else:
            hosts = {name: [health for health in healths if health.host == name] for name in self._names}
            value = {"hosts": {name: _host_as_json(name, found) for name, found in hosts.items()}}
        if errors:
            value |= {"error": "; ".join(errors), "exit_code": code}
        return value


def _host_as_json(name: str, healths: Sequence[Health]) -> dict[str, Any]:
    state = worst_of(health.state for health in healths)
    databases = [health.as_json() for health in healths]
    return {"host": name, "state": state.name, "exit_code": state.value, "databases": databases}


def _add_errors(lines: Sequence[str], healths: Sequence[Health], errors: Sequence[str]) -> list[str]:
    """Put the lines of errors, which are UNKNOWN, before those of the databases that are not worse."""
    unknown = WORST_FIRST.index(State.UNKNOWN)
    worse = sum(WORST_FIRST.index(health.state) < unknown for health in healths)
    return [*lines[:worse], *map(format_error, errors), *lines[worse:]]
