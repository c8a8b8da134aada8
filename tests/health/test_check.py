"""A check of this machine: every kind of damage is found by one call, and the finding goes when it is repaired."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from demo_backups.health.state import State
from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import FetchDetails
from demo_backups.remote.host import Host, Result, Transfer
from demo_backups.remote.job_state import BACKUP, Job
from demo_backups.remote.jobs import start_job
from demo_backups.remote.prefetch import parse_batch

from ..helpers.constants import root_only
from ..helpers.databases import damage_pages, overwrite
from ..helpers.processes import wait_until
from .conftest import DAY, HOUR, CheckedHost

OK, WARNING, CRITICAL, UNKNOWN = State.OK, State.WARNING, State.CRITICAL, State.UNKNOWN
PASSED = [Check("created", Outcome.PASSED, ""), Check("integrity", Outcome.PASSED, "")]


def now(age: float = 0.0) -> str:
    """Return a time of this machine for a record."""
    return datetime.fromtimestamp(time.time() - age, timezone.utc).isoformat()


def test_good_backups_are_ok(checked: CheckedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    checked.add_backup(HOUR * 1.5)
    newest = checked.add_backup(HOUR / 2)
    checked.add_backup(0, prefix="verified.")  # neither is a backup that cron has made
    checked.add_backup(0, prefix="saved.")
    checked.add_record("verification", newest, when=now(3 * HOUR), checks=PASSED)
    round_trips = []
    stream = Host.stream

    def count(self: Host, action: str, command: str, **options: Any) -> Transfer:
        round_trips.append(action)
        return stream(self, action, command, **options)

    monkeypatch.setattr(Host, "stream", count)
    health = checked.check()
    assert {(finding.name, finding.state) for finding in health.findings} == {
        (name, OK) for name in ("backup", "size", "cron", "leftovers", "space", "verification")
    }
    texts = {finding.name: finding.text for finding in health.findings}
    assert (texts["backup"], texts["verification"]) == ("backup 30 min old", "verified 3 h ago")
    assert len(round_trips) <= 3 + 2  # /tmp is writable for its group, which takes two
    metrics = health.metrics
    assert metrics
    assert metrics.backup_time == pytest.approx(newest.stat().st_mtime)
    assert metrics.backup_bytes == newest.stat().st_size
    assert metrics.verification_time == pytest.approx(time.time() - 3 * HOUR, abs=60)
    assert (metrics.warn_age, metrics.critical_age) == (2 * HOUR, 4 * HOUR)
    assert not list(checked.folder.parent.rglob(".demo-backups*"))


# --- damage ---------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zero_header(path: Path) -> None:
    overwrite(path, 0, bytes(100))


def replace_by_link(path: Path) -> None:
    other = path.with_name("other.db")
    path.rename(other)
    path.symlink_to(other)


def leave_journal(path: Path) -> None:
    path.with_name(f"{path.name}-journal").touch()


@pytest.mark.parametrize("damage", [truncate, empty, zero_header, replace_by_link, leave_journal])
def test_damaged_newest_backup_is_critical(checked: CheckedHost, damage: Any) -> None:
    path = checked.add_backup()
    damage(path)
    state, text = checked.find("backup")
    assert state is CRITICAL
    assert "is damaged" in text


@pytest.mark.parametrize("damage", [damage_pages, truncate, empty])
def test_verified_backup_that_changed_is_critical(checked: CheckedHost, damage: Any) -> None:
    checked.add_backup()
    older = checked.add_backup(HOUR * 1.5)
    checked.add_record("verification", older, when=now(HOUR), checks=PASSED)
    assert checked.find("verification") == (OK, "verified 60 min ago")
    original = older.stat()
    damage(older)
    state, text = checked.find("verification")
    assert (state, f"{older.name} was changed" in text) == (CRITICAL, True)
    shutil.copy(checked.original, older)
    os.utime(older, ns=(original.st_mtime_ns, original.st_mtime_ns))
    assert checked.find("verification")[0] is OK


def test_verification_of_old_backup_is_not_enough(checked: CheckedHost) -> None:
    old, _, newest = (checked.add_backup(age * HOUR) for age in (80, 40, 0.5))
    checked.add_record("verification", old, when=now(3 * HOUR), checks=PASSED)
    state, text = checked.find("verification")
    assert (state, "no backup of the last 40 h is verified" in text) == (WARNING, True), text
    checked.add_record("verification", newest, when=now(2 * HOUR), checks=PASSED)
    assert checked.find("verification")[0] is OK


def test_clock_jumps_are_noticed(checked: CheckedHost) -> None:
    good = checked.add_backup()
    later = checked.add_backup(-3 * HOUR)  # made before the clock was set back
    assert checked.find("backup")[0] is WARNING
    good.unlink()
    assert checked.find("backup")[0] is CRITICAL
    later.unlink()
    checked.add_backup()
    assert checked.find("backup") == (OK, "backup 30 min old")


def test_clock_of_host_is_compared(checked: CheckedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    checked.add_backup()
    time_of_machine = time.time
    monkeypatch.setattr(time, "time", lambda: time_of_machine() - 2.5 * DAY)
    assert checked.find("clock") == (WARNING, "the clock of the host is 2 d ahead of that of this machine")
    # Ages of backups are those of the clock of the host.
    assert checked.find("backup") == (OK, "backup 30 min old")


# --- cron and runs --------------------------------------------------------------------------------------------------


def test_stopped_cron_is_noticed_by_age(checked: CheckedHost) -> None:
    for age, state in ((5 * HOUR, CRITICAL), (3 * HOUR, WARNING), (HOUR, OK)):
        checked.add_backup(age)
        assert checked.find("backup")[0] is state


@pytest.mark.parametrize(
    ("lines", "limits"),
    [
        ("@daily VARS SCRIPT", (2 * DAY, 4 * DAY)),
        ("0 3 * * * VARS SCRIPT\n0 9 * * * VARS SCRIPT", (36 * HOUR, 72 * HOUR)),
        ("* * * * * BACKUP_DIR=/elsewhere SCRIPT\n@hourly VARS SCRIPT", (2 * HOUR, 4 * HOUR)),
    ],
)
def test_limits_follow_from_crontab_lines(checked: CheckedHost, lines: str, limits: tuple[float, float]) -> None:
    variables = f'DATABASE_FILE="{checked.database.source}" BACKUP_DIR="$BACKUPS"'
    text = lines.replace("VARS", variables).replace("SCRIPT", f'"{checked.database.script}"')
    checked.crontab.set(f"BACKUPS={checked.settings.backup_dir}\n{text}\n")
    metrics = checked.check().metrics
    assert metrics
    assert (metrics.warn_age, metrics.critical_age) == limits


def test_database_has_limits_of_its_own(checked: CheckedHost) -> None:
    checked.add_backup(5 * HOUR)
    values = checked.settings.model_dump(mode="json")
    values["databases"]["index"] |= {"warn_age": "3 h", "critical_age": "30 d"}
    checked.change(databases=values["databases"], check=values["check"] | {"warn_age": "1 h", "critical_age": "4 h"})
    assert checked.find("backup") == (WARNING, "backup 5 h old (limit 3 h)")
    values["databases"]["index"]["warn_age"] = None  # 2 times the interval
    checked.change(databases=values["databases"])
    assert checked.find("backup") == (WARNING, "backup 5 h old (limit 2 h)")
    values["databases"]["index"]["critical_age"] = None
    checked.change(databases=values["databases"])
    assert checked.find("backup")[0] is CRITICAL


def test_line_without_certain_times_is_unknown(checked: CheckedHost) -> None:
    checked.add_backup()
    text = checked.crontab.get()
    assert text
    checked.crontab.set(text.replace("0 * * * *", "@reboot"))
    assert checked.find("cron")[0] is UNKNOWN
    checked.change(check=checked.settings.check.model_dump(mode="json") | {"warn_age": "2 h", "critical_age": "4 h"})
    assert checked.find("cron")[0] is OK


def test_error_in_cron_log_is_shown(checked: CheckedHost) -> None:
    log = Path(checked.settings.cron_log)
    log.write_text("Nov 26 12:00:01 demo CRON[1]: (root) CMD (/srv/index-db-backup.sh)\n")
    checked.add_backup()
    assert checked.find("cron")[0] is OK
    with log.open("a") as file:
        file.write(f"{'x' * 20_000}\nindex-db-backup.sh: cannot \x1b[31m back up it\n")
    state, text = checked.find("cron")
    assert (state, "cannot \\x1b[31m back up" in text) == (WARNING, True)
    checked.add_backup(-1)
    assert checked.find("cron")[0] is OK


def test_leftovers_and_running_job_are_distinguished(checked: CheckedHost) -> None:
    checked.add_backup()
    part, lock = Path(checked.database.part), Path(checked.database.lock)
    part.write_bytes(b"x" * 5000)
    assert checked.find("leftovers") == (WARNING, "left by a killed run: .backup.part (5 kB)")
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert checked.find("leftovers") == (OK, "a run is in progress")
    part.unlink()
    assert checked.find("leftovers") == (OK, "no leftovers")


def test_failed_job_counts_until_next_backup(checked: CheckedHost) -> None:
    checked.add_backup()
    job = Job(BACKUP, "index", "echo disk full; exit 1", "/srv/x.db", 1)
    start_job(checked.host, checked.database, job, job.command)
    wait_until(lambda: checked.find("job")[0] is WARNING, "failed job")
    assert "disk full" in checked.find("job")[1]
    checked.add_backup(-1)
    assert checked.find("job")[0] is OK


# --- what cannot be seen --------------------------------------------------------------------------------------------


@root_only
@pytest.mark.usefixtures("as_nobody")
def test_what_login_may_not_read_is_unknown(checked: CheckedHost) -> None:
    checked.add_backup()
    for folder in checked.folder.parents:
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o111)
    checked.folder.chmod(0o700)
    states = {finding.name: finding.state for finding in checked.check().findings}
    assert (states["backup"], states["leftovers"], states["space"]) == (UNKNOWN, UNKNOWN, OK)
    checked.folder.chmod(0o755)
    assert checked.find("backup") == (OK, "backup 30 min old")
    assert checked.find("cron")[0] is UNKNOWN


def test_backup_dir_that_others_can_change_is_warning(checked: CheckedHost) -> None:
    checked.add_backup()
    for mode, state in ((0o777, WARNING), (0o755, OK)):
        checked.folder.chmod(mode)
        assert checked.find("backup")[0] is state


def test_live_database_is_judged(checked: CheckedHost) -> None:
    checked.add_backup()
    source = Path(checked.database.source)
    source.write_text("not a database")
    assert checked.find("source")[0] is UNKNOWN
    source.unlink()
    assert checked.find("source")[0] is CRITICAL


def test_damaged_record_is_unknown(checked: CheckedHost) -> None:
    backup = checked.add_backup()
    good = checked.add_record("verification", backup, when=now(DAY / 2), checks=PASSED)
    assert checked.find("verification")[0] is OK
    damaged = checked.add_record("verification", backup, when=now(HOUR), checks=PASSED)
    damaged.write_text("{")
    assert checked.find("verification")[0] is UNKNOWN
    checked.add_record("verification", backup, when=now(), checks=PASSED)  # it does not matter any more
    assert checked.find("verification")[0] is OK
    assert good.exists()


def test_unreadable_records_are_unknown(checked: CheckedHost) -> None:
    checked.add_backup()
    Path(checked.settings.evidence_dir).write_text("not a directory")
    states = {finding.name: finding.state for finding in checked.check().findings}
    assert (states["verification"], states["drill"], states["backup"]) == (UNKNOWN, UNKNOWN, OK)
    assert "copy" not in states


# --- copies and drills ----------------------------------------------------------------------------------------------


def test_fetched_copy_is_judged(checked: CheckedHost) -> None:
    backup = checked.add_backup()
    assert "copy" not in {finding.name for finding in checked.check().findings}
    copies = Path(checked.settings.fetch_dir) / "local"
    copies.mkdir(parents=True)
    copy = Path(shutil.copy2(backup, copies))
    assert checked.find("copy")[0] is OK  # of an earlier version, without a record
    details = FetchDetails(file=str(copy), sha256="0" * 64, verified=True)
    checked.add_record("fetch", backup, when=now(5 * HOUR), checks=PASSED, details=details)
    assert checked.find("copy") == (OK, "copy 5 h old")
    checked.change(fetch_every="3 h")
    assert checked.find("copy") == (WARNING, "copy 5 h old (limit 4 h)")
    copy.write_bytes(b"changed")
    assert checked.find("copy")[0] is CRITICAL
    copy.unlink()
    state, text = checked.find("copy")
    assert (state, "is missing" in text) == (WARNING, True)


def test_drill_is_judged_if_set_up(checked: CheckedHost) -> None:
    backup = checked.add_backup()
    assert "drill" not in {finding.name for finding in checked.check().findings}
    checked.change(drill_command="true")
    assert checked.find("drill") == (WARNING, "no drill yet")
    checked.add_record("drill", backup, when=now(12 * DAY), checks=PASSED)
    checked.change(drill_command=None)
    assert checked.find("drill") == (OK, "drill 12 d ago")
    checked.change(drill_every="7 d")
    assert checked.find("drill") == (WARNING, "drill 12 d ago (limit 10 d)")


# --- many, hostile --------------------------------------------------------------------------------------------------


def test_many_backups_are_checked(checked: CheckedHost) -> None:
    newest = checked.add_backup(HOUR)
    for number in range(1, 21_000):
        start = datetime.fromtimestamp(newest.stat().st_mtime - number)
        os.link(newest, checked.folder / f"backup_{start:%Y-%m-%d_%H-%M-%S}.db")
    assert checked.find("backup") == (OK, "backup 60 min old")


@pytest.mark.parametrize("answer", ["", "\x1b]0;x\x07\n", "9" * 5000, "1 2\n3 4 5\nend\n"])
def test_hostile_answers_are_unknown(checked: CheckedHost, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    def replace_answers(output: str, separator: str, count: int) -> list[Result]:
        clock, *others = parse_batch(output, separator, count)
        return [clock, *(Result(0, answer, "") for _ in others)]

    checked.add_backup()
    monkeypatch.setattr("demo_backups.remote.prefetch.parse_batch", replace_answers)
    health = checked.check()
    states = {finding.name: finding.state for finding in health.findings if finding.name != "verification"}
    assert states == dict.fromkeys(
        ("source", "backup", "size", "job", "cron", "leftovers", "space", "restore"), UNKNOWN
    )
    assert all(finding.text.isprintable() for finding in health.findings)
