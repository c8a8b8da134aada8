"""The live service of the battery: it commits numbered rows, and writes each number to a log once it is committed.

`python service.py DATABASE LOG PID_FILE` runs it. The numbers go on from the log, so none is used twice, also if a
restore has replaced the content. A commit that fails, as on a full disk, is tried again with another number.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time


def connect(path: str) -> sqlite3.Connection:
    """Open the database, which must exist."""
    database = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=20, isolation_level=None)
    database.execute("PRAGMA synchronous = OFF")  # processes are killed, not the machine
    return database


def main(path: str, log: str, pid_file: str) -> None:
    """Commit a row every 20 ms until killed."""
    database = connect(path)
    with open(log, "a+") as file:  # noqa: PTH123 - it starts faster without pathlib
        file.seek(0)
        number = max(map(int, file.read().split()), default=0)
        with open(pid_file, "w") as own:  # noqa: PTH123
            own.write(str(os.getpid()))
        while True:
            number += 1
            try:
                database.execute("INSERT INTO committed VALUES (?)", (number,))
            except sqlite3.Error:
                database.close()
                time.sleep(0.02)
                database = connect(path)
                continue
            file.write(f"{number}\n")
            file.flush()
            time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
