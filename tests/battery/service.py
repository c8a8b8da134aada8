"""The live service of the battery: it commits numbered rows, and writes each number to a log once it is committed.

`python service.py DATABASE LOG PID_FILE` runs it. The numbers go on from the log, so none is used twice, also if a
restore has replaced the content. A commit that fails, as on a full disk, is tried again with another number.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import time


def connect(path: str) -> sqlite3.Connection:
    """Open the database, which must exist; its disk may be gone for a moment."""
    database = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=20, isolation_level=None)
    # By default, processes are killed, and not the machine.
    database.execute(f"PRAGMA synchronous = {os.environ.get('SYNCHRONOUS', 'OFF')}")
    return database


def main(path: str, log: str, pid_file: str) -> None:
    """Commit a row every 20 ms until killed."""
    with open(log, "a+") as file:  # noqa: PTH123 - it starts faster without pathlib
        file.seek(0)
        number = max(map(int, file.read().split()), default=0)
        while True:
            with contextlib.suppress(sqlite3.Error), contextlib.closing(connect(path)) as database:
                with open(pid_file, "w") as own:  # noqa: PTH123
                    own.write(str(os.getpid()))
                while True:
                    number += 1
                    database.execute("INSERT INTO committed VALUES (?)", (number,))
                    file.write(f"{number}\n")
                    file.flush()
                    time.sleep(0.02)
            time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
