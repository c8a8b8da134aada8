"""The table of docs/reliability.md, from the results of the battery."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .framework import FAILED
from .results import COUNTED

HEADER = ("Fault", "During", "Tries", "Date", "Lost")
TABLE = re.compile(r"^\| Fault \| During \|.*\n(\|.*\n)+", re.MULTILINE)


def format_table(results: Sequence[dict[str, Any]]) -> str:
    """Return the table: a line for each fault, and one for all of them. Tries that did not hit are left out."""
    hits = [result for result in results if result["outcome"] in COUNTED]
    faults = list(dict.fromkeys(result["fault"] for result in sorted(hits, key=lambda result: str(result["fault"]))))
    rows = [_row(fault, [result for result in hits if result["fault"] == fault]) for fault in faults]
    lines = [HEADER, tuple("---" for _ in HEADER), *rows, _row("all", hits)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _row(fault: str, hits: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    tasks = sorted({str(result["task"]) for result in hits})
    dates = sorted({str(result["date"])[:10] for result in hits})
    failed = sum(result["outcome"] == FAILED for result in hits)
    days = " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "-"
    lost = f"{failed} tries failed" if failed else "nothing"
    return fault, ", ".join(tasks), f"{len(hits):,}", days, lost


def write_table(page: Path, results: Sequence[dict[str, Any]]) -> None:
    """Put the table in place of the one in a page; raises ValueError if the page has none."""
    text = page.read_text()
    changed, number = TABLE.subn(lambda match: format_table(results), text)
    if number != 1:
        raise ValueError(f"{page} has {number} tables of faults")
    page.write_text(changed)
