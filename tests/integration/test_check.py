"""`check` on a machine whose cron makes backups: what goes wrong changes its result at once, and so does its end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from demo_backups.health.state import State
from demo_backups.settings.model import Settings

from ..helpers.tasks import clean_environment
from .clock import Clock
from .conftest import Server
from .cron import run_due_jobs
from .machine import Machine

MINUTE, HOUR = 60, 3600
SIZE, FLOOR = "32M", "4 MB"  # of the disk with the database and its backups; what must stay free


def move_to_small_disk(machine: Machine, folder: str) -> None:
    """Mount a small file system in the place of a directory, with its content."""
    machine.run("mkdir", "/run/disk")
    machine.run("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tmpfs", "/run/disk")
    machine.run("cp", "--archive", f"{folder}/.", "/run/disk")
    machine.run("mount", "--move", "/run/disk", folder)


class Watched:
    """The demo server with a crontab line for every minute, a small disk for its backups, and a clock of its own."""

    def __init__(self, machine: Machine, home: Path, settings: Settings) -> None:
        self.clock = Clock(machine)
        machine.make_demo(settings)
        move_to_small_disk(machine, "/home")
        sshd = machine.sshd(self.clock.sshd_line)
        machine.known_hosts.write_text(sshd.known)
        machine.configure(machine.alias("demo", sshd))
        variables = {"INVOKE_SSH_CONFIG": str(machine.ssh_config), "INVOKE_FREE_SPACE_FLOOR": FLOOR}
        self.server = Server(machine, sshd, settings, clean_environment(home) | variables)
        self.backups = machine.inside(settings.backup_dir)
        self._log = machine.outside(settings.cron_log)

    def inv(self, *arguments: str) -> None:
        """Run tasks that succeed."""
        done = self.server.inv(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr

    def enable(self) -> None:
        """Deploy the script, and add the published line for every minute instead of every hour."""
        self.inv("deploy-index-backup", "enable-index-backup")
        crontab = self.server.machine.crontab()
        assert crontab
        self.server.machine.set_crontab(crontab.replace(b"0  * * * *", b"*  * * * *"))

    def names(self) -> set[str]:
        """The names of the backups."""
        return {path.name for path in self.backups.glob("backup_*.db")}

    def newest(self) -> Path:
        """The backup that was written last."""
        return max(self.backups.glob("backup_*.db"), key=lambda path: path.stat().st_mtime)

    def wait_a_minute(self) -> None:
        """Let cron run its line once."""
        before, logged = self.names(), self._log_size()
        run_due_jobs(
            self.server.machine,
            self.server.database.script.name,
            lambda: self.names() != before or self._log_size() != logged,
            period=MINUTE,
        )
        written = [self.backups / name for name in self.names() - before]
        self.clock.shift_times([*written, *([self._log] if self._log_size() != logged else [])])

    def _log_size(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def check(self, state: State, *texts: str) -> str:
        """Run `check` once: it must report this state, and these texts."""
        done = self.server.inv("check", "--database", "index")
        print(done.stdout, done.stderr)
        assert done.returncode == state.value
        (line,) = done.stdout.splitlines()
        assert line.startswith(f"{state.name} demo/index: ")
        for text in texts:
            assert text in line
        return line


@pytest.fixture
def watched(machine: Machine, home: Path, project_settings: Settings) -> Watched:
    """The server after its first minute: one backup, verified, and drilled."""
    watched = Watched(machine, home, project_settings)
    watched.enable()
    watched.wait_a_minute()
    watched.inv("verify", "restore-drill")
    return watched


# --- what goes wrong, and its end ---


def stop_cron(watched: Watched) -> None:
    # Outside of `wait_a_minute`, cron does not run.
    watched.clock.advance(150)
    watched.check(State.WARNING, "backup 2 min old")
    watched.clock.advance(100)
    watched.check(State.CRITICAL, "backup 4 min old")
    watched.wait_a_minute()
    watched.check(State.OK)


def damage_backup(watched: Watched) -> None:
    with preserved(watched.newest()) as backup:
        os.truncate(backup, backup.stat().st_size // 2)
        watched.clock.shift_times([backup])
        watched.check(State.CRITICAL, f"{backup.name} is damaged")
    watched.inv("verify")
    with preserved(watched.newest()) as backup:
        overwrite(backup, 5 * 4096, b"x" * 4096)
        watched.clock.shift_times([backup])
        watched.check(State.CRITICAL, f"{backup.name} was changed after it was verified")
    watched.check(State.OK)


def fill_disk(watched: Watched) -> None:
    filler = watched.backups / ".filler"
    free = os.statvfs(watched.backups)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - 64 * 1024)
    watched.check(State.CRITICAL, "disk full")
    watched.wait_a_minute()  # the job fails
    filler.unlink()
    watched.check(State.WARNING, "log of cron: index-db-backup.sh: ", "full")
    watched.wait_a_minute()
    watched.check(State.OK)


def set_clock_forward(watched: Watched) -> None:
    watched.clock.advance(HOUR)
    line = watched.check(State.CRITICAL, "backup 6", "ahead of that of this machine")
    assert "log of cron" not in line  # the last run succeeded
    watched.wait_a_minute()
    watched.clock.advance(-HOUR)
    watched.check(State.WARNING, "1 backup is dated in the future")
    watched.newest().unlink()
    watched.check(State.OK)


def set_clock_back(watched: Watched) -> None:
    watched.clock.advance(-HOUR)
    watched.check(State.CRITICAL, "no backup", "dated in the future", "behind that of this machine")
    watched.wait_a_minute()
    watched.check(State.WARNING, "dated in the future")
    watched.clock.advance(HOUR)
    watched.check(State.OK)


def miss_drill(watched: Watched) -> None:
    folder = Path(watched.server.environment["INVOKE_EVIDENCE_DIR"])
    for path in folder.glob("*drill*.json"):
        record = json.loads(path.read_text())
        record["when"] = (datetime.fromisoformat(record["when"]) - timedelta(days=46)).isoformat()
        path.write_text(json.dumps(record))
    watched.check(State.WARNING, "drill 46 d ago")
    watched.inv("restore-drill", "--due")
    watched.check(State.OK)


def overwrite(path: Path, offset: int, content: bytes) -> None:
    """Write over a part of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


@contextmanager
def preserved(path: Path) -> Iterator[Path]:
    """Put a file back as it was."""
    copy = path.with_name(".preserved")
    shutil.copy2(path, copy)
    yield path
    copy.replace(path)


def test_check_follows_every_change(watched: Watched) -> None:
    watched.check(State.OK, "backup ", "verified ", "drill ")
    for phase in (stop_cron, damage_backup, fill_disk, set_clock_forward, set_clock_back, miss_drill):
        print(phase.__name__)
        phase(watched)
