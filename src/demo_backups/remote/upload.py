"""Upload a file to a host: resumable, compressed, at a limited rate, in constant memory.

What has arrived is a hidden file in the directory of the target, the part. It gets the name of the target when its
SHA-256 is that of the file on this machine, and never replaces another file. An upload that was interrupted continues
after the bytes of the part. Before it does, it compares their SHA-256 with that of the same bytes here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar, cast

from ..errors import (
    ConnectionLostError,
    CopyMismatchError,
    CouldNotLookError,
    InterruptedRunError,
    StepError,
    UnsafePathError,
    UploadConflictError,
    UploadRunningError,
)
from ..units import format_size
from .answers import parse_count, parse_yes_no
from .download import Meter, Progress
from .files import STALL_TIMEOUT, File, parse_sha256, require_complete, stat_file
from .host import LONG_TIMEOUT, Host, Result
from .notify import Notify, ignore
from .retries import LOST, retry_when_lost
from .shell import quote
from .upload_part import BUSY, IDLE, MISMATCH, MOVED, UNSAFE, Part
from .upload_source import MeteredSource, Reader, Source, compressed, open_source

T = TypeVar("T")
RUN_AGAIN = "run the same command again: it continues with the bytes that were transferred"
LOCK_SECONDS = 600  # how long to wait for another command that has the part locked, while the part does not grow
LOCK_PAUSE = 2.0  # seconds between two looks at a part that is locked
GROWING_CHECKS = 3  # a part that has grown at so many looks is being written by another upload
MAX_ROUNDS = 5  # tries that end without an error and without the target


@dataclass(frozen=True)
class Uploaded:
    """A file that is on the host: its bytes and SHA-256.

    `resumed_from` are the bytes that were there before, `sent_bytes` the bytes on the wire.
    """

    bytes: int
    sha256: str
    resumed_from: int
    sent_bytes: int


def upload(
    host: Host,
    local: Path,
    target: PurePosixPath,
    *,
    limit: int | None = None,
    compress: bool = False,
    progress: Progress = lambda size: None,
    notify: Notify = ignore,
    floor: int = 0,
) -> Uploaded:
    """Upload a file of this machine to a path on the host, as root, with the mode 600 and its modification time.

    `limit` is in bytes per second on the wire, `compress` needs zstd on both sides (`can_compress`), and `floor` bytes
    stay free on the disk of the target. A target with the same content is left as it is.

    Raises UploadConflictError if the target has other content, UploadRunningError if another upload to it is running,
    LocalFileChangedError if the file changes meanwhile, LocalDiskError if it cannot be read, and other kinds of
    StepError if it cannot be written there.
    After ConnectionLostError and InterruptedRunError, the next call continues.
    """
    with open_source(local) as source:
        notify(f"computing the SHA-256 of {local}")
        sha256 = source.hash(source.bytes)
        part, meter = Part(target), Meter(limit)
        attempt = _Upload(host, source, sha256, part, limit, compress, progress, notify, floor, meter)
        try:
            return attempt.run()
        except (InterruptedRunError, *LOST) as error:
            error.advice = RUN_AGAIN
            raise


@dataclass
class _Upload:
    """An upload over all of its tries."""

    host: Host
    source: Source
    sha256: str
    part: Part
    limit: int | None
    compress: bool
    progress: Progress
    notify: Notify
    floor: int
    meter: Meter = field(default_factory=Meter)
    position: int = 0  # the bytes of the file that were sent, or were found in the part
    resumed_from: int | None = None  # None until the bytes of the part were compared
    restarted: bool = False

    def run(self) -> Uploaded:
        """Go through all steps, again after a mismatch, until the target is published."""
        for _ in range(MAX_ROUNDS):
            if retry_when_lost(self._try, lambda: self.position, self.notify):
                return Uploaded(self.source.bytes, self.sha256, self.resumed_from or 0, self.meter.count)
        raise StepError(
            f"{self.part.path} is not what was sent: its size is another one, after {MAX_ROUNDS} tries",
            host=self.host.name,
            advice="does another program write to it?",
        )

    def _try(self) -> bool:
        """Go through all steps once; tell whether the target is published."""
        self._wait_for_lock()
        if self._is_published():
            return True
        part = stat_file(self.host, self.part.path)
        size = part.bytes if part else 0
        self.position = self._find_offset(size)
        self._require_space(size)
        return self._send() and self._publish()

    def _wait_for_lock(self) -> None:
        """Wait for a command whose connection was lost; raises UploadRunningError if another upload is running."""
        action = f"see whether {self.part.path} is being written"
        deadline, growing, old = time.monotonic() + LOCK_SECONDS, 0, None
        while self._query(action, self.part.locked_command(), parse_yes_no):
            part = stat_file(self.host, self.part.path)
            size = part.bytes if part else None
            growing = growing + 1 if old is not None and size != old else 0
            if growing >= GROWING_CHECKS or time.monotonic() > deadline:
                raise UploadRunningError(
                    f"another upload to {self.part.target} is running",
                    host=self.host.name,
                    advice="wait for its end, or stop it; then run the same command again",
                )
            if old is None:
                self.notify(f"{self.part.path} is locked: waiting for the command that writes it")
            old = size
            time.sleep(LOCK_PAUSE)

    def _is_published(self) -> bool:
        """Tell whether the target has the content of the file; raises UploadConflictError for another content."""
        target = stat_file(self.host, self.part.target)
        if target is None:
            return False
        self._require_same(target)
        self.host.execute(f"remove {self.part.path}", self.part.remove_command())
        if self.resumed_from is None:
            self.resumed_from = self.source.bytes
        self.progress(self.source.bytes)
        return True

    def _require_same(self, target: File) -> None:
        problem = "it is not a regular file" if target.type != "f" else f"it has {format_size(target.bytes)}"
        if target.type == "f" and target.bytes == self.source.bytes:
            command = f"sha256sum < {quote(target.path)}"
            sha256 = self._query(f"compute the SHA-256 of {target.path}", command, parse_sha256)
            if sha256 == self.sha256:
                return
            problem = f"its SHA-256 is {sha256}"
        raise UploadConflictError(
            f"{target.path} exists, and is not {self.source.path}",
            host=self.host.name,
            output=f"{problem}\n{self.source.path} has {format_size(self.source.bytes)}, SHA-256 {self.sha256}",
            advice="it was left unchanged: move one of them to another name",
        )

    def _find_offset(self, size: int) -> int:
        """Find the offset from which to send, for a part of some bytes; 0 if they are not those of the file."""
        if self.resumed_from is None:
            self.resumed_from = size if size and self._is_start_of_file(size) else 0
            self.restarted = size > 0 and not self.resumed_from
            if self.restarted:
                self.notify(f"{self.part.path} is not a part of this file: starting from the beginning")
            return self.resumed_from
        # Sent by this upload. Only the SHA-256 of the whole file tells whether it has arrived unchanged.
        return size if size <= self.source.bytes else 0

    def _is_start_of_file(self, size: int) -> bool:
        if size > self.source.bytes:
            return False
        self.notify(f"comparing the {format_size(size)} that are on {self.host.name}")
        action = f"compute the SHA-256 of {self.part.path}"
        return self._query(action, self.part.hash_command(size), parse_sha256) == self.source.hash(size)

    def _query(self, action: str, command: str, parse: Callable[[str], T]) -> T:
        result = self.host.run(action, command, root=True, timeout=LONG_TIMEOUT, reads_only=True)
        self._require_safe(action, result)
        if not result.ok:
            raise CouldNotLookError(
                f"could not {action}", host=self.host.name, output=result.output, advice=self.host.advise(result)
            )
        return self.host.parse(action, result.stdout, parse)

    def _require_safe(self, action: str, result: Result) -> None:
        if result.status == UNSAFE:
            raise UnsafePathError(
                f"refused to {action}",
                host=self.host.name,
                output=result.output,
                advice="find out who made it; then remove it, or make the directory writable by its owner only",
            )

    def _require_space(self, size: int) -> None:
        """Raise StepError unless the rest of the file fits on the disk, where the part has some bytes."""
        free = self._query("read the free space", self.part.free_command(), _parse_number)
        needed = self.source.bytes - size + self.floor
        if free < needed:
            raise StepError(
                f"there is too little space for {self.part.target}: {format_size(free)} are free, "
                f"and {format_size(needed)} are needed, with free_space_floor",
                host=self.host.name,
                advice=f"free space there: {self.host.command_line(f'df {quote(self.part.target.parent)}')}",
            )

    def _send(self) -> bool:
        """Send the rest of the file; tell whether it was taken."""
        self.progress(self.position)
        reader = Reader(self.source, self.position, self._move)
        payload = compressed(reader) if self.compress else cast("BinaryIO", reader)
        stream = MeteredSource(payload, self.meter, self.limit)
        self.meter.restart()
        action = f"upload {self.part.target}"
        command = self.part.receive_command(self.position, self.compress, self.floor)
        try:
            transfer = self.host.stream(
                action, command, root=True, timeout=STALL_TIMEOUT, source=cast("BinaryIO", stream)
            )
        finally:
            self.source.require_unchanged()
        self._require_safe(action, transfer.result)
        if transfer.result.status == IDLE:
            raise ConnectionLostError(f"could not {action}: no data arrived there for a while", host=self.host.name)
        if transfer.result.status in (BUSY, MOVED):
            return False
        require_complete(self.host, action, transfer)
        return True

    def _move(self, position: int) -> None:
        self.position = position
        self.progress(position)

    def _publish(self) -> bool:
        """Give the part its final name; tell whether that was done."""
        action = f"publish {self.part.target}"
        self.notify(f"comparing the SHA-256 of {self.part.path}")
        command = self.part.publish_command(self.source.bytes, self.sha256, self.source.modified_ns)
        result = self.host.run(action, command, root=True, timeout=LONG_TIMEOUT)
        self._require_safe(action, result)
        if result.status == MISMATCH:
            self._restart()
        if result.status in (BUSY, MOVED, MISMATCH):
            return False
        self.host.require_success(action, result)
        return True

    def _restart(self) -> None:
        if self.restarted:
            if self.source.hash(self.source.bytes) != self.sha256:
                raise self.source.changed("its SHA-256 is another one")
            raise CopyMismatchError(
                f"the SHA-256 of what arrived is not that of {self.source.path}",
                host=self.host.name,
                advice="nothing was published. Does the disk or the memory of the host have faults? See dmesg there",
            )
        self.notify("what arrived is not the file: starting from the beginning")
        self.restarted, self.resumed_from, self.position = True, 0, 0


def _parse_number(output: str) -> int:
    return parse_count(output.removesuffix("\n"))
