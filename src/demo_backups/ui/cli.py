"""How a function becomes a task: the help of its flags, its error messages and its exit code."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import invoke
from invoke import Context, Exit

from ..errors import INTERRUPTED, WRONG_INPUT, BackupsError, SettingsError
from ..project import ROOT, find_unknown_variables, read_project_file
from ..units import escape_controls
from .debug import limit_debug_output, print_uncaught
from .streams import check_standard_streams, report_write_errors, restore_signals

PLUGIN = "check"  # the task that reports its errors as a monitoring plugin does


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
        if _is_first_task(PLUGIN):
            from .plugin import report_unknown

            raise report_unknown(error, json="--json" in sys.argv) from error
        raise Exit(escape_controls(str(error)), error.exit_code) from error


def _is_first_task(name: str) -> bool:
    """Tell whether the command line of Invoke starts with a task, before the tasks are known."""
    from invoke.main import program

    core = getattr(program, "core", None)
    return core is not None and core.unparsed[:1] == [name]


class LazyModule:
    """A module of this package that is imported at its first use: `inv --list` needs none of them."""

    def __init__(self, name: str) -> None:
        self._name = f"demo_backups.{name}"

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


def task(
    *, help: Mapping[str, str], exit_handler: Callable[[bool], AbstractContextManager[None]] | None = None
) -> Callable[[Callable[..., None]], Any]:
    """Make a task of a function; `help` has a text for every flag.

    Flags have no short forms: `-h` would set the host. `exit_handler` replaces `exit_cleanly`.
    """

    def decorate(body: Callable[..., None]) -> Any:
        @functools.wraps(body)
        def wrapper(c: Context, *args: Any, **options: Any) -> None:
            with (exit_handler or exit_cleanly)(bool(options.get("json"))):
                warn_about_variables(c.config)
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


@contextmanager
def exit_cleanly(json: bool = False) -> Iterator[None]:
    """Turn an error into a message on standard error, with `json` also into an object, and an exit code."""
    restore_signals()
    check_standard_streams()
    with report_write_errors():
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
                from .console import error_as_json, print_json

                print_json(error_as_json(error))
            raise Exit(escape_controls(str(error)), error.exit_code) from error


def warn_about_variables(config: Any) -> None:
    """Print a warning for each INVOKE_* variable without effect, once."""
    for name, similar in find_unknown_variables(config).items():
        suggestion = f"; did you mean {similar}?" if similar else ""
        _print_warning_once(f"warning: {name} is not a setting{suggestion}")


@functools.cache
def _print_warning_once(warning: str) -> None:
    print(escape_controls(warning), file=sys.stderr)
