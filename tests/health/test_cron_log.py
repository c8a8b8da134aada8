"""The end of cron's log: what is read of it, and which message of a script is the last one."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from demo_backups.errors import CouldNotLookError
from demo_backups.health.cron_log import LOG_TAIL, CronLog, LogMessage, find_message, log_command, parse_log
from demo_backups.remote.host import Host

NAME = "index-db-backup.sh"
FAILURE = f"{NAME}: cannot back up /srv/x.db: database is locked"


@pytest.mark.parametrize(
    "line",
    [
        FAILURE,
        f"/srv/it's x/{NAME}: line 12: sqlite3: command not found",
        f"/bin/sh: 1: /srv/{NAME}: not found",
        f"/bin/sh: line 1: /srv/{NAME}: Permission denied",
        f"bash: /srv/{NAME}: No such file or directory",
        f"env: '{NAME}': No such file or directory",
        f"flock: failed to execute /srv/{NAME}: Permission denied",
    ],
)
def test_message_of_script_is_found(line: str) -> None:
    assert find_message(["x", line, "more of it"], NAME) == LogMessage(line, True)


@pytest.mark.parametrize(
    "line",
    [
        f"Nov 26 08:00:01 demo CRON[123]: (root) CMD (/srv/{NAME} >> /var/log/cron.log 2>&1)",
        f"2026-11-26T08:00:01.123456+00:00 demo CRON[123]: (root) CMD (/srv/{NAME})",
        f"my-{NAME}: failed",
        f"{NAME}.old: failed",
        "tracker-db-backup.sh: cannot back up",
        f"{NAME}",
        "",
    ],
)
def test_other_lines_are_no_message(line: str) -> None:
    assert find_message([line], NAME) is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([FAILURE, "Error: near line 3:", "disk is full"], LogMessage(FAILURE, True)),
        ([FAILURE, "tracker-db-backup.sh: failed"], LogMessage(FAILURE, False)),
        ([FAILURE, f"{NAME}: again"], LogMessage(f"{NAME}: again", True)),
        (["tracker-db-backup.sh: failed", FAILURE], LogMessage(FAILURE, True)),
        ([], None),
    ],
)
def test_last_message_is_found(lines: list[str], message: LogMessage | None) -> None:
    assert find_message(lines, NAME) == message


def read(host: Host, path: Path) -> CronLog | None:
    """Read a log on a host."""
    return host.query_parsed("read the log", log_command(PurePosixPath(path)), parse_log)


def test_end_of_log_is_read(local_host: Host, tmp_path: Path) -> None:
    log = tmp_path / "cron's log"
    assert read(local_host, log) is None
    log.write_text("")
    os.utime(log, (1_700_000_000, 1_700_000_000.5))
    assert read(local_host, log) == CronLog(1_700_000_000.5, ())
    log.write_bytes(b"a\n\n\0b\xff\n")
    found = read(local_host, log)
    assert found
    assert found.lines == ("a", "b\udcff")
    log.write_text(f"{'x' * LOG_TAIL}\n{FAILURE}\nunfinished")
    found = read(local_host, log)
    assert found
    assert found.lines == (FAILURE, "unfinished")


def test_what_is_no_log_is_not_read(local_host: Host, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert read(local_host, tmp_path / "pipe") is None
    assert read(local_host, Path("/dev/null")) is None
    assert read(local_host, tmp_path) is None


def test_unreachable_log_is_an_error(local_host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CouldNotLookError):
        read(local_host, tmp_path / "file" / "cron.log")
