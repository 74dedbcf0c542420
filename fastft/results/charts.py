"""The charts that several rooms draw: bars, intervals on a line, and lines.

The name of a row stands above its bar and its value behind it, so that long names and narrow pages
are no trouble; a chart shows the first `MOST_ROWS` rows, its table all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from fastft.results.numbers import Number, write_tick
from fastft.results.plots import BAND, BLUE, COLORS, GREY, INK, MARKERS, PALE, RED, Panel

MOST_ROWS = 40
#: Inches of a row, and of what is above and below all of them.
_ROW, _AROUND = 0.42, 0.25
#: Inches of the numbers below an axis, and of a line of the legend.
_AXIS, _LEGEND = 0.35, 0.2
#: Inches from an axis to the legend below its numbers and its name.
_BELOW = 0.5
#: Share of a panel's width that a letter takes behind a bar.
_LETTER = 0.018
#: Letters of a row's and of a line's name, and lines that a legend names.
_NAME, _LINE_NAME, _MOST_NAMED = 56, 34, 14
#: Above this factor between largest and smallest, equal lengths are equal factors.
_WIDE = 8.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a chart.

    Attributes:
        label: what it is of.
        value: where the bar or dot ends; None: nothing is drawn, `text` says why.
        text: the value as its table writes it.
        color: of the bar.
        limit: what the value cannot exceed, outlined.
        mark: what it is held against, a stroke across.
        low, high: of an interval.
        points: single values, small.
    """

    label: str
    value: float | None
    text: str
    color: str = BLUE
    limit: float | None = None
    mark: float | None = None
    low: float | None = None
    high: float | None = None
    points: tuple[float, ...] = ()

    @property
    def reach(self) -> list[float]:
        """All that is drawn of it."""
        drawn = (self.value, self.limit, self.mark, self.low, self.high, *self.points)
        return [each for each in drawn if each is not None]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart.

    Attributes:
        name: what it is of.
        points: x and y by x; a y that is not known interrupts it.
        is_faint: whether it is the background of the next line that is not.
        dots: single values about it.
    """

    name: str
    points: tuple[tuple[float, float | None], ...]
    is_faint: bool = False
    dots: tuple[tuple[float, float], ...] = ()


def bar_panel(
    title: str, rows: Sequence[Bar], *, log: bool = False, line: tuple[float, str] | None = None
) -> Panel:
    """Bars from zero, or on a logarithmic axis.

    Args:
        title: what they show.
        rows: from the top.
        log: whether equal lengths are equal factors.
        line: a value that is marked across all rows, and its name.
    """
    shown = rows[:MOST_ROWS] or [Bar("", None, "no figures")]

    def draw(axes: Axes) -> None:
        drawn = [each for row in shown for each in row.reach] + ([line[0]] if line else [])
        positive = [each for each in drawn if each > 0] or [1.0]
        is_log = log and bool(drawn)
        start = min(positive) / 2 if is_log else 0.0
        for at, row in enumerate(shown):
            if row.value is not None:
                axes.barh(at, row.value - start, 0.32, left=start, color=row.color)
            if row.limit is not None:
                axes.barh(at, row.limit - start, 0.32, left=start, fc="none", ec=GREY, lw=0.9)
            _mark(axes, row, at)
            _write(axes, row, at, max(row.reach, default=start))
        _fit(axes, shown, start, max([*positive, *drawn]), is_log)
        if line is not None:
            for at in range(len(shown)):  # beside the bars alone: it would strike the names out
                axes.plot([line[0]] * 2, [at - 0.24, at + 0.24], color=RED, lw=1.5)
            # Above the rows, on the side with more room.
            left, right = axes.get_xlim()
            middle = (left * right) ** 0.5 if is_log else (left + right) / 2
            axes.set_ylim(top=-1.5)
            axes.annotate(
                line[1],
                (line[0], -1.05),
                (3 if line[0] < middle else -3, 0),
                fontsize=9,
                textcoords="offset points",
                ha="left" if line[0] < middle else "right",
            )
        if is_log:
            _tick_log(axes)
        else:
            axes.xaxis.set_visible(False)
            axes.spines[:].set_visible(False)

    extra = (_AXIS if log else 0.0) + (_ROW / 2 if line else 0.0)
    return Panel(title, draw, _ROW * max(len(shown), 1) + _AROUND + extra)


def span_panel(
    title: str,
    rows: Sequence[Bar],
    *,
    band: tuple[float, float] | None = None,
    log: bool = False,
    x_label: str = "",
) -> Panel:
    """Values with their intervals and single points on an axis that need not begin at zero.

    Args:
        title: what they show.
        rows: from the top.
        band: a range that is shaded behind all rows.
        log: whether equal lengths are equal factors.
        x_label: what the axis is.
    """
    shown = rows[:MOST_ROWS] or [Bar("", None, "no figures")]

    def draw(axes: Axes) -> None:
        values = [each for row in shown for each in row.reach if not log or each > 0]
        values += band or ()
        if band is not None:
            axes.axvspan(*band, color=BAND, lw=0)
        for at, row in enumerate(shown):
            if row.value is not None:
                low, high = (row.value if each is None else each for each in (row.low, row.high))
                axes.plot([low, high], [at, at], color=row.color, lw=2)
                axes.plot(row.points, [at] * len(row.points), ".", color=row.color, alpha=0.5)
                axes.plot(row.value, at, "o", color=row.color)
            _mark(axes, row, at)
            _write(axes, row, at, max(row.reach, default=min(values, default=0.0)))
        low, high = min(values, default=0.0), max(values, default=1.0)
        margin = 0.04 * (high - low or abs(high) or 1.0)
        _fit(axes, shown, low * 0.9 if log else low - margin, high + (0 if log else margin), log)
        axes.set_xlabel(x_label)
        if log:
            _tick_log(axes)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: write_tick(value)))
            axes.spines["left"].set_visible(False)

    height = _ROW * max(len(shown), 1) + _AROUND + _AXIS + (0.2 if x_label else 0.0)
    return Panel(title, draw, height)


def line_panel(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_tick: Number = write_tick,
    x_ticks: Sequence[float] | None = None,
    log_x: bool = False,
    from_zero: bool = True,
) -> Panel:
    """Lines over the same x, told apart by colour and mark; y becomes logarithmic where it is wide.

    Args:
        title: what they show.
        lines: the first `_MOST_NAMED` are named in the legend.
        x_label: what x is.
        y_tick: writes y.
        x_ticks: where x is written; by default at whole numbers.
        log_x: whether equal lengths of x are equal factors.
        from_zero: whether y begins at zero.
    """
    named = [each.name for each in lines if not each.is_faint and _known(each)][:_MOST_NAMED]
    columns = 2 if max(map(len, named), default=0) <= 14 else 1
    legend_lines = -(-len(named) // columns) if len(named) > 1 else 0

    def draw(axes: Axes) -> None:
        drawn = 0
        for line in lines:
            xs, ys = [x for x, _ in line.points], [_nan(y) for _, y in line.points]
            if line.is_faint:
                axes.plot(xs, ys, color=COLORS[drawn % len(COLORS)], alpha=0.35, lw=1)
                continue
            axes.plot(
                xs,
                ys,
                color=COLORS[drawn % len(COLORS)],
                label=_squeeze(line.name, _LINE_NAME),
                marker=MARKERS[drawn % len(MARKERS)] if len(xs) <= 40 else None,
                ms=4.5,
                ls="-" if drawn < len(COLORS) else "--",
            )
            for x, y in line.dots:
                axes.plot(x, y, ".", color=COLORS[drawn % len(COLORS)], alpha=0.5)
            drawn += 1
        _scale_y(axes, lines, from_zero)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: y_tick(value)))
        if log_x:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        if x_ticks is not None:
            axes.set_xticks(_apart(x_ticks, log_x))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: write_tick(value)))
        axes.set_xlabel(x_label)
        if len(named) > 1:
            handles, labels = axes.get_legend_handles_labels()
            down = axes.figure.dpi_scale_trans
            axes.legend(
                handles[:_MOST_NAMED],
                labels[:_MOST_NAMED],
                loc="upper left",
                ncols=columns,
                bbox_to_anchor=(0, 0),
                borderaxespad=0,
                bbox_transform=axes.transAxes + ScaledTranslation(0, -_BELOW, down),
            )

    return Panel(title, draw, 3.0 + _LEGEND * legend_lines)


def is_wide(values: Iterable[float | None]) -> bool:
    """Whether positive values lie so far apart that only equal factors show them."""
    known = [value for value in values if value is not None]
    return bool(known) and min(known) > 0 and max(known) > _WIDE * min(known)


def _fit(axes: Axes, rows: Sequence[Bar], low: float, high: float, log: bool) -> None:
    """Limits with room for every value behind its bar."""
    if log:
        axes.set_xscale("log")
        low, high = max(low, 1e-300), max(high, 1e-300)
    ends = [(max(row.reach, default=low), len(row.text)) for row in rows]
    # In the scale's own measure: a bar that ends at e leaves 1 - share(e) of the width to its text.
    spans = [
        _share(end, low, high, log) / max(1 - _LETTER * (letters + 1), 0.2) for end, letters in ends
    ]
    stretch = max([1.0, *spans])
    if log:
        high = low * (high / low if high > low else 10.0) ** stretch
    else:
        high = low + (high - low or 1.0) * stretch
    axes.set_xlim(low, high)
    axes.set_ylim(max(len(rows), 1) - 0.6, -0.85)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)


def _share(value: float, low: float, high: float, log: bool) -> float:
    if high <= low:
        return 1.0
    if log:
        return math.log(max(value, low) / low) / math.log(high / low)
    return (value - low) / (high - low)


def _write(axes: Axes, row: Bar, at: int, end: float) -> None:
    """The row's name above it, and its value behind it."""
    above = blended_transform_factory(axes.transAxes, axes.transData)
    axes.text(0.0, at - 0.28, _cut(row.label, _NAME), transform=above, fontsize=9, va="bottom")
    if row.value is None:
        axes.text(0.0, at, row.text, transform=above, fontsize=9, va="center", color=GREY)
        return
    text = axes.annotate(
        row.text,
        (end, at),
        (5, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        fontweight="bold",
    )
    text.set_gid("value")


def _mark(axes: Axes, row: Bar, at: int) -> None:
    if row.mark is not None:
        axes.plot([row.mark] * 2, [at - 0.24, at + 0.24], color=INK, lw=2)


def _tick_log(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: write_tick(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", which="major")
    low, high = axes.get_xlim()
    if high < 30 * low:  # too short for two powers of ten
        step = (1, 2, 3, 5)
        ticks = [
            each * 10.0**at
            for at in range(-300, 300)
            for each in step
            if low <= each * 10.0**at <= high
        ]
        axes.set_xticks(ticks[:6])


def _scale_y(axes: Axes, lines: Sequence[Line], from_zero: bool) -> None:
    values = sorted(y for each in lines if not each.is_faint for y in _known(each))
    # One wild early step of the background must not flatten the rest.
    faint = sorted(y for each in lines if each.is_faint for y in _known(each))
    values += [faint[int(0.98 * (len(faint) - 1))]] if faint and from_zero else faint
    if not values:
        return
    if is_wide(values):
        axes.set_yscale("log")
        is_short = max(values) < 50 * min(values)  # hardly a power of ten in it
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_short else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        return
    low, high = min(values), max(values)
    if from_zero:
        axes.set_ylim(min(1.08 * low, 0.0), 1.08 * max(high, 0.0) or 1.0)
        return
    margin = 0.08 * (high - low or abs(high) or 1.0)
    axes.set_ylim(low - margin, high + margin)


def _apart(ticks: Sequence[float], log: bool) -> list[float]:
    """The ticks whose numbers do not run into each other's."""
    low, high, kept = min(ticks), max(ticks), list[float]()
    for tick in ticks:
        if not kept or _share(tick, low, high, log) - _share(kept[-1], low, high, log) > 0.12:
            kept.append(tick)
    return kept


def _known(line: Line) -> list[float]:
    points = (*line.points, *line.dots)
    return [y for _, y in points if y is not None and math.isfinite(y)]


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _squeeze(text: str, most: int) -> str:
    """A name without its middle: paths and runs differ at either end."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}\N{HORIZONTAL ELLIPSIS}{text[head + 1 - most :]}"


def tone(*, is_stock: bool) -> str:
    """The colour of ours, or of others."""
    return PALE if is_stock else BLUE
