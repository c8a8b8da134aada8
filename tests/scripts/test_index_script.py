"""share/bin/index-db-backup.sh against real SQLite, run by bash with a database and a folder of the test's own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from ..helpers.constants import ODD_NAMES, SCRIPT
from ..helpers.databases import is_consistent
from ..helpers.processes import wait_until
from ..helpers.tasks import clean_environment

DAY = 24 * 3600
NAME = re.compile(r"backup_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.db")
# With a backup older than any that is kept, and with what is not the script's at all.
OLD_BACKUP, TRACKERS = "backup_2020-02-02_02-00-00.db", "tracker_backup_2020-02-02_02-00-00.db"

# A service whose every commit changes a page at each end of the file, and never one without the other.
SERVICE = """
import json, select, sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)
commits = failed = 0
due = time.monotonic()
while not select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]:
    due = max(due + 1 / float(sys.argv[2]), time.monotonic() - 1)
    try:
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE first SET n = n + 1")
        database.execute("UPDATE last SET n = n + 1")
        database.execute("COMMIT")
        commits += 1
    except sqlite3.OperationalError as error:
        failed += 1
        if database.in_transaction:
            database.rollback()
print(json.dumps([commits, failed]))
"""


def make_database(path: Path, megabytes: int = 0, journal: str = "delete") -> None:
    """Make a database with a counter on its first and on its last pages, and so much between the two."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA journal_mode = {journal}")
        database.executescript(
            f"""
            CREATE TABLE first (n); INSERT INTO first VALUES (0);
            CREATE TABLE padding (x);
            INSERT INTO padding WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r)
                SELECT randomblob(100000) FROM r LIMIT {megabytes * 10};
            CREATE TABLE last (n); INSERT INTO last VALUES (0);
            """
        )


def counters(path: Path, options: str = "") -> tuple[int, int]:
    """Read both counters."""
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro{options}", uri=True)) as database:
        first, last = database.execute("SELECT first.n, last.n FROM first, last").fetchone()
    return first, last


