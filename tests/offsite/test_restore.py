"""A backup comes back from the repository as it was, or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from demo_backups.errors import (
    CopyExistsError,
    CopyMismatchError,
    DamagedBackupError,
    LocalDiskError,
    NoSuchBackupError,
    OffsiteError,
    RepositoryDamagedError,
)
from demo_backups.offsite import program
from demo_backups.offsite.restore import open_new
from demo_backups.offsite.result import State
from demo_backups.records.check import Outcome
from demo_backups.recovery.copies import CHANGE_DIRECTORY
from demo_backups.recovery.local_copy import CopyPaths

from ..helpers.copies import hash_of, hidden_names
from ..helpers.offsite import FIRST, RESTIC, OffsiteSetup
from ..helpers.programs import shadow_program


def lose_copies(machine: OffsiteSetup) -> None:
    shutil.rmtree(machine.copies)
    shutil.rmtree(machine.records)


def store_by_hand(machine: OffsiteSetup, content: str, *tags: str, path: str = "/demo/index.db") -> None:
    """Store something with tags that we could have given."""
    arguments = ["backup", "--stdin", f"--stdin-filename={path}", *(f"--tag={tag}" for tag in tags)]
    machine.restic(*arguments, input=content)


def test_repository_alone_is_enough(machine: OffsiteSetup) -> None:
    sha256 = hash_of(machine.add_copy())
    machine.store()
    lose_copies(machine)
    result = machine.restore()
    assert result.file == machine.copies / FIRST
    assert hash_of(result.file) == sha256
    assert result.outcome is Outcome.PASSED
    status = result.file.stat()
    assert (status.st_mode & 0o777, status.st_mtime) == (0o600, 1767225600)
    (record,) = machine.offsite_records()
    assert record["details"]["file"] == str(result.file)
    assert all(check["passed"] for check in record["checks"])
    assert hidden_names(machine.copies) == []


def test_existing_copy_is_checked_and_kept(machine: OffsiteSetup) -> None:
    path = machine.add_copy()
    machine.store()
    inode = path.stat().st_ino
    assert machine.restore().outcome is Outcome.PASSED
    assert path.stat().st_ino == inode
    path.write_bytes(b"another file")
    with pytest.raises(CopyExistsError):
        machine.restore()
    assert path.read_bytes() == b"another file"


def test_rest_of_killed_restore_is_replaced(machine: OffsiteSetup) -> None:
    sha256 = hash_of(machine.add_copy())
    machine.store()
    (machine.copies / FIRST).rename(machine.copies / f".{FIRST}.part")
    os.truncate(machine.copies / f".{FIRST}.part", 3000)
    assert hash_of(machine.restore().file) == sha256


def test_partial_file_that_cannot_be_created(tmp_path: Path) -> None:
    """The advice is not to remove a file that does not exist."""
    paths = CopyPaths(tmp_path / "missing" / FIRST)
    with pytest.raises(LocalDiskError) as raised, open_new(paths, 10, lambda count: None):
        pass
    assert raised.value.advice == CHANGE_DIRECTORY


def test_unknown_name_is_an_error(machine: OffsiteSetup) -> None:
    machine.add_copy()
    machine.store()
    with pytest.raises(NoSuchBackupError):
        machine.restore("backup_2026-01-01_00-00-01.db")
    machine.select_host("other")
    with pytest.raises(NoSuchBackupError) as caught:
        machine.restore()
    assert "demo" in caught.value.output


def test_different_backups_of_one_name_are_refused(machine: OffsiteSetup) -> None:
    machine.add_copy()
    machine.store()
    good = machine.stored()[0]
    tags = ("demo-backups:demo/index", f"name:{FIRST}", f"sha256:{'0' * 64}", "bytes:3")
    store_by_hand(machine, "bad", *tags)
    lose_copies(machine)
    with pytest.raises(OffsiteError):
        machine.restore()
    assert machine.restore(good.snapshot[:8]).outcome is Outcome.PASSED


@pytest.mark.parametrize("size", [3, 100], ids=["longer", "other content"])
def test_wrong_content_gets_no_name(machine: OffsiteSetup, size: int) -> None:
    tags = ("demo-backups:demo/index", f"name:{FIRST}", f"sha256:{'0' * 64}", f"bytes:{size}")
    store_by_hand(machine, "x" * 100, *tags)
    with pytest.raises(CopyMismatchError):
        machine.restore()
    assert not (machine.copies / FIRST).exists()


def test_restic_that_still_writes_ends_soon(machine: OffsiteSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    """From version 0.18 on, restic ends after Ctrl-C only when what it is writing has been read."""
    store_by_hand(machine, "x" * 100, "demo-backups:demo/index", f"name:{FIRST}", f"sha256:{'0' * 64}", "bytes:3")
    end = "trap 'head -c 1000000 /dev/zero; touch ended; exit 130' INT"
    dump = f"{end}; head -c 100 /dev/zero; sleep 20 > /dev/null & wait"
    body = f'[[ " $* " == *" dump "* ]] || exec {RESTIC} "$@"; cd {machine.folder}; {dump}'
    shadow_program(machine.folder / "bin", "restic", body, monkeypatch)
    monkeypatch.setattr(program, "END_TIMEOUT", 10.0)
    with pytest.raises(CopyMismatchError):
        machine.restore()
    assert (machine.folder / "ended").exists()


OTHER_TAGS = (
    ("demo-backups:demo/index", "name:../../.ssh/authorized_keys", f"sha256:{'0' * 64}", "bytes:1"),
    ("demo-backups:demo/index", "name:tracker_backup_2026-01-01_00-00-00.db", f"sha256:{'0' * 64}", "bytes:1"),
    ("demo-backups:demo/../../x", f"name:{FIRST}", f"sha256:{'0' * 64}", "bytes:1"),
    ("demo-backups:demo/index", f"name:{FIRST}", "sha256:x", "bytes:1"),
    ("demo-backups:demo/index", f"name:{FIRST}", f"sha256:{'0' * 64}", "bytes:-1"),
    ("demo-backups:demo/index", f"name:{FIRST}", "name:x", f"sha256:{'0' * 64}", "bytes:1"),
    ("demo-backups:demo/index",),
)


def test_snapshots_with_other_tags_are_ignored(machine: OffsiteSetup) -> None:
    for tags in OTHER_TAGS:
        store_by_hand(machine, "x", *tags)
    assert machine.stored() == []


def test_backup_with_failed_check_gets_no_name(machine: OffsiteSetup) -> None:
    content = "not a database"
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    store_by_hand(machine, content, "demo-backups:demo/index", f"name:{FIRST}", f"sha256:{sha256}", "bytes:14")
    with pytest.raises(DamagedBackupError):
        machine.restore()
    assert hidden_names(machine.copies) == [f".{FIRST}.part"]
    assert not (machine.copies / FIRST).exists()


def test_snapshot_of_killed_store_is_replaced(machine: OffsiteSetup) -> None:
    """It has the tags of the backup, and a part of its bytes."""
    path = machine.add_copy()
    sha256 = hash_of(path)
    tags = ("demo-backups:demo/index", f"name:{FIRST}", f"sha256:{sha256}", f"bytes:{path.stat().st_size}")
    store_by_hand(machine, "cut", *tags)
    result, _ = machine.store()
    assert result.series[0].state is State.STORED
    assert len(machine.stored()) == 1
    lose_copies(machine)
    assert hash_of(machine.restore().file) == sha256


def test_damaged_backup_is_not_restored(machine: OffsiteSetup) -> None:
    machine.add_copy()
    machine.store()
    lose_copies(machine)
    machine.damage_data()
    with pytest.raises(RepositoryDamagedError):
        machine.restore()
    assert not (machine.copies / FIRST).exists()
