"""Reading and replacing the crontab of a host, by a crontab command of the test's own."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.backup.cron_tables import read_crontab
from demo_backups.backup.crontab import add_job, end_last_line, remove_lines
from demo_backups.backup.crontab_install import check_log_writable, install_command, install_crontab
from demo_backups.errors import CouldNotLookError, StepError
from demo_backups.remote.files import send
from demo_backups.remote.host import Host

from ..helpers.constants import NOBODY, root_only
from ..helpers.crontab import FakeCrontab, install_fake_crontab
from ..helpers.crontab_texts import JOB, PIECES
from ..helpers.processes import wait_until


@pytest.fixture
def crontab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCrontab:
    """The crontab command."""
    return install_fake_crontab(tmp_path / "home of root", monkeypatch)


# --- replaced -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [None, "", "A=1\n", *PIECES[-8:], "A=1\r\n\\n %s ' \" $HOME `id`\n"])
def test_crontab_is_replaced_and_restored(local_host: Host, crontab: FakeCrontab, old: str | None) -> None:
    crontab.set(old)
    assert read_crontab(local_host) == old
    new = add_job(old or "", JOB)
    install_crontab(local_host, old, new)
    assert crontab.get() == new
    assert crontab.previous.read_bytes() == (old or "").encode("utf-8", "surrogateescape")

    install_crontab(local_host, new, remove_lines(new, [2], JOB.marker) or None)
    assert crontab.get() == (end_last_line(old or "") or None)
    assert crontab.previous.read_bytes() == new.encode("utf-8", "surrogateescape")
    assert list(crontab.state.iterdir()) == [crontab.previous]


def test_previous_crontab_is_private(local_host: Host, crontab: FakeCrontab) -> None:
    crontab.set("PASSWORD=x\n")
    install_crontab(local_host, "PASSWORD=x\n", JOB.block + "PASSWORD=x\n")
    assert crontab.state.stat().st_mode & 0o777 == 0o700
    assert crontab.previous.stat().st_mode & 0o777 == 0o600


def test_large_crontab_is_replaced(local_host: Host, crontab: FakeCrontab) -> None:
    old = "".join(f"{number % 60} * * * * /usr/bin/job {number}\n" for number in range(11_000))
    assert len(old) > 300_000  # more than one argument of a command can have
    crontab.set(old)
    install_crontab(local_host, old, add_job(old, JOB))
    assert crontab.get() == JOB.block + old


def test_crontab_is_in_no_argument(local_host: Host, crontab: FakeCrontab) -> None:
    old = "# before\nPASSWORD=a secret\n"
    crontab.set(old)
    waiting = crontab.folder / "waiting"
    released = crontab.folder / "released"
    crontab.replace_install(
        f": > '{waiting}'; until [ -e '{released}' ]; do sleep 0.02; done; cat \"$1\" > '{crontab.table}'"
    )
    with ThreadPoolExecutor(1) as pool:
        installing = pool.submit(install_crontab, local_host, old, add_job(old, JOB))
        try:
            wait_until(waiting.exists, "the call of crontab")
            arguments = [read_arguments(process) for process in Path("/proc").glob("[0-9]*")]
        finally:
            released.touch()
        installing.result()
    assert crontab.get() == JOB.block + old
    assert any(b"crontab.new" in text for text in arguments)  # the processes of the installation were found
    assert not [text for text in arguments if b"a secret" in text]
    assert not [command for command in local_host.commands if "a secret" in command]


def read_arguments(process: Path) -> bytes:
    """Read the arguments of a process; none if it has ended."""
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


# --- not replaced ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [None, "A=1\n"])
def test_crontab_changed_since_reading_is_kept(local_host: Host, crontab: FakeCrontab, old: str | None) -> None:
    crontab.set("B=2\n")
    with pytest.raises(StepError):
        install_crontab(local_host, old, JOB.block)
    assert crontab.get() == "B=2\n"
    assert list(crontab.state.iterdir()) == []


def test_rejected_crontab_keeps_old_one(local_host: Host, crontab: FakeCrontab) -> None:
    crontab.set("A=1\n")
    crontab.replace_install("echo 'bad minute' >&2; exit 1")
    with pytest.raises(StepError) as caught:
        install_crontab(local_host, "A=1\n", JOB.block + "A=1\n")
    assert caught.value.output == "bad minute"
    assert crontab.get() == "A=1\n"
    assert list(crontab.state.iterdir()) == [crontab.previous]


def test_dropped_crontab_is_detected(local_host: Host, crontab: FakeCrontab) -> None:
    crontab.set("A=1\n")
    crontab.replace_install("exit 0")
    with pytest.raises(StepError) as caught:
        install_crontab(local_host, "A=1\n", JOB.block + "A=1\n")
    assert crontab.previous.name in caught.value.advice


def test_damaged_crontab_is_not_installed(local_host: Host, crontab: FakeCrontab) -> None:
    crontab.set("A=1\n")
    command = install_command("A=1\n", JOB.block + "A=1\n")
    with pytest.raises(StepError) as caught:
        send(local_host, "install the crontab", command, b"B=2\n")
    assert "damaged" in caught.value.output
    assert crontab.get() == "A=1\n"
    assert list(crontab.state.iterdir()) == []


def test_file_in_place_of_state_folder(local_host: Host, crontab: FakeCrontab) -> None:
    crontab.set("A=1\n")
    crontab.state.write_text("a file")
    with pytest.raises(StepError):
        install_crontab(local_host, "A=1\n", JOB.block)
    assert crontab.get() == "A=1\n"


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_writable_state_folder_is_refused(local_host: Host, crontab: FakeCrontab, mode: int) -> None:
    crontab.state.mkdir()
    crontab.state.chmod(mode)
    check_state_folder_refused(local_host, crontab)


@root_only
def test_state_folder_of_other_user_is_refused(local_host: Host, crontab: FakeCrontab) -> None:
    crontab.state.mkdir(0o755)
    os.chown(crontab.state, NOBODY, NOBODY)
    check_state_folder_refused(local_host, crontab)


def check_state_folder_refused(host: Host, crontab: FakeCrontab) -> None:
    """Check that the crontab is kept, and nothing is written to the state folder."""
    crontab.set("A=1\n")
    with pytest.raises(StepError) as caught:
        install_crontab(host, "A=1\n", JOB.block + "A=1\n")
    assert str(crontab.state) in caught.value.output
    assert crontab.get() == "A=1\n"
    assert list(crontab.state.iterdir()) == []


# --- read -----------------------------------------------------------------------------------------------------------


def test_missing_crontab_is_none(local_host: Host, crontab: FakeCrontab) -> None:
    crontab.replace_program("echo 'no crontab for somebody' >&2; exit 1")
    assert read_crontab(local_host) is None


@pytest.mark.parametrize(
    ("program", "keyword"),
    [
        ("echo 'You (nobody) are not allowed to use this program (crontab)' >&2; exit 1", "not allowed"),
        ("exit 1", "exit status 1"),
        ("exit 127", "install"),
    ],
)
def test_unreadable_crontab_is_an_error(local_host: Host, crontab: FakeCrontab, program: str, keyword: str) -> None:
    crontab.replace_program(program)
    with pytest.raises(CouldNotLookError) as caught:
        read_crontab(local_host)
    assert keyword in str(caught.value)


# --- the log --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", ["it's a log", "missing", "folder/log"])
def test_log_can_be_written(local_host: Host, tmp_path: Path, log: str) -> None:
    (tmp_path / "it's a log").touch()
    (tmp_path / "folder").mkdir()
    check_log_writable(local_host, PurePosixPath(tmp_path / log))


@pytest.mark.parametrize("log", ["folder", "missing/log", "it's a log/log"])
def test_unwritable_log_is_refused(local_host: Host, tmp_path: Path, log: str) -> None:
    (tmp_path / "it's a log").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(StepError, match="log") as caught:
        check_log_writable(local_host, PurePosixPath(tmp_path / log))
    assert "cron_log" in caught.value.advice
