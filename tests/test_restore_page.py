"""docs/restore.md: its commands do what it says, and print what it shows."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from demo_backups.rehearsal.database import make_tracker
from demo_backups.rehearsal.server import processes_at_home

from .helpers.databases import dump, execute, is_consistent, overwrite
from .helpers.markdown import page
from .helpers.processes import wait_until
from .helpers.restore_page import PageServer, matches, normalize, published_environment, read_steps
from .helpers.tasks import DemoServer, InvRunner, assert_success

PAGE = page("restore.md")
TABLE = "torrust_torrent_announce_urls"
# The configuration of the application: name, mode, content.
CONFIG_FILES = (
    ("compose.yaml", 0o644, "services:\n  index:\n    image: torrust/index\n"),
    (".env.production", 0o600, "TRACKER_TOKEN=secret\n"),
)
# What the page says and the test does not run, with the reason.
NOT_RUN = {
    "sudo dmesg --level err,crit": "prints what this machine has",
    "sudo apt-get install --yes git python3 python3-venv openssh-client sqlite3 restic": "installs packages",
    "sudo apt-get install --yes sqlite3 cron git": "installs packages",
    "git clone https://github.com/torrust/torrust-demo /home/torrust/github/torrust/torrust-demo": "needs the network",
    "ssh demo": "asks for the host key",
    "sftp backup@storage.example.org": "asks for the host key",
    "sudo chown -R ACCOUNT: /home/torrust/github/torrust/torrust-demo/storage/index/lib/database": "an example",
    "./inv attach": "nothing is running",
}


@pytest.fixture
def server(demo_server: DemoServer) -> PageServer:
    """A server whose service writes, with two backups; the newer one is that of the page, verified and fetched."""
    now = time.time()
    stamps = [time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(now - hours * 3600)) for hours in (2, 1)]
    environment = published_environment(demo_server)
    server = PageServer(demo_server.server, demo_server.backups, environment, stamps[1])
    server.add_service("index", demo_server.source)
    server.install_programs()
    run(server, "deploy-index-backup")
    run(server, "run-index-backup")
    (backup,) = server.backups.glob("backup_*.db")
    for stamp, hours in zip(stamps, (2, 1), strict=True):
        copy = backup.with_name(f"backup_{stamp}.db")
        shutil.copyfile(backup, copy)
        os.utime(copy, (now - hours * 3600,) * 2)
    backup.unlink()
    run(server, "verify")
    run(server, "fetch")
    server.on_server("docker compose start index")
    return server


def run(server: PageServer, *arguments: str) -> str:
    """Run a task that the page does not name."""
    return assert_success(InvRunner(dict(server.environment))(*arguments))


def follow(server: PageServer, title: str) -> None:
    """Follow a section of the page, and compare what is printed with what it shows."""
    for step in read_steps(PAGE, title):
        printed = server.follow(step, NOT_RUN)
        if step.output is not None and not matches(printed, step.output):
            assert normalize(printed) == normalize(step.output), step.commands


def tables(path: Path) -> set[str]:
    """Return the names of the tables of a database."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=20)) as database:
        return {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def read_column(path: Path, query: str) -> set[str]:
    """Return the values of a column."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=20)) as database:
        return {row[0] for row in database.execute(query)}


def without_traffic(content: list[str]) -> list[str]:
    """Leave out the rows that the service writes."""
    return [statement for statement in content if "tracker_stats" not in statement]


def assert_service_writes(server: PageServer, name: str = "index") -> None:
    """Stop a service; since it was started, it must have written, and no write may have failed."""
    server.on_server(f"docker compose stop {name}")
    traffic = server.services[name].last_traffic()
    assert traffic["commits"] > 0
    assert traffic["failed"] == 0
    assert is_consistent(server.services[name].database)


def test_dropped_table_as_on_page(server: PageServer) -> None:
    follow(server, "Before you start")
    execute(server.index.database, f"DROP TABLE {TABLE}")
    follow(server, "A table was deleted")
    assert TABLE in tables(server.index.database)
    follow(server, "Go back")
    assert TABLE not in tables(server.index.database)
    assert_service_writes(server)
    assert server.index.errors() == ""


def test_damaged_database_as_on_page(server: PageServer) -> None:
    overwrite(server.index.database, 0, bytes(100))
    wait_until(server.index.errors, "the end of the service")
    server.index.wait_for_end()
    follow(server, "The database is damaged")
    assert TABLE in tables(server.index.database)
    assert_service_writes(server)


@pytest.fixture
def off_site_server(server: PageServer, demo_server: DemoServer) -> PageServer:
    """The server of the page with a second database and a configuration; copies of everything are off-site."""
    source = Path(demo_server.settings.database("tracker").source)
    source.parent.mkdir(parents=True)
    make_tracker(source, rows=1000)
    server.add_service("tracker", source)
    names = [f"tracker_backup_{server.stamp}.db", f"config_{server.stamp}.tar"]
    shutil.copyfile(source, server.backups / names[0])
    for name, mode, content in CONFIG_FILES:
        (server.app / name).write_text(content)
        (server.app / name).chmod(mode)
    server.environment["INVOKE_CONFIG_PATHS"] = " ".join(name for name, _, _ in CONFIG_FILES)
    run(server, "backup-config")
    (archive,) = server.backups.glob("config_*.tar")
    archive.rename(server.backups / names[1])
    time_of_backup = (server.backups / f"backup_{server.stamp}.db").stat().st_mtime
    for name in names:
        os.utime(server.backups / name, (time_of_backup, time_of_backup))
    run(server, "fetch", "--database", "tracker")
    run(server, "fetch", "--database", "config")
    server.store_off_site(lambda: run(server, "offsite"))
    return server


def lose_everything(server: PageServer) -> None:
    """Lose the server and the laptop, and create what is cloned on both."""
    server.on_server("docker compose stop index")
    copies, records = (Path(server.environment[f"INVOKE_{name}_DIR"]) for name in ("FETCH", "EVIDENCE"))
    for folder in (server.backups, server.app, copies, records):
        shutil.rmtree(folder)
    (server.app / "share/bin").mkdir(parents=True)


def test_lost_server_and_laptop_as_on_page(off_site_server: PageServer) -> None:
    server = off_site_server
    content = without_traffic(dump(server.backups / f"backup_{server.stamp}.db"))
    torrents = read_column(server.services["tracker"].database, "SELECT info_hash FROM torrents")
    lose_everything(server)
    follow(server, "The server is gone")
    assert_service_writes(server)
    assert without_traffic(dump(server.index.database)) == content
    assert_service_writes(server, "tracker")
    assert read_column(server.services["tracker"].database, "SELECT info_hash FROM torrents") >= torrents
    for name, mode, text in CONFIG_FILES:
        path = server.app / name
        assert (path.read_text(), path.stat().st_mode & 0o7777) == (text, mode)


def test_killed_restore_as_on_page(server: PageServer) -> None:
    execute(server.index.database, f"DROP TABLE {TABLE}")
    server.index.hang.touch()
    task = InvRunner(dict(server.environment)).start("restore", "--backup", f"backup_{server.stamp}.db", "--yes")
    wait_until(lambda: server.is_restore_stopping() or task.poll() is not None, "the restore")

    def kill_all() -> bool:
        """Kill what runs on the server, again and again: a process may start another one meanwhile."""
        for pid in processes_at_home(server.server.home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return task.poll() is not None

    wait_until(kill_all, "the end of the task")
    task.communicate(timeout=60)
    server.index.hang.unlink()
    follow(server, "A restore was interrupted")
    assert TABLE in tables(server.index.database)
    assert_service_writes(server)


def test_commands_that_are_not_run_are_on_page() -> None:
    assert set(NOT_RUN) <= set(PAGE.splitlines())


def test_changed_output_is_noticed() -> None:
    shown = "proof: equal to the backup, 2,301,952 bytes\nat 2026-01-31 12:00 UTC"
    assert matches("proof: equal to the backup,  176 bytes at\n2026-02-01 13:00 UTC", shown)
    assert matches(shown, "proof: equal\n...\n2026-01-31 12:00 UTC")
    assert not matches(shown.replace("equal", "not equal"), shown)
    assert not matches(f"{shown}\nfailed", shown)
    assert not matches(shown, "proof: not\n...\n2026-01-31 12:00 UTC")
