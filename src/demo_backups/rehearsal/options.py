"""The options of a rehearsal, from the command line."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SettingsError
from .database import TRACKER_ROWS

SCENARIO_NAMES = ("index", "tracker")
JOURNALS = ("wal", "delete")
MAX_TRAFFIC = 100_000  # commits per second
MAX_ROWS = 200_000_000


@dataclass(frozen=True)
class RehearsalOptions:
    """Which database is rehearsed, its journal mode, and how it is written to.

    `traffic` is in commits per second; `rows` is the number of torrents in the tracker database.
    """

    database: str = "index"
    traffic: float = 200
    journal: str = "delete"
    rows: int = TRACKER_ROWS


def parse_options(database: str, traffic: str, journal: str, rows: str) -> RehearsalOptions:
    """Parse the flags of `rehearse`; raises SettingsError."""
    if database not in SCENARIO_NAMES:
        raise SettingsError(
            f"--database {database!r} cannot be rehearsed", advice=f"use one of: {', '.join(SCENARIO_NAMES)}"
        )
    if journal not in JOURNALS:
        raise SettingsError(f"--journal {journal!r} is not a journal mode", advice=f"use one of: {', '.join(JOURNALS)}")
    return RehearsalOptions(database, parse_traffic(traffic), journal, parse_rows(rows))


def parse_traffic(text: str) -> float:
    """Parse a number of commits per second; raises SettingsError."""
    try:
        rate = float(text)
    except ValueError:
        rate = 0
    if not 0 < rate <= MAX_TRAFFIC:
        raise SettingsError(
            f"--traffic {text!r} is not a number of commits per second",
            advice=f"use a number above 0 and up to {MAX_TRAFFIC:,}",
        )
    return rate


def parse_rows(text: str) -> int:
    """Parse a number of torrents; raises SettingsError."""
    rows = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < rows <= MAX_ROWS:
        raise SettingsError(f"--rows {text!r} is not a number of torrents", advice=f"use 1 to {MAX_ROWS:,}")
    return rows
