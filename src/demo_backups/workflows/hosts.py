"""Tasks that only read, on several hosts at the same time: `--host A,B`.

Each host has a thread. Whatever needs the terminal is done in the main thread: printing, questions and Ctrl-C.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..errors import (
    INTERRUPTED,
    BackupsError,
    InterruptedRunError,
    SettingsError,
    UnexpectedError,
    combine_exit_codes,
)
from ..remote.host_threads import POLL_INTERVAL, Answer, SharedInterrupts, in_host_thread, wait_for_answer
from ..remote.interrupts import Interrupts, watch_interrupts
from ..remote.terminal import SharedTerminal
from ..settings.load import check_host, select_host
from ..settings.model import Settings
from ..ui.console import BufferedConsole, Console, error_as_json, make_console, print_block, print_error, print_json
from ..ui.progress import HostsProgress

T = TypeVar("T")
SEPARATOR = ","
END_TIMEOUT = 5.0  # seconds for the threads to end after a Ctrl-C


def split_hosts(text: str) -> list[str]:
    """Split the names of --host; raises SettingsError for a name that is empty, wrong or listed twice."""
    if SEPARATOR not in text:
        return [check_host(text)]
    names = text.split(SEPARATOR)
    if "" in names:
        raise SettingsError(f"--host {text!r} has an empty name", advice="separate the names by single commas: A,B")
    if len(set(names)) < len(names):
        raise SettingsError(f"--host {text!r} names a host twice", advice="name each host once")
    return [check_host(name) for name in names]


def list_hosts(settings: Settings, text: str | None) -> list[str]:
    """List the hosts of --host, by default the one of the settings; raises SettingsError as `split_hosts` does."""
    return [settings.host] if text is None else split_hosts(text)


# --- threads --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HostResult(Generic[T]):
    """The result of the work on one host: its value or its error, and what it printed."""

    name: str
    value: T | BackupsError
    text: str


def run_on_hosts(
    settings: Settings,
    names: Sequence[str],
    work: Callable[[Settings, Console], T],
    out: Console | None = None,
    show: Callable[[HostResult[T]], None] | None = None,
) -> dict[str, T | BackupsError]:
    """Call a function for each host, in threads, and return its result or its error by host, in the order of `names`.

    The function gets the settings with this host, and a console of its own, and must open hosts by `open_host` or
    `open_session` only. `show` is called in the main thread for each host in this order, when it and those before it
    have ended: by default it prints on `out`, standard error by default, what the function has printed on its console.
    An exception that is no BackupsError becomes an UnexpectedError.

    After Ctrl-C, KeyboardInterrupt is raised in each function, and when all have ended and were shown, here.

    For one host the function is called in this thread, with `out`. Then an InterruptedRunError is raised too, and other
    exceptions are not changed.
    """
    target = out or make_console(sys.stderr)
    if len(names) == 1:
        return _run_on_host(settings, names[0], work, target)
    threads = _HostThreads(settings, names, work, target, show or (lambda result: print_block(target, result.text)))
    return threads.run()


def _run_on_host(
    settings: Settings, name: str, work: Callable[[Settings, Console], T], out: Console
) -> dict[str, T | BackupsError]:
    try:
        return {name: work(select_host(settings, name), out)}
    except InterruptedRunError:
        raise
    except BackupsError as error:
        return {name: error}


@dataclass(frozen=True)
class _Question:
    """Something that needs the terminal: the main thread calls it, and answers by its result or its exception."""

    action: Callable[[], Any]
    answers: queue.SimpleQueue[Answer] = field(default_factory=queue.SimpleQueue)

    def answer(self) -> None:
        try:
            self.answers.put((self.action(), None))
        except Exception as error:
            self.answers.put((None, error))


class _HostThreads(Generic[T]):
    """The threads of several hosts, and the main thread that serves them."""

    def __init__(
        self,
        settings: Settings,
        names: Sequence[str],
        work: Callable[[Settings, Console], T],
        out: Console,
        show: Callable[[HostResult[T]], None],
    ) -> None:
        self._settings = settings
        self._names = names
        self._work = work
        self._out = out
        self._show = show
        self._events: queue.SimpleQueue[_Question | HostResult[T]] = queue.SimpleQueue()
        self._interrupts = SharedInterrupts()
        self._answers: dict[str, str] = {}
        self._results: dict[str, HostResult[T]] = {}
        self._shown = 0

    def run(self) -> dict[str, T | BackupsError]:
        """Start a thread for each host, and serve them until all have ended."""
        with watch_interrupts() as interrupts, HostsProgress(self._out, self._names) as progress:
            try:
                with interrupts.deferred():
                    self._start()
                while len(self._results) < len(self._names):
                    self._serve(interrupts, progress)
            except BaseException as error:
                self._interrupts.interrupt()
                progress.end()
                self._wait_for_end()
                if isinstance(error, KeyboardInterrupt):
                    self._show_finished(progress)
                raise
        return {name: self._results[name].value for name in self._names}

    def _start(self) -> None:
        for name in self._names:
            arguments = (name, BufferedConsole(self._out))
            threading.Thread(target=self._run_host, args=arguments, name=f"host {name}", daemon=True).start()

    def _serve(self, interrupts: Interrupts, progress: HostsProgress) -> None:
        """Serve one event, if there is one; raises KeyboardInterrupt."""
        with interrupts.deferred():
            interrupts.raise_pending()
            event = self._next_event()
            if isinstance(event, HostResult):
                self._results[event.name] = event
                self._show_finished(progress)
        if isinstance(event, _Question):
            with progress.paused():
                event.answer()

    def _next_event(self) -> _Question | HostResult[T] | None:
        try:
            return self._events.get(timeout=POLL_INTERVAL)
        except queue.Empty:
            return None

    def _show_finished(self, progress: HostsProgress) -> None:
        """Show the hosts that have ended and whose turn it is."""
        progress.remove(self._results)
        while self._shown < len(self._names) and self._names[self._shown] in self._results:
            name = self._names[self._shown]
            self._shown += 1
            with progress.paused():
                self._show(self._results[name])

    def _wait_for_end(self) -> None:
        """After a Ctrl-C or a failure to print, wait for the threads; those that do not end are left behind."""
        deadline = time.monotonic() + END_TIMEOUT
        while len(self._results) < len(self._names) and time.monotonic() < deadline:
            event = self._next_event()
            if isinstance(event, HostResult):
                self._results[event.name] = event
        for name in self._names:
            error = InterruptedRunError(f"interrupted; it did not end within {END_TIMEOUT:g} s", host=name)
            self._results.setdefault(name, HostResult(name, error, ""))

    # --- in the thread of a host --------------------------------------------------------------------------------------

    def _run_host(self, name: str, console: BufferedConsole) -> None:
        with in_host_thread(self._interrupts, SharedTerminal(name, self._ask, self._answers)):
            value = self._call_work(name, console)
        self._events.put(HostResult(name, value, console.text()))

    def _call_work(self, name: str, console: Console) -> T | BackupsError:
        try:
            return self._work(select_host(self._settings, name), console)
        except BackupsError as error:
            return error
        except KeyboardInterrupt:
            return InterruptedRunError("interrupted", host=name)
        except BaseException as error:  # it must not hide the other hosts
            return UnexpectedError(
                f"{type(error).__name__}: {error}", host=name, output="".join(traceback.format_exception(error))
            )

    def _ask(self, action: Callable[[], Any]) -> Any:
        """Let the main thread call a function that needs the terminal."""
        question = _Question(action)
        self._events.put(question)
        return wait_for_answer(question.answers, self._interrupts.raise_pending)


# --- tasks ----------------------------------------------------------------------------------------------------------


class HostOutput:
    """What a task prints about one host: text on its console, and its result as text or, with `json`, as an object."""

    def __init__(self, out: Console, json: bool, prints_json: bool = True) -> None:
        self.out = out
        self.value: Mapping[str, Any] | None = None
        self._json = json
        self._prints_json = prints_json

    def show(self, value: Mapping[str, Any], printer: Callable[..., None] | None = None, *arguments: Any) -> None:
        """Show the result: its JSON object, or else what `printer` prints on the console, called with `arguments`."""
        if not self._json:
            if printer:
                printer(self.out, *arguments)
            return
        self.value = value
        if self._prints_json:
            print_json(value)


HostTask = Callable[[Settings, HostOutput], int]  # returns the exit code


def run_task(settings: Settings, names: Sequence[str], json: bool, task: HostTask, out: Console | None = None) -> int:
    """Run a task on one host or on several, print what it shows, and return the exit code.

    On one host, errors are raised. On several, each host has a block of text on standard output and one of errors on
    standard error; with `json`, one object contains that of each host, and the text is on standard error.
    """
    out = out or make_console(sys.stderr if json else None)
    if len(names) == 1:
        return task(select_host(settings, names[0]), HostOutput(out, json))
    return _TaskOnHosts(names, out, json, task).run(settings)


class _TaskOnHosts:
    """A task on several hosts, with the JSON objects and exit codes that it has so far."""

    def __init__(self, names: Sequence[str], out: Console, json: bool, task: HostTask) -> None:
        self._names = names
        self._out = out
        self._json = json
        self._task = task
        self._objects: dict[str, Mapping[str, Any]] = {}
        self._codes: list[int] = []

    def run(self, settings: Settings) -> int:
        try:
            run_on_hosts(settings, self._names, self._work, self._out, self._show)
        except KeyboardInterrupt:
            self._codes.append(INTERRUPTED)
        if self._json:
            interrupted = {"error": "interrupted", "exit_code": INTERRUPTED}
            print_json({"hosts": {name: self._objects.get(name, interrupted) for name in self._names}})
        return combine_exit_codes(self._codes)

    def _work(self, settings: Settings, console: Console) -> int:
        output = HostOutput(console, self._json, prints_json=False)
        try:
            return self._task(settings, output)
        finally:
            if output.value is not None:
                self._objects[settings.host] = output.value

    def _show(self, result: HostResult[int]) -> None:
        print_block(self._out, result.text)
        if not isinstance(result.value, BackupsError):
            self._codes.append(result.value)
            return
        error = result.value
        self._codes.append(error.exit_code)
        if not (error.after_result and result.name in self._objects):
            self._objects[result.name] = error_as_json(error)
        # The error may be that of a jump host, or of this machine.
        label = "" if error.host == result.name else f"{result.name}: "
        print_error(f"{label}{error}")
