"""The commands of docs/restore.md and their outputs, and a server on which they mean what the page says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from demo_backups.project import ROOT
from demo_backups.rehearsal.server import Server

from .processes import wait_until
from .programs import write_program
from .restic_repository import make_repository
from .tasks import DemoServer
from .terminal import terminal

APP, BACKUPS, COPIES = "/home/torrust/github/torrust/torrust-demo", "/home/torrust/backups", ".backups"
CONFIG_DIR, REPOSITORY = "/home/torrust/config", "sftp:backup@storage.example.org:demo"
EXAMPLE = "2026-01-31_12-00-00"
QUESTION, PASSWORD_PROMPT = "[y/N]", "Password: "
PASSWORD = "password of the repository"


@dataclass(frozen=True)
class Step:
    """The commands of a block, where they run, and the output that the page shows; None if it shows none."""

    language: str  # bash: on this machine; sh: on the server
    commands: str
    output: str | None


def read_steps(text: str, title: str) -> Iterator[Step]:
    """Return the blocks of commands of a section, in order, each with the block of output that follows it."""
    (text,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    pattern = r"^```(bash|sh)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?"
    for language, commands, output in re.findall(pattern, text, re.MULTILINE | re.DOTALL):
        yield Step(language, commands, output or None)


# --- outputs --------------------------------------------------------------------------------------------------------

# What differs from call to call, and what the comparison puts in its place.
VARIABLE = [
    (r"/path/to/(?=\.backups/)", ""),
    (r"\x1b\[[0-9;?]*[A-Za-z]", ""),
    (r"^.*━.*$", ""),  # progress
    (r"^.* is locked: waiting for .*\n(open in:\n)?(\s*process .*\n)*", ""),  # as the service writes
    (r"─+", ""),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?(\+00:00| UTC)?", "TIME"),
    (r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", "STAMP"),
    (r"SHA-256 [0-9a-f]{8,}", "SHA-256 HASH"),
    (r"\b[0-9a-f]{8}\b", "SNAPSHOT"),
    (r"\b\d+ files", "N files"),
    (r"^note: without use_sudo, .*$", ""),  # without sudo, as in the test
    (r"[✓✗] ", ""),
    (r"sqlite3 \d[\d.]*", "sqlite3 VERSION"),
    (r"[\d,.]+ (bytes|kB|MB|GB)\b", "SIZE"),
    (r"\b\d{1,3}(,\d{3})+\b", "SIZE"),
    (r"[\d.]+ (ms|s|seconds?|minutes?|hours?)\b", "DURATION"),
    (r"\d+\.\d%", "PERCENT"),
    (r"process \d+", "process PID"),
    (r"(^|\s)/\S*: SIZE free", r"\1MOUNT: SIZE free"),
    (r"DATABASE_FILE=\S+ BACKUP_DIR=\S+ ", ""),  # in a crontab line, if the paths are not those of the script
]


def normalize(text: str) -> str:
    """Replace what differs from call to call, and join the lines: the page breaks them elsewhere."""
    for pattern, replacement in VARIABLE:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return " ".join(text.split())


def matches(printed: str, shown: str) -> bool:
    """Tell whether an output is the one that the page shows, where `...` stands for any lines."""
    parts = [normalize(part) for part in re.split(r"^\.\.\.$", shown, flags=re.MULTILINE)]
    return re.fullmatch(".*".join(map(re.escape, parts)), normalize(printed)) is not None


# --- the server -----------------------------------------------------------------------------------------------------

# A service writes to its database as long as its fifo is open for writing. Its state is in a directory of its own.
DOCKER = """#!/bin/sh
set -eu
is_running() {{ [ -s pid ] && kill -0 "$(cat pid)" 2>/dev/null; }}
start() {{
    cd {folder}/"$1"
    rm -f fifo traffic
    mkfifo fifo
    sleep infinity > fifo 2> errors &
    echo $! > holder
    setsid {writer} "$(cat database)" 10 < fifo > traffic 2>> errors &
    echo $! > pid
    until [ -s traffic ] || ! is_running; do sleep 0.05; done
    is_running
}}
case "$*" in
  "compose stop index" | "compose stop tracker")
    cd {folder}/"$3"
    until ! [ -e hang ]; do sleep 0.05; done
    is_running || exit 0
    kill "$(cat holder)"
    while is_running; do sleep 0.05; done
    rm pid
    cat traffic >> stopped ;;
  "compose start index" | "compose start tracker") start "$3" ;;
  "compose up --detach")
    [ -s .env.production ]  # of the configuration of the application, in this directory
    for service in {folder}/*; do (start "${{service##*/}}"); done ;;
  "compose ps --status running --quiet index" | "compose ps --status running --quiet tracker")
    cd {folder}/"$6"
    ! is_running || echo 4f2a1c ;;
  *) echo "unexpected: docker $*" >&2; exit 1 ;;
