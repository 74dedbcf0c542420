"""Charts as inline SVG: rows of bars, dots or intervals, and the scales that all charts share.

Places along a chart are shares of its width, sizes of letters and marks are pixels: so a chart gets
as wide as the page allows and its letters stay as large as the page's. What needs room beside the
scale (a value behind a bar) stands in the padding that `page.css` leaves around the SVG. Colours
are classes, which `page.css` gives for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

#: px: a row's height, the base of its label, and the top and height of its bar.
_ROW, _LABEL, _BAR_TOP, _BAR = 42.0, 13.0, 19.0, 12.0
#: px between a bar or dot and its value.
_BEHIND = 10
#: px for the name of a line across all rows, and for the numbers below a scale.
_HEAD, _FOOT = 20.0, 22.0
#: Letters of a label that fit beside 360 px of screen.
_LABEL_LETTERS = 38
#: Rows of a chart; its table has all.
MOST_ROWS = 40

Number = Callable[[float | None], str]
Style = Literal["bar", "dot", "interval"]


@dataclass(frozen=True, slots=True)
class Scale:
    """Values to shares of a length.

    Attributes:
        low, high: its ends.
        log: whether equal lengths are equal factors.
    """

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = (math.log(max(each, 1e-300)) for each in (value, low, high))
        return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5

    def ticks(self, most: int = 5) -> list[float]:
        """Round values to write at it."""
        if not self.log:
            return _even_ticks(self.low, self.high, most)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
            ticks = [each for each in ticks if self.low <= each <= self.high]
            if len(ticks) <= most:
                return ticks
        return ticks[:: -(-len(ticks) // most)]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a chart.

    Attributes:
        label: what it is of.
        value: where its bar ends or its dot lies; None: nothing is drawn, `text` says why.
        text: the value as its table writes it.
        tone: `ours`, `other`, `bad`, or a series' `s0` to `s7`.
        limit: what the value cannot exceed, outlined.
        mark: what it is held against, a stroke across.
        low, high: of an interval.
        points: single values, small.
    """

    label: str
    value: float | None
    text: str
    tone: str = "ours"
    limit: float | None = None
    mark: float | None = None
    low: float | None = None
    high: float | None = None
    points: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """What the mark that all rows share is called."""

    value: float
    label: str


def fit_scale(values: Iterable[float | None], *, log: bool = False, zero: bool = True) -> Scale:
    """A scale with round ends around all values; a logarithmic one around the positive ones.

    Args:
        values: what is to be shown; None is nothing.
        log: see `Scale`.
        zero: whether nought belongs to it.
    """
    known = [value for value in values if value is not None and (value > 0 or not log)]
    if not known:
        return Scale(1.0, 10.0, True) if log else Scale(0.0, 1.0)
    low, high = min(known), max(known)
    if log:
        return Scale(_round_log(low, up=False), _round_log(high, up=True), log=True)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        high = low + (abs(low) or 1.0)
    step = _even_step(low, high, 5)
    return Scale(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step)


def row_chart(
    label: str,
    rows: Sequence[Row],
    *,
    style: Style = "bar",
    scale: Scale | None = None,
    axis: Number | None = None,
    line: Line | None = None,
    band: tuple[float, float] | None = None,
) -> Markup:
    """A chart of one row for each thing, its label above and its value behind it.

    Args:
        label: what it shows, for those who cannot see it.
        rows: from the top; past `MOST_ROWS` they are left to the table.
        style: bars from nought, dots on a line from the left, or intervals.
        scale: by default from nought to the largest value.
        axis: writes the numbers below the chart; None: none, the values are written.
        line: the name of the rows' mark.
        band: a range that all rows are shaded in.
    """
    rows = rows[:MOST_ROWS] or [Row("no figures", None, "")]
    scale = scale or Scale(0.0, max([0.0, *_values(rows)]) or 1.0)
    top = _HEAD if line is not None else 0.0
    bottom = top + _ROW * len(rows)
    parts: list[Markup] = []
    if axis is not None:
        parts += _axis(scale, axis, top, bottom)
    if line is not None:
        share = scale.share(line.value)
        parts.append(tag("text", line.label, class_="across-name", x=place(share), y=11,
                         text_anchor="end" if share > 0.5 else "start"))  # fmt: skip
    for index, row in enumerate(rows):
        parts.append(_row(row, scale, style, band, top + _ROW * index))
    height = bottom + (_FOOT if axis is not None else 0.0)
    return draw("rows", label, height, parts)


def draw(kind: str, label: str, height: float, parts: Iterable[Markup]) -> Markup:
    """The SVG around what has been drawn."""
    inner = Markup("").join(parts)
    return tag("svg", inner, class_=kind, role="img", aria_label=label, width="100%",
                height=height)  # fmt: skip


