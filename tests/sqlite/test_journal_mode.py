"""WAL mode for a live database, and back: no write fails, nothing is made that should not be, and it is told why."""

from __future__ import annotations

import contextlib
import getpass
import io
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from demo_backups.errors import StepError
from demo_backups.records.record import Record
from demo_backups.rehearsal.database import make_tracker
from demo_backups.rehearsal.writer import live_writer
from demo_backups.remote.host import Host, Result
from demo_backups.settings import Database, Settings
from demo_backups.sqlite.journal_mode import change_journal_mode, check_journal_mode, journal_mode_command
from demo_backups.ui.console import make_console
from demo_backups.workflows import Session, enable_wal

from ..helpers.constants import NOBODY, ODD_NAMES, root_only
from ..helpers.databases import is_consistent
from ..helpers.processes import wait_until
from ..helpers.tasks import Demo

THREE = ["sqlite3.db", "sqlite3.db-shm", "sqlite3.db-wal"]


@dataclass
class Place:
    """A tracker database on this machine, in rollback mode."""

    host: Host
    settings: Settings
    database: Database

    @property
    def source(self) -> Path:
        return Path(self.database.source)

    def enable_wal(self, undo: bool = False, dry_run: bool = False) -> str:
        """Do what the task does; return what was said, or raise what is raised."""
        out = io.StringIO()
        record = Record("enable-wal", self.host.name, self.database.name)
        enable_wal(Session(self.host, self.settings, self.database, record, make_console(out), dry_run), undo)
        return out.getvalue()

    def refused(self, undo: bool = False) -> str:
        """See that it is refused; return why."""
        with pytest.raises(StepError) as caught:
            self.enable_wal(undo)
        assert caught.value.exit_code == 1
        return str(caught.value)

    def mode(self) -> str:
        """The journal mode, as the file's header has it (both of its version numbers)."""
        return {b"\1\1": "delete", b"\2\2": "wal"}[self.source.read_bytes()[18:20]]

    def names(self) -> list[str]:
        """What is in the database's folder."""
        return sorted(path.name for path in self.source.parent.iterdir())

    def move(self, source: Path) -> Place:
        """The same with the database elsewhere."""
        source.parent.mkdir(parents=True, exist_ok=True)
        self.source.rename(source)
        return replace(self, database=replace(self.database, source=PurePosixPath(source)))


@pytest.fixture
def place(here: Host, project_settings: Settings, tmp_path: Path) -> Place:
    settings = project_settings.model_copy(update={"app_dir": PurePosixPath(tmp_path / "app")})
    found = Place(here, settings, settings.database("tracker"))
    found.source.parent.mkdir(parents=True)
    make_tracker(found.source, "delete", rows=2_000)
    return found


HOLDER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("SELECT count(*) FROM sqlite_master").fetchone()
for statement in sys.argv[2:]:
    database.execute(statement)
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(source: Path, *statements: str) -> Iterator[subprocess.Popen[str]]:
    """Let another process have a database open, after some statements; closing its standard input ends it."""
    command = [sys.executable, "-c", HOLDER, str(source), *statements]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        let_go(process)


def let_go(process: subprocess.Popen[str]) -> None:
    """Let a holder end by itself."""
    assert process.stdin
    process.stdin.close()
    process.wait(timeout=60)


# --- into WAL mode --------------------------------------------------------------------------------------------------


def test_a_live_database_changes_over_and_no_write_fails(place: Place) -> None:
    with live_writer(place.source, rate=200) as wrote:
        assert "is now in WAL mode" in place.enable_wal()
        assert place.mode() == "wal"
        wait_until(lambda: place.names() == THREE, "a commit that goes to the WAL")
        assert place.enable_wal() == f"{place.source} is in WAL mode already: nothing to do\n"
    assert wrote.commits > 0
    assert wrote.failed == 0
    assert place.mode() == "wal"
    assert place.names() == ["sqlite3.db"]  # the last one to close it has taken the other two away
    assert is_consistent(place.source)


def test_it_says_what_changes_in_the_names_of_the_files_there(place: Place) -> None:
    moved = place.move(place.source.with_name("tracker.sqlite"))
    said = moved.enable_wal()
    for words in ("tracker.sqlite  ", "tracker.sqlite-wal  ", "tracker.sqlite-shm  ", "checkpoint"):
        assert words in said
    assert "./inv enable-wal --host local --database tracker --undo" in said
    assert "is now in WAL mode (attempts: 1); sidecar files: none" in said
    assert moved.names() == ["tracker.sqlite"]


