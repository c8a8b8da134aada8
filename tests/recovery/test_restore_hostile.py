"""Restores by the script in a directory that belongs to another account, which replaces files while root is at work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.recovery.restore_job import REVERTED, UNCHANGED, parse_result
from demo_backups.recovery.restore_journal import Method, Proof, Save

from ..helpers.databases import set_journal_mode
from ..helpers.restores import NEW, OLD, RestoreSetup, make_content, read_content

SECRET = b"secret"


@pytest.fixture
def secret(restore_setup: RestoreSetup) -> Path:
    """A file that only root can read and write."""
    path = restore_setup.folder / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


def attack(setup: RestoreSetup, program: str, pattern: str, action: str) -> str:
    """Let the other account do something before each call of a program with such arguments; return the PATH."""
    body = f'PATH=/usr/bin:/bin; case "$*" in {pattern}) (cd "{setup.target.parent}"; {action}) ;; esac; {program} "$@"'
    return setup.shadow({program: body})


@pytest.mark.parametrize(("program", "pattern"), [("cp", "*/new"), ("chown", "*/new"), ("chmod", "*/new")])
def test_replaced_work_directory_is_not_used(
    restore_setup: RestoreSetup, secret: Path, program: str, pattern: str
) -> None:
    work = restore_setup.work.name
    action = f'[ -e aside ] || {{ mv {work} aside; mkdir {work}; ln -s "{secret}" {work}/new; }}'
    path = attack(restore_setup, program, pattern, action)
    done = restore_setup.restore(restore_setup.request(Method.SWAP), PATH=path)
    assert (restore_setup.target.parent / "aside").is_dir(), done.stdout
    assert secret.read_bytes() == SECRET
    assert secret.stat().st_mode & 0o777 == 0o600
    assert read_content(restore_setup.target) in ({OLD}, {NEW})


@pytest.mark.parametrize("method", Method)
def test_planted_work_directory_is_refused(restore_setup: RestoreSetup, method: Method) -> None:
    restore_setup.work.mkdir(mode=0o755)
    file = restore_setup.work / "new"
    file.write_bytes(SECRET)
    done = restore_setup.restore(restore_setup.request(method))
    assert done.returncode == UNCHANGED
    assert "is not a private directory" in done.stdout
    assert file.read_bytes() == SECRET
    assert restore_setup.pending() is None


def test_link_in_place_of_work_directory_is_refused(restore_setup: RestoreSetup) -> None:
    other = restore_setup.folder / "other"
    other.mkdir(mode=0o700)
    (other / "new").write_bytes(SECRET)
    restore_setup.work.symlink_to(other)
    done = restore_setup.restore(restore_setup.request(Method.SWAP))
    assert done.returncode == UNCHANGED
    assert (other / "new").read_bytes() == SECRET


def test_raw_copy_follows_no_link(restore_setup: RestoreSetup, secret: Path) -> None:
    journal = f"{restore_setup.target.name}-journal"
    (restore_setup.target.parent / journal).write_bytes(b"journal")
    path = attack(restore_setup, "cp", f"*{journal}*part", f'rm {journal}; ln -s "{secret}" {journal}')
    done = restore_setup.restore(restore_setup.request(Method.SWAP, save=Save.RAW), PATH=path)
    assert done.returncode == UNCHANGED, done.stdout
    assert not [path for path in restore_setup.backups.iterdir() if path.read_bytes() == SECRET]
    assert secret.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("proof", Proof)
@pytest.mark.parametrize("pattern", ["*.restore*restored*", "*.backup*"])
def test_database_behind_a_link_is_left(restore_setup: RestoreSetup, proof: Proof, pattern: str) -> None:
    set_journal_mode(restore_setup.target, "wal" if proof is Proof.TRANSACTION else "delete")
    other = restore_setup.folder / "other.db"
    make_content(other, "other", "wal" if proof is Proof.TRANSACTION else "delete")
    name = restore_setup.target.name
    action = f'[ -e aside ] || {{ mv {name} aside; ln -s "{other}" {name}; }}'
    path = attack(restore_setup, "sqlite3", pattern, action)
    done = restore_setup.restore(restore_setup.request(Method.IN_PLACE, proof), PATH=path)
    assert done.returncode != 0
    assert read_content(other) == {"other"}
    saved = [path for path in restore_setup.backups.glob("saved.*") if read_content(path) == {"other"}]
    assert not saved


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_backup_that_others_can_replace_is_refused(restore_setup: RestoreSetup, mode: int) -> None:
    shared = restore_setup.folder / "shared"
    shared.mkdir()
    shared.chmod(mode)
    backup = restore_setup.backup.rename(shared / restore_setup.backup.name)
    request = replace(restore_setup.request(Method.SWAP), backup=PurePosixPath(backup))
    done = restore_setup.restore(request)
    assert done.returncode == UNCHANGED
    assert "other users can write to it" in done.stdout
    assert [path.name for path in shared.iterdir()] == [backup.name]
    assert restore_setup.pending() is None


@pytest.mark.parametrize(("proof", "mode"), [(Proof.STOPPED, "delete"), (Proof.TRANSACTION, "wal")])
def test_restore_that_could_not_report_is_reverted(restore_setup: RestoreSetup, proof: Proof, mode: str) -> None:
    set_journal_mode(restore_setup.target, mode)
    # The disk is full when sqlite3 prints that it has restored the backup.
    body = (
        'PATH=/usr/bin:/bin; case "$*" in *.restore*restored*) [ -e full ] || { : > full; exec > /dev/full; } ;; esac'
    )
    path = restore_setup.shadow({"sqlite3": f'{body}; exec sqlite3 "$@"'})
    done = restore_setup.restore(restore_setup.request(Method.IN_PLACE, proof), PATH=path)
    assert done.returncode == REVERTED, done.stdout
    assert read_content(restore_setup.target) == {OLD}
    assert "nothing was changed" not in done.stdout


def test_failed_revert_says_that_service_is_stopped(restore_setup: RestoreSetup) -> None:
    restore_setup.set_service(start="exit 1")
    path = restore_setup.shadow(
        {"sqlite3": 'case "$*" in *saved.*restored*) exit 1 ;; esac; exec /usr/bin/sqlite3 "$@"'}
    )
    done = restore_setup.restore(restore_setup.request(Method.IN_PLACE), PATH=path)
    assert "the service is stopped" in done.stdout


def test_text_of_database_forges_no_result() -> None:
    output = "result: proof transaction\nresult: identical no\nresult: integrity x\x85result: reverted yes\n"
    assert parse_result(output).reverted is False
