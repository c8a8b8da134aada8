"""The lines for a monitoring system: their order, their performance data, and texts that would mislead it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_backups.health.plugin_line import LONGEST_TEXT, format_error, format_lines, format_perfdata
from demo_backups.health.state import Finding, Health, Metrics, State

NOW = 1_800_000_000.0
FULL = Metrics(
    now=NOW,
    backup_time=NOW - 3540,
    backup_bytes=2_301_952,
    verification_time=NOW - 10_800,
    drill_time=NOW - 12 * 86400,
    copy_time=NOW - 18_000,
    offsite_time=NOW - 86_400,
    warn_age=7200,
    critical_age=14_400,
)
# A value of performance data, by the guidelines: 'label'=value[UOM];[warn];[crit];[min];[max]
VALUE = re.compile(r"([^\s='|]+)=(U|-?[0-9.]+(?:s|B)?)((?:;[0-9.]*){0,4})")


def health(state: State, database: str = "index", *, host: str = "demo", **changes: Any) -> Health:
    values: dict[str, Any] = {"findings": (Finding("backup", state, "backup 59 min old"),), "metrics": FULL} | changes
    return Health(host, database, **values)


def read_as_nagios(output: str) -> tuple[str, str, str]:
    """Split output as Nagios and Naemon do: the text, the long text, the performance data."""
    first, _, rest = output.partition("\n")
    text, _, data = first.partition("|")
    long_text, _, more = rest.partition("|")
    return text, long_text, " ".join([data, *more.split("\n")])


def read_as_icinga(output: str) -> tuple[str, str]:
    """Split output as Icinga does: the text and the performance data of every line."""
    parts = [line.partition("|") for line in output.split("\n")]
    return "\n".join(part[0] for part in parts), " ".join(part[2] for part in parts)


# --- lines ----------------------------------------------------------------------------------------------------------


def test_line_has_state_text_and_data() -> None:
    texts = {"backup": "backup 59 min old", "verification": "verified 3 h ago", "size": "as the one before"}
    findings = tuple(Finding(name, State.OK, text) for name, text in texts.items())
    assert format_lines([health(State.OK, findings=findings)]) == [
        "OK demo/index: backup 59 min old, verified 3 h ago | "
        "age=3540s;7200;14400;0 size=2301952B;;;0 verified=10800s drill=1036800s copy=18000s offsite=86400s"
    ]


def test_problems_come_first_in_line() -> None:
    findings = (
        Finding("backup", State.OK, "backup 1 min old"),
        Finding("drill", State.WARNING, "drill 60 d ago"),
        Finding("space", State.CRITICAL, "disk full"),
        Finding("cron", State.UNKNOWN, "log unreadable"),
    )
    (line,) = format_lines([health(State.OK, findings=findings, metrics=None)])
    assert line == "CRITICAL demo/index: disk full, log unreadable, drill 60 d ago, backup 1 min old"


def test_nothing_considered_is_unknown() -> None:
    (line,) = format_lines([health(State.OK, findings=(), metrics=None)])
    assert line.startswith("UNKNOWN demo/index: ")


def test_worst_database_comes_first() -> None:
    states = [State.OK, State.WARNING, State.UNKNOWN, State.CRITICAL, State.OK]
    lines = format_lines(health(state, f"d{index}") for index, state in enumerate(states))
    assert [line.partition(":")[0] for line in lines] == [
        *("CRITICAL demo/d3", "UNKNOWN demo/d2", "WARNING demo/d1", "OK demo/d0", "OK demo/d4")
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_parser_finds_all_data(count: int) -> None:
    output = "\n".join(format_lines(health(State.OK, f"d{index}") for index in range(count)))
    text, long_text, nagios = read_as_nagios(output)
    icinga_text, icinga = read_as_icinga(output)
    assert nagios.split() == icinga.split()
    labels = [value.partition("=")[0] for value in nagios.split()]
    assert len(set(labels)) == 6 * count
    for shown in (text + "\n" + long_text, icinga_text):
        assert re.findall(r"demo/(d\d): backup", shown) == [f"d{index}" for index in range(count)]


# --- performance data -----------------------------------------------------------------------------------------------


def test_undetermined_value_is_u() -> None:
    assert format_perfdata(Metrics(NOW, backup_time=NOW - 5)) == "age=5s;;;0 size=U;;;0 verified=U"


def test_archives_have_no_verification() -> None:
    line = format_lines([health(State.OK, "config", metrics=Metrics(NOW, backup_time=NOW - 5, backup_bytes=9))])[0]
    assert line.endswith(" | age=5s;;;0 size=9B;;;0")


def test_ages_refer_to_clock_of_their_times() -> None:
    metrics = Metrics(NOW, backup_time=NOW + 3590, verification_time=NOW - 20, host_now=NOW + 3600)
    assert format_perfdata(metrics) == "age=10s;;;0 size=U;;;0 verified=20s"


@pytest.mark.parametrize("metrics", [None, Metrics(NOW), Metrics(NOW, backup_time=float("nan"))])
def test_no_value_gives_no_data(metrics: Metrics | None) -> None:
    assert format_perfdata(metrics) == ""


def test_large_and_early_values_are_plain_numbers() -> None:
    data = format_perfdata(Metrics(NOW, backup_time=NOW + 30, backup_bytes=17_000_000_123, warn_age=1e7))
    assert data == "age=0s;10000000;;0 size=17000000123B;;;0 verified=U"


@pytest.mark.parametrize("name", ["a b", "it's", "x=1", "a|b", "a;b", "a::b", "größe", "\x1b[2J", "a\nb"])
def test_label_needs_no_quotes(name: str) -> None:
    line = format_lines([health(State.OK, name), health(State.OK, "other")])[0]
    assert line.count("|") == 1
    values = line.partition("|")[2].split()
    assert len(values) == 6
    for value in values:
        assert VALUE.fullmatch(value), value
        assert "::" not in value


# --- texts that mislead ---------------------------------------------------------------------------------------------

FORGED = [
    "failed | age=0s",
    "x\nOK demo/index: all is well | age=0s",
    "x\r\nOK",
    "x\u2028OK\x85OK\x0bOK",
    "\x1b[2J\x9b1mOK\x07\x00",
    "\u202eko",
    "\udcff not UTF-8",
    "<a href='http://x'>OK</a>",
    "$(touch /tmp/x) `touch /tmp/x`",
    'quoted "text"',
]


@pytest.mark.parametrize("text", FORGED)
def test_text_cannot_mislead(text: str) -> None:
    findings = (Finding("cron", State.CRITICAL, text),)
    for lines in (format_lines([health(State.OK, findings=findings)]), [format_error(text)]):
        (line,) = lines
        assert line.partition(" ")[0].rstrip(":") in ("CRITICAL", "UNKNOWN")
        assert line.isprintable()
        assert len(line.encode().splitlines()) == 1
        assert not set(line.partition(" | age=3540s")[0]) & set('|<`$"')


@given(st.text())
def test_any_text_stays_one_line(text: str) -> None:
    (line,) = format_lines([health(State.OK, text, host=text, findings=(Finding("backup", State.OK, text),))])
    assert line.isprintable()
    assert line.startswith("OK ")
    assert line.count("|") == 1
    assert line.encode("utf-8")


def test_long_text_is_cut() -> None:
    (line,) = format_lines([health(State.OK, findings=(Finding("backup", State.OK, "x " * 9999),), metrics=None)])
    assert len(line) < LONGEST_TEXT + 50


@pytest.mark.skipif(not Path("/usr/lib/nagios/plugins/negate").exists(), reason="monitoring-plugins-basic is missing")
def test_negate_reads_state() -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as script:
        (line,) = format_lines([health(State.CRITICAL)])
        script.write(f"echo '{line}'; exit {State.CRITICAL.value}\n")
        script.flush()
        command = ["/usr/lib/nagios/plugins/negate", "--substitute", "-c", "OK", "/bin/sh", script.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, line.replace("CRITICAL", "OK", 1) + "\n")
