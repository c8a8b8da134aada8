"""The lines that run a script are found in the crontabs of this machine, with its files, links and shells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_backups.backup.cron_lines import CronLine, find_lines, parse_programs
from demo_backups.backup.cron_tables import parse_tables, read_tables
from demo_backups.backup.crontab import CrontabJob, make_job
from demo_backups.backup.script import Script, read_script
from demo_backups.errors import CouldNotLookError
from demo_backups.remote.host import Host
from demo_backups.settings.load import validate_settings
from demo_backups.settings.model import Database, Settings

from ..helpers.constants import SCRIPT
from ..helpers.crontab import FakeCrontab, install_fake_crontab

NAME = "index-db-backup.sh"


@dataclass
class CronHost:
    """This machine, with a crontab and a script of the test's own."""

    host: Host
    crontab: FakeCrontab
    database: Database
    script: Script
    job: CrontabJob

    def fill(self, text: str) -> str:
        """Replace VARS by the variables of the job, SOURCE, SCRIPT and APP by paths."""
        app = self.database.script.parents[2]
        variables = f"DATABASE_FILE={self.database.source} BACKUP_DIR={self.database.backup_dir}"
        values = {"VARS": variables, "SOURCE": self.database.source, "SCRIPT": self.database.script, "APP": app}
        for name, value in values.items():
            text = text.replace(name, str(value))
        return text

    def find(self, text: str) -> list[CronLine]:
        """Find the lines of a crontab that run the script."""
        self.crontab.set(self.fill(text))
        tables = read_tables(self.host, [self.database.script])
        return find_lines(self.host, tables, self.database, self.script)


