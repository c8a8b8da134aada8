"""The report as files, and the task that writes it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from demo_backups.errors import FAILED, WRONG_INPUT, StepError
from demo_backups.project import ROOT
from demo_backups.records.store import write_record
from demo_backups.release.report.files import save_report

from ..helpers.processes import file_mode_mask
from ..helpers.report_samples import verification
from ..helpers.tasks import INV, InvRunner

# --- files ------------------------------------------------------------------------------------------------------------


def test_saved_report_replaces_previous_one(tmp_path: Path) -> None:
    place = tmp_path / "a/reports/index.html"
    for text in ("first", "second ünï"):
        save_report(text, place)
        assert place.read_text(encoding="utf-8") == text
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_report_is_private(tmp_path: Path, mask: int) -> None:
    place = tmp_path / "reports/index.html"
    with file_mode_mask(mask):
        save_report("text", place)
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.parent.stat().st_mode & 0o777 == 0o700


def test_failed_write_keeps_previous_report(tmp_path: Path) -> None:
    place = tmp_path / "index.html"
    save_report("before", place)
    with pytest.raises(UnicodeEncodeError):
        save_report("\udcff", place)
    assert place.read_text() == "before"
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("obstacle", ["reports", "reports/index.html/x"])
def test_blocked_path_is_reported(obstacle: str, tmp_path: Path) -> None:
    (tmp_path / obstacle).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / obstacle).touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StepError, match="the report could not be written to") as caught:
        save_report("text", tmp_path / "reports/index.html")
    assert caught.value.output
    assert str(tmp_path / "reports") in caught.value.advice
    assert sorted(tmp_path.rglob("*")) == before


# --- the task -------------------------------------------------------------------------------------------------------


@pytest.fixture
def report(
    run_inv: InvRunner, home: Path, private_mounts: list[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call the task with a reports folder of the test, mounted over that of this checkout in a private namespace."""
    (home / "reports").mkdir()
    (ROOT / "reports").mkdir(exist_ok=True)  # ignored by git

    def call(*arguments: str, mount: tuple[str, ...] = (), **changes: str) -> subprocess.CompletedProcess[str]:
        mount = mount or ("--bind", str(home / "reports"))
        script = 'mount "$@" "$REPORTS"; exec "$INV" --search-root "$ROOT" report --host nowhere.invalid $FLAGS'
        variables = {"REPORTS": str(ROOT / "reports"), "INV": str(INV), "ROOT": str(ROOT), "FLAGS": " ".join(arguments)}
        return subprocess.run(
            [*private_mounts, "sh", "-euc", script, "sh", *mount],
            env=run_inv.environment | {"INVOKE_RELEASE_REPOSITORY": str(home)} | variables | changes,
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


Report = Callable[..., subprocess.CompletedProcess[str]]


def test_task_writes_page_and_names_invalid_records(report: Report, home: Path) -> None:
    write_record(home / "evidence", verification(host="nowhere.invalid"))
    (home / "evidence/half.json").write_text('{"kind": "run", "ho')
    done = report()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"the report is {ROOT / 'reports/index.html'}\n"
    assert [path.name for path in (home / "reports").iterdir()] == ["index.html"]
    text = (home / "reports/index.html").read_text(encoding="utf-8")
    assert 'Backups of <span class="name">nowhere.invalid' in text
    assert "/backups/backup_2024-11-24_20-00-00.db" in text
    assert "half.json" in text
    assert text.count("<svg") == 3
    assert text.count('class="step"') == 18


def test_task_works_without_records_or_server(report: Report, home: Path) -> None:
    done = report()
    assert (done.returncode, done.stderr) == (0, "")
    assert "./inv rehearse" in (home / "reports/index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("place", "why"), [("evidence", "cannot be read"), ("evidence/half.json", "it is empty")])
def test_unreadable_records_are_reported(report: Report, home: Path, place: str, why: str) -> None:
    (home / place).parent.mkdir(exist_ok=True)
    (home / place).touch()
    done = report()
    assert (done.returncode, done.stderr) == (0, "")
    text = (home / "reports/index.html").read_text(encoding="utf-8")
    assert why in text
    assert "recorded yet" not in text


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (("-t", "tmpfs", "-o", "ro", "tmpfs"), "Read-only file system"),
        (("-t", "tmpfs", "-o", "size=8k", "tmpfs"), "No space left on device"),
    ],
    ids=["read-only", "full"],
)
def test_unwritable_folder_is_reported(mount: tuple[str, ...], words: str, report: Report) -> None:
    done = report(mount=mount)
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert "the report could not be written to" in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_markdown_is_utf8_on_standard_output(report: Report, home: Path) -> None:
    write_record(home / "evidence", verification(host="nowhere.invalid"))
    done = report("--format", "markdown", LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("## Summary\n")
    assert "on `nowhere.invalid`" in done.stdout
    assert "✓ passed" in done.stdout
    assert list((home / "reports").iterdir()) == []


def test_unknown_format_exits_with_2(run_inv: InvRunner) -> None:
    done = run_inv("report", "--format", "pdf")
    assert (done.returncode, done.stdout) == (WRONG_INPUT, "")
    assert "--format 'pdf'" in done.stderr


def test_open_uses_browser_of_user(report: Report, home: Path) -> None:
    (home / "browser").write_text('#!/bin/sh\nprintf %s "$1" > "$HOME/opened"\n')
    (home / "browser").chmod(0o755)
    done = report("--open", BROWSER="./browser")
    assert (done.returncode, done.stderr) == (0, "")
    assert (home / "opened").read_text() == (ROOT / "reports/index.html").as_uri()


def test_open_without_browser_prints_path(report: Report, home: Path) -> None:
    (home / "bin").mkdir()
    for name in ("sh", "unshare", "mount", "git", "ssh"):
        (home / "bin" / name).symlink_to(shutil.which(name) or "/nowhere")
    done = report("--open", PATH=str(home / "bin"), DISPLAY="", WAYLAND_DISPLAY="", BROWSER="")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"no browser was found; the report is {ROOT / 'reports/index.html'}\n"
    assert (home / "reports/index.html").is_file()
