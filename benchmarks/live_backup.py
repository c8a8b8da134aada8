"""The benchmark: what may be asked of it, and how it is done: measured, shown as it comes, kept, and drawn."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measuring import AS_MANY_AS_IT_CAN, DEFAULT, FULL, METHODS, Grid, machine, measure, measure_verification
from showing import Row, draw, print_table, summarize

from demo_backups.errors import SettingsError

if TYPE_CHECKING:
    from rich.console import Console

LARGEST = 1e12  # bytes of a database that is made


def _words(text: str, separator: str = ",") -> list[str]:
    return [word.strip() for word in text.split(separator)]


PARSERS: dict[str, Callable[[str], Any]] = {
    "sizes": lambda text: tuple(1e9 * float(word) for word in _words(text)),
    "journals": lambda text: tuple({"wal": "wal", "delete": "delete"}[word] for word in _words(text)),
    "rates": lambda text: tuple(AS_MANY_AS_IT_CAN if word == "max" else float(word) for word in _words(text)),
    "methods": lambda text: tuple({name: name for name in METHODS}[word] for word in _words(text, ";")),
    "rounds": int,
}


def choose(full: bool, given: Mapping[str, str | None]) -> Grid:
    """Choose a grid, and change what was given, as lists with commas; sizes in GB, `max` for the highest rate.

    Raises SettingsError.
    """
    changed: dict[str, Any] = {}
    for name, text in given.items():
        if text is not None:
            try:
                changed[name] = PARSERS[name](text)
            except (ValueError, KeyError) as error:
                raise SettingsError(f"--{name} {text!r} cannot be measured", advice="see: inv --help bench") from error
    grid = replace(FULL if full else DEFAULT, **changed)
    sizes_fit = all(1e6 <= size <= LARGEST for size in grid.sizes)
    rates_fit = all(0 <= rate <= AS_MANY_AS_IT_CAN for rate in grid.rates)
    if not (sizes_fit and rates_fit and grid.rounds > 0):
        raise SettingsError("there is nothing to measure in that", advice="see: inv --help bench")
    return grid


def check_folder(flag: str, name: str) -> Path:
    """See that a folder can be written before the hour that is to end there; raises SettingsError."""
    if not (Path(name).is_dir() and os.access(name, os.W_OK)):
        raise SettingsError(f"--{flag} {name!r} is not a folder that can be written", advice="make it first")
    return Path(name)


def bench(grid: Grid, folder: Path, results: Path, picture: Path, out: Console) -> list[Row]:
    """Measure a grid, show it as it comes, keep the raw numbers and draw them; return the rows."""
    measured = []
    for each in measure(grid, folder):
        measured.append(each)
        out.print(
            f"{each.size / 1e9:g} GB {each.journal} {each.rate:g}/s {each.method}: {each.seconds:.2f} s, "
            f"status {each.status}, consistent: {each.consistent}, {each.failed_writes} writes failed",
            soft_wrap=True,
        )
    # Kept before more is measured: an hour's numbers are not lost with what comes after them.
    raw: dict[str, Any] = {
        "machine": machine(),
        "grid": asdict(grid),
        "measured": [asdict(each) for each in measured],
    }
    _write(results, raw)
    rows = summarize(measured)
    print_table(out, rows)
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, picture)
    verified = measure_verification(folder / "verification", max(grid.sizes))
    _write(results, raw | {"verification": verified})
    ratio = verified["inv verify"] / verified["integrity_check"]
    out.print(
        f"inv verify of {verified['size'] / 1e9:g} GB: {verified['inv verify']:.2f} s, integrity_check alone "
        f"{verified['integrity_check']:.2f} s, ratio {ratio:.2f}",
        soft_wrap=True,
    )
    return rows


def _write(results: Path, raw: dict[str, Any]) -> None:
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
