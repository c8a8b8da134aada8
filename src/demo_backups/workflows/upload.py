"""Upload a fetched backup to the host, and show the progress."""

from __future__ import annotations

from pathlib import PurePosixPath

from ..recovery.copies import Copy
from ..remote.download import can_compress
from ..remote.host import Host
from ..remote.upload import Uploaded, upload
from ..ui.progress import TransferProgress
from .session import Session


def upload_copy(work: Session, host: Host, copy: Copy, target: PurePosixPath) -> Uploaded:
    """Upload a fetched backup to a path on the host, with the limit and the free space of the settings.

    `host` is that of the session, or the same one for the login user. Raises what `upload` does.
    """
    with TransferProgress(work.out, copy.name, copy.bytes, "uploading") as progress:
        progress.start_transfer(0)
        return upload(
            host,
            copy.path,
            target,
            limit=work.settings.fetch_limit,
            compress=can_compress(host),
            progress=progress.show,
            notify=work.out.say,
            floor=work.settings.free_space_floor,
        )
