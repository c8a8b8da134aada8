"""Keep the files of a backup out of the page cache of a host, so that the pages of the service stay there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath

from .shell import TRUSTED_OWNER, quote


class CacheUse(Enum):
    """How a job uses a file, which decides how its pages are kept out of the page cache: see job.sh."""

    WRITTEN = "written"
    READ = "read"
    REREAD = "reread"


@dataclass(frozen=True)
class PageCache:
    """A file of a job whose pages are kept out of the page cache; nothing is done to the file `live`."""

    use: CacheUse
    file: PurePosixPath
    live: PurePosixPath

    def arguments(self) -> list[str]:
        """Return the arguments of the supervisor."""
        return [self.use.value, str(self.file), str(self.live)]


def drop_pages_command(path: PurePosixPath, live: PurePosixPath) -> str:
    """Build the command that drops the pages of a file from the page cache; it never fails.

    As in job.sh, it does nothing to the file `live`, to a link, and in a directory of other users.
    """
    name = quote(f"./{path.name}")
    safe = f"find . -maxdepth 0 {TRUSTED_OWNER} ! -perm /022"
    return (
        f'{{ cd -- {quote(path.parent)} && [ -n "$({safe})" ] && [ -f {name} ] && [ ! {name} -ef {quote(live)} ] && '
        f"dd if={name} iflag=nocache,nofollow,nonblock count=0 status=none; }} > /dev/null 2>&1 || true"
    )
