"""The figures of fetch and restore: flags, how raw numbers become rows, the proxy and the sshd, and a small run."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import SettingsError
from demo_backups.project import ROOT
from demo_backups.rehearsal.database import make_tracker
from demo_backups.rehearsal.server import processes_at_home

from .helpers.processes import wait_until
from .helpers.tasks import InvRunner

sys.path.insert(0, str(ROOT / "benchmarks"))
from bench import parse_scale
from loopback import ALIAS, SSHD, Proxy, find_descendants, missing_for_link, proxy_to, read_memory, serve_sshd
from recovery import FULL, RESULTS, SMALL, Scale, change_pages, count_changed_pages
from recovery_figures import FIGURES, summarize
from render import format_figures

FLAGS = ("sizes", "journals", "rates", "methods", "rounds")
needs_sshd = pytest.mark.skipif(not Path(SSHD).exists(), reason="needs sshd")


# --- flags ----------------------------------------------------------------------------------------------------------


def scale_of(flags: dict[str, str], full: bool = False) -> Scale:
    return parse_scale(full, dict.fromkeys(FLAGS) | flags)


@pytest.mark.parametrize(
    ("full", "flags", "scale"),
    [
        (False, {}, SMALL),
        (True, {}, FULL),
        (False, {"sizes": "0.1, 2"}, Scale(0.1e9, 2e9)),
        (True, {"rounds": "1", "rates": "50"}, Scale(FULL.fetch, FULL.restore, 1, 50)),
    ],
)
def test_flags_replace_parts_of_scale(full: bool, flags: dict[str, str], scale: Scale) -> None:
    assert scale_of(flags, full) == scale


@pytest.mark.parametrize(
    "flags",
    [
        *({"sizes": text} for text in ("1", "1,1,1", "0,1", "1,nan", "big,1", "1,1e9")),
        *({"rates": text} for text in ("1,2", "-1", "fast")),
        *({"rounds": text} for text in ("0", "many")),
        {"journals": "wal"},
        {"methods": "script"},
    ],
)
def test_invalid_flag_of_recovery_is_refused(flags: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        scale_of(flags)
    assert caught.value.exit_code == 2


# --- from raw numbers to rows ---------------------------------------------------------------------------------------

STREAM = {"bytes": 100, "sent_bytes": 100, "scp": [2.0, 9.0, 1.0], "stream": [3.0, 3.0, 50.0], "inv fetch": [9.0]}
RESUME = {"bytes": 2**25, "whole": 2**25, "interrupted": 2**25 + 2**23, "connection lost": 2**25 - 5}
DELTA = {"bytes": 1000, "sent_bytes": 30, "verified": True, "pages": 100, "changed_pages": 1}
RESTORE: dict[str, Any] = {
    "bytes": 100,
    "cp": [2.0, 2.0, 2.0],
    ".restore": [5.0, 1.0, 9.0],
    "inv restore": [20.0],
    "refusals": [],
    "writes": {".restore": [{"failed": 0, "slowest": 0.5}], "inv restore": [{"failed": 0, "slowest": 0.1}]},
}
ROLLBACK = {
    "bytes": 100,
    "refused": {"status": 1, "unchanged": True, "seconds": 1.0, "stderr": ""},
    "restored": {"status": 0, "seconds": 1.0, "stderr": ""},
    "commits": 1000,
    "failed_writes": 0,
    "slowest_write": 0.5,
}
MEMORY: dict[str, Any] = {
    "small": {"here": 70e6, "server": 10e6, "idle here": 60e6, "idle server": 0},
    "large": {"here": 124e6, "server": 64e6, "idle here": 60e6, "idle server": 0},
}
GOOD: dict[str, Any] = {
    "stream": STREAM,
    "link": STREAM | {"stream": [1.4]},
    "delta": DELTA,
    "resume": RESUME,
    "restore": RESTORE,
    "rollback": ROLLBACK,
    "memory": MEMORY,
}


def is_reached(name: str, numbers: Any) -> bool | None:
    (figure,) = summarize({name: numbers})
    return figure.reached


@pytest.mark.parametrize("name", FIGURES)
def test_figure_at_its_limit_is_reached(name: str) -> None:
    assert is_reached(name, GOOD[name]) is True


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("stream", {"stream": [3.1]}),
        ("link", {"stream": [1.5]}),
        ("delta", {"sent_bytes": 31}),
        ("delta", {"verified": False}),
        ("resume", {"interrupted": 2**25 + 2**23 + 1}),
        ("resume", {"connection lost": 2**25 + 2**23 + 1}),
        ("restore", {".restore": [5.1]}),
        ("restore", {"writes": RESTORE["writes"] | {".restore": [{"failed": 1, "slowest": 5.0}]}}),
        ("restore", {"writes": RESTORE["writes"] | {"inv restore": [{"failed": 1, "slowest": 5.0}]}}),
        ("rollback", {"failed_writes": 1}),
        ("rollback", {"refused": {"status": 0, "unchanged": True}}),
        ("rollback", {"refused": {"status": 1, "unchanged": False}}),
        ("rollback", {"refused": {"status": 3, "unchanged": True}}),
        ("rollback", {"restored": {"status": 3, "seconds": 1.0}}),
        ("memory", {"large": MEMORY["large"] | {"here": 125e6}}),
        ("memory", {"small": MEMORY["small"] | {"server": 65e6}}),
        ("memory", {"small": {"failed": "exit 1"}}),
        ("stream", {"failed": "exit 1"}),
    ],
)
def test_figure_beyond_its_limit_is_missed(name: str, change: dict[str, Any]) -> None:
    assert is_reached(name, GOOD[name] | change) is False


def test_skipped_figure_has_its_reason() -> None:
    (figure,) = summarize({"link": {"not measured": "needs root"}})
    assert figure.cells()[2:] == ["not measured: needs root", ""]


def test_documented_rows_show_stored_numbers() -> None:
    stored = json.loads(RESULTS.read_text())["measured"]
    page = (ROOT / "docs/benchmarks.md").read_text().splitlines()
    lines = format_figures(summarize(stored))
    assert len(lines) == 2 + len(FIGURES)
    assert [line for line in lines if line not in page] == []


# --- what is measured -----------------------------------------------------------------------------------------------


def test_changed_pages_are_spread_and_counted(tmp_path: Path) -> None:
    source, copy = tmp_path / "source.db", tmp_path / "copy.db"
    make_tracker(source, "delete", 50_000)
    shutil.copyfile(source, copy)
    assert count_changed_pages(source, copy) == 0
    change_pages(source, 0.01)
    pages = source.stat().st_size // 4096
    assert 0.008 * pages < count_changed_pages(source, copy) < 0.012 * pages
    with sqlite3.connect(source) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_memory_counts_all_descendants() -> None:
    """A process with 50 MB, started by a shell, which waits for it."""
    program = "import sys; data = b'x' * 50_000_000; print('ready', flush=True); sys.stdin.read()"
    command = ["sh", "-c", '"$@"; true', "sh", sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        pids = find_descendants(process.pid)
        assert len(pids) == 2
        assert 50e6 < read_memory(pids) < 80e6


@pytest.fixture
def echo_port() -> Iterator[int]:
    """Run a server that sends 100 kB to each client."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, "-c", ECHO]
        with subprocess.Popen(command, stdin=listening.fileno(), stdout=subprocess.DEVNULL) as process:
            yield listening.getsockname()[1]
            process.kill()


