"""Measure fetch and restore, side by side with `scp` and `cp` in one run.

The server is a real sshd on this machine. `python benchmarks/recovery.py FOLDER ROUNDS` measures the slow link, as root
in a network namespace of its own.
"""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loopback import (
    ALIAS,
    SERVER,
    Sshd,
    find_descendants,
    missing_for_link,
    proxy_to,
    read_memory,
    serve_sshd,
    slow_link,
)
from measure import BYTES_PER_ROW, script_command

from demo_backups.errors import BackupsError
from demo_backups.project import ROOT
from demo_backups.rehearsal.database import make_tracker
from demo_backups.rehearsal.server import processes_at_home
from demo_backups.rehearsal.writer import Traffic, live_writer
from demo_backups.sqlite.command import SQLITE

RESULTS = ROOT / "benchmarks/recovery.json"
INV = [str(Path(sys.executable).with_name("inv")), "--search-root", str(ROOT)]
STREAM = str(Path(__file__).with_name("stream.py"))
SAMPLE = 0.1  # seconds between two looks at the memory of a task
LINK_RATE, LINK_DELAY = "100mbit", 0.01  # bits per second, and seconds for each direction
CHANGED_PAGES = 0.01
TIGHT_TIMEOUT = "0.05 s"  # a writer_timeout that no restore in rollback mode keeps

INSERT_RANDOM = """
    WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :rows)
    INSERT INTO torrents (info_hash, completed)
    SELECT lower(hex(randomblob(20))), n * 2654435761 % 90 FROM numbers
"""


@dataclass(frozen=True)
class Scale:
    """The sizes of a fetch and of a restore in bytes, the number of rounds, and commits per second."""

    fetch: float
    restore: float
    rounds: int = 3
    rate: float = 200


SMALL, FULL = Scale(100e6, 200e6), Scale(400e6, 1e9)


class NotMeasuredError(Exception):
    """A figure cannot be measured on this machine."""


class TaskFailedError(Exception):
    """A task that is measured failed."""


# --- a server with a database and a backup --------------------------------------------------------------------------


def make_random_tracker(path: Path, journal: str, rows: int) -> None:
    """Create a tracker database with random hashes: zstd leaves 55 % of it, as of a real one.

    Those of `make_tracker` come in the order of the index, and leave 27 %.
    """
    make_tracker(path, journal, 1)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA cache_size = -500000")
        with database:
            database.execute(INSERT_RANDOM, {"rows": rows})


@dataclass
class Site:
    """A folder with a live database, its backups, and the HOME of the tasks."""

    folder: Path

    @property
    def source(self) -> Path:
        """The live database."""
        return self.folder / "app/storage/tracker/lib/database/sqlite3.db"

    @property
    def backups(self) -> Path:
        """The directory of the backups."""
        return self.folder / "backups"

    def newest(self) -> Path:
        """Return the newest backup."""
        return max(self.backups.glob("tracker_backup_*.db"))

    def create(self, size: float, journal: str) -> None:
        """Create the database, and one backup of it."""
        for path in (self.source.parent, self.backups, self.folder / "home"):
            path.mkdir(parents=True)
        make_random_tracker(self.source, journal, int(size / BYTES_PER_ROW))
        self.back_up()

    def back_up(self) -> Path:
        """Make a backup with the script; a second one in the same second would have the same name."""
        last = max(self.backups.glob("tracker_backup_*.db"), default=None)
        while last is not None and last.name >= time.strftime("tracker_backup_%Y-%m-%d_%H-%M-%S.db"):
            time.sleep(0.05)
        subprocess.run(script_command(self.source, self.backups), check=True, stdout=subprocess.DEVNULL)
        return self.newest()

    def environment(self, ssh_config: Path) -> dict[str, str]:
        """Return the environment of a task."""
        return {name: value for name, value in os.environ.items() if not name.startswith("INVOKE_")} | {
            "HOME": str(self.folder / "home"),
            "INVOKE_HOST": ALIAS,
            "INVOKE_SSH_CONFIG": str(ssh_config),
            "INVOKE_USE_SUDO": "0",
            "INVOKE_APP_DIR": str(self.folder / "app"),
            "INVOKE_BACKUP_DIR": str(self.backups),
            "INVOKE_EVIDENCE_DIR": str(self.folder / "evidence"),
            "INVOKE_FETCH_DIR": str(self.folder / "copies"),
            "INVOKE_DATABASES_TRACKER_STOP": "",
            "INVOKE_DATABASES_TRACKER_START": "",
            "INVOKE_DATABASES_TRACKER_HEALTHY": "",
        }


