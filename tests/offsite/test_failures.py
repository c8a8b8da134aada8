"""Each problem of the repository has an error of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from demo_backups.errors import (
    BackupsError,
    LocalDiskError,
    MissingToolError,
    OffsiteError,
    RepositoryDamagedError,
    RepositoryFullError,
    RepositoryLockedError,
    RepositoryMissingError,
    RepositoryPasswordError,
    RepositoryUnreachableError,
)
from demo_backups.offsite.failures import explain, find_damaged_key, read_messages, shorten_output

from ..helpers.offsite import OffsiteSetup, flip_byte
from ..helpers.programs import shadow_program
from ..helpers.tasks import FLAGS, INV, assert_exit


def test_lost_password_has_own_error(machine: OffsiteSetup) -> None:
    machine.add_copy()
    machine.password_file.write_text("another password\n")
    result, _ = machine.store()
    assert isinstance(result.series[0].error, RepositoryPasswordError)
    assert result.exit_code == 2
    (record,) = machine.offsite_records()
    assert record["checks"] == []
    machine.password_file.unlink()
    result, _ = machine.store()
    assert isinstance(result.series[0].error, RepositoryPasswordError)


def test_full_repository_has_own_error(machine: OffsiteSetup, private_mounts: list[str]) -> None:
    machine.add_copy(size=3_000_000)
    mount = 'mount -t tmpfs -o size=2m tmpfs "$0"; cp -r "$1/." "$0"; shift; exec "$@"'
    target = machine.folder / "mount"
    target.mkdir()
    words = [*private_mounts, "sh", "-euc", mount, str(target), str(machine.repository), str(INV)]
    words += [*FLAGS, "offsite"]
    environment = machine.environment | {"INVOKE_OFFSITE_REPOSITORY": str(target)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert "is full" in assert_exit(done, 1)
    (record,) = machine.offsite_records()
    assert record["checks"] == []
    assert "goroutine" not in done.stderr


@pytest.mark.parametrize("name", ["keys", "config", "snapshots", "index"])
def test_flipped_byte_has_own_error(machine: OffsiteSetup, name: str) -> None:
    machine.add_copy()
    machine.store()
    shutil.rmtree(Path(machine.environment["HOME"]) / ".cache", ignore_errors=True)
    path = machine.repository / name
    flip_byte(next(iter(path.iterdir())) if path.is_dir() else path)
    with pytest.raises(RepositoryDamagedError):
        machine.check()


def test_odd_files_among_keys_are_not_read(tmp_path: Path) -> None:
    """Who can write to the repository can put a link to an endless file there, or a pipe, which would be waited for."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/a").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "keys/b")
    assert find_damaged_key(tmp_path) == tmp_path / "keys/a"
    (tmp_path / "keys/a").unlink()
    assert find_damaged_key(tmp_path) == tmp_path / "keys/b"


def test_missing_repository_has_own_error(machine: OffsiteSetup) -> None:
    machine.add_copy()
    machine.change_offsite(repository=str(machine.folder / "nothing"))
    result, _ = machine.store()
    assert isinstance(result.series[0].error, RepositoryMissingError)
    assert not (machine.folder / "nothing").exists()


def test_unreachable_repository_is_not_missing(machine: OffsiteSetup) -> None:
    machine.add_copy()
    machine.change_offsite(repository="sftp://127.0.0.1:1//repository")
    result, _ = machine.store()
    assert isinstance(result.series[0].error, RepositoryUnreachableError)
    assert result.exit_code == 3


@pytest.mark.parametrize("body", ["echo restic 0.9.6 compiled", "echo what", "exit 1"], ids=["old", "other", "broken"])
def test_unusable_restic_is_reported(machine: OffsiteSetup, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    shadow_program(machine.folder / "bin", "restic", body, monkeypatch)
    with pytest.raises(MissingToolError):
        machine.stored()


def test_missing_restic_is_reported(machine: OffsiteSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(machine.folder))
    with pytest.raises(MissingToolError):
        machine.stored()


# As restic 0.14 and 0.19 print it, for repositories that the tests do not have.
OUTPUTS = {
    "rest": (
        'Fatal: unable to open config file: client.Head: Head "http://u:***@h:1/config": dial tcp 127.0.0.1:1: '
        "connect: connection refused\nIs there a repository at the following location?\nrest:http://u:***@h:1/",
        1,
        RepositoryUnreachableError,
    ),
    "host key": (
        "subprocess ssh: Host key verification failed.\nFatal: unable to open repository at sftp:h:/x: unable to start "
        "the sftp session, error: EOF",
        1,
        RepositoryUnreachableError,
    ),
    "forbidden": ("Fatal: unable to open config file: Stat: Access Denied.", 1, RepositoryUnreachableError),
    "missing bucket": (
        "Fatal: repository does not exist: unable to open config",
        10,
        RepositoryMissingError,
    ),
    "quota": ("Fatal: unable to save snapshot: write /r/data/1f: disk quota exceeded", 1, RepositoryFullError),
    "sftp": ('Fatal: unable to save snapshot: sftp: "Failure" (SSH_FX_FAILURE)', 1, RepositoryFullError),
    "temporary": (
        "Fatal: unable to save snapshot: Write: write /tmp/restic-temp-pack-3230365772: no space left on device",
        1,
        LocalDiskError,
    ),
    "damaged lock": ("Fatal: LoadRaw(<lock/aaaa>): invalid data returned", 1, RepositoryLockedError),
    "locked": ('{"message_type":"exit_error","code":11,"message":"unable to create lock"}', 11, RepositoryLockedError),
    "unreachable during check": (
        "Load(<data/7c7ac3c9bc>, 30, 0) failed: connection reset by peer\nFatal: repository contains errors",
        1,
        RepositoryUnreachableError,
    ),
    "format": ("Fatal: unsupported repository version", 1, MissingToolError),
    "other": ("Fatal: something", 1, OffsiteError),
}


@pytest.mark.parametrize(("output", "status", "kind"), OUTPUTS.values(), ids=OUTPUTS)
def test_cause_is_found_in_output(output: str, status: int, kind: type[BackupsError]) -> None:
    assert type(explain("action", status, output, str)) is kind


def test_messages_are_read_from_json() -> None:
    lines = [
        '{"message_type":"status","percent_done":0}',
        '{"message_type":"error","error":{"message":"failed to save"},"during":"archival","item":"/a/b.db"}',
        '{"message_type":"exit_error","code":1,"message":"Fatal: no"}',
        '{"message_type":"error","error":{"Op":"read","Err":21},"item":"/a"}',
        "[" * 3 + "{",
        "{" * 100_000,
        "plain\ttext",
        "\tgithub.com/restic/restic/internal/backend/local/local.go:170",
        "[0:01] 50.00%  1 / 2 snapshots",
    ]
    messages = read_messages("\n".join(lines)).splitlines()
    assert messages[:3] == ["failed to save /a/b.db", "Fatal: no", "/a"]
    assert messages[-1] == "plain\ttext"
    assert len(shorten_output("\n".join(map(str, range(1000)))).splitlines()) < 20
    assert len(shorten_output("x" * 100_000)) < 1000
