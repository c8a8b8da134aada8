"""How `inv check` and `demo-backups-check` report an error: as a monitoring plugin does.

A monitoring system shows what is on standard output, and some show standard error too: nothing of a host may be on
either but what `escape_text` has escaped.
"""

from __future__ import annotations

import json as json_format
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from invoke import Exit

from ..errors import BackupsError, InterruptedRunError
from ..health.plugin_line import escape_text, format_error
from ..health.state import State
from .streams import check_standard_streams, is_write_error, report_write_errors, restore_signals

UNKNOWN = State.UNKNOWN.value
LONGEST_OUTPUT = 200  # characters of what a command printed, in the line of an error


@contextmanager
def exit_as_plugin(json: bool = False) -> Iterator[None]:
    """Turn every error into one line on standard output, with `json` an object, and exit code 3."""
    restore_signals()
    check_standard_streams(UNKNOWN)
    with report_write_errors(UNKNOWN):
        try:
            yield
            sys.stdout.flush()  # while an error can still be reported
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, Exit) or is_write_error(error):
                raise
            raise report_unknown(error, json) from error


def report_unknown(error: BaseException, json: bool = False) -> Exit:
    """Print an error that prevented the check, and return the exception that ends the task.

    The traceback of an error that is a fault of this program is printed on standard error.
    """
    text = describe(error)
    if json:
        print_lines([json_format.dumps({"error": text, "exit_code": UNKNOWN}, indent=2)])
    else:
        print_lines([format_error(text)])
    if not isinstance(error, (BackupsError, KeyboardInterrupt, ModuleNotFoundError)):
        print_traceback(error)
    return Exit(code=UNKNOWN)


def describe(error: BaseException) -> str:
    """Describe an error in one line: what was tried, what came back, what to do."""
    match error:
        case KeyboardInterrupt() | InterruptedRunError():
            return "interrupted"
        case BackupsError():
            output = "; ".join(line.strip() for line in error.output.splitlines())
            host = f"{error.host}: " if error.host else ""
            advice = f" ({error.advice})" if error.advice else ""
            return f"{host}{describe_action(error.action, output)}{advice}"
        case ModuleNotFoundError():
            return f"{sys.executable} does not have {error.name}: run ./inv, or 'pip install -e .' again"
        case _:
            return f"a fault of this program: {type(error).__name__}: {error}"


def describe_action(action: str, output: str) -> str:
    """Join what was tried and the start of what came back."""
    shown = output if len(output) <= LONGEST_OUTPUT else f"{output[:LONGEST_OUTPUT]}..."
    return f"{action}: {shown}" if shown else action


def print_lines(lines: Sequence[str]) -> None:
    """Print lines in UTF-8, whatever the encoding of the environment."""
    sys.stdout.flush()
    sys.stdout.buffer.write("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()


def print_exit(ended: Exit) -> None:
    """Print the message of an exit on standard error, if it has one, as Invoke does for a task."""
    if ended.message:
        print(ended.message, file=sys.stderr)


def print_traceback(error: BaseException) -> None:
    """Print where a fault of this program occurred, on standard error."""
    for text in traceback.format_exception(error):
        for line in text.splitlines():
            print("  " + escape_text(line), file=sys.stderr)


def print_warning(text: str) -> None:
    """Print a warning on standard error, in a line that a monitoring system cannot take for performance data."""
    print(f"warning: {escape_text(text)}", file=sys.stderr)
