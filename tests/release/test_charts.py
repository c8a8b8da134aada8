"""Which numbers the figures of the report show."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from demo_backups.records.record import Record, VerificationDetails
from demo_backups.release.report.axes import EPOCH
from demo_backups.release.report.charts import Figure, make_figures

from ..helpers.report_samples import NOW, checks, run, unreachable, verification


def figure(title: str, *records: Record) -> Figure:
    """Return the figure of this title; the records need not be in order."""
    ordered = sorted(records, key=lambda record: record.when)
    return next(shown for shown in make_figures(ordered, "plot") if shown.title.startswith(title))


def points(title: str, *records: Record) -> dict[str, list[tuple[float, float]]]:
    """Return the points of each series: how many hours before NOW, and the number."""
    chart = figure(title, *records).chart
    assert chart
    now = (NOW - EPOCH) / timedelta(hours=1)
    return {line.name: [(round(now - point.x / 3600, 6), point.y) for point in line.points] for line in chart.series}


def test_backup_is_one_point_at_its_creation() -> None:
    backup = run(5)
    repeated = [verification(hours, backup=backup.backup, bytes=backup.bytes) for hours in (4, 3)]
    dated = verification(2, created=(NOW - timedelta(hours=7)).isoformat(), details=VerificationDetails())
    assert points("Size", backup, *repeated, dated) == {
        "backup": [(7, 2_298_000), (5, 2_295_000)],
        "database": [(4, 2_304_096), (3, 2_304_096)],
    }


def test_offsite_copy_is_the_same_point() -> None:
    made = run(3, backup="/backups/backup_1.db", created=NOW.isoformat(), bytes=7)
    stored = run(1, kind="offsite", backup="backup_1.db", created=NOW.isoformat(), bytes=7)
    assert len(make_figures([made, stored], "p")[0].rows) == 1


def test_unknown_source_size_is_not_drawn() -> None:
    for details in (VerificationDetails(), VerificationDetails(source_bytes=None)):
        assert list(points("Size", verification(details=details))) == ["backup"]


def test_durations_are_of_completed_work() -> None:
    records = [run(4, seconds=3.0), run(3, bytes=None, exit_status=1), verification(2), unreachable(1)]
    assert points("Duration", *records) == {"backup": [(4, 3.0)], "verification": [(2, 0.5)]}


def test_negative_duration_is_not_drawn() -> None:
    assert points("Duration", run(2, seconds=-5.0), run(1, seconds=3.0)) == {"backup": [(1, 3.0)]}
    assert figure("Duration", run(2, seconds=-5.0)).chart is None


def test_checks_are_counted_by_day() -> None:
    failures = checks(size=False, query=None)
    shown = figure("Checks", verification(1), verification(2, checks=failures), verification(30))
    assert shown.rows == [["2024-11-24", "8", "1", "1"], ["2024-11-23", "5", "0", "0"]]
    assert [number for number in ("13 ", "1 ", "2024-11-23", "2024-11-24") if number not in shown.summary] == []
    assert shown.chart
    bars = [[bar.top - bar.bottom for bar in series.bars] for series in shown.chart.series]
    assert bars == [[5, 8], [1], [1]]


def test_latest_days_are_shown() -> None:
    shown = figure("Checks", *(verification(24 * day) for day in range(40)))
    assert [row[0] for row in (shown.rows[0], shown.rows[-1])] == ["2024-11-24", "2024-10-26"]
    assert len(shown.rows) == 30
    assert "latest 30" in shown.summary


def test_latest_points_are_shown() -> None:
    shown = figure("Size", *(run(number) for number in range(501)))
    assert len(shown.rows) == 500
    assert shown.rows[0] == ["2024-11-24 20:00 UTC", "backup", "2,300,000 bytes"]
    assert "latest 500" in shown.summary


@pytest.mark.parametrize(
    ("records", "facts"),
    [
        ([run()], ["2.3 MB", "1 value", "2024-11-24"]),
        ([run(1000), run(0)], ["1.3 MB to 2.3 MB", "2 values", "2024-10-14", "2024-11-24"]),
        ([run(1, bytes=5), run(0, bytes=5)], ["5 Bytes", "2 values", "2024-11-24"]),
    ],
)
def test_summary_has_range_and_count(records: list[Record], facts: list[str]) -> None:
    summary = figure("Size", *records).summary
    assert [fact for fact in facts if fact not in summary] == []


def test_failed_attempt_draws_nothing() -> None:
    assert [shown.chart for shown in make_figures([unreachable(1)], "plot")] == [None] * 3


@pytest.mark.parametrize(
    "changes",
    [
        {"when": "8999-12-31T23:59:59+00:00", "seconds": 9.9e11, "bytes": 2**63 - 1},
        {"when": "1000-01-01T00:00:00+00:00", "seconds": 0.0, "bytes": 0},
    ],
)
def test_extreme_records_can_be_drawn(changes: dict[str, Any]) -> None:
    for records in ([verification(0, **changes)], [verification(0, **changes), run()]):
        figures = make_figures(sorted(records, key=lambda record: record.when), "plot")
        assert all(shown.chart for shown in figures)
