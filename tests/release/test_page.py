"""What the report shows, decided from a plan and records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from demo_backups.records.record import OffsiteDetails, Record
from demo_backups.release.plan import Mark, Plan
from demo_backups.release.report.page import DatabaseSection, Page, RecordsState, build_page
from demo_backups.release.report.render import render_html
from demo_backups.ui.outcome import Tone

from ..helpers.report_samples import DATABASES, NOW, checks, plan_of, run, unreachable, verification

DONE, TO_DO, BLOCKED, UNKNOWN, OUT_OF_ORDER = Mark.DONE, Mark.TO_DO, Mark.BLOCKED, Mark.UNKNOWN, Mark.OUT_OF_ORDER
FAILED = verification(checks=checks(integrity=False), exit_status=1)
UNKNOWN_PLAN = plan_of(UNKNOWN, UNKNOWN)


def build(*records: Record, plan: Plan = UNKNOWN_PLAN) -> Page:
    return build_page(plan, records, DATABASES, NOW)


def section_of(*records: Record, database: str = "index") -> DatabaseSection:
    return build(*records).databases[DATABASES.index(database)]


# --- the verdict ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "records", "facts", "tone"),
    [
        (UNKNOWN_PLAN, [], [], Tone.PLAIN),
        (Plan("demo", [], []), [], [], Tone.PLAIN),
        (UNKNOWN_PLAN, [run()], ["unknown"], Tone.WARNING),
        (plan_of(DONE, DONE), [run()], ["All 2"], Tone.GOOD),
        (plan_of(DONE, DONE, optional=TO_DO), [run()], ["All 2"], Tone.GOOD),
        (plan_of(DONE, TO_DO, BLOCKED, BLOCKED), [], ["1 of 4", "Step 2", "Index database"], Tone.WARNING),
        (plan_of(DONE, BLOCKED), [run()], ["1 of 2", "blocked"], Tone.WARNING),
        (plan_of(DONE, UNKNOWN), [run()], ["1 of 2", "1 unknown", "next step is unknown"], Tone.WARNING),
        (plan_of(DONE, UNKNOWN, BLOCKED), [run()], ["1 of 3", "1 unknown", "next step is unknown"], Tone.WARNING),
        (
            plan_of(DONE, OUT_OF_ORDER, TO_DO),
            [run()],
            ["1 of 3", "1 out of order", "Step 3", "Pull request"],
            Tone.BAD,
        ),
        (plan_of(DONE, DONE), [FAILED], ["index", "failed", "all 2"], Tone.BAD),
        (plan_of(DONE, DONE), [replace(FAILED, host="rehearsal")], ["All 2"], Tone.GOOD),
        (plan_of(DONE, DONE), [replace(FAILED, database="other")], ["All 2"], Tone.GOOD),
        (plan_of(DONE, DONE), [verification(2, checks=checks(size=False)), verification(1)], ["All 2"], Tone.GOOD),
    ],
)
def test_verdict_sums_up_plan_and_verifications(
    plan: Plan, records: list[Record], facts: list[str], tone: Tone
) -> None:
    verdict = build(*records, plan=plan).verdict
    assert verdict.tone is tone
    assert [fact for fact in facts if fact not in verdict.text] == []


# --- the section of a database --------------------------------------------------------------------------------------


def test_last_verification_is_latest_of_host() -> None:
    last, other = verification(1), verification(0, host="other")
    section = section_of(other, last, verification(2), run(0.5))
    assert (section.last_verification, section.host, section.is_other_host) == (last, "demo", False)
    assert section.failed_attempt is None


def test_times_of_different_zones_are_ordered() -> None:
    last, earlier = verification(1, when="2024-11-24T19:00:00+00:00"), verification(when="2024-11-24T20:30:00+05:30")
    assert section_of(last, earlier).last_verification == last
    assert build(last, earlier).records == [last, earlier]


def test_results_of_host_take_precedence() -> None:
    other = verification(0, host="rehearsal")
    section = section_of(other)
    assert (section.last_verification, section.host, section.is_other_host) == (other, "rehearsal", True)
    assert not section_of(other, verification(9)).is_other_host
    own = section_of(other, run(9))
    assert (own.last_verification, own.is_other_host) == (None, False)
    assert section_of(other, unreachable()).is_other_host


def test_later_failed_attempt_keeps_last_verification() -> None:
    section = section_of(verification(3), unreachable(2), unreachable(1), run(0.5))
    assert (section.last_verification, section.failed_attempt) == (verification(3), unreachable(1))
    assert section_of(unreachable(2), verification(1)).failed_attempt is None
    assert section_of(unreachable(2)).failed_attempt == unreachable(2)


def test_last_fetch_and_drill_have_an_age() -> None:
    fetched = run(hours=72, kind="fetch", exit_status=0)
    failed = run(hours=1, kind="fetch", exit_status=1)
    drilled = run(hours=2, kind="drill", exit_status=0, host="other")
    fetch, drill = section_of(fetched, failed, drilled, run()).last_uses
    assert (fetch.success, fetch.age, fetch.later_failure) == (fetched, 72 * 3600, failed)
    assert (drill.success, drill.age, drill.later_failure) == (None, None, None)


def stored(hours: float, action: str = "store", exit_status: int = 0) -> Record:
    """Make the record of an off-site copy, so many hours before NOW."""
    details = OffsiteDetails(action=action)
    return run(hours, kind="offsite", backup="backup_1.db", exit_status=exit_status, details=details)


def test_last_offsite_copy_is_shown_if_any() -> None:
    good, failed = stored(48), stored(2, exit_status=1)
    names = [use.name for use in section_of(stored(1, "restore"), run()).last_uses]
    assert names == ["fetch", "drill"]
    *_, copy = section_of(good, failed, stored(1, "restore")).last_uses
    assert (copy.name, copy.success, copy.age, copy.later_failure) == ("off-site copy", good, 48 * 3600, failed)


def test_check_of_repository_is_listed() -> None:
    reading = run(kind="offsite", database="", backup=None, bytes=None, details=OffsiteDetails(action="check"))
    page = build(run(1), reading)
    assert page.records == [reading, run(1)]
    assert "offsite check" in render_html(page)


def test_drill_is_no_verification() -> None:
    good, drilled = verification(2), run(hours=1, kind="drill", checks=checks(size=False))
    assert section_of(good, drilled).last_verification is good


def test_database_without_records_has_no_charts() -> None:
    section = section_of(verification(), database="tracker")
    assert (section.last_verification, section.is_other_host) == (None, False)
    assert [(figure.chart, figure.rows) for figure in section.figures] == [(None, [])] * 3


# --- the list of records --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "omitted"), [(0, 0), (1, 0), (50, 0), (51, 1), (1000, 950)])
def test_record_list_is_bounded(count: int, omitted: int) -> None:
    records = [run(number) for number in range(count)]
    page = build(*records)
    assert page.records == records[:50]
    assert page.omitted_records == omitted


def test_unreadable_records_differ_from_none() -> None:
    assert build(run()).records_state is RecordsState.PRESENT
    assert build().records_state is RecordsState.EMPTY
    assert build_page(UNKNOWN_PLAN, None, DATABASES, NOW).records_state is RecordsState.UNREADABLE