@dataclass
class Run:
    """A task that has ended: seconds, exit code, what it printed, and its peak memory here and on the server."""

    seconds: float
    status: int
    stdout: str
    stderr: str
    here: int
    server: int

    def require(self, *codes: int) -> Run:
        """Return this run; raises TaskFailedError for another exit code than 0, or than those."""
        if self.status not in (codes or (0,)):
            raise TaskFailedError(f"exit {self.status}: {self.stdout}{self.stderr}")
        return self


@dataclass
class Client:
    """Runs tasks on a site over SSH, one after the other; `enter` is put before each command."""

    site: Site
    sshd: Sshd
    ssh_config: Path
    enter: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None

    def inv(self, *arguments: str, **changes: str) -> Run:
        """Run a task for the tracker database, with changes to its environment."""
        command = [*self.enter, *INV, arguments[0], "--database", "tracker", *arguments[1:]]
        environment = self.site.environment(self.ssh_config) | changes
        output, errors = self.site.folder / "stdout", self.site.folder / "stderr"
        local = server = 0
        started = time.monotonic()
        with output.open("w") as stdout, errors.open("w") as stderr:
            self.process = process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            while process.poll() is None:
                local = max(local, read_memory(find_descendants(process.pid)))
                server = max(server, read_memory(processes_at_home(self.sshd.home)))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(SAMPLE)
        seconds = time.monotonic() - started
        printed, complaint = (path.read_text().replace(str(self.site.folder), "FOLDER") for path in (output, errors))
        return Run(seconds, process.returncode, printed, complaint, local, server)

    def interrupt(self) -> None:
        """Send Ctrl-C to the task that is running, and wait for its end."""
        assert self.process
        self.process.send_signal(signal.SIGINT)
        while self.process.poll() is None:
            time.sleep(0.01)

    def fetch(self, *arguments: str) -> Run:
        """Fetch the newest backup into an empty directory."""
        self.clear_copies()
        os.utime(self.site.newest())  # so that the server computes its SHA-256 again
        return self.inv("fetch", "--json", *arguments)

    def clear_copies(self) -> None:
        """Remove the fetched backups."""
        shutil.rmtree(self.site.folder / "copies", ignore_errors=True)

    def scp(self) -> float:
        """Copy the newest backup with scp; return the seconds."""
        target = self.site.folder / "scp.db"
        target.unlink(missing_ok=True)
        command = [*self.enter, "scp", "-q", "-F", str(self.ssh_config), f"{ALIAS}:{self.site.newest()}", str(target)]
        return measure(command)

    def stream(self, compression: str) -> dict[str, Any]:
        """Download the newest backup without hash job and checks; return what benchmarks/stream.py prints."""
        part = self.site.folder / "stream.part"
        part.unlink(missing_ok=True)
        os.sync()
        command = [*self.enter, sys.executable, STREAM, ALIAS, str(self.ssh_config)]
        done = subprocess.run(
            [*command, str(self.site.newest()), str(part), compression], check=True, stdout=subprocess.PIPE
        )
        if not filecmp.cmp(part, self.site.newest(), shallow=False):
            raise TaskFailedError("the stream gave another file")
        return dict(json.loads(done.stdout))


def measure(command: Sequence[str]) -> float:
    """Run a command that must succeed, with nothing left to write to the disk; return its seconds."""
    os.sync()
    started = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - started


@contextlib.contextmanager
def open_client(folder: Path, size: float, journal: str) -> Iterator[Client]:
    """Create a site and an sshd, both in a folder."""
    site = Site(folder / "site")
    site.create(size, journal)
    with serve_sshd(folder / "sshd") as sshd:
        yield Client(site, sshd, sshd.write_config("direct"))


# --- fetch ----------------------------------------------------------------------------------------------------------


def measure_stream(client: Client, rounds: int, compression: str) -> dict[str, Any]:
    """Measure scp, the stream alone and the whole task, one after the other in each round."""
    options = ["--no-compress"] if compression == "plain" else []
    scp, stream, fetch = [], [], []
    sent = 0
    for _ in range(rounds):
        scp.append(client.scp())
        downloaded = client.stream(compression)
        stream.append(downloaded["seconds"])
        sent = downloaded["sent_bytes"]
        fetch.append(client.fetch(*options).require().seconds)
    size = client.site.newest().stat().st_size
    return {"bytes": size, "sent_bytes": sent, "scp": scp, "stream": stream, "inv fetch": fetch}


def measure_link(site: Path, rounds: int) -> dict[str, Any]:
    """Measure the stream over the slow link; raises NotMeasuredError."""
    if missing := missing_for_link():
        raise NotMeasuredError(missing)
    command = ["unshare", "--net", sys.executable, __file__, str(site), str(rounds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout))


