"""All faults of the battery, and how some of them are selected."""

from __future__ import annotations

from collections.abc import Sequence

from demo_backups.errors import SettingsError

from . import clock, crowd, disks, maintainers, network
from .framework import Fault
from .kills import KILLS

FAULTS: tuple[Fault, ...] = (
    *KILLS,
    *disks.FAULTS,
    *network.FAULTS,
    *clock.FAULTS,
    *maintainers.FAULTS,
    *crowd.FAULTS,
)


def select_faults(names: str | None) -> Sequence[Fault]:
    """Return the faults whose names have one of some words, separated by commas; raises SettingsError."""
    if names is None:
        return FAULTS
    words = [word.strip().lower() for word in names.split(",")]
    for word in words:
        if not word or not any(word in fault.name.lower() for fault in FAULTS):
            raise SettingsError(
                f"--faults: no fault has {word!r} in its name",
                advice="the faults are: " + ", ".join(fault.name for fault in FAULTS),
            )
    return [fault for fault in FAULTS if any(word in fault.name.lower() for word in words)]
