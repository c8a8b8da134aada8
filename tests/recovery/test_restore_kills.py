"""A restore that is killed between any two calls: completed or reverted, the content is the new or the old one."""

from __future__ import annotations

import pytest

from demo_backups.recovery.restore_job import Method, Proof, Save

from ..helpers.databases import leave_hot_journal, leave_wal
from ..helpers.restores import NEW, OLD, RestoreSetup, make_content, read_content

LAST_WORD = "old, after the last commit"


def with_wal(setup: RestoreSetup) -> set[str]:
    """Leave a -wal with the last commit of the old content."""
    leave_wal(setup.target, f"UPDATE content SET origin = '{LAST_WORD}'")
    return {LAST_WORD}


def with_hot_journal(setup: RestoreSetup) -> set[str]:
    """Leave a -journal of a transaction that was not committed."""
    leave_hot_journal(setup.target, "UPDATE content SET origin = 'lost', padding = randomblob(3000)")
    return {OLD}


def without_sidecars(setup: RestoreSetup) -> set[str]:
    """Leave the old content as it is."""
    return {OLD}


STATES = {"wal": with_wal, "journal": with_hot_journal, "plain": without_sidecars}
REQUESTS = {
    "swap": (Method.SWAP, Proof.STOPPED, Save.COPY),
    "swap of raw": (Method.SWAP, Proof.STOPPED, Save.RAW),
    "in place": (Method.IN_PLACE, Proof.STOPPED, Save.COPY),
}


def prepare_again(setup: RestoreSetup, state: str) -> set[str]:
    """Make the database anew, without a saved state; return the content."""
    for path in (*setup.target.parent.iterdir(), *setup.backups.glob("saved.*")):
        path.unlink()
    make_content(setup.target, OLD)
    return STATES[state](setup)


@pytest.mark.parametrize(
    ("kind", "state", "step"), [("swap", "wal", 1), ("swap of raw", "journal", 3), ("in place", "plain", 3)]
)
def test_kill_between_any_two_calls(restore_setup: RestoreSetup, kind: str, state: str, step: int) -> None:
    restore_setup.set_service()
    request = restore_setup.request(*REQUESTS[kind])
    stages = set()
    for call in range(1, 500, step):
        before = prepare_again(restore_setup, state)
        if not restore_setup.restore_killed(request, call):
            break
        revert = call // step % 2 == 0
        stages |= {recover(restore_setup, revert, before)}
    expected = {"preparing", "saving", "starting", "cleaning"}
    if step == 1:
        assert stages > expected | {"stopping", "aside", "linking"}


def recover(setup: RestoreSetup, revert: bool, before: set[str]) -> str | None:
    """Complete or revert what was killed, and judge the content; return the stage."""
    pending = setup.pending()
    if pending is None:  # it had not started, or has ended
        assert read_content(setup.target) in ({NEW}, before)
        return None
    revert = revert and not pending.is_judged
    done = setup.recover(pending, revert, PATH=setup.shadow({"sleep": "exit 0"}))
    assert done.returncode == 0, (pending.stage, done.stdout)
    assert setup.pending() is None
    assert read_content(setup.target) == (before if revert else {NEW}), (pending.stage, done.stdout)
    assert set(setup.leftovers()) <= {"sqlite3.db-shm", "sqlite3.db-wal"}, (pending.stage, done.stdout)
    return pending.stage
