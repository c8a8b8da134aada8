"""Save the report, and open it in a browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from ...errors import StepError
from ...local_files import write_private

STAGED = ".report-"  # the start of the name of a page that is being written


def save_report(text: str, path: Path) -> None:
    """Write the page to a temporary file in the same folder and rename it; raises StepError.

    Only its owner can read it, and enter the folder if that is created here: the page shows what is on the server.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, text, STAGED)
    except OSError as error:
        raise StepError(
            f"the report could not be written to {path}",
            output=str(error),
            advice=f"make {path.parent} a folder that you can write to, on a disk with free space",
        ) from error


def open_report(path: Path) -> str:
    """Open the page in the user's browser; return the message for the user."""
    if webbrowser.open(path.as_uri()):
        return f"the report is {path}"
    return f"no browser was found; the report is {path}"