@pytest.fixture
def cron(local_host: Host, project_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CronHost:
    """A host whose home has `current`, a symlink to the application, and `hard.sh`, a hard link to the script."""
    app = tmp_path / "app"
    changes = {"app_dir": str(app), "backup_dir": str(tmp_path / "backups"), "use_sudo": False}
    selected = validate_settings(project_settings.model_dump(mode="json") | changes)
    database = selected.database("index")
    path = Path(database.script)
    path.parent.mkdir(parents=True)
    path.write_bytes(SCRIPT.read_bytes())
    crontab = install_fake_crontab(tmp_path / "home of root", monkeypatch)
    (crontab.folder / "current").symlink_to(app)
    (crontab.folder / "hard.sh").hardlink_to(path)
    script = read_script(SCRIPT)
    return CronHost(local_host, crontab, database, script, make_job(selected, database, script))


# --- lines of the own crontab ---------------------------------------------------------------------------------------

SAME_JOB = {
    "as added": "LINE",
    "blanks around": "  LINE\t",
    "single spaces": "0 * * * * VARS SCRIPT >> /tmp/log 2>&1",
    "tabs": "\t0\t*\t*\t*\t*\tVARS SCRIPT",
    "nickname": "@hourly VARS SCRIPT",
    "step": "*/60 */1 * * * VARS SCRIPT",
    "names": "0 0-23 1-31 jan-dec sun-sat VARS SCRIPT",
    "symlink": '@hourly VARS "$HOME/current"/share/bin/index-db-backup.sh',
    "hard link": "@hourly VARS ~/hard.sh",
    "home": "@hourly VARS ~/current/share/bin/index-db-backup.sh",
    "folder": "@hourly export VARS; cd APP/share/bin && ./index-db-backup.sh",
    "shell": "@hourly VARS /bin/bash SCRIPT",
    "nested shell": "@hourly VARS sh -c 'exec SCRIPT'",
    "wrappers": "@hourly VARS nice -n 19 flock -n /tmp/lock SCRIPT",
    "sudo": "@hourly sudo VARS SCRIPT",
    "variables": "BIN=APP/share/bin\n@hourly VARS $BIN/index-db-backup.sh",
    "variables above": "DATABASE_FILE=SOURCE\nBACKUP_DIR=APP/../backups\n@hourly SCRIPT",
    "PATH": "PATH=/usr/bin:/bin:APP/share/bin\n@hourly VARS index-db-backup.sh",
    "after others": "MAILTO=x\n# a comment\n5 4 * * * /bin/true\n@hourly VARS SCRIPT",
}


@pytest.mark.parametrize("text", SAME_JOB.values(), ids=SAME_JOB)
def test_spelling_is_equivalent(cron: CronHost, text: str) -> None:
    (line,) = cron.find(text.replace("LINE", cron.job.line) + "\n")
    assert line.is_equivalent(cron.job), str(line)
    assert line.is_own
    assert line.text == (cron.crontab.get() or "").split("\n")[line.number - 1]


OTHER_JOB = {
    "time": ("30 * * * * VARS SCRIPT", ""),
    "reboot": ("@reboot VARS SCRIPT", ""),
    "random time": ("0~59 * * * * VARS SCRIPT", ""),
    "time zone": ("CRON_TZ=Asia/Kolkata\n@hourly VARS SCRIPT", "CRON_TZ"),
    "unknown time zone": ("CRON_TZ=No/Where\n@hourly VARS SCRIPT", "CRON_TZ"),
    "time zone of the job": ("CRON_TZ=Asia/Kolkata\nLINE", "CRON_TZ"),
    "directory": ("@hourly VARS BACKUP_DIR=/tmp SCRIPT", "BACKUP_DIR is"),
    "directory above": ("BACKUP_DIR=/tmp\n@hourly DATABASE_FILE=/x SCRIPT", "BACKUP_DIR is /tmp"),
    "defaults": ("@hourly SCRIPT", "BACKUP_DIR is /home/torrust/backups"),
    "CRLF": ("@hourly VARS SCRIPT\r", "CRLF"),
    "CRLF after redirection": ("@hourly VARS SCRIPT >> /tmp/log 2>&1\r", "CRLF"),
}


@pytest.mark.parametrize(("text", "deviation"), OTHER_JOB.values(), ids=OTHER_JOB)
def test_other_job_is_not_equivalent(cron: CronHost, text: str, deviation: str) -> None:
    (line,) = cron.find(text.replace("LINE", cron.job.line) + "\n")
    assert not line.is_equivalent(cron.job)
    assert not line.unclear
    assert deviation in " ".join(line.deviations)


def test_zone_of_system_is_no_difference(cron: CronHost) -> None:
    zone = Path("/etc/localtime").resolve()
    if not zone.is_relative_to("/usr/share/zoneinfo"):
        pytest.skip("the zone of this machine has no name")
    name = zone.relative_to("/usr/share/zoneinfo")
    (line,) = cron.find(f"CRON_TZ={name}\n@hourly VARS SCRIPT\n")
    assert line.is_equivalent(cron.job)


UNCLEAR = {
    "unknown variable": "@hourly VARS $BIN/index-db-backup.sh",
    "substitution": "@hourly VARS $(dirname SCRIPT)/index-db-backup.sh",
    "other program": "@hourly run-it VARS SCRIPT",
    "user field": "@hourly root SCRIPT",
    "no shell": "SHELL=/usr/bin/python3\n@hourly SCRIPT",
    "syntax error": "@hourly if SCRIPT",
    "another home": "@hourly su - x -c 'share/bin/index-db-backup.sh'",
    "standard input": "@hourly sh%SCRIPT",
}


@pytest.mark.parametrize("text", UNCLEAR.values(), ids=UNCLEAR)
def test_undecidable_line_is_unclear(cron: CronHost, text: str) -> None:
    (line,) = cron.find(f"{text}\n")
    assert line.unclear
    assert not line.is_equivalent(cron.job)


NO_JOB = {
    "none": "",
    "commented out": "#@hourly SCRIPT",
    "another script": "@hourly /opt/index-db-backup.sh",
    "only named": "@hourly ls -l SCRIPT",
    "copy": "@hourly SCRIPT.previous",
    "setting": "A=@hourly SCRIPT",
    "directory": "@hourly APP/share/bin",
}


@pytest.mark.parametrize("text", NO_JOB.values(), ids=NO_JOB)
def test_line_without_job_is_left_out(cron: CronHost, text: str) -> None:
    (cron.crontab.folder / "SCRIPT.previous").touch()
    assert cron.find(f"{text}\n") == []


def test_line_of_missing_script_is_found(cron: CronHost) -> None:
    Path(cron.database.script).unlink()
    (line,) = cron.find("@hourly VARS SCRIPT\n")
    assert line.is_equivalent(cron.job)


@pytest.mark.parametrize(
    ("body", "runs", "unclear"),
    [
        ("export VARS\nexec SCRIPT", True, False),
        ("cd APP/share/bin && ./index-db-backup.sh", True, False),
        ("DIR=$(dirname SCRIPT)\n$DIR/index-db-backup.sh", False, True),
        ("# not index-db-backup.sh\nexec /bin/true", False, False),
        ("exec /bin/true", False, False),
    ],
)
def test_wrapper_script_is_read(cron: CronHost, body: str, runs: bool, unclear: bool) -> None:
    wrapper = cron.crontab.folder / "nightly job"
    wrapper.write_text(cron.fill(f"#!/bin/sh\n{body}\n"))
    lines = cron.find("@hourly ~/nightly\\ job\n")
    assert [bool(line.unclear) for line in lines] == ([False] if runs else [True] if unclear else [])


def test_large_crontab_is_read(cron: CronHost) -> None:
    others = "".join(f"{number % 60} * * * * /usr/bin/job {number}\n" for number in range(2000))
    lines = cron.find(f"{others}@hourly VARS SCRIPT\n")
    assert [line.number for line in lines] == [2001]


@pytest.mark.parametrize("text", ["@hourly A=s3cr3t SCRIPT", "A=s3cr3t\n5 * * * * run-it --token s3cr3t SCRIPT"])
def test_printed_line_has_no_secret(cron: CronHost, text: str) -> None:
    (line,) = cron.find(text)
    assert "s3cr3t" in line.text or "s3cr3t" in text
    assert "s3cr3t" not in str(line) + repr(line)
    assert str(cron.database.script) in str(line)


# --- answers of the host --------------------------------------------------------------------------------------------


def test_tables_of_this_machine_are_read(cron: CronHost) -> None:
    tables = read_tables(cron.host, [PurePosixPath("/x/index-db-backup.sh")])
    assert tables.own is None
    assert tables.homes[tables.user] == str(cron.crontab.folder)
    names = [table.name for table in tables.others]
    readable = [path for path in Path("/etc/cron.d").glob("[a-z]*") if "." not in path.name and path.is_file()]
    assert {str(path) for path in readable} <= {*names, *tables.unread}


TEXTS = st.sampled_from(["me", "home", "user", "system", "unread", "inode", "text", "root", "/x", "", "1:2", "\n"])


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(texts=st.lists(TEXTS), end=st.sampled_from(["end", "", "s3cr3t"]))
def test_unexpected_answer_is_refused(texts: list[str], end: str) -> None:
    output = "".join(f"{text}\0" for text in texts) + end
    is_table_list = texts[:1] == ["me"] and set(texts[3::3]) <= {"home", "user", "system", "unread"}
    is_file_list = set(texts[::3]) <= {"inode", "text"}
    is_whole = end == "end" and len(texts) % 3 == 0
    assert is_refused(lambda: parse_tables(output, None)) is not (is_whole and is_table_list)
    assert is_refused(lambda: parse_programs(output)) is not (is_whole and is_file_list)


def is_refused(parse: Callable[[], object]) -> bool:
    """Tell whether a parser refuses an answer; the error must not show it."""
    try:
        parse()
    except ValueError as error:
        return "s3cr3t" not in str(error)
    return False


@pytest.mark.parametrize("answer", ["", "A=s3cr3t", "A=s3cr3t\\0", "me\\0root\\0/root\\0what\\0A=s3cr3t\\0\\0end"])
def test_damaged_answer_is_an_error(cron: CronHost, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr("demo_backups.backup.cron_tables.tables_command", lambda scripts: f"printf '{answer}'")
    with pytest.raises(CouldNotLookError) as caught:
        read_tables(cron.host, [cron.database.script])
    assert "s3cr3t" not in str(caught.value)
