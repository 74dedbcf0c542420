"""How every picture of ours looks, and how it is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipelines.atomic import AtomicFile
from pipelines.errors import DataError

# Okabe and Ito's palette, which colour-blind readers tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
#: How every picture of ours looks.
STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "axes.axisbelow": True,
    "font.size": 10,
    "legend.frameon": False,
}
#: Dots per inch of every picture.
DPI = 110


def save_figure(figure: Figure, out: Path) -> None:
    """Write a figure to a PNG, whole or not at all.

    Raises:
        DataError: `out` cannot be written.
    """
    # The canvas itself, not pyplot, whose global state and backend choice a library must not touch.
    FigureCanvasAgg(figure)
    try:
        with AtomicFile(out) as target:
            with os.fdopen(os.dup(target.descriptor), "wb") as file:
                figure.savefig(file, dpi=DPI, format="png")
            target.publish()
    except OSError as error:
        raise DataError(
            out, (error.strerror or "cannot be written").lower(), "a file to write"
        ) from error
