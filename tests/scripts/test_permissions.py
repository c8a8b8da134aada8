"""What another user can write to, or has planted, is refused by the script and never followed."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ..helpers.backup_script import BACKUP_NAME, ScriptSetup, file_size, finish
from ..helpers.constants import NOBODY, root_only
from ..helpers.processes import wait_until
from ..helpers.programs import write_program

SECRET = "root:secret\n"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside the backup directory, to which a link is planted."""
    path = tmp_path / "secret"
    path.write_text(SECRET)
    path.chmod(0o600)
    return path


# --- the directory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o757, 0o702, 0o1777])
def test_directory_that_others_can_write_is_refused(setup: ScriptSetup, mode: int) -> None:
    before = setup.add_old_backups()
    setup.folder.chmod(mode)
    setup.check_failed(setup.run(), "other users can write to it", before)
    assert setup.hidden() == []


@root_only
def test_directory_of_another_user_is_refused(setup: ScriptSetup) -> None:
    before = setup.add_old_backups()
    os.chown(setup.folder, NOBODY, -1)
    setup.check_failed(setup.run(), f"{setup.folder} belongs to another user", before)
    assert setup.hidden() == []


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755])
def test_directory_that_only_owner_can_write(setup: ScriptSetup, mode: int) -> None:
    setup.folder.chmod(mode)
    done = setup.run()
    assert (done.returncode, done.stderr) == (0, "")


def test_replaced_directory_is_not_followed(setup: ScriptSetup, secret: Path, tmp_path: Path) -> None:
    """Another user who can write to the parent directory replaces the directory as soon as it was checked."""
    folder, moved, created = setup.folder, tmp_path / "moved", secret.with_name("created")
    replace = f"mv {folder} {moved}; mkdir {folder}; ln -s {created} {folder}/.backup.lock"
    programs = tmp_path / "bin"
    programs.mkdir()
    write_program(
        programs / "find",
        f'#!/bin/sh\n{shutil.which("find")} "$@" || exit\n[ -e {moved} ] || {{ {replace}; }}\n',
    )
    done = setup.run(PATH=f"{programs}:{setup.environment['PATH']}")
    assert (done.returncode, done.stderr) == (0, "")
    assert not created.exists()
    assert len([path for path in moved.iterdir() if BACKUP_NAME.fullmatch(path.name)]) == 1


# --- the lock -------------------------------------------------------------------------------------------------------


def plant_file_of_other(lock: Path, secret: Path) -> None:
    lock.touch()
    os.chown(lock, NOBODY, -1)


PLANTED_LOCKS: dict[str, Callable[[Path, Path], object]] = {
    "symbolic link": lambda lock, secret: lock.symlink_to(secret),
    "dangling link": lambda lock, secret: lock.symlink_to(secret.with_name("created")),
    "hard link": lambda lock, secret: os.link(secret, lock),
    "FIFO": lambda lock, secret: os.mkfifo(lock),
    "directory": lambda lock, secret: lock.mkdir(),
    "file of another user": plant_file_of_other,
}


@pytest.mark.parametrize("plant", PLANTED_LOCKS.values(), ids=PLANTED_LOCKS)
def test_planted_lock_is_refused(setup: ScriptSetup, secret: Path, plant: Callable[[Path, Path], object]) -> None:
    if plant is plant_file_of_other and os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    before = setup.add_old_backups()
    plant(setup.folder / ".backup.lock", secret)
    done = setup.run("timeout", "20")
    setup.check_failed(done, f"{setup.folder}/.backup.lock is not a regular file of this user", before)
    assert done.returncode == 1
    assert secret.read_text() == SECRET
    assert not secret.with_name("created").exists()


def test_lock_file_is_not_truncated(setup: ScriptSetup) -> None:
    lock = setup.folder / ".backup.lock"
    lock.write_text("content")
    assert setup.run().returncode == 0
    assert lock.read_text() == "content"


# --- the partial file -----------------------------------------------------------------------------------------------

PLANTED_PARTS: dict[str, Callable[[Path, Path], object]] = {
    "symbolic link": lambda part, secret: part.symlink_to(secret),
    "hard link": lambda part, secret: os.link(secret, part),
    "FIFO": lambda part, secret: os.mkfifo(part),
}


@pytest.mark.parametrize("plant", PLANTED_PARTS.values(), ids=PLANTED_PARTS)
@pytest.mark.parametrize("suffix", ["", "-journal", "-wal"])
def test_planted_part_is_not_followed(
    setup: ScriptSetup, secret: Path, plant: Callable[[Path, Path], object], suffix: str
) -> None:
    plant(setup.part.with_name(setup.part.name + suffix), secret)
    done = setup.run("timeout", "20")
    assert (done.returncode, done.stderr) == (0, "")
    assert secret.read_text() == SECRET
    assert setup.backup().lstat().st_nlink == 1
    assert setup.backup().read_bytes()[100:] == setup.source.read_bytes()[100:]


def test_planted_directory_for_part_is_refused(setup: ScriptSetup) -> None:
    setup.part.mkdir()
    done = setup.run()
    assert done.returncode == 1
    assert setup.part.name in done.stderr
    assert setup.visible() == []


REPLACEMENTS: dict[str, Callable[[Path, Path], object]] = {
    "symbolic link": lambda part, secret: part.symlink_to(secret),
    "hard link": lambda part, secret: os.link(secret, part),
    "directory": lambda part, secret: part.mkdir(),
}


@pytest.mark.parametrize("replace", REPLACEMENTS.values(), ids=REPLACEMENTS)
def test_replaced_part_is_not_published(
    setup: ScriptSetup, large_counter_file: Path, secret: Path, replace: Callable[[Path, Path], object]
) -> None:
    shutil.copyfile(large_counter_file, setup.source)
    script = setup.start()
    wait_until(lambda: file_size(setup.part) or script.poll() is not None, "the copy")
    os.killpg(script.pid, signal.SIGSTOP)
    setup.part.unlink()
    replace(setup.part, secret)
    os.killpg(script.pid, signal.SIGCONT)
    done = finish(script)
    assert done.returncode == 1
    assert "was replaced while it was written" in done.stderr
    assert setup.visible() == []
    assert secret.read_text() == SECRET
    assert secret.stat().st_mode & 0o777 == 0o600


# --- the source and its backup --------------------------------------------------------------------------------------


def test_source_with_hard_link_is_refused(setup: ScriptSetup, tmp_path: Path) -> None:
    before = setup.add_old_backups()
    os.link(setup.source, tmp_path / "other name.db")
    setup.check_failed(setup.run(), "sqlite3.db has more than one hard link", before)


@pytest.mark.parametrize(("mode", "expected"), [(0o666, 0o644), (0o660, 0o640), (0o622, 0o600), (0o4755, 0o755)])
def test_backup_is_writable_by_owner_only(setup: ScriptSetup, mode: int, expected: int) -> None:
    setup.source.chmod(mode)
    assert setup.run().returncode == 0
    assert setup.backup().stat().st_mode & 0o7777 == expected
