"""A live service: it commits to a database at a steady rate until its standard input ends. `live_writer` starts it.

`python -m demo_backups.rehearsal.writer DATABASE COMMITS_PER_SECOND` prints `ready` after its first commit, and at the
end one JSON object: commits, failed writes, and the slowest write in seconds. With a third argument, `times`, it also
has the start of each write, by the monotonic clock, which all processes share, and its duration. Each write waits 5 s
for a lock, as the demo's services do.
"""

from __future__ import annotations

import contextlib
import json
import random
import select
import sqlite3
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ..errors import StepError

BUSY_TIMEOUT = 5.0  # seconds

INDEX_STATEMENT = """
    INSERT INTO torrust_torrent_tracker_stats (torrent_id, tracker_url, seeders, leechers) VALUES (?, ?, ?, ?)
    ON CONFLICT (torrent_id, tracker_url) DO UPDATE SET seeders = excluded.seeders, leechers = excluded.leechers
"""
TRACKER_STATEMENT = """
    INSERT INTO torrents (info_hash, completed) VALUES (?, 1)
    ON CONFLICT (info_hash) DO UPDATE SET completed = completed + 1
"""
NEW_TORRENTS = 0.1  # share of the tracker's writes that add a new torrent


@dataclass
class Traffic:
    """What a live writer did.

    `slowest` is the slowest write and `seconds` the duration of the whole, in seconds; `errors` is the end of its
    standard error. `starts` and `durations` are those of each write, in seconds, if that was requested.
    """

    commits: int = 0
    failed: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    errors: str = ""
    starts: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)


@contextlib.contextmanager
def live_writer(source: Path, rate: float = 200, *, times: bool = False) -> Iterator[Traffic]:
    """Write to a database from another process, at `rate` commits per second, while the context is open.

    `times` requests the times of each write. The counts are filled in at the end. Raises StepError if the process does
    not start, or dies.
    """
    traffic = Traffic()
    command = [sys.executable, "-m", __name__, str(source), str(rate), *(["times"] if times else [])]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        ) as process,
    ):
        assert process.stdin  # both are pipes
        assert process.stdout
        try:
            if process.stdout.readline() != "ready\n":
                raise StepError("the live writer did not start", output=_last_lines(errors))
            started = time.monotonic()
            yield traffic
            traffic.seconds = time.monotonic() - started
        finally:
            process.stdin.close()
            last = process.stdout.read()
        if not last:
            raise StepError("the live writer died", output=_last_lines(errors))
        vars(traffic).update(json.loads(last), errors=_last_lines(errors))


def _last_lines(errors: IO[str]) -> str:
    errors.seek(0)
    return "\n".join(errors.read().splitlines()[-5:])


def index_write(database: sqlite3.Connection, random_: random.Random) -> Callable[[], object]:
    """Return the write of the index: new counts of seeders and leechers for a torrent."""
    torrents = [row[0] for row in database.execute("SELECT torrent_id FROM torrust_torrents")]
    url = "udp://tracker.example:6969"
    return lambda: database.execute(
        INDEX_STATEMENT, (random_.choice(torrents), url, random_.randrange(500), random_.randrange(90))
    )


def tracker_write(database: sqlite3.Connection, random_: random.Random) -> Callable[[], object]:
    """Return the write of the tracker: one more download of a torrent, known or new."""
    (last,) = database.execute("SELECT max(id) FROM torrents").fetchone()
    select = "SELECT info_hash FROM torrents WHERE id >= ? LIMIT 1"  # upserts leave gaps between ids
    known = [database.execute(select, (random_.randint(1, last),)).fetchone()[0] for _ in range(min(last, 5_000))]

    def write() -> None:
        new = random_.random() < NEW_TORRENTS
        database.execute(TRACKER_STATEMENT, (random_.randbytes(20).hex() if new else random_.choice(known),))

    return write


def main(path: str, rate: float, times: str = "") -> None:
    """Write until standard input ends; a late writer catches up on one second at most."""
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
    tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
    # Not seeded: an update to the same values writes nothing, not even to a WAL.
    write = (tracker_write if "torrents" in tables else index_write)(database, random.Random())
    commits = failed = 0
    slowest = 0.0
    starts, durations = array("d"), array("d")
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        started = time.monotonic()
        try:
            write()
            commits += 1
        except sqlite3.OperationalError as error:
            failed += 1
            print(f"write failed: {error}", file=sys.stderr)
        ended = time.monotonic()
        slowest = max(slowest, ended - started)
        if times:
            starts.append(started)
            durations.append(ended - started)
        due = max(due + 1 / rate, ended - 1)
        if commits + failed == 1:
            print("ready", flush=True)
    database.close()
    counts: dict[str, object] = {"commits": commits, "failed": failed, "slowest": round(slowest, 4)}
    if times:
        counts |= {"starts": starts.tolist(), "durations": durations.tolist()}
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), *sys.argv[3:])
