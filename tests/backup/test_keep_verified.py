"""Keeping the newest verified backup: the link, which of two stays, the rotation of the script, and the tasks."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from demo_backups.backup.catalog import find_verified, list_backups
from demo_backups.backup.keep_verified import can_keep, keep_backup, keep_command
from demo_backups.errors import FAILED, INCOMPLETE, BackupNotKeptError
from demo_backups.records.record import VerificationRecord
from demo_backups.records.store import read_records
from demo_backups.remote.files import File, stat_file
from demo_backups.remote.host import Host
from demo_backups.settings.model import Database

from ..helpers.backup_script import DAY, make_older
from ..helpers.backups import make_backup
from ..helpers.databases import damage_pages
from ..helpers.tasks import CompletedTask, DemoServer, assert_exit, assert_success, read_json

OLD, NEW = "backup_2026-01-01_00-00-00.db", "backup_2026-01-02_00-00-00.db"
KEEP = {"INVOKE_KEEP_VERIFIED": "1"}


@pytest.fixture
def folder(database: Database) -> Path:
    """The backup directory, with an old and a new backup, and one of another database."""
    folder = Path(database.backup_dir)
    for age, name in enumerate([NEW, OLD, f"tracker_{OLD}"]):
        (folder / name).write_text(name)
        make_older(folder / name, age * DAY)
    return folder


def find_backup(host: Host, database: Database, name: str) -> File:
    """Find one of the backups."""
    backup = stat_file(host, database.backup_dir / name)
    assert backup
    return backup


def kept(folder: Path) -> list[str]:
    """Return the names of the links."""
    return sorted(path.name for path in folder.glob("verified.*"))


@pytest.mark.parametrize("order", [[OLD, NEW], [NEW, OLD], [OLD], [NEW, NEW]])
def test_newest_is_kept_in_any_order(local_host: Host, database: Database, folder: Path, order: list[str]) -> None:
    for name in order:
        path = keep_backup(local_host, database, find_backup(local_host, database, name))
    newest = max(order)
    assert kept(folder) == [f"verified.{newest}"]
    assert Path(path) == folder / f"verified.{newest}"
    assert Path(path).samefile(folder / newest)
    verified = find_verified(local_host, database)
    assert verified
    assert verified.path == path
    assert sorted(backup.path.name for backup in list_backups(local_host, database)) == [OLD, NEW]
    assert not can_keep(database, verified)


def test_equal_times_are_decided_by_name(local_host: Host, database: Database, folder: Path) -> None:
    times = (folder / OLD).stat()
    os.utime(folder / NEW, ns=(times.st_atime_ns, times.st_mtime_ns))
    for name in (NEW, OLD):
        keep_backup(local_host, database, find_backup(local_host, database, name))
    assert kept(folder) == [f"verified.{NEW}"]


def test_link_of_other_database_is_untouched(local_host: Host, database: Database, folder: Path) -> None:
    others = [f"verified.tracker_{OLD}", "verified.backup_by_hand.db", "verified.notes"]
    for name in others:
        (folder / name).touch()
    keep_backup(local_host, database, find_backup(local_host, database, OLD))
    assert kept(folder) == sorted([*others, f"verified.{OLD}"])


def test_replaced_backup_is_not_kept(local_host: Host, database: Database, folder: Path) -> None:
    backup = find_backup(local_host, database, OLD)
    (folder / OLD).write_text("another one")
    with pytest.raises(BackupNotKeptError, match="replaced"):
        keep_backup(local_host, database, backup)
    assert kept(folder) == []


@pytest.mark.parametrize("plant", [Path.mkdir, lambda path: path.symlink_to(NEW), Path.touch])
def test_taken_name_is_not_overwritten(
    local_host: Host, database: Database, folder: Path, plant: Callable[[Path], None]
) -> None:
    link = folder / f"verified.{NEW}"
    plant(link)
    before = link.lstat()
    with pytest.raises(BackupNotKeptError, match=f"not kept as verified.{NEW}"):
        keep_backup(local_host, database, find_backup(local_host, database, NEW))
    assert os.path.samestat(before, link.lstat())


def test_killed_replacement_leaves_a_link(database: Database, folder: Path) -> None:
    (folder / f"verified.{OLD}").hardlink_to(folder / OLD)
    # The command dies before each of its programs in turn.
    for count in range(1, 8):
        command = f'n=0; for p in ln sync rm; do eval "$p() {{ n=\\$((n+1)); [ \\$n -lt {count} ] || kill -9 \\$\\$; '
        command += f'command $p \\"\\$@\\"; }}"; done\n{keep_command(database, NEW)}'
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        assert kept(folder), count
        if done.returncode == 0:
            break
    assert (done.returncode, done.stdout) == (0, f"verified.{NEW}\n")
    assert kept(folder) == [f"verified.{NEW}"]


# --- the script, and the tasks --------------------------------------------------------------------------------------


def verify(demo_server: DemoServer, *arguments: str, **changes: str) -> CompletedTask:
    """Verify a backup with the setting."""
    return demo_server.inv("verify", *arguments, **(KEEP | changes))


def test_verified_backup_survives_rotation(demo_server: DemoServer) -> None:
    backup = make_backup(demo_server.source, demo_server.backups)
    assert_success(verify(demo_server))
    content = backup.read_bytes()
    make_older(backup, 8 * DAY + 60)
    new = make_backup(demo_server.source, demo_server.backups)
    assert demo_server.names() == [new.name, f"verified.{backup.name}"]
    link = new.with_name(f"verified.{backup.name}")
    assert link.read_bytes() == content
    # It can be checked like a backup, and is no backup of its own.
    verification = read_json(verify(demo_server, "--json", "--backup", link.name))
    assert verification["backup"]["path"] == str(link)
    assert demo_server.names() == [new.name, f"verified.{backup.name}"]
    listing = read_json(demo_server.inv("list-backups", "--json"))
    assert [entry["path"] for entry in listing["backups"]] == [str(new)]
    assert listing["verified"]["path"] == str(link)
    assert link.name in assert_success(demo_server.inv("list-backups", COLUMNS="300"))


def test_failed_verification_keeps_earlier_one(demo_server: DemoServer) -> None:
    good = make_backup(demo_server.source, demo_server.backups)
    assert_success(verify(demo_server))
    make_older(good, DAY)
    damaged = demo_server.backups / NEW
    shutil.copy(good, damaged)
    damage_pages(damaged)
    assert verify(demo_server).returncode == FAILED
    assert kept(demo_server.backups) == [f"verified.{good.name}"]


@pytest.mark.parametrize("case", ["off", "quick", "no-compare", "elsewhere"])
def test_not_every_verification_keeps(demo_server: DemoServer, case: str) -> None:
    backup = make_backup(demo_server.source, demo_server.backups)
    changes = {"INVOKE_KEEP_VERIFIED": "0"} if case == "off" else {}
    arguments = [f"--{case}"] if case in ("quick", "no-compare") else []
    if case == "elsewhere":
        copy = shutil.copy2(backup, demo_server.server.folder / backup.name)
        arguments = ["--backup", str(copy)]
    output = assert_success(verify(demo_server, *arguments, **changes))
    assert kept(demo_server.backups) == []
    assert ("not kept" in output) == (case != "off")


def test_unkept_backup_exits_4_after_result(demo_server: DemoServer) -> None:
    backup = make_backup(demo_server.source, demo_server.backups)
    (demo_server.backups / f"verified.{backup.name}").mkdir()
    done = verify(demo_server, "--json")
    assert read_json(done, INCOMPLETE)["passed"] is True
    assert_exit(done, INCOMPLETE, "passed all checks, but was not kept", "File exists")
    ((record,), _) = read_records(Path(demo_server.environment["INVOKE_EVIDENCE_DIR"]))
    assert isinstance(record, VerificationRecord)
    assert (record.exit_status, record.outcome.value) == (INCOMPLETE, True)
