"""The preflight: the verdict decided from facts, the facts of a real database, and the task."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from demo_backups.backup.catalog import has_hidden_backup
from demo_backups.backup.copy_speed import SpeedSource
from demo_backups.backup.crontab import PUBLISHED, count_daily_runs
from demo_backups.backup.directory_access import DirectoryAccess
from demo_backups.backup.disk_space import Disk
from demo_backups.backup.preflight import (
    RETENTION_DAYS,
    PreflightFacts,
    Verdict,
    decide_preflight,
    observe_preflight,
)
from demo_backups.backup.write_rate import WriteRate
from demo_backups.errors import (
    BackupsError,
    CouldNotLookError,
    NoDatabaseError,
    Problem,
    SettingsError,
    SourceUnavailableError,
)
from demo_backups.rehearsal.database import make_tracker
from demo_backups.remote.host import Host
from demo_backups.remote.notify import ignore
from demo_backups.remote.processes import Process
from demo_backups.settings.load import validate_settings
from demo_backups.settings.model import Database, Settings
from demo_backups.sqlite.sharing import FileMount, Sharing

from ..helpers.constants import NOBODY, root_only
from ..helpers.databases import is_consistent, leave_hot_journal, opened, set_journal_mode
from ..helpers.processes import wait_until
from ..helpers.programs import link_programs, shadow_program
from ..helpers.services import service_in_process, with_mount
from ..helpers.tasks import DemoServer

# --- the verdict ----------------------------------------------------------------------------------------------------

FLOOR = 1_000
TIMEOUT = 5.0
RUNNING = [Process(12, "root", "sqlite3 -batch"), Process(13, "torrust", "bash")]
SHARED = Sharing(1, [], [], [], [], sees_all=True)
LINKED = replace(SHARED, links=2)
FILE_MOUNT = replace(SHARED, mounts=[(FileMount(36, "/app/db"), RUNNING)])
ROLLBACK = PreflightFacts(
    host="demo",
    database="tracker",
    sqlite="3.40.1",
    wal=False,
    source_bytes=50_000,
    wal_bytes=0,
    backup_disk=Disk("/", 10**9),
    source_disk=Disk("/", 10**9),
    state_disk=Disk("/", 10**9),
    backup_dir=PurePosixPath("/backups"),
    backup_dir_access=DirectoryAccess.WRITABLE,
    source_dir=PurePosixPath("/data"),
    source_dir_access=None,
    write_rate=WriteRate(200.0, 0.0),
    backup_processes=[],
    hidden_backup=False,
    leaves_sidecars=False,
    sharing=SHARED,
    copy_seconds=2.0,
    speed_source=SpeedSource.EARLIER_RUNS,
    backup_count=3,
    backup_bytes=150_000,
    runs_a_day=24,
)
# The WAL grows by 18,000 bytes.
WAL = replace(ROLLBACK, wal=True, wal_bytes=8_000, write_rate=WriteRate(200.0, 300.0), copy_seconds=60.0)


def on_one_disk(facts: PreflightFacts, free: int) -> PreflightFacts:
    """Put the source and its backups on one disk."""
    disk = Disk("/", free)
    return replace(facts, backup_disk=disk, source_disk=disk, state_disk=disk)


def on_two_disks(facts: PreflightFacts, backups: int, source: int) -> PreflightFacts:
    """Put the source on a disk of its own."""
    return replace(facts, backup_disk=Disk("/mnt/backups", backups), source_disk=Disk("/data", source))


@pytest.mark.parametrize(
    ("facts", "verdict", "keywords"),
    [
        # Writers: in rollback mode they wait for the whole copy, and give up after 5 s.
        (ROLLBACK, Verdict.WARN, ["2 seconds"]),
        (replace(ROLLBACK, copy_seconds=5.0), Verdict.WARN, ["5 seconds"]),
        (replace(ROLLBACK, copy_seconds=5.1), Verdict.NO, ["5.1 seconds"]),
        (replace(ROLLBACK, copy_seconds=3_600.0), Verdict.NO, ["1 hour"]),
        (replace(ROLLBACK, copy_seconds=1e21), Verdict.NO, ["seconds"]),  # by a record of almost no bytes
        (WAL, Verdict.GO, []),
        (replace(WAL, copy_seconds=3_600.0), Verdict.GO, []),
        # Space on one disk: the copy, the growth of the WAL during it, and the floor.
        (on_one_disk(WAL, 69_000), Verdict.GO, []),
        (on_one_disk(WAL, 68_999), Verdict.NO, ["on / "]),
        (on_one_disk(ROLLBACK, 51_000), Verdict.WARN, ["writers"]),
        (on_one_disk(ROLLBACK, 50_000), Verdict.NO, ["1 kB", "writers"]),
        # On two disks: each for its own.
        (on_two_disks(WAL, 51_000, 19_000), Verdict.GO, []),
        (on_two_disks(WAL, 50_999, 19_000), Verdict.NO, ["/mnt/backups"]),
        (on_two_disks(WAL, 51_000, 18_999), Verdict.NO, ["/data"]),
        (on_two_disks(WAL, 50_999, 18_999), Verdict.NO, ["/mnt/backups", "/data"]),
        (on_two_disks(ROLLBACK, 51_000, 999), Verdict.NO, ["/data", "writers"]),
        # The state of the job needs the floor.
        (replace(on_two_disks(WAL, 51_000, 19_000), state_disk=Disk("/root", 1_000)), Verdict.GO, []),
        (replace(on_two_disks(WAL, 51_000, 19_000), state_disk=Disk("/root", 999)), Verdict.NO, ["/root"]),
        (replace(on_two_disks(WAL, 51_000, 19_000), state_disk=Disk("/data", 19_000)), Verdict.GO, []),
        # Files can be created and deleted.
        (replace(WAL, backup_dir_access=DirectoryAccess.READ_ONLY), Verdict.NO, ["/backups is on a read-only"]),
        (replace(WAL, source_dir_access=DirectoryAccess.READ_ONLY), Verdict.NO, ["/data is on a read-only"]),
        (replace(WAL, source_dir_access=DirectoryAccess.WRITABLE), Verdict.GO, []),
        (replace(WAL, backup_dir_access=DirectoryAccess.APPEND_ONLY), Verdict.NO, ["chattr -a /backups"]),
        (replace(WAL, backup_disk=Disk("/mnt", 10**9, 3)), Verdict.NO, ["inodes on /mnt"]),
        (replace(WAL, state_disk=Disk("/root", 10**9, 0)), Verdict.NO, ["inodes on /root"]),
        (replace(WAL, source_disk=Disk("/data", 10**9, 10**6)), Verdict.GO, []),
        # Files next to an idle database that could stop its service.
        (replace(WAL, leaves_sidecars=True), Verdict.NO, ["INVOKE_USE_SUDO=1"]),
        # Processes with another -wal; in rollback mode only a crash does harm, but the script refuses hard links.
        (replace(WAL, sharing=FILE_MOUNT), Verdict.NO, ["/app/db"]),
        (replace(ROLLBACK, sharing=FILE_MOUNT), Verdict.WARN, ["writers", "crash"]),
        (replace(WAL, sharing=LINKED), Verdict.NO, ["2 hard links"]),
        (replace(ROLLBACK, sharing=LINKED), Verdict.NO, ["2 hard links", "writers"]),
        (replace(WAL, sharing=replace(SHARED, other_wal=RUNNING[1:])), Verdict.NO, ["process 13 of torrust"]),
        (replace(ROLLBACK, sharing=replace(SHARED, deleted=RUNNING[1:])), Verdict.NO, ["process 13", "writers"]),
        (replace(WAL, sharing=replace(SHARED, hidden=[14, 15])), Verdict.WARN, ["14, 15"]),
        (replace(WAL, sharing=replace(SHARED, sees_all=False)), Verdict.WARN, ["INVOKE_USE_SUDO=1"]),
        (replace(ROLLBACK, sharing=replace(SHARED, sees_all=False)), Verdict.WARN, ["writers"]),
        # One backup at a time.
        (replace(WAL, hidden_backup=True), Verdict.NO, ["running"]),
        (replace(WAL, backup_processes=RUNNING[:1], hidden_backup=True), Verdict.NO, ["process 12 of root"]),
        (
            replace(WAL, problems=[Problem("/srv belongs to bob", "chown root /srv")]),
            Verdict.NO,
            ["/srv belongs to bob"],
        ),
        (replace(WAL, script_owner="torrust can change it"), Verdict.GO, []),
        (replace(WAL, backup_processes=RUNNING), Verdict.NO, ["process 12 of root, process 13 of torrust"]),
        (
            on_one_disk(replace(ROLLBACK, backup_processes=RUNNING, copy_seconds=9.0), 0),
            Verdict.NO,
            ["enable-wal", "on / ", "process 12"],
        ),
    ],
)
def test_verdict_and_reasons(facts: PreflightFacts, verdict: Verdict, keywords: list[str]) -> None:
    preflight = decide_preflight(facts, TIMEOUT, FLOOR)
    assert preflight.verdict is verdict
    assert len(preflight.reasons) == len(keywords), preflight.reasons
    for reason, keyword in zip(preflight.reasons, keywords, strict=True):
        assert keyword in reason
    assert preflight.exit_code == (1 if verdict is Verdict.NO else 0)


def test_reason_has_command_that_helps() -> None:
    (reason,) = decide_preflight(replace(ROLLBACK, copy_seconds=72.0), TIMEOUT, FLOOR).reasons
    assert "./inv enable-wal --host demo --database tracker" in reason


def test_json_has_all_numbers() -> None:
    facts = on_two_disks(replace(WAL, backup_processes=RUNNING[:1]), 10**9, 10**8)
    preflight = decide_preflight(facts, TIMEOUT, FLOOR)
    assert json.loads(json.dumps(preflight.as_json())) == {
        "host": "demo",
        "database": "tracker",
        "journal": "wal",
        "source_bytes": 50_000,
        "wal_bytes": 8_000,
        "commits_per_second": 200.0,
        "free_bytes": {"backups": 10**9, "source": 10**8},
        "needed_bytes": {"backups": 51_000, "source": 19_000},
        "wal_growth_bytes": 18_000,
        "sqlite": "3.40.1",
        "running": [{"pid": 12, "user": "root", "command": "sqlite3 -batch"}],
        "running_unseen": False,
        "expected_seconds": 60.0,
        "expected_from": "earlier runs",
        "writers_held_seconds": 0,
        "backups": {"count": 3, "bytes": 150_000, "rotation_bytes": 50_000 * 24 * RETENTION_DAYS},
        "verdict": "no",
        "reasons": list(preflight.reasons),
        "notes": [],
    }


@pytest.mark.parametrize(
    ("facts", "journal", "seconds", "verdict"),
    [
        (WAL, "wal", 0, "go"),
        (ROLLBACK, "rollback", 2.0, "warn"),
        (replace(ROLLBACK, copy_seconds=7), "rollback", 7, "no"),
    ],
)
def test_json_has_writer_wait(facts: PreflightFacts, journal: str, seconds: float, verdict: str) -> None:
    content = decide_preflight(facts, TIMEOUT, FLOOR).as_json()
    assert (content["journal"], content["writers_held_seconds"], content["verdict"]) == (journal, seconds, verdict)


@pytest.mark.parametrize("hidden", [False, True])
def test_json_has_hidden_backup(hidden: bool) -> None:
    content = decide_preflight(replace(WAL, hidden_backup=hidden), TIMEOUT, FLOOR).as_json()
    assert content["running_unseen"] is hidden


def test_runs_a_day_by_published_crontab(project_settings: Settings) -> None:
    text = PUBLISHED.read_text()
    counts = [count_daily_runs(project_settings.database(name), text) for name in ("index", "tracker")]
    assert counts == [24, 1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("writer_timeout", "soon"),
        ("writer_timeout", "-1"),
        ("writer_timeout", ""),
        ("free_space_floor", "plenty"),
        ("free_space_floor", "5 boxes"),
    ],
)
def test_invalid_setting_is_named(project_settings: Settings, key: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        validate_settings(project_settings.model_dump(mode="json") | {key: value})
    assert caught.value.output.startswith(key)


# --- a real database on this machine --------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the write rate in a shorter time; test_write_rate.py measures it as it is."""
    monkeypatch.setattr("demo_backups.backup.write_rate.PAUSE", 0.01)


