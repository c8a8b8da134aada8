"""Backup scripts of this checkout: those that could not run on a server are refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from demo_backups.backup.script import Script, read_script
from demo_backups.errors import ScriptError
from demo_backups.settings.model import Settings

from ..helpers.constants import SCRIPT


def write_script(path: Path, content: bytes, mode: int = 0o755) -> Path:
    """Write a script, executable or not."""
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_scripts_of_this_checkout_are_accepted() -> None:
    for path in SCRIPT.parent.glob("*.sh"):
        assert read_script(path).content == path.read_bytes()


@pytest.mark.parametrize(
    ("content", "mode", "keyword", "command"),
    [
        (b"#!/bin/bash\r\nls\r\n", 0o755, "CRLF", "sed -i 's/\\r$//' "),
        (b"#!/bin/bash\nls\nls\r\n", 0o755, "CRLF", "sed -i"),
        (b"#!/bin/bash\nls\n", 0o644, "executable", "chmod +x "),
        (b"#!/bin/bash\nif true; then\n", 0o755, "syntax", ""),
        (b"#!/bin/bash\necho 'no end\n", 0o755, "syntax", ""),
    ],
    ids=["CRLF", "one CR", "mode", "if", "quote"],
)
def test_unusable_script_is_refused(tmp_path: Path, content: bytes, mode: int, keyword: str, command: str) -> None:
    path = write_script(tmp_path / "it's a script.sh", content, mode)
    with pytest.raises(ScriptError, match=keyword) as caught:
        read_script(path)
    assert str(path) in caught.value.action
    assert caught.value.advice.startswith(command)


def test_advice_repairs_script(tmp_path: Path) -> None:
    path = write_script(tmp_path / "it's a script.sh", b"#!/bin/sh\r\nls\r\n", 0o644)
    for _ in range(2):
        with pytest.raises(ScriptError) as caught:
            read_script(path)
        subprocess.run(caught.value.advice, shell=True, check=True)
    assert read_script(path).content == b"#!/bin/sh\nls\n"


def test_syntax_error_is_that_of_bash(tmp_path: Path) -> None:
    path = write_script(tmp_path / "x.sh", b"if true; then\n")
    with pytest.raises(ScriptError) as caught:
        read_script(path)
    assert "syntax error: unexpected end of file" in caught.value.output


@pytest.mark.parametrize("is_folder", [False, True])
def test_missing_script_is_refused(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "x.sh"
    if is_folder:
        path.mkdir()
    with pytest.raises(ScriptError, match=str(path)):
        read_script(path)


def test_reading_does_not_run_script(tmp_path: Path) -> None:
    read_script(write_script(tmp_path / "x.sh", f"touch '{tmp_path}/ran'\n".encode()))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "default"),
    [
        ('BACKUP_DIR="${BACKUP_DIR:-/home/x/back ups}"', "/home/x/back ups"),
        ('a=1\nBACKUP_DIR="${BACKUP_DIR:-/b}"\nBACKUP_DIR="$(realpath "$BACKUP_DIR")"', "/b"),
        ('BACKUP_DIR="${BACKUP_DIR:-}"', ""),
        ("", None),
        ('# BACKUP_DIR="${BACKUP_DIR:-/b}"', None),
        ('OLD_BACKUP_DIR="${BACKUP_DIR:-/b}"', None),
        ('BACKUP_DIR="/b"', None),
        ('BACKUP_DIR="${BACKUP_DIR:-$HOME/${X}}"', None),
        ('BACKUP_DIR="${DATABASE_FILE:-/b}"', None),
    ],
)
def test_default_of_variable(content: str, default: str | None) -> None:
    assert Script(Path("x"), content.encode()).default("BACKUP_DIR") == default


def test_defaults_of_index_script_match_settings(project_settings: Settings) -> None:
    script = read_script(SCRIPT)
    database = project_settings.database("index")
    assert script.default("DATABASE_FILE") == str(database.source)
    assert script.default("BACKUP_DIR") == str(database.backup_dir)
