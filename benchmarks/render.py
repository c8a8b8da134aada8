"""Show measurements as rows of medians, as a table and as a picture.

`python benchmarks/render.py` draws docs/benchmarks.svg again from the stored numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from figures import Figure
from measure import COLD, MAXIMUM_RATE, Measurement
from service import Impact, Latency, median_impact, read_impact

from demo_backups.project import ROOT
from demo_backups.release.report.axes import PERCENT, SECONDS
from demo_backups.release.report.plots import Chart, Pattern, Series, Size, Value, grouped_chart
from demo_backups.release.report.render import make_environment

if TYPE_CHECKING:
    from rich.console import Console

RESULTS = ROOT / "benchmarks/live_backup.json"
PICTURE = ROOT / "docs/benchmarks.svg"
PANEL = Size(width=860, height=250, top=48, bottom=56, right=4)
PANEL_TOP = 36
INCOMPLETE = Series("not consistent or not finished", "series-muted", pattern=Pattern.STRIPES)
JOURNALS = {"wal": "WAL", "delete": "rollback journal"}


@dataclass(frozen=True)
class Row:
    """The medians of one method in one situation. `ratio` is its wall time divided by that of `cp, fsync`."""

    size: float
    journal: str
    rate: float
    method: str
    seconds: float
    ratio: float | None
    finished: int
    consistent: bool
    rounds: int
    copied: float
    throughput: float | None
    failed_writes: int
    slowest_write: float
    peak_memory: int
    wal_growth: int
    caches: str = COLD
    memory: float | None = None
    impact: Impact | None = None


def read_measurements(results: Path) -> list[Measurement]:
    """Read stored numbers."""
    return [_read_measurement(fields) for fields in json.loads(results.read_text(encoding="utf-8"))["measured"]]


def _read_measurement(fields: dict[str, Any]) -> Measurement:
    impact = fields.pop("impact", None)
    return Measurement(**fields, impact=read_impact(impact) if impact else None)


def summarize(measurements: Sequence[Measurement]) -> list[Row]:
    """Make one row of all rounds of a method in a situation, in the order in which they were measured."""
    groups: dict[tuple[object, ...], list[Measurement]] = {}
    for copy in measurements:
        key = (copy.size, copy.journal, copy.rate, copy.caches, copy.memory, copy.method)
        groups.setdefault(key, []).append(copy)
    return [_summarize_group(group, groups.get((*key[:-1], "cp, fsync"))) for key, group in groups.items()]


def _summarize_group(group: list[Measurement], reference: list[Measurement] | None) -> Row:
    first = group[0]
    finished = sum(copy.status == 0 for copy in group)
    seconds = median(copy.seconds for copy in group)
    return Row(
        size=first.size,
        journal=first.journal,
        rate=first.rate,
        method=first.method,
        seconds=seconds,
        ratio=seconds / median(copy.seconds for copy in reference) if reference and finished else None,
        finished=finished,
        consistent=all(copy.consistent for copy in group if copy.consistent is not None),
        rounds=len(group),
        copied=median(copy.copied / copy.source_bytes for copy in group),
        throughput=median(copy.commits_per_second / copy.alone for copy in group) if first.alone else None,
        failed_writes=sum(copy.failed_writes for copy in group),
        slowest_write=max(copy.slowest_write for copy in group),
        peak_memory=max(copy.peak_memory for copy in group),
        wal_growth=max(copy.wal_growth for copy in group),
        caches=first.caches,
        memory=first.memory,
        impact=median_impact([copy.impact for copy in group if copy.impact]),
    )


HEADINGS = (
    "size",
    "journal",
    "commits/s requested",
    "method",
    "wall",
    "to cp",
    "consistent",
    "writer",
    "failed",
    "slowest write",
    "memory",
    "WAL grew",
)


FIGURE_HEADINGS = ["What", "Target", "Measured", "Reached"]


def format_row(row: Row) -> list[str]:
    """Write a row as the cells under HEADINGS."""
    return [
        f"{row.size / 1e9:g} GB",
        row.journal,
        _format_rate(row.rate),
        row.method,
        f"{row.seconds:.2f} s" if row.finished else f"{row.seconds:.1f} s, stopped at {row.copied:.0%}",
        f"{row.ratio:.2f}" if row.ratio else "",
        "yes" if row.consistent else "NO",
        f"{row.throughput:.0%}" if row.throughput is not None else "",
        f"{row.failed_writes}",
        f"{row.slowest_write:.2f} s" if row.rate else "",
        f"{row.peak_memory / 1e6:.0f} MB",
        f"{row.wal_growth / 1e6:.0f} MB" if row.journal == "wal" else "",
    ]


def _format_rate(rate: float) -> str:
    return "maximum" if rate == MAXIMUM_RATE else f"{rate:g}"


def print_table(out: Console, rows: Sequence[Row]) -> None:
    """Print all rows as a table in Markdown."""
    from rich import box
    from rich.table import Table

    table = Table(*HEADINGS, box=box.MARKDOWN)
    for row in rows:
        table.add_row(*format_row(row))
    out.print(table)


SERVICE_HEADINGS = (
    "size",
    "journal",
    "commits/s requested",
    "caches",
    "method",
    "wall",
    "before",
    "during",
    "after",
    "cached before, after",
    "kept",
)


def format_service_row(row: Row, impact: Impact) -> list[str]:
    """Write the impact on the service as the cells under SERVICE_HEADINGS."""
    memory = f", {row.memory / 1e9:g} GB of memory" if row.memory else ""
    return [
        f"{row.size / 1e9:g} GB{memory}",
        row.journal,
        _format_rate(row.rate),
        row.caches,
        row.method,
        f"{row.seconds:.2f} s",
        *(_format_latency(latency) for latency in (impact.before, impact.during, impact.after)),
        f"{impact.cached_before / 1e6:.0f}, {impact.cached_after / 1e6:.0f} MB",
        f"{impact.still_cached:.0%}",
    ]


def _format_latency(latency: Latency) -> str:
    values = (latency.median, latency.p99, latency.slowest)
    return f"{', '.join(f'{1000 * value:.0f}' for value in values)} ms"


def format_service_table(rows: Sequence[Row]) -> list[str]:
    """Write the impact on the service as the lines of a table in Markdown; none if there was no service."""
    cells = [format_service_row(row, row.impact) for row in rows if row.impact]
    table = [SERVICE_HEADINGS, ["---"] * len(SERVICE_HEADINGS), *cells] if cells else []
    return [f"| {' | '.join(row)} |" for row in table]


def print_lines(out: Console, lines: Sequence[str]) -> None:
    """Print lines as they are."""
    for line in lines:
        out.print(line, soft_wrap=True, markup=False)


def print_figures(out: Console, figures: Sequence[Figure]) -> None:
    """Print figures as a table in Markdown."""
    print_lines(out, format_figures(figures))


def format_figures(figures: Sequence[Figure]) -> list[str]:
    """Write figures as the lines of a table in Markdown."""
    rows = [FIGURE_HEADINGS, ["---"] * len(FIGURE_HEADINGS), *(figure.cells() for figure in figures)]
    return [f"| {' | '.join(row)} |" for row in rows]


# --- the picture ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """One chart of the picture with its heading; `y` is its offset."""

    name: str
    heading: str
    y: float
    chart: Chart


def draw(rows: Sequence[Row], picture: Path) -> None:
    """Draw wall times and the remaining rate of the writer, for each journal mode, as one SVG."""
    methods = list(dict.fromkeys(row.method for row in rows))
    colors = {method: f"series-{number}" for number, method in enumerate(methods, start=1)}
    panels: list[Panel] = []
    for journal in dict.fromkeys(row.journal for row in rows):
        for heading, chart in _make_charts([row for row in rows if row.journal == journal], colors):
            y = PANEL_TOP + PANEL.height * len(panels)
            panels.append(Panel(f"panel-{len(panels)}", f"{JOURNALS[journal]}: {heading}", y, chart))
    template = make_environment(True, Path(__file__).parent).get_template("benchmark.svg.j2")
    text = template.render(
        width=PANEL.width,
        height=PANEL_TOP + PANEL.height * len(panels),
        legend=[Series(method, color) for method, color in colors.items()] + [INCOMPLETE],
        panels=panels,
        methods=methods,
    )
    picture.write_text(text, encoding="utf-8")


def _make_charts(rows: Sequence[Row], colors: dict[str, str]) -> list[tuple[str, Chart]]:
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        label = (
            f"{row.size / 1e9:g} GB",
            f"{_format_rate(row.rate)} commits/s",
            *([] if row.caches == COLD else [row.caches]),
        )
        groups.setdefault(label, {})[row.method] = row
    times = {label: {name: _wall_time(row) for name, row in group.items()} for label, group in groups.items()}
    charts = [("wall time, logarithmic", grouped_chart(times, colors, SECONDS, logarithmic=True, size=PANEL))]
    rates = {
        label: {name: _writer_rate(row, row.throughput) for name, row in group.items() if row.throughput is not None}
        for label, group in groups.items()
    }
    if any(rates.values()):
        heading = "commits per second of the writer, compared with no backup"
        charts.append((heading, grouped_chart(rates, colors, PERCENT, logarithmic=False, size=PANEL)))
    return charts


def _wall_time(row: Row) -> Value:
    label = f"{row.seconds:.3g}" if row.seconds >= 1 else f"{row.seconds:.2f}"
    return Value(row.seconds, label, f"{row.seconds:.2f} s", _choose_pattern(row))


def _writer_rate(row: Row, throughput: float) -> Value:
    return Value(100 * throughput, f"{throughput:.0%}".rstrip("%"), f"{throughput:.0%}", _choose_pattern(row))


def _choose_pattern(row: Row) -> Pattern:
    return Pattern.SOLID if row.consistent else Pattern.STRIPES


if __name__ == "__main__":
    draw(summarize(read_measurements(RESULTS)), PICTURE)
