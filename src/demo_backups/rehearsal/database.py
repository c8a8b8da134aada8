"""Databases like those of the demo: the published tables, filled with realistic rows, the same at each call."""

from __future__ import annotations

import random
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

INDEX_TORRENTS = 975  # gives an index database of about 2.3 MB, as on the demo

INDEX_SCHEMA = """
CREATE TABLE torrust_users (
    user_id INTEGER PRIMARY KEY, date_registered TEXT NOT NULL, administrator INTEGER NOT NULL DEFAULT 0);
CREATE TABLE torrust_user_authentication (
    user_id INTEGER PRIMARY KEY REFERENCES torrust_users (user_id) ON DELETE CASCADE, password_hash TEXT NOT NULL);
CREATE TABLE torrust_user_profiles (
    user_id INTEGER PRIMARY KEY REFERENCES torrust_users (user_id) ON DELETE CASCADE,
    username TEXT NOT NULL UNIQUE, email TEXT UNIQUE, email_verified INTEGER NOT NULL DEFAULT 0, bio TEXT, avatar TEXT);
CREATE TABLE torrust_categories (category_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE torrust_torrents (
    torrent_id INTEGER PRIMARY KEY, uploader_id INTEGER NOT NULL REFERENCES torrust_users (user_id) ON DELETE CASCADE,
    category_id INTEGER REFERENCES torrust_categories (category_id) ON DELETE SET NULL,
    info_hash TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, name TEXT NOT NULL, pieces TEXT,
    piece_length INTEGER NOT NULL, private INTEGER, date_uploaded TEXT NOT NULL);
CREATE TABLE torrust_torrent_info (
    torrent_id INTEGER PRIMARY KEY REFERENCES torrust_torrents (torrent_id) ON DELETE CASCADE,
    title TEXT NOT NULL UNIQUE, description TEXT);
CREATE TABLE torrust_torrent_files (
    file_id INTEGER PRIMARY KEY, torrent_id INTEGER NOT NULL REFERENCES torrust_torrents (torrent_id) ON DELETE CASCADE,
    md5sum TEXT, length INTEGER NOT NULL, path TEXT);
CREATE TABLE torrust_torrent_announce_urls (
    announce_url_id INTEGER PRIMARY KEY,
    torrent_id INTEGER NOT NULL REFERENCES torrust_torrents (torrent_id) ON DELETE CASCADE, tracker_url TEXT NOT NULL);
CREATE TABLE torrust_torrent_tracker_stats (
    torrent_id INTEGER NOT NULL REFERENCES torrust_torrents (torrent_id) ON DELETE CASCADE, tracker_url TEXT NOT NULL,
    seeders INTEGER NOT NULL DEFAULT 0, leechers INTEGER NOT NULL DEFAULT 0, UNIQUE (torrent_id, tracker_url));
CREATE TABLE torrust_torrent_tags (tag_id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE torrust_torrent_tag_links (
    torrent_id INTEGER NOT NULL REFERENCES torrust_torrents (torrent_id) ON DELETE CASCADE,
    tag_id INTEGER NOT NULL REFERENCES torrust_torrent_tags (tag_id) ON DELETE CASCADE,
    PRIMARY KEY (torrent_id, tag_id));
"""

TRACKER_ROWS = 500_000
TRACKER_SCHEMA = """
CREATE TABLE whitelist (id INTEGER PRIMARY KEY AUTOINCREMENT, info_hash TEXT NOT NULL UNIQUE);
CREATE TABLE torrents (
    id INTEGER PRIMARY KEY AUTOINCREMENT, info_hash TEXT NOT NULL UNIQUE, completed INTEGER DEFAULT 0 NOT NULL);
CREATE TABLE keys (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, valid_until INTEGER);
CREATE TABLE torrent_aggregate_metrics (
    id INTEGER PRIMARY KEY AUTOINCREMENT, metric_name TEXT NOT NULL UNIQUE, value INTEGER DEFAULT 0 NOT NULL);
"""

CATEGORIES = ("applications", "audio", "books", "datasets", "games", "maps", "software", "video")
NAMES = [
    "amber",
    "atlas",
    "birch",
    "canyon",
    "delta",
    "ember",
    "fjord",
    "grove",
    "harbor",
    "iris",
    "juniper",
    "kelp",
    "lumen",
    "mesa",
    "nova",
    "orchid",
    "prairie",
]
ENDINGS = ("iso", "tar.gz", "flac", "epub", "mkv", "csv.zst")


