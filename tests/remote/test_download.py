"""A file is downloaded whole, or resumed from what is here; damage is found by the SHA-256 of all bytes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.errors import ConnectionLostError, CouldNotLookError, StepError
from demo_backups.remote.download import Download, Meter, PartialFile, can_compress, download
from demo_backups.remote.host import Host

from ..helpers.constants import EVERY_ODD_NAME, PLAIN_AND_ZSTD
from ..helpers.faults import install_program
from ..helpers.processes import file_mode_mask
from ..helpers.programs import set_login_shell
from ..helpers.tasks import DemoServer

DATA = os.urandom(3_000_000) + b"compressible" * 500_000


@pytest.fixture
def file(demo_server: DemoServer) -> Path:
    path = demo_server.server.folder / "file"
    path.write_bytes(DATA)
    return path


def open_partial(tmp_path: Path, max_bytes: int = len(DATA)) -> PartialFile:
    return PartialFile(tmp_path / "partial", max_bytes, lambda size: None)


@PLAIN_AND_ZSTD
@pytest.mark.parametrize("offset", [0, 1, 2_999_999, len(DATA)])
def test_download_sends_missing_bytes_only(host: Host, file: Path, tmp_path: Path, compress: bool, offset: int) -> None:
    assert can_compress(host) or not compress
    (tmp_path / "partial").write_bytes(DATA[:offset])
    meter = Meter()
    with open_partial(tmp_path) as partial:
        download(host, Download(PurePosixPath(file), compress), partial, meter)
        assert partial.sha256.hexdigest() == hashlib.sha256(DATA).hexdigest()
        assert partial.size == len(DATA)
    assert (tmp_path / "partial").read_bytes() == DATA
    if not compress:
        assert meter.count == len(DATA) - offset
    elif offset == 0:
        assert meter.count < 3_200_000


@EVERY_ODD_NAME
def test_odd_names_are_downloaded(demo_server: DemoServer, host: Host, tmp_path: Path, name: str) -> None:
    folder = demo_server.server.folder / name
    folder.mkdir()
    path = folder / name
    path.write_bytes(DATA[:1000])
    with open_partial(tmp_path) as partial:
        download(host, Download(PurePosixPath(path)), partial, Meter())
    assert (tmp_path / "partial").read_bytes() == DATA[:1000]


@PLAIN_AND_ZSTD
def test_unreadable_file_is_not_an_empty_one(host: Host, tmp_path: Path, compress: bool) -> None:
    with open_partial(tmp_path) as partial, pytest.raises(CouldNotLookError, match="No such file"):
        download(host, Download(PurePosixPath("/missing"), compress), partial, Meter())


def test_file_that_has_grown_is_refused(host: Host, file: Path, tmp_path: Path) -> None:
    with open_partial(tmp_path, 10) as partial, pytest.raises(StepError, match="more than 10 bytes"):
        download(host, Download(PurePosixPath(file)), partial, Meter())
    assert (tmp_path / "partial").read_bytes() == b""


def test_damaged_compression_is_an_error(demo_server: DemoServer, host: Host, file: Path, tmp_path: Path) -> None:
    zstd = demo_server.server.folder / "bin/zstd"
    zstd.write_text("#!/bin/sh\ncat\n")
    zstd.chmod(0o755)
    with open_partial(tmp_path) as partial, pytest.raises(StepError, match="damaged"):
        download(host, Download(PurePosixPath(file), compress=True), partial, Meter())


def test_greeting_is_not_part_of_the_file(demo_server: DemoServer, host: Host, file: Path, tmp_path: Path) -> None:
    set_login_shell(demo_server, 'echo Welcome; exec /bin/sh "$@"')
    with open_partial(tmp_path) as partial:
        download(host, Download(PurePosixPath(file)), partial, Meter())
    assert (tmp_path / "partial").read_bytes() == DATA


def test_cut_download_is_resumed(demo_server: DemoServer, host: Host, file: Path, tmp_path: Path) -> None:
    """The connection is closed in the middle, twice."""
    wanted = Download(PurePosixPath(file))
    meter = Meter()
    with open_partial(tmp_path) as partial:
        kills = [1_000_000, 5_000_000]

        def cut(size: int) -> None:
            if kills and size > kills[0]:
                del kills[0]
                host._runner.connection.transport.close()  # type: ignore[attr-defined]

        partial._progress = cut
        for _ in range(2):
            with pytest.raises(ConnectionLostError):
                download(host, wanted, partial, meter)
            assert 0 < partial.size < len(DATA)
        download(host, wanted, partial, meter)
    assert not kills
    assert (tmp_path / "partial").read_bytes() == DATA
    assert meter.count == len(DATA)


def test_rate_is_limited(host: Host, file: Path, tmp_path: Path) -> None:
    begin = time.monotonic()
    with open_partial(tmp_path) as partial:
        download(host, Download(PurePosixPath(file)), partial, Meter(limit=len(DATA)))
    assert time.monotonic() - begin > 0.9


def test_killed_command_is_an_interruption(demo_server: DemoServer, host: Host, file: Path, tmp_path: Path) -> None:
    """The stream ends without an exit status, and the connection still works."""
    install_program(demo_server, "tail", "head -c 1000000; kill -KILL $PPID")
    with open_partial(tmp_path) as partial:
        with pytest.raises(ConnectionLostError, match="the stream ended early"):
            download(host, Download(PurePosixPath(file)), partial, Meter())
        assert 0 < partial.size <= 1_000_000
    assert (tmp_path / "partial").read_bytes() == DATA[: partial.size]


def test_partial_file_is_locked(tmp_path: Path) -> None:
    with open_partial(tmp_path), pytest.raises(BlockingIOError):
        open_partial(tmp_path)
    with open_partial(tmp_path) as partial:
        assert partial.size == 0


def test_too_long_partial_file_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "partial").write_bytes(DATA + b"x")
    with open_partial(tmp_path) as partial:
        assert (partial.size, partial.sha256.hexdigest()) == (0, hashlib.sha256().hexdigest())


def test_planted_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    (tmp_path / "partial").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        open_partial(tmp_path)
    assert target.read_bytes() == b"precious"


def test_file_with_other_name_is_not_extended(tmp_path: Path) -> None:
    """A fetch that was killed after it had given the file its final name."""
    final = tmp_path / "final"
    final.write_bytes(b"complete")
    (tmp_path / "partial").hardlink_to(final)
    with open_partial(tmp_path) as partial:
        assert partial.size == 0
        partial.write(b"other")
    assert final.read_bytes() == b"complete"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.mkdir(), lambda path: path.touch(0o666)])
def test_unsafe_partial_file_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    with file_mode_mask(0):
        make(tmp_path / "partial")
    with pytest.raises(OSError, match=r"Is a directory|only you can write to"):
        open_partial(tmp_path)
