"""A restore that is killed between any two calls: completed or reverted, the content is the new or the old one."""

from __future__ import annotations

import pytest

from demo_backups.recovery.restore_journal import STAGES, Method, Proof, Save

from ..helpers.databases import execute, leave_hot_journal, leave_wal, set_journal_mode
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
    """Create the database again, without a saved state; return the content."""
    for path in (*setup.target.parent.iterdir(), *setup.backups.glob("saved.*")):
        path.unlink()
    make_content(setup.target, OLD)
    return STATES[state](setup)


@pytest.mark.parametrize("shard", range(3))
@pytest.mark.parametrize(
    ("kind", "state", "step"), [("swap", "wal", 6), ("swap of raw", "journal", 18), ("in place", "wal", 18)]
)
def test_kill_between_calls(restore_setup: RestoreSetup, kind: str, state: str, step: int, shard: int) -> None:
    restore_setup.set_service()
    request = restore_setup.request(*REQUESTS[kind])
    for number, call in enumerate(range(1 + shard * step // 3, 500, step)):
        before = prepare_again(restore_setup, state)
        if not restore_setup.restore_killed(request, call):
            assert number, "no call was reached"
            return
        recover(restore_setup, revert=number % 2 == 0, before=before)


@pytest.mark.parametrize("revert", [False, True], ids=["complete", "revert"])
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "restoring"])
def test_kill_in_every_stage_of_swap(restore_setup: RestoreSetup, stage: str, revert: bool) -> None:
    restore_setup.set_service()
    before = with_wal(restore_setup)
    check = f'case "$KILL $*" in yes*journal) ! grep -q "^stage={stage}$" journal || kill -9 0 ;; esac'
    path = restore_setup.shadow({"mv": f'PATH=/usr/bin:/bin; mv "$@" && {check}', "sleep": "exit 0"})
    assert restore_setup.restore(restore_setup.request(Method.SWAP), PATH=path, KILL="yes").returncode < 0
    assert recover(restore_setup, revert, before) == stage


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


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("revert", [False, True], ids=["complete", "revert"])
def test_rows_written_after_kill_are_not_lost(restore_setup: RestoreSetup, revert: bool, mode: str) -> None:
    set_journal_mode(restore_setup.target, mode)
    stop = 'case "$*" in *.restore*) kill -9 0 ;; esac'  # the transaction is not committed
    path = restore_setup.shadow({"sqlite3": f'{stop}; PATH=/usr/bin:/bin exec sqlite3 "$@"'})
    request = restore_setup.request(Method.IN_PLACE, Proof.TRANSACTION if mode == "wal" else Proof.LOCKED)
    assert restore_setup.restore(request, PATH=path).returncode < 0
    (restore_setup.folder / "programs" / "sqlite3").unlink()
    execute(restore_setup.target, "UPDATE content SET origin = 'of the service' WHERE rowid = 1")
    pending = restore_setup.pending()
    assert pending
    assert pending.stage == "restoring"
    done = restore_setup.recover(pending, revert)
    assert done.returncode == 0, done.stdout
    written = {OLD, "of the service"}
    if revert:
        assert read_content(restore_setup.target) == written
        assert not restore_setup.saved.exists()
    else:
        assert read_content(restore_setup.target) == {NEW}
        assert read_content(restore_setup.saved) == written


@pytest.mark.parametrize("method", Method)
def test_rows_written_to_restored_database_are_saved(restore_setup: RestoreSetup, method: Method) -> None:
    restore_setup.set_service(start="echo started")
    stop = 'case "$*" in *"echo started") kill -9 0 ;; esac'
    path = restore_setup.shadow({"timeout": f'{stop}; PATH=/usr/bin:/bin exec timeout "$@"'})
    assert restore_setup.restore(restore_setup.request(method), PATH=path).returncode < 0
    execute(restore_setup.target, "UPDATE content SET origin = 'of the service' WHERE rowid = 1")
    restore_setup.set_service()
    pending = restore_setup.pending()
    assert pending
    assert pending.stage == "starting"
    done = restore_setup.recover(pending, True)
    assert done.returncode == 0, done.stdout
    assert read_content(restore_setup.target) == {OLD}
    (present,) = set(restore_setup.backups.glob("saved.*.db")) - {restore_setup.saved}
    assert read_content(present) == {NEW, "of the service"}


@pytest.mark.parametrize("revert", [False, True], ids=["complete", "revert"])
def test_recovery_can_be_killed_too(restore_setup: RestoreSetup, revert: bool) -> None:
    request = restore_setup.request(Method.SWAP)
    stop = 'case "$*" in *"$STOP_AT") kill -9 0 ;; esac'  # the new file gets the name of the database
    path = restore_setup.shadow({"ln": f'PATH=/usr/bin:/bin; {stop}; ln "$@"'})
    for call in range(1, 100, 3):
        before = prepare_again(restore_setup, "wal")
        assert restore_setup.restore(request, PATH=path, STOP_AT=f"new {restore_setup.target}").returncode < 0
        (restore_setup.folder / "programs" / "ln").unlink()
        pending = restore_setup.pending()
        assert pending
        assert pending.stage == "linking"
        was_killed = restore_setup.recover_killed(pending, revert, call)
        recover(restore_setup, revert, before)
        assert read_content(restore_setup.target) == (before if revert else {NEW})
        if not was_killed:
            return
        restore_setup.shadow({"ln": f'PATH=/usr/bin:/bin; {stop}; ln "$@"'})


@pytest.mark.parametrize("revert", [False, True], ids=["complete", "revert"])
def test_recovery_keeps_file_of_restarted_service(restore_setup: RestoreSetup, revert: bool) -> None:
    stop = f'case "$*" in *"new {restore_setup.target}") kill -9 0 ;; esac'
    path = restore_setup.shadow({"ln": f'PATH=/usr/bin:/bin; {stop}; ln "$@"'})
    before = with_wal(restore_setup)
    assert restore_setup.restore(restore_setup.request(Method.SWAP), PATH=path).returncode < 0
    assert not restore_setup.target.exists()
    make_content(restore_setup.target, "of the restarted service", "wal")
    pending = restore_setup.pending()
    assert pending
    done = restore_setup.recover(pending, revert)
    assert done.returncode == 0, done.stdout
    assert read_content(restore_setup.target) == (before if revert else {NEW})
    (stranger,) = restore_setup.target.parent.glob("*.set-aside_*")
    assert read_content(stranger) == {"of the restarted service"}