@pytest.fixture
def observe(local_host: Host, database: Database) -> Callable[..., PreflightFacts]:
    """Observe that database."""
    return lambda notify=ignore: observe_preflight(local_host, database, "3.40.1", 24, (), notify)


def wait_shortly_for_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a sqlite3 in place that waits for a lock for less than the two minutes that it is called with."""
    real = shlex.quote(shutil.which("sqlite3") or "")
    shadow_program(tmp_path / "bin", "sqlite3", f'exec {real} "${{@/#.timeout 120000/.timeout 50}}"', monkeypatch)


def read_files(*folders: PurePosixPath) -> dict[str, tuple[int, bytes]]:
    """Read all files of some folders with their times; of a -shm only that it exists: readers write to it."""
    files = [path for folder in folders for path in Path(folder).rglob("*") if path.is_file()]
    return {
        str(path): (0, b"") if path.name.endswith("-shm") else (path.stat().st_mtime_ns, path.read_bytes())
        for path in files
    }


def test_facts_of_closed_database(observe: Callable[..., PreflightFacts], database: Database) -> None:
    for name, size in (("backup_2026-01-01_00-00-00.db", 10), ("backup_2026-01-02_00-00-00.db", 20), ("else.db", 40)):
        Path(database.backup_dir, name).write_bytes(b"x" * size)
    facts = observe()
    assert facts.source_bytes == Path(database.source).stat().st_size
    assert facts.write_rate == WriteRate(0, 0)
    assert facts.speed_source is SpeedSource.SAMPLE
    assert 0 < facts.copy_seconds < float("inf")
    assert (facts.backup_count, facts.backup_bytes) == (2, 30)
    assert (facts.wal, facts.wal_bytes, facts.leaves_sidecars) == (False, 0, False)
    preflight = decide_preflight(facts, TIMEOUT, FLOOR)
    assert preflight.needed_bytes[facts.backup_disk.mount] == facts.source_bytes + FLOOR
    assert preflight.rotation_bytes == facts.source_bytes * 24 * RETENTION_DAYS


def test_verified_link_counts_once_original_is_gone(observe: Callable[..., PreflightFacts], database: Database) -> None:
    original = Path(database.backup_dir, "backup_2026-01-01_00-00-00.db")
    original.write_bytes(b"x" * 10)
    assert not observe().keeps_verified
    original.with_name(f"verified.{original.name}").hardlink_to(original)
    facts = observe()
    assert (facts.backup_count, facts.backup_bytes) == (1, 10)
    original.unlink()
    facts = observe()
    assert (facts.backup_count, facts.backup_bytes) == (1, 10)
    assert decide_preflight(facts, TIMEOUT, FLOOR).rotation_bytes == facts.source_bytes * (24 * RETENTION_DAYS + 1)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_observing_changes_no_file(
    observe: Callable[..., PreflightFacts], database: Database, journal: str, is_open: bool
) -> None:
    set_journal_mode(database.source, journal)

    def check() -> None:
        before = read_files(database.source.parent, database.backup_dir)
        assert len(before) == (3 if journal == "wal" and is_open else 1)
        observe()
        assert read_files(database.source.parent, database.backup_dir) == before

    if is_open:
        with opened(database.source):
            check()
    else:
        check()


def test_size_includes_the_wal(
    observe: Callable[..., PreflightFacts], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample of the source must come from the middle of the file, not of the database, which is much larger."""
    monkeypatch.setattr("demo_backups.backup.copy_speed.SAMPLE_BYTES", 100_000)
    set_journal_mode(database.source, "wal")
    size = 3_000_000
    with opened(database.source) as service:
        service.execute("PRAGMA wal_autocheckpoint = 0")
        service.execute(f"CREATE TABLE more AS SELECT zeroblob({size}) AS x")
        assert Path(database.source).stat().st_size < (size - 100_000) // 2
        facts = observe()
    assert facts.source_bytes > size
    assert facts.wal_bytes > size
    assert 0 < facts.copy_seconds < float("inf")


