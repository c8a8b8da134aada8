"""What `inv --debug` shows: the commands that are run on a host."""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType

from ..units import escape_controls


def limit_debug_output() -> None:
    """Show the log of this project, and of nothing else, when Invoke was started with --debug.

    Invoke's --debug logs everything of every library to standard error. Invoke's own log contains its settings, and so
    the value of INVOKE_SUDO_PASSWORD. Called when the tasks are loaded, before Invoke has read the environment.
    """
    root = logging.getLogger()
    if root.level != logging.DEBUG:
        return
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.setLevel(logging.WARNING)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    project = logging.getLogger("demo_backups")
    project.addHandler(handler)
    project.setLevel(logging.DEBUG)
    project.propagate = False


def print_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception that nothing has caught, an error of this project: its text may be that of a host."""
    print(escape_controls("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


class _Formatter(logging.Formatter):
    """Format a log record: further lines are indented, and control characters, which a host may send, are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return escape_controls(f"debug: {record.getMessage()}").replace("\n", "\n  ")
