"""The flags of `inv check` and `demo-backups-check`. Every start imports this module, so it imports little."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_TIMEOUT = "45"  # seconds; with a ping and the end of a host, less than the 60 s after which Icinga kills it
HELP = {
    "host": "SSH aliases of the servers, separated by commas; local is this machine (default: host in the settings)",
    "database": "check this database only, or config (default: all databases, and the archives of config_paths)",
    "json": "print one JSON object on standard output",
    "prometheus": "also write the metrics to this file (NAME.prom), for the textfile collector of node_exporter",
    "ping": "request the URL of check.ping_file or check.ping_command at the end; with /fail unless all is OK",
    "timeout": f"seconds after which everything without a result is UNKNOWN (default: {DEFAULT_TIMEOUT})",
}
VALUES = {"host": "A,B", "database": "NAME", "prometheus": "FILE", "timeout": "SECONDS"}  # the others have no value


@dataclass(frozen=True)
class CheckOptions:
    """The flags of a check, as they were typed."""

    host: str | None = None
    database: str | None = None
    json: bool = False
    prometheus: str | None = None
    ping: bool = False
    timeout: str = DEFAULT_TIMEOUT
