"""The programs that a backup script needs on a host."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from demo_backups.backup.deploy import (
    CONFIG_TOOLS,
    REQUIRED_TOOLS,
    list_tools,
    parse_missing_tools,
    probe_sqlite,
    require_tools,
)
from demo_backups.errors import CouldNotLookError
from demo_backups.remote.host import Host

from ..helpers.programs import link_programs, write_program


@pytest.mark.parametrize("missing", [("sqlite3",), ("bash",), ("flock", "realpath")])
def test_missing_programs_are_named(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    monkeypatch.setattr("demo_backups.backup.deploy.CRON_PATH", str(link_programs(tmp_path / "programs", *missing)))
    with pytest.raises(CouldNotLookError) as caught:
        require_tools(host)
    assert f"not installed, or not on cron's PATH: {', '.join(missing)}" in str(caught.value)
    assert "/usr/bin" in caught.value.advice


def test_program_on_other_path_is_named(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = link_programs(tmp_path / "programs", "sqlite3", "flock")
    monkeypatch.setattr("demo_backups.backup.deploy.CRON_PATH", str(programs))
    with pytest.raises(CouldNotLookError) as caught:
        require_tools(host)
    path = shutil.which("sqlite3")
    assert f"sqlite3 is {path} on the PATH of this login" in caught.value.output
    assert f"ln -s {path} /usr/bin/sqlite3" in caught.value.advice
    assert str(programs) in caught.value.advice


@pytest.mark.parametrize("output", ["sqlite3\n", "rm -rf\n", "\n", "other /usr/bin/other\n"])
def test_parse_missing_tools_rejects_other_output(output: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_missing_tools(output)


def test_missing_sqlite_is_not_too_old(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = link_programs(tmp_path / "programs", "sqlite3")
    monkeypatch.setattr("demo_backups.sqlite.command.CRON_PATH", str(programs))
    with pytest.raises(CouldNotLookError, match="not installed"):
        probe_sqlite(host)


def test_old_sqlite_is_refused_with_its_message(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = link_programs(tmp_path / "programs", "sqlite3")
    write_program(programs / "sqlite3", "#!/bin/sh\necho 'sqlite3: Error: unknown option: -readonly' >&2; exit 1\n")
    monkeypatch.setattr("demo_backups.sqlite.command.CRON_PATH", str(programs))
    with pytest.raises(CouldNotLookError) as caught:
        probe_sqlite(host)
    assert "unknown option: -readonly" in caught.value.output


def test_this_machine_has_all_programs(host: Host) -> None:
    require_tools(host)
    assert probe_sqlite(host).startswith("3.")


def test_tar_is_required_for_configuration(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_backups.backup.deploy.CRON_PATH", str(link_programs(tmp_path / "programs", "tar")))
    assert list_tools(()) == REQUIRED_TOOLS
    require_tools(host, list_tools(()))
    for tools in (CONFIG_TOOLS, list_tools((".env",))):
        with pytest.raises(CouldNotLookError, match="tar"):
            require_tools(host, tools)
