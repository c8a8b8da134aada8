"""The text of a crontab: lines are split, and the job is added and removed, byte for byte."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.backup.crontab import (
    PUBLISHED,
    add_job,
    diff_crontabs,
    escape_command,
    find_schedule,
    has_job,
    make_job,
    remove_job,
    split_line,
    unescape_command,
)
from demo_backups.backup.script import read_script
from demo_backups.errors import CrontabConflictError, NoScheduleError
from demo_backups.settings import Settings, validate_settings

from ..helpers.constants import ODD_NAMES, SCRIPT
from ..helpers.crontab_texts import JOB, PUBLISHED_LINE, SCHEDULE, SCRIPT_PATH, make_crontabs

# --- lines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "schedule", "command"),
    [
        (PUBLISHED_LINE, SCHEDULE, f"{SCRIPT_PATH} >> /var/log/cron.log 2>&1"),
        ("*/5 1-3,7 * jan sun x --y  z ", "*/5 1-3,7 * jan sun ", "x --y  z "),
        ("  \t0\t*\t*\t*\t*\tx", "  \t0\t*\t*\t*\t*\t", "x"),
        ("@hourly x", "@hourly ", "x"),
        ("\t@reboot\tx y", "\t@reboot\t", "x y"),
        ("0 * * * * A=1 x", "0 * * * * ", "A=1 x"),
        ("0 * * * * x\r", "0 * * * * ", "x\r"),
    ],
)
def test_active_line_is_split(line: str, schedule: str, command: str) -> None:
    assert split_line(line) == (schedule, command)
    assert schedule + command == line


@pytest.mark.parametrize(
    "line",
    [
        "",
        "   ",
        "# a comment",
        f"#{PUBLISHED_LINE}",
        f"  # {PUBLISHED_LINE}",
        "PATH=/bin",
        "MAILTO = root",
        "A=0 * * * * x",
        "0 * * * *",
        "0 * * * x",
        "@hourly",
        "@hourly ",
        'X="0 * * * * y"',
    ],
)
def test_other_line_is_not_split(line: str) -> None:
    assert split_line(line) is None


def read_as_cron(command: str) -> str:
    r"""Return what cron passes to the shell: measured with Debian's (3.0pl1), where `\%` is `%`, and `\\` is `\`."""
    text = ""
    rest = command
    while rest and not rest.startswith("%"):
        length = 2 if rest.startswith(("\\%", "\\\\")) else 1
        text += rest[length - 1]
        rest = rest[length:]
    return text


@pytest.mark.parametrize("command", ["x", "date +%F", "%", r"a\b", r"a\\b", r"\%", r"100\\%\\", *ODD_NAMES.values()])
def test_cron_reads_escaped_command(command: str) -> None:
    assert read_as_cron(escape_command(command)) == command
    assert unescape_command(escape_command(command)) == command


@pytest.mark.parametrize(
    ("text", "command"), [(r"a\b", r"a\b"), (r"a\\b", r"a\b"), (r"a\\\%b", r"a\%b"), (r"a\\\\\%b", r"a\\%b")]
)
def test_unescaping_is_that_of_cron(text: str, command: str) -> None:
    assert unescape_command(text) == read_as_cron(text) == command


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


def test_schedule_is_the_published_one(project_settings: Settings) -> None:
    assert find_schedule(project_settings.database("index"), PUBLISHED.read_text()) == SCHEDULE


def test_database_without_line_has_no_schedule(project_settings: Settings) -> None:
    with pytest.raises(NoScheduleError, match="tracker"):
        find_schedule(project_settings.database("tracker"), PUBLISHED.read_text())


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
def test_line_of_other_program_is_no_schedule(project_settings: Settings, line: str) -> None:
    with pytest.raises(NoScheduleError):
        find_schedule(project_settings.database("index"), f"{line}\n")


# --- adding and removing --------------------------------------------------------------------------------------------


def test_added_job_is_at_the_top() -> None:
    for text in make_crontabs():
        enabled = add_job(text, JOB)
        assert enabled == JOB.block + text
        assert has_job(enabled, JOB)
        assert not has_job(text, JOB)


def test_adding_is_idempotent() -> None:
    for text in make_crontabs():
        enabled = add_job(text, JOB)
        assert add_job(enabled, JOB) == enabled


def test_removing_restores_text() -> None:
    for text in make_crontabs():
        assert remove_job(add_job(text, JOB), JOB) == text
        assert remove_job(text, JOB) == text


