"""Errors: what was tried, on which host, what came back, what to do next."""

from __future__ import annotations

import pytest

from demo_backups.errors import BackupsError, CouldNotLookError, InterruptedRunError, SettingsError, StepError


def test_error_shows_all_fields() -> None:
    error = StepError("could not look", host="demo", output="\nfirst\nsecond\n", advice="try again")
    assert str(error) == "demo: could not look\n  | first\n  | second\n  -> try again"


def test_error_omits_empty_fields() -> None:
    assert str(StepError("could not look")) == "could not look"
    assert str(StepError("could not look", output=" \n ")) == "could not look"
    assert str(StepError("could not look", advice="wait")) == "could not look\n  -> wait"


@pytest.mark.parametrize(
    ("kind", "code"),
    [(BackupsError, 1), (StepError, 1), (SettingsError, 2), (CouldNotLookError, 3), (InterruptedRunError, 130)],
)
def test_error_classes_have_exit_codes(kind: type[BackupsError], code: int) -> None:
    assert kind("x").exit_code == code
    assert issubclass(kind, BackupsError)
