"""`inv fetch --delta`: rsync sends the pages that changed since the last fetched backup."""

from __future__ import annotations

import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.errors import INTERRUPTED, ConnectionLostError, RsyncError
from demo_backups.remote.download import Meter
from demo_backups.remote.host import Host
from demo_backups.remote.rsync import MOST_BLOCKS, PAGE, choose_block_size, update_file

from .helpers.constants import EVERY_ODD_NAME, needs_rsync
from .helpers.copies import change_pages, hash_of, hidden_names, make_large_backup
from .helpers.processes import wait_for_end, wait_until
from .helpers.programs import link_programs, set_login_shell, write_program
from .helpers.tasks import DemoServer, assert_exit, assert_success, read_json

OLDER, NAME = "backup_2026-01-01_00-00-00.db", "backup_2026-01-02_00-00-00.db"
SIZE = 12 * 2**20

pytestmark = needs_rsync


@pytest.fixture
def folder(home: Path) -> Path:
    """The directory of the copies of the server."""
    return home / "copies/rehearsal"


@pytest.fixture
def backup(demo_server: DemoServer, folder: Path) -> Path:
    """A backup, 1 % of whose pages have changed since the last one that was fetched."""
    older = make_large_backup(demo_server.backups, OLDER, SIZE // 2**20)
    assert_success(demo_server.inv("fetch"))
    backup = demo_server.backups / NAME
    shutil.copy2(older, backup)
    change_pages(backup)
    return backup


def assert_copy(folder: Path, backup: Path) -> None:
    copy = folder / NAME
    assert hash_of(copy) == hash_of(backup)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert copy.stat().st_mtime_ns == backup.stat().st_mtime_ns
    assert hidden_names(folder) == []
    assert [path.name for path in backup.parent.iterdir() if ".fetch" in path.name] == []


def test_changed_pages_are_sent_only(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    result = read_json(demo_server.inv("fetch", "--delta", "--json"))
    assert_copy(folder, backup)
    size = backup.stat().st_size
    print(f"{result['sent_bytes'] / size:.2%} of {size:,} bytes were sent")
    assert size // 100 < result["sent_bytes"] < 0.03 * size
    assert (result["sha256"], result["bytes"], result["resumed_from"]) == (hash_of(backup), size, 0)
    assert result["verified"] is True
    assert demo_server.records()[-1]["details"]["sent_bytes"] == result["sent_bytes"]


@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
def test_base_of_other_size_or_content(demo_server: DemoServer, backup: Path, folder: Path, change: str) -> None:
    base = folder / OLDER
    if change == "longer":
        base.write_bytes(base.read_bytes() + os.urandom(2**20))
    elif change == "shorter":
        os.truncate(base, SIZE // 2)
    else:
        base.write_bytes(os.urandom(SIZE // 2))
    before = base.read_bytes()
    result = read_json(demo_server.inv("fetch", "--delta", "--json"))
    assert_copy(folder, backup)
    assert base.read_bytes() == before
    if change == "longer":
        assert result["sent_bytes"] < 0.03 * SIZE


def test_first_fetch_sends_the_whole(demo_server: DemoServer, folder: Path) -> None:
    backup = make_large_backup(demo_server.backups, NAME)
    output = assert_success(demo_server.inv("fetch", "--delta"))
    assert "no earlier copy" in output
    assert_copy(folder, backup)


@pytest.mark.parametrize("side", ["here", "on the host"])
def test_missing_rsync_falls_back(
    demo_server: DemoServer, backup: Path, folder: Path, tmp_path: Path, side: str
) -> None:
    programs = str(link_programs(tmp_path / "programs", "rsync"))
    variables = {}
    if side == "here":
        variables["PATH"] = programs
    else:
        demo_server.server.environment["PATH"] = programs
    output = assert_success(demo_server.inv("fetch", "--delta", **variables))
    assert "rsync is not installed on" in output
    assert_copy(folder, backup)


@pytest.mark.parametrize(
    "body", ["echo broken >&2; exit 12", "head -c 100 /dev/urandom; exit 0", "kill -TERM $$", "sleep 0.2"]
)
def test_failed_rsync_falls_back(demo_server: DemoServer, backup: Path, folder: Path, body: str) -> None:
    write_program(demo_server.server.folder / "bin/rsync", f"#!/bin/sh\n{body}\n")
    done = demo_server.inv("fetch", "--delta", INVOKE_FETCH_LIMIT="100 MB")
    assert_success(done)
    assert_copy(folder, backup)


def test_greeting_does_not_disturb_rsync(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    set_login_shell(demo_server, 'echo Welcome; echo "You have mail" >&2; exec /bin/sh "$@"')
    result = read_json(demo_server.inv("fetch", "--delta", "--json"))
    assert result["sent_bytes"] < 0.03 * SIZE
    assert_copy(folder, backup)


def test_wrong_result_is_fetched_again(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    """The rsync on the host sends another file."""
    other = demo_server.server.folder / "other"
    shutil.copy(backup, other)
    change_pages(other)
    with other.open("ab") as file:
        file.truncate(backup.stat().st_size - PAGE)
    write_program(
        demo_server.server.folder / "bin/rsync", f'#!/bin/sh\nexec 9< {other}\nexec {shutil.which("rsync")} "$@"\n'
    )
    output = assert_success(demo_server.inv("fetch", "--delta"))
    assert "starting from the beginning" in output
    assert_copy(folder, backup)


def test_lost_connection_is_an_error(demo_server: DemoServer, host: Host, tmp_path: Path) -> None:
    """It is lost while rsync waits on the host. The next try succeeds."""
    source, target, started = demo_server.backups / NAME, tmp_path / "target", demo_server.server.folder / "started"
    source.write_bytes(os.urandom(100_000))
    target.write_bytes(b"old")
    rsync = write_program(demo_server.server.folder / "bin/rsync", f"#!/bin/sh\ntouch {started}; exec sleep 600\n")

    def cut() -> None:
        wait_until(started.exists, "rsync to start on the host")
        host._runner.connection.transport.close()  # type: ignore[attr-defined]

    with ThreadPoolExecutor() as pool:
        cutting = pool.submit(cut)
        with pytest.raises(ConnectionLostError):
            update_file(host, PurePosixPath(source), target, 100_000, Meter())
        cutting.result()
    rsync.unlink()
    update_file(host, PurePosixPath(source), target, 100_000, Meter())
    assert target.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("next_flags", [["--delta"], []], ids=["delta", "plain"])
def test_interrupted_delta_is_continued(
    demo_server: DemoServer, backup: Path, folder: Path, next_flags: list[str]
) -> None:
    part = folder / f".{NAME}.part"
    task = demo_server.start("fetch", "--delta", "--limit", "20kB")
    wait_until(lambda: part.exists() and part.stat().st_size >= SIZE, "a copy of the base")
    os.killpg(task.pid, signal.SIGINT)
    assert_exit(wait_for_end(task), INTERRUPTED, f"--backup {NAME}")
    assert part.exists()
    result = read_json(demo_server.inv("fetch", *next_flags, "--json"))
    assert_copy(folder, backup)
    assert (result["sent_bytes"] < 0.03 * SIZE) == bool(next_flags)
    assert (result["resumed_from"] > 0) == bool(next_flags)


def test_dry_run_names_the_base(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    assert str(folder / OLDER) in assert_success(demo_server.inv("fetch", "--delta", "--dry-run"))
    assert hidden_names(folder) == []


@EVERY_ODD_NAME
def test_file_with_odd_name_is_updated(host: Host, demo_server: DemoServer, tmp_path: Path, name: str) -> None:
    source, target = demo_server.backups / name, tmp_path / name
    source.write_bytes(os.urandom(100_000))
    target.write_bytes(b"old")
    update_file(host, PurePosixPath(source), target, 100_000, Meter())
    assert target.read_bytes() == source.read_bytes()


def test_host_sends_more_than_the_backup(host: Host, demo_server: DemoServer, tmp_path: Path) -> None:
    block = os.urandom(PAGE)
    source, target, bomb = demo_server.backups / NAME, tmp_path / "target", demo_server.backups / "bomb"
    source.write_bytes(block * 8)
    target.write_bytes(block * 4)
    bomb.write_bytes(block * 8000)
    body = f'#!/bin/sh\nexec 9< {bomb}\nexec {shutil.which("rsync")} "$@"\n'
    write_program(demo_server.server.folder / "bin/rsync", body)
    with pytest.raises(RsyncError):
        update_file(host, PurePosixPath(source), target, source.stat().st_size, Meter())
    assert target.stat().st_size <= source.stat().st_size


def test_missing_file_is_an_error(host: Host, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    with pytest.raises(RsyncError, match="No such file"):
        update_file(host, PurePosixPath("/missing"), tmp_path / "target", 1, Meter())


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, PAGE), (PAGE * MOST_BLOCKS, PAGE), (PAGE * MOST_BLOCKS + 1, 2 * PAGE), (17 * 10**9, 16384), (2**60, 2**17)],
)
def test_block_size_limits_memory(size: int, expected: int) -> None:
    assert choose_block_size(size) == expected
