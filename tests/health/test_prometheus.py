"""The file for the textfile collector: its format by real parsers, its labels, and how it is written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from demo_backups.errors import MetricsNotWrittenError
from demo_backups.health.prometheus import format_metrics, write_metrics
from demo_backups.health.state import Finding, Health, Metrics, State

from ..helpers.node_exporter import scrape_directory

NOW = 1_800_000_000.0
GOOD = Health(
    "demo",
    "index",
    (Finding("backup", State.OK, "x"),),
    Metrics(NOW, NOW - 60, 2_301_952, NOW - 120.5, NOW - 180, NOW - 240, NOW - 300, backups_listed=True),
)
NEVER_DRILLED = Health(
    "demo",
    "tracker",
    (Finding("drill", State.WARNING, "x"),),
    Metrics(NOW, NOW - 60, 17 * 10**9, backups_listed=True),
)
UNREACHABLE = Health("other", "index", (Finding("host", State.UNKNOWN, "no answer"),))
ALL = [GOOD, NEVER_DRILLED, UNREACHABLE]
HOSTILE = ['a"b', "a\\", "a\\nb", 'x"} 1\ndemo_backups_up{host="y', "\x1b[2J", "\u202e", "\udcff", "a\r\nb\tc", "größe"]


def samples(text: str) -> dict[str, str]:
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_metrics_have_all_series() -> None:
    assert samples(format_metrics(ALL)) == {
        'demo_backups_up{host="demo",database="index"}': "1",
        'demo_backups_up{host="demo",database="tracker"}': "1",
        'demo_backups_up{host="other",database="index"}': "0",
        'demo_backups_state{host="demo",database="index"}': "0",
        'demo_backups_state{host="demo",database="tracker"}': "1",
        'demo_backups_state{host="other",database="index"}': "3",
        'demo_backups_last_backup_timestamp_seconds{host="demo",database="index"}': "1799999940",
        'demo_backups_last_backup_timestamp_seconds{host="demo",database="tracker"}': "1799999940",
        'demo_backups_last_backup_size_bytes{host="demo",database="index"}': "2301952",
        'demo_backups_last_backup_size_bytes{host="demo",database="tracker"}': "17000000000",
        'demo_backups_last_verification_timestamp_seconds{host="demo",database="index"}': "1799999879.5",
        'demo_backups_last_drill_timestamp_seconds{host="demo",database="index"}': "1799999820",
        'demo_backups_last_copy_timestamp_seconds{host="demo",database="index"}': "1799999760",
        'demo_backups_last_offsite_timestamp_seconds{host="demo",database="index"}': "1799999700",
    }


def test_series_are_described_once() -> None:
    text = format_metrics(ALL)
    names = {name.partition("{")[0] for name in samples(text)}
    for kind in ("HELP", "TYPE"):
        described = re.findall(rf"^# {kind} (\S+) \S", text, re.MULTILINE)
        assert len(described) == len(set(described))
        assert set(described) == names


def test_unreachable_host_alone_has_no_times() -> None:
    assert len(samples(format_metrics([UNREACHABLE]))) == 2


def test_host_without_list_is_not_up() -> None:
    recorded = Health("demo", "index", UNREACHABLE.findings, Metrics(NOW, verification_time=NOW - 60))
    found = samples(format_metrics([recorded]))
    assert found['demo_backups_up{host="demo",database="index"}'] == "0"
    assert 'demo_backups_last_verification_timestamp_seconds{host="demo",database="index"}' in found


def hostile_health() -> list[Health]:
    return [Health(name, name, (Finding("host", State.UNKNOWN, "x"),)) for name in HOSTILE]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool of the package prometheus is missing")
@pytest.mark.parametrize("healths", [ALL, hostile_health(), []], ids=["good", "hostile", "none"])
def test_promtool_accepts_metrics(healths: list[Health]) -> None:
    text = format_metrics(healths)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_hostile_label_makes_one_sample() -> None:
    text = format_metrics(hostile_health())
    label = r'"(?:[^"\\\n]|\\["\\n])*"'
    lines = [line for line in text.splitlines() if line.startswith("demo_backups_up")]
    assert len(lines) == len(HOSTILE)
    for line in lines:
        assert re.fullmatch(rf"demo_backups_up\{{host={label},database={label}\}} 0", line), line
    assert "\x1b" not in text


def test_node_exporter_serves_metrics(tmp_path: Path) -> None:
    for number, healths in enumerate((ALL, hostile_health())):
        write_metrics(tmp_path / f"{number}.prom", healths)
    text = scrape_directory(tmp_path)
    assert "node_textfile_scrape_error 0" in text
    assert len(re.findall("^demo_backups_up{", text, re.MULTILINE)) == len(ALL) + len(HOSTILE)
    assert 'demo_backups_last_backup_timestamp_seconds{database="index",host="demo"} 1.79999994e+09' in text


# --- the file -------------------------------------------------------------------------------------------------------


def test_file_is_replaced_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "backups.prom"
    path.write_text("old")
    before = path.stat().st_ino
    umask = os.umask(0o077)
    try:
        write_metrics(path, ALL)
    finally:
        os.umask(umask)
    assert path.read_text() == format_metrics(ALL)
    assert (path.stat().st_mode & 0o777, path.stat().st_ino != before) == (0o644, True)
    assert list(tmp_path.iterdir()) == [path]


def test_link_to_file_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target = tmp_path / "folder/backups.prom"
    link = tmp_path / "link.prom"
    link.symlink_to(target)
    write_metrics(link, ALL)
    assert link.is_symlink()
    assert target.read_text() == format_metrics(ALL)


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "device", "loop"])
def test_file_that_cannot_be_replaced(tmp_path: Path, kind: str) -> None:
    path = {"missing": tmp_path / "no/x.prom", "device": Path("/dev/null")}.get(kind, tmp_path / "x.prom")
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    with pytest.raises(MetricsNotWrittenError, match=re.escape(str(path))):
        write_metrics(path, ALL)
    assert Path("/dev/null").is_char_device()
    assert not list(tmp_path.glob(".demo*"))