def _row(
    row: Row, scale: Scale, style: Style, band: tuple[float, float] | None, top: float
) -> Markup:
    parts = [
        tag("title", f"{row.label}: {row.text}"),
        tag("text", cut(row.label, _LABEL_LETTERS), class_="label", x=0, y=top + _LABEL),
    ]
    if row.value is None:
        parts.append(tag("text", row.text, class_="value", x=0, y=top + _BAR_TOP + 11))
        return tag("g", *parts, class_=f"row {row.tone}")
    # Bands and marks are drawn row by row: through the labels they would strike.
    if band is not None:
        low, high = (scale.share(each) for each in band)
        parts.append(tag("rect", class_="band", x=place(low), y=top + _BAR_TOP - 2,
                         width=place(high - low), height=_BAR + 4))  # fmt: skip
    if row.limit is not None:
        parts.append(_bar("limit", scale.share(row.limit), top))
    if style == "bar":
        # Nought is a bar of no width: where it begins is shown.
        parts.append(tag("rect", class_="zero", x=0, y=top + _BAR_TOP, width=1, height=_BAR))
        parts.append(_bar("bar", scale.share(row.value), top))
    else:
        start = scale.low if row.low is None and style == "dot" else row.low
        parts += _span(row, row.value, start, scale, top + _BAR_TOP + _BAR / 2)
    if row.mark is not None:
        at = place(scale.share(row.mark))
        parts.append(tag("line", class_="across", x1=at, x2=at, y1=top + _BAR_TOP - 2,
                         y2=top + _BAR_TOP + _BAR + 2))  # fmt: skip
    known = (row.value, row.limit, row.high, row.mark if style == "bar" else None, *row.points)
    reach = max(scale.share(each) for each in known if each is not None)
    parts.append(tag("text", row.text, class_="value", x=place(reach), dx=_BEHIND,
                     y=top + _BAR_TOP + 10.5))  # fmt: skip
    return tag("g", *parts, class_=f"row {row.tone}")


def _bar(kind: str, share: float, top: float) -> Markup:
    return tag("rect", class_=kind, x=0, y=top + _BAR_TOP, width=place(share), height=_BAR, rx=2)


def _span(
    row: Row, value: float, low: float | None, scale: Scale, middle: float
) -> Iterable[Markup]:
    start, end = (place(scale.share(value if each is None else each)) for each in (low, row.high))
    yield tag("line", class_="stem", x1=start, x2=end, y1=middle, y2=middle)
    for each in row.points:
        yield tag("circle", class_="point", cx=place(scale.share(each)), cy=middle, r=3)
    yield tag("circle", class_="dot", cx=place(scale.share(value)), cy=middle, r=5.5)


def _axis(scale: Scale, axis: Number, top: float, bottom: float) -> Iterable[Markup]:
    for tick in scale.ticks(5):
        at = place(scale.share(tick))
        yield tag("line", class_="grid", x1=at, x2=at, y1=top, y2=bottom)
        # At either end the number must not stand out of the chart.
        anchor = {0.0: "start", 1.0: "end"}.get(scale.share(tick), "middle")
        yield tag("text", axis(tick), class_="tick", x=at, y=bottom + 15, text_anchor=anchor)


def _values(rows: Sequence[Row]) -> list[float]:
    found = ((row.value, row.limit, row.mark, row.high, *row.points) for row in rows)
    return [value for each in found for value in each if value is not None]


def tag(name: str, *inner: object, **attributes: object) -> Markup:
    """An element; `class_` is its class, `aria_label` its `aria-label`. All is escaped."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _plain(value))
        for key, value in attributes.items()
    )
    body = Markup("").join(escape(each) for each in inner)
    return Markup("<{}{}>{}</{}>").format(Markup(name), written, body, Markup(name))


def _plain(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def place(share: float) -> str:
    """A share of the width, as an attribute."""
    return f"{_plain(100 * share)}%"


def cut(text: str, most: int) -> str:
    """The beginning of a text, if it is too long."""
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _even_step(low: float, high: float, most: int) -> float:
    """A round step that makes at most so many parts."""
    rough = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(unit * each for each in (1, 2, 2.5, 5, 10) if unit * each >= rough * (1 - 1e-9))


def _even_ticks(low: float, high: float, most: int) -> list[float]:
    step = _even_step(low, high, most)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(step * each, 12) for each in range(first, last + 1)]


def _round_log(value: float, *, up: bool) -> float:
    """The next of 1, 2, 5, 10, 20, ... that is not below `value`, or not above."""
    unit = math.floor(math.log10(value))
    steps = [float(f"{each}e{unit}") for each in (1, 2, 5, 10)]
    if up:
        return next(each for each in steps if each >= value * (1 - 1e-9))
    return next(each for each in reversed(steps) if each <= value * (1 + 1e-9))
