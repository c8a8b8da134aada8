"""The axes and the charts of the report, and their SVG."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from datetime import datetime, timedelta, timezone

import pytest

from demo_backups.release.report.axes import (
    BYTES,
    COUNT,
    SECONDS,
    Quantity,
    linear_ticks,
    logarithmic_ticks,
    time_labels,
    time_ticks,
)
from demo_backups.release.report.charts import make_figures
from demo_backups.release.report.plots import Chart, TimeSeries, line_chart, stacked_chart
from demo_backups.release.report.render import make_environment

from ..helpers.report_samples import NOW, history

SVG = "{http://www.w3.org/2000/svg}"
YEAR = timedelta(days=365)


def draw(chart: Chart, name: str = "plot", title: str = "A title", description: str = "A description") -> ET.Element:
    """Draw a chart as the page does, and parse the SVG."""
    source = '{% from "plot.svg.j2" import plot %}{{ plot(name, chart, title, description) }}'
    template = make_environment(autoescape=True).from_string(source)
    text = template.render(name=name, chart=chart, title=title, description=description)
    return ET.fromstring(text.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def texts(svg: ET.Element, tag: str) -> list[str]:
    return ["".join(element.itertext()) for element in svg.iter(f"{SVG}{tag}")]


def history_charts(count: int) -> list[Chart]:
    records = sorted(history(count), key=lambda record: record.when)
    return [figure.chart for figure in make_figures(records, "plot") if figure.chart]


# --- axes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantity", [BYTES, SECONDS, COUNT], ids=["bytes", "seconds", "count"])
@pytest.mark.parametrize("top", [0, 1, 2, 3, 7, 99, 100, 101, 2_310_144, 17_000_000_001, 2**63])
def test_linear_ticks_cover_every_number(top: float, quantity: Quantity) -> None:
    ticks = linear_ticks(top, quantity)
    numbers = [number for number, _ in ticks]
    step = numbers[1]
    assert numbers[0] == 0
    assert numbers[-1] >= top - 0.05 * step
    assert 2 <= len(ticks) <= 6
    assert len({label for _, label in ticks}) == len(ticks)
    digits = f"{step / quantity.choose_unit(top)[0]:e}"
    assert float(digits.split("e", maxsplit=1)[0]) in (1, 2, 5)


@pytest.mark.parametrize("top", [1, 2, 3])
def test_counts_have_whole_ticks(top: int) -> None:
    assert all(number == int(number) for number, _ in linear_ticks(top, COUNT))


@pytest.mark.parametrize(
    ("top", "quantity", "label"), [(2_310_144, BYTES, "2 MB"), (5400, SECONDS, "1 h"), (0.04, SECONDS, "0.02 s")]
)
def test_labels_have_a_fitting_unit(top: float, quantity: Quantity, label: str) -> None:
    assert label in [text for _, text in linear_ticks(top, quantity)]


@pytest.mark.parametrize(("bottom", "top"), [(0.31, 30.1), (1, 1), (0.001, 9_999), (2, 5)])
def test_logarithmic_ticks_enclose_numbers(bottom: float, top: float) -> None:
    numbers = [number for number, _ in logarithmic_ticks(bottom, top, SECONDS)]
    assert numbers[0] < bottom
    assert numbers[-1] >= top


@pytest.mark.parametrize("days", [0.00003, 0.005, 0.3, 1, 9, 70, 365, 1000, 15_000, 300_000, 1_800_000])
def test_time_ticks_are_few_and_labelled(days: float) -> None:
    end = NOW + timedelta(days=days)
    ticks = time_ticks(NOW, end)
    assert all(NOW <= tick <= end for tick in ticks)
    assert 1 <= len(ticks) <= 5
    labels = time_labels(ticks)
    assert len(labels) == len(ticks)
    assert str(ticks[0].year) in labels[0][-1]


def test_hours_are_labelled_with_their_day() -> None:
    midnight = datetime(2024, 12, 31, tzinfo=timezone.utc)
    labels = time_labels(time_ticks(midnight, midnight + timedelta(days=1)))
    assert labels[0] == ("00:00", "Dec 31, 2024")
    assert labels[1] == ("06:00",)
    assert labels[-1] == ("00:00", "Jan 1, 2025")


# --- charts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 14, 40, 1000])
def test_numbers_are_inside_the_plotted_area(count: int) -> None:
    for chart in history_charts(count):
        spots = [(point.x, point.y) for series in chart.series for point in series.points]
        spots += [(bar.x, bar.top) for series in chart.series for bar in series.bars]
        assert spots
        for x, y in spots:
            assert chart.left <= chart.x(x) <= chart.right
            assert chart.size.top - 10 <= chart.y(y) <= chart.base


def test_larger_numbers_are_higher() -> None:
    chart = line_chart([TimeSeries("backup", "series-1", [(NOW, 1.0), (NOW + YEAR, 9.0)])], SECONDS)
    assert chart.y(9) < chart.y(1) < chart.y(0) == chart.base
    assert chart.x(chart.end) > chart.x(chart.start)


def test_stacked_bars_adjoin() -> None:
    day = NOW.replace(hour=0)
    passed = TimeSeries("passed", "series-good", [(day, 4.0), (day + timedelta(days=1), 5.0)])
    failed = TimeSeries("failed", "series-bad", [(day, 2.0)])
    chart = stacked_chart([passed, failed, TimeSeries("unknown", "series-warning", [])], COUNT)
    assert [(bar.bottom, bar.top) for series in chart.series for bar in series.bars] == [(0, 4), (0, 5), (4, 6)]


# --- SVG ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 14, 40, 1000])
def test_svg_refers_to_nothing_outside(count: int) -> None:
    for chart in history_charts(count):
        svg = draw(chart)
        tags = {element.tag.removeprefix(SVG) for element in svg.iter()}
        assert tags <= {"svg", "title", "desc", "defs", "pattern", "g", "path", "circle", "rect", "text", "tspan"}
        attributes = {name: value for element in svg.iter() for name, value in element.attrib.items()}
        assert not [name for name in attributes if "href" in name or name.startswith("on") or name == "style"]
        ids = [value for element in svg.iter() if (value := element.get("id"))]
        assert len(ids) == len(set(ids))
        assert all(value.startswith("plot-") for value in ids)
        text = ET.tostring(svg, encoding="unicode")
        assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
        assert "#" not in re.sub(r"url\(#[^)]+\)", "", text)  # colors come from the page
        assert len(text) < 60_000


def test_svg_is_reproducible() -> None:
    first, second = ([ET.tostring(draw(chart), encoding="unicode") for chart in history_charts(40)] for _ in range(2))
    assert first == second


def test_svg_shows_every_number_of_few_points() -> None:
    points = [(NOW + timedelta(hours=hour), 1000.0 * (hour + 1)) for hour in range(5)]
    titles = texts(draw(line_chart([TimeSeries("backup", "series-1", points)], BYTES)), "title")
    for hour in range(5):
        assert sum(f"{hour + 1} kB" in title for title in titles) == 1
    assert any("2024-11-24 23:00 UTC" in title for title in titles)


def test_svg_draws_every_point_of_a_line() -> None:
    points = [(NOW + timedelta(hours=hour), float(hour)) for hour in range(200)]
    svg = draw(line_chart([TimeSeries("backup", "series-1", points)], SECONDS))
    lines = [path.get("d", "") for path in svg.iter(f"{SVG}path") if path.get("class") == "line"]
    assert len(max(lines, key=len).split()) == 200


def test_legend_names_only_series_with_points() -> None:
    size, duration, counts = (texts(draw(chart), "text") for chart in history_charts(40))
    assert {"backup", "database"} <= set(size)
    assert {"backup", "verification"} <= set(duration)
    assert {"passed", "failed"} <= set(counts)
    single = texts(draw(history_charts(2)[2]), "text")
    assert "passed" in single
    assert "failed" not in single


def test_svg_has_title_and_description() -> None:
    svg = draw(history_charts(2)[0], "plot-1", "<b>Size</b>", "1 & 2 MB")
    (title,) = (element for element in svg.iter(f"{SVG}title") if element.get("id"))
    (description,) = svg.iter(f"{SVG}desc")
    assert (title.text, description.text) == ("<b>Size</b>", "1 & 2 MB")
    assert (svg.get("aria-labelledby"), svg.get("aria-describedby")) == (title.get("id"), description.get("id"))
    assert svg.get("role") == "img"
