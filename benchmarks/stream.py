"""Download a file as `inv fetch` does, without the hash on the server and without checks: run in a process of its own.

Arguments: the alias of the host, an SSH configuration file, the file on the host, the partial file here, and `zstd` or
`plain`. Prints one JSON object: the seconds from before the login to the last byte, and the bytes on the wire.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path, PurePosixPath

from demo_backups.project import read_project_file
from demo_backups.remote.connection import open_host
from demo_backups.remote.download import Download, Meter, PartialFile, download
from demo_backups.settings.load import load_settings


def main(alias: str, ssh_config: str, path: str, part: str, compression: str) -> None:
    """Download once."""
    project = read_project_file()
    settings = load_settings(project, project, environ={})
    settings = settings.model_copy(update={"ssh_config": ssh_config, "use_sudo": False})
    started = time.monotonic()
    meter = Meter()
    with (
        PartialFile(Path(part), sys.maxsize, lambda size: None) as partial,
        open_host(settings, alias) as host,
    ):
        download(host, Download(PurePosixPath(path), compression == "zstd"), partial, meter)
        seconds = time.monotonic() - started
    print(json.dumps({"seconds": seconds, "bytes": partial.size, "sent_bytes": meter.count}))


if __name__ == "__main__":
    main(*sys.argv[1:])
