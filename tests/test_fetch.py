"""`inv fetch`: what it downloads, resumes, refuses and leaves."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from demo_backups.errors import COULD_NOT_LOOK, FAILED, INTERRUPTED, WRONG_INPUT
from demo_backups.project import ROOT

from .helpers.copies import hash_of, hidden_names, make_large_backup
from .helpers.databases import damage_pages, execute
from .helpers.faults import install_program
from .helpers.processes import wait_for_end, wait_until
from .helpers.programs import link_programs, set_login_shell
from .helpers.tasks import INV, DemoServer, assert_exit, assert_success, read_json

OLDER, NAME = "backup_2026-01-01_00-00-00.db", "backup_2026-01-02_00-00-00.db"
HOLD = f".fetch.{NAME}"
PART = f".{NAME}.part"
# A program that finds holds of every age.
FIND_ANY_AGE = r"""
for argument; do
  shift
  if [ "$argument" = "+1440" ]; then argument=-1440; fi
  set -- "$@" "$argument"
done
exec /usr/bin/find "$@"
"""


@pytest.fixture
def backup(demo_server: DemoServer) -> Path:
    return make_large_backup(demo_server.backups, NAME)


@pytest.fixture
def folder(home: Path) -> Path:
    """The directory of the copies of the server."""
    return home / "copies/rehearsal"


def assert_copy(folder: Path, backup: Path) -> None:
    """Check that a copy is complete, private, and has the time of the backup, and that nothing else was left."""
    copy = folder / NAME
    assert hash_of(copy) == hash_of(backup)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert copy.stat().st_mtime_ns == backup.stat().st_mtime_ns
    assert hidden_names(folder) == []
    assert ".fetch" not in "".join(path.name for path in backup.parent.iterdir())


def leave_partial(demo_server: DemoServer, folder: Path, **variables: str) -> Path:
    """Fetch at a low rate until a part is here, then press Ctrl-C; return the partial file."""
    task = demo_server.start("fetch", "--limit", "200kB", "--no-compress", **variables)
    part = folder / PART
    wait_until(lambda: part.exists() and part.stat().st_size > 100_000, "a part of the copy")
    os.killpg(task.pid, signal.SIGINT)
    done = wait_for_end(task)
    assert_exit(done, INTERRUPTED, f"--backup {NAME}")
    return part


def test_newest_backup_is_fetched(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    shutil.copy2(demo_server.source, demo_server.backups / OLDER)
    os.utime(demo_server.backups / OLDER, (1, 1))
    result = read_json(demo_server.inv("fetch", "--json"))
    assert_copy(folder, backup)
    assert result.pop("seconds") > 0
    assert 2**20 < result.pop("sent_bytes") < backup.stat().st_size
    assert result == {
        "host": "rehearsal",
        "database": "index",
        "backup": str(backup),
        "file": str(folder / NAME),
        "bytes": backup.stat().st_size,
        "sha256": hash_of(backup),
        "resumed_from": 0,
        "verified": True,
    }
    (record,) = demo_server.records()
    assert (record["kind"], record["exit_status"], record["backup"]) == ("fetch", 0, str(backup))
    assert record["details"]["verified"] is True
    assert [check["passed"] for check in record["checks"]] == [True, True, True]
    for directory in (folder, folder.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.usefixtures("backup")
def test_named_backup_goes_to_directory(demo_server: DemoServer, tmp_path: Path) -> None:
    older = make_large_backup(demo_server.backups, OLDER)
    for backup, name in ((OLDER, "by name"), (str(older), "by path")):
        assert_success(demo_server.inv("fetch", "--backup", backup, "--to", str(tmp_path / name)))
        assert hash_of(tmp_path / name / OLDER) == hash_of(older)


def test_same_copy_is_not_fetched_again(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    assert_success(demo_server.inv("fetch"))
    before = (folder / NAME).stat()
    result = read_json(demo_server.inv("fetch", "--json"))
    assert (result["sent_bytes"], result["verified"], result["sha256"]) == (0, True, hash_of(backup))
    assert (folder / NAME).stat().st_mtime_ns == before.st_mtime_ns
    assert_copy(folder, backup)


@pytest.mark.parametrize("make", [lambda path: path.write_bytes(b"other"), lambda path: path.symlink_to("nowhere")])
def test_other_file_is_never_replaced(
    demo_server: DemoServer, backup: Path, folder: Path, make: Callable[[Path], object]
) -> None:
    folder.mkdir(parents=True)
    make(folder / NAME)
    before = (folder / NAME).lstat()
    assert_exit(demo_server.inv("fetch"), FAILED, "it is not replaced")
    assert (folder / NAME).lstat() == before
    assert hidden_names(backup.parent) == []


def test_equal_size_with_other_content_is_refused(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(bytes(backup.stat().st_size))
    assert_exit(demo_server.inv("fetch"), FAILED, "it is not replaced")


def test_dry_run_changes_nothing(demo_server: DemoServer, backup: Path, home: Path) -> None:
    printed = assert_success(demo_server.inv("fetch", "--dry-run"))
    assert str(backup) in printed
    assert not (home / "copies").exists()
    assert demo_server.names() == [NAME]
    assert demo_server.records() == []


# --- what is resumed ------------------------------------------------------------------------------------------------


def test_interrupted_fetch_is_resumed(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    part = leave_partial(demo_server, folder)
    size = part.stat().st_size
    assert hidden_names(backup.parent) == [HOLD]
    result = read_json(demo_server.inv("fetch", "--json", "--no-compress"))
    assert result["resumed_from"] == size
    assert result["sent_bytes"] == backup.stat().st_size - size
    assert_copy(folder, backup)


def test_command_to_continue_has_same_flags(demo_server: DemoServer, backup: Path, tmp_path: Path) -> None:
    folder = tmp_path / "disk of mine"
    task = demo_server.start("fetch", "--to", str(folder), "--limit", "200kB", "--no-compress")
    wait_until(lambda: (folder / PART).exists() and (folder / PART).stat().st_size > 100_000, "a part of the copy")
    os.killpg(task.pid, signal.SIGINT)
    command = re.search(r"to continue: \./inv (.*)", assert_exit(wait_for_end(task), INTERRUPTED, "to continue"))
    assert command
    arguments = shlex.split(command[1])
    assert "--no-compress" in arguments
    assert "200kB" in arguments
    arguments[arguments.index("200kB")] = "1GB"
    assert read_json(demo_server.inv(*arguments, "--json"))["resumed_from"] > 0
    assert_copy(folder, backup)


def test_deleted_backup_is_fetched_from_its_hold(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    part = leave_partial(demo_server, folder)
    size, expected = part.stat().st_size, hash_of(backup)
    backup.unlink()
    result = read_json(demo_server.inv("fetch", "--backup", NAME, "--json", "--no-compress"))
    assert (result["resumed_from"], result["sha256"]) == (size, expected)
    assert hash_of(folder / NAME) == expected
    assert list(backup.parent.iterdir()) == []


def damage_start(part: Path, backup: Path) -> None:
    with part.open("r+b") as file:
        file.write(b"damaged")


def extend_to_full_size(part: Path, backup: Path) -> None:
    with part.open("r+b") as file:
        file.truncate(backup.stat().st_size)


def extend_too_far(part: Path, backup: Path) -> None:
    with part.open("r+b") as file:
        file.truncate(backup.stat().st_size + 1)


@pytest.mark.parametrize(
    ("damage", "flag"),
    [
        (damage_start, "--no-compress"),
        (extend_to_full_size, "--no-compress"),
        (extend_too_far, "--no-compress"),
        (damage_start, "--json"),
    ],
)
def test_wrong_partial_file_is_restarted(
    demo_server: DemoServer, backup: Path, folder: Path, damage: Callable[[Path, Path], None], flag: str
) -> None:
    damage(leave_partial(demo_server, folder), backup)
    assert_success_or_notes(demo_server, "fetch", flag)
    assert_copy(folder, backup)


def assert_success_or_notes(demo_server: DemoServer, *arguments: str) -> None:
    """Check that a task succeeded; with --json it prints notes on standard error."""
    done = demo_server.inv(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_part_of_other_backup_is_not_continued(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    leave_partial(demo_server, folder)
    backup.unlink()
    (backup.parent / HOLD).unlink()
    os.utime(make_large_backup(backup.parent, NAME))
    result = read_json(demo_server.inv("fetch", "--json", "--no-compress"))
    assert (result["resumed_from"], result["sent_bytes"]) == (0, backup.stat().st_size)
    assert_copy(folder, backup)


def test_complete_part_is_only_checked(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    """A fetch that was killed before it gave the copy its name."""
    part = leave_partial(demo_server, folder)
    part.write_bytes(backup.read_bytes())
    result = read_json(demo_server.inv("fetch", "--json"))
    assert (result["sent_bytes"], result["resumed_from"]) == (0, backup.stat().st_size)
    assert_copy(folder, backup)


def test_interrupted_fetch_of_other_backup_is_mentioned(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    leave_partial(demo_server, folder)
    newer = "backup_2026-01-03_00-00-00.db"
    shutil.copy(backup, backup.parent / newer)
    printed = assert_success(demo_server.inv("fetch"))
    assert f"a fetch of {NAME} was interrupted" in printed
    assert (folder / newer).exists()


def test_two_fetches_do_not_mix(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    first = demo_server.start("fetch", "--limit", "200kB", "--no-compress")
    wait_until(lambda: (folder / PART).exists() and (folder / PART).stat().st_size, "a part of the copy")
    assert_exit(demo_server.inv("fetch"), FAILED, f"another task is writing {NAME}")
    assert wait_for_end(first).returncode == 0
    assert_copy(folder, backup)


def test_hold_of_running_fetch_is_not_removed(demo_server: DemoServer, tmp_path: Path) -> None:
    """Two maintainers fetch the same backup; the first one to end must not take the hold of the other."""
    backup = make_large_backup(demo_server.backups, NAME, megabytes=24)  # more than is sent ahead
    part = tmp_path / "slow" / PART
    slow = demo_server.start("fetch", "--limit", "50kB", "--no-compress", "--to", str(part.parent))
    wait_until(lambda: part.exists() and part.stat().st_size, "a part of the copy")
    assert_success(demo_server.inv("fetch", "--to", str(tmp_path / "fast")))
    assert hidden_names(backup.parent) == [HOLD]
    backup.unlink()
    os.killpg(slow.pid, signal.SIGINT)
    assert wait_for_end(slow).returncode == INTERRUPTED
    assert_success(demo_server.inv("fetch", "--backup", NAME, "--to", str(part.parent)))
    assert list(backup.parent.iterdir()) == []


# --- what is never published ----------------------------------------------------------------------------------------


def test_damaged_backup_is_not_published(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    damage_pages(backup)
    stderr = assert_exit(demo_server.inv("fetch"), FAILED, "is not a good backup", "integrity")
    assert str(folder / PART) in stderr
    assert not (folder / NAME).exists()
    assert hidden_names(backup.parent) == []
    (record,) = demo_server.records()
    assert (record["exit_status"], record["details"]["verified"]) == (FAILED, False)
    sent = record["details"]["sent_bytes"]
    result = read_json(demo_server.inv("fetch", "--json"), FAILED)
    assert result["exit_code"] == FAILED
    assert demo_server.records()[-1]["details"]["sent_bytes"] == 0 < sent


def test_backup_without_row_is_not_published(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    execute(backup, "DELETE FROM torrust_torrents")
    assert_exit(demo_server.inv("fetch"), FAILED, "the query returned no row")
    assert not (folder / NAME).exists()


def test_check_that_cannot_be_made_is_no_pass(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    query = "SELECT missing_function(1)"
    result = read_json(demo_server.inv("fetch", "--json", INVOKE_DATABASES_INDEX_QUERY=query), COULD_NOT_LOOK)
    assert result["verified"] is None
    assert hash_of(folder / NAME) == hash_of(backup)


@pytest.mark.parametrize("flags", [[], ["--no-compress"]])
def test_other_bytes_than_on_host_are_refused(
    demo_server: DemoServer, backup: Path, folder: Path, flags: list[str]
) -> None:
    # Other commands, such as those of jobs, have a file as an argument.
    zeros = f"exec head -c {backup.stat().st_size} /dev/zero"
    install_program(demo_server, "tail", f'[ $# != 2 ] || {zeros}; exec {shutil.which("tail")} "$@"')
    assert_exit(demo_server.inv("fetch", *flags), FAILED, "the SHA-256 of what was received is not that of")
    assert hidden_names(folder) == [f"{PART}", f"{PART}.json"]
    assert (folder / PART).stat().st_size == 0
    assert not (folder / NAME).exists()


@pytest.mark.parametrize(
    ("program", "body"),
    [("stat", "echo garbage"), ("sha256sum", "echo garbage"), ("sha256sum", "exit 1"), ("stat", "exit 0")],
)
@pytest.mark.usefixtures("backup")
def test_unreadable_answer_is_not_a_hash(demo_server: DemoServer, folder: Path, program: str, body: str) -> None:
    place = shutil.which(program)
    # Other commands, such as those of the permissions, get the real program.
    script = f'case "$*" in "" | *"%.9Y"*) {body} ;; *) exec {place} "$@" ;; esac'
    install_program(demo_server, program, script)
    assert_exit(demo_server.inv("fetch"), COULD_NOT_LOOK)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["missing", "directory", "link", "with journal"])
def test_what_is_no_finished_backup_is_refused(demo_server: DemoServer, backup: Path, kind: str) -> None:
    path = backup.parent / "backup_2026-01-05_00-00-00.db"
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(NAME)
    elif kind == "with journal":
        shutil.copy(backup, path)
        path.with_name(f"{path.name}-journal").touch()
    assert_exit(demo_server.inv("fetch", "--backup", path.name), FAILED, path.name)
    assert hidden_names(backup.parent) == []


def test_without_backups_nothing_is_fetched(demo_server: DemoServer) -> None:
    assert_exit(demo_server.inv("fetch"), FAILED, "there is no backup of the index database")


# --- this machine ---------------------------------------------------------------------------------------------------


def test_planted_link_is_refused(demo_server: DemoServer, backup: Path, folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    (folder / PART).symlink_to(target)
    assert_exit(demo_server.inv("fetch"), FAILED, "cannot be used")
    assert target.read_bytes() == b"precious"
    assert hidden_names(backup.parent) == [HOLD]  # for the next try


def test_directory_without_permission_is_refused(demo_server: DemoServer, backup: Path) -> None:
    result = demo_server.inv("fetch", "--to", "/proc")  # root cannot create files there either
    assert_exit(result, FAILED, "another directory")
    assert "rm -r" not in result.stdout + result.stderr


def test_directory_writable_by_others_is_refused(demo_server: DemoServer, backup: Path, tmp_path: Path) -> None:
    place = tmp_path / "shared"
    place.mkdir()
    place.chmod(0o777)
    assert_exit(demo_server.inv("fetch", "--to", str(place)), FAILED, "others can write to it")
    assert list(place.iterdir()) == []
    assert hidden_names(backup.parent) == []


@pytest.mark.parametrize("limit", ["", "fast", "-1", "10", "0"])
def test_wrong_limit_is_refused(demo_server: DemoServer, limit: str) -> None:
    assert_exit(demo_server.inv("fetch", f"--limit={limit}"), WRONG_INPUT, "is not a rate")


def test_missing_sqlite_is_noticed_before(demo_server: DemoServer, backup: Path, tmp_path: Path) -> None:
    programs = link_programs(tmp_path / "programs", "sqlite3")
    done = demo_server.inv("fetch", PATH=str(programs))
    assert_exit(done, COULD_NOT_LOOK, "sqlite3 is not installed on this machine")
    assert hidden_names(backup.parent) == []


def test_lack_of_space_is_noticed_before(
    demo_server: DemoServer, backup: Path, private_mounts: list[str], tmp_path: Path
) -> None:
    place = tmp_path / "small"
    place.mkdir(mode=0o700)
    done = fetch_to_small_disk(demo_server, private_mounts, place, "size=500k")
    assert_exit(done, FAILED, "the backup needs", "--to DIR")


def test_full_disk_keeps_what_arrived(
    demo_server: DemoServer, backup: Path, private_mounts: list[str], tmp_path: Path
) -> None:
    """The disk is filled during the download; the next fetch continues."""
    place = tmp_path / "small"
    place.mkdir(mode=0o700)
    fill = f"(until [ -s {place / PART} ]; do sleep 0.01; done; cat /dev/zero > {place / 'fill'}) 2>/dev/null & "
    check = f"; code=$?; wait; rm {place / 'fill'}; stat -c %s {place / PART} >&2; [ ! -e {place / NAME} ] || exit 99; "
    script = f'{fill} "$@" --limit 300kB --no-compress {check} "$@" || exit 98; exit $code'
    done = fetch_to_small_disk(demo_server, private_mounts, place, "size=1500k", script)
    assert_exit(done, FAILED, "No space left on device", "it continues with what is here")


def fetch_to_small_disk(
    demo_server: DemoServer, private_mounts: list[str], place: Path, options: str, script: str = '"$@"'
) -> subprocess.CompletedProcess[str]:
    """Fetch to a directory that has a small disk of its own."""
    mount = f"mount -t tmpfs -o {options},mode=700 tmpfs {place}"
    task = [str(INV), "--search-root", str(ROOT), "fetch", "--to", str(place)]
    return subprocess.run(
        [*private_mounts, "sh", "-uc", f"{mount} || exit 97; {script}", "sh", *task],
        env=demo_server.environment,
        capture_output=True,
        text=True,
        check=False,
    )


# --- the host -------------------------------------------------------------------------------------------------------


def test_greeting_is_not_part_of_the_copy(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    set_login_shell(demo_server, 'echo Welcome; echo Welcome >&2; exec /bin/sh "$@"')
    assert_success(demo_server.inv("fetch"))
    assert_copy(folder, backup)


def test_host_without_zstd_sends_plain(demo_server: DemoServer, backup: Path, folder: Path, tmp_path: Path) -> None:
    programs = link_programs(tmp_path / "programs", "zstd")
    demo_server.server.environment["PATH"] = str(programs)
    result = read_json(demo_server.inv("fetch", "--json"))
    assert result["sent_bytes"] == backup.stat().st_size
    assert_copy(folder, backup)


def test_machine_without_zstandard_gets_plain(
    demo_server: DemoServer, backup: Path, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "zstandard.py").write_text("raise ImportError\n")
    result = read_json(demo_server.inv("fetch", "--json", PYTHONPATH=str(tmp_path)))
    assert result["sent_bytes"] == backup.stat().st_size
    assert_copy(folder, backup)


def test_hash_is_computed_once(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    log = demo_server.server.folder / "hashes"
    install_program(demo_server, "sha256sum", f'echo >> {log}; exec {shutil.which("sha256sum")} "$@"')
    leave_partial(demo_server, folder)
    assert_success(demo_server.inv("fetch"))
    assert log.read_text() == "\n"
    os.utime(backup, (1, 1))
    assert_success(demo_server.inv("fetch"))
    assert log.read_text() == "\n\n"


def test_host_with_full_disk_is_fetched_from(demo_server: DemoServer, backup: Path, folder: Path) -> None:
    """The state of the hash job cannot be written: the hash is computed over the connection."""
    install_program(demo_server, "mkdir", "echo 'mkdir: No space left on device' >&2; exit 1")
    printed = assert_success(demo_server.inv("fetch"))
    assert "computed over this connection" in printed
    assert_copy(folder, backup)


@pytest.mark.parametrize("message", ["Operation not permitted", "Read-only file system"])
def test_backup_that_cannot_be_held_is_fetched(
    demo_server: DemoServer, backup: Path, folder: Path, message: str
) -> None:
    install_program(demo_server, "ln", f"echo 'ln: {message}' >&2; exit 1")
    printed = assert_success(demo_server.inv("fetch"))
    assert "cannot be held" in printed
    assert message in printed
    assert_copy(folder, backup)


def test_stale_hold_is_removed(demo_server: DemoServer, backup: Path) -> None:
    """Age is the time of the last change of the inode, which no test can set: the limit is lowered."""
    stale = backup.parent / f".fetch.{OLDER}"
    stale.write_bytes(b"left by a fetch that nobody continued")
    recent = backup.parent / ".fetch.backup_2026-01-04_00-00-00.db"
    recent.touch()
    assert_success(demo_server.inv("fetch", "--to", str(backup.parent.parent / "first")))
    assert stale.exists()
    assert recent.exists()
    install_program(demo_server, "find", FIND_ANY_AGE)
    assert_success(demo_server.inv("fetch"))
    assert not stale.exists()


def test_local_host_is_fetched_from(demo_server: DemoServer, backup: Path, home: Path) -> None:
    assert_success(demo_server.inv("fetch", "--host", "local"))
    assert hash_of(home / "copies/local" / NAME) == hash_of(backup)
