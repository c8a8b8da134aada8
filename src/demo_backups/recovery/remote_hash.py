"""The SHA-256 of a backup, computed on the host by a job that survives a lost connection."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import ConnectionLostError, CouldNotLookError, JobNotStartedError
from ..remote.answers import parse_count, parse_line
from ..remote.files import parse_sha256
from ..remote.host import LONG_TIMEOUT, Host
from ..remote.job_state import HASH, Job
from ..remote.jobs import FollowJob, find_job, read_status, start_or_join
from ..remote.notify import Notify
from ..remote.shell import quote
from ..settings.model import BackupSeries, Database

NANOSECOND_DIGITS = 9


@dataclass(frozen=True)
class Identity:
    """What tells whether a file is still the same: device, inode, bytes, and modification time as stat prints it."""

    device: int
    inode: int
    bytes: int
    modified: str

    @property
    def modified_ns(self) -> int:
        """The modification time in nanoseconds since 1970."""
        seconds, _, nanoseconds = self.modified.partition(".")
        return int(seconds) * 10**9 + int(nanoseconds)


@dataclass(frozen=True)
class HashedBackup:
    """A backup on a host: the file to read, and its SHA-256 in hexadecimal."""

    path: PurePosixPath
    identity: Identity
    sha256: str


def identity_command(path: PurePosixPath) -> str:
    """Build the command that prints the identity of a file."""
    return f"stat -c '%d %i %s %.9Y' -- {quote(path)}"


def parse_identity(output: str) -> Identity:
    """Parse what `identity_command` printed; raises ValueError."""
    device, inode, size, modified = parse_line(output).split(" ")
    seconds, _, nanoseconds = modified.partition(".")
    parse_count(seconds, 2**34)
    if len(nanoseconds) != NANOSECOND_DIGITS:
        raise ValueError(f"{modified!r} is not a time in nanoseconds")
    parse_count(nanoseconds)
    return Identity(parse_count(device, 2**64), parse_count(inode, 2**64), parse_count(size), modified)


def hash_command(path: PurePosixPath) -> str:
    """Build the command that prints the identity of a file, its SHA-256, and its identity again."""
    identity = identity_command(path)
    return f"set -e; {identity}; sha256sum < {quote(path)}; {identity}"


def parse_hash(output: str) -> tuple[Identity, str]:
    """Parse what `hash_command` printed; raises ValueError, also for a file that changed meanwhile."""
    before, sha256, after = output.splitlines(keepends=True)
    if before != after:
        raise ValueError("the file changed while it was read")
    return parse_identity(before), parse_sha256(sha256)


def hash_backup(
    host: Host, series: BackupSeries, path: PurePosixPath, follow: FollowJob, notify: Notify
) -> HashedBackup:
    """Compute the SHA-256 of a backup on the host; the last result is used if the file is still the same.

    A running job on the same file is joined. If no job can be started, for example because the disk of its state
    directory is full, the hash is computed over the connection, and so is that of an archive of the configuration,
    which is small. Raises CouldNotLookError if the file cannot be read.
    """
    action = f"look at {path}"
    identity = host.query_parsed(action, identity_command(path), parse_identity)
    command = hash_command(path)
    if not isinstance(series, Database):
        return _hash_directly(host, path)
    cached = _read_cached(host, series, command)
    if cached and cached[0] == identity:
        return HashedBackup(path, *cached)
    new_job = Job(HASH, series.name, command, str(path), identity.bytes)
    try:
        job = start_or_join(host, series, new_job, lambda running: running.command == command, follow, notify)
    except JobNotStartedError as error:
        notify(f"note: {error.action}, so the SHA-256 is computed over this connection: {error.output}")
        return _hash_directly(host, path)
    status, output = follow(job)
    return HashedBackup(path, *_parse(host, path, status.status, output or status.problem))


def _hash_directly(host: Host, path: PurePosixPath) -> HashedBackup:
    result = host.run(f"hash {path}", hash_command(path), root=True, timeout=LONG_TIMEOUT, reads_only=True)
    return HashedBackup(path, *_parse(host, path, result.status, result.output))


def _parse(host: Host, path: PurePosixPath, status: int | None, output: str) -> tuple[Identity, str]:
    action = f"compute the SHA-256 of {path}"
    if status != 0:
        problem = output or "the job ended without reporting an exit status: start the task again"
        raise CouldNotLookError(f"could not {action}", host=host.name, output=problem)
    return host.parse(action, f"{output.rstrip()}\n", parse_hash)


def _read_cached(host: Host, database: Database, command: str) -> tuple[Identity, str] | None:
    """Return the result of the last hash job, if it was the same command and has succeeded."""
    try:
        job = find_job(host, database, HASH)
        status = read_status(host, database, job) if job and job.command == command else None
    except ConnectionLostError:
        raise
    except CouldNotLookError:  # then it is computed again
        return None
    if status and status.status == 0 and not status.running:
        with contextlib.suppress(ValueError):
            return parse_hash(status.output)
    return None
