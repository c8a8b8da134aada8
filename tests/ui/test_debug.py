"""`inv --debug`: the commands that are run on a host, and nothing else, on standard error."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest

from demo_backups.ui.debug import limit_debug_output

from ..helpers.tasks import DemoServer

SECRET = "correct-horse-battery"


def test_debug_shows_commands_and_no_secret(demo_server: DemoServer) -> None:
    assert demo_server.inv("deploy-index-backup", "run-index-backup").returncode == 0
    done = demo_server.inv("--debug", "verify", "--json", INVOKE_SUDO_PASSWORD=SECRET)
    assert done.returncode == 0
    assert SECRET not in done.stdout + done.stderr
    json.loads(done.stdout)  # nothing of it is on standard output
    lines = done.stderr.splitlines()
    commands = [line for line in lines if line.startswith("debug: ")]
    assert all(re.match(r"debug: rehearsal: exit status \d+, \d+\.\d\d s: .", line) for line in commands)
    assert any("PRAGMA integrity_check" in line for line in lines)
    assert len(commands) >= 8
    # Invoke itself writes a few lines until it has loaded the tasks.
    others = [line for line in lines if not line.startswith(("debug: ", "  ", "rehearsal: verify "))]
    assert [line for line in others if not line.startswith("invoke.")] == []
    assert len(others) <= 5


def test_without_debug_nothing_is_shown(demo_server: DemoServer) -> None:
    done = demo_server.inv("list-backups")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, which is put back afterwards, with that of the project."""
    root, project = logging.getLogger(), logging.getLogger("demo_backups")
    before = root.level, list(root.handlers), project.level, list(project.handlers), project.propagate
    yield root
    root.level, root.handlers, project.level, project.handlers, project.propagate = before


def test_only_records_of_project_are_shown(root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    root_logger.handlers = [logging.StreamHandler()]
    root_logger.setLevel(logging.DEBUG)
    limit_debug_output()
    logging.getLogger("invoke").debug("of Invoke")
    logging.getLogger("paramiko.transport").info("of Paramiko")
    logging.getLogger("demo_backups.remote").debug("one\ntwo\x1b]0;title\x07")
    assert capsys.readouterr().err == "debug: one\n  two\\x1b]0;title\\x07\n"


def test_other_levels_are_left_alone(root_logger: logging.Logger) -> None:
    handler = logging.StreamHandler()
    root_logger.handlers = [handler]
    root_logger.setLevel(logging.INFO)
    limit_debug_output()
    assert (root_logger.level, root_logger.handlers) == (logging.INFO, [handler])
