"""Write and open the report."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import StepError

if TYPE_CHECKING:
    pass


def save_report(text: str, place: Path) -> None:
    """Write a page whole or not at all: beside its place, then renamed; raises StepError."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=place.parent, prefix=".", delete=False, encoding="utf-8") as part:
            try:
                part.write(text)
                part.close()
                Path(part.name).chmod(0o644)
                Path(part.name).replace(place)
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise StepError(
            f"the report could not be written to {place}",
            output=str(error),
            advice=f"make {place.parent} a folder that you can write to, on a disk with space",
        ) from error


def open_report(place: Path) -> str:
    """Show a page in the browser; return what is to be said of that."""
    import webbrowser

    if webbrowser.open(place.as_uri()):
        return f"the report is {place}"
    return f"the report is {place}: no browser was found here, open it in one"
