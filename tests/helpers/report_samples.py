"""What the tests of the report are fed with."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from demo_backups.records.record import Record, RecordedCheck
from demo_backups.release.plan import Mark, MarkedStep, Phase, Plan

NOW = datetime(2024, 11, 24, 20, 0, tzinfo=timezone.utc)
CHECKS = ("created", "size", "integrity", "query", "source")
DATABASES = ("index", "tracker")


def step(title: str, mark: Mark, observed: str = "as seen", optional: bool = False) -> MarkedStep:
    return MarkedStep(title.lower().replace(" ", "-"), title, mark, optional, observed)


def plan_of(*marks: Mark, optional: Mark | None = None, notes: tuple[str, ...] = (), host: str = "demo") -> Plan:
    """A plan of two phases with these marks, and if asked for an optional step more."""
    steps = [step(f"Step {number}", mark) for number, mark in enumerate(marks, start=1)]
    if optional:
        steps.append(step("An extra", optional, optional=True))
    half = len(steps) // 2
    return Plan(host, [Phase("Index database", steps[:half]), Phase("Pull request", steps[half:])], list(notes))


def all_marks(notes: tuple[str, ...] = ()) -> Plan:
    """A plan in which every mark is met."""
    marks = (Mark.DONE, Mark.DONE, Mark.OUT_OF_ORDER, Mark.TO_DO, Mark.BLOCKED, Mark.UNKNOWN)
    return plan_of(*marks, optional=Mark.BLOCKED, notes=notes)


def checks(**outcomes: bool | None) -> list[RecordedCheck]:
    """The five checks, passed but for those that are named."""
    return [{"name": name, "passed": outcomes.get(name, True), "detail": f"{name}: as it says"} for name in CHECKS]


def run(hours: float = 0, **changes: Any) -> Record:
    """The record of a backup, made so many hours before now."""
    given: dict[str, Any] = {
        "kind": "run",
        "host": "demo",
        "database": "index",
        "when": (NOW - timedelta(hours=hours)).isoformat(),
        "who": "maintainer@laptop",
        "exit_status": 0,
        "backup": f"/backups/backup_{NOW - timedelta(hours=hours):%Y-%m-%d_%H-%M-%S}.db",
        "bytes": 2_300_000 - int(hours * 1000),
        "seconds": 0.5,
    }
    return Record(**given | changes)


def verification(hours: float = 0, **changes: Any) -> Record:
    """The record of a verification, made so many hours before now."""
    given: dict[str, Any] = {
        "kind": "verification",
        "checks": checks(),
        "integrity_check": ["ok"],
        "commands": ["sqlite3 -readonly x.db 'PRAGMA integrity_check'"],
        "details": {"source_bytes": 2_304_096},
    }
    return run(hours, **given | changes)


def unreachable(hours: float = 0, **changes: Any) -> Record:
    """The record of a verification that came to nothing."""
    given: dict[str, Any] = {
        "kind": "verification",
        "exit_status": 3,
        "backup": None,
        "bytes": None,
        "error": "demo: no answer in 10 s\n  -> is it up?",
    }
    return run(hours, **given | changes)


def history(count: int) -> list[Record]:
    """So many records, a backup and its verification an hour, of which every seventh failed."""
    made: list[Record] = []
    for number in range(count // 2):
        bad: dict[str, bool | None] = {"integrity": False, "query": None} if number % 7 == 3 else {}
        made.append(verification(number, checks=checks(**bad), exit_status=int(bool(bad))))
        made.append(run(number + 0.5))
    return made
