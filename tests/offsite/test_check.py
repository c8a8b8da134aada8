"""Checks of the repository read all of its data, part after part, and find a flipped byte."""

from __future__ import annotations

import itertools

import pytest

from demo_backups.errors import CouldNotLookError, RepositoryDamagedError
from demo_backups.offsite.check import find_next_part
from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import OffsiteDetails, Record

from ..helpers.offsite import RESTIC, OffsiteSetup
from ..helpers.programs import shadow_program
from ..helpers.records import make_record

PASSED, FAILED = ([Check("repository", outcome, "")] for outcome in (Outcome.PASSED, Outcome.FAILED))


def check_twice(machine: OffsiteSetup) -> None:
    for _ in range(2):
        machine.check()


def test_calls_read_one_part_after_the_other(machine: OffsiteSetup) -> None:
    machine.add_copy()
    machine.store()
    assert [machine.check().part for _ in range(3)] == [1, 2, 1]
    (_, *records) = machine.offsite_records()
    assert [record["database"] for record in records] == ["", "", ""]
    assert records[0]["details"]["repository"] in machine.restic("cat", "config")


def test_flipped_byte_is_found_by_all_parts(machine: OffsiteSetup) -> None:
    machine.add_copy()
    machine.store()
    machine.damage_data()
    with pytest.raises(RepositoryDamagedError):
        check_twice(machine)
    part = machine.offsite_records()[-1]["details"]["part"]
    assert [found["passed"] for found in machine.offsite_records()[-1]["checks"]] == [False]
    with pytest.raises(RepositoryDamagedError):
        machine.check()
    assert machine.offsite_records()[-1]["details"]["part"] == part


def test_check_without_result_is_no_pass(machine: OffsiteSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f'[[ " $* " == *" check "* ]] || exec {RESTIC} "$@"; {RESTIC} "$@" | head -n 3'
    shadow_program(machine.folder / "bin", "restic", body, monkeypatch)
    with pytest.raises(CouldNotLookError):
        machine.check()
    (record,) = machine.offsite_records()
    assert record["checks"] == []
    assert record["exit_status"] == 3


def make_check(part: int, parts: int = 10, repository: str = "a", checks: list[Check] = PASSED) -> Record:
    details = OffsiteDetails(action="check", repository=repository, part=part, parts=parts)
    return make_record("offsite", database="", checks=checks, exit_status=0, details=details)


@pytest.mark.parametrize(
    ("records", "part"),
    [
        ([], 1),
        ([make_check(1), make_check(2)], 3),
        ([make_check(10)], 1),
        ([make_check(4), make_check(5, checks=FAILED)], 5),
        ([make_check(4), make_check(7, repository="b")], 5),
        ([make_check(4), make_check(7, parts=12)], 5),
    ],
    ids=["first", "next", "last", "failed", "another repository", "another division"],
)
def test_next_part_follows_last_good_one(records: list[Record], part: int) -> None:
    assert find_next_part(records, "a", 10) == part


def test_ten_calls_read_everything() -> None:
    records: list[Record] = []
    for _ in itertools.repeat(None, 10):
        records.append(make_check(find_next_part(records, "a", 10)))
    assert [getattr(record.details, "part", None) for record in records] == list(range(1, 11))
