"""What the report shows, decided from a plan and records alone."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ...records.check import Outcome
from ...records.record import OffsiteRecord, Record
from ...records.search import STORE
from ...ui.outcome import Tone
from ..plan import Mark, Phase, Plan
from ..verifications import is_partial
from .charts import Figure, make_figures, parse_time

VERIFICATIONS = ("verification", "rehearsal")  # kinds of records with the checks of a backup on the server
MOST_RECORDS = 50  # in the list, the latest


class RecordsState(enum.Enum):
    """Whether there are records to show."""

    PRESENT = "present"
    EMPTY = "empty"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Verdict:
    """One sentence on the state of the release."""

    text: str
    tone: Tone


@dataclass(frozen=True)
class LastUse:
    """The last time that a backup was used for something, such as a fetch: the last success, and a later failure.

    `age` is the time since the success in seconds, by the maintainer's clock.
    """

    name: str
    success: Record | None
    age: float | None
    later_failure: Record | None


@dataclass(frozen=True)
class DatabaseSection:
    """What the records say about one database.

    The records are those of the plan's host. If it has none, they are those of another one, and `is_other_host` is set.
    `last_verification` is the one that the plan relies on. Without one, it is the last that made checks; one with
    quick_check alone only if there is no other. `failed_attempt` is a verification that is later than all others and
    made no check.
    """

    database: str
    host: str
    is_other_host: bool
    last_verification: Record | None = None
    failed_attempt: Record | None = None
    last_uses: list[LastUse] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """What the report shows; the latest records first.

    `phases` are those that a pull request can describe, without its own, and `summary` is a sentence on them.
    """

    plan: Plan
    phases: list[Phase]
    summary: str
    created: datetime
    verdict: Verdict
    databases: list[DatabaseSection]
    records_state: RecordsState
    records: list[Record]
    omitted_records: int


def build_page(plan: Plan, records: Sequence[Record] | None, databases: Iterable[str], created: datetime) -> Page:
    """Choose what the report shows; `created` has a time zone.

    `records` is None where none could be read; the plan's notes say why.
    """
    ordered = sorted(records or [], key=lambda record: parse_time(record.when))
    sections = [_build_section(plan, name, ordered, created, f"plot-{n}") for n, name in enumerate(databases, start=1)]
    latest = ordered[::-1][:MOST_RECORDS]
    return Page(
        plan=plan,
        phases=plan.phases[:-1],
        summary=_summarize_phases(plan.phases[:-1]),
        created=created,
        verdict=decide_verdict(plan, sections, has_records=bool(ordered) or records is None),
        databases=sections,
        records_state=_records_state(records),
        records=latest,
        omitted_records=len(ordered) - len(latest),
    )


def _records_state(records: Sequence[Record] | None) -> RecordsState:
    if records is None:
        return RecordsState.UNREADABLE
    return RecordsState.PRESENT if records else RecordsState.EMPTY


def _build_section(
    plan: Plan, database: str, records: Sequence[Record], created: datetime, prefix: str
) -> DatabaseSection:
    host = plan.host
    of_database = [record for record in records if record.database == database]
    with_results = [record for record in of_database if record.checks or record.bytes is not None]
    hosts = [record.host for record in with_results]
    source = host if host in hosts or not hosts else hosts[-1]
    of_host = [record for record in of_database if record.host == source]
    return DatabaseSection(
        database=database,
        host=source,
        is_other_host=source != host,
        last_verification=plan.verifications.get(database) or _find_last_verification(of_host),
        failed_attempt=_find_failed_attempt(of_host),
        last_uses=_list_last_uses(of_host, created),
        figures=make_figures(of_host, prefix),
    )


def _find_last_verification(records: Sequence[Record]) -> Record | None:
    """Return the last record with checks; one that passed by quick_check alone only if there is no other."""
    with_checks = [record for record in reversed(records) if record.checks and record.kind in VERIFICATIONS]
    full = [record for record in with_checks if not is_partial(record)]
    return next(iter([*full, *with_checks]), None)


def _find_failed_attempt(records: Sequence[Record]) -> Record | None:
    for record in reversed(records):
        if record.checks and record.kind in VERIFICATIONS:
            return None
        if record.kind == "verification":
            return record
    return None


def _list_last_uses(records: Sequence[Record], now: datetime) -> list[LastUse]:
    """List the last fetch and drill and, if there ever was one, the last off-site copy."""
    uses = [_find_last_use(records, name, now) for name in ("fetch", "drill")]
    offsite = [record for record in records if isinstance(record, OffsiteRecord) and record.details.action == STORE]
    return [*uses, _find_last_use(offsite, OffsiteRecord.kind, now, "off-site copy")] if offsite else uses


def _find_last_use(records: Sequence[Record], kind: str, now: datetime, name: str = "") -> LastUse:
    """Find the last record of a kind that succeeded, and a later one that did not."""
    of_kind = [record for record in reversed(records) if record.kind == kind]
    success = next((record for record in of_kind if record.exit_status == 0), None)
    later_failure = of_kind[0] if of_kind and of_kind[0] is not success else None
    age = (now - parse_time(success.when)).total_seconds() if success else None
    return LastUse(name or kind, success, age, later_failure)


# --- the pull request -----------------------------------------------------------------------------------------------


def _summarize_phases(phases: Iterable[Phase]) -> str:
    """Sum up the steps of the phases before the pull request in a sentence; optional steps do not count."""
    steps = [step for phase in phases for step in phase.steps if not step.optional]
    remaining = [f"{step.name} ({step.mark.value})" for step in steps if step.mark is not Mark.DONE]
    if not remaining:
        return f"All {len(steps)} steps before the pull request are done"
    count = len(steps) - len(remaining)
    return f"{count} of {len(steps)} steps before the pull request are done; not: {', '.join(remaining)}"


# --- the verdict ----------------------------------------------------------------------------------------------------


def decide_verdict(plan: Plan, sections: Iterable[DatabaseSection], has_records: bool) -> Verdict:
    """Sum up the plan and the last verifications; optional steps do not count."""
    failures = [
        f"the last verification of the {section.database} database failed" for section in sections if _failed(section)
    ]
    marks = Counter(step.mark for step in plan.steps if not step.optional)
    parts, tone = _describe_plan(plan, marks, has_records)
    sentence = "; ".join([*failures, *parts])
    return Verdict(f"{sentence[0].upper()}{sentence[1:]}.", Tone.BAD if failures else tone)


def _failed(section: DatabaseSection) -> bool:
    verification = section.last_verification
    return verification is not None and verification.outcome is Outcome.FAILED and not section.is_other_host


def _describe_plan(plan: Plan, marks: Counter[Mark], has_records: bool) -> tuple[list[str], Tone]:
    count = sum(marks.values())
    if marks[Mark.UNKNOWN] == count:
        return (["the state of the plan is unknown"], Tone.WARNING) if has_records else (["no results yet"], Tone.PLAIN)
    if marks[Mark.DONE] == count:
        return [f"all {count} steps are done"], Tone.GOOD
    exceptions = [f"{marks[mark]} {mark.value}" for mark in (Mark.OUT_OF_ORDER, Mark.UNKNOWN) if marks[mark]]
    parts = [", ".join([f"{marks[Mark.DONE]} of {count} steps are done", *exceptions])]
    if plan.next:
        phase = next(phase.name for phase in plan.phases if plan.next in phase.steps)
        parts.append(f"next: {plan.next.title} ({phase})")
    elif marks[Mark.UNKNOWN]:
        parts.append("the next step is unknown")
    elif marks[Mark.BLOCKED]:
        parts.append("the next steps are blocked")
    return parts, Tone.BAD if marks[Mark.OUT_OF_ORDER] else Tone.WARNING
