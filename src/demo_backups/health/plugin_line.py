"""The lines that a monitoring system reads: for each database a state, a text and performance data.

The format is that of the Monitoring Plugins Development Guidelines:
`STATE HOST/DATABASE: text | label=value[unit];[warn];[crit];[min]`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from ..settings.model import CONFIG
from ..units import shorten
from .state import WORST_FIRST, Finding, Health, Metrics, State

LONGEST_TEXT = 400  # characters; systems cut the output after 1 to 8 KB
# What a text may not contain: a line end; `|`, after which performance data starts; and what is a command or a tag
# where a system passes the text to a shell or shows it in a web page.
MISLEADING = re.compile(r'[|<`$"]')
# Findings that are shown when they are OK; the others only when they are not.
SHOWN_WHEN_OK = ("backup", "verification", "drill", "copy", "offsite")


def escape_text(text: str, longest: int = LONGEST_TEXT) -> str:
    """Write a text, which a host may have sent, on one line in which a monitoring system finds nothing but text."""
    return shorten(MISLEADING.sub(lambda match: f"\\x{ord(match[0]):02x}", text), longest)


def format_error(text: str) -> str:
    """Return the line of an error for which no database can be named."""
    return f"{State.UNKNOWN.name}: {escape_text(text)}"


def sort_worst_first(healths: Iterable[Health]) -> list[Health]:
    """Sort databases by their state, the worst first, then by host and name."""
    return sorted(healths, key=lambda health: (WORST_FIRST.index(health.state), health.host, health.database))


def format_lines(healths: Iterable[Health]) -> list[str]:
    """Return one line per database, the worst first.

    With several lines, the labels start with the host and the database. Icinga takes what follows `|` in a line for
    performance data. Nagios and Naemon do so in the first line, and take everything after the next `|`, in whatever
    line, for more of it. So only the first and the last line have a `|`, the last one with all data but the first.
    """
    ordered = sort_worst_first(healths)
    texts = [format_text(health) for health in ordered]
    data = [
        format_perfdata(health.metrics, _label_prefix(health, len(ordered)), verifies=health.database != CONFIG)
        for health in ordered
    ]
    if len(ordered) > 2:
        data = [data[0], *[""] * (len(ordered) - 2), " ".join(filter(None, data[1:]))]
    return [f"{text} | {values}" if values else text for text, values in zip(texts, data, strict=True)]


def format_text(health: Health) -> str:
    """Return a line without its performance data: what is not OK comes first."""
    shown = [finding for finding in health.findings if _is_shown(finding)]
    shown.sort(key=lambda finding: WORST_FIRST.index(finding.state))
    text = ", ".join(finding.text for finding in shown) or "nothing was considered"
    name = escape_text(f"{health.host}/{health.database}", 100)
    return f"{health.state.name} {name}: {escape_text(text)}"


def _is_shown(finding: Finding) -> bool:
    return bool(finding.text) and (finding.state is not State.OK or finding.name in SHOWN_WHEN_OK)


def _label_prefix(health: Health, lines: int) -> str:
    """Return the start of the labels of a line: characters that need no quotes, and no `::`, which has a meaning."""
    return "" if lines == 1 else re.sub(r"[^\w./@-]", "_", f"{health.host}/{health.database}/")


def format_perfdata(metrics: Metrics | None, prefix: str = "", *, verifies: bool = True) -> str:
    """Return the performance data of a database; empty if no value could be determined.

    `U` is a value that could not be determined, which keeps the number of values the same. A drill and copies, which
    may never have been set up, are left out instead, and the verification of what is not verified.
    """
    if metrics is None:
        return ""
    host_now = metrics.now if metrics.host_now is None else metrics.host_now
    limits = (_format_number(metrics.warn_age), _format_number(metrics.critical_age), "0")
    values = [
        _format_value("age", _age(host_now, metrics.backup_time), "s", limits),
        _format_value("size", metrics.backup_bytes, "B", ("", "", "0")),
    ]
    if verifies:
        values.append(_format_value("verified", _age(metrics.now, metrics.verification_time), "s"))
    optional = (("drill", metrics.drill_time), ("copy", metrics.copy_time), ("offsite", metrics.offsite_time))
    values += [_format_value(label, _age(metrics.now, time), "s") for label, time in optional if time is not None]
    if all("=U" in value for value in values):
        return ""
    return " ".join(prefix + value for value in values)


def _age(now: float, time: float | None) -> float | None:
    return None if time is None else max(now - time, 0)


def _format_value(label: str, value: float | None, unit: str, limits: Sequence[str] = ()) -> str:
    number = _format_number(value)
    return ";".join([f"{label}={number}{unit}" if number else f"{label}=U", *limits])


def _format_number(value: float | None) -> str:
    """Write a number of the class that plugins use, `-0-9.`; empty if there is none."""
    return "" if value is None or not math.isfinite(value) else f"{value:.0f}"
