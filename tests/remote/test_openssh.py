"""Programs of the OpenSSH client: missing ones, slow ones and talkative ones."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from demo_backups.errors import WRONG_INPUT, CouldNotLookError, SettingsError
from demo_backups.remote import openssh
from demo_backups.remote.openssh import run_openssh

from ..helpers.host_keys import program, write


def test_output_and_exit_status_are_returned(tmp_path: Path) -> None:
    command = program(tmp_path, "echo out; echo error >&2; exit 7")
    result = run_openssh(command, host="demo")
    assert (result.returncode, result.stdout, result.stderr) == (7, "out\n", "error\n")


def test_missing_program_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="ssh-keygen is not installed") as caught:
        run_openssh("ssh-keygen", host="demo")
    assert "openssh-client" in caught.value.advice
    assert caught.value.exit_code == WRONG_INPUT


@pytest.mark.parametrize("script", ["exec sleep 600", "exec >&- 2>&-; exec sleep 600"])
def test_slow_program_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(openssh, "TIMEOUT", 0.3)
    started = time.monotonic()
    with pytest.raises(CouldNotLookError, match=r"did not finish within 0\.3 s"):
        run_openssh(program(tmp_path, script), host="demo")
    assert time.monotonic() - started < 60


def test_endless_output_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssh, "OUTPUT_LIMIT", 100_000)
    with pytest.raises(CouldNotLookError, match="printed more than 100000 bytes"):
        run_openssh(program(tmp_path, "exec yes"), host="demo")


def test_undecodable_output_is_returned(tmp_path: Path) -> None:
    file = write(tmp_path / "bytes", "")
    file.write_bytes(b"\xff\n")
    result = run_openssh(program(tmp_path, f"cat '{file}'; cat '{file}' >&2"), host="demo")
    assert result.stdout.encode("utf-8", "surrogateescape") == b"\xff\n"
    assert result.stderr == "\N{REPLACEMENT CHARACTER}\n"
