"""Charts of the page as SVG, and how its numbers are written."""

import re
from itertools import pairwise

import pytest

from fastft.report.charts import Row, fit_scale, row_chart
from fastft.report.lines import Series, line_chart, spread
from fastft.report.parts import write_bytes, write_measure, write_number, write_rate


@pytest.mark.parametrize(
    ("values", "log", "ticks"),
    [
        ([0.0, 13_743.0], False, [0, 5000, 10_000, 15_000]),
        ([0.2, 0.97], False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([-1.5, 3.0], False, [-2, -1, 0, 1, 2, 3]),
        ([46.5, 91_200.0], True, [100, 1000, 10_000, 100_000]),
        ([3.0, 4.0], True, [2, 5]),
        ([1e-300, 1e300], True, None),
        ([5.0], False, [0, 1, 2, 3, 4, 5]),
        ([0.0], False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([None], False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([0.0, None], True, [1, 2, 5, 10]),
    ],
)
def test_scales_end_and_are_marked_at_round_values(
    values: list[float | None], log: bool, ticks: list[float] | None
) -> None:
    scale = fit_scale(values, log=log)
    found = scale.ticks()
    assert len(found) <= 7
    assert ticks is None or found == pytest.approx(ticks)
    for value in values:
        assert value is None or 0 <= scale.share(value) <= 1
    assert scale.share(scale.low) == 0
    assert scale.share(scale.high) == 1


def test_bars_are_proportional_to_the_longest() -> None:
    chart = row_chart("", [Row("a", 50.0, "50"), Row("b", 200.0, "200"), Row("c", None, "none")])
    assert re.findall(r'class="bar"[^>]*width="([^"]*)"', chart) == ["25%", "100%"]
    assert re.findall(r'class="value"[^>]*>([^<]*)<', chart) == ["50", "200", "none"]


def test_a_line_is_interrupted_where_nothing_is_known() -> None:
    points = tuple(enumerate([1.0, 2.0, None, 3.0, 1.0]))
    scale = fit_scale([0.0, 4.0])
    chart = line_chart(
        "", [Series("it", points)], x=scale, y=fit_scale([0.0, 4.0]), x_title="x",
        x_number=write_number, y_number=write_number, y_tick=write_number,
    )  # fmt: skip
    lines = re.findall(r'points="([^"]*)"', chart)
    assert [line.split()[0] for line in lines] == ["0.0,157.5", "750.0,52.5"]
    assert len(re.findall(r'class="marker"', chart)) == 4


def test_names_beside_lines_are_moved_apart() -> None:
    places = spread([100.0, 101.0, 99.0, 300.0, 205.0], 16.0, 0.0, 210.0)
    assert places[2] < places[0] < places[1] < places[4] < places[3] <= 210
    ordered = sorted(places)
    assert min(b - a for a, b in pairwise(ordered)) >= 16


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (write_rate(13_743.9), "13,744"), (write_rate(46.5), "46.5"),
        (write_rate(3.75e7), "37.5 M"),
        (write_rate(1.234e11), "1.23e+11"), (write_rate(None), "\u2013"), (write_rate(0.0), "0"),
        (write_measure(1.4), "1.40"), (write_measure(0.0004), "4.00e-04"),
        (write_measure(0), "0.000"),
        (write_bytes(999), "0.999 kB"), (write_bytes(1_928_966_144), "1.93 GB"),
        (write_number(100_000), "100,000"), (write_number(0.01), "0.01"),
    ],
)  # fmt: skip
def test_numbers_are_written_short(text: str, wanted: str) -> None:
    assert text == wanted
