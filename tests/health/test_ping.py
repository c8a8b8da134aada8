"""The ping: the requests that a real server gets, the time limit, and that its URL stays secret."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo_backups.errors import PingError
from demo_backups.health.ping import add_fail, ping, validate_url
from demo_backups.settings.model import CheckSettings

from ..helpers.pings import SECRET, PingServer, send, serve_pings
from ..helpers.processes import wait_until


@pytest.fixture
def server() -> Iterator[PingServer]:
    with serve_pings() as pings:
        yield pings


def settings(path: Path | None = None, command: str | None = None) -> CheckSettings:
    return CheckSettings.model_validate(
        {
            "warn_age": None,
            "critical_age": None,
            "size_change": "50%",
            "ping_file": None if path is None else str(path),
            "ping_command": command,
        }
    )


def failure(check: CheckSettings, timeout: float = 5) -> str:
    """Ping, which must fail without a trace of the secret; return the error."""
    with pytest.raises(PingError) as caught:
        ping(check, True, timeout)
    error: BaseException | None = caught.value
    assert error is not None
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
    assert SECRET not in repr(error)
    return str(error)


@pytest.mark.parametrize(("success", "query"), [(True, ""), (False, ""), (True, "?a=/b"), (False, "?a=/b")])
def test_ping_requests_url_once(server: PingServer, tmp_path: Path, success: bool, query: str) -> None:
    file = tmp_path / "url"
    file.write_text(f"{server.url}{query}\n")
    for check in (settings(file), settings(command=f"cat '{file}'")):
        server.requests.clear()
        ping(check, success)
        assert server.requests == [f"GET /{SECRET}{'' if success else '/fail'}{query}"]


@pytest.mark.parametrize(
    ("url", "failing"),
    [
        ("https://h/x", "https://h/x/fail"),
        ("https://h/x/", "https://h/x/fail"),
        ("https://h:8/x?y=1&z=/#f", "https://h:8/x/fail?y=1&z=/"),
        ("http://h", "http://h/fail"),
        ("http://[::1]:80/x", "http://[::1]:80/x/fail"),
    ],
)
def test_fail_is_appended_to_path(url: str, failing: str) -> None:
    assert add_fail(validate_url(f" {url}\n")) == failing


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "file:///etc/passwd", "ftp://h/x", "http://", "http:///x", "http://h:x/", "http://h/ x"),
        *(
            "http://h/x\nhttp://h/y",
            "http://h/\x00",
            "http://ü/",
            "http://u:p@h/x",
            "http://[::1/x",
            "http://h/" + "x" * 3000,
        ),
    ],
)
def test_text_that_is_no_url(url: str) -> None:
    with pytest.raises(PingError) as caught:
        validate_url(url)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert not url or url not in str(caught.value)


# --- failures -------------------------------------------------------------------------------------------------------


def test_refused_answer_is_failure(server: PingServer) -> None:
    server.answer = lambda handler: send(handler, 404)
    assert "HTTP status 404" in failure(settings(command=f"echo {server.url}"))


def test_refused_connection_is_failure() -> None:
    assert "Connection refused" in failure(settings(command=f"echo http://127.0.0.1:1/{SECRET}"))


def test_unknown_host_is_failure() -> None:
    failure(settings(command=f"echo http://{SECRET}.invalid/"), timeout=30)


def test_garbage_is_failure(server: PingServer) -> None:
    server.answer = lambda handler: handler.wfile.write(f"{SECRET}\r\n\r\n".encode())
    failure(settings(command=f"echo {server.url}"))


def test_plain_server_has_no_tls(server: PingServer) -> None:
    failure(settings(command=f"echo https://127.0.0.1:{server.port}/{SECRET}"))


def test_slow_answer_ends_at_limit(server: PingServer) -> None:
    ended = threading.Event()

    def drip(handler: Any) -> None:
        # Each byte starts the timeout of the socket again.
        while not ended.wait(0.1):
            handler.wfile.write(b"x")

    server.answer = drip
    begin = time.monotonic()
    assert "within 1 s" in failure(settings(command=f"echo {server.url}"), timeout=1)
    assert time.monotonic() - begin < 5
    ended.set()


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "//[", "gopher://x/"])
def test_redirect_elsewhere_is_not_followed(server: PingServer, location: str) -> None:
    server.answer = lambda handler: send(handler, 302, Location=location)
    failure(settings(command=f"echo {server.url}"))
    assert len(server.requests) == 1


def test_redirect_to_http_is_followed(server: PingServer) -> None:
    server.answer = lambda handler: send(handler, *(200,) if "new" in handler.path else (301,), Location="/new")
    ping(settings(command=f"echo {server.url}"), True)
    assert server.requests == [f"GET /{SECRET}", "GET /new"]


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"\xff")
    # The last one is the URL itself, in place of the path of a file.
    for path in (tmp_path / SECRET, tmp_path, tmp_path / "pipe", tmp_path / "bytes", Path(f"https://x/{SECRET}")):
        assert "ping_file" in failure(settings(path))


def test_command_that_fails() -> None:
    assert "exit status 7" in failure(settings(command=f"echo {SECRET}; echo {SECRET} >&2; exit 7"))


def is_alive(process: Path) -> bool:
    """Tell whether a process exists and has not ended."""
    try:
        return (process / "stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_command_is_ended_at_limit(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = f"sleep 300 & echo $! > '{pids}'; wait"
    assert "within 0.5 s" in failure(settings(command=command), timeout=0.5)
    (pid,) = pids.read_text().split()
    wait_until(lambda: not is_alive(Path("/proc") / pid), "the end of what the command had started")
