"""Sizes, durations and times as text."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from demo_backups.units import format_age, format_duration, format_short_size, format_size, format_time


def test_exact_size_has_separators() -> None:
    assert format_size(2_310_144) == "2,310,144 bytes"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 Bytes"), (1, "1 Byte"), (2_310_144, "2.31 MB"), (999_700, "1 MB"), (2**63 - 1, "9.22 EB")],
)
def test_short_size_has_three_digits(count: float, text: str) -> None:
    assert format_short_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (0.068, "68 ms"),
        (12.345, "12.3 seconds"),
        (267.4, "4 minutes and 27 seconds"),
        (7500, "2 hours and 5 minutes"),
        (9.9e11, "990,000,000,000 seconds"),
    ],
)
def test_duration_has_fitting_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_time_is_in_utc() -> None:
    time = datetime(2024, 11, 24, 1, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert format_time(time) == "2024-11-23 20:00 UTC"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "now"), (60, "a minute ago"), (3 * 86400, "3 days ago"), (-5, "in the future"), (1e18, "1,000,000")],
)
def test_age_is_in_largest_unit(seconds: float, text: str) -> None:
    assert format_age(seconds).startswith(text)
