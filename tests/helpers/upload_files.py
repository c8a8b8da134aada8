"""Upload files to the backup directory of the demo server: run in a process of its own.

Prints the largest memory in KiB after each file. Arguments: an SSH configuration, bytes per second or 0, and files.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path, PurePosixPath

from demo_backups.project import read_project_file
from demo_backups.remote.connection import open_host
from demo_backups.remote.download import can_compress
from demo_backups.remote.upload import upload
from demo_backups.settings.load import load_settings


def main(ssh_config: str, limit: int, *paths: str) -> None:
    """Upload each file plain and, if there is no limit, compressed."""
    project = read_project_file()
    settings = load_settings(project, project | {"ssh_config": ssh_config}, environ={})
    with open_host(settings) as host:
        assert can_compress(host)
        for path in map(Path, paths):
            target = PurePosixPath(settings.backup_dir) / path.name
            upload(host, path, target, limit=limit or None)
            if not limit:
                upload(host, path, target.with_suffix(".compressed"), compress=True)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
