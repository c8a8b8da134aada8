"""An HTTP server that gets the pings of a check."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

SECRET = "0b5e6b6c-secret"


@dataclass
class PingServer:
    """An HTTP server on 127.0.0.1, with the requests that it got and the way in which it answers."""

    port: int = 0
    requests: list[str] = field(default_factory=list)
    answer: Callable[[Any], None] = lambda handler: send(handler, 200)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{SECRET}"


def send(handler: Any, status: int, **headers: str) -> None:
    """Send an answer without a body."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


@contextlib.contextmanager
def serve_pings() -> Iterator[PingServer]:
    """Run a server; `SECRET` is the path of its URL."""
    pings = PingServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pings.requests.append(f"{self.command} {self.path}")
            pings.answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        pings.port = serving.server_address[1]
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield pings
        serving.shutdown()
        thread.join()
