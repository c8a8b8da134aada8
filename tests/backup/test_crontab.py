"""The job of a database: its line, and how it is added to a crontab and removed, byte for byte."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_backups.backup.cron_syntax import parse_crontab, split_line, unescape_command
from demo_backups.backup.crontab import (
    PUBLISHED,
    add_job,
    count_daily_runs,
    diff_crontabs,
    end_last_line,
    find_entry,
    find_line_end_problems,
    make_job,
    remove_lines,
)
from demo_backups.backup.script import read_script
from demo_backups.errors import NoScheduleError
from demo_backups.settings.load import validate_settings
from demo_backups.settings.model import Settings

from ..helpers.constants import ODD_NAMES, SCRIPT
from ..helpers.crontab_texts import JOB, PIECES, PUBLISHED_LINE, SCHEDULE, SCRIPT_PATH, make_crontabs

# --- the job --------------------------------------------------------------------------------------------------------


def test_job_is_the_published_line(project_settings: Settings) -> None:
    job = make_job(project_settings, project_settings.database("index"), read_script(SCRIPT))
    assert job.line == PUBLISHED_LINE
    assert job.line in PUBLISHED.read_text().splitlines()
    assert job.block == f"{job.comment}\n{PUBLISHED_LINE}\n"
    assert job.comment.startswith("# ")


@pytest.mark.parametrize(
    ("changes", "variables"),
    [
        ({}, ""),
        ({"backup_dir": "/b"}, "BACKUP_DIR=/b "),
        ({"app_dir": "/app"}, "DATABASE_FILE=/app/storage/index/lib/database/sqlite3.db "),
        (
            {"app_dir": "/app", "backup_dir": "/it's 100%"},
            "DATABASE_FILE=/app/storage/index/lib/database/sqlite3.db BACKUP_DIR='/it'\"'\"'s 100\\%' ",
        ),
        ({"backup_dir": "/home/torrust/backups/"}, ""),  # the same folder, written in another way
    ],
    ids=["as shipped", "folder", "application", "both", "slash"],
)
def test_line_sets_other_paths_only(project_settings: Settings, changes: dict[str, str], variables: str) -> None:
    settings = validate_settings(project_settings.model_dump(mode="json") | changes)
    job = make_job(settings, settings.database("index"), read_script(SCRIPT))
    script = settings.app_dir / "share/bin/index-db-backup.sh"
    assert job.line == f"{SCHEDULE}{variables}{script} >> /var/log/cron.log 2>&1"


def test_script_without_defaults_gets_all_paths(project_settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "other.sh"
    path.write_text("#!/bin/bash\n")
    path.chmod(0o755)
    job = make_job(project_settings, project_settings.database("index"), read_script(path))
    assert job.command == (
        "DATABASE_FILE=/home/torrust/github/torrust/torrust-demo/storage/index/lib/database/sqlite3.db "
        f"BACKUP_DIR=/home/torrust/backups {SCRIPT_PATH}"
    )


@pytest.mark.parametrize("name", [name for key, name in ODD_NAMES.items() if key != "newline"])
def test_odd_paths_reach_script_unchanged(project_settings: Settings, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    changes = {"app_dir": str(folder), "backup_dir": str(folder / "backups"), "cron_log": str(folder / "log")}
    settings = validate_settings(project_settings.model_dump(mode="json") | changes)
    script = Path(settings.database("index").script)
    script.parent.mkdir(parents=True)
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$DATABASE_FILE" "$BACKUP_DIR"\n')
    script.chmod(0o755)
    job = make_job(settings, settings.database("index"), read_script(SCRIPT))
    parts = split_line(job.line)
    assert parts is not None
    subprocess.run(["/bin/sh", "-c", unescape_command(parts[1])], check=True)
    assert (folder / "log").read_text() == f"{settings.database('index').source}\n{settings.backup_dir}\n"


# --- the published crontab ------------------------------------------------------------------------------------------


def test_times_are_the_published_ones(project_settings: Settings) -> None:
    assert find_entry(project_settings.database("index"), PUBLISHED.read_text()).times == SCHEDULE


def test_database_without_line_is_refused(project_settings: Settings) -> None:
    with pytest.raises(NoScheduleError, match="tracker"):
        find_entry(project_settings.database("tracker"), PUBLISHED.read_text())


@pytest.mark.parametrize(
    "line",
    [
        f"# {PUBLISHED_LINE}",
        f"{SCHEDULE}/bin/x {SCRIPT_PATH}",
        f"{SCHEDULE}{SCRIPT_PATH}.old",
        f"{SCHEDULE}/x/other-{Path(SCRIPT_PATH).name}",
        "",
    ],
)
def test_line_of_other_program_is_not_used(project_settings: Settings, line: str) -> None:
    with pytest.raises(NoScheduleError):
        find_entry(project_settings.database("index"), f"{line}\n")


@pytest.mark.parametrize(
    ("times", "count"),
    [("0  * * * *", 24), ("@hourly", 24), ("*/20 */2 * * *", 36), ("@reboot", 1), ("0~9 * * * *", 1)],
)
@pytest.mark.parametrize("prefix", ["", "BACKUP_DIR=/x ", "nice "])
def test_published_runs_are_counted(project_settings: Settings, times: str, count: int, prefix: str) -> None:
    text = f"# jobs\nMAILTO=x\n{times} {prefix}{SCRIPT_PATH} >> /var/log/cron.log\n"
    assert count_daily_runs(project_settings.database("index"), text) == count


# --- adding and removing --------------------------------------------------------------------------------------------


def own_lines(text: str) -> list[int]:
    """Return the numbers of the lines of the job."""
    return [entry.number for entry in parse_crontab(text) if JOB.is_line(entry.text)]


def test_added_job_is_at_the_top() -> None:
    for text in make_crontabs():
        assert add_job(text, JOB) == JOB.block + end_last_line(text)


def test_adding_is_idempotent() -> None:
    for text in make_crontabs():
        enabled = add_job(text, JOB)
        assert add_job(enabled, JOB) == enabled


def test_removing_restores_text() -> None:
    for text in make_crontabs():
        enabled = add_job(text, JOB)
        assert own_lines(enabled) == [2]
        assert remove_lines(enabled, [2], JOB.marker) == end_last_line(text)
        assert remove_lines(text, [], JOB.marker) == text


@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(
    pieces=st.lists(st.sampled_from([*PIECES, JOB.block, f"{PUBLISHED_LINE}\n"])),
    end=st.sampled_from(["", "# x", "\r"]),
)
def test_job_is_removed_at_any_place(pieces: list[str], end: str) -> None:
    text = "".join(pieces) + end
    rest = "".join(piece for piece in pieces if piece not in (JOB.block, f"{PUBLISHED_LINE}\n")) + end
    removed = remove_lines(text, own_lines(text), JOB.marker)
    assert own_lines(removed) == []
    if own_lines(text):
        assert removed == end_last_line(rest)
    else:
        assert removed == text


def test_comment_of_earlier_version_is_removed() -> None:
    earlier = f"# demo-backups: index database (inv enable-index-backup)\n{PUBLISHED_LINE}\n"
    assert add_job(earlier, JOB) == earlier
    assert remove_lines(f"A=1\n{earlier}B=2", [3], JOB.marker) == "A=1\nB=2\n"


def test_comment_of_other_line_is_kept() -> None:
    text = f"{JOB.comment}\n\n{PUBLISHED_LINE}\n# mine\n5 * * * * x\n"
    assert remove_lines(text, [3], JOB.marker) == f"{JOB.comment}\n\n# mine\n5 * * * * x\n"
    assert remove_lines(text, [5], JOB.marker) == f"{JOB.comment}\n\n{PUBLISHED_LINE}\n# mine\n"


@pytest.mark.parametrize("blanks", [("", ""), ("  ", ""), ("\t", " \t")])
def test_line_without_comment_is_the_job(blanks: tuple[str, str]) -> None:
    text = f"A=1\n{PUBLISHED_LINE.join(blanks)}\n# end"
    assert own_lines(text) == [2]
    assert add_job(text, JOB) == text


@pytest.mark.parametrize(
    "line",
    [f"#{PUBLISHED_LINE}", f"# {PUBLISHED_LINE}", f"{PUBLISHED_LINE}\r", f"{PUBLISHED_LINE} || x", PUBLISHED_LINE[1:]],
    ids=["commented out", "commented out with a blank", "Windows line ending", "longer", "shorter"],
)
def test_different_line_is_not_the_job(line: str) -> None:
    assert not JOB.is_line(line)


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("A=1\n", 0), ("A=1", 1), ("A=1\r\n", 1), ("A=1\r\nB=1\r", 2), ("A='\r'\n", 0)]
)
def test_line_end_problems_are_found(text: str, count: int) -> None:
    assert len(find_line_end_problems(text)) == count


# --- differences ----------------------------------------------------------------------------------------------------


def test_diff_has_changed_lines_only() -> None:
    assert diff_crontabs("A=1\n", JOB.block + "A=1\n").splitlines()[2:] == [
        "@@ -0,0 +1,2 @@",
        f"+{JOB.comment}",
        f"+{JOB.line}",
    ]
    assert diff_crontabs(None, JOB.block).count("\n+") == 3  # the heading has one too
    assert diff_crontabs("5 * * * * x\n", None).endswith("\n-5 * * * * x")


def test_diff_masks_secrets() -> None:
    line = f"5 * * * * PGPASSWORD=s3cr3t {SCRIPT_PATH}\n"
    diff = diff_crontabs(f"TOKEN=s3cr3t\n{line}", "")
    assert SCRIPT_PATH in diff
    assert "s3cr3t" not in diff
