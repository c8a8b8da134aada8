"""The machine of the battery: a server with a live service, older backups and a crontab, and a maintainer's files.

It is created once. For each try, all that a task may change is copied from `pristine` again.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from demo_backups.project import read_project_file
from demo_backups.rehearsal.database import make_index
from demo_backups.rehearsal.server import processes_at_home
from demo_backups.settings.load import load_settings

from ..helpers.processes import wait_until
from ..helpers.restic_repository import make_repository
from ..helpers.sshd import OpenSshServer, end_processes, serve_openssh
from ..helpers.tasks import CompletedTask, InvRunner, assert_success, clean_environment
from .gate import Gate

OLD_CRONTAB = "# of the maintainer\nMAILTO=me@example.org\n5 4 * * * echo 100\\% >/dev/null\n"
OLD_SCRIPT_END = "\n# an older version\n"
FILLER = 6  # megabytes in the live database: a copy takes some milliseconds
DAY = 24 * 3600
OLDER = ("backup_2026-01-01_00-00-00.db", "backup_2026-01-02_00-00-00.db", "backup_2026-01-03_00-00-00.db")
CROWD = "backup_2024"  # the names of more backups, which a fault adds and checks itself
EXPIRED = "backup_2025-12-01_00-00-00.db"
LONGEST_TASK = 180.0  # seconds
PASSWORD = "the password of the repository"
SERVICE = Path(__file__).with_name("service.py")
FIRST_GUESS = 1.5  # seconds that a task takes, until one was measured
COMMANDS = {
    "deploy": ("deploy",),
    "run": ("run",),
    "verify": ("verify",),
    "enable": ("enable",),
    "fetch": ("fetch",),
    "restore": ("restore", "--yes", "--backup", OLDER[0]),
    "offsite": ("offsite", "--database", "index"),
}
TASKS = tuple(COMMANDS)
STOPPED, RUNNING, SWAP = "service stopped", "service running", "swap"
VARIANTS = {"restore": (STOPPED, RUNNING, SWAP)}


@dataclass
class RunningTask:
    """A task that was started: its process, and when that was."""

    name: str
    process: subprocess.Popen[str]
    started: float = field(default_factory=time.monotonic)
    output: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def wait(self) -> int:
        """Wait for its end; return the exit status."""
        stdout, stderr = self.process.communicate(timeout=LONGEST_TASK)
        self.output = stdout + stderr
        return self.process.returncode


@dataclass
class Machine:
    """All directories are below `folder`. `environment` is that of the maintainer's tasks, until the next reset.

    `durations` has the last measured duration of each task in seconds. `synchronous` is the PRAGMA of the service,
    `flags` are those of the task; both until the next reset.
    """

    folder: Path
    server: OpenSshServer
    gate: Gate
    environment: dict[str, str] = field(default_factory=dict)
    durations: dict[str, float] = field(default_factory=dict)
    synchronous: str = "OFF"
    flags: tuple[str, ...] = ()
    variant: str = ""
    other_tasks: tuple[str, ...] = ()  # which somebody else starts meanwhile

    # --- its places ---------------------------------------------------------------------------------------------------

    @property
    def live(self) -> Path:
        """The directory of all that a task may change, but for the records of the service."""
        return self.folder / "live"

    @property
    def source(self) -> Path:
        """The live database."""
        return self.live / "app/storage/index/lib/database/sqlite3.db"

    @property
    def script(self) -> Path:
        """The installed backup script."""
        return self.live / "app/share/bin/index-db-backup.sh"

    @property
    def backups(self) -> Path:
        """The backup directory of the server."""
        return self.live / "backups"

    @property
    def crontab(self) -> Path:
        """The crontab of the server."""
        return self.server.home / "crontab"

    @property
    def copies(self) -> Path:
        """The directory of the fetched backups."""
        return self.live / "maintainer/copies/rehearsal"

    @property
    def records(self) -> Path:
        """The directory of the records."""
        return self.live / "maintainer/evidence"

    @property
    def repository(self) -> Path:
        """The off-site repository."""
        return self.live / "repository"

    @property
    def log(self) -> Path:
        """The numbers of the rows that the service has committed."""
        return self.folder / "service/log"

    # --- its service --------------------------------------------------------------------------------------------------

    @property
    def start_command(self) -> str:
        """The command that starts the service, and ends when it has opened the database."""
        command = shlex.join([sys.executable, "-I", "-S", *map(str, (SERVICE, self.source, self.log, self._pid_file))])
        return f"{command} > /dev/null 2>&1 & until [ -s {self._quoted_pid_file} ]; do sleep 0.02; done"

    @property
    def stop_command(self) -> str:
        """The command that kills the service: its -wal stays."""
        file = self._quoted_pid_file
        return (
            f"[ -s {file} ] || exit 0; pid=$(cat {file}); kill -9 $pid; rm {file}; "
            "while [ -e /proc/$pid/fd/0 ]; do sleep 0.02; done"  # a zombie has none
        )

    @property
    def _pid_file(self) -> Path:
        return self.folder / "service/pid"

    @property
    def _quoted_pid_file(self) -> str:
        return shlex.quote(str(self._pid_file))

    def start_service(self) -> None:
        """Start the service, and wait until it has committed."""
        before = len(self.committed)
        subprocess.run(["sh", "-c", self.start_command], check=True, env=self.service_environment)
        wait_until(lambda: len(self.committed) > before, "the service to commit")

    def flush_commits(self) -> None:
        """Let the service flush each commit to the disk, until the next reset: a fault loses what is not flushed."""
        self.synchronous = "EXTRA"  # with FULL, the directory of a rollback journal is not flushed
        start = "INVOKE_DATABASES_INDEX_START"
        if self.environment[start]:
            self.environment[start] = self._environment()[start]

    def stop_service(self) -> None:
        """Kill the service."""
        subprocess.run(["sh", "-c", self.stop_command], check=False, env=self.service_environment)

    @property
    def service_environment(self) -> dict[str, str]:
        """The environment of the service: it is not a process of the server's user, and ends at the reset only."""
        home = str(self.folder / "service")
        return {"PATH": os.environ["PATH"], "HOME": home, "SYNCHRONOUS": self.synchronous}

    @property
    def committed(self) -> list[int]:
        """The numbers of the rows that were committed, in order."""
        text = self.log.read_text() if self.log.exists() else ""
        return [int(line) for line in text.split("\n")[:-1]]

    # --- its tasks ----------------------------------------------------------------------------------------------------

    def start_task(self, name: str) -> RunningTask:
        """Start a task of the maintainer."""
        return RunningTask(name, InvRunner(self.environment).start(*COMMANDS[name], *self.flags))

    def inv(self, *arguments: str) -> CompletedTask:
        """Run a task of the maintainer to its end."""
        return InvRunner(self.environment)(*arguments)

    def measure(self, name: str, *arguments: str) -> CompletedTask:
        """Run a task to its end, and remember how long it takes."""
        started = time.monotonic()
        done = self.inv(*(arguments or (*COMMANDS[name], *self.flags)))
        if done.returncode == 0:
            self.durations[name] = time.monotonic() - started
        return done

    def duration(self, name: str) -> float:
        """Return how long a task is expected to take, in seconds."""
        return self.durations.get(name, FIRST_GUESS)

    # --- its processes ------------------------------------------------------------------------------------------------

    def processes(self) -> list[int]:
        """Return the processes on the server that were started over SSH, and have not ended."""
        return processes_at_home(self.server.home)

    def local_processes(self) -> list[int]:
        """Return the programs that the maintainer's tasks have started, and that have not ended."""
        return processes_at_home(self.live / "maintainer")

    def settle(self, seconds: float = 30) -> list[str]:
        """Wait until no job and no session is running on the server; return the processes that are left."""
        deadline = time.monotonic() + seconds
        while left := self._busy():
            if time.monotonic() > deadline:
                return [describe(pid) for pid in left]
            time.sleep(0.02)
        return []

    def _busy(self) -> list[int]:
        service = self._service_pid()
        pids = [pid for pid in self.processes() if pid != service]
        return [*pids, *self.local_processes(), *self.server.sessions]

    def _service_pid(self) -> int | None:
        try:
            return int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    # --- reset --------------------------------------------------------------------------------------------------------

    def reset(self, task: str, journal: str) -> None:
        """Put everything back as it was, without the service; `journal` is the mode of the database."""
        self.gate.disarm()
        self.stop_service()
        for home in (self.server.home, self.live / "maintainer", self.folder / "service"):
            end_processes(home)
        shutil.rmtree(self.live, ignore_errors=True)
        shutil.rmtree(self.folder / "service", ignore_errors=True)
        (self.folder / "service").mkdir()
        command = ["cp", "--archive", "--reflink=auto", str(self.folder / "pristine"), str(self.live)]
        subprocess.run(command, check=True)
        self.synchronous, self.flags, self.other_tasks = "OFF", (), ()
        self.environment = self._environment()
        set_journal_mode(self.source, journal)
        with contextlib.closing(sqlite3.connect(self.source)) as database:
            numbers = [row[0] for row in database.execute("SELECT number FROM committed ORDER BY number")]
        self.log.write_text("".join(f"{number}\n" for number in numbers))
        if task == "deploy":
            with self.script.open("a") as script:
                script.write(OLD_SCRIPT_END)

    def set_variant(self, variant: str) -> None:
        """Choose how a restore is done, until the next reset."""
        self.variant = variant
        if variant == SWAP:
            self.flags = ("--swap",)
        if variant == RUNNING:
            self.environment |= {"INVOKE_DATABASES_INDEX_STOP": "", "INVOKE_DATABASES_INDEX_START": ""}

    def _environment(self) -> dict[str, str]:
        maintainer = self.live / "maintainer"
        variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.service_environment.items())
        values = {
            "HOST": "rehearsal",
            "SSH_CONFIG": self.server.ssh_config,
            "APP_DIR": self.live / "app",
            "BACKUP_DIR": self.backups,
            "CRON_LOG": self.live / "cron.log",
            "USE_SUDO": "0",
            "FREE_SPACE_FLOOR": "1 MB",
            "SERVICE_TIMEOUT": "20 s",
            "WRITER_TIMEOUT": "60 s",  # so that no preflight refuses a task because this machine is busy
            "DATABASES_INDEX_STOP": self.stop_command,
            "DATABASES_INDEX_START": f"export {variables}; {self.start_command}",
            "DATABASES_INDEX_HEALTHY": f"test -s {self._quoted_pid_file}",
            "EVIDENCE_DIR": self.records,
            "FETCH_DIR": self.copies.parent,
            "OFFSITE_REPOSITORY": self.repository,
            "OFFSITE_PASSWORD_FILE": maintainer / "password",
        }
        path = f"{self.folder / 'programs'}:{os.environ['PATH']}"
        return (
            clean_environment(maintainer)
            | {"PATH": path}
            | {f"INVOKE_{name}": str(value) for name, value in values.items()}
        )