def test_running_backup_is_named(observe: Callable[..., PreflightFacts], database: Database) -> None:
    with subprocess.Popen(["flock", database.lock, "cat"], stdin=subprocess.PIPE) as backup:
        wait_until(lambda: observe().backup_processes, "the lock")
        processes = observe().backup_processes
        assert backup.pid in [process.pid for process in processes]
        assert any("flock" in process.command for process in processes)
        assert backup.stdin
        backup.stdin.close()
    assert observe().backup_processes == []  # the lock file exists, unlocked


def test_single_file_mount_means_no(
    observe: Callable[..., PreflightFacts], database: Database, private_mounts: list[str], tmp_path: Path
) -> None:
    set_journal_mode(database.source, "wal")
    inside = tmp_path / "in the container.db"
    inside.touch()
    start = with_mount(private_mounts, Path(database.source), inside)
    with service_in_process(inside, "CREATE TABLE added (x)", start=start):
        facts = observe()
    assert decide_preflight(facts, TIMEOUT, FLOOR).verdict is Verdict.NO
    assert not observe().sharing.problems


@pytest.fixture
def foreign(database: Database, public_folder: Path) -> Database:
    """Root's WAL database, and a folder for its backups, that any user may read and write by their modes."""
    source = public_folder / "sqlite3.db"
    backups = public_folder / "backups"
    set_journal_mode(database.source, "wal")
    shutil.copy(database.source, source)
    source.chmod(0o666)
    backups.mkdir()
    backups.chmod(0o777)
    script = PurePosixPath(public_folder / "bin/script.sh")
    return replace(database, source=PurePosixPath(source), script=script, backup_dir=PurePosixPath(backups))


