"""The look of every chart, and how it is written: alone as SVG, together as PNG.

A room draws each of its charts once, as a `Panel` on axes that it is given. Its command saves the
panels side by side in a PNG; `report` takes each of them as SVG into a page (`svg`). The colours
are those of the page's light scheme, by which `svg` knows them again.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipelines.atomic import AtomicFile
from pipelines.errors import DataError

# Okabe and Ito's palette, which colour-blind readers tell apart.
BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
PINK, SKY = "#cc79a7", "#56b4e9"
INK, GREY, PALE, GRID, BAND = "#1c2126", "#5a636d", "#b9c6d0", "#e5e5e5", "#cfe8dd"
#: Colours of lines and bars, neighbours far apart; each has a marker of its own, too.
COLORS = (BLUE, RED, GREEN, PINK, ORANGE, SKY)
MARKERS = ("o", "s", "D", "^", "v", "P")
#: How every picture of ours looks.
STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "grid.color": GRID,
    "text.color": INK,
    # Names come from folders: a dollar sign in them begins no formula.
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 10,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
#: Dots per inch of every picture.
DPI = 110


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart.

    Attributes:
        title: what it shows.
        draw: draws it, without the title.
        height, width: inches.
    """

    title: str
    draw: Callable[[Axes], None] = field(compare=False)
    height: float = 3.2
    width: float = 5.0


def draw_panels(
    panels: Sequence[Panel], heading: str = "", columns: int | None = None, caption: str = ""
) -> Figure:
    """All panels in one figure; to be drawn and saved within `mpl.rc_context(STYLE)`.

    Args:
        panels: row by row.
        heading: above all of them.
        columns: how many stand in a row; by default all of them.
        caption: beneath, small.
    """
    columns = min(columns or len(panels), len(panels))
    rows = [panels[at : at + columns] for at in range(0, len(panels), columns)]
    widths = [max(row[at].width for row in rows if at < len(row)) for at in range(columns)]
    heights = [max(panel.height for panel in row) for row in rows]
    size = (sum(widths), sum(heights) + (0.4 if heading else 0.0))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(
        len(rows), columns, squeeze=False, width_ratios=widths, height_ratios=heights
    )
    for axes in grid.ravel()[len(panels) :]:
        axes.axis("off")
    for axes, panel in zip(grid.ravel(), panels, strict=False):
        panel.draw(axes)
        axes.set_title(panel.title)
    if heading:
        figure.suptitle(heading, x=0.01, ha="left", fontsize=11, fontweight="bold")
    if caption:
        figure.supxlabel(fill(caption, int(17 * size[0])), fontsize=7, color=GREY)
    return figure


def save_panels(
    panels: Sequence[Panel],
    out: Path,
    heading: str = "",
    columns: int | None = None,
    caption: str = "",
) -> None:
    """Write a PNG of all panels, whole or not at all; see `draw_panels`.

    Raises:
        DataError: `out` cannot be written.
    """
    with mpl.rc_context(STYLE):
        save_figure(draw_panels(panels, heading, columns, caption), out)


def png_bytes(figure: Figure, **options: Any) -> bytes:
    """A figure as a PNG."""
    # The canvas itself, not pyplot, whose global state and backend choice a library must not touch.
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    with quiet_glyphs():
        figure.savefig(buffer, dpi=DPI, format="png", **options)
    return buffer.getvalue()


@contextmanager
def quiet_glyphs() -> Iterator[None]:
    """A letter that the font lacks becomes a box, without a warning for each.

    Nor for scripts that Matplotlib before 3.11, the last for Python 3.10, writes letter by letter.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph|Matplotlib currently does not support")
        yield


def save_figure(figure: Figure, out: Path) -> None:
    """Write a figure to a PNG, whole or not at all.

    Raises:
        DataError: `out` cannot be written.
    """
    content = png_bytes(figure)
    try:
        with AtomicFile(out) as target:
            with os.fdopen(os.dup(target.descriptor), "wb") as file:
                file.write(content)
            target.publish()
    except OSError as error:
        raise DataError(
            out, (error.strerror or "cannot be written").lower(), "a file to write"
        ) from error
