"""Crontabs are parsed as cron does: lines, settings, times, escapes."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from demo_backups.backup.cron_syntax import (
    Layout,
    escape_command,
    parse_crontab,
    parse_schedule,
    parse_setting,
    split_input,
    split_line,
    unescape_command,
)

from ..helpers.constants import ODD_NAMES
from ..helpers.crontab_texts import PUBLISHED_LINE, SCHEDULE, SCRIPT_PATH

BOUNDED = settings(derandomize=True, database=None, deadline=None, max_examples=200)
ORACLE = settings(BOUNDED, max_examples=60)  # starts a program for each example

# --- lines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "times", "command"),
    [
        (PUBLISHED_LINE, SCHEDULE, f"{SCRIPT_PATH} >> /var/log/cron.log 2>&1"),
        ("*/5 1-3,7 * jan sun x --y  z ", "*/5 1-3,7 * jan sun ", "x --y  z "),
        ("  \t0\t*\t*\t*\t*\tx", "  \t0\t*\t*\t*\t*\t", "x"),
        ("@hourly x", "@hourly ", "x"),
        ("\t@reboot\tx y", "\t@reboot\t", "x y"),
        ("-0 * * * * x", "-0 * * * * ", "x"),
        ("0~59 * * * * x", "0~59 * * * * ", "x"),
        ("0 * * * * A=1 x", "0 * * * * ", "A=1 x"),
        ("0 * * * * ' = x", "0 * * * * ", "' = x"),
        ("0 * * * * x\r", "0 * * * * ", "x\r"),
    ],
)
def test_active_line_is_split(line: str, times: str, command: str) -> None:
    assert split_line(line) == (times, command)
    assert times + command == line


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
        "@daily=1 x",
        'X="0 * * * * y"',
    ],
)
def test_other_line_is_not_split(line: str) -> None:
    assert split_line(line) is None


@pytest.mark.parametrize(
    ("line", "setting"),
    [
        ("A=b", ("A", "b")),
        ("  A = b c \t", ("A", "b c")),
        ("A=' b '", ("A", " b ")),
        ('"A B" = "c" ', ("A B", "c")),
        ('A=""', ("A", "")),
        ("A=b'c", ("A", "b'c")),
        ("CRON_TZ=Europe/Madrid\r", ("CRON_TZ", "Europe/Madrid")),
        ("A=", None),
        ("A='b", None),
        ("A='b' c", None),
        ("A b=c", None),
        ("0 * * * * A=b", None),
        ("# A=b", None),
    ],
)
def test_setting_is_parsed(line: str, setting: tuple[str, str] | None) -> None:
    assert parse_setting(line) == setting


def test_setting_applies_to_lines_below() -> None:
    first, second = parse_crontab("@daily x\nA=1\nA=2\n\n# B=1\n@daily y\nC=3\n")
    assert (first.number, first.command, first.environment) == (1, "x", {})
    assert (second.number, second.command, second.environment) == (6, "y", {"A": "2"})


@pytest.mark.parametrize("blanks", [" ", "\t", " \t "])
def test_system_table_names_user(blanks: str) -> None:
    (entry,) = parse_crontab(f"0 * * * *{blanks}root{blanks}x y\n", Layout.SYSTEM)
    assert (entry.user, entry.command) == ("root", "x y")


def test_anacron_table_names_job() -> None:
    text = "SHELL=/bin/sh\n1\t5\tcron.daily\trun-parts /etc/cron.daily\n@monthly 15 name x\n"
    entries = list(parse_crontab(text, Layout.ANACRON))
    assert [entry.command for entry in entries] == ["run-parts /etc/cron.daily", "x"]
    assert {entry.schedule for entry in entries} == {None}


# --- times ----------------------------------------------------------------------------------------------------------

HOURLY = ["0 * * * *", "0  *\t* * *", "@hourly", "*/60 * * * *", "00 0-23 1-31 1-12 0-7", "0 */1 * jan-DEC SUN-sat"]
SAME_TIMES = [
    HOURLY,
    ["@daily", "@midnight", "0 0 * * *", "0 */24 * * *"],
    ["@weekly", "0 0 * * 0", "0 0 * * 7", "0 0 * * sun", "0 0 */1 * 0"],
    ["@monthly", "0 0 1 * *", "0 0 1 1-12 *"],
    ["@yearly", "@annually", "0 0 1 1 *", "0 0 1 JAN *"],
    ["*/15 * * * *", "0,15,30,45 * * * *", "0-59/15 * * * *", "45,0-30/15 * * * *"],
    ["0 0 13 * 5", "0 0 13 * fri"],  # every 13th, and every Friday
    ["0 0 */2 * 1", "0 0 1-31/2 * 1,*/8"][:1],
    ["0 0 29 2 *", "0 0 29-31 2 *"],  # February has no other day
]


@pytest.mark.parametrize("spellings", SAME_TIMES, ids=lambda spellings: spellings[0])
def test_spellings_of_same_times_are_equal(spellings: list[str]) -> None:
    schedules = {parse_schedule(spelling) for spelling in spellings}
    assert len(schedules) == 1
    assert None not in schedules


def test_different_times_are_not_equal() -> None:
    schedules = [parse_schedule(spellings[0]) for spellings in SAME_TIMES]
    others = [parse_schedule(times) for times in ("0 */2 * * *", "1 * * * *", "0 0 13 * *", "0 0 * * 5", "0 0 * 2 *")]
    assert len({*schedules, *others}) == len(schedules) + len(others)


@pytest.mark.parametrize(
    "times",
    [
        *("@reboot", "@every_minute", "@Hourly x", "", "0 * * *", "0 * * * * *", "60 * * * *", "0 24 * * *"),
        *("0 * 0 * *", "0 * * 13 *", "0 * * * 8", "5-1 * * * *", "*/0 * * * *", "5/10 * * * *", "0~5 * * * *"),
        *("** * * * *", "1,,2 * * * *", "* * * janu *", "jan * * * *", "-5 * * * *", "1-5-7 * * * *", "0 * * * sun-"),
    ],
)
def test_uncertain_times_are_not_compared(times: str) -> None:
    assert parse_schedule(times) is None


@pytest.mark.parametrize(
    ("times", "count"),
    [
        ("0  * * * *", 24),
        ("@hourly", 24),
        ("*/15 * * * *", 96),
        ("* * * * *", 1440),
        ("0 0-8/4,12 * * *", 4),
        ("5 4 1 * *", 1),
    ],
)
def test_runs_a_day_are_counted(times: str, count: int) -> None:
    schedule = parse_schedule(times)
    assert schedule
    assert schedule.runs_per_day == count


def reference_values(text: str, low: int, high: int) -> set[int]:
    """Return what a field of numbers, ranges and steps stands for, value by value."""
    found = set()
    for value, part in product(range(low, high + 1), text.split(",")):
        span, _, step = part.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        if int(first) <= value <= int(last or first) and (value - int(first)) % int(step or 1) == 0:
            found.add(value)
    return found


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    """Generate a field that cron accepts."""
    number = st.integers(low, high)
    span = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}") | st.just("*")
    stepped = st.tuples(span, st.integers(1, 70)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    return st.lists(number.map(str) | span | stepped, min_size=1, max_size=3).map(",".join)


@settings(BOUNDED, max_examples=50)
@given(minute=fields(0, 59), hour=fields(0, 23), day=fields(1, 31), month=fields(1, 12), weekday=fields(0, 7))
def test_schedule_is_that_of_reference(minute: str, hour: str, day: str, month: str, weekday: str) -> None:
    schedule = parse_schedule(f"{minute} {hour} {day} {month} {weekday}")
    assert schedule
    assert schedule.minutes == reference_values(minute, 0, 59)
    assert schedule.hours == reference_values(hour, 0, 23)
    days, weekdays = reference_values(day, 1, 31), {value % 7 for value in reference_values(weekday, 0, 7)}
    is_star = day.startswith("*") or weekday.startswith("*")
    for value, number in product(range(1, 32), range(7)):
        matches = [value in days, number in weekdays]
        is_due = all(matches) if is_star else any(matches)
        for each in reference_values(month, 1, 12) & {1, 3, 5}:  # months with 31 days
            assert ((each, value, number) in schedule.days) is is_due


# --- compared with crontab(1) ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def check_syntax(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for `crontab -n`, which only checks it; skipped where crontab(1) cannot do that."""
    path = tmp_path_factory.mktemp("crontab") / "table"
    path.write_text("0 * * * * x\n")
    if not shutil.which("crontab") or subprocess.run(["crontab", "-n", path], check=False).returncode:
        pytest.skip("there is no crontab command that can check a file")
    return path


