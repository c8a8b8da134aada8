"""A file is uploaded whole, or resumed from the bytes on the host; only its SHA-256 gives it its name."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from demo_backups.errors import (
    CouldNotLookError,
    LocalFileChangedError,
    StepError,
    UnsafePathError,
    UploadConflictError,
    UploadRunningError,
)
from demo_backups.remote import upload as upload_module
from demo_backups.remote import upload_part
from demo_backups.remote.download import can_compress
from demo_backups.remote.host import Host
from demo_backups.remote.upload import Uploaded, upload

from ..helpers.constants import EVERY_ODD_NAME, PLAIN_AND_ZSTD, needs_zstd
from ..helpers.programs import link_programs, set_login_shell, write_program
from ..helpers.tasks import DemoServer

DATA = os.urandom(3_000_000) + b"compressible" * 500_000
SHA256 = hashlib.sha256(DATA).hexdigest()
MODIFIED_NS = 1_700_000_000_123_456_789


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A file on this machine."""
    path = tmp_path / "local.db"
    path.write_bytes(DATA)
    os.utime(path, ns=(MODIFIED_NS, MODIFIED_NS))
    return path


@pytest.fixture
def folder(demo_server: DemoServer) -> Path:
    """The directory on the server that gets the file."""
    return demo_server.backups


@pytest.fixture
def send(host: Host, local: Path, folder: Path) -> Callable[..., Uploaded]:
    """Upload the file to the server."""

    def send_to(name: str = "new.db", **options: Any) -> Uploaded:
        return upload(host, local, PurePosixPath(folder / name), notify=print, **options)

    return send_to


Send = Callable[..., Uploaded]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def part_of(folder: Path, name: str = "new.db") -> Path:
    return folder / f".upload.{name}"


def assert_published(folder: Path, name: str = "new.db") -> None:
    path = folder / name
    assert path.read_bytes() == DATA
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_mtime_ns == MODIFIED_NS
    assert path.stat().st_nlink == 1
    assert names(folder) == [name]


# --- complete and resumed -------------------------------------------------------------------------------------------


@PLAIN_AND_ZSTD
@pytest.mark.parametrize("offset", [0, 1, 2_999_999, len(DATA)])
def test_upload_sends_missing_bytes_only(host: Host, folder: Path, send: Send, compress: bool, offset: int) -> None:
    assert can_compress(host) or not compress
    if offset:
        part_of(folder).write_bytes(DATA[:offset])
    uploaded = send(compress=compress)
    assert_published(folder)
    assert (uploaded.bytes, uploaded.sha256, uploaded.resumed_from) == (len(DATA), SHA256, offset)
    if not compress:
        assert uploaded.sent_bytes == len(DATA) - offset
    elif offset < 2:
        assert 3_000_000 - offset <= uploaded.sent_bytes < 3_100_000


