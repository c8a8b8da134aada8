"""What was measured, as rows of medians, a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from measuring import AS_MANY_AS_IT_CAN, Measured

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Row:
    """The medians of one method in one situation; `ratio` is its wall time to that of `cp, fsync`."""

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


def summarize(results: Sequence[Measured]) -> list[Row]:
    """Make one row of all rounds of a method in a situation, in the order in which they were measured."""
    groups: dict[tuple[float, str, float, str], list[Measured]] = {}
    for each in results:
        groups.setdefault((each.size, each.journal, each.rate, each.method), []).append(each)
    rows = []
    for (size, journal, rate, method), group in groups.items():
        yardstick = groups.get((size, journal, rate, "cp, fsync"))
        finished = [each for each in group if each.status == 0]
        seconds = median(each.seconds for each in group)
        rows.append(
            Row(
                size=size,
                journal=journal,
                rate=rate,
                method=method,
                seconds=seconds,
                ratio=seconds / median(each.seconds for each in yardstick) if yardstick and finished else None,
                finished=len(finished),
                consistent=all(each.consistent for each in group if each.consistent is not None),
                rounds=len(group),
                copied=median(each.copied / each.source_bytes for each in group),
                throughput=median(each.commits_per_second / each.alone for each in group) if group[0].alone else None,
                failed_writes=sum(each.failed_writes for each in group),
                slowest_write=max(each.slowest_write for each in group),
                peak_memory=max(each.peak_memory for each in group),
                wal_growth=max(each.wal_growth for each in group),
            )
        )
    return rows


HEADINGS = (
    "size",
    "journal",
    "commits/s asked",
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


def cells(row: Row) -> list[str]:
    """Write a row for people, under HEADINGS."""
    gave_up = f"{row.seconds:.1f} s, gave up at {row.copied:.0%}"
    return [
        f"{row.size / 1e9:g} GB",
        row.journal,
        "as many as it can" if row.rate == AS_MANY_AS_IT_CAN else f"{row.rate:g}",
        row.method,
        f"{row.seconds:.2f} s" if row.finished else gave_up,
        f"{row.ratio:.2f}" if row.ratio else "",
        "yes" if row.consistent else "NO",
        f"{row.throughput:.0%}" if row.throughput is not None else "",
        f"{row.failed_writes}",
        f"{row.slowest_write:.2f} s" if row.rate else "",
        f"{row.peak_memory / 1e6:.0f} MB",
        f"{row.wal_growth / 1e6:.0f} MB" if row.journal == "wal" else "",
    ]


def print_table(out: Console, rows: Sequence[Row]) -> None:
    """Print all rows as a table that is Markdown too."""
    from rich import box
    from rich.table import Table

    table = Table(*HEADINGS, box=box.MARKDOWN)
    for row in rows:
        table.add_row(*cells(row))
    out.print(table)


def draw(rows: Sequence[Row], picture: Path) -> None:
    """Draw wall times and what was left of the writer, a group of bars for each situation."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "benchmark"
    from matplotlib import pyplot

    journals = list(dict.fromkeys(row.journal for row in rows))
    figure, axes = pyplot.subplots(2, len(journals), figsize=(12, 7), squeeze=False, layout="constrained")
    for column, journal in zip(axes.T, journals, strict=True):
        shown = [row for row in rows if row.journal == journal]
        situations = list(dict.fromkeys((row.size, row.rate) for row in shown))
        labels = [
            f"{size / 1e9:g} GB\n{'max' if rate == AS_MANY_AS_IT_CAN else f'{rate:g}/s'}" for size, rate in situations
        ]
        methods = list(dict.fromkeys(row.method for row in shown))
        for number, method in enumerate(methods):
            mine = {(row.size, row.rate): row for row in shown if row.method == method}
            places = [
                place + (number - (len(methods) - 1) / 2) * 0.8 / len(methods) for place in range(len(situations))
            ]
            found = [mine.get(situation) for situation in situations]
            hatches = ["" if row and row.consistent else "///" for row in found]
            for axis, values in (
                (column[0], [row.seconds if row else 0 for row in found]),
                (column[1], [100 * (row.throughput or 0) if row else 0 for row in found]),
            ):
                axis.bar(
                    places,
                    values,
                    0.8 / len(methods),
                    label=method,
                    color=f"C{number}",
                    hatch=hatches,
                    edgecolor="white",
                )
        column[0].set(title=f"{'WAL' if journal == 'wal' else 'rollback journal'}", ylabel="wall time, s", yscale="log")
        column[1].set(ylabel="writer, % of alone")
        for axis in column:
            axis.set_xticks(range(len(situations)), labels, fontsize="small")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=len(names), title="hatched: not consistent, or not finished"
    )
    figure.savefig(picture, format="svg", metadata={"Date": None})
    pyplot.close(figure)
