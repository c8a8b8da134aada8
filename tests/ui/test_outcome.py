"""How outcomes, marks and verdicts are described and styled."""

from __future__ import annotations

import pytest

from demo_backups.backup.preflight import Verdict
from demo_backups.records.check import Outcome
from demo_backups.records.record import OffsiteDetails, Record, new_record
from demo_backups.release.plan import Mark
from demo_backups.ui.outcome import MARKS, RESULTS, VERDICTS, Tone, describe_kind, describe_outcome

from ..helpers.report_samples import checks, run, verification


def test_every_value_has_a_tone() -> None:
    assert set(MARKS) == {mark.value for mark in Mark}
    assert set(VERDICTS) == {verdict.value for verdict in Verdict}
    assert set(RESULTS) == set(Outcome)


def test_action_of_offsite_is_named() -> None:
    record = new_record("offsite", "demo", "", details=OffsiteDetails(action="check"))
    assert describe_kind(record) == "offsite check"
    assert describe_kind(new_record("offsite", "demo", "index")) == "offsite"
    assert describe_kind(new_record("run", "demo", "index")) == "run"


def test_symbols_are_distinct() -> None:
    for table in (MARKS, RESULTS):
        assert len({symbol for symbol, *_ in table.values()}) == len(table)


@pytest.mark.parametrize(
    ("record", "part", "tone"),
    [
        (run(), "done", Tone.GOOD),
        (run(exit_status=23), "exit status 23", Tone.BAD),
        (run(exit_status=3), "", Tone.WARNING),
        (run(exit_status=130), "interrupted", Tone.WARNING),
        (run(exit_status=None), "unknown", Tone.WARNING),
        (verification(), "all 5 checks", Tone.GOOD),
        (verification(checks=checks(integrity=False), exit_status=1), "1 of 5 checks failed: integrity", Tone.BAD),
        (verification(checks=checks(size=False, query=None)), "1 of 5 checks failed: size", Tone.BAD),
        (verification(checks=checks(size=None, query=None), exit_status=3), "2 of 5 checks", Tone.WARNING),
        (verification(checks=checks(size=False), exit_status=0), "failed: size", Tone.BAD),
        (verification(exit_status=1), "exit status 1", Tone.BAD),  # a rehearsal whose writer failed
    ],
)
def test_record_is_described_by_its_end(record: Record, part: str, tone: Tone) -> None:
    text, result = describe_outcome(record)
    assert part in text
    assert result is tone