def is_accepted(path: Path, text: str) -> bool:
    """Ask crontab(1)."""
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return subprocess.run(["crontab", "-n", path], capture_output=True, check=False).returncode == 0


FIELD_LIKE = st.text("0123456789*/-,~@abcjnsu", min_size=1, max_size=6) | fields(0, 59) | fields(1, 12)


@ORACLE
@given(values=st.lists(FIELD_LIKE, min_size=5, max_size=5))
@example(["0", "0", "0", "1", "1"])
@example(["*-5", "*", "*", "*", "*"])
def test_known_times_are_accepted_by_crontab(check_syntax: Path, values: list[str]) -> None:
    times = " ".join(values)
    if parse_schedule(times) is not None:
        assert is_accepted(check_syntax, f"{times} x\n")


LINE_LIKE = st.text("0*@ \t=#'\"abA%\\\r-\udcff\x85", max_size=12)


@ORACLE
@given(line=LINE_LIKE | LINE_LIKE.map(lambda text: f"0 * * * *{text}") | LINE_LIKE.map(lambda text: f"@hourly{text}"))
@example("0=* * * * * x")
@example("A=''b")
def test_line_accepted_by_crontab_is_understood(check_syntax: Path, line: str) -> None:
    if is_accepted(check_syntax, f"{line}\n"):
        stripped = line.strip(" \t\r")
        is_setting = parse_setting(line) is not None
        has_command = len(re.split("[ \t]+", stripped)) > (1 if stripped.startswith("@") else 5)
        assert is_setting or split_line(line) or not stripped or stripped.startswith("#") or not has_command


