"""What follows from the facts of a host: tables of facts and findings."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from demo_backups.backup.disk_space import Disk
from demo_backups.health.cron_log import CronLog
from demo_backups.health.findings import LONGEST_TEXT
from demo_backups.health.freshness import sort_backups
from demo_backups.health.host_facts import CronFacts, HostFacts, LastJob, NoPermission, RestoreFacts, Source
from demo_backups.health.judge import decide_limits, judge_host
from demo_backups.health.leftovers import Leftover, RunFiles
from demo_backups.health.state import Health, State
from demo_backups.records.check import Check, Outcome
from demo_backups.recovery.restore_journal import Method, PendingRestore, Proof, Save
from demo_backups.remote.fact import Unavailable
from demo_backups.remote.files import File
from demo_backups.remote.job_state import BACKUP, Job, JobStatus
from demo_backups.settings.model import CheckSettings, Database

from .conftest import DAY, HOUR, worst_finding

BERLIN = timezone(timedelta(hours=1))
NOW = datetime(2026, 1, 31, 12, 0, tzinfo=BERLIN).timestamp()
MB = 10**6
DENIED = Unavailable("could not look", "demo: could not look\n  | Permission denied")
SETTINGS = CheckSettings.model_validate(
    {"warn_age": None, "critical_age": None, "size_change": "50%", "ping_file": None, "ping_command": None}
)
OK, WARNING, CRITICAL, UNKNOWN = State.OK, State.WARNING, State.CRITICAL, State.UNKNOWN


DATABASE = Database(
    name="index",
    source=PurePosixPath("/srv/sqlite3.db"),
    script=PurePosixPath("/srv/share/bin/index-db-backup.sh"),
    local_script=Path("index-db-backup.sh"),
    backup_dir=PurePosixPath("/srv/backups"),
    backup_prefix="backup_",
    query="SELECT 1",
)


def make_file(age: float = HOUR / 2, size: int = 2 * MB, named: float | None = None, **values: Any) -> File:
    """Make a backup that was complete this many seconds ago, and started, by its name, `named` seconds ago."""
    start = datetime.fromtimestamp(NOW - (age if named is None else named), BERLIN)
    path = PurePosixPath(f"/srv/backups/backup_{start:%Y-%m-%d_%H-%M-%S}.db")
    return replace(File(path, size, datetime.fromtimestamp(NOW - age, BERLIN)), **values)


def make_job(age: float, status: int | None, running: bool = False, output: str = "") -> LastJob:
    """Make a job that started and ended some seconds ago."""
    job = Job(BACKUP, "index", "true", "/srv/x.db", 1, started=NOW - age - 60, number=1)
    ended = None if status is None else NOW - age
    return LastJob(job, JobStatus(running, status, ended, None, NOW, job.started, output, len(output)))


def make_pending(running: bool) -> PendingRestore:
    """Make a restore in a stage."""
    path = PurePosixPath("/srv/x.db")
    return PendingRestore(
        path, path, Method.SWAP, Proof.STOPPED, Save.NONE, None, "restoring", NOW, running, False, False
    )


def make_facts(**values: Any) -> HostFacts:
    """Make the facts of a host on which all is well."""
    disk = Disk("/", 1000 * MB, 1000)
    backups = values.pop("backups", (make_file(), make_file(HOUR * 1.5)))
    if isinstance(backups, tuple):
        backups = sort_backups(backups, values.get("now", NOW))
    facts = HostFacts(
        now=NOW,
        clock_difference=0.0,
        backups=backups,
        checks=(Check("created", Outcome.PASSED, ""), Check("size", Outcome.PASSED, "")),
        cron=CronFacts(HOUR),
        log=None,
        runs=RunFiles(False, ()),
        job=None,
        restore=RestoreFacts(None, False),
        source=Source(2 * MB, disk),
        disks=(disk, disk),
        problems=[],
    )
    return replace(facts, **values)


def judge(facts: HostFacts, name: str, **check: Any) -> tuple[State, str]:
    """Judge facts, and return the worst state and the texts of a name."""
    findings = judge_host(facts, DATABASE, SETTINGS.model_copy(update=check), 0)
    assert all(finding.text.isprintable() for finding in findings)
    assert all(len(finding.text) < LONGEST_TEXT + 100 for finding in findings)
    return worst_finding(Health("demo", "index", tuple(findings)), name)


def test_all_is_well() -> None:
    findings = judge_host(make_facts(), DATABASE, SETTINGS, 0)
    assert {finding.state for finding in findings} == {OK}
    assert findings[0].text == "backup 30 min old"


def test_nothing_is_known() -> None:
    unknown = ("backups", "checks", "cron", "log", "runs", "job", "restore", "source", "disks", "problems")
    facts = make_facts(**dict.fromkeys(unknown, DENIED))
    findings = judge_host(facts, DATABASE, SETTINGS, 0)
    assert {finding.state for finding in findings} == {UNKNOWN}
    names = {"source", "backup", "size", "job", "cron", "leftovers", "space", "restore"}
    assert {finding.name for finding in findings} == names


# --- age ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "check", "limits"),
    [
        (HOUR, {}, (2 * HOUR, 4 * HOUR)),
        (60, {}, (120, 240)),
        (None, {}, (26 * HOUR, 50 * HOUR)),
        (HOUR, {"warn_age": 600.0}, (600, 4 * HOUR)),
        (HOUR, {"warn_age": 5 * HOUR}, (5 * HOUR, 5 * HOUR)),
        (HOUR, {"critical_age": HOUR}, (HOUR, HOUR)),
        (None, {"warn_age": 60.0, "critical_age": 120.0}, (60, 120)),
    ],
)
def test_limits_follow_from_settings_and_crontab(
    interval: float | None, check: dict[str, float], limits: tuple[float, float]
) -> None:
    decided = decide_limits(CronFacts(interval), SETTINGS.model_copy(update=check))
    assert (decided.warn, decided.critical) == limits


@pytest.mark.parametrize(
    ("backups", "state", "text"),
    [
        ((), CRITICAL, "no backup"),
        ((make_file(2 * HOUR),), OK, "backup 2 h old"),
        ((make_file(2 * HOUR + 1),), WARNING, "backup 2 h old (limit 2 h)"),
        ((make_file(4 * HOUR),), WARNING, "4 h old"),
        ((make_file(4 * HOUR + 1),), CRITICAL, "backup 4 h old (limit 4 h)"),
        ((make_file(-30),), OK, "backup 0 s old"),  # the file system may round
        # In the future: judged by the newest one that is not.
        ((make_file(-300), make_file()), WARNING, "backup 30 min old; 1 backup is dated in the future"),
        ((make_file(-DAY), make_file(-HOUR), make_file(DAY)), CRITICAL, "2 backups are dated in the future"),
        ((make_file(-DAY),), CRITICAL, "no backup"),
        # An old backup that was copied or changed is not a new one.
        ((make_file(0, named=5 * DAY),), CRITICAL, "backup 5 d old (limit 4 h); the name of"),
        ((make_file(0, named=5 * DAY), make_file()), WARNING, "backup 30 min old; the name of"),
        ((make_file(5 * DAY, named=0),), CRITICAL, "backup 5 d old"),
        ((make_file(0, named=-5 * DAY),), WARNING, "backup 0 s old"),
        # The name is in local time, which may be of another zone than now, and a copy may take long.
        ((make_file(0, named=14 * HOUR),), OK, "backup 0 s old"),
        ((make_file(0, named=-12 * HOUR),), OK, "backup 0 s old"),
        ((make_file(), make_file(DAY, size=0)), WARNING, "1 backup is empty"),
        (DENIED, UNKNOWN, "backup unknown: could not look"),
    ],
)
def test_age_of_newest_backup_is_judged(backups: Any, state: State, text: str) -> None:
    found, texts = judge(make_facts(backups=backups), "backup")
    assert (found, text in texts) == (state, True), texts


def test_invalid_date_in_name_does_no_harm() -> None:
    path = PurePosixPath("/srv/backups/backup_2026-99-99_99-99-99.db")
    assert judge(make_facts(backups=(make_file(path=path),)), "backup") == (OK, "backup 30 min old")


@pytest.mark.parametrize("hour", [1, 2, 3])
def test_summer_time_does_not_change_age(hour: int) -> None:
    # A backup from before the clocks went forward, whose time has the old offset.
    modified = datetime(2026, 3, 29, 1, 0, tzinfo=BERLIN)
    path = PurePosixPath("/srv/backups/backup_2026-03-29_01-00-00.db")
    facts = make_facts(backups=(File(path, 5, modified),), now=modified.timestamp() + hour * HOUR)
    assert judge(facts, "backup")[0] is (OK if hour <= 2 else WARNING)


@pytest.mark.parametrize(
    ("checks", "state"),
    [
        ([Check("created", Outcome.FAILED, "it is unfinished")], CRITICAL),
        ([Check("size", Outcome.FAILED, "1 byte, but\nthe header says \x1b 2")], CRITICAL),
        ([Check("size", Outcome.UNKNOWN, "no page count")], UNKNOWN),
        ([Check("created", Outcome.UNKNOWN, ""), Check("size", Outcome.FAILED, "")], CRITICAL),
        (DENIED, UNKNOWN),
    ],
)
def test_damaged_newest_backup_is_found(checks: Any, state: State) -> None:
    assert judge(make_facts(checks=checks), "backup")[0] is state


@pytest.mark.parametrize(
    ("sizes", "state"),
    [
        ([100], OK),
        ([100, 100], OK),
        ([150, 100], OK),
        ([151, 100], WARNING),
        ([49, 100], WARNING),
        ([100, 0], WARNING),
        ([0, 100], WARNING),
        ([100, 100, 1], OK),
    ],
)
def test_size_is_compared_with_previous(sizes: list[int], state: State) -> None:
    backups = tuple(make_file(HOUR * (number + 0.5), size) for number, size in enumerate(sizes))
    assert judge(make_facts(backups=backups), "size")[0] is state


def test_only_regular_files_are_compared() -> None:
    backups = (make_file(size=100), make_file(HOUR, size=7, type="l"), make_file(2 * HOUR, size=101))
    assert judge(make_facts(backups=backups), "size")[0] is OK


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "state", "text"),
    [
        (None, OK, ""),
        (make_job(600, 0), OK, "succeeded"),
        (make_job(600, None, running=True), OK, "a backup is running, 11 min"),
        (make_job(600, 1, output="a\ndisk full\n"), WARNING, "failed 10 min ago: disk full"),
        (make_job(600, 4, output="cannot delete\n"), WARNING, "rotation failed 10 min ago: cannot delete"),
        (make_job(600, None), WARNING, "was killed"),
        # There is a newer backup, of 30 minutes ago.
        (make_job(HOUR, 1), OK, ""),
        (make_job(HOUR, None), OK, ""),
        (DENIED, UNKNOWN, "could not look"),
    ],
)
def test_last_job_is_judged(job: Any, state: State, text: str) -> None:
    found, texts = judge(make_facts(job=job), "job")
    assert (found, text in texts) == (state, True), texts


UNCLEAR = CronFacts(None, "no permission to read /var/spool/cron")
BOTH = {"warn_age": HOUR, "critical_age": DAY}


@pytest.mark.parametrize(
    ("cron", "check", "state"),
    [
        (CronFacts(HOUR), {}, OK),
        (CronFacts(None), {}, OK),
        (UNCLEAR, {}, UNKNOWN),
        (UNCLEAR, {"warn_age": HOUR}, UNKNOWN),
        (UNCLEAR, BOTH, OK),
        (DENIED, {}, UNKNOWN),
        (DENIED, BOTH, OK),
    ],
)
def test_unknown_crontab_needs_limits(cron: Any, check: Any, state: State) -> None:
    assert judge(make_facts(cron=cron), "cron", **check)[0] is state


FAILURE = "index-db-backup.sh: cannot back up /srv/x.db: disk full"
OTHER = "tracker-db-backup.sh: cannot back up"


@pytest.mark.parametrize(
    ("log", "state"),
    [
        (None, OK),
        (CronLog(NOW, ()), OK),
        (CronLog(NOW, ("a", FAILURE)), WARNING),
        (CronLog(NOW, (FAILURE, "Error: disk is full")), WARNING),
        (CronLog(NOW, (OTHER,)), OK),
        (CronLog(NOW - HOUR, (FAILURE,)), OK),  # there is a newer backup
        (CronLog(NOW, (FAILURE, OTHER)), OK),  # it may be old
        (DENIED, UNKNOWN),
    ],
)
def test_message_in_log_is_judged(log: Any, state: State) -> None:
    assert judge(make_facts(log=log), "cron")[0] is state


def test_message_counts_if_a_run_is_missing() -> None:
    log = CronLog(NOW, (FAILURE, OTHER))
    facts = make_facts(log=log, backups=(make_file(1.5 * HOUR),))
    state, text = judge(facts, "cron")
    assert state is WARNING
    assert "disk full" in text


def test_log_without_line_does_not_matter() -> None:
    assert judge(make_facts(cron=CronFacts(None), log=DENIED), "cron") == (OK, "")


@pytest.mark.parametrize(
    ("runs", "state"),
    [
        (RunFiles(False, ()), OK),
        (RunFiles(True, ()), OK),
        (RunFiles(False, (Leftover(".backup.part", 3 * MB),)), WARNING),
        (DENIED, UNKNOWN),
    ],
)
def test_leftovers_are_judged(runs: Any, state: State) -> None:
    assert judge(make_facts(runs=runs), "leftovers")[0] is state


# --- the host -------------------------------------------------------------------------------------------------------

SMALL, LARGE = Disk("/small", 3 * MB, 1000), Disk("/large", 10**12, 1000)


@pytest.mark.parametrize(
    ("values", "state", "text"),
    [
        ({"disks": (LARGE, LARGE)}, OK, "1 TB free"),
        ({"disks": (SMALL, LARGE), "source": Source(17_000 * MB, LARGE)}, CRITICAL, "3 MB free, 17 GB needed on /sm"),
        # The newest backup is larger than the database seems to be, or the database cannot be read.
        ({"disks": (SMALL, LARGE), "backups": (make_file(size=4 * MB),)}, CRITICAL, "3 MB free, 4 MB needed"),
        ({"disks": (SMALL, LARGE), "source": DENIED, "backups": (make_file(size=4 * MB),)}, CRITICAL, "3 MB free"),
        ({"disks": (SMALL, LARGE), "source": DENIED}, OK, "3 MB free"),
        ({"source": DENIED, "backups": ()}, UNKNOWN, "size of the next backup"),
        ({"source": DENIED, "backups": DENIED}, UNKNOWN, "size of the next backup"),
        ({"disks": (Disk("/b", 10**12, 3), LARGE)}, CRITICAL, "3 free inodes on /b"),
        ({"disks": DENIED}, UNKNOWN, "free space"),
    ],
)
def test_space_for_next_copy_is_judged(values: dict[str, Any], state: State, text: str) -> None:
    found, texts = judge(make_facts(**values), "space")
    assert (found, text in texts) == (state, True), texts


@pytest.mark.parametrize("backups", [(make_file(),), ()])
def test_missing_database_is_critical(backups: tuple[File, ...]) -> None:
    found, texts = judge(make_facts(source=None, backups=backups), "source")
    assert (found, texts) == (CRITICAL, "the live database does not exist")


def test_unreadable_database_is_unknown() -> None:
    assert judge(make_facts(source=DENIED), "source") == (UNKNOWN, "live database unknown: could not look")
    assert judge(make_facts(source=NoPermission("no", "no")), "source")[1] == ""


def test_floor_must_stay_free_on_all_disks() -> None:
    facts = make_facts(disks=(LARGE, LARGE), source=Source(MB, SMALL))
    for floor, state in ((3 * MB, OK), (3 * MB + 1, CRITICAL)):
        findings = judge_host(facts, DATABASE, SETTINGS, floor)
        assert worst_finding(Health("demo", "index", tuple(findings)), "space")[0] is state


@pytest.mark.parametrize(
    ("restore", "state", "text"),
    [
        (RestoreFacts(None, False), OK, ""),
        (RestoreFacts(None, True), WARNING, "running"),
        (RestoreFacts(make_pending(True), False), WARNING, "running"),
        (RestoreFacts(make_pending(False), False), CRITICAL, "killed (stage: restoring)"),
        (DENIED, UNKNOWN, "could not look"),
    ],
)
def test_pending_restore_is_judged(restore: Any, state: State, text: str) -> None:
    found, texts = judge(make_facts(restore=restore), "restore")
    assert (found, text in texts) == (state, True), texts


@pytest.mark.parametrize(
    ("difference", "state", "text"),
    [
        (0.0, OK, ""),
        (299.0, OK, ""),
        (-299.0, OK, ""),
        (3 * HOUR, WARNING, "3 h ahead of"),
        (-3 * DAY, WARNING, "3 d behind"),
    ],
)
def test_wrong_clock_is_reported(difference: float, state: State, text: str) -> None:
    found, texts = judge(make_facts(clock_difference=difference), "clock")
    assert (found, text in texts) == (state, True), texts
