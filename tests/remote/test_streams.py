"""Bytes to and from a host, and files that are put in place there, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from demo_backups.errors import ConnectionLostError, CouldNotLookError, StepError
from demo_backups.remote.files import FileWrite, escape_pattern, receive, send, stat_file, write_file
from demo_backups.remote.host import Host
from demo_backups.remote.runners import SshRunner

from ..helpers.constants import ODD_NAMES, root_only
from ..helpers.processes import wait_until
from ..helpers.programs import set_login_shell
from ..helpers.tasks import DemoServer

NEW = b"\0new\xff\n" * 1000
OLD = b"old\n"


@pytest.fixture(params=["ssh", "local"])
def either(request: pytest.FixtureRequest) -> Host:
    """A Host over SSH, and this machine."""
    return request.getfixturevalue("host" if request.param == "ssh" else "local_host")  # type: ignore[no-any-return]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 40_000, 9_000_000])
def test_bytes_arrive_as_they_were_sent(either: Host, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    sent = send(either, "send it", f"cat >'{tmp_path}/file'", data, root=False)
    sink = io.BytesIO()
    received = receive(either, "receive it", f"cat '{tmp_path}/file'", sink, root=False)
    assert sink.getvalue() == data
    assert (sent.bytes, received.bytes) == (size, size)
    assert sent.sha256 == received.sha256 == sha256(data)


def test_greeting_is_not_received_as_data(demo_server: DemoServer, host: Host) -> None:
    set_login_shell(demo_server, 'echo Welcome; echo "You have mail" >&2; exec /bin/sh "$@"')
    sink = io.BytesIO()
    receive(host, "receive it", "printf data", sink)
    assert sink.getvalue() == b"data"


def test_login_shell_cannot_take_input(demo_server: DemoServer, host: Host) -> None:
    set_login_shell(demo_server, 'timeout 0.3 cat > "$HOME/taken"; exec /bin/sh "$@"')
    sent = send(host, "send it", "cat", b"data")
    assert sent.result.stdout == "data"
    assert (demo_server.server.home / "taken").read_bytes() == b""


def test_failed_command_fails_transfer(either: Host) -> None:
    with pytest.raises(StepError, match="could not send it") as sending:
        send(either, "send it", "cat >/dev/null; echo 'no space' >&2; exit 1", b"data", root=False)
    assert sending.value.output == "no space"
    with pytest.raises(CouldNotLookError, match="could not receive it") as receiving:
        receive(either, "receive it", "echo data; echo 'gone' >&2; exit 1", io.BytesIO(), root=False)
    assert receiving.value.output == "gone"


def test_command_that_leaves_input_unread_fails(either: Host) -> None:
    with pytest.raises(StepError, match="the command ended before it had read all of its input"):
        send(either, "send it", "head -c 5 >/dev/null", b"x" * 20_000_000, root=False)


def test_unwritable_sink_is_reported_as_local(either: Host) -> None:
    with pytest.raises(StepError, match="a file on this machine"), Path("/dev/full").open("wb", buffering=0) as full:
        receive(either, "receive it", "cat /dev/zero", full, root=False)
    assert either.run("continue", "echo next").stdout == "next\n"


@pytest.mark.parametrize("direction", ["send", "receive"])
def test_cut_connection_fails_transfer(host: Host, tmp_path: Path, direction: str) -> None:
    """For Paramiko, a connection that is cut is an end like any other, without an exit status."""
    assert isinstance(host._runner, SshRunner)
    cut = host._runner.connection.transport.sock.close
    started = tmp_path / "started"
    thread = threading.Thread(target=lambda: (wait_until(started.exists, "the transfer"), cut()))
    thread.start()
    commands = {
        "send": f"head -c 100000 >/dev/null; touch '{started}'; cat >/dev/null",
        "receive": f"head -c 100000 /dev/zero; touch '{started}'; cat /dev/zero",
    }
    streams: dict[str, Any] = {"source": Endless()} if direction == "send" else {"sink": Nowhere()}
    with pytest.raises(ConnectionLostError, match="the connection was lost while trying to copy"):
        host.stream("copy", commands[direction], **streams)
    thread.join()


class Endless(io.BytesIO):
    """A source that never ends."""

    def read(self, size: int | None = -1) -> bytes:
        return bytes(max(size or 0, 0))


class Nowhere(io.BytesIO):
    """A sink that keeps nothing."""

    def write(self, data: Any) -> int:
        return len(data)


@pytest.mark.parametrize("name", ["ssh", "local"])
def test_memory_does_not_grow_with_size(demo_server: DemoServer, name: str) -> None:
    """A process of its own streams 24 MiB each way, and then 64 MiB more."""
    alias = demo_server.settings.host if name == "ssh" else "local"
    words = ["-m", "tests.helpers.stream_memory", alias, str(demo_server.settings.ssh_config), str(64 * 2**20)]
    done = subprocess.run(
        [sys.executable, *words], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())  # KiB
    assert after - before < 20 * 1024


def test_content_is_in_no_argument(either: Host, tmp_path: Path) -> None:
    """While a file is put in place, no process of the machine has any of it in its command line."""
    secret = b"a very secret line\n"
    waits, go = tmp_path / "waits", tmp_path / "go"
    hold = f": >'{waits}'; until [ -e '{go}' ]; do sleep 0.02; done"
    write = FileWrite(PurePosixPath(tmp_path / "file"), sha256(secret))
    command = write.command().replace('cat > "$new"', f'cat > "$new"; {hold}')
    assert hold in command
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, either, "put it in place", command, secret)
        try:
            wait_until(waits.exists, "the file to arrive")
            arguments = list(command_lines())
        finally:
            go.touch()
        sending.result()
    assert (tmp_path / "file").read_bytes() == secret
    assert any(str(waits).encode() in line for line in arguments)  # the test looked at the right place
    assert not any(b"secret" in line for line in arguments)
    assert not any("secret" in command for command in either.commands)


def command_lines() -> Iterator[bytes]:
    """The command line of every process."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            yield (process / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue


