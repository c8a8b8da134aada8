"""Jobs whose state directory is on a full disk: what is known is reported, and what is not is named."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from demo_backups.errors import COULD_NOT_LOOK, FAILED
from demo_backups.project import ROOT
from demo_backups.remote.shell import quote

from .helpers.backups import make_backup
from .helpers.tasks import INV, CompletedTask, DemoServer, assert_exit

NAME = "backup_2026-01-31_04-00-00.db"
NO_SPACE = "No space left on device"
InvOnSmallDisk = Callable[..., CompletedTask]


@pytest.fixture
def fill(home: Path) -> str:
    """The shell command that fills the disk of the state directories."""
    return f"cat /dev/zero > {quote(str(home / '.demo-backups/fill'))} 2>/dev/null || true"


@pytest.fixture
def inv_on_small_disk(demo_server: DemoServer, private_mounts: list[str], home: Path) -> InvOnSmallDisk:
    """Run a task on this machine after a shell command; its state directories have a disk of 256 kB."""
    state = home / ".demo-backups"
    state.mkdir(mode=0o700)
    mount = f"mount -t tmpfs -o size=256k,mode=700 tmpfs {quote(str(state))}"
    environment = dict(demo_server.environment) | {"INVOKE_FREE_SPACE_FLOOR": "0 B"}

    def run(before: str, *arguments: str) -> CompletedTask:
        task = [str(INV), "--search-root", str(ROOT), *arguments, "--host", "local"]
        script = f'{mount}; {before or ":"}; exec "$@"'
        return subprocess.run(
            [*private_mounts, "sh", "-euc", script, "sh", *task],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def install_backup(demo_server: DemoServer, body: str) -> None:
    """Install a script that does something and then makes a backup."""
    demo_server.script.write_text(f"#!/bin/sh\n{body}\n")
    demo_server.script.chmod(0o755)


def test_backup_is_not_started_on_full_disk(
    demo_server: DemoServer, inv_on_small_disk: InvOnSmallDisk, fill: str
) -> None:
    install_backup(demo_server, f"touch {quote(str(demo_server.backups / NAME))}")
    done = inv_on_small_disk(fill, "run", "--force-unsafe")
    assert_exit(done, FAILED, "the backup could not be started", NO_SPACE, "free space or inodes on the disk of ~/")
    assert demo_server.names() == []


def test_other_checks_run_on_full_disk(demo_server: DemoServer, inv_on_small_disk: InvOnSmallDisk, fill: str) -> None:
    make_backup(demo_server.source, demo_server.backups)
    done = inv_on_small_disk(fill, "verify")
    assert_exit(done, COULD_NOT_LOOK)
    assert NO_SPACE in " ".join(done.stdout.split())
    assert done.stdout.count("passed") == 4


def test_complete_backup_is_reported_despite_full_disk(
    demo_server: DemoServer, inv_on_small_disk: InvOnSmallDisk, fill: str
) -> None:
    install_backup(demo_server, f"{fill}; echo lost; echo x > {quote(str(demo_server.backups / NAME))}")
    done = inv_on_small_disk("true", "run", "--force-unsafe")
    assert_exit(done, 0)
    assert NAME in done.stdout
    assert "lost" not in done.stdout


def test_lost_output_of_failure_is_explained(
    demo_server: DemoServer, inv_on_small_disk: InvOnSmallDisk, fill: str
) -> None:
    install_backup(demo_server, f"{fill}; echo lost; exit 7")
    done = inv_on_small_disk("true", "run", "--force-unsafe")
    assert_exit(
        done, FAILED, "exit status 7", f"output may be missing: head: error writing 'standard output': {NO_SPACE}"
    )
