"""Charts for the template `plot.svg.j2`, which writes them as SVG.

Points and bars have the coordinates of the data: a number, and a time in seconds or the number of a group. `Chart.x`
and `Chart.y` map them to the view box. Colors are CSS classes with values for light and dark mode, in `plot.css` and
`colors.css`. Color is never the only difference: lines differ in dash and marker, bars in pattern.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ...units import format_time
from .axes import DAY, EPOCH, Quantity, linear_ticks, logarithmic_ticks, time_labels, time_ticks

MOST_MARKERS = 30  # with more points, only the line is drawn
CHARACTER_WIDTH = 6.6  # in units of the view box: an estimate, since fonts differ


class Pattern(enum.Enum):
    """What is drawn over a bar; the value names the pattern in the template."""

    SOLID = "solid"
    STRIPES = "stripes"
    LINES = "lines"


class Marker(enum.Enum):
    """The shape of a point; the value names it in the template."""

    CIRCLE = "circle"
    TRIANGLE = "triangle"


@dataclass(frozen=True)
class TimeSeries:
    """Numbers over time, in the order of time; the times have a time zone. `color` is a class of `plot.css`."""

    name: str
    color: str
    points: list[tuple[datetime, float]]
    marker: Marker = Marker.CIRCLE
    dashed: bool = False
    pattern: Pattern = Pattern.SOLID


@dataclass(frozen=True)
class Value:
    """A bar of a group. The label is short, the description is not."""

    number: float
    label: str
    description: str
    pattern: Pattern = Pattern.SOLID


# --- charts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A point of a line; its description is shown when the pointer rests on its marker."""

    x: float
    y: float
    description: str


@dataclass(frozen=True)
class Bar:
    """A bar, centered at `x`; its description is shown when the pointer rests on it."""

    x: float
    bottom: float
    top: float
    width: float
    description: str
    pattern: Pattern = Pattern.SOLID
    label: str = ""


@dataclass(frozen=True)
class Series:
    """The points or the bars of one name."""

    name: str
    color: str
    points: list[Point] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    marker: Marker = Marker.CIRCLE
    dashed: bool = False
    pattern: Pattern = Pattern.SOLID

    @property
    def has_markers(self) -> bool:
        """Whether there are few enough points for a marker each."""
        return 0 < len(self.points) <= MOST_MARKERS


@dataclass(frozen=True)
class Size:
    """The view box, and the space around the plotted area."""

    width: float = 310
    height: float = 194
    top: float = 34
    bottom: float = 36
    right: float = 16


