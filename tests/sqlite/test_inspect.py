"""Headers, sidecar files, open modes and summaries: parsers with recorded output, commands on real files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.errors import CouldNotLookError, NoDatabaseError, SourceUnavailableError
from demo_backups.remote.host import Host
from demo_backups.sqlite.command import sidecar_path
from demo_backups.sqlite.inspect import (
    DatabaseSummary,
    Header,
    OpenMode,
    choose_open_mode,
    header_command,
    parse_header,
    parse_summary,
    read_header,
    read_summary,
)
from demo_backups.sqlite.sidecars import SIDECAR_SUFFIXES, list_sidecars, parse_sidecars, sidecars_writable

from ..helpers.constants import EVERY_ODD_NAME, NOBODY, root_only
from ..helpers.databases import execute, leave_hot_journal, leave_wal, opened, overwrite
from ..helpers.headers import format_od, make_header
from ..helpers.programs import shadow_program
from ..helpers.shell import run_sh


@pytest.fixture
def path(tmp_path: Path) -> PurePosixPath:
    """A small database of many pages."""
    path = tmp_path / "sqlite3.db"
    rows = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT randomblob(1000) FROM r LIMIT 50"
    execute(path, "CREATE TABLE t (x)", f"INSERT INTO t {rows}")
    return PurePosixPath(path)


# --- headers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "header"),
    [
        (make_header(), Header(4096 * 562, False, 4096)),
        (make_header(wal=True), Header(4096 * 562, True, 4096)),
        (make_header(page_size=512, pages=3), Header(1536, False, 512)),
        (make_header(page_size=65536, pages=3), Header(65536 * 3, False, 65536)),
        (make_header(pages=0xFFFFFFFE), Header(4096 * 0xFFFFFFFE, False, 4096)),
        (make_header(is_valid=False), Header(None, False, 4096)),
        (make_header(pages=0), Header(None, False, 4096)),
        (make_header(magic=b"SQLite format 2\0"), None),
        (make_header()[:99], None),
        (b"not a database".ljust(100), None),
        (bytes(100), None),
        (b"", None),
    ],
    ids=["usual", "wal", "512", "65536", "huge", "stale", "no count", "magic", "short", "text", "zeros", "empty"],
)
def test_parse_header_output(content: bytes, header: Header | None) -> None:
    assert parse_header(format_od(content), len(content)) == header


@pytest.mark.parametrize("output", ["", "Verfügbar\n", "53 51", format_od(make_header()[:99])])
def test_parse_header_rejects_other_output(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_header(output, 8192)


@EVERY_ODD_NAME
def test_header_of_real_database(local_host: Host, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    execute(path, "PRAGMA page_size = 65536", "CREATE TABLE t (x)")
    assert read_header(local_host, PurePosixPath(path)) == Header(path.stat().st_size, False, 65536)


def test_header_with_repeated_bytes_is_complete(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(make_header()[:20] + bytes(200))
    output = run_sh(header_command(PurePosixPath(tmp_path / "zeros"))).stdout
    assert output.split() == [f"{byte:02x}" for byte in make_header()[:20]] + ["00"] * 80


def test_header_of_missing_or_other_file(local_host: Host, tmp_path: Path) -> None:
    for content in (None, b"", b"not a database\n" * 100, b"SQLite format 3\0"):
        path = tmp_path / "x.db"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(NoDatabaseError, match=str(path)):
            read_header(local_host, PurePosixPath(path))


@pytest.mark.parametrize("output", ["", "garbage"])
def test_invalid_header_answer_is_not_a_fact(
    local_host: Host, path: PurePosixPath, output: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shadow_program(tmp_path / "bin", "od", f"echo '{output}'", monkeypatch)
    with pytest.raises(CouldNotLookError):
        read_header(local_host, path)


# --- sidecar files --------------------------------------------------------------------------------------------------


@EVERY_ODD_NAME
def test_sidecars_of_odd_name_are_listed(local_host: Host, tmp_path: Path, name: str) -> None:
    path = PurePosixPath(tmp_path / name)
    assert list_sidecars(local_host, path) == []
    for suffix in ("-journal", "-shm"):
        Path(sidecar_path(path, suffix)).touch()
    assert list_sidecars(local_host, path) == ["-journal", "-shm"]


@pytest.mark.parametrize("output", ["", "-wal\n", "-wal -shm\nend\n", "sh: error\nend\n", "-wal\nx\nend\n"])
def test_parse_sidecars_rejects_other_output(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_sidecars(output)
    assert parse_sidecars("\n".join([*SIDECAR_SUFFIXES, "end"])) == list(SIDECAR_SUFFIXES)


@root_only
def test_sidecars_of_root_and_owner_are_writable(
    local_host: Host, public_folder: Path, request: pytest.FixtureRequest
) -> None:
    path = public_folder / "x.db"
    path.touch()
    assert sidecars_writable(local_host, PurePosixPath(path))
    request.getfixturevalue("as_nobody")
    assert not sidecars_writable(local_host, PurePosixPath(path))
    os.chown(path, NOBODY, NOBODY)
    assert sidecars_writable(local_host, PurePosixPath(path))


@pytest.mark.parametrize("output", ["", "maybe"])
def test_invalid_owner_answer_is_not_a_no(
    local_host: Host, path: PurePosixPath, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo_backups.sqlite.sidecars.sidecars_writable_command", lambda source: f"echo '{output}'")
    with pytest.raises(CouldNotLookError):
        sidecars_writable(local_host, path)


# --- open modes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wal", "sidecars", "mode"),
    [
        (False, [], OpenMode.PLAIN),
        (False, ["-wal", "-shm"], OpenMode.PLAIN),
        (False, ["-journal"], OpenMode.PLAIN),
        (True, [], OpenMode.IMMUTABLE),
        (True, ["-shm"], OpenMode.IMMUTABLE),
        (True, ["-wal"], OpenMode.IMPOSSIBLE),
        (True, ["-wal", "-shm"], OpenMode.PLAIN),
    ],
)
def test_choose_open_mode(wal: bool, sidecars: list[str], mode: OpenMode) -> None:
    assert choose_open_mode(Header(8192, wal, 4096), sidecars) is mode


# --- summaries ------------------------------------------------------------------------------------------------------


def test_parse_summary_output() -> None:
    assert parse_summary("562\n4096\ntorrust_categories\ntorrust_torrents\n") == DatabaseSummary(
        2301952, frozenset({"torrust_categories", "torrust_torrents"})
    )
    assert parse_summary("0\n4096\n") == DatabaseSummary(0, frozenset())


@pytest.mark.parametrize("output", ["", "562\n", "ok\n4096\n", "-562\n4096\n"])
def test_parse_summary_rejects_other_output(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_summary(output)


def read(host: Host, path: PurePosixPath) -> DatabaseSummary:
    """Read the summary of a database as it is."""
    return read_summary(host, path, read_header(host, path), list_sidecars(host, path))


def test_summary_of_live_database(local_host: Host, path: PurePosixPath) -> None:
    size = Path(path).stat().st_size
    assert read(local_host, path) == DatabaseSummary(size, frozenset("t"))
    with opened(path) as service:
        service.execute("PRAGMA journal_mode = wal")
        service.execute("PRAGMA wal_autocheckpoint = 0")
        service.execute("CREATE TABLE u AS SELECT zeroblob(100000) AS x")
        assert Path(path).stat().st_size == size  # the table is in the WAL only
        summary = read(local_host, path)
    assert summary.bytes > size + 100_000
    assert summary.tables == {"t", "u"}


def crash_writer_midway(path: PurePosixPath) -> None:
    leave_hot_journal(path, "UPDATE t SET x = randomblob(1000)")


def leave_wal_without_shm(path: PurePosixPath) -> None:
    leave_wal(path, "DELETE FROM t")
    Path(f"{path}-shm").unlink()


def damage_schema(path: PurePosixPath) -> None:
    overwrite(Path(path), 100, b"\xff" * 64)


@pytest.mark.parametrize("spoil", [crash_writer_midway, leave_wal_without_shm, damage_schema])
def test_unavailable_summary_is_an_error(
    local_host: Host, path: PurePosixPath, spoil: Callable[[PurePosixPath], None]
) -> None:
    spoil(path)
    before = {file: file.read_bytes() for file in Path(path).parent.iterdir() if file.is_file()}
    with pytest.raises(SourceUnavailableError, match=str(path)) as caught:
        read(local_host, path)
    assert caught.value.exit_code == 3
    assert caught.value.advice
    assert {file: file.read_bytes() for file in Path(path).parent.iterdir() if file.is_file()} == before


@pytest.mark.parametrize("output", ["", "garbage"])
def test_invalid_summary_answer_is_an_error(
    local_host: Host, path: PurePosixPath, output: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shadow_program(tmp_path / "bin", "sqlite3", f"echo '{output}'", monkeypatch)
    with pytest.raises(SourceUnavailableError):
        read(local_host, path)
