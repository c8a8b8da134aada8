"""The options of a rehearsal, from the command line."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SettingsError
from .database import TRACKER_ROWS

DATABASE_NAMES = ("index", "tracker")
RELEASE, RECOVERY, DISASTER = SCENARIOS = ("release", "recovery", "disaster")
JOURNALS = ("wal", "delete")
MAX_TRAFFIC = 100_000  # commits per second
MAX_ROWS = 200_000_000


@dataclass(frozen=True)
class RehearsalOptions:
    """Which database is rehearsed, its journal mode, and how it is written to.

    `traffic` is in commits per second; `rows` is the number of torrents in the tracker database. RELEASE is the
    scenario of the phase of the database; RECOVERY is that of what comes after a backup; DISASTER is that of a lost
    server, for both databases.
    """

    database: str = "index"
    traffic: float = 200
    journal: str = "delete"
    rows: int = TRACKER_ROWS
    scenario: str = RELEASE


def parse_options(database: str, traffic: str, journal: str, rows: str, scenario: str) -> RehearsalOptions:
    """Parse the flags of `rehearse`; raises SettingsError."""
    for flag, value, kind, allowed in (
        ("--database", database, "database of the rehearsal", DATABASE_NAMES),
        ("--journal", journal, "journal mode", JOURNALS),
        ("--scenario", scenario, "scenario", SCENARIOS),
    ):
        if value not in allowed:
            raise SettingsError(f"{flag} {value!r} is not a {kind}", advice=f"use one of: {', '.join(allowed)}")
    if scenario == DISASTER and database != DATABASE_NAMES[0]:
        raise SettingsError(
            f"--scenario {DISASTER} is for both databases, and --database selects one", advice="leave out --database"
        )
    return RehearsalOptions(database, parse_traffic(traffic), journal, parse_rows(rows), scenario)


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
