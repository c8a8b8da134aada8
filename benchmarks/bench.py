"""What `./inv bench` does: parse the grid, measure it, print each result, store the numbers and draw them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import offsite
import offsite_figures
import recovery
import recovery_figures
from measure import (
    COLD,
    DEFAULT,
    FULL,
    MAXIMUM_RATE,
    METHODS,
    WARM,
    Grid,
    describe_machine,
    measure_grid,
    measure_verification,
)
from memory_limit import NoMemoryLimitError
from render import Row, draw, format_service_table, print_figures, print_lines, print_table, summarize
from service_figures import summarize_service

from demo_backups.errors import SettingsError
from demo_backups.project import ROOT

if TYPE_CHECKING:
    from rich.console import Console

LARGEST = 1e12  # bytes of a database
JOURNALS = ("wal", "delete")


def _split(text: str, separator: str = ",") -> list[str]:
    return [word.strip() for word in text.split(separator)]


def _choose(word: str, choices: Container[str]) -> str:
    if word not in choices:
        raise ValueError(word)
    return word


PARSERS: dict[str, Callable[[str], Any]] = {
    "sizes": lambda text: tuple(1e9 * float(word) for word in _split(text)),
    "journals": lambda text: tuple(_choose(word, JOURNALS) for word in _split(text)),
    "rates": lambda text: tuple(MAXIMUM_RATE if word == "max" else float(word) for word in _split(text)),
    "methods": lambda text: tuple(_choose(word, METHODS) for word in _split(text, ";")),
    "caches": lambda text: tuple(_choose(word, (COLD, WARM)) for word in _split(text)),
    "memory": lambda text: 1e9 * float(text),
    "rounds": int,
}


def _parse_flags(flags: Mapping[str, str | None]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for name, text in flags.items():
        if text is not None:
            try:
                parsed[name] = PARSERS[name](text)
            except ValueError as error:
                raise SettingsError(f"--{name} {text!r} is not valid", advice="see: inv --help bench") from error
    return parsed


def parse_grid(full: bool, flags: Mapping[str, str | None]) -> Grid:
    """Return the default or the full grid, with the parts that flags replace.

    Flags are lists with commas (methods: semicolons), sizes in GB, `max` is the maximum rate. Raises SettingsError.
    """
    grid = replace(FULL if full else DEFAULT, **_parse_flags(flags))
    memory = () if grid.memory is None else (grid.memory,)
    _require_in_range((*grid.sizes, *memory), grid.rates, grid.rounds)
    return grid


def parse_scale(full: bool, flags: Mapping[str, str | None]) -> recovery.Scale:
    """Return the sizes of the figures of fetch and restore, with the parts that flags replace; raises SettingsError."""
    scale = recovery.FULL if full else recovery.SMALL
    parsed = _parse_flags(flags)
    sizes, rates = parsed.pop("sizes", (scale.fetch, scale.restore)), parsed.pop("rates", (scale.rate,))
    rounds = parsed.pop("rounds", scale.rounds)
    if parsed or len(sizes) != 2 or len(rates) != 1:
        raise SettingsError(
            "with --recovery: --sizes FETCH,RESTORE, --rates RATE and --rounds only", advice="see: inv --help bench"
        )
    _require_in_range(sizes, rates, rounds)
    (rate,) = rates
    return recovery.Scale(fetch=sizes[0], restore=sizes[1], rounds=rounds, rate=rate)


def parse_offsite_scale(full: bool, flags: Mapping[str, str | None]) -> offsite.Scale:
    """Return the sizes of the cost of off-site copies, with the parts that flags replace; raises SettingsError."""
    scale = offsite.FULL if full else offsite.SMALL
    methods = flags.get("methods")
    parsed = _parse_flags({name: text for name, text in flags.items() if name != "methods"})
    if not parsed.keys() <= {"sizes", "rounds"}:
        raise SettingsError("with --offsite: --sizes, --rounds and --methods only", advice="see: inv --help bench")
    scale = replace(scale, **parsed, methods=None if methods is None else tuple(_split(methods, ";")))
    _require_in_range(scale.sizes, (), scale.rounds)
    return scale


def _require_in_range(sizes: Sequence[float], rates: Sequence[float], rounds: int) -> None:
    sizes_fit = all(1e6 <= size <= LARGEST for size in sizes)
    rates_fit = all(0 <= rate <= MAXIMUM_RATE for rate in rates)
    if not (sizes_fit and rates_fit and rounds > 0):
        raise SettingsError("a size, a rate or the number of rounds is out of range", advice="see: inv --help bench")


def check_folder(flag: str, name: str) -> Path:
    """Check that a folder is writable before anything is measured; raises SettingsError."""
    if not (Path(name).is_dir() and os.access(name, os.W_OK)):
        raise SettingsError(f"--{flag} {name!r} is not a writable folder", advice="create it first")
    return Path(name)


def measure_to_files(
    full: bool, flags: Mapping[str, str | None], folder: str | None, out: str | None, console: Console
) -> None:
    """Measure a grid and write the numbers and the picture to the usual folders, or to `out`; raises SettingsError.

    The databases are created in `folder`, by default in the temporary folder.
    """
    grid = parse_grid(full, flags)
    results, pictures = (ROOT / "benchmarks", ROOT / "docs") if full else (ROOT / "reports", ROOT / "reports")
    if out is not None:
        results = pictures = check_folder("out", out)
    if folder is not None:
        check_folder("folder", folder)
    numbers, picture = results / "live_backup.json", pictures / "benchmarks.svg"
    with tempfile.TemporaryDirectory(prefix="demo-backups-", dir=folder) as name:
        try:
            bench(grid, Path(name), numbers, picture, console)
        except NoMemoryLimitError as error:
            raise SettingsError(f"--memory: {error}", advice="run it as root, or without --memory") from error
    console.print(f"results: {numbers}\npicture: {picture}", soft_wrap=True)


def measure_recovery_to_files(
    full: bool, flags: Mapping[str, str | None], folder: str | None, out: str | None, console: Console
) -> None:
    """Measure fetch and restore, and write the numbers to the usual folder, or to `out`; raises SettingsError."""
    scale = parse_scale(full, flags)
    results = ROOT / ("benchmarks" if full else "reports") if out is None else check_folder("out", out)
    if folder is not None:
        check_folder("folder", folder)
    with tempfile.TemporaryDirectory(prefix="demo-backups-", dir=folder) as name:
        bench_recovery(scale, Path(name), results / recovery.RESULTS.name, console)
    console.print(f"results: {results / recovery.RESULTS.name}", soft_wrap=True)


def measure_offsite_to_files(
    full: bool, flags: Mapping[str, str | None], folder: str | None, out: str | None, console: Console
) -> None:
    """Measure off-site copies, and write the numbers to the usual folder, or to `out`; raises SettingsError."""
    scale = parse_offsite_scale(full, flags)
    results = ROOT / ("benchmarks" if full else "reports") if out is None else check_folder("out", out)
    if folder is not None:
        check_folder("folder", folder)
    with tempfile.TemporaryDirectory(prefix="demo-backups-", dir=folder) as name:
        try:
            bench_offsite(scale, Path(name), results / offsite.RESULTS.name, console)
        except offsite.UnknownMethodError as error:
            raise SettingsError(f"--methods: {error}", advice="install the program, or leave the method out") from error
    console.print(f"results: {results / offsite.RESULTS.name}", soft_wrap=True)


def bench_offsite(scale: offsite.Scale, folder: Path, results: Path, out: Console) -> None:
    """Measure off-site copies in a folder, print each step, and store the numbers after each."""
    numbers = {"machine": describe_machine(), "scale": asdict(scale)}
    measured: list[dict[str, Any]] = []
    for step in offsite.measure_all(scale, folder):
        measured.append(asdict(step))
        _store(results, numbers | {"measured": measured})
        failure = f", exit {step.status}: {step.error}" if step.status else ""
        out.print(
            f"{step.size / 1e9:g} GB {step.method}: {step.step}: {step.seconds:.2f} s, {step.cpu:.2f} s of the CPU, "
            f"{step.stored / 1e6:.1f} MB stored{failure}",
            soft_wrap=True,
            markup=False,
        )
    print_lines(out, offsite_figures.format_table(measured))


def bench_recovery(scale: recovery.Scale, folder: Path, results: Path, out: Console) -> None:
    """Measure fetch and restore in a folder, print each figure, and store the numbers after each."""
    numbers = {"machine": describe_machine() | {"load": os.getloadavg()}, "scale": asdict(scale)}
    measured: dict[str, Any] = {}
    for name, raw in recovery.measure_all(scale, folder):
        measured[name] = raw
        _store(results, numbers | {"measured": measured, "load_at_end": os.getloadavg()})
        (figure,) = recovery_figures.summarize({name: raw})
        out.print(f"{figure.what}: {figure.measured}", soft_wrap=True, markup=False)
    print_figures(out, recovery_figures.summarize(measured))


def bench(grid: Grid, folder: Path, results: Path, picture: Path, out: Console) -> list[Row]:
    """Measure a grid in a folder, print each result, store the numbers and draw them; return the rows."""
    measurements = []
    numbers: dict[str, Any] = {"machine": describe_machine(), "grid": asdict(grid)}
    for measurement in measure_grid(grid, folder):
        measurements.append(measurement)
        numbers["measured"] = [asdict(copy) for copy in measurements]
        _store(results, numbers)  # after each, so that a failure does not lose the numbers of an hour
        out.print(
            f"{measurement.size / 1e9:g} GB {measurement.journal} {measurement.rate:g}/s {measurement.caches} "
            f"{measurement.method}: "
            f"{measurement.seconds:.2f} s, status {measurement.status}, consistent: {measurement.consistent}, "
            f"{measurement.failed_writes} writes failed, slowest write {measurement.slowest_write:.3f} s",
            soft_wrap=True,
        )
    rows = summarize(measurements)
    print_table(out, rows)
    print_lines(out, format_service_table(rows))
    if figures := summarize_service(rows):
        print_figures(out, figures)
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, picture)
    if "script" in grid.methods:
        _bench_verification(folder / "verification", max(grid.sizes), results, numbers, out)
    return rows


def _bench_verification(folder: Path, size: float, results: Path, numbers: dict[str, Any], out: Console) -> None:
    verification = measure_verification(folder, size)
    _store(results, numbers | {"verification": verification})
    ratio = verification["inv verify"] / verification["integrity_check"]
    out.print(
        f"inv verify of {verification['size'] / 1e9:g} GB: {verification['inv verify']:.2f} s, integrity_check alone "
        f"{verification['integrity_check']:.2f} s, ratio {ratio:.2f}",
        soft_wrap=True,
    )


def _store(results: Path, numbers: dict[str, Any]) -> None:
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
