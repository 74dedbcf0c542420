"""The pictures of `fastft evaluate` and `predict`, in the bytes of a PNG.

Class names come from folders and may hold anything: dollar signs, which are no formulas here, and
letters that no font here has, which become boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from fastft.evaluate.result import SampleRow
from fastft.results.plots import BLUE, GREEN, GREY, RED, STYLE, png_bytes
from pipelines.errors import one_line
from pipelines.formats.encode import decode
from pipelines.formats.layout import Stored
from pipelines.plan import make_plan
from pipelines.preprocessing import IMAGENET, Preprocessing
from pipelines.reference import cut

#: Images in pictures are cut larger than most models see them, for the reader's eyes, px.
SHOWN_PX = 224
#: Widths in a font of 1 point: a letter's in the mean, a digit's.
_LETTER, _DIGIT = 0.62, 0.64
#: Smaller letters cannot be read at 110 dpi; larger ones shout.
_FONT, _COUNT_FONT = (5.5, 10.0), (5.5, 13.0)
#: Characters of a class name that are shown.
_NAME = 24
#: Photos on a sheet at most, and per row.
SHEET_IMAGES, _SHEET_COLUMNS = 32, 8


@dataclass(frozen=True, slots=True)
class Shown:
    """An image on a contact sheet: what was predicted and, where it is known, what is right."""

    image: Image.Image
    predicted: str
    probability: float | None
    truth: str | None


def cut_image(
    stored: Stored, view: str, size: int, name: str, preprocessing: Preprocessing = IMAGENET
) -> NDArray[np.uint8]:
    """uint8[S, S, 3]: an image as evaluation in `view` sees it, for people to look at.

    Raises:
        DataError: it does not decode.
    """
    sides: Any = (np.array([stored.width], np.int32), np.array([stored.height], np.int32))
    plan = make_plan(*sides, view=view, size=size, preprocessing=preprocessing)
    pixels: NDArray[np.uint8] = np.asarray(cut(decode(stored, name), plan.rows(plan.order), 0))
    return pixels


def draw_confusion(matrix: NDArray[np.int64], classes: Sequence[str], title: str) -> bytes:
    """Draw a confusion matrix: right answers blue, mistakes red, by their share of the row.

    Counts stand in the cells as far as they can be read there, names beside the rows and columns as
    far as there is room: every so many of them if there are hundreds.

    Args:
        matrix: int64[C, C], truth by prediction.
        classes: their names.
        title: what it is of.
    """
    count = len(classes)
    # From 0.55 inches per class for a few to 16 inches for a hundred, which a screen still shows.
    side = min(max(0.55 * count, 2.4), 6.6 + max(0, count - 12) * 0.107, 16.0)
    cell = side / count * 72  # points, which fonts are measured in
    font = float(np.clip(0.7 * cell, *_FONT))
    every = max(1, int(np.ceil(1.25 * font / cell)))
    names = [shorten(name, _NAME) for name in classes][::every]
    across = max(map(len, names)) * _LETTER * font < 0.95 * cell
    with mpl.rc_context(STYLE):
        # Placed in inches; what the names take beside that is added when the figure is saved.
        figure = Figure(figsize=(side, side))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(_cell_colors(matrix), interpolation="nearest")
        axes.set_title(title, loc="left", fontsize=11, pad=10)
        axes.set_xlabel("predicted", labelpad=8)
        axes.set_ylabel("truth", labelpad=8)
        at = np.arange(0, count, every)
        axes.set_yticks(at, names, fontsize=font)
        axes.set_xticks(at, names, fontsize=font, rotation=0 if across else 90)
        _frame(axes, count)
        _write_counts(axes, matrix, cell)
        width, height = 0.8 / side, min(2.0 / side, 0.8)
        _draw_legend(figure.add_axes((1 + 0.3 / side, 1 - height - 0.35 / side, width, height)))
        return png_bytes(figure, bbox_inches="tight", pad_inches=0.15)


def draw_top_losses(shown: Sequence[tuple[Image.Image, SampleRow]]) -> bytes:
    """Draw a grid of images, each with prediction, truth and loss."""
    columns = min(8, max(1, int(np.ceil((1.4 * len(shown)) ** 0.5))), len(shown))
    rows = -(-len(shown) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(1.9 * columns, 2.6), 2.75 * rows + 0.4), layout="constrained")
        title = "Highest losses: what was predicted and what is right, with their probabilities"
        figure.suptitle(title, x=0.003, ha="left", fontsize=11, wrap=True)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.ravel():
            axes.axis("off")
        for axes, (image, row) in zip(grid.ravel(), shown, strict=False):
            axes.imshow(image)
            _write_captions(axes, row)
        return png_bytes(figure, bbox_inches="tight", pad_inches=0.15)


def shorten(text: str, most: int) -> str:
    """`text` in one line of at most `most` characters."""
    text = one_line(text)
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _tail(text: str, most: int) -> str:
    """The end of `text` in one line: of a path, what tells it from others."""
    text = one_line(text)
    return text if len(text) <= most else "\N{HORIZONTAL ELLIPSIS}" + text[1 - most :]


def _cell_colors(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64[C, C, 4] RGBA."""
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    colors = _shade(share, RED)
    diagonal = np.arange(len(matrix))
    colors[diagonal, diagonal] = _shade(share[diagonal, diagonal], BLUE)
    return colors


