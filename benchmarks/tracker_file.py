"""Files with the bytes of a tracker database of any size, made in the time that it takes to write them."""

from __future__ import annotations

import os
import random
from pathlib import Path

from measure import BYTES_PER_ROW
from recovery import make_random_tracker

BASE = 250e6  # bytes of the database that SQLite makes
PAGE = 4096
HEX_DIGITS = b"0123456789abcdef"


def make_tracker_file(path: Path, size: float) -> None:
    """Create a file of about `size` bytes: a tracker database, and after BASE bytes variants of it.

    A variant has other hex digits, so that no block occurs twice and each compresses as well as that of a database.
    SQLite would need half an hour for the 156 million rows of 17 GB. The larger file is no database any more; programs
    that store it do not notice.
    """
    base = path.with_name(path.name + ".base")
    make_random_tracker(base, "delete", int(min(size, BASE) / BYTES_PER_ROW))
    content = base.read_bytes()
    base.unlink()
    random_ = random.Random(85)
    with path.open("wb") as file:
        file.write(content)
        while file.tell() + PAGE <= size - len(content) / 2:
            digits = bytes(random_.sample(HEX_DIGITS, len(HEX_DIGITS)))
            file.write(content.translate(bytes.maketrans(HEX_DIGITS, digits)))
        file.flush()
        os.fsync(file.fileno())


def change_pages(path: Path, share: float, seed: int) -> int:
    """Change one byte in this share of the pages, as updates of rows in random places do; return how many pages."""
    pages = path.stat().st_size // PAGE
    random_ = random.Random(seed)
    changed = random_.sample(range(pages), max(1, int(pages * share)))
    with path.open("r+b") as file:
        for page in sorted(changed):
            offset = page * PAGE + random_.randrange(PAGE)
            file.seek(offset)
            old = file.read(1)
            file.seek(offset)
            file.write(bytes([old[0] ^ 1]))
        file.flush()
        os.fsync(file.fileno())
    return len(changed)
