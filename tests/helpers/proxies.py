"""A TCP proxy that can stop forwarding without closing anything, or reset its connections."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator


class SilentProxy:
    """Forwards connections to a port of 127.0.0.1. `silence` drops all further bytes of those that are open."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._silent = threading.Event()

    @property
    def connections(self) -> int:
        """The number of connections so far."""
        return len(self._sockets) // 2

    def silence(self) -> None:
        """Drop what the open connections send from now on; later ones are forwarded."""
        self._silent.set()
        self._silent = threading.Event()

    def reset(self) -> None:
        """Reset the open connections, as a router does that has forgotten them; later ones are forwarded."""
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                # Closed without waiting for what was not sent: RST instead of FIN.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RD)
                connection.close()

    def serve(self) -> None:
        """Accept connections until the proxy is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=_forward, args=(source, sink, self._silent), daemon=True).start()

    def close(self) -> None:
        """Close everything."""
        for connection in (self._listening, *self._sockets):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def _forward(source: socket.socket, sink: socket.socket, silent: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if not silent.is_set():
                sink.sendall(data)
        if not silent.is_set():
            sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def silent_proxy(port: int) -> Iterator[SilentProxy]:
    """Run a proxy to a port of 127.0.0.1."""
    proxy = SilentProxy(port)
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
