"""Plots for a page: inline SVG whose colours are the page's own, so that they follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT, TEXT = 4.3, 2.7, 12  # inches and points, of which SVG makes its own units: 72 to the inch
TICKS = 5
MARKED = 30  # points: of more, only the line is drawn
# What each series looks like: the variable of the page, and its line and marker or the hatch of its bars, since colour
# alone says nothing to some.
LINES = (("--plot-1", "-o"), ("--plot-2", "--^"))
BARS = (("--good", ""), ("--bad", "////"), ("--care", "----"))
# Matplotlib wants colours that it knows: these stand for the page's own until the SVG is written.
STAND_INS = {
    variable: f"#0102{number:02d}"
    for number, variable in enumerate(
        ["--ink", "--muted", "--line", "--card", *(variable for variable, _ in LINES + BARS)], start=10
    )
}


@dataclass(frozen=True)
class Series:
    """Numbers over time, under one name; the times have a time zone."""

    name: str
    points: list[tuple[datetime, float]]


@dataclass(frozen=True)
class Chart:
    """What a plot shows: its series, and how a number is written with its unit. `name` is unique on its page."""

    name: str
    series: list[Series]
    say: Callable[[float], str]
    bars: bool = False  # a day's numbers upon each other, not points


def draw(chart: Chart) -> str:
    """Draw a chart as an `svg` element without a size or a name of its own; equal charts give equal text."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the user's own matplotlibrc says
        mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": chart.name, "font.size": TEXT})
        mpl.rcParams.update({"hatch.linewidth": 1.2, "hatch.color": STAND_INS["--card"]})
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        (_bars if chart.bars else _lines)(axes, chart.series)
        _dress(axes, chart)
        figure.legend(
            loc="outside upper left",
            ncols=len(chart.series),
            frameon=False,
            labelcolor=STAND_INS["--ink"],
            fontsize=TEXT - 1,
            handlelength=1.6,
            columnspacing=1.2,
        )
        svg = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(svg, format="svg", transparent=True, metadata=nothing)
    return _inline(svg.getvalue(), chart.name)


def _lines(axes: Axes, series: Sequence[Series]) -> None:
    for (variable, look), each in zip(LINES, series, strict=True):
        if not each.points:
            continue
        times: list[Any] = [when for when, _ in each.points]  # Matplotlib's types know of no dates
        style = look if len(times) <= MARKED else look[:-1]
        values = [value for _, value in each.points]
        axes.plot(times, values, style, color=STAND_INS[variable], markersize=5, linewidth=1.4, label=each.name)
    times = sorted(when for each in series for when, _ in each.points)
    margin = (times[-1] - times[0]) * 0.04 or timedelta(hours=12)  # a single point stands in the middle
    start: Any = times[0] - margin
    end: Any = times[-1] + margin
    axes.set_xlim(start, end)


def _bars(axes: Axes, series: Sequence[Series]) -> None:
    below: dict[datetime, float] = {}
    for (variable, hatch), each in zip(BARS, series, strict=True):
        if not each.points:
            continue
        days: list[Any] = [day for day, _ in each.points]
        axes.bar(
            days,
            [value for _, value in each.points],
            bottom=[below.get(day, 0) for day in days],
            width=0.7,
            color=STAND_INS[variable],
            hatch=hatch,
            linewidth=0,
            label=each.name,
        )
        below.update({day: below.get(day, 0) + value for day, value in each.points})
    start: Any = min(below) - timedelta(days=max(1, 4 - len(below)))
    end: Any = max(below) + timedelta(days=max(1, 4 - len(below)))
    axes.set_xlim(start, end)


def _dress(axes: Axes, chart: Chart) -> None:
    """Axes that begin at nothing, few ticks, and no frame."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ticks: Any = AutoDateLocator(minticks=2, maxticks=TICKS)  # type: ignore[no-untyped-call]
    if chart.bars:
        ticks.intervald[4] = [1]
    axes.xaxis.set_major_locator(ticks)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(ticks))  # type: ignore[no-untyped-call]
    axes.set_ylim(0, max(value for value in _tops(chart)) * 1.08 or 1)
    axes.yaxis.set_major_locator(MaxNLocator(TICKS - 1, integer=chart.bars, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: chart.say(value)))
    axes.tick_params(colors=STAND_INS["--muted"], length=0, pad=6)
    axes.xaxis.get_offset_text().set_color(STAND_INS["--muted"])
    axes.grid(axis="y", color=STAND_INS["--line"], linewidth=1)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set_visible(True)
    axes.spines["bottom"].set_color(STAND_INS["--muted"])


def _tops(chart: Chart) -> list[float]:
    """The values that the plot has to have room for."""
    if not chart.bars:
        return [value for each in chart.series for _, value in each.points]
    sums: dict[datetime, float] = {}
    for each in chart.series:
        for day, value in each.points:
            sums[day] = sums.get(day, 0) + value
    return list(sums.values())


def _inline(svg: str, name: str) -> str:
    """Make part of a page of a file: names that clash with no other plot's, the page's colours and its letters."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg aria-hidden="true" \1>', svg, count=1)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    svg = re.sub(r"\s*\n\s*", " ", svg).strip()
    for variable, colour in STAND_INS.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
