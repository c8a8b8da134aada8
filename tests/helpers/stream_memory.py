"""Stream zeros to and from a host, and print the largest memory in KiB before and after: run in a process of its own.

Arguments: the alias of the host or `local`, an SSH configuration file, and the number of bytes.
"""

from __future__ import annotations

import io
import resource
import sys

from demo_backups.project import read_project_file
from demo_backups.remote.connection import open_host
from demo_backups.remote.files import receive, send
from demo_backups.remote.host import Host
from demo_backups.settings.load import load_settings


class Zeros(io.RawIOBase):
    """A source of zeros that are not kept in memory."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.left = size

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return some zeros."""
        size = min(size, self.left)
        self.left -= size
        return bytes(size)


class Nothing(io.RawIOBase):
    """A sink that keeps nothing."""

    def writable(self) -> bool:
        """Tell that it can be written."""
        return True

    def write(self, data: object) -> int:
        """Take the data."""
        return len(data)  # type: ignore[arg-type]


def stream(host: Host, size: int) -> None:
    """Send so many bytes, and receive as many."""
    source, sink = Zeros(size), Nothing()
    sent = send(host, "send zeros", "cat >/dev/null", source, root=False)  # type: ignore[arg-type]
    received = receive(host, "receive zeros", f"head -c {size} /dev/zero", sink, root=False)  # type: ignore[arg-type]
    assert (sent.bytes, received.bytes, sent.sha256) == (size, size, received.sha256)


def main(name: str, ssh_config: str, size: int) -> None:
    """Stream a little, then a lot."""
    project = read_project_file()
    settings = load_settings(project, project, environ={})
    with open_host(settings.model_copy(update={"ssh_config": ssh_config, "use_sudo": False}), name) as host:
        stream(host, 24 * 2**20)  # fills every window and buffer once
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        stream(host, size)
        print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
