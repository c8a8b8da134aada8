"""Backups are stored in the repository, once, completely, and are found by the repository alone."""

from __future__ import annotations

from demo_backups.offsite.result import State

from ..helpers.copies import hash_of
from ..helpers.offsite import FIRST, OffsiteSetup


def test_verified_copy_is_stored_once(setup: OffsiteSetup) -> None:
    path = setup.add_copy()
    result, _ = setup.store()
    assert [found.state for found in result.series] == [State.STORED, State.NO_COPY, State.NO_COPY]
    assert result.exit_code == 0
    (stored,) = setup.list().backups
    assert (stored.name, stored.bytes, stored.sha256) == (FIRST, path.stat().st_size, hash_of(path))
    again, _ = setup.store()
    assert again.series[0].state is State.PRESENT
    assert len(setup.list().backups) == 1
