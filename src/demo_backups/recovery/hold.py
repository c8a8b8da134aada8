"""Hold a backup on the host by a second hard link, so that the rotation does not delete it while it is downloaded."""

from __future__ import annotations

from pathlib import PurePosixPath

from ..remote.host import Host
from ..remote.notify import Notify
from ..remote.shell import quote

HOLD_PREFIX = ".fetch."
HOLD_MINUTES = 24 * 60  # an older hold was left by a fetch that nobody has continued
IN_USE = 75  # exit status: another fetch downloads the file now
RELEASE_TIMEOUT = 2  # seconds for the command that has sent the file to end


def hold_path(backup: PurePosixPath) -> PurePosixPath:
    """Return the path of the second link of a backup."""
    return backup.with_name(f"{HOLD_PREFIX}{backup.name}")


def hold_command(backup: PurePosixPath) -> str:
    """Build the command that links a backup to its hold, and removes stale holds of other backups.

    It succeeds if the backup is gone and its hold is still there. A hold that a download has locked is not stale.
    """
    folder, hold = quote(backup.parent), hold_path(backup)
    stale = f"-name {quote(f'{HOLD_PREFIX}*')} ! -samefile {quote(hold)} -type f -cmin +{HOLD_MINUTES}"
    return "\n".join(
        [
            f"if [ -e {quote(backup)} ]; then ln --force --no-target-directory -- {quote(backup)} {quote(hold)}; fi ||",
            "  exit 1",
            f"[ -f {quote(hold)} ] || {{ echo {quote(f'{backup}: No such file or directory')} >&2; exit 1; }}",
            f"find -H {folder} -maxdepth 1 {stale} -exec flock --nonblock {{}} rm -f -- {{}} \\; 2>/dev/null || true",
        ]
    )


def release_command(backup: PurePosixPath) -> str:
    """Build the command that removes the hold of a backup, unless another fetch downloads the file: exits IN_USE."""
    hold = quote(hold_path(backup))
    return f"[ ! -e {hold} ] || flock --wait {RELEASE_TIMEOUT} --conflict-exit-code {IN_USE} {hold} rm -f -- {hold}"


class Hold:
    """The hold of one backup; `path` is the file to read: the hold, or the backup where it cannot be held.

    A login that can only read the backups cannot create a link next to them. It fetches without a hold, and `notify`
    gets a message that the rotation may delete the backup meanwhile.
    """

    def __init__(self, host: Host, backup: PurePosixPath, notify: Notify) -> None:
        self.path = backup
        self._host = host
        self._backup = backup
        self._notify = notify
        self._is_linked = True

    def renew(self) -> None:
        """Create the link, or create it again where another fetch has removed it."""
        if not self._is_linked:
            return
        result = self._host.run(f"hold {self._backup}", hold_command(self._backup), root=True)
        self._is_linked = result.ok
        self.path = hold_path(self._backup) if result.ok else self._backup
        if not result.ok:
            self._notify(
                f"note: {self._backup} cannot be held on {self._host.name}, so the rotation may delete it before it is "
                f"here: {result.output}"
            )

    def release(self) -> None:
        """Remove the link; a failure is a note, since the next fetch removes it after a day."""
        if not self._is_linked:
            return
        result = self._host.run(f"release {self._backup}", release_command(self._backup), root=True)
        if not result.ok and result.status != IN_USE:
            self._notify(f"note: {hold_path(self._backup)} could not be removed: {result.output}")
