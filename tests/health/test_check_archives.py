"""The line `config` of a check: the archives of the configuration on this machine as a host."""

from __future__ import annotations

import io
import os
import shutil
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

from demo_backups.errors import SettingsError
from demo_backups.health.options import CheckOptions
from demo_backups.health.state import Health, State
from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import FetchDetails, OffsiteDetails, Record
from demo_backups.remote.host import Host, Transfer
from demo_backups.settings.model import CONFIG
from demo_backups.ui.console import make_console
from demo_backups.workflows.check import check_archives
from demo_backups.workflows.check_command import run_check
from demo_backups.workflows.session import Session

from .conftest import DAY, HOUR, CheckedHost, worst_finding

OK, WARNING, CRITICAL, UNKNOWN = State.OK, State.WARNING, State.CRITICAL, State.UNKNOWN
PASSED = [Check("manifest", Outcome.PASSED, "")]


@pytest.fixture
def archived(checked: CheckedHost) -> CheckedHost:
    """A host whose configuration is to be archived, without an archive."""
    checked.change(config_paths="compose.yaml .env")
    return checked


def check(archived: CheckedHost) -> Health:
    """Check the archives."""
    record = Record(kind="", host=archived.host.name, database=CONFIG)
    series = archived.settings.series(CONFIG)
    return check_archives(Session(archived.host, archived.settings, series, record, make_console(io.StringIO())))


def find(archived: CheckedHost, name: str) -> tuple[State, str]:
    return worst_finding(check(archived), name)


def add_archive(archived: CheckedHost, age: float = HOUR, content: bytes = b"archive") -> Path:
    """Add an archive that is this many seconds old."""
    end = time.time() - age
    path = archived.folder / f"config_{datetime.fromtimestamp(end):%Y-%m-%d_%H-%M-%S}.tar"
    path.write_bytes(content)
    os.utime(path, (end, end))
    return path


def now(age: float = 0.0) -> str:
    """Return a time of this machine for a record."""
    return datetime.fromtimestamp(time.time() - age, timezone.utc).isoformat()


def test_old_archive_takes_one_round_trip(archived: CheckedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    add_archive(archived, 400 * DAY)
    newest = add_archive(archived, 90 * DAY)
    archived.add_backup(0)  # of another series
    round_trips = []
    stream = Host.stream

    def count(self: Host, action: str, command: str, **options: object) -> Transfer:
        round_trips.append(action)
        return stream(self, action, command, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Host, "stream", count)
    health = check(archived)
    assert [(finding.name, finding.state, finding.text) for finding in health.findings] == [
        ("backup", OK, "backup 90 d old")
    ]
    assert len(round_trips) == 1
    assert health.metrics
    assert health.metrics.backup_bytes == newest.stat().st_size
    assert health.metrics.backup_time == pytest.approx(newest.stat().st_mtime)


def test_missing_archive_is_judged_by_records(archived: CheckedHost) -> None:
    assert find(archived, "backup")[0] is WARNING
    archived.add_record(
        "backup-config", database=CONFIG, when=now(DAY), error="local: no answer\n  -> x", exit_status=3
    )
    state, text = find(archived, "backup")
    assert (state, "failed 24 h ago: no answer" in text) == (WARNING, True), text
    path = add_archive(archived)
    archived.add_record("backup-config", path, database=CONFIG, when=now(HOUR), exit_status=0)
    assert find(archived, "backup") == (OK, "backup 60 min old")
    path.unlink()
    assert find(archived, "backup")[0] is CRITICAL


def test_damage_of_archive_is_critical(archived: CheckedHost) -> None:
    path = add_archive(archived, content=b"")
    assert find(archived, "backup")[0] is CRITICAL
    path.unlink()
    path.symlink_to(add_archive(archived, DAY))
    assert find(archived, "backup")[0] is CRITICAL


def test_dates_and_unread_answers_are_judged(archived: CheckedHost) -> None:
    add_archive(archived)
    add_archive(archived, -3 * HOUR)
    assert find(archived, "backup")[0] is WARNING
    shutil.rmtree(archived.folder)
    health = check(archived)
    assert worst_finding(health, "backup")[0] is UNKNOWN
    assert health.metrics
    assert not health.metrics.backups_listed


def test_damaged_record_is_unknown(archived: CheckedHost) -> None:
    path = add_archive(archived)
    archived.add_record("backup-config", path, database=CONFIG, when=now(HOUR), exit_status=0).write_text("{")
    assert find(archived, "backup")[0] is UNKNOWN
    archived.add_record("backup-config", path, database=CONFIG, when=now(), exit_status=0)
    assert find(archived, "backup")[0] is OK


def test_copies_of_archives_are_judged(archived: CheckedHost) -> None:
    path = add_archive(archived, DAY / 2)
    assert {finding.name for finding in check(archived).findings} == {"backup"}
    archived.change(offsite=archived.settings.offsite.model_dump(mode="json") | {"repository": "/srv/repository"})
    assert find(archived, "offsite") == (WARNING, "no off-site copy yet")
    copies = Path(archived.settings.fetch_dir) / "local"
    copies.mkdir(parents=True)
    copy = shutil.copy2(path, copies)
    fetched = FetchDetails(file=str(copy), sha256="0" * 64)
    archived.add_record("fetch", path, database=CONFIG, when=now(5 * HOUR), checks=PASSED, details=fetched)
    assert find(archived, "copy") == (OK, "copy 5 h old")
    stored = OffsiteDetails(action="store", repository="a")
    archived.add_record("offsite", path, database=CONFIG, when=now(3 * HOUR), checks=PASSED, details=stored)
    health = check(archived)
    assert worst_finding(health, "offsite") == (OK, "off-site 3 h ago")
    assert health.metrics
    assert health.metrics.offsite_time == pytest.approx(time.time() - 3 * HOUR, abs=60)


@pytest.mark.parametrize(
    ("paths", "database", "lines"),
    [
        ("", None, ["local/index", "local/tracker"]),
        (".env", None, ["local/index", "local/tracker", "local/config"]),
        (".env", "index", ["local/index"]),
        (".env", "config", ["local/config"]),
    ],
)
def test_archives_have_line_if_set_up(
    checked: CheckedHost, capsys: pytest.CaptureFixture[str], paths: str, database: str | None, lines: list[str]
) -> None:
    checked.change(config_paths=paths)
    run_check(checked.settings, CheckOptions(database=database))
    printed = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[1].rstrip(":") for line in printed) == sorted(lines)


def test_archives_without_paths_are_refused(checked: CheckedHost) -> None:
    with pytest.raises(SettingsError, match="config_paths"):
        run_check(checked.settings, CheckOptions(database=CONFIG))
