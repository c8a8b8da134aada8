"""Measure what copies in another place cost: restic, borg and `cp`, side by side in one run.

Each program stores a tracker database in a directory, and stores it once more after a part of its pages was changed.
Then one copy is restored, the data is checked, and the first copy is removed. Programs that are missing are left out.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from loopback import find_descendants
from tracker_file import PAGE, change_pages, make_tracker_file

from demo_backups.project import ROOT

RESULTS = ROOT / "benchmarks/offsite.json"
CHANGED_PAGES = 0.01
SAMPLE = 0.1  # seconds between two looks at the memory of a program
PASSWORD = "benchmark"  # of repositories that exist as long as the benchmark
NAME = "tracker.db"
FIRST, SECOND = "first", "second"  # the names of the two copies
CHUNKERS = {"borg": "buzhash,19,23,21,4095", "borg fixed,16384": "fixed,16384", "borg fixed,4096": "fixed,4096"}


@dataclass(frozen=True)
class Scale:
    """The sizes of the database in bytes, how many rounds, and the methods; None: all that are installed."""

    sizes: Sequence[float]
    rounds: int = 2
    methods: Sequence[str] | None = None


SMALL, FULL = Scale((0.1e9,), rounds=1), Scale((0.25e9, 1e9), rounds=3)


@dataclass(frozen=True)
class Step:
    """What one call of a program cost. Sizes in bytes, durations in seconds.

    `cpu` is the time of the CPU, in user and system mode. `stored` and `cache` are the sizes of the repository and of
    the local cache after it. `source` is the size of the database, and `changed` the share of the pages that were
    changed before a second copy. `intact` is whether the restored copy equals the database. `load` is the load of the
    machine after the step.
    """

    method: str
    step: str
    size: float
    round: int
    seconds: float
    cpu: float
    memory: int
    status: int
    source: int
    stored: int
    cache: int
    load: float
    changed: float | None = None
    intact: bool | None = None
    error: str = ""


class UnknownMethodError(Exception):
    """A method has no such name, or its program is not installed."""


# --- the programs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A way to store copies: its commands for each step, run in the folder of the database.

    `read_back` is named after what the program can read of its data. `{restored}` is the folder of a restored copy.
    """

    name: str
    version: str
    init: Sequence[str]
    store: Callable[[str], Sequence[str]]
    check_name: str
    check: Sequence[str]
    restore: Sequence[str]
    remove: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def cp_method(folder: Path) -> Method:
    """Copy the file and flush it: no encryption, no history in less space."""
    return Method(
        name="cp",
        version="",
        init=["mkdir", str(folder / "repository")],
        store=lambda name: ["cp", NAME, str(folder / "repository" / name)],
        check_name="check",
        check=[],
        restore=["cp", str(folder / "repository" / SECOND), str(folder / "restored" / NAME)],
        remove=["rm", str(folder / "repository" / FIRST)],
    )


def restic_method(program: str, version: str, folder: Path) -> Method:
    """Use restic with its defaults, as `inv offsite` does."""
    restic = [program, "--quiet"]
    return Method(
        name=f"restic {version}",
        version=version,
        init=[*restic, "init"],
        store=lambda name: [*restic, "backup", "--tag", name, NAME],
        check_name="check of 1/10",
        check=[*restic, "check", "--read-data-subset=1/10"],
        restore=[*restic, "restore", "latest", "--tag", SECOND, "--target", str(folder / "restored")],
        remove=[*restic, "forget", "--group-by", "", "--keep-last", "1", "--prune"],
        environment={
            "RESTIC_REPOSITORY": str(folder / "repository"),
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_CACHE_DIR": str(folder / "cache"),
        },
    )


def borg_method(name: str, version: str, folder: Path) -> Method:
    """Use borg with encryption, with zstd as restic does: the default lz4 does not make hex digits smaller.

    borg cannot verify a part of its data. `check --repository-only` reads all of it and compares the CRC of each piece.
    """
    chunker = CHUNKERS[name]
    create = ["borg", "create", "--compression", "zstd", "--chunker-params", chunker]
    extract = f"cd {folder}/restored && exec borg extract ::{SECOND}"
    return Method(
        name=name,
        version=version,
        init=["borg", "init", "--encryption", "repokey"],
        store=lambda copy: [*create, f"::{copy}", NAME],
        check_name="check of all",
        check=["borg", "check", "--repository-only"],
        restore=["sh", "-c", extract],
        remove=["sh", "-c", "borg prune --keep-last 1 && exec borg compact"],
        environment={
            "BORG_REPO": str(folder / "repository"),
            "BORG_PASSPHRASE": PASSWORD,
            "BORG_BASE_DIR": str(folder / "borg"),
            "BORG_CACHE_DIR": str(folder / "cache"),
        },
    )


def find_programs(name: str) -> dict[str, str]:
    """Find the programs of a name in all directories of PATH; return their paths by version."""
    found: dict[str, str] = {}
    for directory in os.get_exec_path():
        path = Path(directory, name)
        if os.access(path, os.X_OK) and path.is_file():
            found.setdefault(read_version(path), str(path))
    return found