@root_only
def test_sidecars_of_other_user_are_avoided(local_host: Host, foreign: Database, as_nobody: None) -> None:
    def leaves_sidecars() -> bool:
        return observe_preflight(local_host, foreign, "3.40.1", 24, ()).leaves_sidecars

    assert leaves_sidecars()
    assert {path.name for path in Path(foreign.source).parent.iterdir()} == {"sqlite3.db", "backups"}
    with opened(foreign.source):  # its service runs, and has created them
        assert not leaves_sidecars()
    os.chown(foreign.source, NOBODY, NOBODY)
    assert not leaves_sidecars()
    os.chown(foreign.source, 0, 0)
    set_journal_mode(foreign.source, "delete")
    assert not leaves_sidecars()


@root_only
def test_hidden_backup_means_no(local_host: Host, foreign: Database, as_nobody: None) -> None:
    with opened(foreign.source), subprocess.Popen(["flock", foreign.lock, "cat"], stdin=subprocess.PIPE) as backup:
        wait_until(lambda: has_hidden_backup(local_host, foreign), "the lock")
        facts = observe_preflight(local_host, foreign, "3.40.1", 24, ())
        assert (facts.backup_processes, facts.hidden_backup) == ([], True)
        prediction = decide_preflight(facts, TIMEOUT, FLOOR)
        assert prediction.verdict is Verdict.NO
        assert any("cannot see" in reason for reason in prediction.reasons)
        assert backup.stdin
        backup.stdin.close()
    assert not has_hidden_backup(local_host, foreign)  # the lock file exists, unlocked


