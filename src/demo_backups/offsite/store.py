"""Store a fetched backup in the repository, and prove that it is stored completely."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from ..errors import BackupsError, CopyMismatchError, OffsiteError, SnapshotMismatchError
from ..remote.download import Progress
from ..remote.upload_source import Source
from .answers import SnapshotAnswer, SummaryAnswer, parse_contents, parse_summary
from .program import Restic
from .request import StoreRequest
from .snapshots import StoredBackup


@dataclass(frozen=True)
class NewSnapshot:
    """What a store has put into the repository: the backup, and by how many bytes the repository has grown."""

    backup: StoredBackup
    stored_bytes: int


def hash_source(request: StoreRequest, source: Source, progress: Progress) -> None:
    """Read the copy; raises CopyMismatchError unless it is still the file that was fetched and checked."""
    sha256 = source.hash(request.copy.bytes, progress)
    if sha256 != request.sha256:
        raise CopyMismatchError(
            f"{request.copy.path} is not stored: its SHA-256 is not that of the record of its fetch",
            output=f"now:        {sha256}\nby its record: {request.sha256}",
            advice="find out what has changed it; move it away, and fetch the backup again",
        )


def store_copy(restic: Restic, request: StoreRequest, source: Source, progress: Progress) -> NewSnapshot:
    """Store an open copy. Raises OffsiteError unless exactly its bytes are in the repository.

    A snapshot that is not proven is removed from the repository.
    """
    os.lseek(source.fileno(), 0, os.SEEK_SET)
    action = f"storing {request.copy.name} off-site"
    lines = _Lines(progress)
    try:
        restic.stream(action, lines.receive, *request.arguments(), stdin=source.fileno())
        return _prove(restic, request, source, lines, action)
    except BackupsError as error:
        forget_unproven(restic, lines.snapshot(), error)
        raise


def _prove(restic: Restic, request: StoreRequest, source: Source, lines: _Lines, action: str) -> NewSnapshot:
    """Compare what restic says that it has read and stored with the file."""
    try:
        summary = lines.summary()
    except ValueError as error:
        raise OffsiteError(f"{action}: restic did not say what it has stored", output=str(error)) from error
    source.require_unchanged()
    size = request.copy.bytes
    if summary.files != 1 or summary.total_bytes_processed != size:
        raise _unproven(action, f"restic has read {summary.total_bytes_processed:,} of {size:,} bytes")
    snapshot = require_contents(restic, request, summary.snapshot_id, action)
    stored = StoredBackup(
        snapshot.id, request.host, request.series.name, request.copy.name, size, snapshot.time, request.sha256
    )
    return NewSnapshot(stored, summary.stored_bytes)


def require_contents(restic: Restic, request: StoreRequest, snapshot_id: str, action: str) -> SnapshotAnswer:
    """Read a snapshot back; raises SnapshotMismatchError unless it has the file, with its size, and nothing else.

    A call that was killed may have left a snapshot with the tags of a backup and a part of its bytes.
    """
    answer = f"{action}: reading snapshot {snapshot_id[:8]} back"
    snapshot, nodes = restic.query(answer, parse_contents, "ls", "--json", "--no-lock", snapshot_id)
    files = [(node.path, node.size) for node in nodes if node.type != "dir"]
    if files != [(request.path, request.copy.bytes)]:
        raise _unproven(action, f"the snapshot has {files}, not {[(request.path, request.copy.bytes)]}")
    return snapshot


def _unproven(action: str, problem: str) -> SnapshotMismatchError:
    return SnapshotMismatchError(
        f"{action}: the snapshot is not the backup", output=problem, advice="start the task again"
    )


def forget_unproven(restic: Restic, snapshot: str | None, error: BackupsError) -> None:
    """Remove a snapshot that is not proven; if that fails, the first error says so. The next call tries it again."""
    if snapshot:
        try:
            restic.run(f"removing snapshot {snapshot[:8]}", "forget", snapshot)
        except BackupsError as second:
            error.output = f"{error.output}\n{second}".strip()


class _Lines:
    """The lines that `restic backup --json` prints: progress, and in the end the summary."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._rest = b""
        self._summaries: list[str] = []

    def receive(self, data: bytes) -> None:
        """Take some output."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-65536:]
        for line in lines:
            self._read(line)

    def summary(self) -> SummaryAnswer:
        """Return the summary; raises ValueError."""
        return parse_summary("\n".join(self._summaries))

    def snapshot(self) -> str | None:
        """Return the ID of the snapshot, if restic has made one."""
        try:
            return self.summary().snapshot_id
        except ValueError:
            return None

    def _read(self, line: bytes) -> None:
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(content, dict):
            return
        if content.get("message_type") == "summary":
            self._summaries.append(line.decode(errors="replace"))
        count = content.get("bytes_done")
        if content.get("message_type") == "status" and type(count) is int and count >= 0:
            self._progress(count)
