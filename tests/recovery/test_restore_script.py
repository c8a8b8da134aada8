"""The script that restores a database, run by bash on this machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.errors import WrongPathError
from demo_backups.recovery.restore_job import (
    SCRIPT,
    UNCHANGED,
    RestoreRequest,
    RestoreResult,
    parse_result,
    restore_command,
)
from demo_backups.recovery.restore_journal import Method, Proof, Save
from demo_backups.rehearsal.writer import live_writer

from ..helpers.constants import ODD_NAMES
from ..helpers.databases import (
    damage_pages,
    execute,
    leave_hot_journal,
    leave_wal,
    opened,
    set_journal_mode,
)
from ..helpers.processes import wait_until
from ..helpers.restores import (
    NEW,
    OLD,
    RestoreSetup,
    Service,
    make_content,
    read_content,
    rows_of_service,
    set_version,
)

WAYS = {
    "stopped": (Method.IN_PLACE, Proof.STOPPED, "delete"),
    "stopped in WAL mode": (Method.IN_PLACE, Proof.STOPPED, "wal"),
    "locked": (Method.IN_PLACE, Proof.LOCKED, "delete"),
    "transaction": (Method.IN_PLACE, Proof.TRANSACTION, "wal"),
    "swap": (Method.SWAP, Proof.STOPPED, "delete"),
    "swap in WAL mode": (Method.SWAP, Proof.STOPPED, "wal"),
}
EVERY_WAY = pytest.mark.parametrize("way", WAYS)
IN_PLACE = pytest.mark.parametrize("way", [way for way in WAYS if not way.startswith("swap")])


def prepare(setup: RestoreSetup, way: str) -> RestoreRequest:
    """Put the database in the journal mode of a way to restore; return the request."""
    method, proof, mode = WAYS[way]
    set_journal_mode(setup.target, mode)
    return setup.request(method, proof)


def restored(setup: RestoreSetup, request: RestoreRequest) -> RestoreResult:
    """Restore, check that the content is the new one and that nothing is left; return the result."""
    done = setup.restore(request)
    assert done.returncode == 0, done.stdout
    assert read_content(setup.target) == {NEW}
    assert setup.leftovers() == []
    return parse_result(done.stdout)


def refused(setup: RestoreSetup, request: RestoreRequest, message: str) -> None:
    """Try to restore, and check that nothing was changed."""
    before = setup.target.read_bytes() if setup.target.exists() else None
    done = setup.restore(request)
    assert done.returncode == UNCHANGED, done.stdout
    assert message in done.stdout
    assert (setup.target.read_bytes() if setup.target.exists() else None) == before
    assert not setup.saved.exists()
    assert setup.pending() is None


# --- each way -------------------------------------------------------------------------------------------------------


@EVERY_WAY
def test_restore_replaces_content(restore_setup: RestoreSetup, way: str) -> None:
    set_version(restore_setup.backup, 7)
    request = prepare(restore_setup, way)
    result = restored(restore_setup, request)
    assert (result.proof, result.identical) == (request.proof, True)
    assert read_content(restore_setup.saved) == {OLD}
    with contextlib.closing(sqlite3.connect(restore_setup.target)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (7,)
        assert database.execute("PRAGMA application_id").fetchone() == (7,)


@EVERY_WAY
def test_missing_backup_changes_nothing(restore_setup: RestoreSetup, way: str) -> None:
    request = prepare(restore_setup, way)
    restore_setup.backup.unlink()
    refused(restore_setup, request, "there is no regular file")


@IN_PLACE
def test_backup_that_vanishes_never_empties_database(restore_setup: RestoreSetup, way: str) -> None:
    request = prepare(restore_setup, way)
    link = restore_setup.backup.with_name(f".restore.{restore_setup.backup.name}")
    # It is removed at the last moment, when the saved state gets its name.
    path = restore_setup.shadow({"ln": f'PATH=/usr/bin:/bin ln "$@"; case "$*" in *../saved*) rm -f "{link}" ;; esac'})
    done = restore_setup.restore(request, PATH=path)
    assert done.returncode == UNCHANGED, done.stdout
    assert read_content(restore_setup.target) == {OLD}
    assert not link.exists()  # SQLite has not created it


@pytest.mark.parametrize("content", [b"", b"SQLite format 4\0" * 300], ids=["empty", "other"])
def test_file_that_is_no_database_is_refused(restore_setup: RestoreSetup, content: bytes) -> None:
    restore_setup.backup.write_bytes(content)
    refused(restore_setup, restore_setup.request(Method.IN_PLACE), "is not an SQLite database")


ODD = {key: name for key, name in ODD_NAMES.items() if key != "newline"}
ALL_ODD = ODD["dash"] + "".join(ODD.values())


@pytest.mark.parametrize(
    ("way", "name"), [("locked", ALL_ODD), ("transaction", ALL_ODD), *(("swap", name) for name in ODD.values())]
)
def test_odd_names_are_restored(restore_setup: RestoreSetup, way: str, name: str) -> None:
    request = prepare(restore_setup, way)
    folder = restore_setup.folder / name
    folder.mkdir()
    target, backup = folder / f"{name}.db", folder / f"backup {name}.db"
    restore_setup.target.rename(target)
    shutil.copyfile(restore_setup.backup, backup)
    done = restore_setup.restore(replace(request, target=PurePosixPath(target), backup=PurePosixPath(backup)))
    assert done.returncode == 0, done.stdout
    assert read_content(target) == {NEW}
    assert sorted(path.name for path in folder.iterdir()) == sorted([target.name, backup.name])


def test_path_with_newline_is_refused(restore_setup: RestoreSetup) -> None:
    request = replace(restore_setup.request(Method.SWAP), target=PurePosixPath("/tmp/two\nlines.db"))
    with pytest.raises(WrongPathError):
        restore_command(request)


# --- a live service -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_restore_under_load_fails_no_write(restore_setup: RestoreSetup, mode: str) -> None:
    for path in (restore_setup.target, restore_setup.backup):
        execute(path, "CREATE TABLE torrents (id INTEGER PRIMARY KEY, info_hash TEXT UNIQUE, completed INTEGER)")
        execute(path, "INSERT INTO torrents (info_hash, completed) VALUES ('a', 1)")
    set_journal_mode(restore_setup.target, mode)
    proof = Proof.TRANSACTION if mode == "wal" else Proof.LOCKED
    with live_writer(restore_setup.target, rate=200) as traffic:
        done = restore_setup.restore(restore_setup.request(Method.IN_PLACE, proof))
    assert done.returncode == 0, done.stdout
    assert (traffic.failed, traffic.errors) == (0, "")
    result = parse_result(done.stdout)
    assert read_content(restore_setup.target) == {NEW}
    if mode == "wal":
        assert list(result.integrity) == ["ok"]
        assert result.changed_pages is not None
    else:
        assert result.identical


def test_pages_that_service_has_written_are_counted(restore_setup: RestoreSetup) -> None:
    request = prepare(restore_setup, "transaction")
    change = f"sqlite3 '{restore_setup.target}' \"UPDATE content SET origin = 'x' WHERE id = 1\""
    path = restore_setup.shadow({"cmp": f'PATH=/usr/bin:/bin; {change}; cmp "$@"'})
    done = restore_setup.restore(request, PATH=path)
    assert done.returncode == 0, done.stdout
    result = parse_result(done.stdout)  # the snapshot keeps what is committed during the comparison out of it
    assert (result.identical, result.changed_pages) == (True, 0)
    assert read_content(restore_setup.target) == {NEW, "x"}


def test_reader_keeps_snapshot_in_wal_mode(restore_setup: RestoreSetup) -> None:
    request = prepare(restore_setup, "transaction")
    with opened(restore_setup.target) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM content").fetchone()
        done = restore_setup.restore(request)
        assert done.returncode == 0, done.stdout
        assert reader.execute("SELECT DISTINCT origin FROM content").fetchall() == [(OLD,)]
        result = parse_result(done.stdout)
        assert (result.identical, result.changed_pages) == (True, 0)
        assert result.wal_bytes == Path(f"{restore_setup.target}-wal").stat().st_size
        reader.execute("COMMIT")
        assert reader.execute("SELECT DISTINCT origin FROM content").fetchall() == [(NEW,)]


def test_reader_refuses_restore_in_rollback_mode(restore_setup: RestoreSetup) -> None:
    request = prepare(restore_setup, "locked")
    with opened(restore_setup.target) as reader:  # this process must not close the file meanwhile: it would unlock it
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM content").fetchone()
        done = restore_setup.restore(request)
    assert done.returncode == UNCHANGED, done.stdout
    assert "database is locked" in done.stdout or "database is busy" in done.stdout
    assert read_content(restore_setup.target) == {OLD}


def test_other_page_size_in_wal_mode_changes_nothing(restore_setup: RestoreSetup) -> None:
    restore_setup.backup.unlink()
    make_content(restore_setup.backup, NEW, page_size=8192)
    refused(restore_setup, prepare(restore_setup, "transaction"), "SQLite did not restore the backup")
    assert read_content(restore_setup.target) == {OLD}


def test_damaged_pages_are_replaced(restore_setup: RestoreSetup) -> None:
    damage_pages(restore_setup.target, 10)
    before = restore_setup.target.read_bytes()
    restored(restore_setup, restore_setup.request(Method.IN_PLACE, save=Save.RAW))
    assert restore_setup.saved.with_suffix(".raw.db").read_bytes() == before


# --- swap -----------------------------------------------------------------------------------------------------------


def test_stale_sidecars_are_not_used(restore_setup: RestoreSetup) -> None:
    leave_wal(restore_setup.target, "UPDATE content SET origin = 'stale'")
    restored(restore_setup, restore_setup.request(Method.SWAP))
    assert read_content(restore_setup.saved) == {"stale"}


def test_stale_sidecars_of_missing_database(restore_setup: RestoreSetup) -> None:
    leave_wal(restore_setup.target, "UPDATE content SET origin = 'stale'")
    restore_setup.target.unlink()
    restored(restore_setup, restore_setup.request(Method.SWAP, save=Save.RAW))
    saved = restore_setup.saved.with_suffix(".raw.db")
    assert not saved.exists()
    assert saved.with_name(f"{saved.name}-wal").stat().st_size


def test_hot_journal_is_not_rolled_back_into_backup(restore_setup: RestoreSetup) -> None:
    leave_hot_journal(restore_setup.target, "UPDATE content SET origin = 'lost', padding = randomblob(3000)")
    restored(restore_setup, restore_setup.request(Method.SWAP, save=Save.RAW))
    saved = restore_setup.saved.with_suffix(".raw.db")
    assert read_content(saved) == {OLD}  # with the raw copy of its journal


@pytest.mark.parametrize("way", ["stopped", "locked", "swap"])
def test_interrupted_transaction_is_not_in_saved_state(restore_setup: RestoreSetup, way: str) -> None:
    request = prepare(restore_setup, way)
    leave_hot_journal(restore_setup.target, "UPDATE content SET origin = 'lost', padding = randomblob(3000)")
    restored(restore_setup, request)
    assert read_content(restore_setup.saved) == {OLD}


@pytest.mark.parametrize("way", ["stopped", "locked", "swap"])
def test_journal_that_names_a_file_is_refused(restore_setup: RestoreSetup, way: str) -> None:
    """SQLite deletes the super-journal that a journal names when it rolls it back: any file, if it runs as root."""
    victim = restore_setup.folder / "victim"
    victim.write_text("content")
    request = prepare(restore_setup, way)
    leave_hot_journal(restore_setup.target, "UPDATE content SET origin = 'lost', padding = randomblob(3000)")
    name = str(victim).encode()
    with Path(f"{restore_setup.target}-journal").open("ab") as file:
        file.write(struct.pack(">I", 2**30 // 4096 + 1) + name + struct.pack(">II", len(name), sum(name)))
        file.write(bytes.fromhex("d9d505f920a163d7"))
    refused(restore_setup, request, "super-journal")
    assert victim.exists()


@pytest.mark.parametrize("leave", [leave_wal, leave_hot_journal])
def test_raw_copies_are_restored_with_sidecars(restore_setup: RestoreSetup, leave: object) -> None:
    leave(restore_setup.target, "UPDATE content SET origin = 'last', padding = randomblob(3000)")  # type: ignore[operator]
    request = restore_setup.request(Method.SWAP, save=Save.RAW)
    restored(restore_setup, request)
    assert request.saved
    undo = replace(request, backup=request.saved, saved=PurePosixPath(restore_setup.saved), save=Save.COPY)
    done = restore_setup.restore(undo)
    assert done.returncode == 0, done.stdout
    assert read_content(restore_setup.target) == ({"last"} if leave is leave_wal else {OLD})


def test_swap_keeps_owner_and_mode(restore_setup: RestoreSetup) -> None:
    restore_setup.target.chmod(0o664)
    if os.geteuid() == 0:
        os.chown(restore_setup.target, 1234, 1235)
    before = restore_setup.target.stat()
    restored(restore_setup, restore_setup.request(Method.SWAP))
    after = restore_setup.target.stat()
    assert (after.st_mode, after.st_uid, after.st_gid, after.st_nlink) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
        1,
    )
    assert after.st_ino != before.st_ino


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o600), ("640", 0o640)])
def test_mode_of_missing_file(restore_setup: RestoreSetup, mode: str | None, expected: int) -> None:
    restore_setup.target.unlink()
    restored(restore_setup, replace(restore_setup.request(Method.SWAP, save=Save.NONE), mode=mode))
    assert restore_setup.target.stat().st_mode & 0o777 == expected


def test_swap_of_open_database_is_refused(restore_setup: RestoreSetup) -> None:
    with opened(restore_setup.target):
        refused(restore_setup, restore_setup.request(Method.SWAP), "the database is open: process")


def test_swap_finds_process_with_deleted_database(restore_setup: RestoreSetup) -> None:
    with opened(restore_setup.target):
        restore_setup.target.unlink()
        refused(restore_setup, restore_setup.request(Method.SWAP, save=Save.NONE), "the database is open: process")


def test_too_little_space_changes_nothing(restore_setup: RestoreSetup) -> None:
    for method in Method:
        request = replace(restore_setup.request(method), floor=2**59)
        refused(restore_setup, request, "must stay free")


# --- the service ----------------------------------------------------------------------------------------------------


@pytest.fixture
def service(restore_setup: RestoreSetup) -> Iterator[Service]:
    """A running service in WAL mode that the restore stops and starts."""
    set_journal_mode(restore_setup.target, "wal")
    running = Service(restore_setup.target, restore_setup.folder / "pid")
    restore_setup.set_service(running.stop, running.start)
    with running.running():
        yield running


@pytest.mark.parametrize("method", Method)
def test_service_is_stopped_and_started(restore_setup: RestoreSetup, service: Service, method: Method) -> None:
    done = restore_setup.restore(restore_setup.request(method))
    assert done.returncode == 0, done.stdout
    result = parse_result(done.stdout)
    assert result.identical
    assert result.stopped_seconds
    assert read_content(restore_setup.target) == {NEW}
    wait_until(lambda: rows_of_service(restore_setup.target) > 2, "commits of the service")
    assert rows_of_service(restore_setup.saved)  # saved after the service was stopped


@pytest.mark.parametrize("method", Method)
def test_unhealthy_service_reverts_restore(restore_setup: RestoreSetup, service: Service, method: Method) -> None:
    rows = rows_of_service(restore_setup.target)
    restore_setup.set_service(service.stop, service.start, "false")
    done = restore_setup.restore(replace(restore_setup.request(method), service_timeout=5))
    assert done.returncode == 21, done.stdout
    assert read_content(restore_setup.target) == {OLD}
    assert rows_of_service(restore_setup.target) >= rows
    assert restore_setup.pending() is None


def test_healthy_that_hangs_reverts_restore(restore_setup: RestoreSetup) -> None:
    restore_setup.set_service(healthy="sleep 600")
    done = restore_setup.restore(replace(restore_setup.request(Method.SWAP), service_timeout=1))
    assert done.returncode == 21, done.stdout
    assert read_content(restore_setup.target) == {OLD}


def test_start_that_fails_reverts_restore(restore_setup: RestoreSetup) -> None:
    restore_setup.set_service(start="echo no such container >&2; false")
    done = restore_setup.restore(restore_setup.request(Method.SWAP))
    assert done.returncode == 21, done.stdout
    assert "no such container" in done.stdout
    assert read_content(restore_setup.target) == {OLD}


def test_stop_that_fails_changes_nothing(restore_setup: RestoreSetup) -> None:
    started = restore_setup.folder / "started"
    restore_setup.set_service(stop="false", start=f"touch '{started}'")
    refused(restore_setup, restore_setup.request(Method.SWAP), "the service could not be stopped")
    assert started.exists()


def test_service_that_restarts_by_itself_is_noticed(restore_setup: RestoreSetup, service: Service) -> None:
    # Another process starts it as soon as the old file is away. It has neither the locks nor the output of the script.
    start = f"( PATH={os.environ['PATH']}; {service.start} ) > /dev/null 2>&1 7>&- 8>&- 9>&-"
    program = f'PATH=/usr/bin:/bin mv "$@"; case "$*" in */{restore_setup.target.name}) {start} ;; esac'
    done = restore_setup.restore(restore_setup.request(Method.SWAP), PATH=restore_setup.shadow({"mv": program}))
    assert done.returncode == 21, done.stdout
    assert read_content(restore_setup.target) == {OLD}
    strangers = sorted(restore_setup.target.parent.glob("*.set-aside_*"))
    assert strangers  # what the restarted service wrote is kept


# --- two at once ----------------------------------------------------------------------------------------------------


def test_restore_during_backup_is_refused(restore_setup: RestoreSetup) -> None:
    with Path(restore_setup.database.lock).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(restore_setup, restore_setup.request(Method.IN_PLACE), "is locked")


def test_second_restore_at_once_is_refused(restore_setup: RestoreSetup) -> None:
    begin, end = restore_setup.folder / "begin", restore_setup.folder / "end"
    restore_setup.set_service(stop=f"touch '{begin}'; until [ -e '{end}' ]; do sleep 0.02; done")
    first = restore_setup.start(restore_command(restore_setup.request(Method.SWAP)))
    wait_until(begin.exists, "the first restore")
    for request in (restore_setup.request(Method.IN_PLACE), replace(restore_setup.request(Method.SWAP), lock=None)):
        second = restore_setup.restore(request)
        assert second.returncode == UNCHANGED, second.stdout
        assert "is locked" in second.stdout
    end.touch()
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 0, output


def test_script_passes_shellcheck_and_fits_in_argument(restore_setup: RestoreSetup) -> None:
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", SCRIPT], check=True)
    assert len(restore_command(restore_setup.request(Method.SWAP))) < 64 * 1024


# --- a full disk ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("full", ["data", "backups"])
def test_disk_that_fills_up_changes_nothing(
    restore_setup: RestoreSetup, private_mounts: list[str], method: Method, full: str
) -> None:
    folder = restore_setup.folder / full
    fill = f"head -c 100M /dev/zero > '{folder}/fill' || true"
    restore_setup.set_service(stop=fill, start=f"rm '{folder}/fill'")
    commands = [
        f"cp -a '{folder}' '{folder}.copy'; mount -t tmpfs -o size=2M tmpfs '{folder}'",
        f"cp -a '{folder}.copy/.' '{folder}'; chmod 700 '{folder}'",
        f"code=0; ( {restore_command(restore_setup.request(method))} ) || code=$?",
        f"rm -rf '{folder}.copy'; cp -a '{folder}' '{folder}.copy'; exit $code",
    ]
    done = restore_setup.run(shlex.join([*private_mounts, "sh", "-euc", "\n".join(commands)]))
    copy = folder.with_name(f"{full}.copy")
    target = copy / restore_setup.target.name if full == "data" else restore_setup.target
    if (method, full) == (Method.SWAP, "data"):  # the new file was written before
        assert done.returncode == 0, done.stdout
        assert read_content(target) == {NEW}
    else:
        assert done.returncode == UNCHANGED, done.stdout
        assert read_content(target) == {OLD}
    assert not (copy if full == "backups" else restore_setup.backups).joinpath(restore_setup.saved.name).exists() or (
        done.returncode == 0
    )
