"""The metrics of databases in the text format of Prometheus, for the textfile collector of node_exporter.

Ages are not written, but times: they stay true if this file is not written any more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import MetricsNotWrittenError
from ..local_files import write_file
from ..units import escape_controls
from .state import Health, Metrics

STAGED = ".demo-backups-check."  # the collector reads names that end in .prom
READABLE = 0o644  # node_exporter runs as a user of its own


def _of_metrics(read: Callable[[Metrics], float | None]) -> Callable[[Health], float | None]:
    return lambda health: None if health.metrics is None else read(health.metrics)


SERIES: tuple[tuple[str, str, Callable[[Health], float | None]], ...] = (
    (
        "up",
        "Whether the host could be asked which backups there are (1) or not (0).",
        lambda h: float(h.metrics is not None and h.metrics.backups_listed),
    ),
    ("state", "State of the backups: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.", lambda h: float(h.state.value)),
    (
        "last_backup_timestamp_seconds",
        "Time of the newest backup, in seconds since 1970.",
        _of_metrics(lambda metrics: metrics.backup_time),
    ),
    ("last_backup_size_bytes", "Size of the newest backup.", _of_metrics(lambda metrics: metrics.backup_bytes)),
    (
        "last_verification_timestamp_seconds",
        "Time of the last good verification, in seconds since 1970.",
        _of_metrics(lambda metrics: metrics.verification_time),
    ),
    (
        "last_drill_timestamp_seconds",
        "Time of the last good restore drill, in seconds since 1970.",
        _of_metrics(lambda metrics: metrics.drill_time),
    ),
    (
        "last_copy_timestamp_seconds",
        "Time of the last fetched copy, in seconds since 1970.",
        _of_metrics(lambda metrics: metrics.copy_time),
    ),
    (
        "last_offsite_timestamp_seconds",
        "Time of the last off-site copy, in seconds since 1970.",
        _of_metrics(lambda metrics: metrics.offsite_time),
    ),
)


def format_metrics(healths: Iterable[Health]) -> str:
    """Return the metrics of databases; a value that is unknown, or never was, has no line."""
    ordered = sorted(healths, key=lambda health: (health.host, health.database))
    lines = []
    for name, text, read in SERIES:
        values = [(health, read(health)) for health in ordered]
        samples = [
            f"demo_backups_{name}{_format_labels(health)} {_format_number(value)}"
            for health, value in values
            if value is not None and math.isfinite(value)
        ]
        if samples:
            lines += [f"# HELP demo_backups_{name} {text}", f"# TYPE demo_backups_{name} gauge", *samples]
    return "".join(f"{line}\n" for line in lines)


def _format_number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _format_labels(health: Health) -> str:
    return f'{{host="{_escape_label(health.host)}",database="{_escape_label(health.database)}"}}'


def _escape_label(text: str) -> str:
    """Escape the value of a label (Prometheus, exposition formats)."""
    return escape_controls(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def write_metrics(path: Path, healths: Iterable[Health]) -> None:
    """Write the metrics to a file that every user can read, at once; raises MetricsNotWrittenError.

    Nothing but a regular file is replaced: renaming a file to /dev/null would replace the device.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise MetricsNotWrittenError("the metrics were not written", output=f"{path} is not a regular file")
        write_file(target, format_metrics(healths), STAGED, READABLE)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links, up to Python 3.12
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise MetricsNotWrittenError("the metrics were not written", output=f"{path}: {reason}") from error