def make_index(path: Path, journal: str = "delete", torrents: int = INDEX_TORRENTS) -> None:
    """Create an index database of about 2.5 kB per torrent, in journal mode `wal` or `delete`."""
    random_ = random.Random(85)
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA journal_mode = {journal}")
    database.executescript(INDEX_SCHEMA)
    users = max(10, torrents // 12)
    with database:
        many = database.executemany
        many("INSERT INTO torrust_users VALUES (?, ?, ?)", ((n, _date(random_), n == 1) for n in range(1, users + 1)))
        many(
            "INSERT INTO torrust_user_authentication VALUES (?, ?)",
            ((n, f"$argon2id$v=19$m=19456,t=2,p=1${random_.randbytes(16).hex()}") for n in range(1, users + 1)),
        )
        many(
            "INSERT INTO torrust_user_profiles VALUES (?, ?, ?, ?, ?, ?)",
            ((n, f"{random_.choice(NAMES)}{n}", f"user{n}@example.org", 1, None, None) for n in range(1, users + 1)),
        )
        many("INSERT INTO torrust_categories VALUES (?, ?)", enumerate(CATEGORIES, 1))
        many("INSERT INTO torrust_torrent_tags VALUES (?, ?)", enumerate(NAMES, 1))
        for number in range(1, torrents + 1):
            _add_torrent(database, random_, number, random_.randint(1, users))
    database.close()


# SQLite makes the rows, in less than half the time that Python takes. Hashes come in the order of the unique index, so
# that the time per row does not grow with the table.
INSERT_TORRENTS = """
    WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :rows)
    INSERT INTO torrents (info_hash, completed)
    SELECT printf('%016x%08x%016x', n * :step, n * 2654435761 % 4294967296, n * 2654435761), n * 2654435761 % 90
    FROM numbers
"""


def make_tracker(path: Path, journal: str = "delete", rows: int = TRACKER_ROWS) -> None:
    """Create a tracker database of about 107 bytes per row, in journal mode `wal` or `delete`."""
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA journal_mode = {journal}")
    database.execute("PRAGMA synchronous = OFF")  # for this connection only; nobody else uses the file yet
    database.executescript(TRACKER_SCHEMA)
    with database:
        database.execute(INSERT_TORRENTS, {"rows": rows, "step": (2**63 - 1) // rows})
        database.execute("INSERT INTO torrent_aggregate_metrics (metric_name, value) VALUES ('completed', ?)", (rows,))
    database.close()


def _add_torrent(database: sqlite3.Connection, random_: random.Random, number: int, user: int) -> None:
    name = f"{random_.choice(NAMES)}-{random_.choice(NAMES)}-{number}.{random_.choice(ENDINGS)}"
    size = random_.randint(10**6, 5 * 10**9)
    row = (
        number,
        user,
        random_.randint(1, len(CATEGORIES)),
        random_.randbytes(20).hex(),
        size,
        name,
        random_.randbytes(20 * random_.randint(10, 60)).hex().upper(),
        1 << 20,
        0,
        _date(random_),
    )
    database.execute("INSERT INTO torrust_torrents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    title = name.rsplit(".", 1)[0].replace("-", " ").title()
    database.execute(
        "INSERT INTO torrust_torrent_info VALUES (?, ?, ?)",
        (number, title, f"{title}, shared by its makers. " * random_.randint(1, 5)),
    )
    database.execute(
        "INSERT INTO torrust_torrent_files (torrent_id, length, path) VALUES (?, ?, ?)", (number, size, name)
    )
    database.execute(
        "INSERT INTO torrust_torrent_announce_urls (torrent_id, tracker_url) VALUES (?, ?)",
        (number, "udp://tracker.example:6969"),
    )
    database.execute("INSERT INTO torrust_torrent_tag_links VALUES (?, ?)", (number, random_.randint(1, len(NAMES))))


def _date(random_: random.Random) -> str:
    return str(datetime(2023, 1, 1) + timedelta(minutes=random_.randrange(3 * 365 * 24 * 60)))
