"""Decide from the records whether there are off-site copies, and whether their repository is good.

Pure: no I/O, no clock. The repository itself is not read: that takes its password, and the time of its server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from ..records.record import REPOSITORY, OffsiteRecord, Record
from ..records.search import CHECK, OFFSITE, RESTORE, STORE, is_stored
from .record_judge import RecordJudge, Subject
from .state import Finding


def judge_offsite(judge: RecordJudge, every: float) -> list[Finding]:
    """Judge the last off-site copy, and the last check of the repository, of which a part is to be read as often."""
    judge = _of_current_repository(judge)
    copy = Subject(
        "offsite",
        OFFSITE,
        every,
        "off-site {} ago",
        "no off-site copy yet",
        noun="off-site copy",
        accept=is_stored,
        selects=lambda record: _action_of(record) in (STORE, RESTORE),
    )
    repository = Subject(
        "repository",
        OFFSITE,
        every,
        "off-site repository checked {} ago",
        "off-site repository never checked",
        noun="check of the off-site repository",
        selects=lambda record: _action_of(record) == CHECK,
        settles=settle_parts,
    )
    # A repository may have the copies of several hosts: a check is about all of them.
    of_repository = replace(judge, host=None, database=REPOSITORY)
    return [judge.decide(copy), of_repository.decide(repository)]


def settle_parts(later: Sequence[Record], failed: Record) -> bool:
    """Tell whether later checks have read without a fault what a failed one had read.

    That is the same part, or all parts of another division. Where a check failed before it had read a part, the
    structure was at fault, which every check reads.
    """
    if not isinstance(failed, OffsiteRecord) or failed.details.part is None:
        return bool(later)
    read: dict[int, set[int]] = {}
    for record in later:
        if isinstance(record, OffsiteRecord) and record.details.part and record.details.parts:
            read.setdefault(record.details.parts, set()).add(record.details.part)
    if failed.details.part in read.get(failed.details.parts or 0, ()):
        return True
    return any(found.issuperset(range(1, parts + 1)) for parts, found in read.items())


def _of_current_repository(judge: RecordJudge) -> RecordJudge:
    """Leave out the records of repositories other than the one in which a copy was stored last.

    So a repository that was replaced does not count. Where none was stored, it is that of the newest record.
    """
    records = judge.records
    known = [record for record in records.valid if _repository_of(record)]
    dated = [record for record in known if datetime.fromisoformat(record.when) <= judge.now]
    dated = [record for record in dated if _action_of(record) == STORE] or dated
    newest = max(dated, key=lambda record: datetime.fromisoformat(record.when), default=None)
    if newest is None:
        return judge
    current = _repository_of(newest)
    valid = tuple(record for record in records.valid if _repository_of(record) in (None, current))
    return replace(judge, records=replace(records, valid=valid))


def _action_of(record: Record) -> str | None:
    return record.details.action if isinstance(record, OffsiteRecord) else None


def _repository_of(record: Record) -> str | None:
    return record.details.repository if isinstance(record, OffsiteRecord) else None
