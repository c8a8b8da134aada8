"""The locks of the repository: those of processes that have been killed are removed, others are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ..errors import OffsiteError, RepositoryLockedError
from ..units import format_time
from .answers import parse_ids, parse_lock
from .program import Restic

MOST_LOCKS = 20  # that are looked at; there are one or two


@dataclass(frozen=True)
class Lock:
    """A lock of a repository: who has created it, when, and whether others are excluded."""

    id: str
    user: str
    machine: str
    process: int
    time: datetime
    is_exclusive: bool

    def __str__(self) -> str:
        kind = "an exclusive lock" if self.is_exclusive else "a lock"
        return f"{kind} of {self.user}@{self.machine}, process {self.process}, of {format_time(self.time)}"


@dataclass(frozen=True)
class Locks:
    """What has become of the locks: those that were removed, since their processes have ended, and the others."""

    removed: Sequence[Lock]
    live: Sequence[Lock]

    def require_free(self, action: str, exclusive: bool = False) -> None:
        """Raise RepositoryLockedError if a live lock does not allow an action; an `exclusive` one allows no other."""
        hindering = [lock for lock in self.live if exclusive or lock.is_exclusive]
        if hindering:
            raise RepositoryLockedError(
                f"{action}: another process is working on the repository",
                output="\n".join(map(str, hindering)),
                advice="wait for its end, and start the task again. A lock of this machine is removed when its process "
                "has ended, one of another machine 30 minutes after it was last renewed",
            )


def clear_locks(restic: Restic) -> Locks:
    """Remove the locks of processes that have ended, as restic decides it, and report them."""
    locks = _read_locks(restic)
    if not locks:
        return Locks([], [])
    restic.run("removing stale locks of the off-site repository", "unlock")
    left = {lock.id for lock in _read_locks(restic)}
    removed = [lock for lock in locks if lock.id not in left]
    for lock in removed:
        restic.notify(f"removed a stale lock of the off-site repository: {lock}")
    return Locks(removed, [lock for lock in locks if lock.id in left])


def _read_locks(restic: Restic) -> list[Lock]:
    ids = restic.query("listing the locks of the off-site repository", parse_ids, "list", "locks", "--no-lock")
    return [lock for value in ids[:MOST_LOCKS] if (lock := _read_lock(restic, value))]


def _read_lock(restic: Restic, lock_id: str) -> Lock | None:
    """Read a lock; None if it has been removed since it was listed, or is damaged: restic ignores such a one."""
    action = f"reading the lock {lock_id[:8]} of the off-site repository"
    try:
        answer = restic.query(action, parse_lock, "cat", "lock", lock_id, "--no-lock")
    except OffsiteError:
        return None
    return Lock(lock_id, answer.username, answer.hostname, answer.pid, answer.time, answer.exclusive)