@dataclass(frozen=True)
class Chart:
    """Series with their axes. `start` and `end` bound the horizontal axis, the labels of y the vertical one."""

    series: list[Series]
    start: float
    end: float
    x_labels: list[tuple[float, tuple[str, ...]]]
    y_labels: list[tuple[float, str]]
    logarithmic: bool = False
    size: Size = field(default_factory=Size)

    @property
    def left(self) -> float:
        """The left end of the plotted area."""
        return 14 + CHARACTER_WIDTH * max(len(text) for _, text in self.y_labels)

    @property
    def right(self) -> float:
        """The right end of the plotted area."""
        return self.size.width - self.size.right

    @property
    def base(self) -> float:
        """The lower end of the plotted area."""
        return self.size.height - self.size.bottom

    def x(self, value: float) -> float:
        """Map a time or the number of a group."""
        return self.left + self.width(value - self.start)

    def width(self, difference: float) -> float:
        """Map a distance on the horizontal axis."""
        return difference / (self.end - self.start) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Map a number; those below the axis are on it."""
        (lowest, _), (highest, _) = self.y_labels[0], self.y_labels[-1]
        low, high, number = map(self._scale, (lowest, highest, max(value, lowest)))
        return self.base - (number - low) / (high - low) * (self.base - self.size.top)

    def _scale(self, number: float) -> float:
        return math.log10(number) if self.logarithmic else number


# --- numbers over time ----------------------------------------------------------------------------------------------


def line_chart(lines: Sequence[TimeSeries], quantity: Quantity) -> Chart:
    """Draw a line for each series that has points; at least one has."""
    series = [
        Series(
            name=line.name,
            color=line.color,
            points=[_make_point(time, number, quantity) for time, number in line.points],
            marker=line.marker,
            dashed=line.dashed,
        )
        for line in lines
        if line.points
    ]
    times = [time for line in lines for time, _ in line.points]
    margin = (max(times) - min(times)) * 0.04 or timedelta(hours=12)  # a single point is in the middle
    highest = max(number for line in lines for _, number in line.points)
    return _time_chart(series, min(times) - margin, max(times) + margin, linear_ticks(highest, quantity))


def _make_point(time: datetime, number: float, quantity: Quantity) -> Point:
    return Point(_seconds(time), number, f"{format_time(time)}: {quantity.describe(number)}")


def stacked_chart(stacks: Sequence[TimeSeries], quantity: Quantity) -> Chart:
    """Draw one bar for each day, on which the series are stacked; at least one has points, all at midnight UTC."""
    sums: dict[datetime, float] = {}
    series = []
    for stack in stacks:
        bars = []
        for day, number in stack.points:
            bottom = sums.get(day, 0.0)
            sums[day] = bottom + number
            text = f"{day:%Y-%m-%d}: {quantity.describe(number)} {stack.name}"
            bars.append(Bar(_seconds(day), bottom, sums[day], 0.7 * DAY, text, stack.pattern))
        if bars:
            series.append(Series(stack.name, stack.color, bars=bars, pattern=stack.pattern))
    margin = timedelta(days=max(1, 4 - len(sums)))
    ticks = linear_ticks(max(sums.values()), quantity)
    return _time_chart(series, min(sums) - margin, max(sums) + margin, ticks, shortest=DAY)


def _time_chart(
    series: list[Series], start: datetime, end: datetime, y_labels: list[tuple[float, str]], shortest: int = 1
) -> Chart:
    ticks = time_ticks(start, end, shortest)
    x_labels = [(_seconds(tick), label) for tick, label in zip(ticks, time_labels(ticks), strict=True)]
    return Chart(series, _seconds(start), _seconds(end), x_labels, y_labels)


def _seconds(time: datetime) -> float:
    return (time - EPOCH).total_seconds()


# --- groups of bars -------------------------------------------------------------------------------------------------


def grouped_chart(
    groups: dict[tuple[str, ...], dict[str, Value]],
    colors: dict[str, str],
    quantity: Quantity,
    logarithmic: bool,
    size: Size,
) -> Chart:
    """Draw a group of bars for each label, in it a bar for each name of `colors` that has a value."""
    numbers = [value.number for group in groups.values() for value in group.values()]
    positive = [number for number in numbers if number > 0] or [1]
    width = 0.84 / len(colors)
    series = []
    for position, (name, color) in enumerate(colors.items()):
        offset = width * (position - (len(colors) - 1) / 2)
        bars = [
            _make_group_bar(number + offset, width, group[name], (name, *label))
            for number, (label, group) in enumerate(groups.items())
            if name in group
        ]
        series.append(Series(name, color, bars=bars))
    return Chart(
        series,
        start=-0.5,
        end=len(groups) - 0.5,
        x_labels=[(float(number), label) for number, label in enumerate(groups)],
        y_labels=logarithmic_ticks(min(positive), max(positive), quantity)
        if logarithmic
        else linear_ticks(max(numbers), quantity),
        logarithmic=logarithmic,
        size=size,
    )


def _make_group_bar(x: float, width: float, value: Value, names: tuple[str, ...]) -> Bar:
    text = f"{', '.join(names)}: {value.description}"
    return Bar(x, 0, value.number, 0.94 * width, text, value.pattern, value.label)