def size(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


@dataclass
class Place:
    """A database, a folder for its backups, and what the script is called with."""

    source: Path
    folder: Path
    environment: dict[str, str]
    script: Path = SCRIPT

    @property
    def part(self) -> Path:
        return self.folder / ".backup.part"

    def start(self, *before: str, **changes: str) -> subprocess.Popen[str]:
        """Start the script in a process group of its own."""
        paths = {"DATABASE_FILE": str(self.source), "BACKUP_DIR": str(self.folder)}
        return subprocess.Popen(
            [*before, "bash", str(self.script)],
            env=self.environment | paths | changes,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
            start_new_session=True,
        )

    def run(self, *before: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run the script, to its end."""
        return finish(self.start(*before, **changes))

    def visible(self) -> list[str]:
        """The names that `ls` shows in the backup folder."""
        return sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))

    def hidden(self) -> list[str]:
        """The other names there."""
        return sorted(path.name for path in self.folder.iterdir() if path.name.startswith("."))

    def backup(self) -> Path:
        """The one backup that is there, and nothing else but the lock."""
        (name,) = self.visible()
        assert NAME.fullmatch(name)
        assert self.hidden() == [".backup.lock"]
        return self.folder / name

    def add_old(self) -> list[str]:
        """Put backups there that are ten days old."""
        for name in (OLD_BACKUP, TRACKERS):
            (self.folder / name).write_text("old")
            make_older(self.folder / name, 10 * DAY)
        return self.visible()

    @contextlib.contextmanager
    def dates(self, *words: str) -> Iterator[None]:
        """Let `date` print the words given, one a call, the last one ever after."""
        programs = Path(tempfile.mkdtemp(dir=self.source.parent, prefix="bin"))
        (programs / "words").write_text("\n".join(words) + "\n")
        date = programs / "date"
        date.write_text('#!/bin/sh\ncd "${0%/*}"; head -n 1 words; [ "$(wc -l < words)" = 1 ] || sed -i 1d words\n')
        date.chmod(0o755)
        path = self.environment["PATH"]
        self.environment["PATH"] = f"{programs}:{path}"
        yield
        self.environment["PATH"] = path


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a script that was started."""
    out, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def make_older(path: Path, seconds: float) -> None:
    """Move a file's modification time back."""
    then = time.time() - seconds
    os.utime(path, (then, then), follow_symlinks=False)


@pytest.fixture
def place(tmp_path: Path, home: Path) -> Place:
    """A small database, and an empty folder for its backups."""
    folder = tmp_path / "backups"
    folder.mkdir()
    made = Place(tmp_path / "database" / "sqlite3.db", folder, clean_environment(home))
    made.source.parent.mkdir()
    make_database(made.source)
    return made


def assert_failed(place: Place, done: subprocess.CompletedProcess[str], cause: str, before: Sequence[str]) -> None:
    """It failed, said why in one line, left every backup where it was, and nothing of its own but the lock."""
    assert done.returncode != 0
    assert cause in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    assert place.visible() == list(before)
    assert set(place.hidden()) <= {".backup.lock"}


# --- a backup -------------------------------------------------------------------------------------------------------


def test_a_backup_is_a_whole_copy_under_the_published_name_and_nothing_is_said(place: Place) -> None:
    started = datetime.now().replace(microsecond=0)
    done = place.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    backup = place.backup()
    assert started <= datetime.strptime(backup.name, "backup_%Y-%m-%d_%H-%M-%S.db") <= datetime.now()
    assert is_consistent(backup)
    assert counters(backup, "&immutable=1") == (0, 0)


@pytest.mark.parametrize(("journal", "rate"), [("wal", 200), ("wal", 400), ("delete", 200), ("delete", 400)])
def test_under_a_live_writer_every_backup_is_one_moment_of_the_database_and_no_write_fails(
    place: Place, journal: str, rate: int
) -> None:
    place.source.unlink()
    make_database(place.source, megabytes=40, journal=journal)
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE, place.source, str(rate)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as service:
        with place.dates(*(f"2026-01-01_00-00-0{second}" for second in range(5))):
            for _ in range(5):
                wait_until_written(place.source)
                done = place.run()
                assert (done.returncode, done.stderr) == (0, "")
        commits, failed = json.loads(service.communicate("stop")[0])
    backups = [place.folder / name for name in place.visible()]
    moments = [counters(backup, "&immutable=1") for backup in backups]
    assert failed == 0
    assert all(first == last for first, last in moments)
    assert 0 < moments[0][0] < moments[1][0] < moments[2][0] < moments[3][0] < moments[4][0] <= commits
    assert all(is_consistent(backup) for backup in backups)


def wait_until_written(source: Path) -> None:
    """Wait for a commit of another process, without a lock that would be in its way."""

    def last() -> int:
        files = (source, source.with_name(f"{source.name}-wal"))
        return max(path.stat().st_mtime_ns for path in files if path.exists())

    before = last()
    wait_until(lambda: last() > before, "a commit of the service")


def test_what_stands_in_the_wal_only_is_in_the_backup_through_a_symbolic_link_too(place: Place, tmp_path: Path) -> None:
    link = tmp_path / "link to it.db"
    link.symlink_to(place.source)
    with contextlib.closing(sqlite3.connect(place.source, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = wal")
        database.execute("PRAGMA wal_autocheckpoint = 0")
        database.execute("UPDATE first SET n = 85")
        assert place.run(DATABASE_FILE=str(link)).returncode == 0
    backup = place.backup()
    assert not backup.is_symlink()
    assert counters(backup, "&immutable=1")[0] == 85
    assert sorted(path.name for path in tmp_path.iterdir() if "link" in path.name) == [link.name]


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_the_source_is_not_written(place: Place, journal: str) -> None:
    def looks() -> tuple[bytes, int, list[str]]:
        names = sorted(path.name for path in place.source.parent.iterdir())
        return place.source.read_bytes(), place.source.stat().st_mtime_ns, names

    with contextlib.closing(sqlite3.connect(place.source, isolation_level=None)) as service:
        service.execute(f"PRAGMA journal_mode = {journal}")
        service.execute("UPDATE first SET n = 1")
        make_older(place.source, DAY)
        before = looks()
        assert place.run().returncode == 0
        assert looks() == before


def test_a_start_up_file_of_sqlite3_is_not_read(
    place: Place, home: Path, private_home: Callable[[Path], list[str]]
) -> None:
    make_database(place.source.with_name("other.db"), megabytes=1)
    (home / ".sqliterc").write_text(f'.print from the start-up file\n.open "{place.source.with_name("other.db")}"\n')
    read = subprocess.run(
        [*private_home(home), "sqlite3", "-batch", ":memory:", "SELECT 1"], capture_output=True, text=True, check=True
    )
    assert "from the start-up file" in read.stdout  # else the test would prove nothing
    done = place.run(*private_home(home))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert size(place.backup()) == size(place.source)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o400])
def test_a_backup_is_as_readable_as_its_source(place: Place, mode: int, umask: int) -> None:
    place.source.chmod(mode)
    assert place.run("sh", "-c", f'umask {umask:o} && exec "$@"', "sh").returncode == 0
    assert place.backup().stat().st_mode & 0o777 == mode


ODD = ODD_NAMES | {"not UTF-8": "\udcff", "URI": "file:x"}


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_any_absolute_path_works(place: Place, tmp_path: Path, name: str) -> None:
    source, folder = tmp_path / name / f"{name}.db", tmp_path / name / "backups" / name
    folder.mkdir(parents=True)
    place.source.rename(source)
    place.source, place.folder = source, folder
    done = place.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert place.backup().read_bytes()[100:] == source.read_bytes()[100:]  # the header counts changes
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == sorted([source.name, "backups"])


@pytest.mark.parametrize("name", ["-x.db", "file:x.db", ":memory:"])
def test_relative_paths_work_too(place: Place, name: str) -> None:
    base = place.source.parent
    place.source.rename(base / name)
    place.folder = base / f"-{name}"
    place.folder.mkdir()
    done = place.run("env", "-C", str(base), DATABASE_FILE=name, BACKUP_DIR=place.folder.name)
    assert (done.returncode, done.stderr) == (0, "")
    assert is_consistent(place.backup())
    assert counters(place.backup(), "&immutable=1") == (0, 0)


# --- a source that cannot be backed up ------------------------------------------------------------------------------


def leave_hot_journal(path: Path) -> None:
    """Let a writer die in the middle of a transaction that has reached the file."""
    code = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.executescript("PRAGMA cache_size = 1; BEGIN; UPDATE padding SET x = randomblob(100000)")
os._exit(0)
"""
    path.unlink()
    make_database(path, megabytes=1)
    subprocess.run([sys.executable, "-c", code, path], check=True)
    assert size(path.with_name(f"{path.name}-journal"))


def truncate(path: Path) -> None:
    """Cut a database in its first page."""
    os.truncate(path, 3000)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


BAD_SOURCES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "No such file or directory"),
    "empty": (lambda path: os.truncate(path, 0), "sqlite3.db is empty, or is not a file"),
    "a folder": (replace_by_folder, "sqlite3.db is empty, or is not a file"),
    "a pipe": (replace_by_pipe, "sqlite3.db is empty, or is not a file"),
    "text": (lambda path: path.write_text("text " * 1000), "sqlite3.db: Error: in prepare, file is not a database"),
    "zeros": (lambda path: path.write_bytes(bytes(8192)), "file is not a database"),
    "truncated": (truncate, "sqlite3.db: Error: in prepare, database disk image is malformed"),
    "hot journal of a dead writer": (leave_hot_journal, "attempt to write a readonly database"),
}


@pytest.mark.parametrize(("spoil", "cause"), BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_without_a_good_source_it_fails_and_rotates_nothing(
    place: Place, spoil: Callable[[Path], object], cause: str
) -> None:
    before = place.add_old()
    spoil(place.source)
    beside = sorted(place.source.parent.iterdir())
    content = place.source.read_bytes() if place.source.is_file() else None
    assert_failed(place, place.run(), cause, before)
    assert sorted(place.source.parent.iterdir()) == beside
    assert content is None or place.source.read_bytes() == content


def test_a_locked_source_is_waited_for(place: Place) -> None:
    with contextlib.closing(sqlite3.connect(place.source, isolation_level=None)) as service:
        service.executescript("BEGIN EXCLUSIVE; UPDATE first SET n = 1; UPDATE last SET n = 1")
        script = place.start()
        wait_until(lambda: is_open(place.source), "sqlite3, waiting for the source")
        service.execute("COMMIT")
    done = finish(script)
    assert (done.returncode, done.stderr) == (0, "")
    assert counters(place.backup(), "&immutable=1") == (1, 1)


def is_open(path: Path) -> bool:
    """Tell whether another process has a file open."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if descriptor.parts[2] != str(os.getpid()) and descriptor.readlink() == path:
                return True
    return False


def test_a_source_that_stays_locked_is_a_failure(place: Place, tmp_path: Path) -> None:
    impatient = SCRIPT.read_text().replace(".timeout 120000", ".timeout 30")
    assert impatient != SCRIPT.read_text()
    place.script = tmp_path / SCRIPT.name
    place.script.write_text(impatient)
    before = place.add_old()
    with contextlib.closing(sqlite3.connect(place.source, isolation_level=None)) as service:
        service.execute("BEGIN EXCLUSIVE")
        assert_failed(place, place.run(), "sqlite3.db: Error: in prepare, database is locked", before)


# --- a folder that cannot be written --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cause"),
    [("missing", "missing: No such file or directory"), ("database/sqlite3.db", "sqlite3.db: Not a directory")],
)
def test_without_a_backup_folder_it_fails_and_makes_none(place: Place, tmp_path: Path, name: str, cause: str) -> None:
    done = place.run(BACKUP_DIR=str(tmp_path / name))
    assert_failed(place, done, cause, [])
    assert not (tmp_path / "missing").exists()


@pytest.fixture
def other_user(place: Place) -> Iterator[list[str]]:
    """Move everything to where a user without rights can come, and return what makes a command that user's.

    Who is not root is such a user already.
    """
    with tempfile.TemporaryDirectory() as name:
        public = Path(name)
        public.chmod(0o755)
        for path in (place.source.parent, place.folder, SCRIPT):
            (shutil.copy if path.is_file() else shutil.copytree)(path, public / path.name)
        place.source = public / place.source.parent.name / place.source.name
        place.folder, place.script = public / place.folder.name, public / SCRIPT.name
        place.folder.chmod(0o777)
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        yield nobody if os.geteuid() == 0 else []
        place.folder.chmod(0o755)
        place.source.parent.chmod(0o755)


def test_another_user_may_back_up_what_it_may_read(place: Place, other_user: list[str]) -> None:
    done = place.run(*other_user)
    assert (done.returncode, done.stderr) == (0, "")
    assert is_consistent(place.backup())


def test_without_permission_to_read_the_source_it_fails(place: Place, other_user: list[str]) -> None:
    before = place.add_old()
    place.source.chmod(0)
    assert_failed(place, place.run(*other_user), "sqlite3.db", before)
    place.source.parent.chmod(0)
    assert_failed(place, place.run(*other_user), "Permission denied", before)


def test_without_permission_to_write_the_folder_it_fails(place: Place, other_user: list[str]) -> None:
    before = place.add_old()
    place.folder.chmod(0o555)
    assert_failed(place, place.run(*other_user), f"{place.folder}/.backup.lock: Permission denied", before)


def test_on_a_full_disk_it_fails_and_gives_back_what_it_took(place: Place, private_mounts: list[str]) -> None:
    make_database(place.source.with_name("large.db"), megabytes=1)
    place.source = place.source.with_name("large.db")
    inside = """
        mount -t tmpfs -o size=512k tmpfs "$BACKUP_DIR"
        touch -d '10 days ago' "$BACKUP_DIR/backup_2020-02-02_02-00-00.db"
        status=0; "$@" || status=$?
        ls -A -- "$BACKUP_DIR"
        df --output=used -- "$BACKUP_DIR"
        exit "$status"
    """
    done = place.run(*private_mounts, "sh", "-euc", inside, "sh")
    assert done.returncode == 1
    assert done.stderr == f"index-db-backup.sh: cannot back up {place.source}: Error: database or disk is full\n"
    assert done.stdout.split() == [".backup.lock", OLD_BACKUP, "Used", "0"]


def test_where_the_copy_itself_is_killed_it_fails(place: Place) -> None:
    make_database(place.source.with_name("large.db"), megabytes=1)
    place.source = place.source.with_name("large.db")
    before = place.add_old()
    # A file that grows over the limit ends its writer with a signal (setrlimit(2), SIGXFSZ).
    done = place.run("bash", "-c", 'ulimit -c 0 && ulimit -f 100 && exec "$@"', "bash")
    assert_failed(place, done, "large.db: sqlite3 ended with status 153", before)


# --- killed, and two at once ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def stopped_midway(place: Place) -> Iterator[subprocess.Popen[str]]:
    """Start the script and stop it, with its sqlite3, in the middle of the copy; what is left of it dies at the end."""
    place.source.unlink()
    make_database(place.source, megabytes=60)
    for _ in range(20):
        script = place.start()
        try:
            _wait_for_part(place, script)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGSTOP)
            if 0 < size(place.part) < size(place.source):
                assert place.visible() == []
                yield script
                return
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)
            script.communicate()
            wait_until(lambda: is_free(place), "the end of the copy")
        for name in place.visible():  # it was faster than this test
            (place.folder / name).unlink()
    pytest.fail("could not stop the script in the middle of the copy")