# --- facts that are not available -----------------------------------------------------------------------------------


def remove(path: PurePosixPath) -> None:
    Path(path).unlink()


def empty(path: PurePosixPath) -> None:
    os.truncate(path, 0)


def crash(path: PurePosixPath) -> None:
    leave_hot_journal(path, "UPDATE torrust_torrents SET name = name || hex(randomblob(2000))")


def leave_only_wal(path: PurePosixPath) -> None:
    set_journal_mode(path, "wal")
    Path(f"{path}-wal").touch()


@pytest.mark.parametrize(
    ("spoil", "error", "code"),
    [
        (remove, NoDatabaseError, 1),
        (empty, NoDatabaseError, 1),
        (crash, SourceUnavailableError, 3),
        (leave_only_wal, SourceUnavailableError, 3),
    ],
)
def test_unavailable_source_is_an_error(
    observe: Callable[..., PreflightFacts],
    database: Database,
    spoil: Callable[[PurePosixPath], None],
    error: type[BackupsError],
    code: int,
) -> None:
    spoil(database.source)
    before = read_files(database.source.parent, database.backup_dir)
    with pytest.raises(error) as caught:
        observe()
    assert caught.value.exit_code == code
    assert str(database.source) in caught.value.action
    assert caught.value.advice
    assert read_files(database.source.parent, database.backup_dir) == before


