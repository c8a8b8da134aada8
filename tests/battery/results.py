"""The results of the battery: one line of JSON for each try, appended in one write."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .framework import FAILED, PASSED, Result

COUNTED = (PASSED, FAILED)


def append(path: Path, result: Result) -> None:
    """Append a result, in one write: several processes append to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(result.as_json()).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if _is_cut(descriptor):
            line = b"\n" + line
        if os.write(descriptor, line) != len(line):
            raise OSError(f"{path} takes no more: the disk is full")
    finally:
        os.close(descriptor)


def _is_cut(descriptor: int) -> bool:
    """Tell whether the last line has no end: a process was killed while it wrote."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def read(path: Path) -> list[dict[str, Any]]:
    """Read the results; a line that was cut is left out. The same try counts once, as it has ended the last time."""
    found: dict[tuple[int, int, str], dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            result = json.loads(line)
        except ValueError:
            continue
        found[result["seed"], result["number"], result["fault"]] = result
    return list(found.values())


def numbers(results: Iterable[dict[str, Any]], seed: int) -> set[int]:
    """Return the numbers of the tries of a seed that have a result."""
    return {result["number"] for result in results if result["seed"] == seed}


def count(results: Iterable[dict[str, Any]], seed: int) -> int:
    """Return how many tries of a seed have hit."""
    return sum(result["seed"] == seed and result["outcome"] in COUNTED for result in results)
