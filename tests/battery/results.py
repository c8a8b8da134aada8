"""The results of the battery: one line of JSON for each try, appended and flushed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .framework import Result


def append(path: Path, result: Result) -> None:
    """Append a result: in one write, since several processes append to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(result.as_json()).encode() + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError(f"{path} takes no more: the disk is full")
    finally:
        os.close(descriptor)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Read the results; the line of a process that was killed while it wrote is left out."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def tried(results: Iterable[dict[str, Any]], seed: int) -> set[int]:
    """Return the numbers of the tries of a seed that have a result."""
    return {result["number"] for result in results if result["seed"] == seed}