ECHO = """
import socket
listening = socket.socket(fileno=0)
while True:
    connection, _ = listening.accept()
    try:
        connection.sendall(b"x" * 100_000)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass
"""


def receive_all(proxy: Proxy) -> bytes:
    data = b""
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        while piece := connection.recv(65536):
            data += piece
    return data


def test_proxy_delays_and_counts(echo_port: int) -> None:
    with proxy_to(echo_port, delay=0.2) as proxy:
        begin = time.monotonic()
        assert len(receive_all(proxy)) == 100_000
        assert time.monotonic() - begin >= 0.2
        assert proxy.sent == 100_000


def test_proxy_cuts_connection_once(echo_port: int) -> None:
    with proxy_to(echo_port) as proxy:
        proxy.call_after(1, proxy.cut)
        assert 0 < len(receive_all(proxy)) <= 100_000
        wait_until(lambda: len(receive_all(proxy)) == 100_000, "a connection that is not cut")


@needs_sshd
def test_sshd_has_own_home_and_leaves_nothing(tmp_path: Path) -> None:
    """Also a process that a session has left in the background ends with the server."""
    with serve_sshd(tmp_path / "sshd") as sshd:
        command = ["ssh", "-F", str(sshd.write_config("x")), ALIAS, "setsid sleep 600 >/dev/null 2>&1 & echo $HOME"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout == f"{sshd.home}\n", done.stderr + (sshd.folder / "sshd.log").read_text()
        wait_until(lambda: processes_at_home(sshd.home), "the process in the background")
    assert processes_at_home(sshd.home) == []


@needs_sshd
def test_small_recovery_end_to_end(run_inv: InvRunner, tmp_path: Path) -> None:
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    small = ("--recovery", "--sizes", "0.002,0.002", "--rounds", "1", "--rates", "20")
    done = run_inv("bench", *small, "--folder", str(disk), "--out", str(out))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    measured = json.loads((out / "recovery.json").read_text())["measured"]
    assert measured.keys() == FIGURES.keys()
    without_link = {"link"} if missing_for_link() else set()
    assert {name for name, numbers in measured.items() if "not measured" in numbers} == without_link
    figures = summarize(measured)
    assert [figure.measured for figure in figures if figure.measured.startswith("failed")] == []
    assert measured["resume"]["whole"] > measured["resume"]["bytes"]
    assert len(measured["restore"]["inv restore"]) == 1
    assert measured["rollback"]["failed_writes"] == 0
    refused = measured["rollback"]["refused"]
    assert refused["unchanged"] is (refused["status"] == 1)  # an idle machine restores so few pages in time
    assert len([line for line in done.stdout.splitlines() if line.startswith("| ")]) == 2 + len(FIGURES)
    assert list(disk.iterdir()) == []