def measure_link_inside(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure the stream over a slow link of this network namespace."""
    with (
        slow_link(LINK_RATE) as enter,
        serve_sshd(folder / "sshd_of_link") as sshd,
        proxy_to(sshd.port, LINK_DELAY, SERVER) as proxy,
    ):
        config = sshd.write_config("link", SERVER, proxy.port)
        return measure_stream(Client(Site(folder / "site"), sshd, config, enter), rounds, "zstd")


def measure_resume(client: Client) -> dict[str, Any]:
    """Count the bytes on the wire of a whole fetch, and of fetches that were interrupted at half and resumed."""
    with proxy_to(client.sshd.port) as proxy:
        ssh_config = client.sshd.write_config("proxy", port=proxy.port)
        proxied = Client(client.site, client.sshd, ssh_config)
        size = client.site.newest().stat().st_size

        def count(fetch: Callable[[], Run]) -> int:
            before = proxy.sent
            report = json.loads(fetch().require().stdout)
            if report["verified"] is not True:
                raise TaskFailedError(f"not verified: {report}")
            return proxy.sent - before

        def interrupted() -> Run:
            proxy.call_after(size // 2, proxied.interrupt)
            proxied.fetch("--no-compress").require(130)
            return proxied.inv("fetch", "--json", "--no-compress")

        def cut() -> Run:
            proxy.call_after(size // 2, proxy.cut)
            return proxied.fetch("--no-compress")

        whole = count(lambda: proxied.fetch("--no-compress"))
        return {"bytes": size, "whole": whole, "interrupted": count(interrupted), "connection lost": count(cut)}


def change_pages(source: Path, share: float) -> None:
    """Change rows that are spread over the database, about as many as this share of its pages."""
    with contextlib.closing(sqlite3.connect(source)) as database, database:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        (last,) = database.execute("SELECT max(id) FROM torrents").fetchone()
        ids = random.Random(85).sample(range(1, last + 1), max(1, int(pages * share)))
        update = "UPDATE torrents SET completed = completed + 1 WHERE id = ?"
        database.executemany(update, ((number,) for number in ids))


def count_changed_pages(one: Path, other: Path, page_size: int = 4096) -> int:
    """Count the pages in which two databases differ."""
    with one.open("rb") as first, other.open("rb") as second:
        changed = 0
        while pair := (first.read(page_size), second.read(page_size)):
            if pair == (b"", b""):
                return changed
            changed += pair[0] != pair[1]
    raise AssertionError


def measure_delta(client: Client) -> dict[str, Any]:
    """Fetch a backup, change some pages, and fetch the next backup with --delta."""
    base = client.site.newest()
    client.fetch().require()
    change_pages(client.site.source, CHANGED_PAGES)
    backup = client.site.back_up()
    run = client.inv("fetch", "--json", "--delta").require()
    report = json.loads(run.stdout)
    pages = backup.stat().st_size // 4096
    return {
        "bytes": report["bytes"],
        "sent_bytes": report["sent_bytes"],
        "verified": report["verified"],
        "pages": pages,
        "changed_pages": count_changed_pages(base, backup),
        "seconds": run.seconds,
    }


# --- restore --------------------------------------------------------------------------------------------------------


def restore_command(backup: Path, live: Path) -> list[str]:
    """Put a backup into a database in one transaction, as `restore.sh` does."""
    uri = f"file:{backup}?mode=ro&immutable=1"
    return [*SQLITE, f"file:{live}?mode=rw", ".timeout 60000", f".restore {uri}"]


def checkpoint(live: Path) -> None:
    """Empty the -wal, so that each round starts in the same state."""
    with contextlib.closing(sqlite3.connect(live)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def measure_restore(client: Client, scale: Scale) -> dict[str, Any]:
    """Measure `cp` and sync, `.restore` alone and the whole task, under a writer, in each round.

    The task refuses where it expects that writers would wait for too long: then it has no seconds, and its message.
    """
    site = client.site
    backup, copy = site.newest(), site.folder / "cp.db"
    client.inv("verify", "--backup", backup.name).require()
    cp, restore, task, refusals = [], [], [], []
    writes: dict[str, list[Traffic]] = {".restore": [], "inv restore": []}
    for _ in range(scale.rounds):
        copy.unlink(missing_ok=True)
        cp.append(measure(["sh", "-c", 'cp -- "$0" "$1" && sync -- "$1"', str(backup), str(copy)]))
        copy.unlink()
        checkpoint(site.source)
        with live_writer(site.source, scale.rate) as traffic:
            restore.append(measure(restore_command(backup, site.source)))
        writes[".restore"].append(traffic)
        checkpoint(site.source)
        with live_writer(site.source, scale.rate) as traffic:
            run = client.inv("restore", "--backup", backup.name, "--yes").require(0, 1)
        writes["inv restore"].append(traffic)
        if run.status == 0:
            task.append(run.seconds)
        else:
            refusals.append(run.stderr)
    return {
        "bytes": backup.stat().st_size,
        "cp": cp,
        ".restore": restore,
        "inv restore": task,
        "refusals": refusals,
        "writes": {name: [asdict(traffic) for traffic in found] for name, found in writes.items()},
    }


def measure_rollback(client: Client, scale: Scale) -> dict[str, Any]:
    """Restore in rollback mode under a writer; one that would exceed writer_timeout must be refused, with no change."""
    site = client.site
    backup = site.newest()
    client.inv("verify", "--backup", backup.name).require()
    command = ["restore", "--backup", backup.name, "--yes"]
    before = describe_state(site)
    refused = client.inv(*command, INVOKE_WRITER_TIMEOUT=TIGHT_TIMEOUT)
    unchanged = describe_state(site) == before
    with live_writer(site.source, scale.rate) as traffic:
        run = client.inv(*command)
    return {
        "bytes": backup.stat().st_size,
        "refused": {
            "status": refused.status,
            "unchanged": unchanged,
            "seconds": refused.seconds,
            "stderr": refused.stderr,
        },
        "restored": {"status": run.status, "seconds": run.seconds, "stderr": run.stderr},
        "commits": traffic.commits,
        "failed_writes": traffic.failed,
        "slowest_write": traffic.slowest,
    }


def describe_state(site: Site) -> tuple[str, list[str]]:
    """Return the SHA-256 of the live database, and the names next to the backups; hidden ones are state of tasks."""
    with site.source.open("rb") as file:
        sha256 = hashlib.sha256()
        while data := file.read(1 << 20):
            sha256.update(data)
    return sha256.hexdigest(), sorted(path.name for path in site.backups.iterdir() if not path.name.startswith("."))


# --- memory ---------------------------------------------------------------------------------------------------------


def measure_memory(client: Client, task: Sequence[str]) -> dict[str, int]:
    """Measure the memory of a task here and on the server, and that of one that only lists the backups."""
    client.clear_copies()
    idle = client.inv("list-backups").require()
    run = client.inv(*task).require()
    return {"here": run.here, "server": run.server, "idle here": idle.here, "idle server": idle.server}


def measure_fetch_memory(client: Client) -> dict[str, int]:
    """Measure the memory of a fetch."""
    return measure_memory(client, ["fetch"])


def measure_restore_memory(client: Client) -> dict[str, int]:
    """Measure the memory of a restore."""
    return measure_memory(client, ["restore", "--backup", client.site.newest().name, "--yes"])


# --- all --------------------------------------------------------------------------------------------------------------


def measure_all(scale: Scale, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure all figures in a folder; yields the name of each with its raw numbers."""
    rounds = scale.rounds
    memory: dict[str, Any] = {}
    with open_client(folder / "fetch", scale.fetch, "wal") as client:
        yield "stream", _try(lambda: measure_stream(client, rounds, "plain"))
        yield "link", _try(lambda: measure_link(folder / "fetch", rounds))
        yield "resume", _try(lambda: measure_resume(client))
        yield "delta", _try(lambda: measure_delta(client))
    shutil.rmtree(folder / "fetch")
    with open_client(folder / "small", scale.fetch / 10, "wal") as client:
        memory[f"fetch of {scale.fetch / 1e10:g} GB"] = _try(lambda: measure_fetch_memory(client))
    shutil.rmtree(folder / "small")
    with open_client(folder / "restore", scale.restore, "wal") as client:
        yield "restore", _try(lambda: measure_restore(client, scale))
        memory[f"fetch of {scale.restore / 1e9:g} GB"] = _try(lambda: measure_fetch_memory(client))
        memory[f"restore of {scale.restore / 1e9:g} GB"] = _try(lambda: measure_restore_memory(client))
    shutil.rmtree(folder / "restore")
    yield "memory", memory
    with open_client(folder / "rollback", scale.restore, "delete") as client:
        yield "rollback", _try(lambda: measure_rollback(client, scale))


def _try(measure_one: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Measure a figure; one that cannot be measured does not lose the others."""
    try:
        return measure_one()
    except NotMeasuredError as error:
        return {"not measured": str(error)}
    except (TaskFailedError, subprocess.CalledProcessError, BackupsError) as error:
        return {"failed": str(error)}


if __name__ == "__main__":
    print(json.dumps(measure_link_inside(Path(sys.argv[1]), int(sys.argv[2]))))
