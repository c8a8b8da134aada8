"""`./inv test`: which checks it runs, and its result."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from demo_backups import development
from demo_backups.development import find_shell_scripts, list_checks, run_checks
from demo_backups.errors import SettingsError
from demo_backups.project import ROOT


def replace_checks(monkeypatch: pytest.MonkeyPatch, *commands: list[str]) -> None:
    """Let `run_checks` run these commands."""
    monkeypatch.setattr(development, "list_checks", lambda root, pytest_arguments: list(commands))


def test_shell_scripts_are_found_everywhere(tmp_path: Path) -> None:
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
    assert find_shell_scripts(tmp_path) == sorted(scripts)


def test_shell_scripts_of_checkout_are_found() -> None:
    listed = subprocess.run(
        ["git", "-C", ROOT, "grep", "-lE", "^#!.*[/ ](ba)?sh$", "--", ":!tests", ":!docs"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    assert {"inv", ".ci/run", "share/bin/index-db-backup.sh"} <= set(find_shell_scripts(ROOT))
    assert set(listed) <= set(find_shell_scripts(ROOT))


def test_checks_continue_after_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    replace_checks(monkeypatch, ["false"], ["pwd"])
    assert run_checks(tmp_path, "") == 1
    assert capfd.readouterr().out == f"$ false\n$ pwd\n{tmp_path}\nFAILED: false\n"


def test_passed_checks_return_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_checks(monkeypatch, ["true"], ["true"])
    assert run_checks(tmp_path, "") == 0


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_missing_program_fails_only_in_ci(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], ci: str, code: int
) -> None:
    monkeypatch.setenv("CI", ci)
    replace_checks(monkeypatch, ["shellcheck-is-missing"])
    assert run_checks(tmp_path, "") == code
    assert "shellcheck-is-missing is not installed" in capfd.readouterr().out


def test_missing_test_tools_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(development, "find_spec", lambda name: None if name == "pytest" else object())
    with pytest.raises(SettingsError, match="not installed: pytest"):
        run_checks(tmp_path, "")


def test_pytest_arguments_are_split_like_shell_words() -> None:
    assert list_checks(ROOT, "-k 'a or b' --lf")[-1][-3:] == ["-k", "a or b", "--lf"]


def test_unbalanced_quote_for_pytest_is_refused() -> None:
    with pytest.raises(SettingsError, match="closing quotation"):
        list_checks(ROOT, "-k 'a")