def _shade(share: NDArray[np.float64], color: str) -> NDArray[np.float64]:
    """RGBA from white to `color`; by the root of the share, or one mistake in 50 would be white."""
    ramp = LinearSegmentedColormap.from_list("", ["#ffffff", color])
    return np.asarray(ramp(np.sqrt(share)), np.float64)


def _frame(axes: Axes, count: int) -> None:
    """Lines between the cells where they do not hide them; no ticks beside the names."""
    axes.grid(False)
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#bbbbbb")
    if count <= 120:
        edges = np.arange(count + 1) - 0.5
        axes.set_xticks(edges, minor=True)
        axes.set_yticks(edges, minor=True)
        axes.grid(which="minor", color="#ececec", lw=0.6 if count <= 40 else 0.3)
        axes.tick_params(which="minor", length=0)


def _write_counts(axes: Axes, matrix: NDArray[np.int64], cell: float) -> None:
    """Write the counts that fit into their cells, all in one size."""
    longest = len(f"{matrix.max():,}")
    font = float(np.clip(min(0.85 * cell / (longest * _DIGIT), 0.6 * cell), *_COUNT_FONT))
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    for row, column in np.argwhere(matrix):
        text = f"{matrix[row, column]:,}"
        if max(len(text) * _DIGIT, 1) * font <= 0.95 * cell:
            color = "white" if share[row, column] > 0.35 else "#222222"
            axes.text(column, row, text, ha="center", va="center", fontsize=font, color=color)


def _draw_legend(axes: Axes) -> None:
    """A strip of each colour, from no share of the row at the bottom to all of it."""
    ramp = np.linspace(1, 0, 256)
    strips = np.stack((_shade(ramp, BLUE), _shade(ramp, RED)), axis=1)
    axes.imshow(strips, aspect="auto", extent=(0, 2, 0, 100), interpolation="nearest")
    axes.set_title("share of the\ntrue class", fontsize=8, loc="left")
    axes.set_xticks([0.5, 1.5], ["right", "wrong"], fontsize=8)
    axes.set_yticks([0, 25, 50, 75, 100], ["0%", "25%", "50%", "75%", "100%"], fontsize=8)
    axes.yaxis.tick_right()
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=3)


def _write_captions(axes: Axes, row: SampleRow) -> None:
    """Above the image what was said and what is right, below it the loss and the file."""
    right = row.truth == row.predicted
    lines: list[tuple[float, str, dict[str, Any]]] = [
        (
            1.13,
            f"{shorten(row.predicted, 18)}  {row.probability:.2f}",
            {"color": GREEN if right else RED, "fontweight": "bold"},
        ),
        (1.03, f"is {shorten(row.truth, 18)}  {row.truth_probability:.2f}", {"color": "#222222"}),
        (-0.12, f"loss {row.loss:.2f}", {"color": "#222222"}),
        (-0.21, _tail(row.name, 30), {"color": GREY, "fontsize": 7}),
    ]
    for height, text, look in lines:
        axes.text(0, height, text, transform=axes.transAxes, **{"fontsize": 9, **look})


def draw_sheet(shown: Sequence[Shown]) -> bytes:
    """Draw a contact sheet: right answers green, wrong ones red, others grey."""
    columns = min(_SHEET_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.7 * columns, 2.05 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.ravel():
            axes.axis("off")
        for axes, item in zip(grid.ravel(), shown, strict=False):
            known, right = item.truth is not None, item.truth == item.predicted
            color = (GREEN if right else RED) if known else GREY
            # In full: two names that begin alike must not become one.
            title = "\n".join(map(one_line, item.predicted.split("\n")))
            if item.probability is not None:
                title = f"{one_line(item.predicted)} {item.probability:.2f}"
            if item.truth is not None and not right:
                title += f"\n(is {one_line(item.truth)})"
            axes.imshow(item.image)
            axes.set_title(title, fontsize=9, color=color, loc="center")
        return png_bytes(figure)
