"""The project's own checks: what they look at, and what they make of a failure."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from demo_backups.checks import commands, run_checks, shell_scripts
from demo_backups.project import ROOT


def test_every_shell_script_is_checked_wherever_it_stands(tmp_path: Path) -> None:
    scripts = {
        "inv": "#!/usr/bin/env bash\n",
        ".ci/run": "#!/bin/bash -e\n",
        "share/bin/new.sh": "#!/bin/sh\n",
        "src/package/deep/crontab": "#!/usr/bin/env bash\n",
    }
    others = {
        "share/bin/tool.py": "#!/usr/bin/env python3\n",
        "share/crontab.conf": "# no script: bash\n",
        "src/empty": "",
        ".venv/bin/activate": "#!/bin/sh\n",
    }
    for name, first_line in (scripts | others).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(first_line)
    assert shell_scripts(tmp_path) == sorted(scripts)


def test_the_shell_scripts_of_this_checkout_are_found() -> None:
    listed = subprocess.run(
        ["git", "-C", ROOT, "grep", "-lE", "^#!.*[/ ](ba)?sh$", "--", ":!tests", ":!docs"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    assert {"inv", ".ci/run", "share/bin/index-db-backup.sh"} <= set(shell_scripts(ROOT))
    assert set(listed) <= set(shell_scripts(ROOT))


def test_all_checks_run_also_after_one_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("demo_backups.checks.commands", lambda root, pytest: [["false"], ["pwd"], ["echo", pytest]])
    assert run_checks(tmp_path, "-k x") == 1
    printed = capfd.readouterr().out
    assert f"\n{tmp_path}\n" in printed
    assert printed.endswith("-k x\nFAILED: false\n")


def test_all_checks_passed_is_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_backups.checks.commands", lambda root, pytest: [["true"], ["true"]])
    assert run_checks(tmp_path, "") == 0


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_a_tool_that_is_not_installed_fails_under_ci_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], ci: str, code: int
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr("demo_backups.checks.commands", lambda root, pytest: [["shellcheck-that-is-not-there"]])
    assert run_checks(tmp_path, "") == code
    assert "is not installed" in capfd.readouterr().out


def test_what_is_handed_to_pytest_is_split_as_a_shell_does() -> None:
    assert commands(ROOT, "-k 'a or b' --lf")[-1][-3:] == ["-k", "a or b", "--lf"]
