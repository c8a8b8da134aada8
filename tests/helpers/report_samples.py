"""Plans, records and pages for the tests of the report."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import Record, VerificationDetails, new_record
from demo_backups.release.plan import Mark, MarkedStep, Phase, Plan
from demo_backups.release.report.page import Page, build_page

NOW = datetime(2024, 11, 24, 20, 0, tzinfo=timezone.utc)
CHECKS = ("created", "size", "integrity", "query", "source")
DATABASES = ("index", "tracker")
LONG_PATH = "/backups/" + "a-very-long-name-without-a-blank-" * 8 + ".db"
MARKUP = (
    '<img src=x onerror=hacked()><script>hacked()</script></svg></style></pre>"\' onload="hacked()" {{7*7}} {% raw %}'
)


# --- plans ----------------------------------------------------------------------------------------------------------


def step(title: str, mark: Mark, details: str = "some details", optional: bool = False) -> MarkedStep:
    """Make a step of a plan."""
    return MarkedStep(title.lower().replace(" ", "-"), title, mark, optional, details)


def plan_of(*marks: Mark, optional: Mark | None = None, notes: tuple[str, ...] = (), host: str = "demo") -> Plan:
    """Make a plan of two phases with these marks, and with one more step if `optional` is a mark."""
    steps = [step(f"Step {number}", mark) for number, mark in enumerate(marks, start=1)]
    if optional:
        steps.append(step("An extra", optional, optional=True))
    half = len(steps) // 2
    return Plan(host, [Phase("Index database", steps[:half]), Phase("Pull request", steps[half:])], list(notes))


def all_marks(notes: tuple[str, ...] = ()) -> Plan:
    """Make a plan in which every mark occurs."""
    marks = (Mark.DONE, Mark.DONE, Mark.OUT_OF_ORDER, Mark.TO_DO, Mark.BLOCKED, Mark.UNKNOWN)
    return plan_of(*marks, optional=Mark.BLOCKED, notes=notes)


# --- records --------------------------------------------------------------------------------------------------------


def checks(**passed: bool | None) -> list[Check]:
    """Make the five checks; all passed except those with another value."""
    return [Check(name, Outcome(passed.get(name, True)), f"{name}: details") for name in CHECKS]


def run(hours: float = 0, **changes: Any) -> Record:
    """Make the record of a backup, so many hours before NOW."""
    fields: dict[str, Any] = {
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
    return new_record(**fields | changes)


def verification(hours: float = 0, **changes: Any) -> Record:
    """Make the record of a verification, so many hours before NOW."""
    fields: dict[str, Any] = {
        "kind": "verification",
        "checks": checks(),
        "integrity_check": ["ok"],
        "commands": ["sqlite3 -readonly x.db 'PRAGMA integrity_check'"],
        "details": VerificationDetails(source_bytes=2_304_096),
    }
    return run(hours, **fields | changes)


def unreachable(hours: float = 0, **changes: Any) -> Record:
    """Make the record of a verification that could not connect."""
    fields: dict[str, Any] = {
        "kind": "verification",
        "exit_status": 3,
        "backup": None,
        "bytes": None,
        "error": "demo: no answer in 10 s\n  -> is it up?",
    }
    return run(hours, **fields | changes)


def history(count: int) -> list[Record]:
    """Make so many records: each hour a backup and its verification, of which every seventh failed."""
    records: list[Record] = []
    for number in range(count // 2):
        failures: dict[str, bool | None] = {"integrity": False, "query": None} if number % 7 == 3 else {}
        records.append(verification(number, checks=checks(**failures), exit_status=int(bool(failures))))
        records.append(run(number + 0.5))
    return records


# --- pages ----------------------------------------------------------------------------------------------------------


def page_of(*records: Record, plan: Plan | None = None) -> Page:
    """Make a page of records, by default with all marks and a note."""
    return build_page(plan or all_marks(notes=("demo: no such host",)), records, DATABASES, NOW)


def markup_page() -> Page:
    """Make a page in which every value from elsewhere is markup."""
    plan = plan_of(Mark.TO_DO, Mark.DONE, notes=(MARKUP,), host=MARKUP)
    steps = [step(MARKUP, Mark.TO_DO, details=MARKUP)]
    plan = replace(plan, phases=[replace(plan.phases[0], name=MARKUP, steps=steps), plan.phases[1]])
    record = verification(
        host=MARKUP,
        who=MARKUP,
        backup=MARKUP,
        script_sha256=MARKUP,
        checks=[Check(MARKUP, Outcome.FAILED, MARKUP)],
        integrity_check=[MARKUP],
        commands=[MARKUP],
        error=MARKUP,
        database="<b>index</b>",
    )
    later = unreachable(-1, host=MARKUP, error=MARKUP, database="<b>index</b>")
    return build_page(plan, [record, later], ["<b>index</b>"], NOW)


EMPTY_PAGE = page_of(plan=plan_of(Mark.UNKNOWN, Mark.UNKNOWN, Mark.UNKNOWN))
FULL_PAGE = page_of(
    unreachable(-1),
    verification(0, checks=checks(integrity=False, query=None), integrity_check=["row missing " * 30] * 60),
    run(0.1, error="it failed\n  | with output", exit_status=1, backup=None, bytes=None),
    replace(verification(1, host="rehearsal", database="tracker"), backup=LONG_PATH, who="", host="h" * 100),
    *history(40),
    plan=replace(all_marks(notes=("demo: no such host", LONG_PATH)), host="demo"),
)
PAGES: dict[str, Page] = {
    "empty": EMPTY_PAGE,
    "unreadable": build_page(all_marks(notes=("the records cannot be read",)), None, DATABASES, NOW),
    "full": FULL_PAGE,
    "single": page_of(verification()),
    "failed": page_of(unreachable()),
    "markup": markup_page(),
    "many": page_of(*history(1000)),
}