@pytest.mark.parametrize(("mode", "undo"), [("delete", False), ("wal", True)])
def test_a_dry_run_shows_the_command_and_changes_nothing(place: Place, mode: str, undo: bool) -> None:
    if mode == "wal":
        place.enable_wal()
    before = (place.source.read_bytes(), place.source.stat().st_mtime_ns, place.names())
    said = place.enable_wal(undo, dry_run=True)
    assert "would run on local:" in said
    assert journal_mode_command(place.database, not undo) in said
    assert (place.source.read_bytes(), place.source.stat().st_mtime_ns, place.names()) == before


def test_a_transaction_that_ends_is_outwaited(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is let go once the first try was in vain, so that there must be a second."""
    results: list[Result] = []
    run = Host.run
    with held(place.source, "BEGIN IMMEDIATE") as holder:

        def watched(self: Host, what: str, *args: Any, **options: Any) -> Result:
            result = run(self, what, *args, **options)
            if what == "change the journal mode":
                results.append(result)
                let_go(holder)
            return result

        monkeypatch.setattr(Host, "run", watched)
        said = place.enable_wal()
    assert [result.status for result in results] == [5, 0]
    assert "is now in WAL mode (attempts: 2)" in said
    assert place.mode() == "wal"


@pytest.mark.parametrize("statements", [["BEGIN IMMEDIATE"], ["BEGIN EXCLUSIVE"], ["BEGIN", "SELECT * FROM torrents"]])
def test_a_transaction_that_does_not_end_is_waited_for_within_a_bound(
    place: Place, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo_backups.sqlite.journal_mode.LONGEST_TRY", 0.5)
    before = place.source.read_bytes()
    with held(place.source, *statements) as holder:
        words = place.refused()
        for each in (
            f"local: {place.source} stayed locked for 0.5 s: somebody keeps a transaction open",
            "database is locked",
            f"process {holder.pid} of {getpass.getuser()}: ",
            str(sys.executable),
            "  -> end that transaction, or try again when there is less traffic; nothing has changed",
        ):
            assert each in words
    assert place.mode() == "delete"
    assert place.source.read_bytes() == before
    assert place.names() == ["sqlite3.db"]
    assert "is now in WAL mode" in place.enable_wal()  # nothing stands in its way any more


# --- and back -------------------------------------------------------------------------------------------------------


def test_back_is_refused_while_somebody_has_it_open_and_says_who_and_how_to_stop_it(place: Place) -> None:
    place.enable_wal()
    with held(place.source) as holder:
        words = place.refused(undo=True)
        for each in (
            f"local: {place.source} is open elsewhere, and WAL mode can be left only while nobody else has it open",
            f"process {holder.pid} of {getpass.getuser()}: ",
            "  -> stop its service (on the demo: docker compose stop tracker, in the folder of app_dir)",
            "nothing has changed",
        ):
            assert each in words
        assert place.mode() == "wal"
    said = place.enable_wal(undo=True)
    assert said == f"{place.source} is now in rollback mode (attempts: 1); sidecar files: none\n"
    assert (place.mode(), place.names()) == ("delete", ["sqlite3.db"])
    assert "is in rollback mode already: nothing to do" in place.enable_wal(undo=True)


def test_back_leaves_one_file_with_all_that_a_dead_service_had_committed(place: Place) -> None:
    place.enable_wal()
    insert = "INSERT INTO torrents (info_hash, completed) VALUES ('from the WAL', 7)"
    with held(place.source, insert) as holder:
        holder.kill()
        holder.wait()
    assert place.names() == THREE
    place.enable_wal(undo=True)
    assert (place.mode(), place.names()) == ("delete", ["sqlite3.db"])
    with contextlib.closing(sqlite3.connect(place.source)) as database:
        found = database.execute("SELECT completed FROM torrents WHERE info_hash = 'from the WAL'").fetchall()
    assert found == [(7,)]


# --- what is no database of ours ------------------------------------------------------------------------------------


@pytest.mark.parametrize("undo", [False, True])
def test_a_missing_file_is_not_made(place: Place, undo: bool) -> None:
    place.source.unlink()
    assert f"there is no {place.source}" in place.refused(undo)
    assert place.names() == []


def test_a_file_that_goes_away_in_between_is_not_made_either(place: Place) -> None:
    place.source.unlink()
    with pytest.raises(StepError, match="unable to open database"):
        change_journal_mode(place.host, place.database, wal=True)
    assert place.names() == []


@pytest.mark.parametrize("content", [b"", b"not a database\n" * 100, b"SQLite format 3\0"])
def test_what_is_no_database_is_left_as_it_is(place: Place, content: bytes) -> None:
    place.source.write_bytes(content)
    assert "is not a database" in place.refused()
    assert (place.source.read_bytes(), place.names()) == (content, ["sqlite3.db"])


@pytest.mark.parametrize("name", [name for name in ODD_NAMES.values() if "\n" not in name])
def test_any_path_works(place: Place, tmp_path: Path, name: str) -> None:
    moved = place.move(tmp_path / name / f"{name}.db")
    assert "is now in WAL mode" in moved.enable_wal()
    assert (moved.mode(), moved.names()) == ("wal", [f"{name}.db"])
    assert "is now in rollback mode" in moved.enable_wal(undo=True)
    assert (moved.mode(), moved.names()) == ("delete", [f"{name}.db"])


def test_a_start_up_file_of_sqlite3_changes_nothing(place: Place, home: Path) -> None:
    (home / ".sqliterc").write_text(".mode box\n.headers on\n")
    assert "is now in WAL mode" in place.enable_wal()


# --- the proof ------------------------------------------------------------------------------------------------------


def test_a_mode_that_did_not_last_is_told(place: Place) -> None:
    """As where the service puts its own mode back: SQLite said wal, the file says otherwise."""
    with pytest.raises(StepError, match="is not in WAL mode, although SQLite said so") as caught:
        check_journal_mode(place.host, place.database, wal=True)
    assert "does its service set the mode itself" in str(caught.value)
    change_journal_mode(place.host, place.database, wal=True)
    check_journal_mode(place.host, place.database, wal=True)
    with pytest.raises(StepError, match="is not in rollback mode"):
        check_journal_mode(place.host, place.database, wal=False)


@root_only
def test_files_of_another_owner_than_the_database_s_are_told(place: Place) -> None:
    with held(place.source, "PRAGMA journal_mode = WAL", "DELETE FROM keys"):
        os.chown(f"{place.source}-wal", NOBODY, NOBODY)
        with pytest.raises(StepError, match="have different owners") as caught:
            check_journal_mode(place.host, place.database, wal=True)
    assert "give the -wal and -shm the owner of the database" in str(caught.value)


@root_only
def test_what_root_makes_belongs_to_the_owner_of_the_database(place: Place) -> None:
    os.chown(place.source, NOBODY, NOBODY)
    with live_writer(place.source):
        place.enable_wal()
        wait_until(lambda: place.names() == THREE, "a commit that goes to the WAL")
        owners = {(path.stat().st_uid, path.stat().st_gid) for path in place.source.parent.iterdir()}
    assert owners == {(NOBODY, NOBODY)}


@root_only
def test_without_sudo_the_database_of_another_user_is_left_alone(place: Place, public: Path, as_nobody: None) -> None:
    """As a user who may write it, by its mode, and whose -wal and -shm its service could not."""
    source = public / "sqlite3.db"
    shutil.copy(place.source, source)
    source.chmod(0o666)
    theirs = replace(place, database=replace(place.database, source=PurePosixPath(source)))
    before = source.read_bytes()
    words = theirs.refused()
    assert f"{source} is another user's, and its service could not write the files that this would make" in words
    assert "  -> set use_sudo to true (INVOKE_USE_SUDO=1)" in words
    assert (source.read_bytes(), theirs.names()) == (before, ["sqlite3.db"])
    os.chown(source, NOBODY, NOBODY)
    assert "is now in WAL mode" in theirs.enable_wal()


# --- as a user calls it ---------------------------------------------------------------------------------------------


def test_there_and_back_as_a_user_calls_it(demo: Demo) -> None:
    source = Path(demo.settings.database("tracker").source)
    source.parent.mkdir(parents=True)
    make_tracker(source, "delete", rows=2_000)
    task = ("enable-wal", "--database", "tracker")
    with live_writer(source) as wrote:
        done = demo.inv(*task)
        assert (done.returncode, done.stderr) == (0, "")
        assert "is now in WAL mode" in done.stdout
        refused = demo.inv(*task, "--undo")
        assert refused.returncode == 1
        assert "rehearsal.writer" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert wrote.failed == 0
    done = demo.inv(*task, "--undo")
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in source.parent.iterdir()] == ["sqlite3.db"]


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [(Path.unlink, 1, "there is no"), (lambda path: path.write_text("x" * 200), 1, "is not a database")],
)
def test_what_goes_wrong_is_told_in_words(demo: Demo, spoil: Spoil, code: int, words: str) -> None:
    spoil(demo.source)
    before = [path.name for path in demo.source.parent.iterdir()]
    done = demo.inv("enable-wal")
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in demo.source.parent.iterdir()] == before


def test_a_database_that_is_not_in_the_settings_is_a_wrong_argument(demo: Demo) -> None:
    done = demo.inv("enable-wal", "--database", "nonsense")
    assert done.returncode == 2
    assert "no database 'nonsense' in the settings; there are: index, tracker" in done.stderr
