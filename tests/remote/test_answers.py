"""Short answers of a host: anything unexpected is an error, not a no."""

from __future__ import annotations

import pytest

from demo_backups.remote.answers import parse_seconds, parse_yes_no


@pytest.mark.parametrize(("output", "answer"), [("yes\n", True), ("no\n", False)])
def test_parse_yes_no(output: str, answer: bool) -> None:
    assert parse_yes_no(output) is answer


@pytest.mark.parametrize("output", ["", "\n", "yes", "no", "yes\nno\n", "Yes\n", "nope\n", "sh: error\n"])
def test_parse_yes_no_rejects_other_output(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_yes_no(output)


@pytest.mark.parametrize(("output", "seconds"), [("0\n", 0), ("1764021234.25\n", 1764021234.25), ("0.000\n", 0)])
def test_parse_seconds_output(output: str, seconds: float) -> None:
    assert parse_seconds(output) == seconds


@pytest.mark.parametrize("output", ["", "\n", "-1\n", "nan\n", "inf\n", "soon\n", "1\n2\n"])
def test_parse_seconds_rejects_other_output(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_seconds(output)