def test_moved_job_is_removed() -> None:
    for number, text in enumerate(make_crontabs()):
        lines = text.split("\n")
        position = number % len(lines)
        before = "".join(f"{line}\n" for line in lines[:position])
        after = "\n".join(lines[position:])
        assert remove_job(before + JOB.block + after, JOB) == before + after


def test_job_of_earlier_version_is_removed() -> None:
    earlier = f"# demo-backups: index database (inv enable-index-backup)\n{PUBLISHED_LINE}\n"
    assert add_job(earlier, JOB) == earlier
    assert remove_job(f"A=1\n{earlier}B=2", JOB) == "A=1\nB=2"


@pytest.mark.parametrize("blanks", [("", ""), ("  ", ""), ("\t", " \t")])
def test_line_without_comment_is_active(blanks: tuple[str, str]) -> None:
    text = f"A=1\n{PUBLISHED_LINE.join(blanks)}\n# end"
    assert has_job(text, JOB)
    assert add_job(text, JOB) == text


@pytest.mark.parametrize(
    "line",
    [f"#{PUBLISHED_LINE}", f"# {PUBLISHED_LINE}", f"{PUBLISHED_LINE}\r", f"{PUBLISHED_LINE} || x", PUBLISHED_LINE[1:]],
    ids=["commented out", "commented out with a blank", "Windows line ending", "longer", "shorter"],
)
def test_different_line_is_not_active(line: str) -> None:
    assert not has_job(f"{line}\n", JOB)


def test_job_is_added_above_commented_one() -> None:
    text = f"{JOB.comment}\n#{PUBLISHED_LINE}\n"
    enabled = add_job(text, JOB)
    assert enabled == JOB.block + text
    assert remove_job(enabled, JOB) == text


@pytest.mark.parametrize(
    "line",
    [
        f"30 * * * * {SCRIPT_PATH}",
        f"@hourly {SCRIPT_PATH} >> /var/log/cron.log 2>&1",
        f"0 * * * * cd / && BACKUP_DIR=/x {SCRIPT_PATH}",
        f"{PUBLISHED_LINE}\r",
        f"0 * * * * flock /tmp/x {SCRIPT_PATH}",
    ],
)
def test_second_line_for_script_is_refused(line: str) -> None:
    with pytest.raises(CrontabConflictError, match="crontab") as caught:
        add_job(f"A=1\n{line}\n", JOB)
    assert caught.value.output == line.strip()


def test_escaped_path_in_other_line_is_found() -> None:
    odd = replace(JOB, command="'/100% sure.sh'", script=PurePosixPath("/100% sure.sh"))
    with pytest.raises(CrontabConflictError):
        add_job("5 * * * * '/100\\% sure.sh'\n", odd)
    assert remove_job(add_job("A=1\n", odd), odd) == "A=1\n"


EDITED = {
    "at another time": JOB.block.replace("0  *", "30  *"),
    "commented out": JOB.block.replace("0  *", "#0  *"),
    "only the comment": f"{JOB.comment}\n",
    "line in between": f"{JOB.comment}\n\n{PUBLISHED_LINE}\n",
    "comment of the comment": f"#{JOB.block}",
    "indented": f" {JOB.block}",
    "cut off": JOB.block.rstrip("\n"),
    "Windows line endings": JOB.block.replace("\n", "\r\n"),
    "without comment": f"{PUBLISHED_LINE}\n",
    "with a second line": f"{JOB.block}{PUBLISHED_LINE}\n",
    "twice": JOB.block * 2,
}


@pytest.mark.parametrize("text", EDITED.values(), ids=EDITED)
def test_edited_job_is_not_removed(text: str) -> None:
    with pytest.raises(CrontabConflictError) as caught:
        remove_job(f"5 * * * * before\n{text}", JOB)
    assert "crontab -e" in caught.value.advice
    assert SCRIPT_PATH in caught.value.output or JOB.comment in caught.value.output


def test_diff_has_added_and_removed_lines() -> None:
    assert diff_crontabs("A=1\n", JOB.block + "A=1\n").splitlines()[2:] == [
        "@@ -1 +1,3 @@",
        f"+{JOB.comment}",
        f"+{JOB.line}",
        " A=1",
    ]
    assert diff_crontabs(None, JOB.block).count("\n+") == 3  # the heading has one too
    assert diff_crontabs("A=1\n", None).endswith("\n-A=1")