def test_locked_source_is_an_error(
    observe: Callable[..., PreflightFacts], database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_shortly_for_locks(tmp_path, monkeypatch)
    messages: list[str] = []
    assert observe(messages.append).source_bytes
    assert messages == []
    with (
        service_in_process(Path(database.source), "BEGIN EXCLUSIVE") as service,
        pytest.raises(SourceUnavailableError, match=str(database.source.name)) as caught,
    ):
        observe(messages.append)
    assert "database is locked" in caught.value.output
    assert f"process {service.pid} of" in caught.value.output
    assert "locking_mode=EXCLUSIVE" in caught.value.advice
    (message,) = messages
    assert "120 s" in message
    assert f"process {service.pid} of" in message


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_exclusive_service_is_named(
    observe: Callable[..., PreflightFacts],
    database: Database,
    journal: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait_shortly_for_locks(tmp_path, monkeypatch)
    set_journal_mode(database.source, journal)
    statements = ("PRAGMA locking_mode = EXCLUSIVE", "DELETE FROM torrust_torrents WHERE torrent_id = 1")
    with (
        service_in_process(Path(database.source), *statements) as service,
        pytest.raises(SourceUnavailableError) as caught,
    ):
        observe()
    assert f"process {service.pid} of" in caught.value.output
    assert "EXCLUSIVE" in str(caught.value)
    assert "start its service" not in str(caught.value)


def test_sqlite_of_cron_without_one_of_login(
    observe: Callable[..., PreflightFacts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(link_programs(tmp_path / "programs", "sqlite3")))
    assert observe().source_bytes


def test_missing_sqlite_is_named(
    observe: Callable[..., PreflightFacts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = str(link_programs(tmp_path / "programs", "sqlite3"))
    monkeypatch.setenv("PATH", programs)
    monkeypatch.setattr("demo_backups.sqlite.command.CRON_PATH", programs)
    with pytest.raises(SourceUnavailableError, match="sqlite3 is not installed") as caught:
        observe()
    assert "service" not in caught.value.advice


@pytest.mark.parametrize("program", ["df", "find", "od"])
def test_missing_program_is_named(
    observe: Callable[..., PreflightFacts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setenv("PATH", str(link_programs(tmp_path / "programs", program)))
    with pytest.raises(CouldNotLookError) as caught:
        observe()
    assert f"install {program}" in caught.value.advice


def test_missing_backup_folder_is_an_error(observe: Callable[..., PreflightFacts], database: Database) -> None:
    Path(database.backup_dir).rmdir()
    with pytest.raises(CouldNotLookError, match=r"backups in") as caught:
        observe()
    command = caught.value.advice.partition("on the host: ")[2]
    assert not Path(database.backup_dir).exists()
    subprocess.run(["sh", "-c", command], check=True)
    assert Path(database.backup_dir).stat().st_mode & 0o777 == 0o750
    assert observe().backup_count == 0


def test_file_as_backup_folder_is_error(observe: Callable[..., PreflightFacts], database: Database) -> None:
    Path(database.backup_dir).rmdir()
    Path(database.backup_dir).touch()
    with pytest.raises(CouldNotLookError, match=r"backups in"):
        observe()


@pytest.mark.parametrize(("program", "output"), [("df", "Verfügbar\nviel"), ("df", ""), ("dd", ""), ("date", "")])
def test_invalid_answer_is_an_error(
    observe: Callable[..., PreflightFacts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, output: str
) -> None:
    shadow_program(tmp_path / "bin", program, f"printf '{output}'", monkeypatch)
    with pytest.raises(CouldNotLookError):
        observe()


# --- the task -------------------------------------------------------------------------------------------------------

NO_WAIT = {"INVOKE_WRITER_TIMEOUT": "0 s"}


@pytest.fixture
def tracker(demo_server: DemoServer) -> Database:
    """The tracker database of the throwaway server, with the script that backs it up."""
    database = demo_server.settings.database("tracker")
    Path(database.source).parent.mkdir(parents=True)
    make_tracker(Path(database.source), "delete", 500)
    shutil.copy(database.local_script, database.script)
    return database


def parse_json(done: subprocess.CompletedProcess[str]) -> Any:
    """Parse the one JSON object on standard output."""
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def test_task_exits_by_verdict(demo_server: DemoServer, tracker: Database) -> None:
    flags = ("preflight", "--database", "tracker", "--json")
    warn = demo_server.inv(*flags)
    assert (warn.returncode, parse_json(warn)["verdict"]) == (0, "warn"), warn.stderr
    set_journal_mode(tracker.source, "wal")
    no = demo_server.inv(*flags, INVOKE_FREE_SPACE_FLOOR="1 EB")
    content = parse_json(no)
    assert (no.returncode, content["verdict"], content["writers_held_seconds"]) == (1, "no", 0)


def test_task_prints_json_of_error(demo_server: DemoServer) -> None:
    done = demo_server.inv("preflight", "--database", "tracker", "--json")
    assert done.returncode == 1
    content = parse_json(done)
    assert content["exit_code"] == 1
    assert content["error"] in done.stderr


def test_linked_source_is_read_at_target(demo_server: DemoServer) -> None:
    real = demo_server.source.rename(demo_server.backups.with_name("real.db"))
    demo_server.source.symlink_to(real)
    set_journal_mode(real, "wal")
    with opened(real) as service:
        service.execute("PRAGMA wal_autocheckpoint = 0")
        service.execute("CREATE TABLE added AS SELECT zeroblob(500000) AS x")
        content = parse_json(demo_server.inv("preflight", "--json"))
        done = demo_server.inv("enable-wal")
    assert content["wal_bytes"] > 500_000
    assert content["source_bytes"] > 500_000
    assert str(real) in done.stdout


@pytest.mark.parametrize("task", ["preflight", "enable-wal"])
def test_dangling_link_is_no_database(demo_server: DemoServer, task: str) -> None:
    demo_server.source.unlink()
    demo_server.source.symlink_to("missing.db")
    done = demo_server.inv(task)
    assert done.returncode == 1
    assert "does not exist" in done.stderr
    assert not demo_server.source.exists()


def test_run_needs_force_after_no(demo_server: DemoServer, tracker: Database) -> None:
    refused = demo_server.inv("run-tracker-backup", **NO_WAIT)
    assert refused.returncode == 1
    assert "enable-wal" in refused.stderr
    assert "--force" in refused.stderr
    assert demo_server.names() == []
    forced = demo_server.inv("run-tracker-backup", "--force", **NO_WAIT)
    assert forced.returncode == 0, forced.stderr
    (name,) = demo_server.names()
    assert name.startswith("tracker_backup_")
    assert is_consistent(demo_server.backups / name)