# --- a file in its place --------------------------------------------------------------------------------------------


def put(host: Host, path: Path, content: bytes = NEW, **changes: Any) -> None:
    """Put a file in place that was read before as it is now."""
    replaces = sha256(path.read_bytes()) if path.is_file() else None
    write = FileWrite(PurePosixPath(path), sha256(content), replaces=replaces)
    write_file(host, "put it in place", replace(write, **changes), content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which nothing else is."""
    path = tmp_path / "folder"
    path.mkdir()
    return path


def names(path: Path) -> set[str]:
    """What is in the folder of a file."""
    return {each.name for each in path.parent.iterdir()}


@pytest.mark.parametrize("name", ["usual", *ODD_NAMES.values()], ids=["usual", *ODD_NAMES])
def test_new_file_is_put_in_place(local_host: Host, folder: Path, name: str) -> None:
    path = folder / name / name
    path.parent.mkdir()
    put(local_host, path, mode="640")
    assert path.read_bytes() == NEW
    assert path.stat().st_mode & 0o7777 == 0o640
    assert names(path) == {name}


@pytest.mark.parametrize("keep", [True, False])
def test_replaced_file_gives_its_mode(either: Host, folder: Path, keep: bool) -> None:
    path = folder / "file"
    path.write_bytes(OLD)
    path.chmod(0o4750)
    before = path.stat()
    put(either, path, keep_previous=keep)
    assert (path.read_bytes(), path.stat().st_mode) == (NEW, before.st_mode)
    assert names(path) == {"file", "file.previous"} if keep else {"file"}
    if keep:
        assert (folder / "file.previous").stat().st_ino == before.st_ino  # a process that reads it is not disturbed


@root_only
def test_owner_is_kept(local_host: Host, folder: Path) -> None:
    path = folder / "file"
    os.chown(path.parent, 12345, 23456)
    put(local_host, path)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)
    os.chown(path, 1234, 2345)
    put(local_host, path, OLD)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("sent", [b"", NEW[:-1], NEW + b"x", b"x" + NEW[1:]], ids=["nothing", "less", "more", "other"])
def test_damaged_transfer_changes_nothing(local_host: Host, folder: Path, sent: bytes, exists: bool) -> None:
    path = folder / "file"
    if exists:
        path.write_bytes(OLD)
    write = FileWrite(PurePosixPath(path), sha256(NEW), replaces=sha256(OLD) if exists else None, keep_previous=True)
    with pytest.raises(StepError) as caught:
        write_file(local_host, "put it in place", write, sent)
    assert caught.value.output == "the transfer was damaged"
    assert names(path) == ({"file"} if exists else set())
    assert not exists or path.read_bytes() == OLD


def test_file_changed_since_reading_is_kept(local_host: Host, folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"of somebody else")
    changed, created = "it has changed since it was read", "it has been created since it was looked for"
    for replaces, output in ((sha256(OLD), changed), (None, created)):
        with pytest.raises(StepError) as caught:
            put(local_host, path, replaces=replaces)
        assert caught.value.output == output
    assert path.read_bytes() == b"of somebody else"
    assert names(path) == {"file"}


def test_directory_is_not_replaced(local_host: Host, folder: Path) -> None:
    path = folder / "file"
    path.mkdir()
    for replaces in (sha256(OLD), None):
        with pytest.raises(StepError):
            put(local_host, path, replaces=replaces)
        assert (list(path.iterdir()), names(path)) == ([], {"file"})


def test_missing_folder_is_reported(local_host: Host, folder: Path) -> None:
    with pytest.raises(StepError, match="could not put it in place") as caught:
        put(local_host, folder / "missing/file")
    assert "No such file" in caught.value.output


def test_large_file_needs_no_argument(either: Host, folder: Path) -> None:
    content = os.urandom(2_000_000)
    put(either, folder / "file", content)
    assert (folder / "file").read_bytes() == content


def test_file_of_disk_is_sent(local_host: Host, folder: Path) -> None:
    (folder / "source").write_bytes(NEW)
    with (folder / "source").open("rb") as source:
        write = FileWrite(PurePosixPath(folder / "file"), hashlib.sha256(NEW).hexdigest())
        write_file(local_host, "put it in place", write, source)
    assert (folder / "file").read_bytes() == NEW


def test_staged_file_of_crash_is_removed(local_host: Host, folder: Path) -> None:
    path = folder / "a[b]*c"
    staged, other = folder / ".a[b]*c.abc123", folder / ".abxc.abc123"
    for file in (staged, other):
        file.touch()
    put(local_host, path)
    assert names(path) == {path.name, other.name}


def test_killed_write_leaves_nothing(local_host: Host, folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(OLD)
    command = FileWrite(PurePosixPath(path), sha256(NEW), sha256(OLD)).command()
    command = command.replace('cat > "$new"', "kill -TERM $$; sleep 1")
    with pytest.raises(StepError):
        send(local_host, "put it in place", command, NEW)
    assert (path.read_bytes(), names(path)) == (OLD, {"file"})


@pytest.mark.parametrize("name", ["plain", "[x]*?\\", "a\\*b"])
def test_escaped_pattern_matches_only_the_name(folder: Path, name: str) -> None:
    for each in (name, "plainly", "x", "a*b"):
        (folder / each).touch()
    command = f"find {shlex.quote(str(folder))} -type f -name {shlex.quote(escape_pattern(name))}"
    found = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert found == f"{folder / name}\n"


@pytest.mark.parametrize("answer", ["", "garbage", "1 +0000 1 f /x", "1 +0000 many f /x\\0", "nan +0000 1 f /x\\0"])
def test_unreadable_answer_is_no_missing_file(local_host: Host, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr("demo_backups.remote.files.file_command", lambda path: f"printf '{answer}'")
    with pytest.raises(CouldNotLookError, match="could not look at /x: the answer cannot be parsed"):
        stat_file(local_host, PurePosixPath("/x"))
