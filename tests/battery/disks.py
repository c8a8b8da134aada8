"""Disks that fail: full, without inodes, read-only after an error, and cut off from power."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from demo_backups.rehearsal.server import processes_at_home

from ..helpers.processes import wait_until
from ..helpers.sshd import end_processes
from .framework import Fault, Injection, Strike
from .machine import TASKS, Machine, RunningTask, wait_for
from .moments import Moment, choose_moment
from .mounts import FailingDisk, FilledDisk, failing_disk, filled_disk, missing_for_mounts

BACKUP_DIR, DATABASE, HOME, SCRIPTS = "backup_dir", "the live database", "the home directory", "the script"
FETCH_DIR, EVIDENCE_DIR, REPOSITORY = "fetch_dir", "evidence_dir", "the repository"
# The tasks that write to a disk, or read from it.
TARGETS = {
    BACKUP_DIR: ("run", "verify", "fetch", "restore"),
    DATABASE: ("run", "restore"),
    HOME: ("run", "verify", "enable", "restore"),
    SCRIPTS: ("deploy",),
    FETCH_DIR: ("fetch", "offsite"),
    REPOSITORY: ("offsite",),
    EVIDENCE_DIR: TASKS,
}
SERVER, BOTH, MAINTAINER = "the server", "both machines", "the maintainer's machine"
ON_SERVER = tuple(task for task in TASKS if task != "offsite")
CUT_TASKS = {SERVER: ON_SERVER, MAINTAINER: TASKS, BOTH: ON_SERVER}


def find_place(machine: Machine, target: str) -> Path:
    """Return the directory of a target."""
    places = {
        BACKUP_DIR: machine.backups,
        DATABASE: machine.source.parent,
        HOME: machine.server.home,
        SCRIPTS: machine.script.parent,
        FETCH_DIR: machine.copies.parent,
        EVIDENCE_DIR: machine.records,
        REPOSITORY: machine.repository,
    }
    places[target].mkdir(parents=True, exist_ok=True)
    return places[target]


# --- full disks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FullDisk:
    """A disk that has no space, or no inodes, from a moment on; another program may take what becomes free."""

    target: str
    tasks: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the fault."""
        return f"full disk of {self.target}"

    def missing(self) -> str | None:
        """Say why it cannot be used on this machine."""
        return missing_for_mounts()

    @contextlib.contextmanager
    def arrange(self, machine: Machine, task: str, rng: random.Random) -> Iterator[Injection]:
        """Have the directory on a small disk."""
        with filled_disk(find_place(machine, self.target)) as disk:
            if rng.random() < 0.7:  # else the tasks stop before the disk is full
                machine.environment["INVOKE_FREE_SPACE_FLOOR"] = "0 B"
                if task == "run":  # else the preflight stops it
                    machine.flags = ("--force",)
            injection = FullDiskInjection(
                machine,
                task,
                disk,
                choose_moment(machine, task, rng),
                what=rng.choice(["space", "space", "inodes"]),
                leave=rng.choice([0, 0, rng.randrange(1 << 20)]),
                keeps_full=rng.random() < 0.5,
            )
            try:
                yield injection
            finally:
                injection.repair()


@dataclass
class FullDiskInjection:
    """A full disk in one try; `leave` is the number of bytes that are free at the moment."""

    machine: Machine
    task: str
    disk: FilledDisk
    moment: Moment
    what: str
    leave: int
    keeps_full: bool
    _end: threading.Event = field(default_factory=threading.Event)
    _keeper: threading.Thread | None = None

    def start(self) -> RunningTask:
        """Start the task, on a disk that is full already if the moment is before."""
        self.moment.arm(self.machine)
        if self.moment.is_before:
            self._fill()
        return self.machine.start_task(self.task)

    def strike(self, task: RunningTask) -> Strike:
        """Fill the disk."""
        hit = self.moment.reach(self.machine, task)
        if not self.moment.is_before:
            self._fill()
        if self.keeps_full:
            self._keeper = threading.Thread(target=self._keep_full)
            self._keeper.start()
        self.machine.gate.disarm()
        return Strike(self.moment.name, f"{self.what}, {self.leave} bytes left", hit)

    def repair(self) -> None:
        """Give all space back; it is an error if the disk has never been full."""
        self._end.set()
        if self._keeper:
            self._keeper.join()
            self._keeper = None
        self.disk.free()

    def _fill(self) -> None:
        if self.what == "inodes":
            self.disk.fill_inodes()
        else:
            self.disk.fill(self.leave)
        if not self.leave and not self.disk.no_space_errors:
            raise RuntimeError("the disk has never been full")

    def _keep_full(self) -> None:
        while not self._end.wait(0.01):
            self._fill()


