"""Where the password comes from, and that nobody else can read it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from demo_backups.errors import RepositoryPasswordError, SettingsError
from demo_backups.offsite.password import read_password
from demo_backups.settings.model import OffsiteSettings

from ..helpers.offsite import PASSWORD, RESTIC, OffsiteSetup
from ..helpers.programs import shadow_program


def make_settings(**values: str) -> OffsiteSettings:
    return OffsiteSettings.model_validate(
        {"repository": None, "password_file": None, "password_command": None, "check_parts": "10", "every": "7 d"}
        | values
    )


def make_file(folder: Path, content: bytes, mode: int = 0o600) -> str:
    path = folder / "password"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def test_password_is_read_as_restic_does(tmp_path: Path) -> None:
    assert read_password(make_settings(password_file=make_file(tmp_path, b" two words\r\n"))) == b"two words"
    assert read_password(make_settings(password_command="echo $((40 + 2)) | cat")) == b"42"


@pytest.mark.parametrize(
    ("content", "mode"),
    [(b"secret", 0o640), (b"secret", 0o604), (b"\n", 0o600), (b"x" * 5000, 0o600), (b"a\0b", 0o600)],
    ids=["group", "others", "empty", "long", "nul"],
)
def test_unusable_password_file_is_refused(tmp_path: Path, content: bytes, mode: int) -> None:
    with pytest.raises(RepositoryPasswordError) as caught:
        read_password(make_settings(password_file=make_file(tmp_path, content, mode)))
    assert "secret" not in str(caught.value)


def test_other_kinds_of_password_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("nothing", "pipe", "."):
        with pytest.raises(RepositoryPasswordError):
            read_password(make_settings(password_file=str(tmp_path / name)))


@pytest.mark.parametrize("command", ["echo secret; exit 3", "true", "head -c 9000 /dev/zero"])
def test_failed_password_command_is_an_error(command: str) -> None:
    with pytest.raises(RepositoryPasswordError) as caught:
        read_password(make_settings(password_command=command))
    assert "secret" not in str(caught.value)


def test_missing_password_setting_is_an_error() -> None:
    with pytest.raises(SettingsError):
        read_password(make_settings())


def test_only_restic_gets_the_password(machine: OffsiteSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PASSWORD", "PASSWORD_COMMAND", "REPOSITORY", "REPOSITORY_FILE"):
        monkeypatch.setenv(f"RESTIC_{name}", "of another repository")
    log = machine.folder / "log"
    body = f'tr "\\0" "\\n" < /proc/$$/environ >> {log}; echo "$@" >> {log}; exec {RESTIC} "$@"'
    shadow_program(machine.folder / "bin", "restic", body, monkeypatch)
    machine.add_copy()
    result, output = machine.store()
    assert result.exit_code == 0
    everything = log.read_text() + output + "".join(path.read_text() for path in machine.records.iterdir())
    assert "backup --json" in everything
    assert PASSWORD not in everything