def _wait_for_part(place: Place, script: subprocess.Popen[str]) -> None:
    wait_until(lambda: size(place.part) or script.poll() is not None, "the copy")


def is_free(place: Place) -> bool:
    """Tell whether no run holds the lock."""
    with (place.folder / ".backup.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_killed_midway_it_leaves_nothing_under_a_backups_name_and_the_next_run_clears_the_rest(place: Place) -> None:
    with stopped_midway(place):
        assert place.part.stat().st_mode & 0o077 == 0  # nobody else reads a part, whatever the mode of its source
    assert place.visible() == []
    assert place.hidden() == [".backup.lock", ".backup.part"]
    assert place.run().returncode == 0
    assert is_consistent(place.backup())


def test_while_the_copy_of_a_killed_run_goes_on_there_is_no_other(place: Place) -> None:
    with stopped_midway(place) as script:
        script.kill()
        script.wait()
        done = place.run()
        assert done.returncode == 1
        assert done.stderr == f"index-db-backup.sh: another run is at work in {place.folder}\n"
        assert size(place.part)
        os.killpg(script.pid, signal.SIGCONT)
        wait_until(lambda: is_free(place), "the end of the copy")
        assert place.visible() == []
    assert place.run().returncode == 0
    assert is_consistent(place.backup())


def test_of_two_at_once_the_second_is_refused_and_the_first_goes_well(place: Place) -> None:
    with stopped_midway(place) as script:
        before = size(place.part)
        done = place.run()
        assert done.returncode == 1
        assert done.stderr == f"index-db-backup.sh: another run is at work in {place.folder}\n"
        assert size(place.part) == before
        os.killpg(script.pid, signal.SIGCONT)
        assert finish(script).returncode == 0
        assert is_consistent(place.backup())


def test_ended_by_a_signal_it_clears_its_part_itself(place: Place) -> None:
    with stopped_midway(place) as script:
        os.killpg(script.pid, signal.SIGTERM)
        os.killpg(script.pid, signal.SIGCONT)
        assert finish(script).returncode == -signal.SIGTERM
    assert place.visible() == []
    assert place.hidden() == [".backup.lock"]


def test_killed_after_the_backup_got_its_name_the_next_run_leaves_that_backup_alone(place: Place) -> None:
    with place.dates("2026-01-01_00-00-00", "2026-01-01_00-00-01"):
        assert place.run().returncode == 0
        first = place.backup()
        os.link(first, place.part)  # as between the script's ln and its rm
        before = first.read_bytes()
        with contextlib.closing(sqlite3.connect(place.source)) as service, service:
            service.execute("UPDATE first SET n = 1")
        assert place.run().returncode == 0
    assert first.read_bytes() == before
    assert len(place.visible()) == 2
    assert place.hidden() == [".backup.lock"]


def test_of_two_within_one_second_the_later_gets_the_name_of_the_next(place: Place) -> None:
    with place.dates("2026-01-01_00-00-00", "2026-01-01_00-00-00", "2026-01-01_00-00-01"):
        for _ in range(2):
            done = place.run()
            assert (done.returncode, done.stderr) == (0, "")
    assert place.visible() == ["backup_2026-01-01_00-00-00.db", "backup_2026-01-01_00-00-01.db"]
    assert all(is_consistent(place.folder / name) for name in place.visible())


def test_a_name_that_stays_taken_is_left_to_its_backup(place: Place) -> None:
    with place.dates("2026-01-01_00-00-00"):
        assert place.run().returncode == 0
        before = place.backup().read_bytes()
        with contextlib.closing(sqlite3.connect(place.source)) as service, service:
            service.execute("UPDATE first SET n = 1")
        done = place.run()
    assert_failed(
        place,
        done,
        "backup_2026-01-01_00-00-00.db is there already: has the clock been put back?",
        ["backup_2026-01-01_00-00-00.db"],
    )
    assert place.backup().read_bytes() == before


def test_a_folder_that_has_the_name_of_the_backup_gets_nothing_into_it(place: Place) -> None:
    taken = place.folder / "backup_2026-01-01_00-00-00.db"
    taken.mkdir()
    with place.dates("2026-01-01_00-00-00"):
        assert_failed(place, place.run(), "is there already", [taken.name])
    assert list(taken.iterdir()) == []


# --- rotation -------------------------------------------------------------------------------------------------------


def test_a_good_backup_rotates_away_its_own_kind_older_than_seven_days_and_nothing_else(place: Place) -> None:
    # find's -mtime +7 counts whole days: more than seven of them have passed when eight have.
    gone = {OLD_BACKUP: 10 * DAY, "backup_2026-01-01_00-00-00.db": 8 * DAY + 60}
    kept = {
        "backup_2026-01-02_00-00-00.db": 8 * DAY - 3600,
        "backup_2026-01-03_00-00-00.db": 0,
        TRACKERS: 10 * DAY,
        "backup_2020-01-01_00-00-00.db.gz": 10 * DAY,
        "my_backup_2020-01-01_00-00-00.db": 10 * DAY,
        "notes.txt": 10 * DAY,
        ".backup_hidden.db": 10 * DAY,
        ".tracker_backup.lock": 10 * DAY,
        ".tracker_backup.part": 10 * DAY,
        "below/backup_2020-01-01_00-00-00.db": 10 * DAY,
        "below": 10 * DAY,
    }
    (place.folder / "below").mkdir()
    for name, age in {**gone, **kept}.items():
        path = place.folder / name
        if name != "below":
            path.write_text("x")
        make_older(path, age)
    (place.folder / "backup_folder.db").mkdir()
    make_older(place.folder / "backup_folder.db", 10 * DAY)
    (place.folder / "backup_link.db").symlink_to("notes.txt")
    make_older(place.folder / "backup_link.db", 10 * DAY)
    with place.dates("2026-02-02_00-00-00"):
        done = place.run()
    assert (done.returncode, done.stderr) == (0, "")
    names = {str(path.relative_to(place.folder)) for path in place.folder.rglob("*")}
    made = {"backup_2026-02-02_00-00-00.db", ".backup.lock"}
    assert names == {*kept, "backup_folder.db", "backup_link.db", *made}