# --- commands -------------------------------------------------------------------------------------------------------


def read_as_cron(command: str) -> str:
    r"""Return what cron passes to the shell: measured with Debian's (3.0pl1), where `\%` is `%`, and `\\` is `\`."""
    text = ""
    rest = command
    while rest and not rest.startswith("%"):
        length = 2 if rest.startswith(("\\%", "\\\\")) else 1
        text += rest[length - 1]
        rest = rest[length:]
    return text


@BOUNDED
@given(command=st.text("ab %\\"))
@example(r"100\\%\\")
@example("date +%F")
def test_cron_reads_escaped_command(command: str) -> None:
    assert read_as_cron(escape_command(command)) == command
    assert unescape_command(escape_command(command)) == command
    assert split_input(escape_command(command)) == (command, "")


@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_cron_reads_escaped_name(name: str) -> None:
    assert read_as_cron(escape_command(name)) == name


@BOUNDED
@given(command=st.text("ab %\\"))
def test_command_ends_at_percent(command: str) -> None:
    assert split_input(command)[0] == read_as_cron(command)


@pytest.mark.parametrize(
    ("text", "command", "given_input"),
    [("cat%a%b", "cat", "a\nb"), (r"date +\%F%\%", "date +%F", "%"), ("cat%", "cat", ""), (r"a\\%b", "a\\", "b")],
)
def test_input_of_command_is_split(text: str, command: str, given_input: str) -> None:
    assert split_input(text) == (command, given_input)


@BOUNDED
@given(text=st.text("0*@ \t\n=#'\"abA%\\\r-/"))
def test_any_text_is_parsed_completely(text: str) -> None:
    lines = text.split("\n")
    for layout in Layout:
        for entry in parse_crontab(text, layout):
            assert lines[entry.number - 1] == entry.text
            assert entry.text.endswith(entry.command)
