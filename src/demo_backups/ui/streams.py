"""The standard streams and signals of a task."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from invoke import Exit

from ..errors import FAILED, StepError


def restore_signals() -> None:
    """Let Ctrl-C and a closed pipe raise exceptions: `./inv` lets them end the process until a task starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def check_standard_streams(code: int = FAILED) -> None:
    """Replace a closed standard error, and raise Exit before anything is done if standard output is closed."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - open for as long as the process runs
    if sys.stdout is None:
        error = StepError("standard output is closed", advice="to discard the output: >/dev/null")
        raise Exit(str(error), code)


@contextmanager
def report_write_errors(code: int = FAILED) -> Iterator[None]:
    """Report a full disk; end silently if the reader of the output is gone."""
    try:
        yield
    except OSError as error:
        if not is_write_error(error):
            raise
        # Otherwise Python would report the same error again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        full = StepError(
            "the output was not written completely", output=str(error), advice="free space; see ./inv history"
        )
        raise Exit(None if error.errno == errno.EPIPE else str(full), code) from None


def is_write_error(error: BaseException) -> bool:
    """Tell whether an error is that of an output that cannot be written."""
    return isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT)
