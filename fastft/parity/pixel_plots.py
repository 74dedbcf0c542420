"""The picture of `fastft parity`: each loader's worst sample beside what it should be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from fastft.parity.pixels import Worst
from fastft.system.plots import STYLE, save_figure

_COLUMNS = ("crop of the original", "reference", "loader", "difference")


def draw_worst(worst: Sequence[Worst], out: Path) -> None:
    """Draw a row for each loader and view to a PNG; one row is enough for a loader that is exact.

    The differences are amplified alike, as far as the largest of them allows.

    Raises:
        DataError: `out` cannot be written.
    """
    off = {each.loader for each in worst if each.distance}
    worst = [each for each in worst if each.loader in off or each.view == "train"]
    apart = [np.abs(each.found.astype(int) - each.wanted) for each in worst]
    most = max(int(each.max()) for each in apart)
    gain = 255 // most if most else 1
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(2.1 * len(_COLUMNS) + 1.2, 2.25 * len(worst)), layout="constrained"
        )
        grid = figure.subplots(len(worst), len(_COLUMNS), squeeze=False)
        for axes in grid.ravel():
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, title in zip(grid[0], _COLUMNS, strict=True):
            axes.set_title(f"{title} x {gain}" if title == "difference" and gain > 1 else title)
        for row, each, difference in zip(grid, worst, apart, strict=True):
            amplified = np.minimum(difference * gain, 255).astype(np.uint8)
            for axes, image in zip(
                row, (each.crop, each.wanted, each.found, amplified), strict=True
            ):
                axes.imshow(image, interpolation="nearest")
            row[0].set_ylabel(f"{each.loader}\n{each.view}", fontweight="bold")
            row[0].set_xlabel(each.name, fontsize=8)
            row[3].set_xlabel(_describe(each.distance, difference), fontsize=8)
        save_figure(figure, out)


def _describe(mean: float, difference: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> str:
    most = int(difference.max())
    if not most:
        return "none: all pixels are equal"
    return f"mean {mean:.3f}, at most {most}"