def read_version(program: Path) -> str:
    """Return the version of restic or borg, the second word that `restic version` and `borg --version` print."""
    argument = "--version" if program.name == "borg" else "version"
    done = subprocess.run([program, argument], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.split()[1]


def find_methods(folder: Path) -> list[Method]:
    """Return the methods whose programs are installed; each version of restic in PATH is one."""
    methods = [cp_method(folder)]
    methods += [restic_method(program, version, folder) for version, program in sorted(find_programs("restic").items())]
    for version in list(find_programs("borg"))[:1]:
        methods += [borg_method(name, version, folder) for name in CHUNKERS]
    return methods


# --- measuring ------------------------------------------------------------------------------------------------------


def drop_from_cache(path: Path) -> None:
    """Flush a file and drop it from the page cache, so that the next step reads the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def list_files(folder: Path) -> list[Path]:
    """Return all files below a folder."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def disk_usage(folder: Path) -> int:
    """Return the bytes that the files below a folder occupy."""
    return sum(path.stat().st_blocks * 512 for path in list_files(folder))


def read_peak(pid: int) -> int:
    """Return the peak memory of a process in bytes (proc(5), VmHWM); 0 if it has ended."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    return 0


@dataclass(frozen=True)
class Cost:
    """What a process cost: seconds, CPU seconds, peak memory in bytes, and its exit status and messages."""

    seconds: float
    cpu: float
    memory: int
    status: int
    error: str


def run_measured(command: Sequence[str], folder: Path, environment: Mapping[str, str], written: Path) -> Cost:
    """Run a command in a folder, and flush the files that it wrote; the time includes that."""
    peak = 0
    errors = folder / "errors"
    started = time.monotonic()
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"LANG": "C"} | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
        ended = 0
        while not ended:
            peak = max(peak, *(read_peak(pid) for pid in find_descendants(process.pid)))
            time.sleep(SAMPLE if time.monotonic() - started > 1 else SAMPLE / 20)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
    for path in list_files(written):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    seconds = time.monotonic() - started
    message = errors.read_text().replace(str(folder), "FOLDER").strip()
    errors.unlink()
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(round(seconds, 2), round(cpu, 2), peak, process.returncode, message if process.returncode else "")


@dataclass
class Trial:
    """The steps of one method, in a folder with the database."""

    method: Method
    folder: Path
    size: float
    round: int

    @property
    def source(self) -> Path:
        """The database that is stored."""
        return self.folder / NAME

    @property
    def repository(self) -> Path:
        """The directory of the stored copies."""
        return self.folder / "repository"

    def run_all(self) -> Iterator[Step]:
        """Run all steps; one that fails is the last one."""
        self.clear()
        for take_step in (self.init, self.store_first, self.store_second, self.restore, self.check, self.remove):
            step = take_step()
            if step is not None:
                yield step
                if step.status != 0:
                    break
        self.clear()

    def init(self) -> Step:
        """Create the repository."""
        return self.run("init", self.method.init)

    def store_first(self) -> Step:
        """Store the database."""
        return self.run("first copy", self.method.store(FIRST))

    def store_second(self) -> Step:
        """Change some pages, other ones in each round, and store the database again."""
        changed = change_pages(self.source, CHANGED_PAGES, time.monotonic_ns())
        step = self.run("second copy", self.method.store(SECOND))
        return replace(step, changed=changed * PAGE / step.source)

    def restore(self) -> Step:
        """Restore the second copy, and compare it with the database."""
        restored = self.folder / "restored"
        restored.mkdir()
        step = self.run("restore", self.method.restore, restored)
        files = list_files(restored)
        intact = len(files) == 1 and filecmp.cmp(files[0], self.source, shallow=False)
        shutil.rmtree(restored)
        return replace(step, intact=intact)

    def check(self) -> Step | None:
        """Read stored data back; None where the program cannot."""
        return self.run(self.method.check_name, self.method.check) if self.method.check else None

    def remove(self) -> Step:
        """Remove the first copy, and its data."""
        return self.run("prune", self.method.remove)

    def run(self, name: str, command: Sequence[str], written: Path | None = None) -> Step:
        """Run one step with cold files."""
        for path in (self.source, *list_files(self.repository)):
            drop_from_cache(path)
        cost = run_measured(command, self.folder, self.method.environment, written or self.repository)
        return Step(
            method=self.method.name,
            step=name,
            size=self.size,
            round=self.round,
            **asdict(cost),
            source=self.source.stat().st_size,
            stored=disk_usage(self.repository),
            cache=disk_usage(self.folder / "cache"),
            load=round(os.getloadavg()[0], 2),
        )

    def clear(self) -> None:
        """Remove what the method has written."""
        for name in ("repository", "restored", "cache", "borg"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def choose_methods(folder: Path, names: Sequence[str] | None) -> list[Method]:
    """Return the methods of these names, or all; raises UnknownMethodError."""
    methods = find_methods(folder)
    known = {method.name: method for method in methods}
    if names is None:
        return methods
    for name in names:
        if name not in known:
            raise UnknownMethodError(f"{name!r} is not one of {'; '.join(known)}")
    return [known[name] for name in names]


def measure_all(scale: Scale, folder: Path) -> Iterator[Step]:
    """Measure each method with each size, one after the other in each round; yields each step.

    Raises UnknownMethodError.
    """
    methods = choose_methods(folder, scale.methods)
    for size in scale.sizes:
        make_tracker_file(folder / NAME, size)
        for number in range(scale.rounds):
            for method in methods:
                yield from Trial(method, folder, size, number).run_all()
        (folder / NAME).unlink()
