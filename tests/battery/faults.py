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
    """Return the faults whose names contain one of some texts, separated by commas; raises SettingsError."""
    if names is None:
        return FAULTS
    parts = [part.strip().lower() for part in names.split(",")]
    for part in parts:
        if not part or not any(part in fault.name.lower() for fault in FAULTS):
            raise SettingsError(
                f"--faults: no fault has {part!r} in its name",
                output="\n".join(fault.name for fault in FAULTS),
                advice="use a part of one of these names, or several parts, separated by commas",
            )
    return [fault for fault in FAULTS if any(part in fault.name.lower() for part in parts)]
