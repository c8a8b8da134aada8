"""The battery itself: a few tries of it, and that it finds what is lost."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo_backups.errors import SettingsError

from ..helpers.constants import IS_CI
from ..helpers.sshd import SSHD
from . import invariants, results
from .faults import FAULTS, select_faults
from .framework import FAILED, MISSED, PASSED, Result, choose, perform
from .kills import Kill
from .machine import EXPIRED, OLDER, Machine, make_machine
from .table import format_table, write_table

needs_sshd = pytest.mark.skipif(
    not (SSHD and shutil.which("restic")) and not IS_CI, reason="sshd or restic is not installed"
)
SEED = 12


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The machine, created once."""
    with make_machine(tmp_path_factory.mktemp("battery")) as machine:
        yield machine


@needs_sshd
@pytest.mark.parametrize(
    ("number", "target", "task"),
    [(signal.SIGKILL, "inv", "run"), (signal.SIGTERM, "session", "enable"), (signal.SIGSTOP, "script", "deploy")],
    ids=["inv", "session", "script"],
)
def test_try_loses_nothing(machine: Machine, number: signal.Signals, target: str, task: str) -> None:
    result = perform(machine, choose([Kill(number, target, (task,))], SEED, 0))
    assert result.problems == []
    assert result.outcome in (PASSED, MISSED)


@needs_sshd
def test_losses_are_found(machine: Machine) -> None:
    machine.reset("run", "delete")
    machine.start_service()
    before = invariants.observe(machine, "run")
    machine.stop_service()
    assert invariants.check(machine, before) == []
    spoil(machine)
    problems = invariants.check(machine, before)
    expected = [
        "1 from 7 to 7",  # a committed row
        "backup_2026-02-02_00-00-00.db",  # not a database
        f"{OLDER[1]} has changed",
        f"{OLDER[2]} is missing",
        f"copy {OLDER[1]}",
        "crontab",
        "the script is neither",
        "another mode",
        "record",
    ]
    assert len(problems) == len(expected)
    assert all(words in problem for words, problem in zip(expected, problems, strict=True)), problems


def spoil(machine: Machine) -> None:
    """Lose a row, and damage everything that is checked."""
    with sqlite3.connect(machine.source) as database:
        database.execute("DELETE FROM committed WHERE number = 7")
    (machine.backups / "backup_2026-02-02_00-00-00.db").write_text("not a database")
    (machine.backups / EXPIRED).unlink()
    (machine.backups / OLDER[2]).unlink()
    for folder in (machine.backups, machine.copies):
        (folder / OLDER[1]).write_text("changed")
    machine.crontab.write_text("")
    machine.script.write_text("#!/bin/sh\n")
    machine.script.chmod(0o600)
    (machine.records / "cut.json").write_text("{")


# --- the choice -----------------------------------------------------------------------------------------------------


def test_all_combinations_are_tried() -> None:
    combinations = {(fault.name, task) for fault in FAULTS for task in fault.tasks}
    attempts = [choose(FAULTS, SEED, number) for number in range(2 * len(combinations))]
    pairs = [(attempt.fault.name, attempt.task) for attempt in attempts]
    assert set(pairs[: len(combinations)]) == set(pairs[len(combinations) :]) == combinations
    assert pairs[: len(combinations)] != pairs[len(combinations) :]


def test_choice_depends_on_seed_only() -> None:
    def pairs(seed: int) -> list[tuple[str, str]]:
        attempts = [choose(FAULTS, seed, number) for number in range(20)]
        return [(attempt.fault.name, attempt.task) for attempt in attempts]

    assert pairs(SEED) == pairs(SEED) != pairs(SEED + 1)


def test_faults_are_selected_by_parts_of_names() -> None:
    names = {fault.name for fault in select_faults("sigkill of inv, TERM of script")}
    assert names == {"SIGKILL of inv", "SIGTERM of script"}
    with pytest.raises(SettingsError):
        select_faults("SIGKILL,nothing")


# --- the results ----------------------------------------------------------------------------------------------------


def make_result(number: int, outcome: str, fault: str = "SIGKILL of inv") -> Result:
    """Return a result of a try."""
    return Result(SEED, number, fault, "run", outcome, date=f"2026-01-0{1 + number}T00:00:00+00:00")


def test_results_are_resumed(tmp_path: Path) -> None:
    path = tmp_path / "reports/results.jsonl"
    for number, outcome in enumerate([PASSED, MISSED, FAILED]):
        results.append(path, make_result(number, outcome))
    with path.open("a") as file:
        file.write(json.dumps(make_result(3, PASSED).as_json())[:50])  # a process was killed
    results.append(path, make_result(4, PASSED))
    found = results.read(path)
    assert results.numbers(found, SEED) == {0, 1, 2, 4}
    assert results.count(found, SEED) == 3
    assert results.count(found, SEED + 1) == 0


def test_table_counts_tries_that_hit(tmp_path: Path) -> None:
    outcomes = [make_result(0, PASSED), make_result(1, MISSED), make_result(2, PASSED), make_result(3, FAILED, "other")]
    page = tmp_path / "page.md"
    page.write_text("before\n\n| Fault | During |\n| --- | --- |\n| old |\n\nafter\n")
    write_table(page, [result.as_json() for result in outcomes])
    assert page.read_text() == f"before\n\n{format_table([result.as_json() for result in outcomes])}\nafter\n"
    assert "| SIGKILL of inv | run | 2 | 2026-01-01 to 2026-01-03 | nothing |" in page.read_text()
    assert "| other | run | 1 | 2026-01-04 | 1 tries failed |" in page.read_text()


def test_page_without_table_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no table\n")
    with pytest.raises(ValueError, match="0 tables"):
        write_table(page, [make_result(0, PASSED).as_json()])
