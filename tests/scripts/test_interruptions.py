"""Killed runs, two runs at once, and names that are taken."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..helpers.backup_script import ScriptSetup, file_size, finish
from ..helpers.databases import execute, is_consistent
from ..helpers.processes import wait_until

StopMidway = Callable[[], contextlib.AbstractContextManager[subprocess.Popen[str]]]


def is_unlocked(setup: ScriptSetup) -> bool:
    """Tell whether no run has the lock."""
    with (setup.folder / ".backup.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.fixture
def stop_midway(setup: ScriptSetup, large_counter_file: Path) -> StopMidway:
    """Start the script, and stop it and its sqlite3 in the middle of the copy; both are killed in the end."""
    shutil.copyfile(large_counter_file, setup.source)

    @contextlib.contextmanager
    def stop() -> Iterator[subprocess.Popen[str]]:
        for _ in range(20):
            script = setup.start()
            try:
                wait_until(lambda: file_size(setup.part) or script.poll() is not None, "the copy")  # noqa: B023
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(script.pid, signal.SIGSTOP)
                if 0 < file_size(setup.part) < file_size(setup.source):
                    assert setup.visible() == []
                    yield script
                    return
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(script.pid, signal.SIGKILL)
                script.communicate()
                wait_until(lambda: is_unlocked(setup), "the end of the copy")
            for name in setup.visible():  # the copy was faster than this test
                (setup.folder / name).unlink()
        pytest.fail("could not stop the script in the middle of the copy")

    return stop


# --- killed ---------------------------------------------------------------------------------------------------------


def test_killed_run_leaves_only_a_part(setup: ScriptSetup, stop_midway: StopMidway) -> None:
    with stop_midway():
        assert setup.part.stat().st_mode & 0o077 == 0  # private, whatever the mode of the source
    assert setup.visible() == []
    assert setup.hidden() == [".backup.lock", ".backup.part"]
    assert setup.run().returncode == 0
    assert is_consistent(setup.backup())


def test_copy_of_killed_run_keeps_lock(setup: ScriptSetup, stop_midway: StopMidway) -> None:
    with stop_midway() as script:
        script.kill()
        script.wait()
        done = setup.run()
        assert done.returncode == 1
        assert f"another run is in progress in {setup.folder}" in done.stderr
        assert file_size(setup.part)
        os.killpg(script.pid, signal.SIGCONT)
        wait_until(lambda: is_unlocked(setup), "the end of the copy")
        assert setup.visible() == []
    assert setup.run().returncode == 0
    assert is_consistent(setup.backup())


def test_terminated_run_removes_its_part(setup: ScriptSetup, stop_midway: StopMidway) -> None:
    with stop_midway() as script:
        os.killpg(script.pid, signal.SIGTERM)
        os.killpg(script.pid, signal.SIGCONT)
        assert finish(script).returncode == -signal.SIGTERM
    assert setup.visible() == []
    assert setup.hidden() == [".backup.lock"]


def test_published_backup_survives_leftover_part(setup: ScriptSetup) -> None:
    with setup.dates("2026-01-01_00-00-00", "2026-01-01_00-00-01"):
        assert setup.run().returncode == 0
        first = setup.backup()
        os.link(first, setup.part)  # as if the script was killed between its ln and its rm
        before = first.read_bytes()
        execute(setup.source, "UPDATE first SET n = 1")
        assert setup.run().returncode == 0
    assert first.read_bytes() == before
    assert len(setup.visible()) == 2
    assert setup.hidden() == [".backup.lock"]


# --- two runs -------------------------------------------------------------------------------------------------------


def test_second_run_at_once_is_refused(setup: ScriptSetup, stop_midway: StopMidway) -> None:
    with stop_midway() as script:
        before = file_size(setup.part)
        done = setup.run()
        assert done.returncode == 1
        assert f"another run is in progress in {setup.folder}" in done.stderr
        assert file_size(setup.part) == before
        os.killpg(script.pid, signal.SIGCONT)
        assert finish(script).returncode == 0
        assert is_consistent(setup.backup())


def test_run_in_same_second_gets_next_name(setup: ScriptSetup) -> None:
    with setup.dates("2026-01-01_00-00-00", "2026-01-01_00-00-00", "2026-01-01_00-00-01"):
        for _ in range(2):
            done = setup.run()
            assert (done.returncode, done.stderr) == (0, "")
    assert setup.visible() == ["backup_2026-01-01_00-00-00.db", "backup_2026-01-01_00-00-01.db"]
    assert all(is_consistent(setup.folder / name) for name in setup.visible())


def test_existing_backup_is_never_overwritten(setup: ScriptSetup) -> None:
    name = "backup_2026-01-01_00-00-00.db"
    with setup.dates("2026-01-01_00-00-00"):
        assert setup.run().returncode == 0
        before = setup.backup().read_bytes()
        execute(setup.source, "UPDATE first SET n = 1")
        done = setup.run()
    setup.check_failed(done, name, [name])
    assert setup.backup().read_bytes() == before


def test_folder_with_backup_name_stays_empty(setup: ScriptSetup) -> None:
    folder = setup.folder / "backup_2026-01-01_00-00-00.db"
    folder.mkdir()
    with setup.dates("2026-01-01_00-00-00"):
        setup.check_failed(setup.run(), folder.name, [folder.name])
    assert list(folder.iterdir()) == []
