"""Records for tests, as Python objects and as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from demo_backups.records.check import Check, Outcome
from demo_backups.records.record import Record, RunDetails, new_record

# As the first version wrote it.
SCHEMA_1 = """{
  "kind": "verification",
  "host": "demo",
  "database": "index",
  "when": "2024-11-24T20:00:00.123456+00:00",
  "schema": 1,
  "script_sha256": "597064330babc080a24a92737873a57e8df25c6c7e04583e14a87b943ac621e7",
  "exit_status": 1,
  "backup": "/home/torrust/backups/backup_2024-11-24_20-00-00.db",
  "bytes": 2301952,
  "seconds": 3,
  "checks": [{"name": "size", "passed": false, "detail": "it is empty"}],
  "integrity_check": ["ok"],
  "error": null,
  "details": {}
}
"""


def make_record(kind: str = "run", **values: Any) -> Record:
    """Make the record of a task on the index database."""
    defaults = {"host": "demo", "database": "index", "when": "2024-11-24T20:00:00.123456+00:00"}
    return new_record(kind, **defaults | values)


def make_full_record() -> Record:
    """Make a record that has every value, some of them with bytes that are not UTF-8."""
    return make_record(
        who="me@laptop",
        script_sha256="ab" * 32,
        commands=["echo \udcff", "true"],
        exit_status=0,
        backup="/b/\udcff.db",
        bytes=5,
        created="2024-11-24T20:00:00+05:30",
        seconds=7.5,
        checks=[Check("size", Outcome.UNKNOWN, "ünï \udcff\n")],
        integrity_check=["ok"],
        error="what \udcff",
        details=RunDetails(waited_seconds=0.5, job_started="2024-11-24T20:00:00+00:00"),
    )


def read_only_record(folder: Path) -> dict[str, Any]:
    """Return the content of the only file in a directory."""
    (path,) = folder.iterdir()
    content: dict[str, Any] = json.loads(path.read_text())
    return content
