"""A live service: commits to a database at a steady rate until its standard input ends.

`python -m demo_backups.rehearsal.writer DATABASE COMMITS_PER_SECOND` prints `ready` after its first commit, and at the
end one JSON object: commits, failed writes, and the slowest write in seconds. Each write waits 5 s for a lock, as the
demo's services do.
"""

from __future__ import annotations

import json
import random
import select
import sqlite3
import sys
import time

BUSY_TIMEOUT = 5.0  # seconds

STATEMENT = """
    INSERT INTO torrust_torrent_tracker_stats (torrent_id, tracker_url, seeders, leechers) VALUES (?, ?, ?, ?)
    ON CONFLICT (torrent_id, tracker_url) DO UPDATE SET seeders = excluded.seeders, leechers = excluded.leechers
"""


def main(path: str, rate: float) -> None:
    """Write until standard input ends."""
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
    torrents = [row[0] for row in database.execute("SELECT torrent_id FROM torrust_torrents")]
    random_ = random.Random()  # unseeded: of values that are there already, SQLite writes nothing, not even to a WAL
    commits = failed = 0
    slowest = 0.0
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        values = (random_.choice(torrents), "udp://tracker.example:6969", random_.randrange(500), random_.randrange(90))
        started = time.monotonic()
        try:
            database.execute(STATEMENT, values)
            commits += 1
        except sqlite3.OperationalError as error:
            failed += 1
            print(f"write failed: {error}", file=sys.stderr)
        ended = time.monotonic()
        slowest = max(slowest, ended - started)
        due = max(due + 1 / rate, ended - 1)  # makes up for a second at most
        if commits + failed == 1:
            print("ready", flush=True)
    database.close()
    print(json.dumps({"commits": commits, "failed": failed, "slowest": round(slowest, 4)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