def test_empty_file_is_uploaded(host: Host, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert upload(host, tmp_path / "empty", PurePosixPath(folder / "empty")).bytes == 0
    assert (folder / "empty").read_bytes() == b""


@EVERY_ODD_NAME
def test_file_with_odd_name_is_uploaded(host: Host, folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"content")
    (folder / name).mkdir()
    part_of(folder / name, name).write_bytes(b"cont")
    uploaded = upload(host, tmp_path / name, PurePosixPath(folder / name / name))
    assert uploaded.resumed_from == 4
    assert (folder / name / name).read_bytes() == b"content"


def test_greeting_is_not_part_of_upload(demo_server: DemoServer, folder: Path, send: Send) -> None:
    set_login_shell(demo_server, 'echo Welcome; echo "You have mail" >&2; exec /bin/sh "$@"')
    part_of(folder).write_bytes(DATA[:1000])
    assert send().resumed_from == 1000
    assert_published(folder)


def test_progress_reaches_size_of_file(folder: Path, send: Send) -> None:
    part_of(folder).write_bytes(DATA[:1000])
    positions: list[int] = []
    send(progress=positions.append)
    assert positions == sorted(positions)
    assert (positions[0], positions[-1]) == (1000, len(DATA))


@PLAIN_AND_ZSTD
def test_upload_rate_is_limited(send: Send, folder: Path, compress: bool) -> None:
    begin = time.monotonic()
    uploaded = send(limit=3_000_000, compress=compress)
    assert time.monotonic() - begin > 0.9 * uploaded.sent_bytes / 3_000_000 - 0.5
    assert_published(folder)


# --- what is on the host --------------------------------------------------------------------------------------------


@PLAIN_AND_ZSTD
@pytest.mark.parametrize(
    "part", [b"x" + DATA[1:5000], b"x" * len(DATA), DATA + b"x", DATA * 2], ids=["start", "equal", "longer", "double"]
)
def test_wrong_part_is_sent_again(folder: Path, send: Send, part: bytes, compress: bool) -> None:
    part_of(folder).write_bytes(part)
    uploaded = send(compress=compress)
    assert uploaded.resumed_from == 0
    assert_published(folder)


def test_same_target_is_left_unchanged(folder: Path, send: Send) -> None:
    (folder / "new.db").write_bytes(DATA)
    before = (folder / "new.db").stat()
    part_of(folder).write_bytes(DATA[:1000])
    assert send() == Uploaded(len(DATA), SHA256, len(DATA), 0)
    assert (folder / "new.db").stat().st_mtime_ns == before.st_mtime_ns
    assert names(folder) == ["new.db"]


@pytest.mark.parametrize("content", [b"", DATA[:-1], b"x" + DATA[1:]], ids=["empty", "shorter", "equal size"])
def test_other_target_is_never_replaced(folder: Path, send: Send, content: bytes) -> None:
    (folder / "new.db").write_bytes(content)
    with pytest.raises(UploadConflictError):
        send()
    assert (folder / "new.db").read_bytes() == content


@pytest.mark.parametrize("make", ["mkdir new.db", "ln -s other new.db", "mkfifo new.db"])
def test_target_that_is_no_file_is_refused(folder: Path, send: Send, make: str) -> None:
    subprocess.run(make, shell=True, cwd=folder, check=True)
    with pytest.raises(UploadConflictError, match="not a regular file"):
        send()
    assert names(folder) == ["new.db"]


@pytest.mark.parametrize(
    "make", ["mkdir .upload.new.db", "ln -s victim .upload.new.db", "ln victim .upload.new.db", "mkfifo .upload.new.db"]
)
def test_part_that_is_no_own_file_is_refused(folder: Path, send: Send, make: str) -> None:
    (folder / "victim").write_bytes(b"victim")
    subprocess.run(make, shell=True, cwd=folder, check=True)
    with pytest.raises(UnsafePathError, match="not a regular file of this user"):
        send()
    assert (folder / "victim").read_bytes() == b"victim"
    assert not (folder / "new.db").exists()


def test_directory_of_others_is_refused(folder: Path, send: Send) -> None:
    folder.chmod(0o777)
    with pytest.raises(UnsafePathError, match="other users can write to it"):
        send()
    assert names(folder) == []


def test_missing_directory_is_not_created(folder: Path, send: Send) -> None:
    with pytest.raises(CouldNotLookError, match="No such file or directory"):
        send("missing/new.db")


def test_publish_is_completed_after_kill(folder: Path, send: Send) -> None:
    part_of(folder).write_bytes(DATA)
    (folder / "new.db").hardlink_to(part_of(folder))
    os.utime(folder / "new.db", ns=(MODIFIED_NS, MODIFIED_NS))
    part_of(folder).chmod(0o600)
    assert send().sent_bytes == 0
    assert_published(folder)


def test_stale_parts_are_removed(folder: Path, send: Send) -> None:
    for name, days in (("old.db", 9), ("recent.db", 6), ("new.db", 9)):
        part_of(folder, name).write_bytes(DATA[:10])
        os.utime(part_of(folder, name), (time.time() - days * 86400,) * 2)
    assert send().resumed_from == 10
    assert names(folder) == [".upload.recent.db", "new.db"]


# --- faults ---------------------------------------------------------------------------------------------------------


@PLAIN_AND_ZSTD
def test_cut_connection_is_resumed(host: Host, folder: Path, send: Send, compress: bool) -> None:
    cuts = [2_000_000, 2_600_000]

    def cut(position: int) -> None:
        if cuts and position > cuts[0]:
            del cuts[0]
            host._runner.connection.transport.close()  # type: ignore[attr-defined]

    uploaded = send(progress=cut, compress=compress, limit=4_000_000)
    assert not cuts
    assert_published(folder)
    if not compress:
        assert uploaded.sent_bytes < len(DATA) + 4_000_000


def test_lost_connection_keeps_the_part(host: Host, folder: Path, send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_backups.remote.retries.RETRY_SECONDS", -1)

    def cut(position: int) -> None:
        if position > 2_000_000:
            host._runner.connection.transport.close()  # type: ignore[attr-defined]

    with pytest.raises(CouldNotLookError) as caught:
        send(progress=cut, limit=4_000_000)
    assert "run the same command again" in caught.value.advice
    assert not (folder / "new.db").exists()
    uploaded = send()
    assert 1_000_000 < uploaded.resumed_from <= 2_500_000
    assert uploaded.sent_bytes == len(DATA) - uploaded.resumed_from
    assert_published(folder)


def test_killed_receiver_is_an_error_and_resumed(demo_server: DemoServer, folder: Path, send: Send) -> None:
    cat = write_program(demo_server.server.folder / "bin/cat", "#!/bin/sh\nhead -c 1000000; kill -9 $$\n")
    with pytest.raises(StepError):
        send()
    cat.unlink()
    assert send().resumed_from == 1_000_000
    assert_published(folder)


@PLAIN_AND_ZSTD
@pytest.mark.parametrize("times", [1, 2])
def test_damage_on_the_way_is_restarted_once(
    demo_server: DemoServer, folder: Path, send: Send, compress: bool, times: int
) -> None:
    """The receiving program adds something to what it gets, for the first times that it is called."""
    name = "zstd" if compress else "cat"
    count = demo_server.server.folder / "count"
    write_program(
        demo_server.server.folder / "bin" / name,
        f"""#!/bin/sh
PATH=/usr/bin:/bin; echo >> {count}
[ $(wc -l < {count}) -gt {times} ] || {{ {name} "$@" | tr x X; exit; }}
exec {name} "$@"
""",
    )
    if times == 1:
        send(compress=compress)
        assert_published(folder)
    else:
        with pytest.raises(StepError, match="the SHA-256 of what arrived is not that"):
            send(compress=compress)
        assert not (folder / "new.db").exists()


def test_receiver_that_drops_all_is_an_error(demo_server: DemoServer, folder: Path, send: Send) -> None:
    write_program(demo_server.server.folder / "bin/cat", "#!/bin/sh\nexec cp /dev/stdin /dev/null\n")
    with pytest.raises(StepError, match="its size is another one"):
        send()
    assert not (folder / "new.db").exists()


def test_second_upload_is_refused_while_part_grows(
    demo_server: DemoServer, folder: Path, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_module, "LOCK_PAUSE", 0.1)
    part = shlex.quote(str(part_of(folder)))
    script = f"exec 9>> {part}; flock 9; echo ok; while sleep 0.02; do echo x >&9; done"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"ok\n"
        with pytest.raises(UploadRunningError):
            send()
        other.kill()
    assert not (folder / "new.db").exists()
    send()
    assert_published(folder)


@pytest.mark.parametrize("step", ["receive", "publish"])
def test_locked_part_is_not_written(folder: Path, step: str) -> None:
    """It was locked after it was looked at."""
    part = upload_part.Part(PurePosixPath(folder / "new.db"))
    commands = {
        "receive": part.receive_command(0, compress=False, floor=0),
        "publish": part.publish_command(len(DATA), SHA256, MODIFIED_NS),
    }
    part_of(folder).write_bytes(DATA)
    with part_of(folder).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = subprocess.run(["sh", "-c", commands[step]], stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == upload_part.BUSY
    assert part_of(folder).read_bytes() == DATA
    assert names(folder) == [".upload.new.db"]


def test_target_created_meanwhile_is_not_replaced(folder: Path) -> None:
    """It was created after it was looked for."""
    part_of(folder).write_bytes(DATA)
    (folder / "new.db").write_bytes(b"other")
    command = upload_part.Part(PurePosixPath(folder / "new.db")).publish_command(len(DATA), SHA256, MODIFIED_NS)
    done = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, check=False)
    assert done.returncode not in (0, upload_part.MISMATCH, upload_part.MOVED)
    assert (folder / "new.db").read_bytes() == b"other"


def test_part_locked_by_lost_command_is_waited_for(folder: Path, send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_module, "LOCK_PAUSE", 0.1)
    with part_of(folder).open("wb") as file:
        file.write(DATA[:1000])
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        messages: list[str] = []

        def unlock(message: str) -> None:
            messages.append(message)
            if "locked" in message:
                fcntl.flock(file, fcntl.LOCK_UN)

        monkeypatch.setattr("builtins.print", unlock)
        assert send().resumed_from == 1000
    assert_published(folder)


def test_receiver_without_data_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its input stays open, as that of a server that does not know of a lost connection."""
    monkeypatch.setattr(upload_part, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(upload_part, "IDLE_CHECKS", 3)
    part = upload_part.Part(PurePosixPath(folder / "new.db"))
    command = part.receive_command(0, compress=False, floor=0)
    with subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE) as receiver:
        assert receiver.stdin
        receiver.stdin.write(b"some bytes")
        receiver.stdin.flush()
        assert receiver.wait(timeout=30) == upload_part.IDLE
        receiver.stdin.close()
    assert part_of(folder).read_bytes() == b"some bytes"


def test_receiver_stops_when_space_runs_out(folder: Path, send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program fills the disk during the upload: the floor that was free before is not free now."""
    monkeypatch.setattr(upload_part, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(upload_module._Upload, "_require_space", lambda self, size: None)
    with pytest.raises(StepError, match="bytes are free"):
        send(limit=2_000_000, floor=2**60)
    assert not (folder / "new.db").exists()
    assert 0 < part_of(folder).stat().st_size < len(DATA)


def test_upload_without_space_is_not_started(folder: Path, send: Send) -> None:
    with pytest.raises(StepError, match="too little space"):
        send(floor=2**60)
    assert names(folder) == []


@pytest.mark.parametrize("change", ["append", "truncate", "edit"])
def test_file_that_changes_during_upload_is_noticed(
    local: Path, folder: Path, send: Send, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_file(position: int) -> None:
        if 0 < position < len(DATA):
            with local.open("r+b") as file:
                if change == "truncate":
                    file.truncate(position)
                else:
                    file.seek(0, os.SEEK_END if change == "append" else os.SEEK_SET)
                    file.write(b"changed")

    with pytest.raises(LocalFileChangedError):
        send(progress=change_file)
    assert not (folder / "new.db").exists()


@pytest.mark.parametrize("make", ["mkdir local.db", "mkfifo local.db", "true"])
def test_only_regular_file_is_uploaded(local: Path, folder: Path, send: Send, make: str) -> None:
    local.unlink()
    subprocess.run(make, shell=True, cwd=local.parent, check=True)
    with pytest.raises(StepError):
        send()
    assert names(folder) == []


@needs_zstd
def test_zstd_missing_on_either_side(
    demo_server: DemoServer, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo_server.server.environment["PATH"] = str(link_programs(tmp_path / "programs", "zstd"))
    assert not can_compress(host)
    demo_server.server.environment["PATH"] = os.environ["PATH"]
    assert can_compress(host)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert not can_compress(host)


@needs_zstd
def test_zstd_that_vanishes_is_an_error(demo_server: DemoServer, folder: Path, send: Send, tmp_path: Path) -> None:
    demo_server.server.environment["PATH"] = str(link_programs(tmp_path / "programs", "zstd"))
    with pytest.raises(StepError) as caught:
        send(compress=True)
    assert "zstd" in str(caught.value)
    assert not (folder / "new.db").exists()