def describe(pid: int) -> str:
    """Describe a process by its ID and its command."""
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"{pid} {command[:150]}"
    return str(pid)


def set_journal_mode(path: Path, mode: str) -> None:
    """Set the journal mode of a database."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA journal_mode = {mode}")


@contextlib.contextmanager
def make_machine(folder: Path) -> Iterator[Machine]:
    """Create the machine in an empty directory."""
    home = folder / "live/home"
    server_folder = folder / "server"
    server_folder.mkdir()
    gate_folder = folder / "gate"
    gate_folder.mkdir()
    with serve_openssh(server_folder, home) as server:
        gate = Gate(gate_folder, server_folder / "bin", os.environ["PATH"])
        (folder / "programs").mkdir()
        Gate(gate_folder, folder / "programs", os.environ["PATH"], ("restic",))
        machine = Machine(folder, server, gate)
        _fill(folder / "pristine")
        try:
            _add_copy(machine)
            yield machine
        finally:
            machine.gate.disarm()
            machine.stop_service()
            for home in (machine.live / "maintainer", folder / "service"):
                end_processes(home)


def _fill(pristine: Path) -> None:
    """Create the database, the older backups, the script and the crontab."""
    source = pristine / "app/storage/index/lib/database/sqlite3.db"
    script = pristine / "app/share/bin/index-db-backup.sh"
    backups = pristine / "backups"
    home = pristine / "home"
    for folder in (source.parent, script.parent, backups, home, pristine / "maintainer"):
        folder.mkdir(parents=True)
    make_index(source, torrents=100)
    with contextlib.closing(sqlite3.connect(source)) as database, database:
        database.execute("CREATE TABLE filler (content BLOB)")
        database.executemany("INSERT INTO filler VALUES (?)", [(os.urandom(2**19),) for _ in range(2 * FILLER)])
        database.execute("CREATE TABLE committed (number INTEGER PRIMARY KEY)")
    now = time.time()
    rows = 0
    for days, name in zip((20, 3, 2, 1), (EXPIRED, *OLDER), strict=True):
        rows = _add_rows(source, rows)
        shutil.copyfile(source, backups / name)
        os.utime(backups / name, (now - days * DAY, now - days * DAY))
    _add_rows(source, rows)
    project = read_project_file()
    shipped = load_settings(project, project, environ={}).database("index").local_script
    shutil.copyfile(shipped, script)
    script.chmod(0o755)
    (home / "crontab").write_text(OLD_CRONTAB)
    make_repository(pristine / "repository", PASSWORD)
    password = pristine / "maintainer/password"
    password.write_text(PASSWORD)
    password.chmod(0o600)


def _add_rows(path: Path, last: int) -> int:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.executemany("INSERT INTO committed VALUES (?)", [(last + number,) for number in range(1, 11)])
    return last + 10


def _add_copy(machine: Machine) -> None:
    """Fetch the second newest backup, and keep that for all tries."""
    machine.reset("fetch", "delete")
    assert_success(machine.inv("fetch", "--backup", OLDER[1]))
    machine.settle()
    shutil.rmtree(machine.folder / "pristine")
    subprocess.run(["cp", "--archive", str(machine.live), str(machine.folder / "pristine")], check=True)


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Wait until a condition is true; tell whether it has become true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True
