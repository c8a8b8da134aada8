"""The task as a user calls it: its output, and how it is interrupted and killed."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import pytest

from demo_backups.errors import RepositoryExistsError, SettingsError
from demo_backups.offsite.result import State
from demo_backups.ui.console import make_console
from demo_backups.workflows.offsite import initialize
from demo_backups.workflows.offsite_command import OffsiteOptions, run_offsite

from ..helpers.offsite import FIRST, RESTIC, OffsiteSetup
from ..helpers.processes import wait_for_end, wait_until
from ..helpers.programs import write_program
from ..helpers.tasks import assert_exit, read_json


def make_slow_restic(machine: OffsiteSetup) -> dict[str, str]:
    """Return the environment in which restic writes 50 KiB a second; it names its process in a file."""
    folder = machine.folder / "slow"
    folder.mkdir()
    body = f'[[ " $* " != *" backup "* ]] || echo $$ > {machine.folder}/pid; exec {RESTIC} --limit-upload=50 "$@"'
    write_program(folder / "restic", f"#!/bin/bash\n{body}\n")
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def wait_for_upload(machine: OffsiteSetup) -> int:
    """Wait until restic writes data; return its process."""
    data = machine.repository / "data"
    wait_until(lambda: any(path.is_file() for path in data.rglob("*")), "data in the repository")
    return int((machine.folder / "pid").read_text())


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_repository_is_created_once(machine: OffsiteSetup) -> None:
    out = make_console(io.StringIO())
    with pytest.raises(RepositoryExistsError):
        initialize(machine.settings, out)
    machine.change_offsite(repository=str(machine.folder / "new"))
    assert initialize(machine.settings, out, dry_run=True).id is None
    assert not (machine.folder / "new").exists()
    created = initialize(machine.settings, out)
    assert created.id
    assert (machine.folder / "new" / "config").exists()


def test_json_and_dry_run_of_task(machine: OffsiteSetup) -> None:
    machine.add_copy()
    shown = read_json(machine.inv("--dry-run", "--json"))
    assert [backup["state"] for backup in shown["backups"]] == ["would be stored", "no copy", "no copy"]
    assert shown["backups"][0]["backup"] == FIRST
    assert machine.stored() == []
    assert machine.offsite_records() == []
    stored = read_json(machine.inv("--json"))
    assert stored["backups"][0]["backup"] == FIRST
    (listed,) = read_json(machine.inv("--list", "--json"))["backups"]
    assert listed.items() <= (stored["backups"][0] | {"host": "demo"}).items()


def test_dry_run_shows_no_secret(machine: OffsiteSetup) -> None:
    machine.add_copy()
    machine.change_offsite(repository="rest:http://user:geheim@127.0.0.1:1/")
    output = io.StringIO()
    run_offsite(machine.settings, OffsiteOptions(dry_run=True), make_console(output))
    assert "--stdin-filename=/demo/index.db" in output.getvalue()
    assert "geheim" not in output.getvalue()


def test_dry_run_removes_nothing_without_policy(machine: OffsiteSetup) -> None:
    machine.add_copy()
    machine.keep(daily=0)
    output = io.StringIO()
    run_offsite(machine.settings, OffsiteOptions(dry_run=True), make_console(output))
    assert "forget" not in output.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        OffsiteOptions(init=True, check=True),
        OffsiteOptions(database="index", restore=FIRST),
        OffsiteOptions(database="x"),
    ],
    ids=["two actions", "database", "unknown"],
)
def test_contradicting_flags_are_refused(machine: OffsiteSetup, options: OffsiteOptions) -> None:
    with pytest.raises(SettingsError):
        run_offsite(machine.settings, options, make_console(io.StringIO()))


def test_ctrl_c_ends_restic_and_its_lock(machine: OffsiteSetup) -> None:
    machine.add_copy(size=5_000_000)
    process = machine.start(**make_slow_restic(machine))
    pid = wait_for_upload(machine)
    os.killpg(process.pid, signal.SIGINT)
    assert_exit(wait_for_end(process), 130)
    assert not is_running(pid)
    assert machine.locks() == []
    (record,) = machine.offsite_records()
    assert record["exit_status"] == 130
    result, _ = machine.store()
    assert result.series[0].state is State.STORED


def test_next_call_works_after_kill(machine: OffsiteSetup) -> None:
    machine.add_copy(size=5_000_000)
    process = machine.start(**make_slow_restic(machine))
    pid = wait_for_upload(machine)
    process.kill()
    process.communicate()
    result, _ = machine.store()
    assert result.series[0].state is State.STORED
    assert machine.stored_names() == [FIRST]
    wait_until(lambda: not is_running(pid), "restic to notice that nobody reads its output")
