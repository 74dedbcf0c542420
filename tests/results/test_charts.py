"""Charts that several rooms draw, in a picture and in a page."""

import re
from itertools import count
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from drawn import find_overlaps
from matplotlib.figure import Figure
from PIL import Image

from fastft.results.charts import Bar, Line, bar_panel, line_panel, span_panel
from fastft.results.plots import DPI, Panel, draw_panels, save_panels
from fastft.results.svg import CLASSES, draw_svg
from pipelines.errors import DataError

LONG = "a name that goes on, without_a_break_in_its_later_part_which_is_longer_than_any_chart"
BARS = [
    Bar("first", 50.0, "50", limit=60.0, mark=40.0),
    Bar(LONG, 123_456_789_012.0, "123,456,789,012  (99% of its ceiling)"),
    Bar("tiny", 1e-3, "0.001"),
    Bar("none", None, "not measured"),
]
PANELS = {
    "bars": bar_panel("Bars", BARS),
    "logarithmic bars": bar_panel("Bars", BARS, log=True, line=(3.0, "the model step: 3")),
    "no bars": bar_panel("Bars", []),
    "spans": span_panel(
        "Spans",
        [
            Bar(LONG, 0.1, "+0.10", low=-0.3, high=0.5, points=(0.1, 0.2)),
            Bar("one", -2.0, "-2.00"),
        ],
        band=(-1.0, 1.0),
        x_label="points",
    ),
    "logarithmic spans": span_panel(
        "Spans",
        [Bar("a", 1.6, "1.60", mark=1.4, low=1.5, high=1.7), Bar("b", 90.0, "90")],
        log=True,
    ),
    "equal spans": span_panel("Spans", [Bar("a", 0.5, "0.500", points=(0.5, 0.5))]),
    "lines": line_panel(
        "Lines",
        [
            Line("", tuple((at / 10, 2.0 - at / 30) for at in range(60)), is_faint=True),
            Line(LONG, ((1.0, 1.4), (2.0, None), (3.0, float("nan")))),
            Line("b", ((1.0, 1.0),)),
        ],
        x_label="epoch",
    ),
    "close ticks": line_panel(
        "Lines",
        [Line("a", ((1e3, 1.0), (1.1e3, 2.0), (1e5, 900.0)))],
        x_label="samples",
        x_ticks=[1e3, 1.1e3, 1e5],
        log_x=True,
    ),
    "no lines": line_panel("Lines", [Line("a", ())], x_label="epoch"),
}


@pytest.mark.parametrize("name", PANELS)
def test_no_text_covers_another(name: str) -> None:
    assert find_overlaps([PANELS[name]]) == []


def test_overlapping_texts_are_found() -> None:
    def draw(axes: object) -> None:
        axes.text(0.5, 0.5, "one")
        axes.text(0.5, 0.5, "two")

    assert find_overlaps([Panel("", draw)]) == ["'two' on 'one'"]


def test_bars_are_proportional_to_the_longest() -> None:
    axes = Figure().subplots()
    bar_panel("", [Bar("a", 50.0, "50"), Bar("b", 200.0, "200"), Bar("c", None, "none")]).draw(axes)
    assert [bar.get_width() for bar in axes.patches] == [50.0, 200.0]
    assert {text.get_text() for text in axes.texts} == {"a", "50", "b", "200", "c", "none"}
    assert axes.get_xlim()[0] == 0


def test_a_wide_range_is_drawn_by_factors() -> None:
    for values, scale in (((1.0, 7.0), "linear"), ((1.0, 9.0), "log"), ((0.0, 9.0), "linear")):
        axes = Figure().subplots()
        line_panel("", [Line("a", tuple(enumerate(values)))], x_label="").draw(axes)
        assert axes.get_yscale() == scale


def test_a_line_is_interrupted_where_nothing_is_known() -> None:
    axes = Figure().subplots()
    line_panel("", [Line("a", ((0, 1.0), (1, None), (2, 2.0)))], x_label="").draw(axes)
    assert [str(y) for y in axes.lines[0].get_ydata()] == ["1.0", "nan", "2.0"]


def test_svg_holds_no_style_of_its_own() -> None:
    names = count()
    for panel in PANELS.values():
        text = draw_svg(panel, f"chart {next(names)}")
        root = ET.fromstring(text)
        for element in root.iter():
            assert "style" not in element.attrib
            assert element.tag not in ("style", "script", "metadata", "image", "foreignObject")
            assert not any(name.startswith(("on", "{")) for name in element.attrib)
            assert element.get("fill", "none") == element.get("stroke", "none") == "none"
            assert element.get("href", "#").startswith("#")
        used = set(
            re.findall(
                r"(?:fill|stroke)-([a-z]+\d?)\b",
                " ".join(element.get("class", "") for element in root.iter()),
            )
        )
        assert used <= set(CLASSES.values())
        assert root.get("aria-label") == panel.title


def test_names_are_text_and_no_formula() -> None:
    hostile = "<script>$\\frac{$ & ]]>"
    text = draw_svg(bar_panel(hostile, [Bar(hostile, 1.0, hostile)]))
    assert "<script>" not in text
    assert [each.text for each in ET.fromstring(text).iter("text")].count(hostile) == 2


def test_one_panel_gives_one_text() -> None:
    first, again, other = (draw_svg(PANELS["lines"], salt) for salt in ("a", "a", "b"))
    assert first == again
    names = [set(re.findall(r' id="([^"]*)"', text)) for text in (first, other)]
    assert names[0]
    assert not names[0] & names[1]


def test_panels_stand_in_rows(tmp_path: Path) -> None:
    panels = [PANELS["bars"], PANELS["lines"], PANELS["spans"]]
    for columns, width in ((3, 1650), (2, 1100), (1, 550)):
        assert draw_panels(panels, columns=columns).get_figwidth() * DPI == width
    save_panels(panels, tmp_path / "it.png", "heading", 2, caption="a caption " * 30)
    with Image.open(tmp_path / "it.png") as image:
        assert image.width == 1100
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="expected a file to write"):
        save_panels(panels, tmp_path / "file" / "it.png")
