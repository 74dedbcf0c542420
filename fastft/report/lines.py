"""Line charts as inline SVG, several lines told apart by colour, mark, dashes and name.

Beside each line's end stands its name, or on a narrow screen its number in the legend.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fastft.report.charts import Number, Scale, cut, draw, place, tag

#: px: the plot's height, and between two names beside it.
_HEIGHT, _APART = 210.0, 16.0
_FOOT = 40.0
#: Names that find room beside a plot, and letters of each.
_NAMES, _LETTERS = 12, 20
#: Letters that `page.css` has padding for.
_ROOMS = (6, 12, _LETTERS)
#: More points than these are a line without marks.
_MARKS = 40
#: What a letter takes of the narrowest plot, 230 px.
_NARROW = 7 / 230
#: How often colours and marks repeat.
COLORS = 6
_SHAPES = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", "M-3.5,-3.5h7v7h-7z", "M0,-5L5,0L0,5L-5,0z",
    "M0,-4.5L4.5,3.5H-4.5z", "M0,4.5L4.5,-3.5H-4.5z", "M-4.5,-1.5h3v-3h3v3h3v3h-3v3h-3v-3h-3z",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Series:
    """A line.

    Attributes:
        name: what it is of.
        points: x and y, by x; a y of None interrupts it.
        style: index of its colour and mark.
        faint: whether it is the background of others: without name and marks.
    """

    name: str
    points: tuple[tuple[float, float | None], ...]
    style: int = 0
    faint: bool = False

    @property
    def last(self) -> tuple[float, float] | None:
        """Its last point."""
        known = [(x, y) for x, y in self.points if y is not None]
        return known[-1] if known else None


def line_chart(
    label: str,
    series: Sequence[Series],
    *,
    x: Scale,
    y: Scale,
    x_title: str,
    x_number: Number,
    y_number: Number,
    y_tick: Number,
    x_ticks: Sequence[float] | None = None,
) -> Markup:
    """A chart of lines over the same x, and its legend if there are several.

    Args:
        label: what it shows, for those who cannot see it.
        series: the lines.
        x, y: their scales.
        x_title: what x is.
        x_number: writes x.
        y_number, y_tick: write y, as the chart's table does and beside the chart.
        x_ticks: where x is written; by default at round values.
    """
    named = [each for each in series if not each.faint and each.last is not None]
    parts = [*_grid(x, y, x_title, x_number, y_tick, x_ticks)]
    for each in series:
        parts += _series(each, x, y, y_number, x_number, x_title)
    many = len(named) > _NAMES
    if len(named) > 1:
        parts += _ends(named, x, y, with_names=not many)
    chart = draw("lines", label, _HEIGHT + _FOOT, parts)
    longest = max((len(each.name) for each in named), default=0)
    room = next((f"room-{room}" for room in _ROOMS if longest <= room), f"room-{_LETTERS}")
    kind = "single" if len(named) < 2 else "many" if many else room
    plot = tag("div", chart, class_=f"plot {kind}")
    return plot + _legend(named, many) if len(named) > 1 else plot


def mark(style: int) -> Markup:
    """The mark of a series, around the origin."""
    shape = _SHAPES[style % len(_SHAPES)]
    return tag("path", d=shape, class_=f"mark s{style % COLORS}")


def _grid(
    x: Scale, y: Scale, x_title: str, x_number: Number, y_tick: Number,
    x_ticks: Sequence[float] | None,
) -> Iterable[Markup]:  # fmt: skip
    for tick in y.ticks(5):
        at = _down(y, tick)
        yield tag("line", class_="grid", x1=0, x2="100%", y1=at, y2=at)
        yield tag("text", y_tick(tick), class_="tick", x=0, dx=-8, y=at + 4, text_anchor="end")
    for tick in _thin(x, x.ticks(5) if x_ticks is None else x_ticks, x_number):
        at_x = place(x.share(tick))
        yield tag("line", class_="notch", x1=at_x, x2=at_x, y1=_HEIGHT, y2=_HEIGHT + 4)
        yield tag("text", x_number(tick), class_="tick", x=at_x, y=_HEIGHT + 17,
                  text_anchor="middle")  # fmt: skip
    yield tag("text", x_title, class_="axis", x="50%", y=_HEIGHT + 34, text_anchor="middle")


def _series(
    series: Series, x: Scale, y: Scale, y_number: Number, x_number: Number, x_title: str
) -> Iterable[Markup]:
    color = f"s{series.style % COLORS}"
    dashes = "" if series.style < COLORS else " dashed"
    # Lines have no coordinates in shares of a width: a stretched system has, for lines alone.
    lines = [
        tag("polyline", class_=f"line {color}{dashes}{' faint' if series.faint else ''}",
            points=" ".join(f"{1000 * x.share(a):.1f},{_down(y, b):.1f}" for a, b in piece))
        for piece in _pieces(series.points)
        if len(piece) > 1
    ]  # fmt: skip
    if lines:
        yield tag("svg", *lines, class_="stretched", viewBox=f"0 0 1000 {_HEIGHT:g}", width="100%",
                  height=_HEIGHT, preserveAspectRatio="none")  # fmt: skip
    known = [(a, b) for a, b in series.points if b is not None]
    if series.faint or not known:
        return
    for a, b in known if len(known) <= _MARKS else known[-1:]:
        title = tag("title", f"{series.name}, {x_title} {x_number(a)}: {y_number(b)}")
        yield tag("svg", title, mark(series.style), x=place(x.share(a)), y=_down(y, b),
                  class_="marker")  # fmt: skip


def _ends(named: Sequence[Series], x: Scale, y: Scale, *, with_names: bool) -> Iterable[Markup]:
    """Names and numbers beside the ends, moved apart where they would lie upon each other."""
    ends = [(each.last or (0.0, 0.0), each, index) for index, each in enumerate(named)]
    wanted = [_down(y, end[1]) for end, _, _ in ends]
    places = spread(wanted, _APART, 0.0, _HEIGHT)
    for (end, each, index), at in zip(ends, places, strict=True):
        start = place(x.share(end[0]))
        if abs(at - _down(y, end[1])) > 3 or x.share(end[0]) < 0.98:
            yield tag("line", class_="lead-line", x1=start, x2="100%", y1=_down(y, end[1]), y2=at)
        text = {"x": "100%", "y": at + 4}
        if with_names:
            name = (tag("title", each.name), cut(each.name, _LETTERS))
            yield tag("text", *name, class_="name", dx=11, **text)
        yield tag("text", str(index + 1), class_="key", dx=9, **text)


def _legend(named: Sequence[Series], many: bool) -> Markup:
    items = [
        tag("li", tag("b", str(index + 1)),
            tag("svg", mark(each.style), width=14, height=14, viewBox="-7 -7 14 14",
                aria_hidden="true"),
            each.name)
        for index, each in enumerate(named)
    ]  # fmt: skip
    return tag("ol", *items, class_=f"legend{' many' if many else ''}")


def spread(wanted: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, in their order, none closer than `apart` to the next.

    All lie between `low` and `high` if so many find room there.
    """
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    places = [0.0] * len(wanted)
    floor = low
    for at in order:
        places[at] = max(wanted[at], floor)
        floor = places[at] + apart
    ceiling = high
    for at in reversed(order):
        if places[at] > ceiling:
            places[at] = ceiling
        ceiling = places[at] - apart
    return places


def _thin(x: Scale, ticks: Sequence[float], write: Number) -> list[float]:
    """As many of the ticks as can be written beside each other on a narrow screen."""
    kept: list[float] = []
    for tick in ticks:
        apart = _NARROW * (len(write(tick)) + 2)
        if not kept or x.share(tick) - x.share(kept[-1]) > apart:
            kept.append(tick)
    return kept


def _pieces(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """The runs of points that are known."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for a, b in points:
        if b is None:
            pieces.append([])
        else:
            pieces[-1].append((a, b))
    return pieces


def _down(y: Scale, value: float) -> float:
    """Px from the top."""
    return _HEIGHT * (1 - y.share(value))
