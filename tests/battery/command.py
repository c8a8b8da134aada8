"""What `./inv battery` does: it starts processes that make the tries, and reports what they have found."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo_backups.errors import SettingsError
from demo_backups.project import ROOT
from demo_backups.ui.console import Console
from demo_backups.ui.outcome import Tone

from ..helpers.sshd import SSHD
from . import results
from .faults import select_faults
from .framework import FAILED, MISSED, Fault
from .table import format_table, write_table
from .worker import Work

PAGE = ROOT / "docs/reliability.md"
OUT = ROOT / "reports/battery/results.jsonl"
PROGRAMS = ("sqlite3", "flock", "restic")
DEFAULT_TRIES, DEFAULT_JOBS = 100, 2


@dataclass(frozen=True)
class Options:
    """The flags of the task, as text."""

    tries: str | None = None
    seed: str | None = None
    only: str | None = None
    faults: str | None = None
    out: str | None = None
    jobs: str | None = None
    resume: bool = False
    table: bool = False


def run_battery(options: Options, out: Console) -> int:
    """Make the tries; return 1 if one of them failed. Raises SettingsError."""
    path = Path(options.out).absolute() if options.out else OUT
    if options.table:
        write_table(PAGE, _read_results(path))
        out.say(f"wrote the table of {PAGE}")
        return 0
    seed = _parse_number("seed", options.seed, random.SystemRandom().randrange(10**6))
    only = None if options.only is None else _parse_number("try", options.only, 0)
    tries = _parse_number("tries", options.tries, DEFAULT_TRIES)
    jobs = 1 if only is not None else max(1, _parse_number("jobs", options.jobs, DEFAULT_JOBS))
    faults = select_faults(options.faults)
    _require_programs()
    _require_usable(faults, out)
    if only is None and not options.resume and results.numbers(results.read(path), seed):
        raise SettingsError(
            f"{path} has results of seed {seed}", advice="use --resume to continue, or another --seed or --out"
        )
    out.say(f"battery: seed {seed}, results in {path}")
    statuses = _run_workers([Work(seed, tries, options.faults, str(path), only, index, jobs) for index in range(jobs)])
    found = [result for result in results.read(path) if result["seed"] == seed and only in (None, result["number"])]
    out.say(format_table(found))
    missed = sum(result["outcome"] == MISSED for result in found)
    failed = [result for result in found if result["outcome"] == FAILED]
    for result in failed:
        out.say(f"failed: {result['command']}", Tone.BAD)
    out.say(
        f"{results.count(found, seed)} tries hit a running task, {len(failed)} of them failed; {missed} did not hit"
    )
    return 1 if failed or any(statuses) else 0


def _run_workers(works: list[Work]) -> list[int]:
    """Run the processes to their end, also if this one is interrupted or terminated."""
    command = [sys.executable, "-m", "tests.battery.worker"]
    workers = [subprocess.Popen([*command, work.as_argument()], cwd=ROOT) for work in works]
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return [worker.wait() for worker in workers]
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()
                worker.wait()
        signal.signal(signal.SIGTERM, previous)


def _read_results(path: Path) -> list[dict[str, object]]:
    found = results.read(path)
    if not found:
        raise SettingsError(f"{path} has no results", advice="name the file with --out")
    return found


def _require_usable(faults: Sequence[Fault], out: Console) -> None:
    """Name the faults that cannot be used on this machine, by reason; raises SettingsError if none can."""
    missing: dict[str, list[str]] = {}
    for fault in faults:
        if reason := fault.missing():
            missing.setdefault(reason, []).append(fault.name)
    for reason, names in missing.items():
        out.say(f"left out, {reason}: {'; '.join(names)}", Tone.WARNING)
    if sum(map(len, missing.values())) == len(faults):
        raise SettingsError("none of these faults can be used on this machine", advice="select others with --faults")


def _require_programs() -> None:
    missing = [program for program in PROGRAMS if shutil.which(program) is None] + ([] if SSHD else ["sshd"])
    if missing:
        raise SettingsError(
            f"not installed: {', '.join(missing)}", advice="./inv battery --install installs the packages"
        )


def _parse_number(flag: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()):
        raise SettingsError(f"--{flag} {text!r} is not a number", advice="use digits only")
    return int(text)
