"""Check the repository: its structure, and one part of its data, the next one each time."""

from __future__ import annotations

from collections.abc import Iterable

from ..records.record import OffsiteRecord, Record
from ..records.search import CHECK, is_good
from .answers import parse_check
from .program import Restic


def find_next_part(records: Iterable[Record], repository: str, parts: int) -> int:
    """Return the part to read next: the one after the last that was read without error; from 1 on.

    `records` are the oldest first. Those of another repository, or of another number of parts, do not count.
    """
    last = 0
    for record in records:
        if isinstance(record, OffsiteRecord) and record.details.action == CHECK and is_good(record):
            details = record.details
            if details.repository == repository and details.parts == parts and details.part:
                last = details.part
    return last % parts + 1


def check_arguments(part: int, parts: int) -> list[str]:
    """Return the arguments of restic that check the structure and read one part of the data."""
    return ["check", f"--read-data-subset={part}/{parts}"]


def check_part(restic: Restic, part: int, parts: int) -> None:
    """Check the repository; raises RepositoryDamagedError and the other errors of restic, or CouldNotLookError."""
    restic.query("checking the off-site repository", parse_check, *check_arguments(part, parts))
