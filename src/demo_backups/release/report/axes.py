"""The axes of a plot: round numbers and round times, and their labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from ...units import format_duration, format_short_size

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MINUTE, HOUR, DAY = 60, 3600, 86_400  # in seconds
TIME_STEPS = (
    *(1, 2, 5, 10, 15, 30),
    *(count * MINUTE for count in (1, 2, 5, 10, 15, 30)),
    *(count * HOUR for count in (1, 2, 3, 6, 12)),
    *(count * DAY for count in (1, 2, 4, 7, 14)),
)
MONTH_STEPS = (1, 2, 3, 6, *(12 * scale * count for scale in (1, 10, 100, 1000) for count in (1, 2, 5)))
INTERVALS = 4  # between ticks, at most
OVERSHOOT = 0.05  # of a step, by which a number may be above the last tick


@dataclass(frozen=True)
class Quantity:
    """How numbers are written: on an axis in one unit (factors and names, the largest first), elsewhere one by one."""

    units: tuple[tuple[float, str], ...]
    describe: Callable[[float], str]
    is_whole: bool = False

    def choose_unit(self, top: float) -> tuple[float, str]:
        """Choose the largest unit that is not larger than the highest number."""
        return next((unit for unit in self.units if unit[0] <= top), self.units[-1])


PREFIXES = ((1e18, " EB"), (1e15, " PB"), (1e12, " TB"), (1e9, " GB"), (1e6, " MB"), (1e3, " kB"))
BYTES = Quantity((*PREFIXES, (1, " bytes")), format_short_size)
SECONDS = Quantity(((HOUR, " h"), (MINUTE, " min"), (1, " s")), format_duration)
COUNT = Quantity(((1, ""),), "{:g}".format, is_whole=True)
PERCENT = Quantity(((1, " %"),), "{:.0f} %".format)


# --- numbers --------------------------------------------------------------------------------------------------------


def linear_ticks(top: float, quantity: Quantity) -> list[tuple[float, str]]:
    """Return round numbers from 0 to about `top` or above, with their labels; the steps are 1, 2 or 5 times 10^n."""
    factor, unit = quantity.choose_unit(top)
    top = top / factor or 1
    power = 10.0 ** math.floor(math.log10(top / INTERVALS))
    step = next(power * digit for digit in (1, 2, 5, 10) if power * digit * INTERVALS >= top * (1 - 1e-9))
    step = max(step, 1) if quantity.is_whole else step
    numbers = [step * count for count in range(math.ceil(top / step - OVERSHOOT) + 1)]
    return [(number * factor, f"{number:g}{unit}" if number else "0") for number in numbers]


def logarithmic_ticks(bottom: float, top: float, quantity: Quantity) -> list[tuple[float, str]]:
    """Return 1, 2 and 5 times 10^n with labels, from the last one below `bottom` to the first one not below `top`."""
    powers = range(math.floor(math.log10(bottom)) - 1, math.floor(math.log10(top)) + 2)
    numbers = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    start = max(number for number in numbers if number < bottom)
    end = min(number for number in numbers if number >= top)
    _, unit = quantity.units[-1]
    return [(number, f"{number:g}{unit}") for number in numbers if start <= number <= end]


# --- times ----------------------------------------------------------------------------------------------------------


def time_ticks(start: datetime, end: datetime, shortest: int = 1) -> list[datetime]:
    """Return round times in UTC; `shortest` is the smallest step in seconds."""
    span = (end - start).total_seconds()
    step = next((step for step in TIME_STEPS if step >= shortest and span / step <= INTERVALS), None)
    if step is None:
        return _month_ticks(start, end)
    first, last = ((time - EPOCH).total_seconds() / step for time in (start, end))
    return [EPOCH + timedelta(seconds=step * count) for count in range(math.ceil(first), math.floor(last) + 1)]


def _month_ticks(start: datetime, end: datetime) -> list[datetime]:
    first, last = (12 * time.year + time.month - 1 for time in (start, end))
    step = next((step for step in MONTH_STEPS if (last - first) / step <= INTERVALS), MONTH_STEPS[-1])
    months = range(math.ceil(first / step) * step, last + 1, step)
    ticks = [datetime(month // 12, month % 12 + 1, 1, tzinfo=timezone.utc) for month in months]
    return [tick for tick in ticks if tick >= start]


def time_labels(ticks: Sequence[datetime]) -> list[tuple[str, ...]]:
    """Label times as briefly as their distance allows, with the day or the year on a second line where it changes."""
    labels: list[tuple[str, ...]] = []
    previous = ""
    for text, context in map(_choose_time_format(ticks), ticks):
        labels.append((text, context) if context not in ("", previous) else (text,))
        previous = context
    return labels


def _choose_time_format(ticks: Sequence[datetime]) -> Callable[[datetime], tuple[str, str]]:
    if any(tick.second for tick in ticks):
        return lambda tick: (f"{tick:%H:%M:%S}", f"{tick:%b} {tick.day}, {tick.year}")
    if any(tick.hour or tick.minute for tick in ticks):
        return lambda tick: (f"{tick:%H:%M}", f"{tick:%b} {tick.day}, {tick.year}")
    if len(ticks) == 1 or any(tick.day != 1 for tick in ticks):
        return lambda tick: (f"{tick:%b} {tick.day}", f"{tick.year}")
    if any(tick.month != 1 for tick in ticks):
        return lambda tick: (f"{tick:%b}", f"{tick.year}")
    return lambda tick: (f"{tick.year}", "")
