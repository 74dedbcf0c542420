"""The pictures of several labels and of a number, in the bytes of a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from fastft.evaluate.label_result import LabelRow
from fastft.evaluate.plots import shorten
from fastft.results.plots import BLUE, GREEN, GREY, RED, STYLE, png_bytes

#: Labels that a picture shows, the hardest; letters of a name.
_MOST_BARS, _NAME = 60, 28
#: Dots that are told apart; more are drawn fainter.
_CLEAR_DOTS = 500

#: The text above a photo, the truth, the text below, and whether all is right.
Caption = tuple[str, str, str, bool]


def draw_precisions(labels: Sequence[LabelRow], title: str) -> bytes:
    """Draw a bar for each label's average precision, the hardest above, with F1 as a dot."""
    known = [
        (each.average_precision, each) for each in labels if each.average_precision is not None
    ]
    known.sort(key=lambda each: each[0])
    left_out = len(known) - _MOST_BARS
    rows = known[:_MOST_BARS]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, max(1.6, 0.8 + 0.24 * len(rows))), layout="constrained")
        axes = figure.subplots()
        at = np.arange(len(rows))
        axes.barh(at, [value for value, _ in rows], color=BLUE, label="average precision")
        axes.plot([each.f1 for _, each in rows], at, "o", color=RED, ms=4, label="F1")
        names = (f"{shorten(each.name, _NAME)} ({each.support:,})" for _, each in rows)
        axes.set_yticks(at, list(names), fontsize=8)
        axes.set(xlim=(0, 1.02), ylim=(len(rows) - 0.4, -0.6))
        axes.set_xlabel(f"{left_out:,} more labels are better told" if left_out > 0 else "")
        axes.set_title(title, loc="left", fontsize=11)
        axes.grid(axis="y", visible=False)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
        return png_bytes(figure)


def draw_scatter(
    truth: NDArray[np.float64], predicted: NDArray[np.float64], name: str, title: str
) -> bytes:
    """Draw a dot for each sample: what was predicted against the truth, equal on the diagonal."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 6.0), layout="constrained")
        axes = figure.subplots()
        low, high = (
            float(min(truth.min(), predicted.min())),
            float(max(truth.max(), predicted.max())),
        )
        margin = 0.04 * (high - low) or 1.0
        ends = (low - margin, high + margin)
        axes.plot(ends, ends, color=GREY, lw=1, label="equal")
        alpha = 0.7 if len(truth) <= _CLEAR_DOTS else 0.25
        axes.plot(truth, predicted, "o", color=BLUE, ms=4, mew=0, alpha=alpha)
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        axes.set_xlabel(f"{shorten(name, _NAME)}, truth")
        axes.set_ylabel(f"{shorten(name, _NAME)}, predicted")
        axes.set_title(title, loc="left", fontsize=11, wrap=True)
        return png_bytes(figure)


def draw_worst(shown: Sequence[tuple[Image.Image, Caption]], title: str) -> bytes:
    """Draw a grid of images with what was said of each and what is right."""
    columns = min(8, max(1, int(np.ceil((1.4 * len(shown)) ** 0.5))), len(shown))
    rows = -(-len(shown) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(1.9 * columns, 2.6), 2.6 * rows + 0.4), layout="constrained")
        figure.suptitle(title, x=0.003, ha="left", fontsize=11, wrap=True)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.ravel():
            axes.axis("off")
        for axes, (image, (said, truth, below, right)) in zip(grid.ravel(), shown, strict=False):
            axes.imshow(image)
            lines: list[tuple[float, str, dict[str, Any]]] = [
                (1.13, shorten(said, 22), {"color": GREEN if right else RED, "fontweight": "bold"}),
                (1.03, f"is {shorten(truth, 20)}", {"color": "#222222"}),
                (-0.12, below, {"color": "#222222"}),
            ]
            for height, text, look in lines:
                axes.text(0, height, text, transform=axes.transAxes, **{"fontsize": 9, **look})
        return png_bytes(figure, bbox_inches="tight", pad_inches=0.15)