# --- disks with an error --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadOnlyDisk:
    """A disk that is read-only from a moment on, since the kernel has met an error; what was not flushed is lost."""

    target: str
    tasks: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the fault."""
        return f"read-only disk of {self.target}"

    def missing(self) -> str | None:
        """Say why it cannot be used on this machine."""
        return missing_for_mounts()

    @contextlib.contextmanager
    def arrange(self, machine: Machine, task: str, rng: random.Random) -> Iterator[Injection]:
        """Have the directory on a disk of its own."""
        with failing_disk(find_place(machine, self.target)) as disk:
            machine.flush_commits()
            yield ReadOnlyInjection(machine, task, disk, choose_moment(machine, task, rng))


@dataclass
class ReadOnlyInjection:
    """A read-only disk in one try."""

    machine: Machine
    task: str
    disk: FailingDisk
    moment: Moment

    def start(self) -> RunningTask:
        """Start the task."""
        self.moment.arm(self.machine)
        if self.moment.is_before:
            with stopped(self.machine, []):
                self.disk.fail()
        return self.machine.start_task(self.task)

    def strike(self, task: RunningTask) -> Strike:
        """Let the disk fail, while no process is in the middle of a call of the kernel."""
        hit = self.moment.reach(self.machine, task)
        if not self.moment.is_before:
            with stopped(self.machine, [task.process.pid, *self.machine.local_processes()]):
                self.disk.fail()
        if not self.disk.is_read_only():
            raise RuntimeError("the disk is not read-only")
        self.machine.gate.disarm()
        return Strike(self.moment.name, hit=hit)

    def repair(self) -> None:
        """Check the disk and mount it again, as after a start of the machine."""
        start_again(self.machine, [self.disk], bool(service_processes(self.machine)))


# --- power ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PowerCut:
    """A machine that loses its power: all of its processes end, and what was not flushed is lost. It starts again."""

    target: str
    tasks: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the fault."""
        return f"power cut of {self.target}"

    def missing(self) -> str | None:
        """Say why it cannot be used on this machine."""
        return missing_for_mounts()

    @contextlib.contextmanager
    def arrange(self, machine: Machine, task: str, rng: random.Random) -> Iterator[Injection]:
        """Have all files of the machine on disks of their own."""
        server = [machine.live / "app", machine.backups, machine.server.home]
        maintainer = machine.copies.parent.parent
        places = {SERVER: server, MAINTAINER: [maintainer], BOTH: [*server, maintainer]}
        with contextlib.ExitStack() as stack:
            disks = [stack.enter_context(failing_disk(place)) for place in places[self.target]]
            machine.flush_commits()
            yield PowerInjection(machine, task, disks, choose_moment(machine, task, rng, before=0), self.target)


@dataclass
class PowerInjection:
    """A power cut in one try."""

    machine: Machine
    task: str
    disks: list[FailingDisk]
    moment: Moment
    target: str

    def start(self) -> RunningTask:
        """Start the task."""
        self.moment.arm(self.machine)
        return self.machine.start_task(self.task)

    def strike(self, task: RunningTask) -> Strike:
        """Cut the power, and start the machine again."""
        hit = self.moment.reach(self.machine, task)
        inv = [] if self.target == SERVER else [task.process.pid, *self.machine.local_processes()]
        had_service = bool(service_processes(self.machine))
        with stopped(self.machine, inv, of_server=self.target != MAINTAINER) as pids:
            for disk in self.disks:
                disk.fail()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.machine.gate.disarm()
        if self.target != SERVER:
            task.process.wait()
        if self.target == MAINTAINER:
            self.disks[0].repair()
        else:
            start_again(self.machine, self.disks, had_service)
        return Strike(self.moment.name, hit=hit)

    def repair(self) -> None:
        """Do nothing: the machine has started again."""


@contextlib.contextmanager
def stopped(machine: Machine, others: list[int], of_server: bool = True) -> Iterator[list[int]]:
    """Stop the service, the processes of the server, and others; they go on in the end, unless they were killed.

    The kernel lets a call of fsync that is running succeed although the disk has failed: no process is in such a call.
    """
    server = [*machine.processes(), *service_processes(machine), *machine.server.sessions] if of_server else []
    pids = [*server, *others]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    if not wait_for(lambda: all(is_stopped(pid) for pid in pids), 30):
        raise RuntimeError("the processes do not stop")
    try:
        yield pids
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def service_processes(machine: Machine) -> list[int]:
    """Return the processes of the service."""
    return processes_at_home(machine.folder / "service")


def is_stopped(pid: int) -> bool:
    """Tell whether all threads of a process are stopped, or it has ended."""
    states = []
    with contextlib.suppress(OSError):
        for status in Path(f"/proc/{pid}/task").glob("*/stat"):
            states.append(status.read_text().rpartition(")")[2].split()[0])
    return all(state in "TtZX" for state in states)


def start_again(machine: Machine, disks: list[FailingDisk], had_service: bool) -> None:
    """Start the server again: nothing that had run runs, and the service does if it did before."""
    machine.stop_service()
    end_processes(machine.server.home)
    for disk in disks:
        wait_until(functools.partial(_is_unused, disk.directory), f"the end of what uses {disk.directory}")
        disk.repair()
    if had_service:
        machine.start_service()


def _is_unused(directory: Path) -> bool:
    """Kill the processes that have a file or directory below a directory open; tell whether there was none.

    One that was being started while the others were stopped has no environment yet, by which it could be found.
    """
    users = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            places = [process / "cwd", *(process / "fd").iterdir()]
            if any(place.readlink().is_relative_to(directory) for place in places):
                users.append(int(process.name))
    for pid in users:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return not users


FAULTS: tuple[Fault, ...] = (
    *(FullDisk(target, tasks) for target, tasks in TARGETS.items()),
    *(ReadOnlyDisk(target, tasks) for target, tasks in TARGETS.items()),
    *(PowerCut(target, tasks) for target, tasks in CUT_TASKS.items()),
)
