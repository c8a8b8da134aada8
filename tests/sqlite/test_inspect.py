"""Questions to a host: the parsers with recorded output, the commands on files with every odd name."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tempfile
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.backup.deploy import missing_tools_command
from demo_backups.errors import CouldNotLookError
from demo_backups.remote.files import (
    File,
    existing_command,
    file_command,
    files_command,
    parse_files,
    parse_sha256,
    stat_file,
)
from demo_backups.remote.host import Host, Result
from demo_backups.remote.shell import quote
from demo_backups.sqlite.inspect import (
    SUMMARY_STATEMENTS,
    DatabaseSummary,
    Header,
    header_command,
    is_access_failure,
    parse_header,
    parse_summary,
    sidecar_paths,
    sqlite_command,
    sqlite_features_command,
)

from ..helpers.constants import ODD_NAMES

EVERY_ODD_NAME = pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)


def sh(command: str) -> Result:
    """Run a command as a host does: by /bin/sh, in the C locale, every byte kept."""
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, env=environment, check=False)
    return Result(done.returncode, *(text.decode("utf-8", "surrogateescape") for text in (done.stdout, done.stderr)))


def make_database(path: Path, *settings: str) -> None:
    database = sqlite3.connect(path)
    for setting in settings:
        database.execute(f"PRAGMA {setting}")
    database.executescript("CREATE TABLE b (x); CREATE TABLE a (x); CREATE VIEW v AS SELECT 1; CREATE INDEX i ON a (x)")
    database.close()


# --- files ----------------------------------------------------------------------------------------------------------


def test_parse_files_reads_times_with_the_offset_of_the_server() -> None:
    output = (
        "1732478400.5000000000 +0530 2301952 f /backups/backup_2024-11-24_20-00-00.db\0"
        "1732478400.0000000000 -0330 0 l /backups/a b\nc\0"
        "0.0000000000 +0000 4096 d /\0"
    )
    first, second, third = parse_files(output)
    assert first.path == PurePosixPath("/backups/backup_2024-11-24_20-00-00.db")
    assert (first.bytes, first.type) == (2301952, "f")
    assert first.modified.isoformat() == "2024-11-25T01:30:00.500000+05:30"
    assert (second.path.name, second.bytes, second.type) == ("a b\nc", 0, "l")
    assert second.modified.isoformat() == "2024-11-24T16:30:00-03:30"
    assert third == File(PurePosixPath("/"), 4096, datetime(1970, 1, 1, tzinfo=timezone.utc), "d")


@pytest.mark.parametrize("seconds", ["1e20", "9000000000000000000", "9999999999999", "nan", "inf", "soon"])
def test_a_time_that_no_clock_has_is_an_answer_that_cannot_be_read(seconds: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_files(f"{seconds} +0000 1 f /srv/x.db\0")


def test_parse_files_of_nothing_is_nothing() -> None:
    assert parse_files("") == []


@EVERY_ODD_NAME
def test_a_file_with_an_odd_name_is_found(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"12345")
    os.utime(path, (1_700_000_000.25, 1_700_000_000.25))
    (seen,) = parse_files(sh(file_command(PurePosixPath(path))).stdout)
    assert (str(seen.path), seen.bytes, seen.type) == (str(path), 5, "f")
    assert seen.modified.timestamp() == 1_700_000_000.25
    assert seen.modified.utcoffset() == seen.modified.astimezone().utcoffset()  # this machine is the server


@EVERY_ODD_NAME
def test_the_files_of_a_folder_with_an_odd_name_are_found(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    (folder / "below").mkdir(parents=True)
    for each in ("backup_1.db", f"backup_{name}.db", "other.db", ".backup_.db", "below/backup_2.db"):
        (folder / each).touch()
    seen = parse_files(sh(files_command(PurePosixPath(folder), "backup_*.db")).stdout)
    assert {str(file.path) for file in seen} == {str(folder / "backup_1.db"), str(folder / f"backup_{name}.db")}


def test_the_files_of_a_folder_behind_a_link_are_found(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/backup_1.db").touch()
    (tmp_path / "link").symlink_to("real")
    (seen,) = parse_files(sh(files_command(PurePosixPath(tmp_path / "link"), "backup_*.db")).stdout)
    assert seen.path == PurePosixPath(tmp_path / "link/backup_1.db")


@pytest.mark.parametrize(("make", "kind"), [("mkdir x", "d"), ("ln -s y x", "l"), ("mkfifo x", "p"), ("touch x", "f")])
def test_the_type_of_a_file_is_seen_without_following_it(tmp_path: Path, make: str, kind: str) -> None:
    subprocess.run(make, shell=True, cwd=tmp_path, check=True)
    (seen,) = parse_files(sh(file_command(PurePosixPath(tmp_path / "x"))).stdout)
    assert seen.type == kind


def test_a_name_that_is_no_utf_8_comes_back_as_it_is(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.db")
    Path(path).touch()
    (seen,) = parse_files(sh(files_command(PurePosixPath(tmp_path), "*.db")).stdout)
    assert str(seen.path) == path


def test_look_at_file_tells_missing_from_not_to_be_seen(here: Host, tmp_path: Path) -> None:
    path = PurePosixPath(tmp_path / "file")
    assert stat_file(here, path) is None
    Path(path).write_bytes(b"123")
    seen = stat_file(here, path)
    assert seen is not None
    assert (seen.path, seen.bytes) == (path, 3)
    with pytest.raises(CouldNotLookError, match="could not look at"):
        stat_file(here, path / "below")  # what is above it is no folder


@EVERY_ODD_NAME
def test_existing_command_names_exactly_what_is_there(tmp_path: Path, name: str) -> None:
    path = PurePosixPath(tmp_path / name)
    endings = ("-journal", "-wal", "-shm")
    assert sh(existing_command(sidecar_paths(path, *endings))) == Result(0, "", "")
    for ending in ("-journal", "-shm"):
        Path(f"{path}{ending}").touch()
    assert sh(existing_command(sidecar_paths(path, *endings))) == Result(0, f"{path}-journal\n{path}-shm\n", "")


def test_existing_command_of_nothing_is_nothing() -> None:
    assert sh(existing_command([])) == Result(0, "", "")


@EVERY_ODD_NAME
def test_quote_makes_one_word(name: str) -> None:
    assert sh(f"printf %s {quote(name)}").stdout == name


# --- headers --------------------------------------------------------------------------------------------------------


def header(
    page_size: int = 4096, pages: int = 562, wal: int = 1, changed: int = 7, valid_for: int = 7, magic: bytes = b""
) -> bytes:
    """The first 100 bytes of a database, as its format describes them."""
    content = bytearray(100)
    content[:16] = magic or b"SQLite format 3\0"
    content[16:18] = page_size.to_bytes(2, "big")
    content[18:20] = bytes([wal, wal])
    content[24:28] = changed.to_bytes(4, "big")
    content[28:32] = pages.to_bytes(4, "big")
    content[92:96] = valid_for.to_bytes(4, "big")
    return bytes(content)


def as_od_prints(content: bytes) -> str:
    return "".join(f" {content[start : start + 16].hex(' ')}\n" for start in range(0, len(content), 16))


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (header(), Header(4096 * 562, False, 4096)),
        (header(wal=2), Header(4096 * 562, True, 4096)),
        (header(page_size=512, pages=3), Header(1536, False, 512)),
        (header(page_size=1, pages=3), Header(65536 * 3, False, 65536)),
        (header(pages=0xFFFFFFFE), Header(4096 * 0xFFFFFFFE, False, 4096)),
        (header(changed=8), Header(None, False, 4096)),
        (header(pages=0), Header(None, False, 4096)),
        (header(magic=b"SQLite format 2\0"), None),
        (header()[:99], None),
        (b"not a database".ljust(100), None),
        (bytes(100), None),
        (b"", None),
    ],
    ids=["usual", "wal", "512", "65536", "huge", "stale", "no count", "magic", "short", "text", "zeros", "empty"],
)
def test_parse_header(content: bytes, seen: Header | None) -> None:
    assert parse_header(as_od_prints(content)) == seen


@EVERY_ODD_NAME
def test_the_header_of_a_real_database_says_its_size(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    make_database(path, "page_size = 65536")
    said = sh(header_command(PurePosixPath(path)))
    assert parse_header(said.stdout) == Header(path.stat().st_size, False, 65536)


def test_a_header_that_repeats_itself_is_printed_in_full(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(header()[:20] + bytes(200))
    assert sh(header_command(PurePosixPath(tmp_path / "zeros"))).stdout.split() == (
        [f"{byte:02x}" for byte in header()[:20]] + ["00"] * 80
    )


# --- SQLite ---------------------------------------------------------------------------------------------------------


@EVERY_ODD_NAME
@pytest.mark.parametrize("immutable", [False, True])
def test_sqlite_opens_a_database_with_an_odd_name(tmp_path: Path, name: str, immutable: bool) -> None:
    path = tmp_path / name
    make_database(path)
    before = set(tmp_path.iterdir())
    said = sh(sqlite_command(PurePosixPath(path), *SUMMARY_STATEMENTS, immutable=immutable))
    assert said.stderr == ""
    assert parse_summary(said.stdout) == DatabaseSummary(path.stat().st_size, frozenset("ab"))
    assert set(tmp_path.iterdir()) == before


def test_sqlite_opens_a_database_whose_name_is_no_utf_8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.db")
    make_database(Path(path))
    assert parse_summary(sh(sqlite_command(PurePosixPath(path), *SUMMARY_STATEMENTS)).stdout).tables == {"a", "b"}


def test_sqlite_neither_makes_nor_writes_a_database(tmp_path: Path) -> None:
    missing = PurePosixPath(tmp_path / "missing.db")
    said = sh(sqlite_command(missing, "PRAGMA page_count"))
    assert not said.ok
    assert is_access_failure(said)
    assert not Path(missing).exists()

    make_database(tmp_path / "x.db")
    said = sh(sqlite_command(PurePosixPath(tmp_path / "x.db"), "CREATE TABLE c (x)"))
    assert said.status == 8
    assert is_access_failure(said)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a program as somebody else")
def test_sqlite_reads_no_start_up_file() -> None:
    # SQLite asks the system for the home directory, and the environment only for a user whom the system does not know.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / ".sqliterc").write_text(".mode box\n")
        make_database(folder / "x.db")
        command = sqlite_command(PurePosixPath(folder / "x.db"), "PRAGMA quick_check")

        def printed(command: str) -> str:
            words = ["/bin/sh", "-c", command]
            return subprocess.run(
                words, env=os.environ | {"HOME": name}, user=54321, capture_output=True, text=True, check=True
            ).stdout

        assert "─" in printed(command.replace("-init /dev/null", ""))  # it would be read
        assert printed(command) == "ok\n"


def test_sqlite_stops_at_the_first_statement_that_fails(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db")
    said = sh(sqlite_command(PurePosixPath(tmp_path / "x.db"), "SELECT 1", "SELECT nothing", "SELECT 3"))
    assert (said.stdout, said.ok) == ("1\n", False)


def test_sqlite_waits_for_a_lock_and_says_in_the_end_that_it_could_not_look(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db")
    with sqlite3.connect(tmp_path / "x.db", isolation_level=None) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert ".timeout 120000" in sqlite_command(PurePosixPath(tmp_path / "x.db"), "PRAGMA quick_check")
        said = sh(sqlite_command(PurePosixPath(tmp_path / "x.db"), "PRAGMA quick_check", wait=0.001))
    assert is_access_failure(said), said
    writer.close()


def test_a_database_in_wal_mode_is_opened_immutably_without_a_trace(tmp_path: Path) -> None:
    make_database(tmp_path / "x.db", "journal_mode = wal")
    assert list(tmp_path.iterdir()) == [tmp_path / "x.db"]
    said = sh(sqlite_command(PurePosixPath(tmp_path / "x.db"), *SUMMARY_STATEMENTS, immutable=True))
    assert parse_summary(said.stdout).tables == {"a", "b"}
    assert list(tmp_path.iterdir()) == [tmp_path / "x.db"]


def test_parse_shape() -> None:
    assert parse_summary("562\n4096\ntorrust_categories\ntorrust_torrents\n") == DatabaseSummary(
        2301952, frozenset({"torrust_categories", "torrust_torrents"})
    )
    assert parse_summary("0\n4096\n") == DatabaseSummary(0, frozenset())


@pytest.mark.parametrize("output", ["", "562\n", "ok\n4096\n"])
def test_parse_shape_takes_nothing_else(output: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|invalid literal"):
        parse_summary(output)


@pytest.mark.parametrize(
    ("result", "could_not"),
    [
        (Result(14, "", "Error: unable to open database file"), True),
        (Result(1, "", 'Error: unable to open database "x": unable to open database file'), True),
        (Result(5, "", "Error: database is locked"), True),
        (Result(3, "", "access permission denied"), True),
        (Result(8, "", "attempt to write a readonly database"), True),
        (Result(127, "", "/bin/sh: 2: sqlite3: not found"), True),
        (Result(126, "", "sqlite3: Permission denied"), True),
        (Result(None, "", ""), True),
        (Result(11, "", "database disk image is malformed"), False),
        (Result(26, "", "file is not a database"), False),
        (Result(1, "", "Parse error: no such table: torrents"), False),
        (Result(10, "", "disk I/O error"), False),
    ],
    ids=lambda value: value.output if isinstance(value, Result) else str(value),
)
def test_not_being_let_in_is_told_from_a_bad_file(result: Result, could_not: bool) -> None:
    assert is_access_failure(result) is could_not


# --- programs -------------------------------------------------------------------------------------------------------

SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    "output", [f"{SHA256}  /a/b.sh\n", f"\\{SHA256}  /a\\\\b.sh\n", f"{SHA256} */a/b.sh\n", f"{SHA256}  -\n"]
)
def test_parse_sha256(output: str) -> None:
    assert parse_sha256(output) == SHA256


@pytest.mark.parametrize("output", ["", SHA256[:-1], f"{SHA256}0  x", f"x{SHA256}", SHA256.upper(), f"\\\\{SHA256}"])
def test_parse_sha256_takes_nothing_else(output: str) -> None:
    with pytest.raises(ValueError, match="no SHA-256"):
        parse_sha256(output)


@EVERY_ODD_NAME
def test_sha256sum_of_a_file_with_an_odd_name_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert parse_sha256(sh(f"sha256sum -- {quote(str(tmp_path / name))}").stdout) == SHA256


def test_missing_tools_are_looked_for_where_cron_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of-the-login-shell").touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said = sh(missing_tools_command(["cat", "no-such-tool", "of-the-login-shell"]))
    assert said == Result(0, "no-such-tool\nof-the-login-shell\n", "")


def test_missing_tools_are_none_where_all_are_there() -> None:
    assert sh(missing_tools_command(["cat", "sh"])) == Result(0, "", "")


def test_the_ability_of_sqlite_is_tried_for_real() -> None:
    said = sh(sqlite_features_command())
    assert said.ok, said
    assert said.stdout.count(".") == 2