esac
"""


@dataclass
class Service:
    """A service of the server: a process that writes to its database, controlled by `docker`."""

    folder: Path  # its state
    database: Path

    @property
    def hang(self) -> Path:
        """While this file exists, the service does not stop."""
        return self.folder / "hang"

    def errors(self) -> str:
        """Return what the service has printed about failed writes."""
        return (self.folder / "errors").read_text()

    def wait_for_end(self) -> None:
        """Wait until the process of the service has ended without a signal."""
        pid = (self.folder / "pid").read_text().strip()
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the service")

    def last_traffic(self) -> dict[str, int]:
        """Return what the service did between its last start and stop."""
        traffic = json.loads((self.folder / "stopped").read_text().splitlines()[-1])
        assert isinstance(traffic, dict)
        return traffic


@dataclass
class PageServer:
    """A server with the alias `demo`, with services that use its databases."""

    server: Server
    backups: Path
    environment: dict[str, str]
    stamp: str
    services: dict[str, Service] = field(default_factory=dict)

    @property
    def app(self) -> Path:
        return self.server.folder / "app"

    @property
    def index(self) -> Service:
        """The service whose database is restored in most sections of the page."""
        return self.services["index"]

    def add_service(self, name: str, database: Path) -> None:
        """Add a service that writes to a database; it is not started."""
        folder = self.server.folder / "services" / name
        folder.mkdir(parents=True)
        (folder / "database").write_text(f"{database}\n")
        self.services[name] = Service(folder, database)

    def install_programs(self) -> None:
        """Install `docker` and `sudo`, and call the server `demo`."""
        folder = self.server.folder / "services"
        writer = [sys.executable, "-m", "demo_backups.rehearsal.writer"]
        programs = self.server.folder / "bin"
        write_program(programs / "docker", DOCKER.format(folder=shlex.quote(str(folder)), writer=shlex.join(writer)))
        write_program(programs / "sudo", '#!/bin/sh\nexec "$@"\n')
        config = self.server.ssh_config.read_text()
        self.server.ssh_config.write_text(config.replace("Host rehearsal\n", "Host demo\n"))

    def store_off_site(self, store: Callable[[], object]) -> None:
        """Store what a task stores in a new repository; what names it is not set any more after that."""
        make_repository(self.repository, PASSWORD)
        file = self.server.folder / "password"
        file.write_text(f"{PASSWORD}\n")
        file.chmod(0o600)
        variables = {"INVOKE_OFFSITE_REPOSITORY": str(self.repository), "INVOKE_OFFSITE_PASSWORD_FILE": str(file)}
        self.environment |= variables
        store()
        file.unlink()
        for name in variables:
            del self.environment[name]

    def is_restore_stopping(self) -> bool:
        """Tell whether a restore is in the stage in which it stops the service."""
        return any("stage=stopping\n" in path.read_text() for path in self.backups.glob("*/journal"))

    def on_server(self, commands: str) -> str:
        """Run commands in a shell on the server, and return their output."""
        done = subprocess.run(
            ["sh", "-euc", commands],
            cwd=self.server.home,
            env=self.server.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, ""), (commands, done.stderr)
        return done.stdout

    def locally(self, commands: str, answers: int) -> str:
        """Run commands on this machine, answer their questions, and return what the terminal shows.

        Variables that they export stay set, as in a terminal that is used for all commands.
        """
        variables = self.server.folder / "variables"
        script = f"cd {shlex.quote(str(ROOT))}\n{commands}\nenv --null > {shlex.quote(str(variables))}"
        with terminal(["bash", "-euc", script], self.environment) as tty:
            for _ in range(commands.count("read -rsp")):
                tty.expect(PASSWORD_PROMPT)
                tty.type(PASSWORD)
            for _ in range(answers):
                tty.expect(QUESTION, 120)
                tty.type("y")
            code = tty.end(60 * (1 + commands.count("./inv")))
        assert code == 0, f"{commands}\n{tty.shown}"
        pairs = (line.partition("=") for line in variables.read_text().split("\0"))
        self.environment |= {name: value for name, _, value in pairs if name.startswith("INVOKE_")}
        return tty.shown

    def follow(self, step: Step, leave_out: Container[str]) -> str:
        """Run the commands of a step but some; return the output, with the paths and the backup of the page."""
        lines = [line for line in step.commands.splitlines() if line not in leave_out]
        commands = self._as_run("\n".join(lines))
        answers = (step.output or "").count(QUESTION)
        if not lines:
            return ""
        return self._as_on_page(self.on_server(commands) if step.language == "sh" else self.locally(commands, answers))

    def _paths(self) -> dict[str, str]:
        """Return the paths of the page, and what they are in the test."""
        copies = self.environment["INVOKE_FETCH_DIR"]
        return {
            APP: str(self.app),
            BACKUPS: str(self.backups),
            CONFIG_DIR: str(self.server.folder / "config"),
            REPOSITORY: str(self.repository),
            COPIES: copies,
            "/var/log/cron.log": str(self.server.folder / "cron.log"),
            EXAMPLE: self.stamp,
        }

    @property
    def repository(self) -> Path:
        """The off-site repository, which is elsewhere."""
        return self.server.folder.parent / "off-site"

    def _as_run(self, text: str) -> str:
        for page, actual in self._paths().items():
            text = text.replace(page, actual)
        return text

    def _as_on_page(self, text: str) -> str:
        for page, actual in self._paths().items():
            text = text.replace(actual, page)
        return text


def published_environment(demo_server: DemoServer) -> dict[str, str]:
    """Return an environment in which the service has the commands of the published settings."""
    variables = demo_server.environment.items()
    own = {name: value for name, value in variables if not name.startswith(("INVOKE_DATABASES_", "INVOKE_HOST"))}
    copies = str(demo_server.server.folder / "copies")  # without blanks, as on the page
    return own | {"INVOKE_FETCH_DIR": copies, "COLUMNS": "400", "LINES": "50", "TERM": "dumb", "PYTHON": sys.executable}
