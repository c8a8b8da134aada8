"""A process of the battery: it creates a machine and makes tries, until enough have hit.

`python -m tests.battery.worker` reads what to do, as JSON, from its only argument.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from demo_backups.errors import INTERRUPTED

from . import mounts, results
from .faults import select_faults
from .framework import FAILED, Result, choose, perform
from .machine import make_machine


@dataclass(frozen=True)
class Work:
    """What a process does: `tries` tries of a seed in all, of which this is process `index` of `jobs`; or one try."""

    seed: int
    tries: int
    faults: str | None
    out: str
    only: int | None
    index: int
    jobs: int

    def as_argument(self) -> str:
        """Return the argument of the process."""
        return json.dumps(dataclasses.asdict(self))

    def numbers(self) -> Iterator[int]:
        """Return the numbers of the tries that have no result."""
        if self.only is not None:
            yield self.only
            return
        path = Path(self.out)
        for number in itertools.count(self.index, self.jobs):
            found = results.read(path)
            if results.count(found, self.seed) >= self.tries:
                return
            if number not in results.numbers(found, self.seed):
                yield number


def main(argument: str) -> int:
    """Make the tries; return the number of those that failed."""
    mounts.enter_private_mounts()
    work = Work(**json.loads(argument))
    faults = select_faults(work.faults)
    failed = 0
    with (
        tempfile.TemporaryDirectory(prefix="battery-", ignore_cleanup_errors=True) as name,
        make_machine(Path(name)) as machine,
    ):
        missing = {fault.name: fault.missing() for fault in faults}
        for number in work.numbers():
            attempt = choose(faults, work.seed, number)
            if missing[attempt.fault.name]:
                continue
            result = perform(machine, attempt)
            if work.faults:
                result.command += f" --faults '{work.faults}'"
            if result.outcome == FAILED:
                failed += 1
                _keep(machine.live, Path(work.out).parent / f"try-{work.seed}-{number}", result)
            results.append(Path(work.out), result)
            print(describe(result), flush=True)
    return failed


def _keep(live: Path, folder: Path, result: Result) -> None:
    """Keep the state of the machine after a try that failed."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(live, folder, symlinks=True, ignore_dangling_symlinks=True)
    result.problems.append(f"the state of the machine is in {folder}")


def describe(result: Result) -> str:
    """Describe a result in a line, and its problems below it."""
    details = [result.task, result.variant, result.journal and f"journal {result.journal}", result.moment]
    line = f"{result.number} {result.outcome}: {result.fault} ({'; '.join(filter(None, details))}), {result.seconds} s"
    command = [f"  {result.command}"] if result.problems else []
    return "\n".join([line, *(f"  {problem}" for problem in result.problems), *command])


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, _interrupt)  # the machine is removed
    try:
        sys.exit(1 if main(sys.argv[1]) else 0)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
