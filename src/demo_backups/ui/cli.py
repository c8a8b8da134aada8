"""How a function becomes a task: the help of its flags, its error messages and its exit code."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import invoke
from invoke import Context, Exit

from ..errors import FAILED, INTERRUPTED, WRONG_INPUT, BackupsError, SettingsError, StepError
from ..project import ROOT, find_unknown_variables, read_project_file
from ..units import escape_controls
from .debug import limit_debug_output, print_uncaught


def load_project(tasks: Path) -> dict[str, Any]:
    """Return the settings of the project file; `tasks` is the file of the tasks. Called when Invoke loads that file.

    Raises Exit if the package is that of another checkout, or if the project file is not valid: Invoke would report
    that with a traceback.
    """
    if tasks.resolve().parent != ROOT:
        message = f"demo_backups is installed from {ROOT}, not from this directory"
        raise Exit(f"{message}: run ./inv, or 'pip install -e .' first", WRONG_INPUT)
    limit_debug_output()
    sys.excepthook = print_uncaught
    try:
        return read_project_file()
    except BackupsError as error:
        raise Exit(escape_controls(str(error)), error.exit_code) from error


class LazyModule:
    """A module of this package that is imported at its first use: `inv --list` needs none of them."""

    def __init__(self, name: str) -> None:
        self._name = f"demo_backups.{name}"

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


def task(*, help: Mapping[str, str]) -> Callable[[Callable[..., None]], Any]:
    """Make a task of a function; `help` has a text for every flag.

    Flags have no short forms: `-h` would set the host.
    """

    def decorate(body: Callable[..., None]) -> Any:
        @functools.wraps(body)
        def wrapper(c: Context, *args: Any, **options: Any) -> None:
            with exit_cleanly(json=bool(options.get("json"))):
                _warn_about_variables(c)
                if c.config.run.dry:
                    raise SettingsError("Invoke's own --dry is not supported", advice="use --dry-run after the task")
                body(c, *args, **options)

        _, *names = inspect.signature(body).parameters
        flags = [name.strip("_").replace("_", "-") for name in names]  # from_ for --from, which is a keyword of Python
        return invoke.task(wrapper, help={flag: help[flag] for flag in flags}, auto_shortflags=False)

    return decorate


def exit_with(code: int) -> None:
    """End the task with an exit code; 0 lets the next task of the command line run."""
    if code:
        raise Exit(code=code)


@contextlib.contextmanager
def exit_cleanly(json: bool = False) -> Iterator[None]:
    """Turn an error into a message on standard error, with `json` also into an object, and an exit code."""
    _restore_signals()
    _check_standard_streams()
    with _report_write_errors():
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
            message = f"{sys.executable} does not have {missing}: run ./inv, or 'pip install -e .' again"
            raise Exit(message, WRONG_INPUT) from None
        except BackupsError as error:
            if json and not error.after_result:
                from .console import print_json

                print_json({"error": str(error), "exit_code": error.exit_code})
            raise Exit(escape_controls(str(error)), error.exit_code) from error


def _warn_about_variables(c: Context) -> None:
    for name, similar in find_unknown_variables(c.config).items():
        suggestion = f"; did you mean {similar}?" if similar else ""
        _print_warning_once(f"warning: {name} is not a setting{suggestion}")


@functools.cache
def _print_warning_once(warning: str) -> None:
    print(escape_controls(warning), file=sys.stderr)


def _restore_signals() -> None:
    """Let Ctrl-C and a closed pipe raise exceptions: `./inv` lets them end the process until a task starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def _check_standard_streams() -> None:
    """Replace a closed standard error, and raise Exit before anything is done if standard output is closed."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - open for as long as the process runs
    if sys.stdout is None:
        error = StepError("standard output is closed", advice="to discard the output: >/dev/null")
        raise Exit(str(error), FAILED)


@contextlib.contextmanager
def _report_write_errors() -> Iterator[None]:
    """Report a full disk; end silently if the reader of the output is gone."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT):
            raise
        # Otherwise Python would report the same error again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        full = StepError(
            "the output was not written completely", output=str(error), advice="free space; see ./inv history"
        )
        raise Exit(None if error.errno == errno.EPIPE else str(full), FAILED) from None
